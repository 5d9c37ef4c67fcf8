"""Where a text ends: at the first of some strings, piece by piece as it is generated."""

from collections.abc import Iterable, Iterator, Sequence


def until(pieces: Iterable[str], stops: Sequence[str], keep: bool = False) -> Iterator[str]:
    """A text up to its first stop string, in pieces; all of it if it has none.

    The first is the one that is complete first, and among those that end together the longest. What may be the
    beginning of one is held back until it is known not to be; no piece is taken after the text has ended.

    Args:
      pieces: of the text.
      stops: strings that are not empty.
      keep: whether the text ends after the stop string, not before it.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [(start + len(stop), start) for stop in stops if (start := held.find(stop)) >= 0]
        if found:
            end, start = min(found)
            yield held[: end if keep else start]
            return
        safe = len(held) - max((_begun(held, stop) for stop in stops), default=0)
        yield held[:safe]
        held = held[safe:]
    yield held


def without_leading(pieces: Iterable[str], character: str) -> Iterator[str]:
    """A text without a character where that stands at its very beginning, once or more often."""
    rest = iter(pieces)
    for piece in rest:
        if left := piece.lstrip(character):
            yield left
            break
    yield from rest


def _begun(text: str, stop: str) -> int:
    """How many characters at a text's end may be the beginning of a stop string; less than all of it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
