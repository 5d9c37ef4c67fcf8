"""Windows written out by hand, and the order in which an epoch visits them."""

import numpy as np
import pytest

from jaxlm.config import InputError
from jaxlm.data import PADDING, Windows, smallest_ids

LETTERS = "abcdefghij"


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [
        (4, 1, ["abcd>e", "bcde>f", "cdef>g", "defg>h", "efgh>i", "fghi>j"]),
        (4, 2, ["abcd>e", "cdef>g", "efgh>i"]),
        (4, 3, ["abcd>e", "defg>h"]),
        (4, 5, ["abcd>e", "fghi>j"]),
        (4, 6, ["abcd>e"]),
        (9, 1, ["abcdefghi>j"]),
        (1, 4, ["a>b", "e>f", "i>j"]),
    ],
)
def test_windows_of_ten_letters(length, stride, expected):
    windows = Windows(len(LETTERS), length, stride)
    starts = np.sort(windows.epoch(seed=0, epoch=0, batch=1).ravel())
    assert [f"{LETTERS[i : i + length]}>{LETTERS[i + length]}" for i in starts] == expected
    assert len(windows) == len(expected)


@pytest.mark.parametrize(("tokens", "batch", "steps"), [(43, 5, 3), (43, 14, 1), (43, 13, 2), (43, 7, 2), (43, 99, 1)])
def test_an_epoch_has_every_window_once_and_pads_its_end(tokens, batch, steps):
    windows = Windows(tokens, length=3, stride=3)  # 14 of them.
    starts = windows.epoch(seed=1, epoch=2, batch=batch)
    assert starts.shape == (steps, batch) == (windows.steps(batch), batch)
    assert starts.dtype == np.int32
    assert sorted(starts.ravel()[:14]) == list(range(0, 40, 3))
    assert (starts.ravel()[14:] == PADDING).all()


def test_order_depends_on_seed_and_epoch_alone():
    windows = Windows(1000, length=10, stride=3)

    def order(seed, epoch, batch=32):
        return windows.epoch(seed, epoch, batch).ravel()[: len(windows)].tolist()

    assert order(0, 0) == order(0, 0) == order(0, 0, batch=50)
    assert order(0, 0) != sorted(order(0, 0))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("length", [1, 2, 60])
def test_a_corpus_holds_one_window_or_is_rejected(length):
    for tokens in {0, 1, length - 1, length} - {length + 1}:
        with pytest.raises(InputError, match=rf"only {tokens} tokens, expected at least {length + 1} .*more text"):
            Windows(tokens, length, 3)
    assert len(Windows(length + 1, length, 3)) == 1


def test_positions_fit_32_bits():
    assert len(Windows(2**31 - 1, 60, 3)) == (2**31 - 1 - 60 + 2) // 3
    with pytest.raises(InputError, match="found 2,147,483,648 tokens, expected at most 2,147,483,647"):
        Windows(2**31, 60, 3)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(1, np.uint8), (57, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_ids_take_the_smallest_type_that_holds_them(vocabulary, dtype):
    ids = smallest_ids(np.array([0, vocabulary - 1], np.int32), vocabulary)
    assert ids.dtype == dtype
    assert ids.tolist() == [0, vocabulary - 1]
