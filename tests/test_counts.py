"""Networks that take n-grams: lookups, steps, scores and texts against plain code that asks the n-grams themselves."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import log_softmax
from reference import lstm as numpy_lstm

import jaxlm
from jaxlm.config import ModelConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn import counts as counts_room
from jaxlm.nn import dynamic, scoring, training
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.sampling import CHUNK
from jaxlm.runs import evaluation
from jaxlm.runs.data import Data
from jaxlm.text.corpus import Corpus
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

K, H, WINDOW = 3, 6, 9
CORPUS = "the cat sat on the mat. the rat sat on the hat. a cat and a rat sat. " * 4
VOCAB = Vocab.build("char", CORPUS)
V = len(VOCAB)
IDS = VOCAB.encode(CORPUS)
COUNTS = NGram.count(IDS, V, K)
TEXT = VOCAB.encode("that cat sat at a hat. on the cat and the mat on a rat")
CONFIG = dataclasses.replace(
    jaxlm.SIZES["small"], batch=4, length=5, validation=0.0, model=ModelConfig(H, embedding=4, ngram=K)
)


def random_params(model):
    """Parameters of which none is zero, so that each has an effect."""
    params = jax.jit(model.init_params)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(leaf + 0.3 * rng.normal(size=leaf.shape), np.float32), params)


MODEL = LanguageModel(V, CONFIG.model, impl="fused")
PARAMS = random_params(MODEL)
ONE_HOT = LanguageModel(V, ModelConfig(H, ngram=K), impl="scan")


def plain_log_probs(ids, rows=None, params=PARAMS):
    """float64[N, V], of the token after each, by the definition; `rows` are the n-grams' predictions."""
    rows = rows or COUNTS.after(COUNTS.states(ids)[1:])
    prior = rows.rows().astype(np.float64)
    tokens = params["embed"]["embedding"][ids] if "embed" in params else np.eye(V)[ids]
    inputs = (tokens + prior @ params["ngram_input"])[None]
    zeros = np.zeros((1, H))
    _, states = numpy_lstm(params["lstm_0"], (zeros, zeros), inputs)
    gate = params["ngram_gate"]
    weight = gate["bias"] + states[0] @ gate["state"] + np.log1p(rows.totals) @ gate["totals"]
    logits = states[0] @ params["dense"]["kernel"] + params["dense"]["bias"] + weight * np.log(prior)
    return log_softmax(logits)


@pytest.mark.parametrize("text", [[0], [0] * 40, list(range(30)), [0, 1, 2] * 20, [], "random", "rich"], ids=str)
@pytest.mark.parametrize("order", [0, 1, 4, 7])
def test_a_table_says_what_the_ngrams_say(text, order):
    rng = np.random.default_rng(0)
    size = {"random": 5, "rich": 30}.get(text, 30) if isinstance(text, str) else max(text, default=0) + 2
    text = rng.integers(0, size, 600) if isinstance(text, str) else np.array(text, int)
    counts = NGram.count(text, size, order)
    table = jax.tree.map(jnp.asarray, counts_room.make_table(counts))
    tokens = np.concatenate([rng.integers(0, size, 30), text[:60], rng.integers(0, size, 10)])
    states = counts.states(tokens)

    def advance(nodes, token):
        nodes = counts_room.advance(table, nodes, token[None])
        return nodes, nodes[0]

    np.testing.assert_array_equal(jax.lax.scan(advance, jnp.zeros(1, jnp.int32), jnp.asarray(tokens))[1], states[1:])
    found, expected = jax.jit(counts_room.lookup)(table, states), counts_room.prior_of(counts.after(states))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)
    np.testing.assert_array_equal(found.totals, expected.totals)


@pytest.mark.parametrize("model", [MODEL, ONE_HOT, ONE_HOT.clone(impl="fused")], ids=lambda model: model.impl)
def test_a_network_is_the_equations(model):
    params = random_params(model)
    prior = counts_room.prior_within(COUNTS, TEXT[None])
    logits, _ = model.apply({"params": params}, TEXT[None], model.initial_carry(1), False, prior)
    np.testing.assert_allclose(log_softmax(logits[0]), plain_log_probs(TEXT, params=params), atol=1e-5)


def test_before_training_the_ngrams_speak_beside_the_lstm():
    params = jax.jit(MODEL.init_params)(jax.random.key(0))
    prior = counts_room.prior_within(COUNTS, TEXT[None])
    plain = LanguageModel(V, ModelConfig(H, embedding=4), impl="fused")
    logits, _ = MODEL.apply({"params": params}, TEXT[None], MODEL.initial_carry(1), False, prior)
    own = {name: leaf for name, leaf in params.items() if not name.startswith("ngram")}
    others, _ = plain.apply({"params": own}, TEXT[None], plain.initial_carry(1))
    np.testing.assert_allclose(logits, others + np.log(prior.probabilities), atol=1e-5)


