"""Averages of runs, against the geometric mean of the members' own probabilities."""

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


def mean_of(members, rows):
    """The logarithm of the normalised geometric mean of the members' probabilities, after each token of some texts.

    Args:
      rows: int[S, T].

    Returns:
      float[S, T, V].
    """
    each = []
    for one in members:
        prior = prior_within(one.counts, rows)
        read = jax.jit(one.model.apply, static_argnums=3)
        logits, _ = read({"params": one.params}, rows, one.model.initial_carry(len(rows)), False, prior)
        each.append(log_softmax(np.asarray(logits, float)))
    return log_softmax(np.mean(each, 0))


@pytest.mark.parametrize(
    ("protocol", "starts", "length", "first"),
    [("carried", [0], 359, 0), ("cold-256", [0, 256], 256, 0), ("window-60", range(0, 300, 3), 60, 59)],
)
def test_a_score_is_that_of_the_normalised_geometric_mean(several, protocol, starts, length, first):
    average, members = several
    ids = average.vocab.encode(OTHER * 5)
    assert len(ids) == 360
    padded = np.pad(ids, (0, length))
    means = mean_of(members, np.stack([padded[start : start + length] for start in starts]))
    after = np.stack([padded[start + 1 : start + length + 1] for start in starts])
    expected = np.take_along_axis(means, after[..., None], 2)[:, first:].ravel()
    found = PROTOCOLS[protocol](average.model, average.params, ids, counts=average.counts)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)
    assert len(found) == {"carried": 359, "cold-256": 359, "window-60": 100}[protocol]


def test_greedy_text_takes_what_is_most_probable_on_average(several):
    average, members = several
    ids = average.vocab.encode(average.generate("The", 30, temperature=0, mode="state"))
    np.testing.assert_array_equal(ids[3:], mean_of(members, ids[None])[0, 2:-1].argmax(1))
    ids = average.vocab.encode(average.generate("The quick ", 30, temperature=0, mode="window"))
    windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], average.length)
    assert average.length == 10
    np.testing.assert_array_equal(ids[10:], mean_of(members, windows)[:, -1].argmax(1))


def test_a_run_that_is_named_twice_counts_twice_and_is_computed_once(folder):
    average = jaxlm.load([folder / "counted", folder / "book", folder / "counted"])
    assert [member.config.ngram for member in average.model.members] == [3, 0]
    assert average.model.weights == (2 / 3, 1 / 3)


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
