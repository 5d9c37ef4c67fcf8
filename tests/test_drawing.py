"""Which tokens may be drawn, and where a text ends: against NumPy, Python loops and texts made for it."""

import logging

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxlm
from jaxlm.config import HISTORY, ModelConfig, SampleConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn import sampling
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.sampling import CHUNK, Draw, History, distribution, next_token, pick_token
from jaxlm.text.stops import until, without_leading
from jaxlm.text.vocab import Vocab

LETTERS = "abcdefgh"
FILTERS = {"top_k": 3, "top_p": 0.8, "min_p": 0.1, "no_repeat_ngram_size": 4}


def generator(impl="auto", *, tokens=LETTERS, mode="state", seed_text="abc", scale=2):
    """Weights large enough that the memory matters."""
    model = LanguageModel(len(tokens), ModelConfig(12), impl="fused" if impl == "auto" else impl)
    params = jax.jit(model.init_params)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: scale * leaf, params)
    return TextGenerator(model, params, Vocab("char", tuple(tokens)), False, seed_text, 7, mode)


def reciter(text, *, mode="state"):
    """A model that is certain of the next character of a text of distinct ones, and of the first after the last."""
    size = len(text)
    zeros, one_hot = jnp.zeros((size, size)), jnp.eye(size)
    layer = {}
    for gate, bias in zip("ifgo", (9.0, -9.0, 0.0, 9.0), strict=True):  # Write always, forget always.
        layer["i" + gate] = {"kernel": 9 * one_hot if gate == "g" else zeros}
        layer["h" + gate] = {"kernel": zeros, "bias": jnp.full(size, bias)}
    dense = {"kernel": 30 * jnp.roll(one_hot, 1, 1), "bias": jnp.zeros(size)}
    model = LanguageModel(size, ModelConfig(size))
    params = {"lstm_0": layer, "dense": dense}
    return TextGenerator(model, params, Vocab("char", tuple(text)), False, text[0], 7, mode)


def kept_by_numpy(logits, temperature, top_k, top_p, min_p):
    """The probabilities after each filter in turn, in double precision; None where float32 may decide otherwise.

    That is where a probability is at a filter's border, or at the smallest of float32, and where two are nearly equal.
    """
    if np.diff(np.unique(logits)).min(initial=1) < 1e-5:
        return None
    scores = (logits.astype(float) - logits.max()) / np.float32(temperature)
    order = np.argsort(-logits, kind="stable")
    shares = np.exp(scores)
    shares /= shares.sum()
    if top_k is not None:
        shares[order[top_k:]] = 0
        shares /= shares.sum()
    if top_p is not None and top_p < 1:
        before = np.cumsum(shares[order]) - shares[order]
        if np.abs(before[shares[order] > 0][1:] - top_p).min(initial=1) < 1e-5:
            return None
        shares[order[before >= top_p]] = 0
        shares /= shares.sum()
    if min_p:
        if np.abs(np.log(np.maximum(shares / shares.max(), 1e-300)) - np.log(min_p))[shares > 0].min() < 1e-4:
            return None
        shares[shares < min_p * shares.max()] = 0
        shares /= shares.sum()
    return None if np.any((shares > 1e-46) & (shares < 1e-37)) else shares


some_logits = st.one_of(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),  # With many ties.
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12),
    st.integers(1, 12).map(lambda size: [0.25] * size),
)


@pytest.mark.parametrize("pairs", [0, 2**30])
@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
    some_logits,
    st.sampled_from([0.3, 1.0, 2.5]),
    st.none() | st.integers(1, 14),
    st.none() | st.floats(2**-6, 1.0, width=32),
    st.none() | st.floats(0.0, 1.0, width=32),
)
def test_every_filter_and_all_together_are_numpy_s(pairs, logits, temperature, top_k, top_p, min_p):
    logits = np.array(logits, np.float32)
    expected = kept_by_numpy(logits, temperature, top_k, top_p, min_p)
    hypothesis.assume(expected is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "PAIRS", pairs)  # Both ways to find what to keep.
        found = np.asarray(distribution(jnp.asarray(logits), Draw.of(temperature, top_k, top_p, min_p)))
    np.testing.assert_array_equal(found > 0, expected > 1e-38)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


