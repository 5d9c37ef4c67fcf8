"""Kneser-Ney n-grams against their formulas in plain dictionaries, and each position left out against a recount."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import KneserNey

from jaxlm.errors import InputError
from jaxlm.text import ngram as module
from jaxlm.text.batches import smallest_ids, split_text
from jaxlm.text.ngram import ROOT, NGram
from jaxlm.text.vocab import Vocab

SENTENCE = "the cat that sat on the mat that the cat had, the hat"

TEXTS = {
    "one character": "a" * 12,
    "two characters": "abbabaabbaababbabaababba",
    "all distinct": "abcdefghijkl",
    "periodic": "abcabcabcabcabcab",
    "almost periodic": "abcabcabxabcabcabca",
    "a sentence": SENTENCE,
    "a sentence twice": SENTENCE + SENTENCE,
    "no text": "",
    "one token": "a",
    "two tokens": "ab",
    "one token twice": "aa",
}


def encode(text):
    """A text's ids, and the number of tokens; "!" is in no text, but in every vocabulary."""
    tokens = sorted({*text, "!"})
    return np.array([tokens.index(token) for token in text], np.uint8), len(tokens)


def contexts_before(text, position, order):
    """The contexts of a position, from none to `order` tokens, but not before the text's beginning."""
    return [tuple(text[position - k : position]) for k in range(min(order, position) + 1)]


@pytest.fixture(params=[0, 1, 2, 4, 7], ids="order {}".format)
def order(request):
    return request.param


@pytest.fixture(params=TEXTS, ids=str)
def text(request):
    return encode(TEXTS[request.param])


def test_every_distribution_is_that_of_the_formulas(text, order):
    ids, vocabulary = text
    ngram, reference = NGram.count(ids, vocabulary, order), KneserNey(ids.tolist(), vocabulary, order)
    rng = np.random.default_rng(0)
    for read in (ids, ids[::-1], rng.integers(vocabulary, size=60)):  # The last two also have unknown contexts.
        rows = ngram.after(ngram.states(read)).rows()
        expected = [reference.row(read[:end].tolist()) for end in range(len(read) + 1)]
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=0)


def test_a_position_left_out_is_a_recount_without_it(text, order):
    ids, vocabulary = text
    discounts = KneserNey(ids.tolist(), vocabulary, order).discounts
    ngram = NGram.count(ids, vocabulary, order)
    positions = np.arange(len(ids))
    left_out = ngram.left_out(positions)
    rows = left_out.rows()
    assert rows.shape == (len(ids), vocabulary)
    assert left_out.totals.shape == (len(ids), order + 1)
    for position in positions:
        reference = KneserNey(ids.tolist(), vocabulary, order, position, discounts)
        np.testing.assert_allclose(rows[position], reference.row(ids[:position].tolist()), rtol=1e-5, atol=0)
        totals = [reference.total(context) for context in contexts_before(ids.tolist(), position, order)]
        assert left_out.totals[position].tolist() == totals + [0] * (order + 1 - len(totals))


def test_the_probability_of_one_token_is_the_one_in_its_row(text, order):
    ids, vocabulary = text
    ngram = NGram.count(ids, vocabulary, order)
    positions = np.arange(len(ids))
    for predictions in (ngram.left_out(positions), ngram.after(ngram.states(ids)[:-1])):
        rows = predictions.rows()
        for token in range(vocabulary):
            np.testing.assert_allclose(predictions.probabilities(np.full(len(ids), token)), rows[:, token], rtol=1e-6)
    expected = np.log(rows[positions, ids])
    np.testing.assert_allclose(ngram.log_probabilities(ids), expected, rtol=1e-5, atol=1e-6)


@given(st.text("abc", max_size=40), st.integers(0, 5), st.data())
def test_any_text_has_proper_distributions_and_exact_recounts(text, order, data):
    ids, vocabulary = encode(text)
    ngram = NGram.count(ids, vocabulary, order)
    whole = KneserNey(ids.tolist(), vocabulary, order)
    left_out = ngram.left_out(np.arange(len(ids))).rows()
    for rows in (left_out, ngram.after(np.arange(len(ngram.totals))).rows()):
        assert (rows > 0).all()
        np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-6)
    if text:
        position = data.draw(st.integers(0, len(text) - 1))
        reference = KneserNey(ids.tolist(), vocabulary, order, position, whole.discounts)
        np.testing.assert_allclose(left_out[position], reference.row(ids[:position].tolist()), rtol=1e-5, atol=0)


