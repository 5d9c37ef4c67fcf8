"""Strokes: a drawing becomes a line of text, and lines of text become a sheet of drawings.

A drawing lies on a square grid. A point is two letters, one for its place across, one for its place down; a space lifts
the pen. Strokes keep their order and direction, so that what learns from the text learns to draw as the hand did.
"""

import contextlib
import io
import itertools
import json
import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.parsers import expat

from jaxlm.errors import Unreadable
from jaxlm.notations.notation import Notation, Written

if TYPE_CHECKING:  # An extra, which only reading SVG needs.
    from svgelements import Matrix, Point

Stroke = list[tuple[int, int]]
"""The points that the pen goes through, across and down, each from 0 to GRID_STEPS; a single one is a dot."""

Drawing = list[Stroke]

GRID_STEPS = 48
"""The steps of the grid each way: those who draw icons on 24 units keep their half units."""

ACROSS = string.ascii_letters[: GRID_STEPS + 1]
DOWN = "".join(chr(ord("あ") + place) for place in range(GRID_STEPS + 1))
"""A letter for each place across, and for each place down. The latter are Hiragana: a letter then says which it is, a
lost one costs no more than its own point, and a model predicts better (its loss on kanji was 2% lower)."""

TOLERANCE = 0.5
"""How far a simplified stroke may be from the original, in steps of the grid, before it is rounded to it."""

LINES_PER_CURVE = 16
"""The straight lines that stand for each curve before it is simplified."""

FARTHEST, LONGEST_PATH, MOST_POINTS, MOST_ELEMENTS = 1e9, 500_000, 20_000, 100_000
"""Limits of what is read: a coordinate, the characters of a path, the points of a drawing before it is simplified, and
the elements of a file, counted at each use."""

MARGIN, SCALE = 12, 2
"""Of a sheet: the space around each drawing, in steps, and the pixels of a step."""

_POINT = re.compile(f"([{ACROSS}])([{DOWN}])")
_WITHIN = [i / LINES_PER_CURVE for i in range(1, LINES_PER_CURVE)]
_PLACES = {letter: place for letters in (ACROSS, DOWN) for place, letter in enumerate(letters)}

_SELECTOR = re.compile(r"\*|[\w-]*[.#]?[\w-]+")

