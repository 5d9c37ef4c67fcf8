"""Averages of runs, against the mean of the members' own probabilities."""

import dataclasses
import random

import jax
import numpy as np
import pytest
from helpers import TEXT
from reference import log_softmax

import jaxlm
from jaxlm.cli import commands
from jaxlm.nn import dynamic
from jaxlm.nn.counts import prior_within
from jaxlm.nn.scoring import PROTOCOLS
from jaxlm.runs.mixing import generator_of, open_trained

STREAM = dataclasses.replace(
    jaxlm.SIZES["small"],
    epochs=1,
    length=10,
    batch=4,
    validation=0.3,
    model=jaxlm.ModelConfig(hidden=16, embedding=8, ngram=3),
)
PLAIN = dataclasses.replace(STREAM, seed=1, model=jaxlm.ModelConfig(hidden=8, layers=2))
BOOK = dataclasses.replace(
    jaxlm.BOOK, epochs=1, length=10, batch=32, lowercase=False, validation=0.3, model=jaxlm.ModelConfig(hidden=16)
)
WORDS = " ".join(random.Random(0).sample(TEXT.split(), 200)) + "."
OTHER = "The dog and the fox jump over five lazy jugs. Pack quickly the brown box"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directories of trained runs, not to be changed."""
    folder = tmp_path_factory.mktemp("averaged")
    (folder / "words.txt").write_text(WORDS)
    (folder / "more.txt").write_text(WORDS + " " + WORDS)
    (folder / "digits.txt").write_text(WORDS + " 0123456789")
    for name, config, text in (
        ("counted", STREAM, "words"),
        ("plain", PLAIN, "words"),
        ("book", BOOK, "words"),
        ("more", PLAIN, "more"),
        ("digits", PLAIN, "digits"),
        ("lower", dataclasses.replace(PLAIN, lowercase=True), "lower"),
    ):
        (folder / "lower.txt").write_text(WORDS.lower())
        config = dataclasses.replace(config, corpus=(str(folder / f"{text}.txt"),))
        jaxlm.train(config, run=name, checkpoints=folder, reporter=None)
    unlike = dataclasses.replace(PLAIN, corpus=(str(folder / "lower.txt"),))
    jaxlm.train(unlike, run="as it is", checkpoints=folder, reporter=None)
    return folder


@pytest.fixture(params=[("counted", "plain"), ("plain", "book"), ("counted", "counted", "book")], ids=" ".join)
def several(folder, request):
    """The average of some runs, and its members."""
    runs = open_trained([folder / name for name in request.param])
    return generator_of(runs)[0], [generator_of([run])[0] for run in runs]


def log_mean(scores):
    return np.logaddexp.reduce(np.asarray(scores, float)) - np.log(len(scores))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_score_is_the_logarithm_of_the_mean_probability(several, protocol):
    average, members = several
    ids = average.vocab.encode(OTHER * 5)
    found = PROTOCOLS[protocol](average.model, average.params, ids, counts=average.counts)
    each = [PROTOCOLS[protocol](one.model, one.params, ids, counts=one.counts) for one in members]
    np.testing.assert_allclose(found, log_mean(each), atol=1e-5)


@pytest.mark.parametrize("mode", ["state", "window"])
def test_greedy_text_takes_what_is_most_probable_on_average(several, mode):
    average, members = several
    text = average.generate("The", 30, temperature=0, mode=mode)
    ids = average.vocab.encode(text)
    for end in range(3, len(ids)):
        read = ids[max(0, end - average.length) if mode == "window" else 0 : end][None]
        logits = []
        for one in members:
            prior = prior_within(one.counts, read)
            found, _ = one.model.apply({"params": one.params}, read, one.model.initial_carry(1), False, prior)
            logits.append(np.asarray(found)[0, -1])
        assert ids[end] == log_mean(log_softmax(np.array(logits))).argmax()


def test_the_average_of_a_run_and_itself_writes_its_texts(folder):
    alone, twice = (jaxlm.load([folder / "counted"] * count) for count in (1, 2))
    assert twice.generate_batch(3, "The", 100, temperature=1.0, seed=5) == alone.generate_batch(
        3, "The", 100, temperature=1.0, seed=5
    )
    assert alone.generate("The", 300, seed=5) == jaxlm.load(folder / "counted").generate("The", 300, seed=5)


def test_dynamic_evaluation_starts_from_the_average_and_learns(folder):
    average = jaxlm.load([folder / "plain", folder / "book"])
    ids = average.vocab.encode(OTHER * 5)
    static = PROTOCOLS["carried"](average.model, average.params, ids, counts=average.counts)
    priors = {"prior": lambda _: average.counts}
    squares = dynamic.mean_squares(average.model, average.params, average.vocab.encode(WORDS), **priors)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool((leaf > 0).any()), squares))
    still = dynamic.score_dynamic(average.model, average.params, squares, ids, learning_rate=0.0, **priors)
    np.testing.assert_allclose(still, static, atol=1e-5)
    moving = dynamic.score_dynamic(average.model, average.params, squares, ids, learning_rate=5e-3, **priors)
    assert moving.mean() > static.mean() + 0.02


def test_an_average_is_evaluated_on_what_all_its_runs_held_out(folder):
    paths = [folder / name for name in ("counted", "plain")]
    found = jaxlm.evaluate(paths, dynamic=True, baseline="ngram")
    assert found.runs == tuple(map(str, paths))
    assert [progress.epoch for progress in found.progress] == [1, 1]
    held_out = WORDS[int(len(WORDS) * 0.7) :]
    average = jaxlm.load(paths)
    assert found.characters == len(held_out)
    assert found.static.loss == pytest.approx(-average.score(held_out).mean(dtype=float), abs=1e-6)
    assert found.dynamic.loss != found.static.loss


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["plain", "digits"], "different vocabularies, expected one vocabulary"),
        (["lower", "as it is"], "different settings of lowercase, normalize, units or notation, expected the same"),
    ],
)
def test_runs_that_cannot_be_averaged_are_named(folder, names, words, capsys):
    for command in (commands.sample, commands.evaluate):
        assert command(["--run", *names, "--checkpoints", str(folder)]) == 2
        out, message = capsys.readouterr()
        assert not out
        assert message.count("\n") == 1
        assert words in message
        assert all(str(folder / name) in message for name in names)


def test_runs_of_different_texts_need_a_text_to_be_evaluated_on(folder, capsys):
    runs = ["--run", "plain", "more", "--checkpoints", str(folder)]
    assert commands.evaluate(runs) == 2
    message = capsys.readouterr().err
    assert "which learned from different texts" in message
    assert message.endswith("name a text with corpus\n")
    (folder / "other.txt").write_text(OTHER)
    assert commands.evaluate([*runs, "--corpus", str(folder / "other.txt")]) == 0
    assert "average of 2 runs: " in capsys.readouterr().out


def test_sample_tells_which_runs_it_averages(folder, capsys):
    arguments = ["--checkpoints", str(folder), "--prompt", "The", "--length", "50", "--seed", "1"]
    assert commands.sample(["--run", "counted", "plain", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out == jaxlm.load([folder / "counted", folder / "plain"]).generate("The", 50, seed=1) + "\n"
    assert "average of 2 runs: " in err
    assert err.count("epoch 1 (best: validation loss ") == 2
