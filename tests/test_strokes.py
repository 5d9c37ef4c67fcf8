"""Strokes: drawings become text on a grid, any text becomes drawings, and bad files cost one line."""

import itertools
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.cli import commands
from jaxlm.errors import Unreadable
from jaxlm.notations.strokes import (
    ACROSS,
    DOWN,
    GRID_STEPS,
    count,
    from_text,
    read_quickdraw,
    read_svg,
    sheet,
    to_text,
    write,
)
from jaxlm.text.corpus import load_corpus
from jaxlm.text.documents import Documents

svgelements = pytest.importorskip("svgelements", reason="svgelements is not installed; it is in jaxlm[strokes]")

POINTS = st.tuples(st.integers(0, GRID_STEPS), st.integers(0, GRID_STEPS))
STROKES = st.lists(POINTS, min_size=1, max_size=12).filter(lambda stroke: all(map(tuple.__ne__, stroke, stroke[1:])))
DRAWINGS = st.lists(STROKES, min_size=1, max_size=6)


def svg(content, box="0 0 48 48", more=""):
    """An SVG file whose units are the steps of the grid, unless its box says otherwise."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {more}>{content}</svg>'.encode()


def drawn(content, box="0 0 48 48", more=""):
    """The strokes of the only drawing of an SVG file."""
    [drawing] = read_svg(svg(content, box, more))
    return drawing


def distance(point, stroke):
    """From a point to the nearest of a stroke's lines."""

    def to_line(a, b):
        way, chord = point - a, b - a
        along = (way * chord.conjugate()).real / abs(chord) ** 2 if chord else 0.0
        return abs(way - min(max(along, 0.0), 1.0) * chord)

    points = [complex(*place) for place in stroke]
    return min(map(to_line, points, points[1:] or points))


# Text and back.


@given(DRAWINGS)
def test_a_drawing_comes_back_from_its_text(drawing):
    text = to_text(drawing)
    assert from_text(text) == (drawing, 0)
    assert count(text) == sum(map(len, drawing))
    assert "\n" not in text


@settings(deadline=None)
@given(st.lists(DRAWINGS, min_size=1))
def test_drawings_come_back_from_their_sheet(drawings):
    written = write([to_text(drawing) for drawing in drawings])
    assert (written.faults, written.malformed) == ({}, 0)
    assert read_svg(written.content) == drawings


@given(st.text() | st.text(ACROSS + DOWN + " \n\t?é") | st.text("abあい ?"))
def test_any_text_gives_a_drawing_as_far_as_it_goes(text):
    drawing, strays = from_text(text)
    points = sum(map(len, drawing))
    assert strays + 2 * points == sum(not character.isspace() for character in text)
    assert from_text(to_text(drawing)) == (drawing, 0)


@settings(deadline=None)
@given(st.lists(st.text() | st.text("abあい ?")))
def test_any_texts_give_a_sheet_that_can_be_read(texts):
    written = write(texts)
    found = [from_text(text) for text in texts]
    drawings = [
        [[point for point, _ in itertools.groupby(stroke)] for stroke in drawing] for drawing, _ in found if drawing
    ]
    assert written.malformed == sum(not drawing or strays > 0 for drawing, strays in found)
    if drawings:
        assert read_svg(written.content) == drawings
    else:
        with pytest.raises(Unreadable, match="has no strokes"):
            read_svg(written.content)


@pytest.mark.parametrize(
    ("text", "drawing", "strays"),
    [
        ("aあbぃ", [[(0, 0), (1, 1)]], 0),
        ("aあ Wひ\n Aい", [[(0, 0)], [(48, 48)], [(26, 2)]], 0),
        ("aあb cう", [[(0, 0)], [(2, 4)]], 1),
        ("aaああ-bぃ", [[(0, 0), (1, 1)]], 3),  # A lost letter does not shift those after it.
        ("Xあaぴ", [], 4),  # Beyond the last letters.
        (" \n\n", [], 0),
        ("", [], 0),
    ],
)
def test_each_pair_of_letters_is_a_point_and_what_has_no_partner_is_counted(text, drawing, strays):
    assert from_text(text) == (drawing, strays)