def test_windows_see_nothing_before_their_beginning():
    ids, vocabulary = encode(SENTENCE)
    ngram = NGram.count(ids, vocabulary, 4)
    windows = np.stack([ids[start : start + 9] for start in range(0, 40, 5)]).reshape(2, 4, 9)
    states = ngram.states(windows)
    assert states.shape == (2, 4, 10)
    assert (states[..., 0] == ROOT).all()
    for index in np.ndindex(2, 4):
        np.testing.assert_array_equal(states[index], ngram.states(windows[index]))
    # After K tokens it no longer matters where a window began; before that it does.
    whole = np.stack([ngram.states(ids)[start : start + 10] for start in range(0, 40, 5)]).reshape(2, 4, 10)
    np.testing.assert_array_equal(states[..., 4:], whole[..., 4:])
    assert (states[..., 1:4] != whole[..., 1:4]).any((0, 1)).all()
    assert ngram.log_probabilities(windows).shape == windows.shape
    np.testing.assert_allclose(ngram.log_probabilities(windows)[1, 2], ngram.log_probabilities(windows[1, 2]))


def spell(ngram, node):
    """The tokens of a node, from the arrays that list continuations."""
    string = []
    while node != ROOT:
        string.append(int(ngram.tokens[node]))
        node = int(np.searchsorted(ngram.children, node, "right")) - 1
    return tuple(reversed(string))


def test_nodes_are_the_text_s_strings_in_order(text, order):
    ids, vocabulary = text
    ngram = NGram.count(ids, vocabulary, order)
    strings = {tuple(ids[i : i + n].tolist()) for n in range(order + 2) for i in range(len(ids) - n + 1)}
    assert [spell(ngram, node) for node in range(ngram.levels[-1])] == sorted(strings, key=lambda s: (len(s), s))
    for length, (first, end) in enumerate(itertools.pairwise(ngram.levels)):
        assert {len(spell(ngram, node)) for node in range(first, end)} <= {length}
    for node in range(1, ngram.levels[-1]):
        assert spell(ngram, ngram.shorter[node]) == spell(ngram, node)[1:]
    assert len(ngram.widest) == order + 1
    for length, widest in enumerate(ngram.widest):
        followers = collections.Counter(string[:-1] for string in strings if len(string) == length + 1)
        assert widest == max(followers.values(), default=0)


def test_states_are_the_longest_known_contexts(order):
    ids, vocabulary = encode(SENTENCE)
    ngram = NGram.count(ids, vocabulary, order)
    read = np.random.default_rng(3).integers(vocabulary, size=300)
    read[100:200] = np.tile(ids, 2)[:100]
    known = {spell(ngram, node) for node in range(ngram.levels[-2])}
    for end, state in enumerate(ngram.states(read)):
        longest = next(s for k in range(order, -1, -1) if (s := tuple(read[max(end - k, 0) : end].tolist())) in known)
        assert spell(ngram, state) == longest


def look_up(ngram, state):
    """A row by the recipe that `NGram` documents for compiled programs."""
    row, weight, u, steps = np.zeros(ngram.vocabulary), 1.0, state, 0
    while u >= len(ngram.whole):
        length = int(np.searchsorted(ngram.levels, u, "right")) - 1
        assert ngram.children[u + 1] - ngram.children[u] <= ngram.widest[length]
        for w in range(ngram.children[u], ngram.children[u + 1]):
            row[ngram.tokens[w]] += weight * ngram.probabilities[w]
        weight *= ngram.backoffs[u]
        u = ngram.shorter[u]
        steps += 1
    assert steps <= ngram.order - ngram.whole_order
    return row + weight * ngram.whole[u]


def advance(ngram, state, token):
    """The next state by that recipe."""
    while True:
        first, end = ngram.children[state], ngram.children[state + 1]
        child = first + np.searchsorted(ngram.tokens[first:end], token)
        if child < end and ngram.tokens[child] == token:
            return child if child < len(ngram.totals) else ngram.shorter[child]
        if state == ROOT:
            return ROOT
        state = ngram.shorter[state]


def test_a_compiled_program_finds_the_same_in_the_arrays(text, order):
    ids, vocabulary = text
    ngram = NGram.count(ids, vocabulary, order)
    read = np.concatenate([ids, np.random.default_rng(1).integers(vocabulary, size=50)])
    states = ngram.states(read)
    rows = ngram.after(states).rows()
    state = ROOT
    for position, token in enumerate(read):
        assert state == states[position]
        np.testing.assert_allclose(look_up(ngram, state), rows[position], rtol=1e-5)
        state = advance(ngram, state, token)
    assert state == states[-1]


def test_whole_distributions_take_no_more_room_than_the_text():
    ids = np.random.default_rng(0).integers(30, size=20_000).astype(np.uint8)
    ngram = NGram.count(ids, 30, 4)
    assert 0 < ngram.whole_order < 4
    assert ngram.whole.shape == (ngram.levels[ngram.whole_order + 1], 30)
    assert ngram.whole.size <= module.WHOLE_SHARE * len(ids) < ngram.levels[ngram.whole_order + 2] * 30
    np.testing.assert_array_equal(ngram.after(np.arange(len(ngram.whole))).rows(), ngram.whole)