def test_filters_are_applied_one_after_another_each_to_what_is_left():
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    # Of the two that top_k keeps, the first has 4/7 of the probability: enough for top_p, though not of the whole.
    np.testing.assert_allclose(distribution(logits, Draw.of(1, 2, 0.5)), [1, 0, 0, 0])
    np.testing.assert_allclose(distribution(logits, Draw.of(1, None, 0.5)), [4 / 7, 3 / 7, 0, 0], rtol=1e-6)
    # At temperature 1/2, which comes first, the second is 9/16 as probable as the first, not 3/4.
    np.testing.assert_allclose(distribution(logits, Draw.of(0.5, min_p=0.6)), [1, 0, 0, 0])
    np.testing.assert_allclose(distribution(logits, Draw.of(1, min_p=0.6)), [4 / 7, 3 / 7, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("pairs", [0, 2**30])
def test_of_equal_tokens_the_first_are_kept(pairs, monkeypatch):
    monkeypatch.setattr(sampling, "PAIRS", pairs)
    logits = jnp.zeros(8)
    np.testing.assert_allclose(distribution(logits, Draw.of(1, top_k=3)), [1 / 3] * 3 + [0] * 5, rtol=1e-6)
    np.testing.assert_allclose(distribution(logits, Draw.of(1, top_p=0.3)), [1 / 3] * 3 + [0] * 5, rtol=1e-6)
    np.testing.assert_allclose(distribution(logits, Draw.of(1, min_p=1.0)), [1 / 8] * 8, rtol=1e-6)


def draws(logits, draw, seed=1):
    keys = jax.random.split(jax.random.key(seed), len(logits))
    return next_token(keys, logits, draw)


def random_logits(count, size=57):
    return jax.random.normal(jax.random.key(5), (count, size)) * 3


@pytest.mark.parametrize("logits", [random_logits(300), jnp.zeros((300, 5))], ids=["random", "equal"])
def test_the_single_most_probable_token_is_the_greedy_one(logits):
    greedy = draws(logits, Draw.of(0))
    np.testing.assert_array_equal(draws(logits, Draw.of(5.0, top_k=1)), greedy)
    np.testing.assert_array_equal(draws(logits, Draw.of(5.0, top_p=1e-300)), greedy)


@pytest.mark.parametrize("size", [57, 300])
def test_filters_that_keep_everything_change_no_bit(size):
    logits = jnp.concatenate([random_logits(100, size), 0.01 * random_logits(100, size), 30 * random_logits(100, size)])
    plain = sampling._log_weights(logits, Draw.of(0.7))
    for off in ({"top_p": 1}, {"min_p": 0}, {"top_k": size}, {"top_k": 10**6, "top_p": 1, "min_p": 0}):
        np.testing.assert_array_equal(sampling._log_weights(logits, Draw.of(0.7, **off)), plain)


@pytest.mark.parametrize(
    "draw", [{"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 5, "top_p": 0.8, "min_p": 0.1}]
)
def test_frequencies_are_the_distribution_s(draw):
    logits, count = jnp.array([1.0, 0.3, -0.5, -2.0, 0.9, 0.9, -1.1]), 40_000
    draw = Draw.of(0.9, **draw)
    expected = np.asarray(distribution(logits, draw))
    found = np.bincount(draws(jnp.tile(logits, (count, 1)), draw), minlength=7) / count
    assert set(np.flatnonzero(found)) == set(np.flatnonzero(expected))
    assert 1 < np.count_nonzero(expected) < 7
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 0.2, 1.0, 5.0])
@pytest.mark.parametrize(
    "draw", [{"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 5, "top_p": 0.8, "min_p": 0.1}]
)
def test_noise_drawn_ahead_gives_the_reference_s_draws_with_filters(temperature, draw):
    keys, logits, draw = jax.random.split(jax.random.key(1), 1000), random_logits(1000), Draw.of(temperature, **draw)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (57,)))(keys)
    np.testing.assert_array_equal(pick_token(noise, logits, draw), draws(logits, draw))


@pytest.mark.parametrize("mode", ["window", "state"])
@pytest.mark.parametrize("settings", [*({name: value} for name, value in FILTERS.items()), FILTERS])
def test_the_reference_and_the_fast_path_write_the_same_and_batches_too(settings, mode):
    texts = [
        generator(impl, mode=mode).generate_batch(3, length=300, temperature=0.8, seed=1, **settings)
        for impl in ("scan", "fused")
    ]
    assert texts[0] == texts[1]
    alone = [generator(mode=mode).generate(length=300, temperature=0.8, seed=1 + i, **settings) for i in range(3)]
    assert texts[0] == alone
    assert texts[0] != generator(mode=mode).generate_batch(3, length=300, temperature=0.8, seed=1)


def test_another_value_compiles_nothing_and_no_filter_is_the_program_without_any(caplog):
    writer = generator()

    def compilations(**settings):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            writer.generate("abc", 10, **settings)
        return sum("Compiling jit" in record.getMessage() for record in caplog.records)

    jax.clear_caches()
    assert compilations(**FILTERS) > 0
    assert compilations(top_k=1, top_p=1, min_p=0, no_repeat_ngram_size=1, temperature=0) == 0
    noise, logits, temperature = (jnp.zeros((2, 5)), jnp.zeros((2, 5)), jnp.float32(1))

    def plain(noise, logits, temperature):
        log_probs = logits - jnp.max(logits, axis=-1, keepdims=True)
        drawn = jnp.argmax(log_probs / jnp.where(temperature < sampling.TINY, 1.0, temperature) + noise, axis=-1)
        return jnp.where(temperature < sampling.TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)

    ours = jax.make_jaxpr(lambda *arrays: pick_token(*arrays[:2], Draw(arrays[2])))(noise, logits, temperature)
    assert str(ours) == str(jax.make_jaxpr(plain)(noise, logits, temperature))


def banned_by_python(tokens, size):
    """The tokens that would complete `size` tokens that the last HISTORY of a text hold."""
    last = list(tokens)[-HISTORY:]
    begun = last[len(last) - size + 1 :]
    grams = (last[i : i + size] for i in range(len(last) - size + 1))
    return {gram[-1] for gram in grams if gram[:-1] == begun} if len(last) >= size - 1 else set()


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6), st.data())
def test_what_is_banned_is_what_would_repeat(tokens, size, data):
    border = data.draw(st.integers(1, len(tokens)))
    history = History.of([np.array(tokens[:border]), np.array([0])])
    for token in tokens[border:]:
        history = history.append(jnp.array([token, 0]))
    found = np.asarray(history.ban(jnp.zeros((2, 5)), jnp.int32(size)))
    assert set(np.flatnonzero(found[0] == -np.inf)) == banned_by_python(tokens, size)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("length", [HISTORY - 1, HISTORY, HISTORY + 1, HISTORY + 700])
