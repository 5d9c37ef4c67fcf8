"""The suffixes of a text in order, by as many tokens as are asked for: what substrings are found and counted with."""

from collections.abc import Iterator

import numpy as np


def sorted_suffixes(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Sorts the positions of a text by the tokens from each on; by twice as many each time, without an end.

    Args:
      tokens: int[N], 0 or more.

    Yields:
      length: how many tokens they are sorted by; the text's end precedes any token.
      starts: int64[N], the positions in this order, those of equal strings in any.
      ranks: uint32[N + 1], by position, its string's place among the distinct ones, from 1 on; 0 after the last one.
    """
    count = len(tokens)
    bits = (int(tokens.max(initial=0)) + 1).bit_length()
    length = 64 // bits
    padded = np.concatenate([tokens.astype(np.uint64) + np.uint64(1), np.zeros(length, np.uint64)])
    keys = np.zeros(count, np.uint64)
    for offset in range(length):
        keys = keys << np.uint64(bits) | padded[offset : offset + count]
    while True:
        starts = np.argsort(keys)
        keys = keys[starts]
        ranks = np.zeros(count + 1, np.uint32)
        ranks[starts] = np.cumsum(np.concatenate([np.ones(1, bool), keys[1:] != keys[:-1]])[:count])
        yield length, starts, ranks
        # The order by 2n tokens is that of two ranks by n tokens.
        after = np.concatenate([ranks[length:], np.zeros(length, np.uint32)])[:count]
        keys = ranks[:count].astype(np.uint64) << np.uint64(32) | after
        length *= 2
