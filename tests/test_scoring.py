"""Scores: against NumPy's equations, Python loops over tokens, windows and segments, and their own past."""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlm
from jaxlm.config import ModelConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn import dynamic, scoring
from jaxlm.nn.model import LanguageModel
from jaxlm.text.batches import Windows
from jaxlm.text.vocab import Vocab

SIZE = 8
SEGMENT = 6
TEXT = np.random.default_rng(0).integers(SIZE, size=250)

PLAIN = LanguageModel(SIZE, ModelConfig(12, 2), impl="scan")
"""The reference."""

texts = st.lists(st.integers(0, SIZE - 1), min_size=2, max_size=150)


@pytest.fixture(scope="module", params=["scan", "fused"])
def model(request):
    return LanguageModel(SIZE, ModelConfig(12, 2), impl=request.param)


@pytest.fixture(scope="module")
def params():
    """Weights large enough that the distant past still matters."""
    return jax.tree.map(lambda leaf: 2 * leaf, jax.jit(PLAIN.init_params)(jax.random.key(0)))


@pytest.fixture(scope="module")
def squares(params):
    return dynamic.mean_squares(PLAIN, params, TEXT, segment=SEGMENT)


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """Texts of a few chunks, without being long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "CARRIED_TOKENS", 32)
        patch.setattr(scoring, "_rows_per_call", lambda length: 4)
        patch.setattr(dynamic, "SEGMENTS", 3)
        yield


def exact(params, ids):
    """The log-probabilities of all tokens but the first, from a zero state, in float64."""
    logits = reference.logits(params, np.array(ids[:-1])[None], SIZE)[0]
    return reference.log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]]


def assert_close(scores, expected):
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


@settings(deadline=None)
@given(ids=texts)
def test_carried_scores_are_the_equations(model, params, ids):
    assert_close(scoring.score_carried(model, params, np.array(ids)), exact(params, ids))


def test_carried_scores_are_a_python_loop_over_tokens(model, params):
    read = jax.jit(lambda token, carry: PLAIN.apply({"params": params}, token, carry))
    carry, expected = PLAIN.initial_carry(1), []
    for token, target in itertools.pairwise(TEXT):
        logits, carry = read(np.array([[token]]), carry)
        expected.append(jax.nn.log_softmax(logits[0, 0])[target])
    assert_close(scoring.score_carried(model, params, TEXT), expected)


@pytest.mark.parametrize("chunk", [1, 7, 249, 250, 1024])
def test_the_size_of_a_chunk_does_not_matter(model, params, chunk, monkeypatch):
    expected = scoring.score_carried(model, params, TEXT)
    monkeypatch.setattr(scoring, "CARRIED_TOKENS", chunk)
    assert_close(scoring.score_carried(model, params, TEXT), expected)


@pytest.mark.parametrize("cut", [1, 100, 248])
def test_a_text_in_two_parts_is_the_whole_once_the_state_is_carried(model, params, cut):
    first, second = TEXT[None, : cut + 1], TEXT[None, cut:]
    before, carry = scoring.score_rows(model, params, model.initial_carry(1), first, cut)
    after, _ = scoring.score_rows(model, params, carry, second, len(TEXT) - 1 - cut)
    assert_close(np.concatenate([before[0], after[0]]), scoring.score_carried(model, params, TEXT))


@settings(deadline=None)
@given(ids=texts)
def test_cold_scores_are_windows_from_a_zero_state(model, params, ids):
    expected = [exact(params, ids[start : start + 17]) for start in range(0, len(ids) - 1, 16)]
    assert_close(scoring.score_cold(model, params, np.array(ids), 16), np.concatenate(expected))


@settings(deadline=None)
@given(ids=texts.filter(lambda ids: len(ids) > 5))
def test_window_scores_are_of_the_token_after_each_window(model, params, ids):
    expected = [exact(params, ids[start : start + 6])[-1] for start in range(0, len(ids) - 5, 3)]
    scores = scoring.score_windows(model, params, np.array(ids), 5, 3)
    assert_close(scores, expected)
    assert len(scores) == len(Windows(len(ids), 5, 3))


def test_the_protocols_by_name(model, params):
    ids = np.random.default_rng(1).integers(SIZE, size=600)
    cold = np.concatenate([exact(params, ids[start : start + 257]) for start in (0, 256, 512)])
    windows = [exact(params, ids[start : start + 61])[-1] for start in range(0, 540, 3)]
    for name, expected in {"carried": exact(params, ids), "cold-256": cold, "window-60": windows}.items():
        assert_close(scoring.PROTOCOLS[name](model, params, ids), expected)


def naive_loss(params, carry, ids):
    """The mean loss of a segment, and (its scores, the carry after it)."""
    logits, after = PLAIN.apply({"params": params}, ids[None, :-1], carry)
    scores = jax.nn.log_softmax(logits[0])[jnp.arange(len(ids) - 1), ids[1:]]
    return -scores.mean(), (scores, after)


naive_gradient = jax.jit(jax.grad(naive_loss, has_aux=True))


def naive_segments(ids):
    return [jnp.array(ids[start : start + SEGMENT + 1]) for start in range(0, len(ids) - 1, SEGMENT)]


@pytest.mark.parametrize("count", [7, 50])
def test_mean_squares_are_a_python_loop_over_segments(model, params, count):
    carry, total = PLAIN.initial_carry(1), jax.tree.map(jnp.zeros_like, params)
    segments = naive_segments(TEXT[:count])
    for segment in segments:
        grads, (_, carry) = naive_gradient(params, carry, segment)
        total = jax.tree.map(lambda squares, grad: squares + grad**2 / len(segments), total, grads)
    found = dynamic.mean_squares(model, params, TEXT[:count], segment=SEGMENT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-9), found, total)


@pytest.mark.parametrize(("learning_rate", "decay"), [(1e-2, 0.0), (1e-2, 0.3), (3e-3, 5.0)])
def test_dynamic_scores_are_a_python_loop_over_segments(model, params, squares, learning_rate, decay):
    rms = jax.tree.map(lambda leaf: np.sqrt(np.asarray(leaf, np.float64)), squares)
    leaves = jax.tree.leaves(rms)
    mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)

    def move(w, w0, g, rms):
        toward = np.minimum(1, decay * rms / mean) * (w0 - w)
        return jnp.float32(w - learning_rate * np.asarray(g) / (rms + 1e-5) + toward)

    ids, now, carry, expected = TEXT[:100], params, PLAIN.initial_carry(1), []
    for segment in naive_segments(ids):
        grads, (scores, carry) = naive_gradient(now, carry, segment)
        expected.extend(scores)
        now = jax.tree.map(move, now, params, grads, rms)
    options = {"learning_rate": learning_rate, "decay": decay, "segment": SEGMENT}
    found = dynamic.score_dynamic(model, params, squares, ids, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(found - scoring.score_carried(model, params, ids)).max() > 0.03  # The weights did move.


@settings(deadline=None, max_examples=50)
@given(future=texts, at=st.integers(1, 150))
def test_the_future_never_changes_an_earlier_dynamic_score(model, params, squares, future, at):
    options = {"learning_rate": 1e-2, "segment": SEGMENT}
    before = dynamic.score_dynamic(model, params, squares, TEXT[:160], **options)
    after = dynamic.score_dynamic(model, params, squares, np.array([*TEXT[:at], *future]), **options)
    # Score i is of token i + 1; the first token that may differ is `at`.
    np.testing.assert_array_equal(after[: at - 1], before[: at - 1])


def test_without_steps_dynamic_evaluation_is_static(model, params, squares):
    scores = dynamic.score_dynamic(model, params, squares, TEXT, learning_rate=0.0)
    assert_close(scores, scoring.score_carried(model, params, TEXT))


def test_dynamic_evaluation_learns_what_comes_again_and_leaves_the_model_as_it_was(model, params, squares):
    kept = jax.tree.map(np.array, params)
    again = np.tile(TEXT[:10], 30)
    static = scoring.score_carried(model, params, again)
    adapted = dynamic.score_dynamic(model, params, squares, again, segment=SEGMENT)
    assert adapted[-100:].mean() > static[-100:].mean() + 0.3
    assert_close(adapted[:SEGMENT], static[:SEGMENT])
    jax.tree.map(np.testing.assert_array_equal, params, kept)


def test_parameters_without_gradients_stay_where_they_are(model, params):
    none = jax.tree.map(jnp.zeros_like, params)
    assert np.isfinite(dynamic.score_dynamic(model, params, none, TEXT, segment=SEGMENT)).all()


def test_texts_of_other_lengths_compile_nothing_new(params, squares, caplog):
    model = LanguageModel(SIZE, ModelConfig(12, 2), impl="fused")

    def compilations(ids):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            for protocol in scoring.PROTOCOLS.values():
                protocol(model, params, ids)
            dynamic.score_dynamic(model, params, squares, ids, segment=SEGMENT)
            dynamic.mean_squares(model, params, ids, segment=SEGMENT)
        return sum("Compiling jit" in record.getMessage() for record in caplog.records)

    jax.clear_caches()
    assert compilations(np.resize(TEXT, 70)) > 0
    assert compilations(np.resize(TEXT, 611)) == 0


@pytest.mark.parametrize(
    ("score", "count", "least"),
    [
        (scoring.score_carried, 1, 2),
        (scoring.score_carried, 0, 2),
        (scoring.score_cold, 1, 2),
        (scoring.score_windows, 60, 61),
        (dynamic.mean_squares, 1, 2),
    ],
)
def test_too_short_a_text_is_refused(model, params, score, count, least):
    with pytest.raises(InputError, match=f"text: found only {count} of .*, expected {least} or more"):
        score(model, params, TEXT[:count])


def test_ids_of_the_smallest_type_are_scored_too(model, params):
    small = TEXT.astype(np.uint8)
    for protocol in scoring.PROTOCOLS.values():
        np.testing.assert_array_equal(protocol(model, params, small), protocol(model, params, TEXT))


def generator(vocab, lowercase=False):
    model = LanguageModel(len(vocab), ModelConfig(5))
    params = jax.jit(model.init_params)(jax.random.key(1))
    return TextGenerator(model, params, vocab, lowercase, "abc", 10, "window")


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
def test_a_generator_scores_each_token_after_the_first(kind):
    text = "über den Wolken, über den Bergen"
    vocab = Vocab.build(kind, text, words=3)
    writer = generator(vocab)
    ids = vocab.encode(text)
    scores = writer.score(text)
    np.testing.assert_array_equal(scores, scoring.score_carried(writer.model, writer.params, ids))
    assert len(scores) == len(ids) - 1
    assert {"char": len(text) - 1, "byte": len(text.encode()) - 1}.get(kind, len(scores)) == len(scores)


def test_a_generator_reads_a_text_to_score_like_a_prompt():
    vocab = Vocab("char", tuple("abcdefgh"))
    np.testing.assert_array_equal(generator(vocab, lowercase=True).score("ABBA"), generator(vocab).score("abba"))
    np.testing.assert_array_equal(generator(vocab).score("a§b", unknown="skip"), generator(vocab).score("ab"))
    with pytest.raises(InputError, match=r"text: found characters that the model has never seen: '§' \(U\+00A7\)"):
        generator(vocab).score("a§b")
    for text, unknown in (("", "error"), ("a", "error"), ("a§", "skip")):
        with pytest.raises(InputError, match=r"text: found only [01] of the model's tokens in it, expected 2 or more"):
            generator(vocab).score(text, unknown=unknown)
    with pytest.raises(InputError, match="unknown: found 'drop'"):
        generator(vocab).score("ab", unknown="drop")
    with pytest.raises(InputError, match="text: found 3, expected text"):
        generator(vocab).score(3)


def test_a_trained_model_prefers_its_own_text(trained):
    model = jaxlm.load(trained)
    assert model.score("the quick brown fox ").mean() > model.score("xof nworb kciuq eht ").mean() + 0.1
