"""N-grams mixed into trained networks, against plain code: a network's logits, an n-gram's formulas, two weights."""

import dataclasses
import random
import re

import jax
import numpy as np
import pytest
import reference
from helpers import TEXT, contents
from reference import KneserNey, log_softmax

import jaxlm
from jaxlm.cli import commands
from jaxlm.nn import dynamic
from jaxlm.nn.counts import prior_of
from jaxlm.runs import evaluation, mixing
from jaxlm.runs.mixing import generator_with
from jaxlm.runs.run import Run
from jaxlm.text.batches import split_text

K, WINDOW = 3, 10
STREAM = dataclasses.replace(
    jaxlm.SIZES["small"], epochs=2, length=WINDOW, batch=4, validation=0.3, model=jaxlm.ModelConfig(hidden=16)
)
BOOK = dataclasses.replace(
    jaxlm.BOOK, epochs=1, length=WINDOW, batch=32, lowercase=False, model=jaxlm.ModelConfig(hidden=16)
)
CONFIGS = {"stream": STREAM, "book": BOOK, "validated book": dataclasses.replace(BOOK, validation=0.3)}
WORDS = " ".join(random.Random(0).sample(TEXT.split(), 200))
"""The training text: in no order that repeats, so that what was held out is news."""

OTHER = "The dog and the fox jump over five lazy jugs. Pack quickly the brown box"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directories of trained runs, not to be changed; and their corpus."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "words.txt").write_text(WORDS + ".")
    for name, config in CONFIGS.items():
        config = dataclasses.replace(config, corpus=(str(folder / "words.txt"),))
        jaxlm.train(config, run=name, checkpoints=folder, reporter=None)
    return folder


@pytest.fixture(params=CONFIGS)
def run(folder, request):
    return Run.open(folder / request.param)


@pytest.fixture
def stream(folder):
    return Run.open(folder / "stream")


@pytest.fixture
def changing(stream, tmp_path):
    """A run whose corpus may be changed."""
    path = tmp_path / "words.txt"
    path.write_text(WORDS + ".")
    config = dataclasses.replace(STREAM, epochs=1, corpus=(str(path),))
    jaxlm.train(config, run="changing", checkpoints=tmp_path, reporter=None)
    return Run.open(tmp_path / "changing"), path


def training_ids(run):
    return run.vocab.encode(split_text(WORDS + ".", run.record.config.validation)[0])


def network_rows(generator, windows):
    """The plain network's log-probabilities after windows, float64[S, T, V]."""
    return log_softmax(reference.logits(jax.device_get(generator.params), windows, len(generator.vocab)))


def ngram_rows(ngram, ids):
    """The n-gram's log-probabilities after each token, given all before it."""
    return np.log([ngram.row(ids[: end + 1].tolist()) for end in range(len(ids))])


def plain_rows(run, ids, weights, window=None):
    """float64[N, V]: the mixture's log-probabilities after each token of a text, by its definition."""
    generator = run.generator()[0]
    ngram = KneserNey(training_ids(run).tolist(), len(run.vocab), K)
    rows = []
    for end in range(1, len(ids) + 1):
        seen = ids[max(0, end - window) if window else 0 : end]
        network = network_rows(generator, seen[None])[0, -1]
        rows.append(log_softmax(weights[0] * network + weights[1] * np.log(ngram.row(seen.tolist()))))
    return np.array(rows)


def with_weights(monkeypatch, weights):
    monkeypatch.setattr(mixing, "_fit", lambda *_: np.array(weights))


