"""ABC: tunes that are written as text, as abcnotation.com defines it. Each ends at a blank line."""

import collections
import re
from collections.abc import Iterator, Sequence

from jaxlm.notations.abc_keys import transpose
from jaxlm.notations.notation import Notation, Written

_ASIDE = re.compile(r'%.*|"[^"]*"|![^! ]*!|\[[A-Za-z]:[^][]*\]')
"""What is no music in a line: comments, chord names and remarks, decorations, fields."""

_BAR = re.compile(r":*\[?\|+\]?:*|\[[1-9]")
"""Bar lines and numbers of endings, whose brackets hold no chord."""

_FIELD = re.compile(r"[A-Za-z+]:(?![|:])")
"""The beginning of a line that is a field; in A:| it is a note before a bar line."""

_NOTE = re.compile(r"[A-Ga-g]")


def count(text: str) -> int:
    """The number of notes in a text."""
    return sum(len(_NOTE.findall(line)) for line in _music(text))


def write(pieces: Sequence[str]) -> Written:
    """A file of tunes, numbered from 1: programs tell the tunes of a file apart by their X: fields."""
    faults: collections.Counter[str] = collections.Counter()
    malformed, tunes = 0, []
    for number, piece in enumerate(pieces, 1):
        found = faults_of(piece)
        faults.update(found)
        malformed += bool(found)
        lines = [line for line in piece.splitlines() if line.strip() and not line.startswith("X:")]
        tunes.append("\n".join([f"X:{number}", *lines]) + "\n")
    return Written("\n".join(tunes).encode("utf-8", "replace"), faults, malformed)


def faults_of(tune: str) -> list[str]:
    """What is wrong with a tune, in a few words each."""
    found = []
    if not tune.startswith("X:"):
        found.append("without a number (X:)")
    if not re.search(r"^K:", tune, re.MULTILINE):
        found.append("without a key (K:)")
    elif not count(tune):
        found.append("without notes")
    bare = [_BAR.sub("", line) for line in _music(tune)]
    if any(re.search(r'"|\[[^]]*(\[|$)|\{[^}]*(\{|$)|^[^[]*\]|^[^{]*\}', line) for line in bare):
        found.append("with a bracket or quotation mark that is not closed")
    return found


def _music(text: str) -> Iterator[str]:
    """Yields the lines of music, without what is none in them."""
    for line in text.split("\n"):
        if not _FIELD.match(line):
            yield _ASIDE.sub("", line)


ABC = Notation(
    name="abc",
    files="ABC tunes",
    piece="tune",
    unit="note",
    count=count,
    separator="\n\n",
    readers={".abc": None},
    writers={".abc": write},
    elsewhere="convert them with another program, such as abc2midi",
    transpose=transpose,
)