_GROUPS = ("a", "g", "svg", "switch", "symbol")
_MEASURES = {
    "rect": ("x", "y", "width", "height", "rx", "ry"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
    "line": ("x1", "y1", "x2", "y2"),
}
"""The attributes of the shapes that are given by lengths."""


def to_text(drawing: Drawing) -> str:
    """A drawing as one line of text, without a line end."""
    return " ".join("".join(ACROSS[x] + DOWN[y] for x, y in stroke) for stroke in drawing)


def from_text(text: str) -> tuple[Drawing, int]:
    """The drawing that a text describes, as far as it does.

    Returns:
      Its strokes, which may be apart by any blanks, and how many characters belong to no point: letters without a
      partner, and those that are no letters of the grid.
    """
    drawing = [[(_PLACES[x], _PLACES[y]) for x, y in _POINT.findall(letters)] for letters in text.split()]
    strays = sum(map(len, text.split())) - 2 * sum(map(len, drawing))
    return [stroke for stroke in drawing if stroke], strays


def count(text: str) -> int:
    """The number of points in a text."""
    return len(_POINT.findall(text))


def write(pieces: Sequence[str]) -> Written:
    """A sheet of drawings, of those pieces that have a point."""
    found = [from_text(piece) for piece in pieces]
    faults = {
        "with letters that make no point": sum(strays > 0 for _, strays in found),
        "without a point": sum(not drawing for drawing, _ in found),
    }
    return Written(
        sheet([drawing for drawing, _ in found if drawing]).encode(),
        {fault: times for fault, times in faults.items() if times},
        sum(strays > 0 or not drawing for drawing, strays in found),
    )


def read_svg(content: bytes) -> list[Drawing]:
    """The drawings of an SVG file: itself, and each symbol and nested picture that has a viewBox of its own.

    A drawing's viewBox, or else what its strokes cover, is laid on the grid; what is beyond goes to the edge. Paths and
    shapes are strokes, filled ones by their outline; those that are not painted are left out, and so is a background.
    Nothing outside the file is ever loaded.

    Raises:
      Unreadable: it is damaged, empty, or beyond the limits.
    """
    root = _parsed(content)
    frames = [root, *(element for element in root.iter() if element is not root and _is_frame(element))]
    named = {name: element for element in root.iter() if (name := element.get("id"))}
    sheets = [style.text or "" for style in root.iter("style") if style.get("media", "all") in ("all", "screen")]
    walker = _Walker(named, _rules("\n".join(sheets)))
    placed = (_placed(walker.strokes(frame), _view_box(frame)) for frame in frames)
    drawings = [drawing for drawing in placed if drawing]
    if not drawings:
        raise Unreadable("has no strokes")
    return drawings


def read_quickdraw(content: bytes) -> Iterator[Drawing]:
    """Yields the drawings of a file of Quick, Draw!, simplified or raw: on each line, a JSON object with a `drawing`.

    One after the other, since the files have more than a hundred thousand.

    Raises:
      Unreadable: a line is no such object, or beyond the limits, or there is no drawing.
    """
    empty = True
    for number, line in enumerate(io.BytesIO(content), 1):
        if line.strip():
            try:
                strokes = [
                    [complex(x, y) for x, y in zip(stroke[0], stroke[1], strict=True)]
                    for stroke in json.loads(line)["drawing"]
                ]
            except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
                raise Unreadable(f"is damaged (line {number} is no drawing)") from None
            if drawing := _placed(strokes, None):
                empty = False
                yield drawing
    if empty:
        raise Unreadable("has no strokes")


def sheet(drawings: Sequence[Drawing]) -> str:
    """An SVG picture of drawings, in equal cells, row by row, as near to a square as their number allows.

    `read_svg` reads the same drawings from it.
    """
    columns = max(1, math.ceil(math.sqrt(len(drawings))))
    rows = max(1, math.ceil(len(drawings) / columns))
    pitch = GRID_STEPS + MARGIN
    width, height = (MARGIN + pitch * count for count in (columns, rows))
    cell = f'width="{GRID_STEPS}" height="{GRID_STEPS}" viewBox="0 0 {GRID_STEPS} {GRID_STEPS}" overflow="visible"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SCALE * width}" height="{SCALE * height}"'
        f' viewBox="0 0 {width} {height}" fill="none" stroke="#222" stroke-width="1.5" stroke-linecap="round"'
        ' stroke-linejoin="round" style="background: #fff">'
    ]
    for i, drawing in enumerate(drawings):
        x, y = (MARGIN + pitch * place for place in (i % columns, i // columns))
        path = "".join(map(_path, drawing))
        lines.append(f'<svg x="{x}" y="{y}" {cell}><path d="{path}"/></svg>')
    return "\n".join([*lines, "</svg>\n"])


def _path(stroke: Stroke) -> str:
    """The data of an SVG path; a dot is a line of no length, which round ends make visible."""
    points = " ".join(f"{x} {y}" for x, y in stroke)
    return f"M{points}" if len(stroke) > 1 else f"M{points}h0"


class _Walker:
    """Finds the strokes in the elements of a file, so many at most in all that none takes long."""

    def __init__(self, named: dict[str, ElementTree.Element], rules: "Rules") -> None:
        self._named, self._rules = named, rules
        self._seen = 0

    def strokes(self, frame: ElementTree.Element) -> list[list[complex]]:
        """The strokes of a picture in the order of painting, without those of other pictures within."""
        from svgelements import Matrix

        box = _view_box(frame)
        size = box[2:] if box else (0.0, 0.0)
        strokes: list[list[complex]] = []
        points = 0
        # A list, and not recursion, since a file may nest to any depth, and what it uses even itself.
        waiting = [(frame, Matrix(), {"fill": "black", "stroke": "none"})]
        while waiting:
            element, matrix, paint = waiting.pop()
            self._seen += 1
            if self._seen > MOST_ELEMENTS:
                raise Unreadable(f"holds more than {MOST_ELEMENTS:,} elements")
            paint = {**paint, **_paint(element, self._rules)}
            if paint.get("display") == "none":
                continue
            if element is not frame:
                matrix = _transform(element) * matrix
            if element.tag in _GROUPS:
                children = (child for child in reversed(element) if not _is_frame(child))
                waiting.extend((child, matrix, paint) for child in children)
            elif element.tag == "use":
                name = element.get("href") or element.get("xlink:href") or ""
                used = self._named.get(name.removeprefix("#")) if name.startswith("#") else None
                if used is not None and not _is_frame(used):
                    shift = Matrix.translate(*(_length(element.get(side), 0.0) or 0.0 for side in ("x", "y")))
                    waiting.append((used, shift * matrix, paint))
            elif not _is_unseen(element, paint, size):
                for stroke in _outline(element, matrix, size):
                    points += len(stroke)
                    if points > MOST_POINTS:
                        raise Unreadable(f"holds more than {MOST_POINTS:,} points in a drawing")
                    strokes.append(stroke)
        return strokes


def _parsed(content: bytes) -> ElementTree.Element:
    """The root of an SVG file's elements, whose tags have lost their prefixes."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag.rpartition(":")[2], attributes)
    parser.EndElementHandler = lambda tag: builder.end(tag.rpartition(":")[2])
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _check_entity
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise Unreadable(f"is damaged ({error})") from error
    root = builder.close()
    if root.tag != "svg":
        raise Unreadable(f"is no drawing (its first element is {root.tag[:40]})")
    return root


def _check_entity(name: str, is_parameter: bool, value: str | None, *_: object) -> None:
    """Lets pass only short names, as some programs define: entities within entities multiply to gigabytes."""
    if is_parameter or value is None or "&" in value or len(value) > 100:
        raise Unreadable("defines entities of its own")


def _is_frame(element: ElementTree.Element) -> bool:
    """Whether an element within a file is a picture of its own."""
    return element.tag in ("svg", "symbol") and _view_box(element) is not None


def _view_box(element: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """Left, top, width and height of what an element shows; None if it does not say, or says nothing useful."""
    try:
        left, top, width, height = map(float, re.split(r"[\s,]+", element.get("viewBox", "").strip()))
    except ValueError:
        return None
    is_sound = all(abs(number) <= FARTHEST for number in (left, top, width, height))
    return (left, top, width, height) if is_sound and width > 0 and height > 0 else None


Rules = dict[str, dict[str, tuple[int, str]]]
"""What a style sheet says of an element by selector, such as path, .thin, path.thin or #frame: for each property its
value, after the number of the rule, since of equally specific ones the last holds."""

PAINT = ("fill", "stroke", "display", "visibility")
"""The properties that decide whether a shape is seen."""


def _rules(sheet: str) -> Rules:
    """A style sheet's rules for an element by its name, one class, or its id; others are ignored, as are those of @."""
    rules: Rules = {}
    sheet = re.sub(r"/\*.*?(\*/|\Z)", " ", sheet, flags=re.DOTALL)
    depth, start, selectors = 0, 0, ""
    for number, brace in enumerate(re.finditer("[{}]", sheet)):
        part, start = sheet[start : brace.start()], brace.end()
        if brace[0] == "{":
            selectors = part.rpartition(";")[2] if depth == 0 else selectors
            depth += 1
            continue
        depth = max(depth - 1, 0)
        if depth or selectors.lstrip().startswith("@"):
            continue
        for selector in filter(_SELECTOR.fullmatch, map(str.strip, selectors.split(","))):
            said = {name: (number, value) for name, value in _declared(part).items() if name in PAINT}
            rules[selector] = {**rules.get(selector, {}), **said}
    return rules


def _declared(declarations: str) -> dict[str, str]:
    pairs = (declaration.partition(":")[::2] for declaration in declarations.split(";"))
    return {name.strip(): value.partition("!")[0].strip() for name, value in pairs if value.strip()}


def _paint(element: ElementTree.Element, rules: Rules) -> dict[str, str]:
    """What is said of an element's painting: in attributes, above them in rules, and above these in its own style."""
    told = dict(element.attrib)
    if rules:
        tag, classes = element.tag, [f".{name}" for name in element.get("class", "").split()]
        for selectors in (["*"], [tag], classes, [tag + name for name in classes], [f"#{element.get('id')}"]):
            found: dict[str, tuple[int, str]] = {}
            for selector in selectors:
                for name, said in rules.get(selector, {}).items():
                    found[name] = max(found.get(name, said), said)
            told |= {name: value for name, (_, value) in found.items()}
    told |= _declared(element.get("style", ""))
    return {name: told[name] for name in PAINT if told.get(name, "inherit") not in ("", "inherit")}


def _is_unseen(element: ElementTree.Element, paint: dict[str, str], size: tuple[float, float]) -> bool:
    """Whether a shape has no paint, as the frames of icons, or is the background of a picture of this size."""
    if paint.get("visibility") in ("hidden", "collapse"):
        return True
    if paint["stroke"] not in ("none", "transparent"):
        return False
    if paint["fill"] in ("none", "transparent") or element.tag != "rect":
        return paint["fill"] in ("none", "transparent")
    covered = [_length(element.get(side), whole) for side, whole in zip(("width", "height"), size, strict=True)]
    return all(whole and length and length >= whole for length, whole in zip(covered, size, strict=True))


def _transform(element: ElementTree.Element) -> "Matrix":
    from svgelements import Matrix

    try:
        return Matrix(element.get("transform", ""))
    except (ValueError, LookupError, TypeError):  # It is not well formed; a browser then ignores it, too.
        return Matrix()


def _length(written: str | None, whole: float) -> float | None:
    """A length in user units, of which a percentage counts from `whole`; None if it is not given, or is none."""
    from svgelements import Length

    if written is None:
        return None
    length = Length(written).value(ppi=96, relative_length=whole)
    return length if isinstance(length, float) else None


def _outline(element: ElementTree.Element, matrix: "Matrix", size: tuple[float, float]) -> Iterator[list[complex]]:
    """The strokes of a path or a shape, in the units of the picture."""
    from svgelements import Close, Line, Move, Point

    stroke: list[complex] = []
    for segment in _segments(element, size):
        if isinstance(segment, Move):
            if stroke:
                yield stroke
            stroke = [_moved(segment.end, matrix)]
            continue
        if None in (segment.start, segment.end) or None in segment.end:  # A number, or what came before, lacks.
            continue
        if not stroke:
            stroke = [_moved(segment.start, matrix)]
        if not isinstance(segment, Close | Line):
            stroke.extend(_moved(Point(x, y), matrix) for x, y in segment.npoint(_WITHIN).tolist())
        stroke.append(_moved(segment.end, matrix))
    if stroke:
        yield stroke


def _segments(element: ElementTree.Element, size: tuple[float, float]) -> Iterable[Any]:
    """The segments of a path or a shape, in its own units; none if it is neither."""
    from svgelements import Circle, Ellipse, Path, Polygon, Polyline, Rect, SimpleLine

    data = element.get("d" if element.tag == "path" else "points", "")
    if len(data) > LONGEST_PATH:
        raise Unreadable(f"holds a path of more than {LONGEST_PATH:,} characters")
    if element.tag == "path":
        path = Path()
        if data.lstrip()[:1] in ("M", "m"):
            # A path is drawn up to where it is damaged, as in a browser. Where a number lacks, it is taken for None.
            with contextlib.suppress(ValueError, ArithmeticError, TypeError):
                path.parse(data)
        return path.segments()
    if element.tag in ("polygon", "polyline"):
        return (Polygon if element.tag == "polygon" else Polyline)(data).segments()
    if element.tag not in _MEASURES:
        return ()
    lengths = {name: _length(element.get(name), _whole(name, size)) for name in _MEASURES[element.tag]}
    given = {name: length for name, length in lengths.items() if length is not None}
    shape = {"rect": Rect, "circle": Circle, "ellipse": Ellipse, "line": SimpleLine}[element.tag]
    return shape(**given).segments()


def _whole(name: str, size: tuple[float, float]) -> float:
    """What a percentage in this attribute counts from, in a picture of this size."""
    if name == "r":
        return math.hypot(*size) / math.sqrt(2)
    return size[1] if "y" in name or name == "height" else size[0]


def _moved(point: "Point", matrix: "Matrix") -> complex:
    x, y = point.x, point.y
    return complex(matrix.a * x + matrix.c * y + matrix.e, matrix.b * x + matrix.d * y + matrix.f)


def _placed(strokes: Sequence[Sequence[complex]], box: tuple[float, float, float, float] | None) -> Drawing:
    """A drawing on the grid: what a box shows of strokes, or else all of them, as large as possible and in the middle.

    Raises:
      Unreadable: a point is beyond the limits.
    """
    strokes = [stroke for stroke in strokes if stroke]
    for point in itertools.chain.from_iterable(strokes):
        if not (abs(point.real) <= FARTHEST and abs(point.imag) <= FARTHEST):
            raise Unreadable(f"has a coordinate beyond {FARTHEST:,.0f}")
    if not strokes:
        return []
    left, top, width, height = box or _extent(strokes)
    side = max(width, height)
    centre, middle = complex(left + width / 2, top + height / 2), complex(GRID_STEPS / 2, GRID_STEPS / 2)
    scale = GRID_STEPS / side if side else 0.0
    drawing = []
    for stroke in strokes:
        points = [(point - centre) * scale + middle for point in stroke]
        if not _is_outside(points):
            drawing.append([_nearest(point) for point in _simplified(points)])
    return [[point for point, _ in itertools.groupby(stroke)] for stroke in drawing]


def _extent(strokes: Iterable[Iterable[complex]]) -> tuple[float, float, float, float]:
    points = list(itertools.chain.from_iterable(strokes))
    xs, ys = [point.real for point in points], [point.imag for point in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _is_outside(points: Sequence[complex]) -> bool:
    left, top, width, height = _extent([points])
    return left > GRID_STEPS or top > GRID_STEPS or left + width < 0 or top + height < 0


def _nearest(point: complex) -> tuple[int, int]:
    """The nearest point of the grid."""
    across, down = (min(max(math.floor(value + 0.5), 0), GRID_STEPS) for value in (point.real, point.imag))
    return across, down


def _simplified(points: list[complex]) -> list[complex]:
    """A stroke with as few of its points as stay within the tolerance; what lies on the grid already stays as it is.

    Source: Douglas and Peucker 1973, https://doi.org/10.3138/FM57-6770-U75U-7727.
    """
    if all(point.real.is_integer() and point.imag.is_integer() for point in points):
        return points
    kept = {0, len(points) - 1}
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        start, chord = points[first], points[last] - points[first]
        square = abs(chord) ** 2
        farthest, middle = TOLERANCE, 0
        for i in range(first + 1, last):
            way = points[i] - start
            along = (way * chord.conjugate()).real
            away = (
                abs(way)
                if along <= 0
                else abs(points[i] - points[last])
                if along >= square
                else abs(way - along / square * chord)
            )
            if away > farthest:
                farthest, middle = away, i
        if middle:
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    return [points[i] for i in sorted(kept)]


def _lines(read: Callable[[bytes], Iterable[Drawing]]) -> Callable[[bytes], str]:
    return lambda content: "".join(f"{to_text(drawing)}\n" for drawing in read(content))


STROKES = Notation(
    name="strokes",
    files="drawings",
    piece="drawing",
    unit="point",
    count=count,
    separator="\n",
    readers={".svg": _lines(read_svg), ".svgz": _lines(read_svg), ".ndjson": _lines(read_quickdraw)},
    writers={".svg": write},
    extra="strokes",
)
