"""ABC in other keys: a tune so many semitones higher, in the key that is usual there.

Every note moves by the same number of letters, and every key by the same number of fifths. So a note without an
accidental stays one, whatever accidentals the bar has before it and however a program reads them, and only those that
are written have to be spelled anew.
"""

import re

_FIFTHS = "FCGDAEB"
"""The letters in the order of fifths; C is 0, and each sharp adds 7."""

_LETTERS, _NATURALS = "CDEFGAB", (0, 2, 4, 5, 7, 9, 11)
"""The letters of an octave, and the semitones from its C to each."""

_ACCIDENTALS = {"__": -2, "_": -1, "=": 0, "^": 1, "^^": 2}
_SPELLED = {number: sign for sign, number in _ACCIDENTALS.items()}

MOST_SHARPS = 7
"""The most sharps, or flats, of a key."""

_MODES = {"maj": 0, "ion": 0, "lyd": 1, "mix": -1, "dor": -2, "min": -3, "aeo": -3, "phr": -4, "loc": -5}
"""The sharps of a mode beyond those of major."""

_KEY = re.compile(
    r"(?P<before>\s*)(?:(?P<none>none\b|$)|(?P<tonic>[A-G][#b]?)(?P<mode>m(?![a-zA-Z])|\s*(?i:"
    + "|".join(_MODES)
    + r")[a-zA-Z]*|)(?![a-zA-Z#]))(?P<rest>.*)"
)
_CLEF = r"(?:clef=none|(?:clef=)?(?:treble|bass|alto|tenor|soprano|mezzosoprano|baritone)[0-9]?(?:[+-]8)?)"
_REST = re.compile(rf"(?:\s+(?:{_CLEF}|(?!clef)[a-z]+=[^\s%]+)|\s*[\^_=]+[A-Ga-g])*\s*(?:%.*)?")
_WITHOUT_KEY = re.compile(rf"\s*(?:{_CLEF}|(?!clef)[a-z]+=[^\s%]+)(?:\s.*)?")

_KEY_ACCIDENTALS = re.compile(r"(?:(?<=\s)|^)(?:[\^_=]+[A-Ga-g])+(?=\s|$)")
_KEY_ACCIDENTAL = re.compile(r"([\^_=]+)([A-Ga-g])")

_FIELD = re.compile(r"([A-Za-z+]):(?![|:])(.*)")

_TOKEN = re.compile(
    r'(?P<aside>%.*)|"(?P<chord>[^"]*)"|!(?P<mark>[^! ]*)!|\[(?P<field>[A-Za-z]):(?P<value>[^][]*)\]'
    r"|(?P<sign>\^\^?|__?|=)?(?P<letter>[A-Ga-g])(?P<octave>[,']*)"
    r'|(?P<stray>[\^_="+])'
)

_LIKE_NOTES = re.compile(r"(?!f+$|[^A-Ga-g]*$)[A-Ga-gxz,'0-9/|<>\[\]()~^_=-]+")

_KINDS = r"(?:maj|min|dim|aug|sus|add|alt|[mMob#+\-\d])*"
_CHORD = re.compile(rf"([A-G])([#b]?)({_KINDS})")
_KIND = re.compile(rf"(?:maj|min|dim|aug|sus|add|alt|[mM]){_KINDS}")
"""What may follow a chord's root after a space, as in Bb maj7."""

_BASS = re.compile(r"[a-g][#b]?")
_DEGREE = re.compile(r"(?:[#b+-]?\d+)?")
_BEYOND = re.compile(
    r"^m:|^%%(?:begin|MIDI +(?:channel +10|drum))|^(?:V|K):.*perc|\[[KV]:[^]]*perc|^K:.*\n\+:", re.MULTILINE
)
"""What would be read wrongly: macros, blocks of other text, drums, keys that go on in the next line."""


class _Unknown(Exception):
    """Something whose pitch is not known."""


def transpose(tune: str, semitones: int) -> str | None:
    """A tune so many semitones higher: its notes, keys and chord names.

    Returns:
      None if that cannot be done: it has no key, or something that cannot be read, such as bagpipes' keys, macros,
      drums or quarter tones.
    """
    if not tune.strip() or not semitones:
        return tune
    body = re.search(r"^K:", tune, re.MULTILINE)
    if not body or _BEYOND.search(tune):
        return None
    around = (7 * semitones + 6) % 12 - 6
    # In the key with the fewest sharps or flats; of F sharp and G flat, the latter.
    try:
        first = _fifths(_matched(tune[body.end() :].partition("\n")[0]))
    except _Unknown:
        return None
    for fifths in sorted((around - 12, around, around + 12), key=lambda fifths: (abs(first + fifths), fifths)):
        try:
            shift = _Shift(fifths, semitones)
            return tune[: body.start()] + "\n".join(map(shift.line, tune[body.start() :].split("\n")))
        except _Unknown:
            continue
    return None


