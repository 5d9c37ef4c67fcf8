"""The n-grams of a text that is being read, against counting all of it again after each token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.text import growing
from jaxlm.text.growing import GrowingNGram
from jaxlm.text.ngram import NGram

V = 3
TOKENS = st.integers(0, V - 1)
TEXTS = st.lists(TOKENS, max_size=40) | st.lists(TOKENS, min_size=1, max_size=3).map(lambda period: (period * 30)[:30])


def counted_again(known, text, order, vocabulary):
    """What follows each token of a text, by the n-grams of all before."""
    found = []
    for end in range(1, len(text) + 1):
        ngram = NGram.count(np.concatenate([known, text[:end]]), vocabulary, order)
        found.append(ngram.after(ngram.states(text[:end])[-1:]))
    return np.concatenate([one.rows() for one in found]), np.concatenate([one.totals for one in found])


@settings(deadline=None)
@given(
    known=TEXTS,
    text=TEXTS.filter(len),
    vocabulary=st.sampled_from([V, 300]),
    order=st.integers(0, 5),
    at=st.integers(0, 40),
    recount=st.sampled_from([1, 7, 50]),
)
def test_each_token_counts_at_once(known, text, vocabulary, order, at, recount):
    known, text = np.array(known, np.uint16), np.array(text, np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "RECOUNT_TOKENS", recount)
        reading = GrowingNGram(NGram.count(known, vocabulary, order), known)
        parts = [reading.read(text[:at]), reading.read(text[at:])]
    rows, totals = (np.concatenate(both) for both in zip(*parts, strict=True))
    expected_rows, expected_totals = counted_again(known, text, order, vocabulary)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(totals, expected_totals)


def test_the_n_grams_it_began_with_stay_as_they_are():
    text = np.array([0, 1, 2, 0, 1, 1, 0, 2] * 4)
    ngram = NGram.count(text, V, 3)
    before = ngram.after(ngram.states(text)).rows()
    first, again = (GrowingNGram(ngram, text).read(text)[0] for _ in range(2))
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(ngram.after(ngram.states(text)).rows(), before)
    assert np.abs(first - before[1:]).max() > 0.05
