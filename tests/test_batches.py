"""Windows written out by hand, and the order in which an epoch visits them; streams that read all of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm.errors import InputError
from jaxlm.text.batches import NO_WINDOW, Streams, Windows, smallest_ids, split_text

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
    starts = np.sort(windows.starts(seed=0, epoch=0, batch=1).ravel())
    assert [f"{LETTERS[i : i + length]}>{LETTERS[i + length]}" for i in starts] == expected
    assert len(windows) == len(expected)


@pytest.mark.parametrize(("tokens", "batch", "steps"), [(43, 5, 3), (43, 14, 1), (43, 13, 2), (43, 7, 2), (43, 99, 1)])
def test_an_epoch_has_every_window_once_and_pads_its_end(tokens, batch, steps):
    windows = Windows(tokens, length=3, stride=3)  # 14 of them.
    starts = windows.starts(seed=1, epoch=2, batch=batch)
    assert starts.shape == (steps, batch) == (windows.steps(batch), batch)
    assert starts.dtype == np.int32
    assert sorted(starts.ravel()[:14]) == list(range(0, 40, 3))
    assert (starts.ravel()[14:] == NO_WINDOW).all()


def test_order_depends_on_seed_and_epoch_alone():
    windows = Windows(1000, length=10, stride=3)

    def order(seed, epoch, batch=32):
        return windows.starts(seed, epoch, batch).ravel()[: len(windows)].tolist()

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


SIZES = {"tokens": st.integers(2, 200), "length": st.integers(1, 50), "batch": st.integers(1, 9)}


@given(**SIZES, seed=st.integers(0, 2**32 - 1))
def test_the_chunks_of_an_older_stream_rebuild_the_corpus(tokens, length, batch, seed):
    streams = Streams(tokens, length, mixed=False)
    epochs = [streams.starts(seed, epoch, batch) for epoch in range(4)]
    # Step by step, and from epoch to epoch, each row continues where it was, around the circle.
    read = (np.concatenate(epochs).T[..., None] + np.arange(length)).reshape(batch, -1) % tokens
    np.testing.assert_array_equal(np.diff(read) % tokens, 1 % tokens)


def test_older_streams_start_where_they_did():
    assert Streams(1000, 10, mixed=False).starts(0, 3, 4)[:2].tolist() == [[600, 850, 100, 350], [610, 860, 110, 360]]


@given(**SIZES, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**9))
def test_a_mixed_stream_reads_on_and_once_returns_to_the_beginning_of_its_part(tokens, length, batch, seed, epoch):
    starts = Streams(tokens, length, mixed=True).starts(seed, epoch, batch)
    leaps = (np.diff(starts, axis=0) - length) % tokens
    back = -len(starts) * length % tokens
    assert set(np.unique(leaps)) <= {0, back}
    assert back == 0 or ((leaps == back).sum(0) <= 1).all()


@given(**SIZES, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**9), mixed=st.booleans())
def test_the_streams_of_an_epoch_read_every_token_and_no_step_too_many(tokens, length, batch, seed, epoch, mixed):
    streams = Streams(tokens, length, mixed)
    starts = streams.starts(seed, epoch, batch)
    assert starts.shape == (streams.steps(batch), batch)
    assert starts.dtype == np.int32
    assert starts.min() >= 0
    assert starts.max() < tokens
    assert set(((starts.ravel()[:, None] + np.arange(length)) % tokens).ravel()) == set(range(tokens))
    assert (len(starts) - 1) * batch * length < tokens


def test_mixed_streams_make_other_batches_in_each_epoch():
    streams = Streams(100_000, 10, mixed=True)
    firsts = [streams.starts(0, epoch, 4)[0] for epoch in range(20)]
    assert len({tuple(np.diff(first) % streams.tokens) for first in firsts}) == len(firsts)
    assert {first[0] % streams.length for first in firsts} == set(range(10))  # Chunks have other borders, too.


@pytest.mark.parametrize("mixed", [False, True])
def test_streams_start_elsewhere_for_another_seed(mixed):
    assert len({tuple(Streams(1000, 10, mixed).starts(seed, 0, 4)[0]) for seed in range(5)}) == 5


def test_streams_want_two_tokens_and_32_bit_positions():
    for tokens in (0, 1):
        with pytest.raises(InputError, match=f"only {tokens} tokens, expected at least 2.*use more text"):
            Streams(tokens, 5, mixed=True)
    Streams(2**31 - 1 - 60, 60, mixed=True)
    with pytest.raises(InputError, match="expected at most 2,147,483,587"):
        Streams(2**31 - 60, 60, mixed=True)


@given(st.text(), st.floats(0, 1, exclude_max=True))
def test_a_split_text_is_the_whole(text, share):
    begin, end = split_text(text, share)
    assert begin + end == text
    assert len(end) - 1 < len(text) * share <= len(end)


def test_the_splits_that_others_publish():
    # nanoGPT trains on int(0.9 * 1115394) characters of tiny Shakespeare; fastai on 493,747 of Nietzsche.
    assert len(split_text("a" * 1_115_394, 0.1)[0]) == 1_003_854
    assert len(split_text("a" * 600_893, 0.17831)[0]) == 493_747