def own_scores(log_probs, ids):
    return log_probs[np.arange(len(ids) - 1), ids[1:]]


def test_scores_carry_contexts_through_the_text():
    expected = own_scores(plain_log_probs(TEXT), TEXT)
    found = scoring.score_carried(MODEL, PARAMS, TEXT, counts=COUNTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(
        TextGenerator(MODEL, PARAMS, VOCAB, False, "a", 9, "state", counts=COUNTS).score(VOCAB.decode(TEXT.tolist())),
        found,
    )


def test_long_texts_are_scored_in_chunks_that_leave_no_trace(monkeypatch):
    long = np.tile(TEXT, 3)
    whole = scoring.score_carried(MODEL, PARAMS, long, counts=COUNTS)
    monkeypatch.setattr(scoring, "CARRIED_TOKENS", 17)
    np.testing.assert_allclose(scoring.score_carried(MODEL, PARAMS, long, counts=COUNTS), whole, atol=1e-5)


def test_no_context_reaches_before_a_window():
    cold = scoring.score_cold(MODEL, PARAMS, TEXT, 8, counts=COUNTS)
    expected = [own_scores(plain_log_probs(TEXT[i : i + 9]), TEXT[i : i + 9]) for i in range(0, len(TEXT) - 1, 8)]
    np.testing.assert_allclose(cold, np.concatenate(expected), atol=1e-5)
    windows = scoring.score_windows(MODEL, PARAMS, TEXT, 6, 4, counts=COUNTS)
    starts = range(0, len(TEXT) - 6, 4)
    expected = [own_scores(plain_log_probs(TEXT[i : i + 7]), TEXT[i : i + 7])[-1] for i in starts]
    np.testing.assert_allclose(windows, expected, atol=1e-5)


def data_of(config=CONFIG):
    corpus = Corpus(text=CORPUS, name="cats", sources=("cats.txt",))
    return Data.of(config, corpus, VOCAB, mixed=True)


def run_steps(devices, calls=(3,), config=CONFIG):
    """The state after three steps, and their losses."""
    data, mesh = data_of(config), jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    starts = data.order.starts(config.seed, 0, config.batch)[:3]
    prior = data.prior(starts, config.length, training.block_steps(config, V))
    batches = training.send_batches(starts, prior, mesh)
    ids = training.sharding.replicate(IDS.astype(np.uint8), mesh)
    state = training.to_devices(training.initial_state(MODEL, config)._replace(params=PARAMS), mesh)
    steps, first, losses = training.compiled_steps(MODEL, config, 3, 1.0, mesh), 0, []
    for count in calls:
        state, nats, counts = steps(state, ids, batches, np.int32(first), np.int32(count))
        losses += (np.asarray(nats) / np.maximum(counts, 1))[:count].tolist()
        first += count
    return training.to_host(state, config.batch), losses


def test_the_loss_of_a_step_leaves_each_position_out_of_its_own_counts():
    _, losses = run_steps(1)
    [starts, *_] = data_of().order.starts(CONFIG.seed, 0, CONFIG.batch)
    expected = []
    for start in starts:
        positions = (start + np.arange(1, CONFIG.length + 1)) % len(IDS)
        ids = IDS[(start + np.arange(CONFIG.length)) % len(IDS)]
        log_probs = plain_log_probs(ids, COUNTS.left_out(positions))
        expected += log_probs[np.arange(CONFIG.length), IDS[positions]].tolist()
    np.testing.assert_allclose(losses[0], -np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, batch=3)], ids=["even", "padded"])