def test_only_the_last_tokens_count_whether_of_the_prompt_or_of_the_text(size, length):
    random = np.random.default_rng(length * size)
    tokens = random.integers(0, 30, length)
    tokens[-size + 1 :] = tokens[-HISTORY : -HISTORY + size - 1] if length >= HISTORY else tokens[: size - 1]
    whole = History.of([tokens])
    append = jax.jit(History.append)
    grown = jax.tree.map(jnp.asarray, History.of([tokens[:-50]]))
    for token in tokens[-50:]:
        grown = append(grown, jnp.array([token]))
    expected = banned_by_python(tokens, size)
    assert expected
    for history in (whole, grown):
        found = np.asarray(history.ban(jnp.zeros((1, 40)), jnp.int32(size)))
        assert set(np.flatnonzero(found[0] == -np.inf)) == expected


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_stands_there_only_in_part_of_the_last_tokens_is_not_banned(size):
    tokens = np.random.default_rng(size).integers(0, 10**6, HISTORY + 60)
    tokens[-size + 1 :] = tokens[-HISTORY - 1 : -HISTORY + size - 2]
    # Grown token by token, the history knows of the first of them.
    append, history = jax.jit(History.append), jax.tree.map(jnp.asarray, History.of([tokens[:-50]]))
    for token in tokens[-50:]:
        history = append(history, jnp.array([token]))
    assert not np.isinf(history.ban(jnp.zeros((1, 10**6)), jnp.int32(size))).any()
    follows = tokens[-HISTORY + size - 2]
    assert np.isinf(history.ban(jnp.zeros((1, 10**6)), jnp.int32(size - 1))[0, follows])


