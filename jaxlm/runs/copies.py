"""What a text has word for word from the text that a run learned from, beside what that text has from itself."""

import functools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxlm.errors import InputError
from jaxlm.runs.data import own_corpus, split
from jaxlm.runs.mixing import Trained, open_trained
from jaxlm.runs.run import Run
from jaxlm.text.copying import Copy, longest_copy

PIECES = 21
"""Of the training text, each compared with the rest of it."""

BORDER = "\ud800"
"""Takes the place of a piece that was taken out; no text that was read has it."""


class Copied(NamedTuple):
    """How much a text copies.

    Attributes:
      text: its longest span that stands in the training text word for word.
      start: where that begins in the text.
      at: where it first stands in the training text.
      usual: how long that of a piece of the training text, as long as the text, is in the rest of it: the median.
    """

    text: str
    start: int
    at: int
    usual: int


def copied(text: str, run: Trained = None) -> Copied:
    """What a text has word for word from the text that a run learned from.

    Args:
      text: any text; compared as it is, so that a run that lowercases its corpus calls for lower case.
      run: as in `load`.

    Raises:
      InputError: there is no such run; or its corpus is missing or has changed, and the run has no copy of it.
    """
    source = Source(open_trained(run))
    copy = source.copy(text)
    return Copied(text[copy.start : copy.start + copy.length], copy.start, copy.at, source.usual(len(text)))


class Source:
    """The text that some runs learned from.

    Attributes:
      text: it.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Reads it; raises InputError if it cannot be read, or if the runs learned from several."""
        first, *others = runs
        self.text = learned_text(first)
        if other := next((other for other in others if learned_text(other) != self.text), None):
            raise InputError(
                f"run: found {first.shown} and {other.shown}, which learned from different texts, expected runs of one "
                "text to find copies of; leave one out"
            )
        self.usual = functools.cache(self._usual)

    def copy(self, text: str) -> Copy:
        """The longest span of a text that stands in it."""
        return longest_copy(text, self.text)

    def _usual(self, length: int) -> int:
        """The length of such a span in pieces of the training text, of so many characters: the median of some."""
        return round(statistics.median(longest_copy(*piece).length for piece in pieces_of(self.text, length)))


def pieces_of(text: str, length: int, count: int = PIECES) -> list[tuple[str, str]]:
    """Pieces from all over a text, at most half as long as it, and each time the rest of it."""
    length = min(length, len(text) // 2)
    last = len(text) - length
    starts = (number * last // max(1, count - 1) for number in range(count))
    return [(text[at : at + length], text[:at] + BORDER + text[at + length :]) for at in starts]


def learned_text(run: Run) -> str:
    """The text that a run learned from: its own copy if it has one, otherwise its corpus is read again."""
    if run.text:
        return run.vocab.decode(run.ids())
    return split(run.record.config, own_corpus(run, "restore it"))[0].text