def test_devices_and_calls_change_nothing(config):
    state, losses = run_steps(1, config=config)
    same, same_losses = run_steps(1, (1, 2), config=config)
    assert losses == same_losses
    assert all(map(np.array_equal, *map(jax.tree.leaves, (state, same))))
    others, other_losses = run_steps(2, config=config)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(others.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_every_parameter_of_the_ngrams_learns():
    state, _ = run_steps(1)
    for name in ("ngram_input", "ngram_gate"):
        for before, after in zip(*map(jax.tree.leaves, (PARAMS[name], state.params[name])), strict=True):
            assert not np.array_equal(before, after), name


def test_what_is_sent_at_once_is_bounded():
    assert training.block_steps(jaxlm.BOOK, 50_000) == training.BLOCK  # It takes no n-grams.
    words = dataclasses.replace(CONFIG, batch=32, length=64)
    assert 1 <= training.block_steps(words, 4000) * 32 * 64 * 4000 * 4 <= training.PRIOR_BYTES
    assert training.block_steps(words, 50_000) == 1
    assert training.block_steps(CONFIG, V) == training.BLOCK


def generator(model=MODEL, params=PARAMS, mode="state"):
    return TextGenerator(model, params, VOCAB, False, "the ", WINDOW, mode, counts=COUNTS)


def greedy(prompt, length, mode, params=PARAMS):
    """Greedy text from plain predictions, each of the whole text so far, or of its last WINDOW characters."""
    ids = VOCAB.encode(prompt).tolist()
    for _ in range(length):
        seen = np.array(ids if mode == "state" else ids[-WINDOW:])
        ids.append(int(plain_log_probs(seen, params=params)[-1].argmax()))
    return VOCAB.decode(ids)


@pytest.mark.parametrize("model", [MODEL, MODEL.clone(impl="scan")], ids=lambda model: model.impl)
@pytest.mark.parametrize("mode", ["state", "window"])
@pytest.mark.parametrize("prompt", ["t", "the cat and "])
def test_greedy_text_is_that_of_a_plain_loop(model, mode, prompt):
    found = generator(model).generate(prompt, 150, temperature=0, mode=mode)
    assert found == greedy(prompt, 150, mode)


@pytest.mark.parametrize("mode", ["state", "window"])
def test_texts_in_a_batch_are_those_one_by_one(mode):
    prompt = "the " + "cat and " * 20  # Longer than a chunk.
    texts = generator().generate_batch(3, prompt, 40, seed=5, temperature=0.7, mode=mode)
    assert texts == [generator().generate(prompt, 40, seed=5 + i, temperature=0.7, mode=mode) for i in range(3)]
    assert len(set(texts)) == 3


def test_draws_follow_the_mixed_distribution():
    texts = generator().generate_batch(4000, "the c", 1, seed=0, temperature=0.8)
    drawn = np.bincount([VOCAB.encode(text[-1])[0] for text in texts], minlength=V) / len(texts)
    expected = np.exp(log_softmax(plain_log_probs(VOCAB.encode("the c"))[-1] / 0.8))
    np.testing.assert_allclose(drawn, expected, atol=4 * np.sqrt(0.25 / len(texts)))


def test_nothing_is_compiled_twice(caplog):
    text = generator()
    text.generate("the ", 2 * CHUNK, seed=0)
    with caplog.at_level(logging.DEBUG, "jax._src.interpreters.pxla"), jax.log_compiles():
        text.generate("a rat", 2 * CHUNK, seed=1)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_dynamic_evaluation_counts_what_it_has_scored_and_never_what_comes(monkeypatch):
    monkeypatch.setattr(dynamic, "SEGMENTS", 2)
    long = np.tile(TEXT, 3)
    squares = dynamic.mean_squares(
        MODEL, PARAMS, IDS, segment=5, prior=lambda at: counts_room.prior_of(COUNTS.left_out(at))
    )

    def score(ids, learning_rate):
        prior = evaluation.growing(COUNTS, IDS, ids)
        options = {"segment": 5, "learning_rate": learning_rate, "decay": 0.0, "prior": prior}
        return dynamic.score_dynamic(MODEL, PARAMS, squares, ids, **options)

    # Without updates of the weights, only the counts grow, with every token.
    expected = []
    for end in range(1, len(long)):
        counts = NGram.count(np.concatenate([IDS, long[:end]]), V, K)
        expected.append(counts.after(counts.states(long[:end])[-1:]))
    rows = np.concatenate([predictions.rows() for predictions in expected])
    totals = np.concatenate([predictions.totals for predictions in expected])
    plain = dataclasses.make_dataclass("Rows", ["totals", "found"], namespace={"rows": lambda self: self.found})
    reference = own_scores(plain_log_probs(long[:-1], plain(totals, rows)), long)
    np.testing.assert_allclose(score(long, 0.0), reference, atol=2e-5)
    changed = long.copy()
    changed[120:] = (changed[120:] + 1) % V
    found, others = score(long, 1e-3), score(changed, 1e-3)
    np.testing.assert_array_equal(found[:119], others[:119])
    assert not np.array_equal(found[119:], others[119:])
    assert not np.allclose(found, score(long, 0.0))


def test_the_counts_of_several_networks_grow_each_on_its_own():
    several, ids = (COUNTS, None, NGram.count(IDS, V, 1)), np.tile(TEXT, 2)
    together = evaluation.growing(several, IDS, ids)
    alone = [evaluation.growing(counts, IDS, ids) for counts in several]
    for positions in (np.arange(1, 21), np.array([*range(21, 30), *[29] * 11])):
        found = together(positions)
        assert found[1] is None
        for one, prior in zip(found, alone, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, prior(positions))
    assert np.abs(found[0].probabilities - found[2].probabilities).max() > 0.01


def test_the_book_s_recipe_takes_none():
    with pytest.raises(InputError, match="ngram: 3 has no effect in the book recipe"):
        dataclasses.replace(jaxlm.BOOK, model=ModelConfig(ngram=3))