@pytest.mark.parametrize("weights", [(0.6, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_a_mixture_is_the_weighted_product_of_the_network_and_the_n_gram(run, monkeypatch, weights):
    with_weights(monkeypatch, weights)
    ids = run.vocab.encode(OTHER)
    rows = plain_rows(run, ids, weights)
    expected = rows[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(generator_with(run, K)[0].score(OTHER), expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["state", "window"])
def test_greedy_text_is_that_of_a_plain_loop(run, monkeypatch, mode):
    with_weights(monkeypatch, (0.6, 0.5))
    ids = run.vocab.encode("the fox").tolist()
    for _ in range(25):
        seen = np.array(ids if mode == "state" else ids[-WINDOW:])
        ids.append(int(plain_rows(run, seen, (0.6, 0.5))[-1].argmax()))
    generator = generator_with(run, K)[0]
    assert generator.generate("the fox", 25, temperature=0, mode=mode) == run.vocab.decode(ids)
    texts = generator.generate_batch(3, "the fox", 40, seed=3, mode=mode)
    assert texts == [generator.generate("the fox", 40, seed=3 + i, mode=mode) for i in range(3)]


def found_by(run, monkeypatch):
    """What the weights of a run are fitted on: two distributions at each position, and the answers."""
    seen = []
    monkeypatch.setattr(mixing, "_fit", lambda *given: seen.append(given) or np.array([0.5, 0.5]))
    generator_with(run, K)
    return seen[0]


def test_the_weights_are_fitted_on_the_end_of_the_training_text(run, monkeypatch):
    generator, progress = run.generator()
    # Such small networks do not know their training text better than other text.
    progress = dataclasses.replace(progress, validation=progress.validation and 4.0)
    monkeypatch.setattr(Run, "generator", lambda *_: (generator, progress))
    network, ngram, answers = found_by(run, monkeypatch)
    ids = training_ids(run)
    count = len(ids) // 10
    border = len(ids) - count
    np.testing.assert_array_equal(answers, ids[border:])
    if run.record.config.recipe == "book":
        windows = np.stack([ids[end - WINDOW : end] for end in range(border, len(ids))])
        rows = network_rows(generator, windows)[:, -1]
    else:
        rows = network_rows(generator, ids[None, border - 1 : -1])[0]
    if progress.validation is None:
        np.testing.assert_allclose(network, rows, atol=2e-5)
        discounts = KneserNey(ids.tolist(), len(run.vocab), K).discounts
        for position in range(border, len(ids), 7):
            without = KneserNey(ids.tolist(), len(run.vocab), K, position, discounts)
            expected = np.log(without.row(ids[:position].tolist()))
            np.testing.assert_allclose(ngram[position - border], expected, atol=1e-5)
        return
    # The network's answers are made as unlikely as those of text that it has not learned; nothing else changes.
    at = np.arange(count), answers
    assert -rows[at].mean() < progress.validation
    np.testing.assert_allclose(-network[at].mean(), progress.validation, rtol=1e-6)
    change = network - rows
    change -= change[np.arange(count), (answers + 1) % len(run.vocab)][:, None]
    lowered = change[at]
    assert lowered[0] < 0
    np.testing.assert_allclose(lowered, lowered[0], atol=5e-5)
    change[at] = 0
    np.testing.assert_allclose(change, 0, atol=5e-5)
    before = KneserNey(ids[:border].tolist(), len(run.vocab), K)
    np.testing.assert_allclose(ngram, ngram_rows(before, ids[:-1])[border - 1 :], atol=1e-5)


def test_a_network_that_does_worse_on_the_tail_is_taken_as_it_is(stream, monkeypatch):
    generator, progress = stream.generator()
    easy = dataclasses.replace(progress, validation=0.01)
    monkeypatch.setattr(Run, "generator", lambda *_: (generator, easy))
    network, _, answers = found_by(stream, monkeypatch)
    rows = network_rows(generator, training_ids(stream)[None, -len(answers) - 1 : -1])[0]
    np.testing.assert_allclose(network, rows, atol=2e-5)


def plain_loss(weights, network, ngram, answers):
    scores = log_softmax(weights[0] * network + weights[1] * ngram)[np.arange(len(answers)), answers]
    return -scores.mean() + ((weights[0] - 1) ** 2 + weights[1] ** 2) / (2 * len(answers))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_the_fit_is_the_minimum(seed, spread):
    rng = np.random.default_rng(seed)
    network, ngram = log_softmax(spread * rng.normal(size=(2, 60, 5)))
    answers = np.array([rng.choice(5, p=p) for p in np.exp(log_softmax(0.7 * network + 0.4 * ngram))])
    found = mixing._fit(network, ngram, answers)
    grid = [(a, b) for a in np.arange(-2, 3, 0.05) for b in np.arange(-2, 3, 0.05)]
    losses = [plain_loss(weights, network, ngram, answers) for weights in grid]
    least = plain_loss(found, network, ngram, answers)
    assert least <= min(losses)
    assert np.abs(found - grid[int(np.argmin(losses))]).max() <= 0.1
    for step in (0.001, -0.001):
        for weights in found + step * np.eye(2):
            assert plain_loss(weights, network, ngram, answers) > least


def test_where_nothing_is_to_be_decided_the_network_stays_alone():
    none = np.zeros((7, 1))
    np.testing.assert_allclose(mixing._fit(none, none, np.zeros(7, int)), [1, 0])
    even = np.log(np.full((7, 3), 1 / 3))
    np.testing.assert_allclose(mixing._fit(even, even, np.zeros(7, int)), [1, 0])


def test_the_weights_stay_finite_where_every_answer_is_certain():
    rows = log_softmax(np.array([[0.0, -1e-3], [0.0, -80.0]] * 200))
    found = mixing._fit(rows, rows, np.zeros(400, int))
    assert np.isfinite(found).all()
    assert found.max() < 1e4
    worst = mixing._fit(rows, rows, np.ones(400, int))
    assert np.isfinite(worst).all()


def test_both_weights_are_those_of_the_fit(run, monkeypatch):
    network, ngram, answers = found_by(run, monkeypatch)
    monkeypatch.undo()
    found = mixing._fit(network, ngram, answers)
    mixed = generator_with(run, K)[0]
    assert mixed.counts.order == K
    assert len(mixed.counts.longest) == len(training_ids(run))  # Nothing that was held out.
    dense, scaled = (jax.device_get(generator.params["dense"]["kernel"]) for generator in (run.generator()[0], mixed))
    np.testing.assert_allclose(scaled, dense * found[0], rtol=1e-4)
    np.testing.assert_allclose(mixed.params["ngram_gate"]["bias"], found[1], rtol=1e-3)
    assert found[1] > 0.01


def test_the_memory_that_the_fit_takes_is_bounded(stream, monkeypatch):
    monkeypatch.setattr(mixing, "TAIL_TOKENS", 30)
    assert len(found_by(stream, monkeypatch)[2]) == 30
    monkeypatch.setattr(mixing, "TAIL_NUMBERS", 20 * len(stream.vocab))
    assert found_by(stream, monkeypatch)[0].shape == (20, len(stream.vocab))


@pytest.mark.parametrize("content", ["a" * 40, "ab" * 30, "ab"], ids=["one", "two", "short"])
def test_texts_of_few_characters_can_be_mixed(tmp_path, content):
    (tmp_path / "few.txt").write_text(content)
    config = dataclasses.replace(STREAM, epochs=1, length=1, validation=0.0, corpus=(str(tmp_path / "few.txt"),))
    jaxlm.train(config, run="few", checkpoints=tmp_path, reporter=None)
    text = jaxlm.load(tmp_path / "few", mix_ngram=16).generate("a", 20, seed=0)
    assert len(text) == 21
    assert set(text) <= set(content)


@pytest.mark.parametrize("protocol", ["carried", "cold-256", "window-60"])
def test_every_protocol_measures_the_mixture(stream, tmp_path, monkeypatch, protocol):
    with_weights(monkeypatch, (0.6, 0.5))
    ids = training_ids(stream)[:300]
    (tmp_path / "part.txt").write_text(stream.vocab.decode(ids.tolist()))
    losses = {
        "carried": lambda: plain_rows(stream, ids[:-1], (0.6, 0.5))[np.arange(299), ids[1:]],
        "cold-256": lambda: np.concatenate(
            [
                plain_rows(stream, part[:-1], (0.6, 0.5))[np.arange(len(part) - 1), part[1:]]
                for part in (ids[:257], ids[256:])
            ]
        ),
        "window-60": lambda: np.array(
            [plain_rows(stream, ids[i : i + 60], (0.6, 0.5))[-1, ids[i + 60]] for i in range(0, 240, 3)]
        ),
    }
    found = jaxlm.evaluate(stream, corpus=tmp_path / "part.txt", protocol=protocol, mix_ngram=K)
    np.testing.assert_allclose(found.static.loss, -losses[protocol]().mean(), rtol=1e-5)


def test_dynamic_evaluation_adapts_the_mixture_and_its_counts(stream):
    mixed, ids = generator_with(stream, K)[0], training_ids(stream)
    held_out = stream.vocab.encode(split_text(WORDS + ".", 0.3)[1])
    squares = dynamic.mean_squares(
        mixed.model, mixed.params, ids, prior=lambda positions: prior_of(mixed.counts.left_out(positions))
    )
    scores = dynamic.score_dynamic(
        mixed.model,
        mixed.params,
        squares,
        held_out,
        prior=evaluation.growing(mixed.counts, ids, held_out),
    )
    found = jaxlm.evaluate(stream, dynamic=True, mix_ngram=K)
    assert found.static.loss == -mixed.score(stream.vocab.decode(held_out.tolist())).mean(dtype=float)
    assert found.dynamic.loss == -scores.mean(dtype=float)
    assert found.dynamic.loss != found.static.loss


def test_nothing_is_written_in_the_run(run):
    before = contents(run.path)
    jaxlm.load(run.path, mix_ngram=K).generate("the fox", 20)
    assert contents(run.path) == before


def test_a_mixture_of_order_0_is_the_model_alone(stream):
    assert generator_with(stream, 0)[0].counts is None
    assert jaxlm.load(stream.path).score(OTHER).tolist() == jaxlm.load(stream.path, mix_ngram=0).score(OTHER).tolist()


@pytest.mark.parametrize("order", [-1, 17, 2.5, "3", True])
def test_an_order_out_of_range_is_refused(stream, order):
    for call in (jaxlm.load, jaxlm.evaluate):
        with pytest.raises(jaxlm.InputError, match=r"mix_ngram: found .*, expected a whole number from 0 to 16"):
            call(stream.path, mix_ngram=order)


def test_a_network_with_n_grams_of_its_own_takes_no_other(folder):
    config = dataclasses.replace(STREAM, corpus=(str(folder / "words.txt"),), epochs=1)
    config = dataclasses.replace(config, model=jaxlm.ModelConfig(hidden=4, ngram=2))
    jaxlm.train(config, run="own", checkpoints=folder, reporter=None)
    for call in (jaxlm.load, jaxlm.evaluate):
        with pytest.raises(jaxlm.InputError, match=r"^mix_ngram: found 3, expected 0 for run .*own, whose network"):
            call(folder / "own", mix_ngram=3)
    assert commands.sample(["--run", str(folder / "own"), "--mix-ngram", "3"]) == 2


def test_the_corpus_must_be_there_as_it_was(changing, tmp_path, capsys):
    run, path = changing
    path.write_text(WORDS + "!")
    for command in (commands.sample, commands.evaluate):
        for words in ("not the same text as", "found nothing there"):
            assert command(["--run", str(run.path), "--mix-ngram", "3"]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            assert words in err
            path.unlink(missing_ok=True)
        path.write_text(WORDS + "!")
    path.unlink()
    (tmp_path / "other.txt").write_text(OTHER)
    with pytest.raises(jaxlm.InputError, match=r"found nothing there, .*; run .* learned from it: restore it$"):
        jaxlm.load(run.path, mix_ngram=3)
    with pytest.raises(jaxlm.InputError, match=r"learned from it: restore it$"):
        jaxlm.evaluate(run, corpus=tmp_path / "other.txt", mix_ngram=3)
    assert jaxlm.evaluate(run, corpus=tmp_path / "other.txt").static.loss > 0  # Alone, it does without.


def test_the_commands_mix(stream, capsys):
    named = ["--run", str(stream.path), "--mix-ngram", "3"]
    assert commands.sample([*named, "-p", "the fox", "-l", "30", "--seed", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == jaxlm.load(stream.path, mix_ngram=3).generate("the fox", 30, seed=5) + "\n"
    assert out != jaxlm.load(stream.path).generate("the fox", 30, seed=5) + "\n"
    assert ", n-gram of order 3 mixed in, seed 5" in err
    assert commands.evaluate(named) == 0
    out, _ = capsys.readouterr()
    loss = jaxlm.evaluate(stream, mix_ngram=3).static.loss
    assert f"Nats per character:  {loss:.4f}\n" in out
    assert re.search(r"^Run: .*, n-gram of order 3 mixed in$", out, re.MULTILINE)
    assert loss != jaxlm.evaluate(stream).static.loss
