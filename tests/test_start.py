"""Runs that start from the weights of another run."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from helpers import TEXT, SignalAt, assert_same, assert_same_run, contents, metrics
from reference import log_softmax
from reference import logits as numpy_logits

import jaxlm
from jaxlm.cli import commands
from jaxlm.errors import Diverged, InputError
from jaxlm.nn.model import NEW_SHARE, extended
from jaxlm.runs import arrays
from jaxlm.runs import trainer as run_lib
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.run import Run
from jaxlm.runs.trainer import resume, train
from jaxlm.text.vocab import Vocab

OTHER = "Wörter: the lazy fox — déjà vu! The quick dog jumps over five boxes of jugs. " * 12
"""A text with words of TEXT, and characters that it lacks."""


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.txt"
    path.write_text(OTHER, encoding="utf-8")
    return path


@pytest.fixture
def config(trained, other):
    asked = {"corpus": str(other), "learning_rate": 0.003, "validation": 0.1}
    return jaxlm.config.started(Run.open(trained).record.config, None, None, asked)


@pytest.mark.parametrize("ours", [{"precision": "bfloat16"}, {"impl": "scan"}])
def test_what_the_other_s_machine_did_best_is_not_taken_over(config, ours):
    parent, corpus = dataclasses.replace(config, **ours), {"corpus": config.corpus}
    start = jaxlm.config.started(parent, None, None, corpus)
    assert (start.precision, start.impl) == ("float32", "auto")
    asked = jaxlm.config.started(parent, None, None, {**corpus, **ours})
    assert {name: getattr(asked, name) for name in ours} == ours


@pytest.mark.parametrize("embedding", [0, 5])
@pytest.mark.parametrize("more", [1, 40])
def test_old_tokens_keep_their_predictions_but_for_the_share_of_the_new(embedding, more):
    V, B, T = 9, 4, 7
    known, wider = (jaxlm.LanguageModel(size, jaxlm.ModelConfig(12, embedding=embedding)) for size in (V, V + more))
    draw = np.random.default_rng(0)
    # As wild as weights get: some contexts are all but certain.
    shapes = jax.eval_shape(known.init_params, jax.random.key(0))
    params = jax.tree.map(lambda leaf: draw.normal(0, 3, leaf.shape).astype(np.float32), shapes)
    fresh = jax.device_get(wider.init_params(jax.random.key(1)))
    grown = extended(params, fresh)
    tokens = draw.integers(0, V, (B, T))
    before = log_softmax(numpy_logits(params, tokens, V).astype(float))
    after = log_softmax(numpy_logits(grown, tokens, V + more).astype(float))
    share = np.exp(after[..., V:]).sum(-1, keepdims=True)
    assert 0 < share.min() < share.max() <= NEW_SHARE
    np.testing.assert_allclose(after[..., :V], before + np.log1p(-share), atol=1e-4)
    # What enters for a new token is what an untrained network has there.
    rows = (lambda tree: tree["embed"]["embedding"]) if embedding else (lambda tree: tree["lstm_0"]["ig"]["kernel"])
    assert_same(rows(grown)[V:], rows(fresh)[V:])
    assert_same(rows(grown)[:V], rows(params))


def test_a_vocabulary_is_extended_behind_its_own_tokens():
    assert Vocab("char", tuple("ab ")).extended("eab dc") == Vocab("char", tuple("ab cde"))
    words = Vocab("word", (*"ab", "abba"))
    assert words.extended("abba caab") == Vocab("word", (*"ab", "abba", " ", "c"))
    assert Vocab.build("byte", "").extended("ä") == Vocab.build("byte", "")


def test_tokens_of_a_vocabulary_in_any_order_are_encoded():
    vocab = Vocab("char", tuple("ca bé"))
    assert vocab.encode("abc é").tolist() == [1, 3, 0, 2, 4]
    assert vocab.decode(vocab.encode("é cab")) == "é cab"
    with pytest.raises(InputError, match=r"'d' \(U\+0064\)"):
        vocab.encode("abd")


def test_it_starts_from_the_best_weights_of_the_other(trained, config, other, tmp_path):
    parent = Run.open(trained)
    train(config, run="new", checkpoints=tmp_path, start_from=parent)
    run = Run.open(tmp_path / "new")
    assert run.vocab.tokens[: len(parent.vocab)] == parent.vocab.tokens
    assert set(run.vocab.tokens) == set(TEXT.lower()) | set(OTHER.lower())
    values = json.loads((run.path / "config.json").read_text())
    assert (values["parent"], values["parent_weights"]) == ("fox", arrays.weights_digest(parent.weights()[0]))
    # From random weights, with the same settings, nothing like that is reached.
    train(config, run="alone", checkpoints=tmp_path)
    assert metrics(run.path)[0]["loss"] < metrics(tmp_path / "alone")[-1]["loss"]


def test_what_it_started_from_is_sealed(trained, config, tmp_path):
    train(config, run="new", checkpoints=tmp_path, start_from=Run.open(trained))
    path = tmp_path / "new" / "config.json"
    path.write_text(path.read_text().replace('"parent": "fox"', '"parent": "box"'))
    with pytest.raises(InputError, match=r"config.json has changed since it was saved"):
        Run.open(path.parent)


@pytest.mark.parametrize("reported", [1, 7, 12])
def test_stopped_and_resumed_without_the_other_equals_never_stopped(trained, config, tmp_path, one_at_a_time, reported):
    config = dataclasses.replace(config, average=0.9)
    parent = shutil.copytree(trained, tmp_path / "parent")
    train(config, run="whole", checkpoints=tmp_path, start_from=Run.open(parent))
    reporter = SignalAt(reported, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, run="new", checkpoints=tmp_path, reporter=reporter, start_from=Run.open(parent))
    shutil.rmtree(parent)
    resume(tmp_path / "new")
    assert_same_run(tmp_path / "new", tmp_path / "whole")


def test_a_divergence_in_the_first_epoch_goes_back_to_the_others_weights(trained, config, tmp_path, monkeypatch):
    """Also once later checkpoints of that epoch have been saved, and with the weights restored from the disk."""
    monkeypatch.setattr(run_lib, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(run_lib, "CALL_SECONDS", 0.0)
    started = []
    original = run_lib.Trainer._train

    def observed(self, state, progress, saver):
        started.append((state, progress))
        original(self, state, progress, saver)

    class Trouble(Reporter):
        def step(self, step, loss):
            if step == 9 and len(started) == 1:
                raise Diverged("step 9: as told")

    monkeypatch.setattr(run_lib.Trainer, "_train", observed)
    train(config, run="new", checkpoints=tmp_path, start_from=Run.open(trained), reporter=Trouble())
    [(first, begun), (second, again)] = started
    assert (begun.step, again.step, again.cuts) == (0, 0, 1)
    assert_same(tuple(first), tuple(second))


def test_what_cannot_be_saved_at_its_start_leaves_nothing(trained, config, tmp_path, monkeypatch):
    def refuse(path, items):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays, "save", refuse)
    with pytest.raises(
        jaxlm.RunError, match=r"run .*new: checkpoint 0 could not be written \(.*No space left"
    ) as error:
        train(config, run="new", checkpoints=tmp_path / "runs", start_from=Run.open(trained))
    assert ".jaxlm-new" not in str(error.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_fails_before_its_first_step_leaves_nothing(trained, config, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lib.Trainer, "run", lambda self: (_ for _ in ()).throw(jaxlm.RunError("no memory")))
    with pytest.raises(jaxlm.RunError, match="no memory"):
        train(config, run="new", checkpoints=tmp_path / "runs", start_from=Run.open(trained))
    assert list((tmp_path / "runs").iterdir()) == []


def test_counts_are_made_anew(tmp_path, corpus, other):
    settings = {"recipe": "stream", "epochs": 1, "length": 10, "batch": 6, "hidden": 8, "ngram": 3, "reporter": None}
    jaxlm.train(str(corpus), run="old", checkpoints=tmp_path, **settings)
    jaxlm.train(str(other), run="new", checkpoints=tmp_path, start_from="old", reporter=None)
    old, new = (Run.open(tmp_path / name) for name in ("old", "new"))
    held_out = new.record.config.validation
    assert held_out == 0.1
    assert new.vocab.decode(new.ids()) == OTHER[: len(new.ids())]
    first, _ = new.storage.restore({"params": new.weights()[0]}, best=False)
    assert set(first["params"]) == set(old.weights()[0])
    # The learning rate is a third, all else the other's.
    assert new.record.config == dataclasses.replace(
        old.record.config, corpus=new.record.config.corpus, learning_rate=0.015 / 3
    )


ASKED = {
    "--hidden 20": "the weights to start from decide hidden 20 instead of 16; leave that out",
    "--tokens word": "the weights to start from decide tokens 'word' instead of 'char'",
    "--recipe stream --ngram 3": "ngram: the run to start from takes no counts of n-grams, this one would",
    "--size medium": "size: 'medium' has no effect for a run that starts from another's weights",
    "--resume": "start_from: '{}' has no effect with --resume",
}


@pytest.mark.parametrize(("flags", "message"), ASKED.items())
def test_what_the_weights_decide_is_refused_in_one_line(trained, other, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert commands.train(["--corpus", str(other), "--start-from", str(trained), *flags.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message.format(trained) in line
    assert contents(tmp_path) == before


def test_a_text_of_its_own_is_needed(trained, capsys):
    assert commands.train(["--start-from", str(trained)]) == 2
    assert "corpus: expected a text to train on" in capsys.readouterr().err


def test_counts_that_are_left_out_are_told(tmp_path, corpus, other):
    settings = {"recipe": "stream", "epochs": 1, "length": 10, "batch": 6, "hidden": 8, "reporter": None}
    jaxlm.train(str(corpus), run="old", checkpoints=tmp_path, ngram=3, **settings)
    for order, told in (
        (0, "ngram: the run to start from takes counts of n-grams"),
        (4, "decide ngram 4 instead of 3"),
    ):
        with pytest.raises(InputError, match=told):
            jaxlm.train(str(other), checkpoints=tmp_path, start_from="old", ngram=order, reporter=None)


def test_another_recipe_keeps_the_network_and_the_text(trained, other, tmp_path):
    model = jaxlm.train(
        str(other), recipe="stream", epochs=1, run="new", checkpoints=tmp_path, start_from=trained, reporter=None
    )
    found, parent = Run.open(tmp_path / "new").record.config, Run.open(trained).record.config
    assert (found.model, found.lowercase) == (parent.model, True)
    assert (found.optimizer, found.stride, model.mode) == ("adam", None, "state")
