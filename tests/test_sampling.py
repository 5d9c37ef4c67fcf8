"""Sampling: against the softmax, a toy model that is known to the letter, and Python loops over the model."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import generator as generator_room
from jaxlm.config import ModelConfig, SampleConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn import lstm
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.sampling import CHUNK, SAMPLING_TAG, Draw, next_token, pick_token, reweight
from jaxlm.text.vocab import Vocab

LETTERS = "abcdefgh"
WINDOW = 7


def generator(model, params, *, vocab=None, lowercase=False, seed_text="abc", mode="window"):
    return TextGenerator(model, params, vocab or Vocab("char", tuple(LETTERS)), lowercase, seed_text, WINDOW, mode)


@pytest.fixture(scope="module")
def successor():
    """A model that is all but certain of the next letter of the alphabet, and of `a` after the last."""
    size = len(LETTERS)
    zeros, one_hot = jnp.zeros((size, size)), jnp.eye(size)
    layer = {}
    for gate, bias in zip(lstm.GATES, (9.0, -9.0, 0.0, 9.0), strict=True):  # Write always, forget always.
        layer["i" + gate] = {"kernel": 9 * one_hot if gate == "g" else zeros}
        layer["h" + gate] = {"kernel": zeros, "bias": jnp.full(size, bias)}
    dense = {"kernel": 30 * jnp.roll(one_hot, 1, 1), "bias": jnp.zeros(size)}
    return LanguageModel(size, ModelConfig(size)), {"lstm_0": layer, "dense": dense}


@pytest.fixture(scope="module", params=["scan", "fused"])
def random_model(request):
    """Weights large enough that tokens before the window still matter."""
    model = LanguageModel(len(LETTERS), ModelConfig(12, 2), impl=request.param)
    params = jax.jit(model.init_params)(jax.random.key(0))
    return model, jax.tree.map(lambda leaf: 2 * leaf, params)


@pytest.mark.parametrize("mode", ["window", "state"])
@pytest.mark.parametrize("temperature", [0, 0.5, 1])
def test_the_toy_model_recites_the_alphabet(successor, mode, temperature):
    text = generator(*successor).generate("cde", 2 * CHUNK + 3, temperature=temperature, seed=3, mode=mode)
    assert text == "cde" + (LETTERS * 40)[5 : 5 + 2 * CHUNK + 3]


def python_loop(model, params, tokens, length, temperature, seed, window=None):
    """Re-reads the tokens, or the last `window` of them, from a zero carry for each new one."""
    tokens, key = list(tokens), jax.random.fold_in(jax.random.key(seed), SAMPLING_TAG)
    read = jax.jit(lambda tokens: model.apply({"params": params}, tokens, model.initial_carry(1))[0])
    for i in range(length):
        seen = tokens if window is None else tokens[-window:]
        # One shape to compile; the recurrence is causal, so what follows does not matter.
        logits = read(np.resize(seen, 64)[None])[0, len(seen) - 1]
        scaled = jax.nn.log_softmax(logits) / temperature
        tokens.append(int(jax.random.categorical(jax.random.fold_in(key, i), scaled)))
    return tokens


@pytest.mark.parametrize("prompt", ["a", "abcde", "hgfedcbahgfedcba"])
@pytest.mark.parametrize("mode", ["window", "state"])
def test_generation_is_a_python_loop_over_the_model(random_model, mode, prompt):
    vocab = Vocab("char", tuple(LETTERS))
    text = generator(*random_model).generate(prompt, 40, temperature=0.8, seed=5, mode=mode)
    window = WINDOW if mode == "window" else None
    assert text == vocab.decode(python_loop(*random_model, vocab.encode(prompt), 40, 0.8, 5, window))


def test_the_modes_differ_once_the_window_is_full(random_model):
    writer = generator(*random_model)
    texts = {mode: writer.generate("abc", 60, temperature=0.8, seed=5, mode=mode) for mode in ("window", "state")}
    assert texts["window"][: WINDOW + 1] == texts["state"][: WINDOW + 1]
    assert texts["window"] != texts["state"]
    assert generator(*random_model, mode="state").generate("abc", 60, temperature=0.8, seed=5) == texts["state"]


def test_a_long_prompt_is_read_in_chunks_to_the_same_carry(random_model):
    prompt = "".join(np.random.default_rng(0).choice(list(LETTERS), 2 * CHUNK + 5))
    writer = generator(*random_model)
    whole = writer.generate(prompt, 30, temperature=0, mode="state")
    model, params = random_model
    tokens, carry = writer.vocab.encode(prompt), model.initial_carry(1)
    read = jax.jit(lambda tokens, carry: model.apply({"params": params}, tokens, carry))
    logits, carry = read(tokens[None], carry)
    expected = []
    for _ in range(30):
        expected.append(int(logits[0, -1].argmax()))
        logits, carry = read(np.array([[expected[-1]]]), carry)
    assert whole == prompt + writer.vocab.decode(expected)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 1.2, 5.0])
def test_frequencies_are_the_softmax_of_logits_over_temperature(temperature):
    logits, draws = jnp.array([1.0, 0.3, -0.5, -2.0, 0.9]), 40_000
    keys = jax.random.split(jax.random.key(1), draws)
    tokens = jax.vmap(lambda key: next_token(key, logits, Draw(jnp.float32(temperature))))(keys)
    expected = np.asarray(jax.nn.softmax(logits.astype(jnp.float32) / temperature))
    found = np.bincount(tokens, minlength=5) / draws
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / draws)).all()
    np.testing.assert_allclose(reweight(jax.nn.softmax(logits), temperature), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1e-6, 0.2, 1.0, 5.0])
def test_noise_drawn_ahead_gives_the_reference_s_draws(temperature):
    keys = jax.random.split(jax.random.key(4), 2000)
    logits = jax.random.normal(jax.random.key(5), (2000, 57)) * 3
    draw = Draw(jnp.float32(temperature))
    expected = next_token(keys, logits, draw)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (57,)))(keys)
    np.testing.assert_array_equal(pick_token(noise, logits, draw), expected)
    assert len(set(expected.tolist())) > 10


@pytest.mark.parametrize("mode", ["window", "state"])
def test_texts_written_together_are_those_written_alone(random_model, mode):
    writer = generator(*random_model)
    options = {"temperature": 0.9, "mode": mode}
    together = writer.generate_batch(5, "abcab", 2 * CHUNK + 9, seed=2**32 - 2, **options)
    assert len(set(together)) == 5
    for text, seed in zip(together, [2**32 - 2, 2**32 - 1, 0, 1, 2], strict=True):
        assert text == writer.generate("abcab", 2 * CHUNK + 9, seed=seed, **options)


def test_more_texts_than_fit_are_written_in_groups(random_model, monkeypatch):
    writer = generator(*random_model)
    together = writer.generate_batch(5, "abc", 150, temperature=0.9, seed=1)
    monkeypatch.setattr(generator_room, "DRAWS", 2 * CHUNK * len(LETTERS))
    assert writer.generate_batch(5, "abc", 150, temperature=0.9, seed=1) == together


def test_streams_are_every_temperature_s_texts_in_any_order_of_reading(random_model):
    writer = generator(*random_model)
    config = SampleConfig("abc", 200, (0.5, 1.0), 2, 7)
    texts = writer.texts(config)
    expected = [writer.generate("abc", 200, temperature=t, seed=s) for t in (0.5, 1.0) for s in (7, 8)]
    assert [(text.temperature, text.seed) for text in texts] == [(0.5, 7), (0.5, 8), (1.0, 7), (1.0, 8)]
    assert ["".join(text.pieces) for text in reversed(texts)] == expected[::-1]


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-40, 1.2e-38, 1e-38, 1e-30, 1e-6])
def test_tiny_temperatures_are_greedy(temperature):
    # Two logits as close as float32 has them, and one that a careless division turns into -inf or nan.
    logits = jnp.array([0.0, np.nextafter(np.float32(50), np.float32(0)), 50.0, -1e30])
    keys = jax.random.split(jax.random.key(2), 200)
    tokens = jax.vmap(lambda key: next_token(key, logits, Draw(jnp.float32(temperature))))(keys)
    if temperature < 1e-6:
        assert set(tokens.tolist()) == {2}
    assert set(tokens.tolist()) <= {1, 2}


def test_greedy_ties_go_to_the_first_and_drawn_ties_are_shared():
    logits, keys = jnp.zeros(4), jax.random.split(jax.random.key(3), 400)
    drawn = jax.vmap(lambda key: next_token(key, logits, Draw(jnp.float32(1e-3))))(keys)
    greedy = jax.vmap(lambda key: next_token(key, logits, Draw(jnp.float32(0))))(keys)
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    assert set(greedy.tolist()) == {0}


def test_greedy_is_the_same_whatever_the_seed_and_the_tiny_temperature(random_model):
    writer = generator(*random_model)
    greedy = writer.generate(length=60, temperature=0, seed=1)
    assert writer.generate(length=60, temperature=1e-30, seed=2) == greedy
    assert writer.generate(length=60, temperature=0, seed=3) == greedy
    assert writer.generate(length=60, temperature=1, seed=1) != greedy


def test_a_seed_repeats_a_text_and_no_seed_never_does(random_model):
    writer = generator(*random_model)
    assert writer.generate(length=80, temperature=1, seed=1) == writer.generate(length=80, temperature=1, seed=1)
    assert writer.generate(length=80, temperature=1, seed=1) != writer.generate(length=80, temperature=1, seed=2)
    assert writer.generate(length=80, temperature=1) != writer.generate(length=80, temperature=1)


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_shorter_text_is_the_beginning_of_a_longer_one(random_model, length):
    writer = generator(*random_model)
    longest = writer.generate("abc", 2 * CHUNK, temperature=1, seed=4, mode="state")
    assert writer.generate("abc", length, temperature=1, seed=4, mode="state") == longest[: 3 + length]


def test_a_stream_begins_with_the_prompt_and_adds_up_to_the_text(random_model):
    writer = generator(*random_model)
    pieces = list(writer.pieces("abc", 300, temperature=1, seed=4))
    assert pieces[0] == "abc"
    assert len(pieces) == 4
    assert "".join(pieces) == writer.generate("abc", 300, temperature=1, seed=4)


def test_other_lengths_temperatures_and_prompts_compile_nothing_new(random_model, caplog):
    writer = generator(*random_model)

    def compilations(prompt, length, **options):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            writer.generate(prompt, length, **options)
        return sum("Compiling jit" in record.getMessage() for record in caplog.records)

    jax.clear_caches()
    for mode in ("window", "state"):
        assert compilations("abc", 10, temperature=1, mode=mode) > 0
        assert compilations("abcdefghabcdefgh", 300, temperature=0.3, seed=9, mode=mode) == 0
        assert compilations("h", 5, temperature=0, mode=mode) == 0


def test_prompts_are_lowercased_where_the_corpus_was(successor):
    assert generator(*successor, lowercase=True).generate("ABC", 3, temperature=0) == "abcdef"
    assert generator(*successor, seed_text="de").generate(length=3, temperature=0) == "defgh"
    with pytest.raises(ValueError, match="'A'"):
        generator(*successor).generate("ABC", 3)


def test_unknown_characters_are_named_or_skipped(successor):
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\), '🦊' \(U\+1F98A\)"):
        generator(*successor).generate("aé🦊b", 3)
    assert generator(*successor).generate("aé🦊b", 2, temperature=0, unknown="skip") == "abcd"
    for prompt, unknown in (("", "error"), ("é", "skip")):
        with pytest.raises(ValueError, match="prompt: found no text"):
            generator(*successor).generate(prompt, 3, unknown=unknown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1}, "temperature: found -1"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"temperature": float("inf")}, "temperature: found inf"),
        ({"temperature": "hot"}, "temperature: found 'hot'"),
        ({"length": -1}, "length: found -1"),
        ({"length": 2.5}, "length: found 2.5"),
        ({"seed": 2**32}, "seed: found 4294967296"),
        ({"mode": "windows"}, "mode: found 'windows', expected one of window, state"),
        ({"seed": -1}, "seed: found -1"),
        ({"unknown": "drop"}, "unknown: found 'drop'"),
        ({"prompt": 3}, "prompt: found 3"),
    ],
)
def test_bad_arguments_are_refused_at_once(successor, arguments, message):
    with pytest.raises(ValueError, match=message):
        generator(*successor).pieces(**arguments)  # No piece has been requested yet.


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_count_of_texts_is_a_whole_number(successor, count):
    with pytest.raises(ValueError, match="count: found"):
        generator(*successor).generate_batch(count)


def constant_model(vocab, token):
    """A model that always generates the same token."""
    model = LanguageModel(len(vocab), ModelConfig(2))
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init_params)(jax.random.key(0)))
    params["dense"]["bias"] = params["dense"]["bias"].at[token].set(50.0)
    return model, params


def test_length_counts_characters_of_word_tokens():
    vocab = Vocab.build("word", "one two two three three three", words=2)
    writer = generator(*constant_model(vocab, vocab.ids["three"]), vocab=vocab)
    assert writer.generate("two ", 12, temperature=0) == "two threethreeth"


def test_length_counts_characters_of_byte_tokens_and_broken_ones_are_marked():
    vocab = Vocab.build("byte", "")
    # A continuation byte alone is no character: each becomes the mark for one.
    writer = generator(*constant_model(vocab, 0x80), vocab=vocab)
    assert writer.generate("é", 5, temperature=0) == "é" + "\N{REPLACEMENT CHARACTER}" * 5
    writer = generator(*constant_model(vocab, ord("x")), vocab=vocab)
    assert writer.generate("글", 200, temperature=0) == "글" + "x" * 200


def test_reweight_is_the_notebook_s_formula():
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    for temperature in (0.2, 0.5, 1.0, 1.2, 7.0):
        weights = np.exp(np.log(probabilities) / temperature)
        np.testing.assert_allclose(reweight(probabilities, temperature), weights / weights.sum(), rtol=1e-12)
    rows = [[0.5, 0.5], [0.25, 0.75]]
    np.testing.assert_allclose(jaxlm.reweight(rows, 1), rows, rtol=1e-15)


def test_reweight_keeps_zeros_and_survives_tiny_temperatures():
    np.testing.assert_array_equal(reweight([0.0, 0.5, 0.5], 0.3), [0, 0.5, 0.5])
    for temperature in (0.0, 5e-324, 1e-300, 1e-30):
        np.testing.assert_array_equal(reweight([0.0, 0.3, 0.7], temperature), [0, 0, 1])
        np.testing.assert_array_equal(reweight([0.2, 0.4, 0.4], temperature), [0, 0.5, 0.5])
    np.testing.assert_allclose(reweight([0.2, 0.8], 1e300), [0.5, 0.5])


@pytest.mark.parametrize("probabilities", [[], [0.0, 0.0], [-0.1, 1.1], [np.nan, 1.0], [np.inf, 1.0]])
def test_reweight_refuses_what_is_no_distribution(probabilities):
    with pytest.raises(ValueError, match="probabilities: found"):
        reweight(probabilities, 1.0)


def test_a_text_that_is_left_unfinished_leaves_nothing_computing(monkeypatch, successor):
    waited, wait = [], jax.block_until_ready
    pieces = generator(*successor).pieces("abc", 10_000)
    assert next(pieces) == "abc"
    next(pieces)
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waited.append(wait(tree)))
    del pieces
    assert len(waited) == 1
