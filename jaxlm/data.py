"""Batches: which windows of the corpus a step sees, as plain integers on the host."""

import dataclasses
import math

import numpy as np

from jaxlm.config import InputError

PADDING = -1
"""The start that stands for no window, in the last batch of an epoch."""


def smallest_ids(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Token ids in the smallest unsigned type that holds the whole vocabulary."""
    return ids.astype(np.min_scalar_type(vocabulary - 1))


def split_text(text: str, share: float) -> tuple[str, str]:
    """A text without its end, and the end, which is held out: the last ceil(len(text) * share) characters."""
    border = len(text) - math.ceil(len(text) * share)
    return text[:border], text[border:]


@dataclasses.dataclass(frozen=True)
class Windows:
    """The overlapping windows of a corpus: `length` tokens each, and the token that follows.

    They start at range(0, tokens - length, stride), as in Deep Learning with Python, 8.1.

    Attributes:
      tokens: N, tokens in the corpus.
      length: T, tokens in a window, without its target.
      stride: tokens from one window's start to the next's.
    """

    tokens: int
    length: int
    stride: int

    def __post_init__(self) -> None:
        if self.tokens <= self.length:
            raise InputError(
                f"corpus: found a text of only {self.tokens} tokens, expected at least {self.length + 1} for one "
                f"window of {self.length} and the token after it; use more text, or a smaller length"
            )
        if self.tokens > np.iinfo(np.int32).max:
            raise InputError(
                f"corpus: found {self.tokens:,} tokens, expected at most {np.iinfo(np.int32).max:,}, since "
                "positions are 32-bit; use less text"
            )

    def __len__(self) -> int:
        return len(range(0, self.tokens - self.length, self.stride))

    def steps(self, batch: int) -> int:
        """Batches in an epoch; the last may be partial."""
        return -(-len(self) // batch)

    def epoch(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        """The starts of an epoch's windows, every one once, in an order that only seed and epoch decide.

        Returns:
          int32[steps, batch]; the rest of the last batch is PADDING.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        starts = np.full(self.steps(batch) * batch, PADDING, np.int32)
        starts[: len(self)] = order * self.stride
        return starts.reshape(-1, batch)