@pytest.mark.parametrize("temperature", [0, 0.1, 1])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_a_text_repeats_nothing_also_of_its_prompt_and_across_pieces(size, temperature):
    tokens = "".join(chr(0x100 + i) for i in range(400)) if size == 1 else LETTERS
    length = {1: 300, 2: 50, 3: 300, 6: 600}[size]
    writer = generator(tokens=tokens, seed_text=tokens[:3], scale=4)
    prompt = tokens[:3] * 2 if size > 1 else tokens[:3]
    settings = {"temperature": temperature, "no_repeat_ngram_size": size, "seed": 1}
    text = writer.generate(prompt, length, **settings)
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    within = {prompt[i : i + size] for i in range(len(prompt) - size + 1)}
    new = grams[len(prompt) - size + 1 :]
    assert len(set(new)) == len(new) == length
    assert not within & set(new)
    assert "".join(writer.pieces(prompt, length, **settings)) == text


def test_a_greedy_text_with_bans_is_a_loop_over_the_model():
    writer = generator(scale=4)
    tokens = list(writer.vocab.encode("abc"))
    read = jax.jit(lambda ids: writer.model.apply({"params": writer.params}, ids, writer.model.initial_carry(1))[0])
    for _ in range(200):
        logits = np.array(read(np.resize(tokens, 256)[None])[0, len(tokens) - 1])
        logits[list(banned_by_python(tokens, 3))] = -np.inf
        tokens.append(int(logits.argmax()))
    assert writer.generate("abc", 200, temperature=0, no_repeat_ngram_size=3) == writer.vocab.decode(tokens)


def test_where_every_token_would_repeat_none_is_banned():
    writer = generator(tokens="ab", seed_text="ab")
    text = writer.generate("ab", 20, temperature=0, no_repeat_ngram_size=1)
    assert text == writer.generate("ab", 20, temperature=0)


def test_the_next_token_s_distribution_is_what_is_drawn_from_the_most_probable_first():
    writer = generator()
    plain = writer.next_token("abcab")
    assert set(plain) == set(LETTERS)
    assert list(plain.values()) == sorted(plain.values(), reverse=True)
    assert sum(plain.values()) == pytest.approx(1)
    scores = {letter: float(np.exp(writer.score("abcab" + letter)[-1])) for letter in LETTERS}
    assert plain == pytest.approx(scores, rel=1e-5)
    most = list(plain)
    halved = writer.next_token("abcab", temperature=0.5, top_k=3)
    squares = {letter: plain[letter] ** 2 for letter in most[:3]}
    assert halved == pytest.approx(
        {letter: value / sum(squares.values()) for letter, value in squares.items()}, rel=1e-4
    )
    assert list(halved) == most[:3]
    assert writer.next_token("abcab", temperature=0) == {most[0]: 1.0}
    assert "c" not in writer.next_token("abcab", no_repeat_ngram_size=3)
    assert writer.next_token("abcdefgha", mode="window") == pytest.approx(writer.next_token("cdefgha"), rel=1e-5)
    assert writer.next_token() == writer.next_token("abc")
    drawn = [text[-1] for text in writer.generate_batch(2000, "abcab", 1, temperature=1, top_p=0.7, seed=0)]
    kept = writer.next_token("abcab", top_p=0.7)
    assert set(drawn) == set(kept)
    for letter, share in kept.items():
        assert abs(drawn.count(letter) / 2000 - share) < 5 * np.sqrt(share / 2000)


