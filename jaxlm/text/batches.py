"""Batches: which part of the corpus each step reads, as plain integers on the host."""

import dataclasses
import math

import numpy as np

from jaxlm.errors import InputError

NO_WINDOW = -1
"""The start that pads the last batch of an epoch."""


def smallest_ids(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Token ids in the smallest unsigned type that can hold every id of the vocabulary."""
    return ids.astype(np.min_scalar_type(vocabulary - 1))


def split_text(text: str, share: float) -> tuple[str, str]:
    """Splits a text into training and validation text, which is the last ceil(len(text) * share) characters."""
    border = len(text) - math.ceil(len(text) * share)
    return text[:border], text[border:]


def split_units(sizes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draws the documents to hold out for validation, in random order, as long as they fit.

    Args:
      sizes: int[D], the characters of each document; D is 2 or more.
      share: the most that is held out; but at least the smallest document is, if this is not 0,
        and at least one is not.
      seed: decides which.

    Returns:
      bool[D].
    """
    held_out = np.zeros(len(sizes), bool)
    if not share:
        return held_out
    left, most = math.ceil(int(sizes.sum()) * share), len(sizes) - 1
    for document in np.random.default_rng([seed, _SPLIT]).permutation(len(sizes)).tolist():
        if sizes[document] <= left and most:
            held_out[document] = True
            left -= int(sizes[document])
            most -= 1
    if not held_out.any():
        held_out[np.argmin(sizes)] = True
    return held_out


_SPLIT = 2**31
"""In place of an epoch, so that these numbers are none of those that order the windows of one."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """The overlapping windows of a corpus: `length` tokens each, with the next token as the target.

    They start at range(0, tokens - length, stride), as in Deep Learning with Python, 8.1.

    Attributes:
      tokens: N, the tokens in the corpus.
      length: T, the tokens in a window, not counting its target.
      stride: the distance between the starts of successive windows, in tokens.
    """

    tokens: int
    length: int
    stride: int

    def __post_init__(self) -> None:
        if self.tokens <= self.length:
            raise InputError(
                f"corpus: found a text of only {self.tokens} tokens, expected at least {self.length + 1} for one "
                f"window of {self.length} and the token after it; use more text, or a shorter length"
            )
        _check_positions(self.tokens)

    def __len__(self) -> int:
        return len(range(0, self.tokens - self.length, self.stride))

    def steps(self, batch: int) -> int:
        """The number of batches in an epoch; the last may be partial."""
        return -(-len(self) // batch)

    def starts(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        """Where the windows of an epoch's batches start: each once, in an order that depends on seed and epoch.

        Returns:
          int32[steps, batch]; the last batch is padded with NO_WINDOW.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        starts = np.full(self.steps(batch) * batch, NO_WINDOW, np.int32)
        starts[: len(self)] = order * self.stride
        return starts.reshape(-1, batch)


@dataclasses.dataclass(frozen=True)
class Streams:
    """A corpus in parts of equal length, each read chunk by chunk by a stream of its own.

    The text is a circle: its beginning follows its end. So no token is left over.

    Attributes:
      tokens: N, the tokens in the corpus.
      length: T, the tokens in a chunk, which a stream reads in one step.
      mixed: whether each epoch divides the text elsewhere, and each stream begins at a random chunk of its part, to
        return to the part's beginning from its end. So batches are made of other chunks in each epoch, from which a
        network learns more (benchmarks/SWEEPS.md). Otherwise, as in older runs, streams read on from epoch to epoch.
    """

    tokens: int
    length: int
    mixed: bool = True

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise InputError(
                f"corpus: found a text of only {self.tokens} tokens, expected at least 2, one to read and one to "
                "predict; use more text"
            )
        _check_positions(self.tokens, beyond=self.length)

    def steps(self, batch: int) -> int:
        """The fewest steps in which `batch` streams read all N tokens."""
        return -(-self.tokens // (batch * self.length))

    def starts(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        """Where the chunks of an epoch's batches start.

        Row b of a step begins where row b of the step before it ended, except once in an epoch if streams are mixed.

        Returns:
          int32[steps, batch], in [0, N). Chunk s covers the positions s to s + T, modulo N.
        """
        steps = self.steps(batch)
        chunks = np.arange(steps)[:, None]
        if self.mixed:
            rng = np.random.default_rng([seed, epoch])
            shift = rng.integers(self.tokens)
            chunks = (chunks + rng.integers(steps, size=batch)) % steps
        else:
            shift = np.random.default_rng(seed).integers(self.tokens)
            chunks = chunks + epoch * steps
        parts = shift + np.arange(batch) * self.tokens // batch
        return ((parts + chunks * self.length) % self.tokens).astype(np.int32)


def _check_positions(tokens: int, beyond: int = 0) -> None:
    largest = np.iinfo(np.int32).max - beyond
    if tokens > largest:
        raise InputError(
            f"corpus: found {tokens:,} tokens, expected at most {largest:,}, since positions are 32-bit; use less text"
        )
