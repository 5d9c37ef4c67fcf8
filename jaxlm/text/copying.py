"""What a generated text owes to the text that its model learned from, and how often it repeats itself."""

import itertools
import unicodedata
from typing import NamedTuple

import numpy as np

from jaxlm.text.suffixes import sorted_suffixes

APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"


SEEDS = 16, 8, 4, 2, 1
"""Lengths of strings that any longer copy begins with."""

HASH_BITS, FACTOR = 20, 0x9E3779B97F4A7C15
"""The size of a table of hashes, and an odd number, 2**64 divided by the golden ratio, that spreads them over it."""

HASHED = 2**18
"""The characters of a source that are hashed at once, so that their hashes stay in the processor's cache."""


class Copy(NamedTuple):
    """The longest span of a text that stands in another word for word: the first such span, where it first stands.

    Attributes:
      length: its characters; 0 if the texts have none in common.
      start: where it begins in the text.
      at: where it begins in the other one.
    """

    length: int
    start: int
    at: int


def longest_copy(text: str, source: str) -> Copy:
    """The longest span of a text that stands in another.

    The maximum of `longest_copies`, but in a time that grows with `source` as reading it does: about 10 ms for a
    megabyte.
    """
    for seed in SEEDS:
        # Long copies are rare, so little of the source has strings of the text in it.
        longest = longest_copies(text, _with_strings_of(text, source, seed))
        if len(longest) and (length := int(longest.max())) >= seed:
            start = int(longest.argmax())
            return Copy(length, start, source.find(text[start : start + length]))
    return Copy(0, 0, 0)


def _with_strings_of(text: str, source: str, length: int) -> str:
    """The parts of `source` where strings of `length` characters of `text` stand, apart from each other.

    By hashes, so that there may be more, but never less.
    """
    table = np.zeros(2**HASH_BITS, bool)
    table[_hashes(text, length)] = True
    part = np.zeros(len(source), bool)
    for start in range(0, len(source) - length + 1, HASHED):
        found = table[_hashes(source[start : start + HASHED + length - 1], length)]
        part[start : start + len(found)] = found
    width = 1
    while width < length:  # Each length is a power of two.
        part[width:] |= part[:-width].copy()
        width *= 2
    border = next(chr(code) for code in range(len(text) + 1) if chr(code) not in text)
    kept = part.copy()
    kept[1:] |= part[:-1]  # One character after each part, which is the border.
    codes = _codes(source)[kept]
    codes[~part[kept]] = ord(border)
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def _hashes(text: str, length: int) -> np.ndarray:
    """A hash, int64[N - length + 1], of the string of `length` characters, a power of two, from each position on."""
    hashes, width, factor = _codes(text).astype(np.uint64), 1, FACTOR
    while width < length:
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        width, factor = 2 * width, factor**2 % 2**64
    return (hashes * np.uint64(FACTOR) >> np.uint64(64 - HASH_BITS)).astype(np.int64)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def longest_copies(text: str, source: str) -> np.ndarray:
    """How much of a text also stands in another, from each position on.

    The maximum is the longest copied span; the mean, over all positions, says how long copies are as a rule. Spans end
    with the text, so that both are lower in a very short one.

    Args:
      text: N characters.
      source: the other text. A megabyte takes a fraction of a second, or some seconds where it is copied as a whole.

    Returns:
      int64[N]: for each position of `text`, the most characters from there on that stand in `source` side by side.
    """
    codes = _codes(source + text)
    present = np.zeros(0x110000, bool)
    present[codes] = True
    codes = np.cumsum(present)[codes]
    border = len(source)
    # No match reaches beyond the source, since a token that no text has, 0, follows it.
    tokens = np.concatenate([codes[:border], np.zeros(1, codes.dtype), codes[border:]])

    starts, steps = _sorted_apart(tokens, border)

    # A position has its longest copy at the nearest one of the source on one of its sides. The 0 is sorted first, and
    # shares nothing with any other: it stands for a neighbour where there is none.
    of_source = starts <= border
    places = np.arange(len(starts))
    before = np.maximum.accumulate(np.where(of_source, places, 0))
    after = np.minimum.accumulate(np.where(of_source, places, len(starts))[::-1])[::-1] % len(starts)
    begins = starts[~of_source]
    here, there = np.stack([begins, begins]), starts[np.stack([before, after])[:, ~of_source]]
    for length, names in reversed(steps):
        equal = length * (names[here] == names[there])
        here, there = here + equal, there + equal
    longest = np.zeros(len(text), np.int64)
    longest[begins - border - 1] = here.max(0) - begins
    return longest


def _sorted_apart(tokens: np.ndarray, border: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Sorts positions by more tokens than any two have in common, one of them before a border, and the other after it.

    Returns:
      The positions in order; and by what to compare any such two of them, as powers of two are for whole numbers: sizes
      of strings, growing, and for each the names of all strings of that size. The greedy choice from the largest to the
      smallest finds what they have in common.
    """
    steps: list[tuple[int, np.ndarray]] = []
    suffixes = sorted_suffixes(tokens)
    while True:
        length, starts, ranks = next(suffixes)
        steps = steps or [(1, np.append(tokens, -1))] * length
        seen = np.zeros(len(ranks), bool)
        seen[ranks[:border]] = True
        if not seen[ranks[border + 1 : -1]].any():
            return starts, steps
        steps.append((length, ranks))


def share_of_words(text: str, source: str) -> float:
    """The share of a text's words that are words of another, whatever their case; nan if it has none.

    Words are runs of letters and marks with apostrophes between them. Those at the very ends of `text` do not count, as
    they may be cut off.
    """
    words, known = _words(text, cut=True), set(_words(source))
    return sum(word in known for word in words) / len(words) if words else float("nan")


def share_repeated(text: str, size: int = 4) -> float:
    """The share of a text's runs of `size` successive words that stood in it before; nan if it has none.

    Words are those of `share_of_words`. Like `variety`, for texts of one length.
    """
    words = _words(text, cut=True)
    runs = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else float("nan")


def variety(text: str) -> float:
    """The share of a text's pairs of successive words that are distinct, as distinct-2; nan if it has none.

    It falls as a text grows, so compare texts of one length. Words are those of `share_of_words`.

    Source: Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models, arXiv:1510.03055.
    """
    pairs = list(itertools.pairwise(_words(text, cut=True)))
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def _words(text: str, cut: bool = False) -> list[str]:
    """The words of a text, in lower case; without those at its very ends, if these may be cut off."""
    kept = {ord(c): c if unicodedata.category(c)[0] in "LM" or c in APOSTROPHES else " " for c in set(text)}
    pieces = text.translate(kept).split(" ")
    words = (piece.strip(APOSTROPHES).casefold() for piece in (pieces[1:-1] if cut else pieces))
    return [word for word in words if word]