@pytest.mark.parametrize("mode", ["window", "state"])
@pytest.mark.parametrize("settings", [{}, FILTERS])
def test_prompts_of_a_batch_may_differ(mode, settings):
    writer = generator(mode=mode)
    prompts = ["a", "abcdefghabcdefgh", "cab", "a", "bcdefgha"]
    options = {"length": CHUNK + 40, "temperature": 0.9, **settings}
    expected = [writer.generate(prompt, seed=3 + i, **options) for i, prompt in enumerate(prompts)]
    assert writer.generate_batch(prompts, seed=3, **options) == expected
    assert [text[: len(prompt)] for text, prompt in zip(expected, prompts, strict=True)] == prompts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a"], "b"), "prompt: found 'b', expected none beside a list of prompts"),
        (([],), "count: found 0"),
        (("ab",), "count: found 'ab'"),
        ((["a", ""],), "prompt: found no text"),
        ((["a", 3],), "prompt: found 3"),
        ((["a", "é"],), "prompt: found characters that the model has never seen"),
    ],
)
def test_a_bad_list_of_prompts_is_refused(arguments, words):
    with pytest.raises(jaxlm.InputError, match=words):
        generator().generate_batch(*arguments)


@pytest.mark.parametrize(
    ("text", "stops", "before", "after"),
    [
        ("one two three", ["two"], "one ", "one two"),
        ("one two three", ["four"], "one two three", "one two three"),
        ("one two three", ["three", "two"], "one ", "one two"),
        ("abcd", ["abcd", "bc"], "a", "abc"),  # The one that is complete first.
        ("abcd", ["bc", "abc"], "", "abc"),  # The longest of those that end together.
        ("aaab", ["aab"], "a", "aaab"),
        ("ababac", ["abac"], "ab", "ababac"),
        ("onions", ["s"], "onion", "onions"),
        ("x", ["x"], "", "x"),
        ("ends with a beginning o", ["of"], "ends with a beginning o", "ends with a beginning o"),
        ("글자\n\n다", ["\n\n"], "글자", "글자\n\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_text_ends_at_its_first_stop_string_however_it_is_cut_into_pieces(text, stops, before, after, size):
    taken = []

    def pieces():
        for start in range(0, len(text), size):
            taken.append(text[start : start + size])
            yield taken[-1]

    assert "".join(until(pieces(), stops)) == before
    assert "".join(taken)[: len(after)] == after
    assert len("".join(taken)) - len(after) < size  # No piece is taken after the end.
    assert "".join(until(pieces(), stops, keep=True)) == after


@hypothesis.given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(1, 7),
)
def test_pieces_add_up_to_the_text_up_to_the_stop_that_is_complete_first(text, stops, size):
    ends = [end for end in range(1, len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    expected = text
    if ends:
        longest = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        expected = text[: ends[0] - len(longest)]
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert "".join(until(pieces, stops)) == expected


def test_a_text_loses_its_leading_line_ends():
    assert "".join(without_leading(["\n", "\n\n", "\na\n", "\nb"], "\n")) == "a\n\nb"
    assert "".join(without_leading(["\n"], "\n")) == ""


ALPHABET = "".join(chr(0x4E00 + i) for i in range(CHUNK + 20))
"""More distinct characters than a device call generates."""


@pytest.mark.parametrize("mode", ["window", "state"])
@pytest.mark.parametrize("first", [1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_stop_string_ends_a_text_exactly_also_across_pieces(mode, first):
    writer, stop = reciter(ALPHABET, mode=mode), ALPHABET[first : first + 3]
    assert writer.generate(ALPHABET[0], 10**9, temperature=0, stop_strings=stop) == ALPHABET[:first]
    assert writer.generate(ALPHABET[0], 10**9, stop_strings=[stop], keep_stop=True, seed=0) == ALPHABET[: first + 3]
    # What was asked of it may end before the stop string does.
    assert writer.generate(ALPHABET[0], first + 1, stop_strings=stop) == ALPHABET[: first + 2]


def test_a_row_of_a_batch_ends_while_others_go_on():
    writer, stop = reciter(ALPHABET), ALPHABET[60]
    prompts = [ALPHABET[50], ALPHABET[61], ALPHABET[59], ALPHABET[10:20]]
    whole = ALPHABET * 3
    expected = [ALPHABET[50:60], whole[61 : len(ALPHABET) + 60], ALPHABET[59], ALPHABET[10:60]]
    assert writer.generate_batch(prompts, length=1000, stop_strings=stop) == expected


def test_what_the_prompt_holds_stops_nothing():
    writer = reciter(LETTERS)
    assert writer.generate("abc", 20, stop_strings="c") == "abcdefghab"
    assert writer.generate("abc", 3, stop_strings="cd") == "abcdef"


def test_a_stop_string_inside_a_word_token_ends_the_text_there():
    vocab = Vocab.build("word", "one two two three three three", words=2)
    model = LanguageModel(len(vocab), ModelConfig(2))
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init_params)(jax.random.key(0)))
    params["dense"]["bias"] = params["dense"]["bias"].at[vocab.ids["three"]].set(50.0)
    writer = TextGenerator(model, params, vocab, False, "one", 7, "state")
    assert writer.generate("two ", 100, temperature=0, stop_strings="ree") == "two th"
    assert (
        writer.generate("two ", 100, temperature=0, stop_strings="etth", keep_stop=True)
        == "two three"[:4] + "three" * 20
    )
    assert writer.generate("two ", 100, temperature=0, stop_strings="eeth", keep_stop=True) == "two threeth"


def test_lines_begin_after_a_line_end_and_end_before_the_next():
    writer = reciter("\nabcd")
    config = SampleConfig(lines=3, temperature=(0.5, 1.0), seed=4)
    texts = writer.texts(config)
    assert [(text.temperature, text.seed) for text in texts] == [(t, s) for t in (0.5, 1.0) for s in (4, 5, 6)]
    assert ["".join(text.pieces) for text in texts] == ["abcd"] * 6
    [text] = writer.texts(SampleConfig(lines=1, prompt="c"))
    assert "".join(text.pieces) == "cd"
    # A line that would be empty is the next one.
    blank = generator(tokens="ab\n", scale=0)
    lines = ["".join(text.pieces) for text in blank.texts(SampleConfig(lines=200, seed=1))]
    assert all(lines)
    assert not any("\n" in line for line in lines)
    assert len(set(lines)) > 20


def test_lines_are_refused_where_there_are_none():
    with pytest.raises(
        jaxlm.InputError, match="lines: found 2, expected none of a model that has never seen a line end"
    ):
        generator().texts(SampleConfig(lines=2))
    for settings, words in (
        ({"count": 3}, "count: 3 has no effect with lines"),
        ({"keep_stop": True}, "keep_stop: True has no effect with lines"),
        ({"prompt": "a\nb"}, r"prompt: found 'a\\nb', expected no line end in it with lines"),
    ):
        with pytest.raises(jaxlm.InputError, match=words):
            SampleConfig(lines=2, **settings)
    with pytest.raises(jaxlm.InputError, match="keep_stop: True has no effect without a stop string"):
        SampleConfig(keep_stop=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k: found 0, expected a whole number from 1 to 2147483647; leave it out to draw from all"),
        ({"top_p": 0}, "top_p: found 0, expected a finite number above 0 and at most 1; 0.9, for example; 1 keeps all"),
        ({"top_p": 1.5}, "top_p: found 1.5, expected"),
        ({"min_p": -0.1}, "min_p: found -0.1, expected a finite number of 0 or more and at most 1; 0.05, for example"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size: found 0, expected a whole number from 1 to 4096; leave"),
        ({"stop_strings": ""}, "stop_strings: found '', expected strings that are not empty"),
        ({"stop_strings": ["a", 1]}, r"stop_strings: found \['a', 1\], expected strings that are not empty"),
    ],
)
def test_a_bad_value_is_one_line(settings, message):
    with pytest.raises(jaxlm.InputError, match=message) as caught:
        generator().generate("abc", 3, **settings)
    assert "\n" not in str(caught.value)
