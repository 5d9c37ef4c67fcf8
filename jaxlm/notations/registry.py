"""Every notation, by its name and by the endings of its files."""

from jaxlm.notations.abc import ABC
from jaxlm.notations.midi import MIDI
from jaxlm.notations.notation import Notation
from jaxlm.notations.strokes import STROKES

PROSE = Notation(
    name="text",
    files="texts",
    piece="text",
    unit="character",
    count=len,
    separator="",
    readers={},
    writers={},
)
"""What is no notation: text as it is."""

NOTATIONS = {notation.name: notation for notation in (PROSE, ABC, MIDI, STROKES)}

BY_SUFFIX = {suffix: notation for notation in NOTATIONS.values() for suffix in notation.readers}
"""The notations of files by their endings; all others are prose."""

MADE = frozenset(suffix for notation in NOTATIONS.values() if not notation.is_plain for suffix in notation.writers)
"""The endings of files that are made of text, and are none themselves."""