def test_what_is_not_well_formed_is_drawn_and_counted():
    written = write(["aあbぃ", "aあb", "??", "", "cうcう"])
    assert written.faults == {"with letters that make no point": 2, "without a point": 2}
    assert written.malformed == 3
    assert read_svg(written.content) == [[[(0, 0), (1, 1)]], [[(0, 0)]], [[(2, 4)]]]


def test_a_sheet_has_equal_cells_row_by_row_with_margins():
    content = sheet([[[(0, 0), (48, 48)]]] * 3)
    assert 'width="264" height="264" viewBox="0 0 132 132"' in content
    assert [f'<svg x="{x}" y="{y}"' in content for x, y in ((12, 12), (72, 12), (12, 72), (72, 72))] == [1, 1, 1, 0]
    assert 'stroke-linecap="round" stroke-linejoin="round"' in content
    assert 'viewBox="0 0 72 72"' in sheet([])


# SVG.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('<path d="M1 2L3 4H10V5z"/>', [[(1, 2), (3, 4), (10, 4), (10, 5), (1, 2)]]),
        ('<path d="m1 2 2 2h7v1m5 5l1 1"/>', [[(1, 2), (3, 4), (10, 4), (10, 5)], [(15, 10), (16, 11)]]),
        ('<path d="M5 5h4zl0 9"/>', [[(5, 5), (9, 5), (5, 5), (5, 14)]]),
        ('<path d="M5 5h.01"/>', [[(5, 5)]]),
        ('<line x1="1" y1="2" x2="3" y2="4"/>', [[(1, 2), (3, 4)]]),
        ('<line x2="100%" y2="50%"/>', [[(0, 0), (48, 24)]]),
        ('<polyline points="1,2 3,4 5 6"/>', [[(1, 2), (3, 4), (5, 6)]]),
        ('<polygon points="1,2 3,4 5,0"/>', [[(1, 2), (3, 4), (5, 0), (1, 2)]]),
        ('<rect x="1" y="2" width="10" height="5"/>', [[(1, 2), (11, 2), (11, 7), (1, 7), (1, 2)]]),
        ('<g transform="translate(10 20)"><g transform="scale(2)"><path d="M1 2h3"/></g></g>', [[(12, 24), (18, 24)]]),
        ('<path transform="rotate(90 10 10)" d="M10 10h5"/>', [[(10, 10), (10, 15)]]),
        ('<path transform="nonsense(" d="M1 2h3"/>', [[(1, 2), (4, 2)]]),
        ('<defs><path id="a" d="M1 2h3"/></defs><use href="#a" x="5"/>', [[(6, 2), (9, 2)]]),
        ('<g id="a"><path d="M1 2h3"/></g><use xlink:href="#a" y="5"/>', [[(1, 2), (4, 2)], [(1, 7), (4, 7)]]),
        ('<path d="M1 2h3"/><g><path d="M3 3h1"/></g><path d="M0 0h1"/>',
         [[(1, 2), (4, 2)], [(3, 3), (4, 3)], [(0, 0), (1, 0)]]),
        ('<path d="M1 2h3 oh"/>', [[(1, 2), (4, 2)]]),  # As far as it goes.
        ('<svg:path xmlns:svg="http://www.w3.org/2000/svg" d="M1 2h3"/>', [[(1, 2), (4, 2)]]),
    ],
)  # fmt: skip
def test_each_kind_of_element_becomes_its_strokes_in_order(content, expected):
    assert drawn(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        '<path d="M0 0h48v48H0z" fill="none"/>',  # The frame of an icon.
        '<path d="M0 0h48v48H0z" style="fill: none; stroke: none"/>',
        '<g display="none"><path d="M0 0h9"/></g>',
        '<path visibility="hidden" d="M0 0h9"/>',
        '<rect width="100%" height="100%" fill="white"/>',
        '<rect width="48" height="48"/>',
        '<clipPath><rect width="4" height="4"/></clipPath><mask><circle r="9"/></mask>',
        '<defs><path d="M0 0h9"/></defs><title>M0 0h9</title><text>a</text>',
        '<image href="file:///etc/passwd"/><use href="other.svg#a"/><use href="#missing"/>',
        '<path d="M50 50h9"/>',  # Beyond the picture.
        '<path d="L 9 9"/><path d="H9"/><path d="A 1 1 0 0 0 9 9"/><path d="z"/><path/>',  # A path begins with M.
        '<rect width="0" height="9" stroke="red"/><circle r="0"/><rect width="bad" height="nan"/>',
    ],
)
def test_what_no_one_sees_is_no_stroke(content):
    assert drawn(content + '<path d="M1 2h3"/>') == [[(1, 2), (4, 2)]]