class _Shift:
    """Moves music by a number of fifths, which is a number of semitones in one octave or another."""

    def __init__(self, fifths: int, semitones: int) -> None:
        self._fifths, self._semitones = fifths, semitones
        steps = 4 * fifths % 7
        self._steps = min((steps + 7 * octave for octave in range(-3, 3)), key=lambda n: abs(12 * n - 7 * semitones))

    def line(self, line: str) -> str:
        """A line of a tune from its key on."""
        if field := _FIELD.match(line):
            if field[1] == "K":
                return f"K:{self._key(field[2])}"
            if field[1] != "s":  # Signs for the notes above, chord names among them.
                return line
        return line if line.startswith("%") else _TOKEN.sub(self._token, line)

    def _token(self, found: re.Match[str]) -> str:
        if found["letter"]:
            return self._note(found["sign"], found["letter"], found["octave"])
        if found["chord"] is not None:
            return f'"{self._chords(found["chord"])}"'
        if found["field"] == "K":
            return f"[K:{self._key(found['value'])}]"
        # A mark that looks like notes may be some, between two of the signs that once ended a line.
        if found["stray"] or _LIKE_NOTES.fullmatch(found["mark"] or ""):
            raise _Unknown
        return found[0]

    def _note(self, sign: str | None, letter: str, octave: str) -> str:
        place = _LETTERS.index(letter.upper()) + 7 * (letter.islower() + octave.count("'") - octave.count(","))
        moved = place + self._steps
        spelled = "" if sign is None else self._spelled(place, _ACCIDENTALS[sign])
        octaves, number = divmod(moved, 7)
        if octaves > 0:
            return spelled + _LETTERS[number].lower() + "'" * (octaves - 1)
        return spelled + _LETTERS[number] + "," * -octaves

    def _spelled(self, place: int, accidental: int) -> str:
        """The accidental of a note that moves, whose place is counted in letters."""
        moved = accidental + self._semitones + _pitch(place) - _pitch(place + self._steps)
        if moved not in _SPELLED:
            raise _Unknown
        return _SPELLED[moved]

    def _key(self, value: str) -> str:
        if _WITHOUT_KEY.fullmatch(value) and not _KEY.fullmatch(value):
            return value
        found = _matched(value)
        fifths = _fifths(found) + self._fifths
        if abs(fifths) > MOST_SHARPS:
            raise _Unknown
        tonic = _named(_tonic(found["tonic"] or "C") + self._fifths)
        rest = _KEY_ACCIDENTALS.sub(self._key_accidentals, found["rest"])
        return f"{found['before']}{tonic}{found['mode'] or ''}{rest}"

    def _key_accidentals(self, signs: re.Match[str]) -> str:
        return _KEY_ACCIDENTAL.sub(lambda sign: self._key_accidental(*sign.groups()), signs[0])

    def _key_accidental(self, sign: str, letter: str) -> str:
        if sign not in _ACCIDENTALS:
            raise _Unknown
        place = _LETTERS.index(letter.upper())
        moved = _LETTERS[(place + self._steps) % 7]
        return self._spelled(place, _ACCIDENTALS[sign]) + (moved.lower() if letter.islower() else moved)

    def _chords(self, text: str) -> str:
        """Chord names, several of which may stand in one text; other texts, such as Fine, stay."""
        parts = re.split(r"([()\s/,;|]+)", text)
        names = parts[::2]
        if not all(any(kind.fullmatch(name) for kind in (_CHORD, _BASS, _DEGREE, _KIND)) for name in names):
            return text
        parts[::2] = [self._chord(name) for name in names]
        return "".join(parts)

    def _chord(self, name: str) -> str:
        if _DEGREE.fullmatch(name) or _KIND.fullmatch(name):
            return name
        found = _CHORD.fullmatch(name[0].upper() + name[1:])
        assert found is not None
        root = _tonic(found[1] + found[2]) + self._fifths
        # No root has two sharps or flats.
        root += 12 * ((root < -8) - (root > 12))
        moved = _named(root) + found[3]
        return moved.lower() if name[0].islower() else moved


def _matched(value: str) -> re.Match[str]:
    """A key's parts.

    Raises:
      _Unknown: it is none whose notes are known.
    """
    found = _KEY.fullmatch(value)
    if not found or not _REST.fullmatch(found["rest"]):
        raise _Unknown
    return found


def _fifths(key: re.Match[str]) -> int:
    """A key's sharps, or minus its flats."""
    mode = (key["mode"] or "maj").strip().lower()
    return _tonic(key["tonic"] or "C") + _MODES["min" if mode == "m" else mode[:3]]


def _tonic(name: str) -> int:
    """A note's place in the order of fifths."""
    return _FIFTHS.index(name[0]) - 1 + 7 * (name.count("#") - name.count("b"))


def _named(fifths: int) -> str:
    sharps, letter = divmod(fifths + 1, 7)
    return _FIFTHS[letter] + ("#" * sharps if sharps > 0 else "b" * -sharps)


def _pitch(place: int) -> int:
    """The semitones from middle C to a natural note, whose place is counted in letters."""
    octaves, letter = divmod(place, 7)
    return 12 * octaves + _NATURALS[letter]
