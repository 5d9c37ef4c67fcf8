"""Runs that take n-grams: they carry their training text, resume exactly, and never count what is held out."""

import dataclasses
import hashlib
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import TEXT, SignalAt, assert_same_run, contents, metrics

import jaxlm
from jaxlm.cli import commands
from jaxlm.errors import InputError
from jaxlm.nn import counts as counts_room
from jaxlm.nn import dynamic, scoring, training
from jaxlm.runs.run import Record, Run, now
from jaxlm.runs.trainer import resume, train
from jaxlm.text.batches import split_text
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

STEPS = 16
"""In an epoch: 928 characters of training text, 104 of validation text."""

CONFIG = dataclasses.replace(
    jaxlm.SIZES["small"],
    epochs=3,
    length=10,
    batch=6,
    average=0.9,
    reset=0.1,
    weight_decay=0.01,
    model=jaxlm.ModelConfig(8, 2, 5, ngram=4, dropout=0.2, output_dropout=0.1, recurrent_dropout=0.2),
)


@pytest.fixture
def config(corpus):
    return dataclasses.replace(CONFIG, corpus=(str(corpus),))


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """The directory of a finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("counted")
    (folder / "fox.txt").write_text(TEXT)
    train(dataclasses.replace(CONFIG, corpus=(str(folder / "fox.txt"),)), run="fox", checkpoints=folder)
    return folder / "fox"


@pytest.fixture
def copied(counted, tmp_path):
    return Path(shutil.copytree(counted, tmp_path / "copied"))


@pytest.mark.parametrize("reported", [1, STEPS - 1, 2 * STEPS + 3])
def test_stopped_and_resumed_equals_never_stopped(config, counted, tmp_path, one_at_a_time, reported):
    with pytest.raises(KeyboardInterrupt):
        train(config, run="fox", checkpoints=tmp_path, reporter=SignalAt(reported, signal.SIGINT))
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", counted)


def test_blocks_of_few_steps_change_nothing(config, counted, tmp_path, monkeypatch):
    size = len(jaxlm.Run.open(counted).vocab)
    monkeypatch.setattr(training, "PRIOR_BYTES", 3 * 4 * config.batch * config.length * size)
    assert training.block_steps(config, size) == 3
    train(config, run="fox", checkpoints=tmp_path)
    assert_same_run(tmp_path / "fox", counted)


def test_only_the_training_text_is_counted(counted):
    run, generator = jaxlm.Run.open(counted), jaxlm.load(counted)
    text, held_out = split_text(TEXT, CONFIG.validation)
    np.testing.assert_array_equal(run.ids(), run.vocab.encode(text))
    expected = NGram.count(run.vocab.encode(text), len(run.vocab), 4)
    np.testing.assert_array_equal(generator.counts.counts, expected.counts)
    scores = scoring.score_carried(generator.model, generator.params, run.vocab.encode(held_out), counts=expected).mean(
        dtype=float
    )
    best = min(metrics(counted), key=lambda line: line["validation_loss"])
    np.testing.assert_allclose(-scores, best["validation_loss"], rtol=1e-5)
    assert jaxlm.evaluate(counted).static.loss == pytest.approx(best["validation_loss"], rel=1e-5)


def test_a_run_loads_without_its_corpus_and_says_the_same(counted, copied, monkeypatch):
    def texts(path):
        return jaxlm.load(path).generate_batch(2, "The ", 60, seed=0, temperature=1.0)

    expected = texts(counted)
    (counted.parent / "fox.txt").rename(counted.parent / "elsewhere.txt")
    try:
        assert texts(copied) == expected
        exported = jaxlm.Run.open(copied).export(copied.parent / "exported")
    finally:
        (counted.parent / "elsewhere.txt").rename(counted.parent / "fox.txt")
    assert texts(exported.path) == expected
    assert (exported.path / "text.ids").read_bytes() == (copied / "text.ids").read_bytes()


def test_text_is_stored_only_where_it_is_needed(trained, counted):
    assert "text.ids" not in contents(trained)
    run = jaxlm.Run.open(trained)
    assert len(run.ids()) == 0
    assert run.counts() is None
    assert (counted / "text.ids").stat().st_size == len(split_text(TEXT, CONFIG.validation)[0])


@pytest.mark.parametrize("harm", ["flipped", "shorter", "missing", "a folder", "a link"])
def test_a_text_that_is_not_what_was_stored_is_one_line(copied, tmp_path, capsys, harm):
    path = copied / "text.ids"
    content = path.read_bytes()
    path.unlink()
    if harm == "flipped":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif harm == "shorter":
        path.write_bytes(content[:-1])
    elif harm == "a folder":
        path.mkdir()
    elif harm == "a link":
        (tmp_path / "same").write_bytes(content)
        path.symlink_to(tmp_path / "same")
    before = contents(copied)
    for load in (
        lambda: jaxlm.load(copied),
        lambda: jaxlm.Run.open(copied).export(tmp_path / "exported"),
        lambda: resume(copied, epochs=4),
    ):
        with pytest.raises(InputError, match=r"run .*copied: .*text.ids") as error:
            load()
        assert "\n" not in str(error.value)
    assert commands.sample(["--run", str(copied)]) == 2
    assert "text.ids" in capsys.readouterr().err
    assert contents(copied) == before
    assert not (tmp_path / "exported").exists()


def test_a_run_that_names_no_text_is_refused(copied):
    run = jaxlm.Run.open(copied)
    run.text = ""
    run.write_record(run.record)
    with pytest.raises(InputError, match=r"config.json and its ngram disagree on whether there is a text.ids"):
        jaxlm.Run.open(copied)


@pytest.mark.parametrize("content", ["a token that the vocabulary lacks", "half a token"])
def test_a_text_that_was_sealed_with_what_it_cannot_hold_is_one_line(tmp_path, content):
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # Two bytes a token.
    vocab = Vocab.build("char", characters)
    record = Record(dataclasses.replace(CONFIG, corpus=("x",)), "x", 300, "0" * 64, "x", now())
    run = Run.create(tmp_path / "foreign", record, vocab, vocab.encode(characters))
    np.testing.assert_array_equal(run.ids(), np.arange(300))
    stored = np.array([1, 300], "<u2").tobytes() if "lacks" in content else b"\1\0\2"
    (run.path / "text.ids").write_bytes(stored)
    run.text = hashlib.sha256(stored).hexdigest()
    run.write_record(record)
    with pytest.raises(
        InputError, match=r"run .*foreign: text.ids (has tokens that vocab.json lacks|does not end with)"
    ):
        Run.open(run.path).counts()


def test_an_ngram_cannot_be_mixed_in_twice_whether_or_not_the_corpus_is_there(copied, capsys):
    run = jaxlm.Run.open(copied)
    run.write_record(
        dataclasses.replace(run.record, config=dataclasses.replace(run.record.config, corpus=("gone.txt",)))
    )
    for command in (commands.sample, commands.evaluate):
        assert command(["--run", str(copied), "--mix-ngram", "3"]) == 2
        assert "mix_ngram: found 3, expected 0 for run" in capsys.readouterr().err


def test_dynamic_evaluation_counts_what_it_has_read(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic, "EPSILON", 1e9)  # So that the weights stay, which have learned the text by heart.
    dynamic.adapt.__wrapped__.clear_cache()
    (tmp_path / "another.txt").write_text("dog over fox jugs. " * 120)
    found = jaxlm.evaluate(counted, corpus=str(tmp_path / "another.txt"), dynamic=True)
    dynamic.adapt.__wrapped__.clear_cache()
    assert found.dynamic.loss < 0.6 * found.static.loss
    assert found.dynamic.tokens == found.static.tokens


@pytest.mark.parametrize("tokens", ["byte", "word"])
def test_any_tokens_can_be_counted(corpus, tmp_path, tokens):
    words = {"words": 30} if tokens == "word" else {}
    config = dataclasses.replace(CONFIG, corpus=(str(corpus),), tokens=tokens, epochs=1, **words)
    generator = train(config, run="fox", checkpoints=tmp_path)
    text = generator.generate("The ", 50, seed=0)
    assert jaxlm.load(tmp_path / "fox").generate("The ", 50, seed=0) == text
    assert counts_room.make_table(generator.counts).whole.shape[1] == len(generator.vocab)