def test_a_frame_with_a_line_around_it_is_drawn():
    assert drawn('<rect width="48" height="48" fill="none" stroke="red"/>') == [
        [(0, 0), (48, 0), (48, 48), (0, 48), (0, 0)]
    ]


@pytest.mark.parametrize(
    ("shape", "outline"),
    [
        ('<circle cx="24" cy="20" r="17"/>', lambda t: complex(24 + 17 * math.cos(t), 20 + 17 * math.sin(t))),
        ('<ellipse cx="24" cy="20" rx="9" ry="17"/>', lambda t: complex(24 + 9 * math.cos(t), 20 + 17 * math.sin(t))),
        ('<path d="M41 20A17 17 0 117 20 17 17 0 1141 20"/>',
         lambda t: complex(24 + 17 * math.cos(t), 20 + 17 * math.sin(t))),
        ('<path d="M4 5C20 60 30-30 44 40"/>', lambda t: bezier(t / math.tau, 4 + 5j, 20 + 60j, 30 - 30j, 44 + 40j)),
        ('<path d="M4 5Q20 60 44 40"/>', lambda t: bezier(t / math.tau, 4 + 5j, 20 + 60j, 44 + 40j)),
    ],
)  # fmt: skip
def test_curves_are_followed_to_a_step_with_few_points(shape, outline):
    [stroke] = drawn(shape)
    assert len(stroke) <= 20
    on_curve = [outline(math.tau * i / 200) for i in range(201)]
    assert max(distance(point, stroke) for point in on_curve) < 0.5 + math.sqrt(0.5)
    assert max(min(abs(complex(*place) - point) for point in on_curve) for place in stroke) < 1.0


def bezier(t, *controls):
    degree = len(controls) - 1
    return sum(math.comb(degree, i) * (1 - t) ** (degree - i) * t**i * point for i, point in enumerate(controls))


def test_a_view_box_is_laid_on_the_grid_as_large_as_fits_and_in_the_middle():
    assert drawn('<path d="M10 10h24v12"/>', "10 10 24 12") == [[(0, 12), (48, 12), (48, 36)]]
    assert drawn('<path d="M12 12.5h4"/>', "0 0 24 24") == [[(24, 25), (32, 25)]]


@pytest.mark.parametrize("box", ["", "0 0 0 0", "0 0 -5 5", "nan nan nan nan", "0 0 1e999 5", "a b c d", "0 0 5"])
def test_without_a_useful_view_box_what_the_strokes_cover_is_the_picture(box):
    assert drawn('<path d="M100 100h200v100"/>', box) == [[(0, 12), (48, 12), (48, 36)]]
    assert drawn('<path d="M7 7z"/>', box) == [[(24, 24)]]


def test_what_reaches_beyond_the_picture_goes_to_its_edge():
    assert drawn('<path d="M10 10H99"/>') == [[(10, 10), (48, 10)]]


def test_symbols_and_pictures_within_are_drawings_of_their_own():
    sprite = (
        '<symbol viewBox="0 0 24 24" id="a"><path d="M1 1h2"/></symbol><path d="M9 9h9"/><use href="#a"/>'
        '<svg x="5" viewBox="0 0 96 96"><path d="M4 4h8"/></svg><svg x="9"><path d="M0 0h9"/></svg>'
    )
    assert read_svg(svg(sprite)) == [
        [[(9, 9), (18, 9)], [(0, 0), (9, 0)]],
        [[(2, 2), (6, 2)]],
        [[(2, 2), (6, 2)]],
    ]


