"""What a notation is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Written:
    """A file made of pieces of text.

    Attributes:
      content: the file.
      faults: what was wrong with pieces that were not well formed, in a few words, and with how many of them.
      malformed: how many pieces were not well formed; they are in the file as far as they go.
    """

    content: bytes
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    malformed: int = 0


Read = Callable[[bytes], str]
"""Takes a file's content; returns pieces, each followed by the notation's separator. May raise Unreadable, or anything
else if the content is damaged: it runs in a process of its own (`text.documents`)."""

Write = Callable[[Sequence[str]], Written]
"""Takes pieces without separators: any strings at all. Imports what it needs at once, even for no pieces."""


@dataclasses.dataclass(frozen=True)
class Notation:
    """A way to write what certain files hold as text, and such text as a file.

    Attributes:
      name: as settings name it.
      files: what its files are, in words.
      piece: one of what they hold, in a word: a tune, a drawing.
      unit: what a piece consists of, in a word: a note, a point.
      count: the number of such units in a text.
      separator: what follows each piece; empty for prose, which has no pieces.
      readers: by ending, in lower case, what reads such a file; None if it is plain text already.
      writers: by ending, what writes such a file.
      extra: jaxlm's extra that installs what readers and writers import; empty if they need nothing more.
      elsewhere: what to do for files that it has no writer of.
      transpose: writes a piece as many semitones higher, or says None if that cannot be done with this one; None if it
        can be done with none.
    """

    name: str
    files: str
    piece: str
    unit: str
    count: Callable[[str], int]
    separator: str
    readers: Mapping[str, Read | None]
    writers: Mapping[str, Write]
    extra: str = ""
    elsewhere: str = "choose another ending"
    transpose: Callable[[str, int], str | None] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its files are plain text."""
        return not any(self.readers.values())

    def settled(self, text: str) -> str:
        """The text of a file with a separator at its end, none before its beginning, and LF for line ends.

        Prose stays as it is.
        """
        if not self.separator:
            return text
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
        return text + self.separator if text else ""


def plural(count: int, word: str) -> str:
    """A number of things in words: 1 note, 2,000 notes."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
