"""Suffixes against Python's own order of lists, at every length."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.text.suffixes import sorted_suffixes


@given(
    tokens=st.lists(st.just(0), max_size=70)
    | st.lists(st.integers(0, 2), max_size=60)
    | st.lists(st.sampled_from([0, 255, 2**16 - 1, 2**32 - 1]), max_size=20)
)
def test_positions_are_sorted_as_the_lists_from_there_on(tokens):
    previous = 0
    for length, starts, ranks in sorted_suffixes(np.array(tokens, np.uint32)):
        assert length == 2 * previous or not previous
        strings = [tokens[start : start + length] for start in range(len(tokens))]
        distinct = sorted(map(list, set(map(tuple, strings))))
        assert ranks.tolist() == [distinct.index(string) + 1 for string in strings] + [0]
        assert sorted(starts.tolist()) == list(range(len(tokens)))
        assert [strings[start] for start in starts] == sorted(strings)
        previous = length
        if length > 2 * len(tokens):
            return