def test_names_that_a_program_defines_at_the_top_are_read():
    content = (
        '<!DOCTYPE svg [<!ENTITY ns_svg "http://www.w3.org/2000/svg">]><svg xmlns="&ns_svg;"><path d="M0 0h9"/></svg>'
    )
    assert read_svg(content.encode()) == [[[(0, 24), (48, 24)]]]


# Quick, Draw!


def quickdraw(*drawings):
    return "\n".join(json.dumps({"word": "cat", "drawing": drawing}) for drawing in drawings).encode()


@given(DRAWINGS)
def test_a_drawing_of_quick_draw_comes_back_on_the_grid(drawing):
    framed = [[(0, 0), (GRID_STEPS, GRID_STEPS)], *drawing]
    written = [[[x for x, _ in stroke], [y for _, y in stroke]] for stroke in framed]
    assert list(read_quickdraw(quickdraw(written, written))) == [framed, framed]


def test_raw_drawings_with_times_are_simplified():
    times = list(range(101))
    raw = [[[x / 7 for x in times], [3.0] * 101, times], [[0.0, 100 / 7], [0, 50 / 7], [200, 300]]]
    assert list(read_quickdraw(quickdraw(raw))) == [[[(0, 22), (48, 22)], [(0, 12), (48, 36)]]]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"drawing": 3}',
        '{"drawing": [[1, 2]]}',
        '{"drawing": [[[1], [2, 3]]]}',
        '{"drawing": [[["1"], [2]]]}',
        f'{{"drawing": [[[{"9" * 5000}], [2]]]}}',
        f'{{"drawing": [[[{"9" * 400}], [2]]]}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_line_that_is_no_drawing_is_told(line):
    with pytest.raises(Unreadable, match=r"is damaged \(line 2 is no drawing\)"):
        list(read_quickdraw(quickdraw([[[1], [2]]]) + b"\n" + line.encode("utf-8", "surrogateescape")))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e308", "1e999", "1000000001"])
def test_absurd_numbers_of_quick_draw_are_refused(number):
    with pytest.raises(Unreadable, match="has a coordinate beyond 1,000,000,000"):
        list(read_quickdraw(b'{"drawing": [[[1, %s], [2, 3]]]}' % number.encode()))


# Bad and hostile files.