def test_the_largest_vocabulary_overflows_no_key():
    ids, vocabulary = encode(SENTENCE)
    spread = np.linspace(0, 64_999, vocabulary).astype(np.uint16)
    small, large = NGram.count(ids, vocabulary, 8), NGram.count(spread[ids], 65_000, 8)
    for name in ("levels", "children", "shorter", "counts", "totals", "probabilities", "backoffs", "longest"):
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name))
    assert large.tokens.dtype == np.uint16
    np.testing.assert_array_equal(large.tokens[1:], spread[small.tokens[1:]])
    reference = KneserNey(spread[ids].tolist(), 65_000, 8)
    rows = large.after(large.states(spread[ids[:12]])[::3]).rows()
    for row, end in zip(rows, range(0, 13, 3), strict=True):
        np.testing.assert_allclose(row, reference.row(spread[ids[:end]].tolist()), rtol=1e-5, atol=0)
    np.testing.assert_array_equal(small.states(ids[::-1]), large.states(spread[ids[::-1]]))


def test_discounts_are_chen_s_and_goodman_s():
    # n1 = 4, n2 = 3, n3 = 2, n4 = 1: Y = 4 / 10.
    counts = np.array([1] * 4 + [2] * 3 + [3] * 2 + [4] + [5] * 3)
    expected = [0, 1 - 2 * 0.4 * 3 / 4, 2 - 3 * 0.4 * 2 / 3, 3 - 4 * 0.4 * 1 / 2]
    np.testing.assert_allclose(module.discounts_of(module.count_sizes(counts)), expected)


@pytest.mark.parametrize("counts", [[], [1, 1, 1], [2, 2], [7], [1] + [2] * 3 + [3] * 90 + [4]])
def test_discounts_stay_below_their_counts_where_the_formula_fails(counts):
    discounts = module.discounts_of(module.count_sizes(np.array(counts, np.int32)))
    assert discounts[0] == 0
    assert (discounts[1:] > 0).all()
    assert (discounts[1:] < [1, 2, 3]).all()


def test_long_texts_are_judged_in_blocks(monkeypatch):
    ids, vocabulary = encode(SENTENCE)
    ngram = NGram.count(ids, vocabulary, 5)
    expected = ngram.log_probabilities(ids)
    monkeypatch.setattr(module, "BLOCK_POSITIONS", 7)
    np.testing.assert_array_equal(ngram.log_probabilities(ids), expected)


@pytest.mark.parametrize("ids", [[0, 5], [-1, 0]])
def test_ids_outside_the_vocabulary_are_rejected(ids):
    with pytest.raises(InputError, match=r"expected ids from 0 to 4$"):
        NGram.count(np.array(ids), 5, 2)
    with pytest.raises(InputError, match=r"expected ids from 0 to 4$"):
        NGram.count(np.arange(5), 5, 2).states(np.array(ids))


@pytest.mark.parametrize("order", [-1, 101, 1.5])
def test_orders_are_checked(order):
    with pytest.raises(InputError, match=r"order: found .*, expected a whole number from 0 to 100"):
        NGram.count(np.arange(5), 5, order)


def test_more_text_than_32_bits_can_number_is_rejected():
    text = np.broadcast_to(np.uint8(0), 2**31 // 8)  # Takes no memory.
    with pytest.raises(InputError, match=r"268,435,456 tokens, expected at most 268,435,455 for n-grams of order 7"):
        NGram.count(text, 1, 7)


def test_the_least_probability_has_a_logarithm():
    # The token 0 continues in ever more ways, the shorter its context is, so that each order leaves the next little.
    before = np.arange(3, 2003)
    text = np.concatenate([np.stack([before, *[before * 0] * k, before * 0 + 1], 1).ravel() for k in range(16)])
    ngram = NGram.count(text.astype(np.uint16), 2003, 14)
    predictions = ngram.after(ngram.states(np.zeros(14, np.uint16))[-1])
    assert predictions.rows().min() == predictions.probabilities(np.uint16(2)) == np.finfo(np.float32).tiny
    assert predictions.rows().sum() == pytest.approx(1, rel=1e-6)


def judged(text, last, order):
    """Nats per character of the last part of a text's training part, after counting what is before it."""
    vocab = Vocab.build("char", text)
    ids = smallest_ids(vocab.encode(split_text(text, 0.1)[0]), len(vocab))
    border = len(ids) - last
    ngram = NGram.count(ids[:border], len(vocab), order)
    return -ngram.log_probabilities(ids[border - order :])[order:].mean()


@pytest.mark.parametrize(("order", "loss"), [(4, 1.4315), (6, 1.3825), (7, 1.3884)])
def test_nietzsche_is_predicted_as_well_as_ever(shared_corpora, order, loss):
    text = (shared_corpora / "nietzsche.txt").read_text(encoding="utf-8").lower()
    assert judged(text, 54_081, order) == pytest.approx(loss, abs=1e-4)


def test_shakespeare_is_predicted_as_well_as_ever(shared_corpora):
    text = (shared_corpora / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert judged(text, 100_000, 6) == pytest.approx(1.4910, abs=1e-4)