USES = [f'<use href="#g{i - 1}"/>' for i in range(9)]
"""Each group uses the one before it ten times."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is damaged \(no element found"),
        (b"<svg><path", r"is damaged \(unclosed token"),
        (b"\x89PNG\r\n", r"is damaged \("),
        (b'<?xml version="1.0" encoding="nonsense"?><svg/>', r"is damaged \(unknown encoding"),
        (b"<html/>", r"is no drawing \(its first element is html\)"),
        (b"<svg/>", "has no strokes"),
        (svg('<path d="M0 0h1e10" />'), "has a coordinate beyond 1,000,000,000"),
        (svg('<path d="M0 0h1e999" />'), "has a coordinate beyond 1,000,000,000"),
        (svg('<path d="M0 0C1e308 1e308-1e308-1e308 5 5" />'), "has a coordinate beyond 1,000,000,000"),
        (svg('<g transform="scale(1e300)"><path transform="scale(1e300)" d="M0 0h1"/></g>'), "has a coordinate beyond"),
        (svg("<g>" * 100_001 + "</g>" * 100_001), "holds more than 100,000 elements"),
        (svg('<g id="a"><use href="#a"/><use href="#a"/></g>'), "holds more than 100,000 elements"),
        (svg("".join(f'<g id="g{i}">{USES[i] * 10}</g>' for i in range(9))), "holds more than 100,000 elements"),
        (svg(f'<path d="M0 0{"h1v1" * 10_000}"/>'), "holds more than 20,000 points in a drawing"),
        (svg(f'<path d="M0 0{" " * 10**6}"/>'), "holds a path of more than 500,000 characters"),
        (svg(f'<polyline points="{"0 " * 10**6}"/>'), "holds a path of more than 500,000 characters"),
    ],
)
def test_damaged_and_absurd_files_are_one_line_each(content, reason):
    with pytest.raises(Unreadable, match=reason) as error:
        read_svg(content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/passwd">',
        '<!ENTITY % a SYSTEM "http://localhost/a.dtd"> %a;',
        f'<!ENTITY a "{"a" * 1000}">',
    ],
)
def test_entities_that_could_multiply_or_load_anything_are_refused(declared):
    content = f'<!DOCTYPE svg [{declared}]><svg><path d="M0 0h9"/><text>&a;</text></svg>'
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(Unreadable, match="defines entities of its own"):
            read_svg(content.encode(encoding))


NUMBERS = st.sampled_from(["0", "-1", "5", "1e-300", "1e300", "1e999", "nan", ".5.5", "50%", "3mm", "", "x", "1 0 1"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("MmLlHhVvCcSsQqTtAaZz?"), st.lists(NUMBERS, max_size=8)), max_size=8), NUMBERS
)
def test_no_path_is_too_wrong(commands, number):
    path = "M0 0" + " ".join(letter + " ".join(numbers) for letter, numbers in commands)
    rect = f'<rect x="{number}" width="{number}" height="9" rx="{number}"/>'
    shapes = f'<g transform="scale({number}) skewX({number})">{rect}</g>'
    try:
        drawings = read_svg(svg(f'<path d="{path}"/>{shapes}', f"0 0 {number} 48"))
    except Unreadable:
        return
    assert [from_text(to_text(drawing)) for drawing in drawings] == [(drawing, 0) for drawing in drawings]


# Files of other programs.


def test_every_kanji_keeps_its_strokes_in_order():
    kanji = pytest.importorskip("kanji", reason="kanjivg is not installed; it is in jaxlm[test]")
    files = sorted(Path(next(iter(kanji.__path__))).glob("*.svg"))[::200]
    assert len(files) > 50
    for file in files:
        content = file.read_text(encoding="utf-8")
        [drawing] = read_svg(content.encode())
        starts = re.findall(r'<path [^>]*\bd="[Mm] *([\d.]+)[ ,]*(-?[\d.]+)', content)
        assert len(drawing) == len(starts) > 0
        for stroke, (across, down) in zip(drawing, starts, strict=True):
            assert stroke[0] == tuple(round(float(place) * GRID_STEPS / 109) for place in (across, down))


def test_icons_of_lucide_are_read_stroke_by_stroke():
    # Their licence lies beside them.
    texts = {path.stem: read_svg(path.read_bytes()) for path in (Path(__file__).parent / "lucide").glob("*.svg")}
    [database] = texts["database"]
    rim, sides, middle = database
    assert rim[0] == rim[-1] == (42, 10)
    assert {(24, 16), (6, 10), (24, 4)} < set(rim)
    assert sides[0] == (6, 10)
    assert sides[-1] == (42, 10)
    assert (24, 44) in sides
    assert (middle[0], middle[-1]) == ((6, 24), (42, 24))
    [cat] = texts["cat"]
    assert cat[1:3] == [[(16, 28), (16, 29)], [(32, 28), (32, 29)]]  # Its eyes.
    [bell] = texts["bell"]
    assert [stroke[0] for stroke in bell] == [(21, 42), (7, 31)]


def test_hershey_s_letters_written_as_svg_are_read_line_by_line():
    fonts = pytest.importorskip(
        "HersheyFonts", reason="Hershey-Fonts is not installed; it is in jaxlm[test]"
    ).HersheyFonts()
    fonts.load_default_font("rowmans")
    fonts.normalize_rendering(40)
    letters = [[[(x + 5, 40 - y) for x, y in stroke] for stroke in fonts.strokes_for_text(letter)] for letter in "AO8&"]
    for letter in letters:
        lines = "".join(
            f'<polyline points="{" ".join(f"{x:.3f},{y:.3f}" for x, y in stroke)}" fill="none" stroke="black"/>'
            for stroke in letter
        )
        drawing = drawn(lines)
        assert len(drawing) == len(letter)
        for stroke, original in zip(drawing, letter, strict=True):
            assert len(stroke) <= len(original)
            assert max(distance(complex(*point), stroke) for point in original) < 0.5 + math.sqrt(0.5)


@pytest.mark.parametrize("name", ["kanji", "icons"])
def test_the_pictures_of_the_documents_are_sheets_of_25_drawings(name):
    assert len(read_svg((Path(__file__).parents[1] / "docs" / f"{name}.svg").read_bytes())) == 25


def test_the_example_of_the_documents_is_what_it_says():
    text = (Path(__file__).parents[1] / "docs" / "drawing.md").read_text(encoding="utf-8")
    [example] = re.findall(r"A large L and a dot beside it:\n\n```\n(.*)\n```", text)
    assert from_text(example) == ([[(12, 8), (12, 40), (30, 40)], [(34, 40)]], 0)


# Runs.


@pytest.fixture
def drawings(tmp_path):
    """A folder of drawings: two SVG files, and one of Quick, Draw!."""
    folder = tmp_path / "drawings"
    folder.mkdir()
    house = '<path d="M4 44V20L24 4l20 16v24z"/><rect x="20" y="30" width="8" height="14"/>'
    (folder / "1.svg").write_bytes(svg(house))
    (folder / "2.svg").write_bytes(svg("".join(f'<symbol viewBox="0 0 48 48">{house}</symbol>' for _ in range(4))))
    (folder / "3.ndjson").write_bytes(quickdraw(*[[[[0, 48, 24], [0, 0, 48]]]] * 3))
    return folder


def test_a_folder_of_drawings_is_a_line_each(drawings):
    corpus = load_corpus((str(drawings),), lowercase=True)
    house = to_text(
        [[(4, 44), (4, 20), (24, 4), (44, 20), (44, 44), (4, 44)], [(20, 30), (28, 30), (28, 44), (20, 44), (20, 30)]]
    )
    fan = to_text([[(0, 0), (48, 0), (24, 48)]])
    assert corpus.text == f"{house}\n" * 5 + f"{fan}\n" * 3
    assert corpus.notation == "strokes"


@pytest.mark.parametrize("recipe", [["--stride", "5"], ["--recipe", "stream", "--units", "lines", "--ngram", "3"]])
def test_a_run_learns_drawings_and_writes_a_sheet(drawings, capsys, recipe):
    run = drawings.parent / "run"
    small = ["--epochs", "8", "--batch", "4", "--hidden", "24", "--length", "16", "--validation", "0.3"]
    assert commands.train([str(drawings), "--run", str(run), *small, *recipe, "-l", "10", "-t", "0.5"]) == 0
    assert "drawings: 8 drawings, 64 points" in capsys.readouterr().out
    out = drawings.parent / "sheet.svg"
    assert commands.sample(["--run", str(run), "-n", "5", "-t", "0.6", "-o", str(out), "--seed", "1"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("5 drawings, ")
    assert 1 <= len(read_svg(out.read_bytes())) <= 5
    assert commands.evaluate(["--run", str(run)]) == 0
    assert "Nats per point:" in capsys.readouterr().out


def test_a_drawing_can_be_finished(drawings, capsys):
    run = drawings.parent / "run"
    small = ["--epochs", "1", "--batch", "4", "--hidden", "8", "--length", "16", "-l", "10", "-t", "0.5"]
    assert commands.train([str(drawings), "--run", str(run), *small, "--recipe", "stream", "--ngram", "0"]) == 0
    start, out = drawings.parent / "start.svg", drawings.parent / "sheet.svg"
    start.write_bytes(svg('<path d="M4 44V20L24 4"/>'))
    assert commands.sample(["--run", str(run), "--prompt-file", str(start), "-n", "3", "-l", "40", "-o", str(out)]) == 0
    found = read_svg(out.read_bytes())
    assert [drawing[0][:3] for drawing in found] == [[(4, 44), (4, 20), (24, 4)]] * 3


def test_a_bad_file_among_drawings_is_one_line(drawings, capsys):
    (drawings / "4.svg").write_text("<svg><path")
    assert commands.train([str(drawings), "--run", str(drawings.parent / "run")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{drawings / '4.svg'}: found a .svg file that is damaged (unclosed token" in line
    assert not (drawings.parent / "run").exists()


def test_drawings_in_another_file_than_a_sheet_are_refused(drawings, capsys):
    run = drawings.parent / "run"
    small = ["--epochs", "1", "--batch", "4", "--hidden", "8", "--length", "16", "-l", "10", "-t", "0.5"]
    assert commands.train([str(drawings), "--run", str(run), *small, "--recipe", "stream", "--ngram", "0"]) == 0
    capsys.readouterr()
    assert commands.sample(["--run", str(run), "-o", str(drawings.parent / "a.mid")]) == 2
    assert "writes drawings (.svg), or their text (.txt)" in capsys.readouterr().err


@pytest.mark.parametrize("content", [svg(f'<path d="M0 0{"l9 9" * 100_000}"/>'), b"<svg>" + b"<g>" * 10**5])
def test_a_file_that_would_take_long_is_given_up_in_seconds(content):
    with Documents() as documents, pytest.raises(Unreadable):
        documents.read(".svg", content)


@pytest.mark.parametrize(
    ("sheet", "attributes", "is_seen"),
    [
        (".a{fill:none}", 'class="a"', False),
        (".a{fill:none;stroke:#000}", 'class="a"', True),
        (".a, .b { fill: none } .b { stroke: red }", 'class="b a"', True),
        (".b{display:none}", 'class="a"', True),
        (".b{display:none !important}", 'class="a b"', False),
        ("path{visibility:hidden}", "", False),
        ("circle{display:none}", "", True),
        ("path{display:none}#it{display:inline}", 'id="it"', True),
        ("#it{display:none}.a{display:inline}", 'id="it" class="a"', False),
        ("path.a{display:none}.a{display:inline}", 'class="a"', False),
        (".a{display:none}.b{fill:red}.a{display:inline}", 'class="a b"', True),
        (".b{fill:red}.a{fill:none}", 'class="b a"', False),
        (".a{fill:none}.b{fill:red}.a{color:red}", 'class="b a"', True),
        (".a{fill:red}", 'class="a" fill="none"', True),  # A rule is above an attribute,
        (".a{fill:red}", 'class="a" style="fill:none"', False),  # and below the element's own style.
        ("/* .a{display:none} */ @import url(a.css);.b{display:none}", 'class="a"', True),
        ("@media print{.a{display:none}.a{display:none}}", 'class="a"', True),
        ("@media print{.b{fill:red}}.a{display:none}", 'class="a"', False),
        ("g .a{display:none}.a:hover{display:none}", 'class="a"', True),
        ("}}}{.a{{{", 'class="a"', True),
        (".a{fill:inherit}", 'class="a"', True),
    ],
)
def test_a_style_sheet_decides_what_is_seen(sheet, attributes, is_seen):
    pytest.importorskip("svgelements")
    path = f'<path {attributes} d="M0 0h24v24z"/>'
    content = f'<svg viewBox="0 0 48 48"><style><![CDATA[{sheet}]]></style>{path}<path d="M0 48h48" id="other"/></svg>'
    sheets = content.replace("<![CDATA[", "").replace("]]>", ""), content
    if "path{" in sheet:
        sheets = tuple(text.replace('id="other"', 'style="visibility:visible;display:inline"') for text in sheets)
    for text in sheets:
        assert len(read_svg(text.encode())[0]) == 1 + is_seen


def test_what_a_hidden_group_shows_is_read():
    pytest.importorskip("svgelements")
    inner = '<path d="M0 0h9"/><path visibility="visible" d="M0 9h9"/>'
    assert len(read_svg(f'<svg><g visibility="hidden">{inner}</g></svg>'.encode())[0]) == 1
    assert len(read_svg(f'<svg><g display="none">{inner}</g><path d="M0 0h9"/></svg>'.encode())[0]) == 1


def test_drawings_of_quick_draw_are_read_one_by_one():
    drawings = read_quickdraw(quickdraw([[[0, 48], [0, 48]]]) + b"\nno drawing")
    assert next(drawings) == [[(0, 0), (48, 48)]]
    with pytest.raises(Unreadable, match="line 2 is no drawing"):
        next(drawings)
    with pytest.raises(Unreadable, match="has no strokes"):
        list(read_quickdraw(b'{"drawing": []}\n\n'))
