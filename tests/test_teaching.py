"""Teachers: what they expect, how a run learns from it, and resuming."""

import dataclasses
import itertools
import random
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TEXT, SignalAt, assert_same

import jaxlm
from jaxlm.cli import commands
from jaxlm.nn.metrics import cross_entropy_sum, nll_sum
from jaxlm.nn.training import TEACHER_SHARE, Batches, summed_loss
from jaxlm.runs.data import Data, own_corpus
from jaxlm.runs.mixing import generator_of, left_out, open_trained
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.run import Run
from jaxlm.runs.stop import Stop
from jaxlm.runs.teaching import CALL_TOKENS, Teacher, open_teacher
from jaxlm.runs.trainer import Trainer, resume, train
from jaxlm.text.batches import Streams

STREAM = dataclasses.replace(
    jaxlm.SIZES["small"],
    epochs=2,
    length=10,
    batch=4,
    validation=0.3,
    model=jaxlm.ModelConfig(hidden=16, embedding=8, ngram=3),
)
PLAIN = dataclasses.replace(STREAM, seed=1, model=jaxlm.ModelConfig(hidden=8))
WORDS = " ".join(random.Random(0).choices(TEXT.split(), k=300)) + "."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directories of trained runs, not to be changed."""
    folder = tmp_path_factory.mktemp("taught")
    (folder / "words.txt").write_text(WORDS)
    (folder / "more.txt").write_text(WORDS + " 0123")
    (folder / "other.txt").write_text(WORDS[::-1])
    for name, config, text in (
        ("counted", STREAM, "words"),
        ("plain", PLAIN, "words"),
        ("digits", PLAIN, "more"),
        ("other", PLAIN, "other"),
        ("longer", dataclasses.replace(PLAIN, validation=0.2), "words"),
    ):
        config = dataclasses.replace(config, corpus=(str(folder / f"{text}.txt"),))
        train(config, run=name, checkpoints=folder)
    return folder


def taught(folder, *teachers, **changes):
    """The settings of a run that learns from others."""
    own = {"corpus": (str(folder / "words.txt"),), "teacher": tuple(str(folder / name) for name in teachers) or None}
    return dataclasses.replace(STREAM, **{**own, **changes})


def data_of(config, run):
    return Data.of(config, own_corpus(run, ""), run.vocab, run.record.mixed)


@pytest.mark.parametrize("names", [("counted",), ("counted", "counted", "plain")], ids=" ".join)
def test_a_teacher_expects_what_it_predicts_without_the_position_itself_in_its_counts(folder, names):
    run = Run.open(folder / "counted")
    config = taught(folder, *names)
    data = data_of(config, run)
    found = open_teacher(config, [folder], data, run.vocab).expectations(data)
    generator, count = generator_of(open_trained(config.teacher))[0], len(data.ids)
    starts = Streams(count, CALL_TOKENS, mixed=False).starts(0, 0, count // CALL_TOKENS)
    assert len(starts) > 1
    positions = (starts[0][:, None] + np.arange(starts.size // len(starts[0]) * CALL_TOKENS)) % count
    prior = left_out(generator.counts, (positions + 1) % count)
    before = generator.model.initial_carry(len(positions))
    logits, _ = generator.model.apply({"params": generator.params}, data.ids[positions], before, False, prior)
    expected = np.zeros(found.shape)
    by_time = np.moveaxis(np.asarray(jax.nn.softmax(logits)), 1, 0)
    for after, rows in zip((positions.T + 1) % count, by_time, strict=True):
        expected[after] = rows
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(found.sum(1, dtype=float), 1, atol=2e-3)


@pytest.mark.parametrize("units", ["lines", "files"])
def test_a_teacher_forgets_where_a_new_document_begins(tmp_path, units):
    documents = [f"{WORDS[at : at + 30]}\n" for at in range(0, len(WORDS), 30)]
    for name, text in enumerate(documents if units == "files" else ["".join(documents)]):
        (tmp_path / f"{name:03}.txt").write_text(text)
    corpus = tuple(map(str, sorted(tmp_path.glob("*.txt"))))
    config = dataclasses.replace(PLAIN, units=units, epochs=4, corpus=corpus)
    train(config, run="taught", checkpoints=tmp_path)
    run = Run.open(tmp_path / "taught")
    data = data_of(config, run)
    teacher = open_teacher(dataclasses.replace(config, teacher=("taught",)), [tmp_path], data, run.vocab)
    found, generator, count = teacher.expectations(data), run.generator()[0], len(data.ids)
    rows = Streams(count, CALL_TOKENS, mixed=False).starts(0, 0, count // CALL_TOKENS)[0]
    begun, whole = np.flatnonzero(data.ids == run.vocab.ids["\n"]), 0
    assert data.begun is None or np.array_equal(np.flatnonzero(data.begun), begun)
    for first, last in itertools.pairwise(begun):
        if not np.any((first < rows) & (rows <= last)):  # Else a row begins in it, without a memory of its beginning.
            before = generator.model.initial_carry(1)
            logits, _ = generator.model.apply({"params": generator.params}, data.ids[None, first:last], before)
            np.testing.assert_allclose(found[first + 1 : last + 1], jax.nn.softmax(logits)[0], atol=1e-3)
            whole += 1
    assert whole > 15


@pytest.mark.parametrize("changes", [{"tokens": "word"}, {"tokens": "byte"}], ids=str)
def test_a_run_of_any_tokens_learns_from_another(tmp_path, changes):
    (tmp_path / "words.txt").write_text(WORDS)
    config = dataclasses.replace(STREAM, corpus=(str(tmp_path / "words.txt"),), **changes)
    teacher = train(config, run="teacher", checkpoints=tmp_path)
    text = WORDS[-300:]
    far = []
    for name, teachers in (("taught", ("teacher",)), ("alone", None)):
        own = dataclasses.replace(config, seed=5, epochs=6, teacher=teachers)
        found = train(own, run=name, checkpoints=tmp_path)
        far.append(np.abs(found.score(text) - teacher.score(text)).mean())
    assert far[0] < far[1]


def test_a_run_that_starts_from_another_learns_from_a_teacher_too(folder, tmp_path):
    config = taught(folder, "counted", model=PLAIN.model)
    train(config, run="fox", checkpoints=tmp_path, start_from=Run.open(folder / "plain"))
    train(
        dataclasses.replace(config, teacher=None),
        run="alone",
        checkpoints=tmp_path,
        start_from=Run.open(folder / "plain"),
    )
    record = Run.open(tmp_path / "fox").record
    assert record.parent == "plain"
    assert record.teacher_weights
    teacher, text = jaxlm.load(folder / "counted"), WORDS[-400:]
    fox, alone = (
        np.abs(jaxlm.load(tmp_path / name).score(text) - teacher.score(text)).mean() for name in ("fox", "alone")
    )
    assert fox < alone


def test_too_little_memory_for_a_teacher_is_one_line(folder):
    run = Run.open(folder / "counted")
    config = taught(folder, "plain")
    data = data_of(config, run)
    teacher = open_teacher(config, [folder], data, run.vocab)
    much = dataclasses.replace(data, ids=np.broadcast_to(np.int8(0), 10**14))
    with pytest.raises(jaxlm.RunError, match=r"^teacher: .* memory, 2 bytes for each of 100,000,000,000,000 tokens"):
        teacher.expectations(much)


def test_what_is_lowered_is_the_cross_entropy_relative_to_both():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
    expected = jnp.asarray(rng.dirichlet(np.ones(5), size=(3, 4)), jnp.float16)
    mask = jnp.array([True, False, True])
    log_q = np.asarray(logits, float) - np.logaddexp.reduce(np.asarray(logits, float), axis=-1, keepdims=True)
    by_hand = -(np.asarray(expected, float) * log_q).sum(-1)[[0, 2]].sum()
    assert float(cross_entropy_sum(logits, expected, mask)) == pytest.approx(by_hand, rel=1e-5)
    targets = jnp.asarray(rng.integers(5, size=(3, 4)))
    certain = jax.nn.one_hot(targets, 5, dtype=jnp.float16)
    nats, _ = nll_sum(logits, targets, mask)
    assert float(cross_entropy_sum(logits, certain, mask)) == pytest.approx(float(nats), rel=1e-6)


def test_a_teacher_changes_what_is_lowered_and_not_the_loss_that_is_told():
    model = jaxlm.LanguageModel(5, jaxlm.ModelConfig(hidden=4))
    params = model.init_params(jax.random.key(0))
    ids = jnp.array([0, 1, 2, 3, 4, 0, 2, 4, 1, 3])
    config = dataclasses.replace(PLAIN, length=3, model=jaxlm.ModelConfig(hidden=4))
    given = (model, config, params, jax.random.key(1), model.initial_carry(2), ids)
    starts = jnp.array([0, 5])
    uniform = jnp.full((2, 3, 5), 0.2, jnp.float16)
    alone, (nats, _, _) = summed_loss(*given, Batches(starts, None))
    lowered, (told, count, _) = summed_loss(*given, Batches(starts, None, None, uniform))
    assert float(alone) == float(nats) == float(told)
    assert float(count) == 6
    windows = ids[starts[:, None] + jnp.arange(3)[None]]
    logits = model.apply({"params": params}, windows, model.initial_carry(2))[0]
    soft = -float((0.2 * jax.nn.log_softmax(logits)).sum())
    assert float(lowered) == pytest.approx((1 - TEACHER_SHARE) * float(nats) + TEACHER_SHARE * soft, rel=1e-3)


def test_a_run_comes_nearer_to_its_teacher_than_one_that_has_none(folder, tmp_path):
    """With other initial weights, and as many epochs."""
    teacher = jaxlm.load(folder / "counted")
    text = WORDS[-400:]
    far = {}
    for name, config in (
        ("taught", taught(folder, "counted", seed=5, epochs=6)),
        ("alone", taught(folder, "counted", seed=5, epochs=6, teacher=None)),
    ):
        found = train(config, run=name, checkpoints=tmp_path)
        far[name] = np.abs(found.score(text) - teacher.score(text)).mean()
    assert far["taught"] < 0.8 * far["alone"]


def test_a_resumed_run_learns_from_its_teacher_as_if_it_had_never_stopped(folder, tmp_path):
    config = taught(folder, "counted", "plain")
    train(config, run="whole", checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, run="fox", checkpoints=tmp_path, reporter=SignalAt(7, signal.SIGINT))
    resume(tmp_path / "fox")
    whole, resumed = (Run.open(tmp_path / name).restore() for name in ("whole", "fox"))
    assert_same(resumed[0], whole[0])
    assert (
        Run.open(tmp_path / "fox").record.teacher_weights == Run.open(tmp_path / "whole").record.teacher_weights != ""
    )


def test_a_teacher_may_move_but_not_change(folder, tmp_path):
    for name in ("counted", "plain"):
        shutil.copytree(folder / name, tmp_path / name)
    train(taught(folder, teacher=("counted",)), run="fox", checkpoints=tmp_path)  # A name, beside the run.
    (tmp_path / "counted").rename(tmp_path / "moved")
    with pytest.raises(jaxlm.InputError, match="run counted: not found in"):
        resume(tmp_path / "fox", epochs=3)
    with pytest.raises(jaxlm.InputError, match=r"teacher: plain has changed since run .*fox began to learn from it"):
        resume(tmp_path / "fox", epochs=3, teacher=("plain",))
    with pytest.raises(jaxlm.InputError, match=r"teacher: found none, but run .*fox learns from one"):
        resume(tmp_path / "fox", epochs=3, teacher=None)
    with pytest.raises(jaxlm.InputError, match=r"teacher: moved plain has changed"):
        resume(tmp_path / "fox", epochs=3, teacher=("moved", "plain"))
    resume(tmp_path / "fox", epochs=3, teacher=("moved",))
    assert Run.open(tmp_path / "fox").record.config.teacher == ("moved",)


def test_each_token_of_a_batch_meets_what_is_expected_after_it(folder):
    run = Run.open(folder / "counted")
    config = taught(folder, "plain")
    data = data_of(config, run)
    teacher = open_teacher(config, [folder], data, run.vocab)
    trainer = Trainer(run, config, data, Reporter(), Stop(), teacher)
    trainer._read_with_teacher(0)
    starts = np.array([[0, 7, len(data.ids) - 3, 20], [10, 17, 7, 30]])
    found = trainer._expectations(starts)
    assert found.shape == (trainer._block, 4, config.length, len(run.vocab))
    for step, row, token in np.ndindex(2, 4, config.length):
        after = (starts[step, row] + token + 1) % len(data.ids)
        np.testing.assert_array_equal(found[step, row, token], trainer._expected[after])
    assert not found[2:].any()


def test_a_stop_while_the_teacher_reads_need_not_wait_for_it(folder, tmp_path, monkeypatch):
    reads = []

    def reading(self, data):
        reads.append(data)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the teacher has read on")

    config = taught(folder, "plain")
    train(config, run="fox", checkpoints=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Teacher, "expectations", reading)
        with pytest.raises(KeyboardInterrupt):
            train(config, run="new", checkpoints=tmp_path)
        assert not (tmp_path / "new").exists()
        resume(tmp_path / "fox")  # It is finished, and needs no teacher.
        assert len(reads) == 1
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "fox", epochs=3)
    resume(tmp_path / "fox", epochs=3)
    assert len(Run.open(tmp_path / "fox").metrics()) == 3


def test_a_run_without_a_teacher_is_not_given_one_on_the_way(folder, tmp_path):
    shutil.copytree(folder / "counted", tmp_path / "fox")
    with pytest.raises(
        jaxlm.InputError, match=r"teacher: found .*plain, but run .*fox began without one; leave it out"
    ):
        resume(tmp_path / "fox", epochs=3, teacher=(str(folder / "plain"),))


def test_a_teacher_is_known_by_its_weights_and_how_often_it_is_named(folder):
    run = Run.open(folder / "counted")
    data = data_of(taught(folder), run)
    named = [("counted", "plain"), ("plain", "counted"), ("counted", "counted", "plain"), ("plain",)]
    digests = [open_teacher(taught(folder, *names), [folder], data, run.vocab).digest for names in named]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (
            "digits",
            "with another vocabulary, expected that of the run to teach; train it with the same tokens",
        ),
        ("other", "with another training text, expected that of the run to teach; train it on the same text"),
        ("longer", "with another training text, expected that of the run to teach; train it on the same text"),
        ("nobody", "run nobody: not found in"),
    ],
)
def test_what_cannot_teach_is_named_and_nothing_is_written(folder, tmp_path, capsys, teacher, words):
    arguments = ["--recipe", "stream", "--run", str(tmp_path / "fox"), "--validation", "0.3", "--no-lowercase"]
    argv = [str(folder / "words.txt"), *arguments, "--teacher", str(folder / "plain"), str(folder / teacher)]
    assert commands.train(argv) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert words in message
    assert not (tmp_path / "fox").exists()


def test_the_book_recipe_has_no_teacher(folder):
    with pytest.raises(jaxlm.InputError, match=r"teacher: .* has no effect in the book recipe"):
        dataclasses.replace(jaxlm.BOOK, teacher=("plain",))


def test_the_plan_names_the_teacher_and_an_export_tells_no_folder(folder, tmp_path, capsys):
    argv = [str(folder / "words.txt"), "--recipe", "stream", "--validation", "0.3", "--no-lowercase", "--epochs", "1"]
    argv += ["--hidden", "8", "--run", str(tmp_path / "fox"), "--temperature", "--teacher", str(folder / "plain")]
    assert commands.train(argv) == 0
    printed = capsys.readouterr().out
    assert f"Teacher:             {folder / 'plain'}\n" in printed
    assert "Reading the text with the teacher, then compiling the training step..." in printed
    assert commands.export([str(tmp_path / "fox"), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--teacher=plain" in card
    assert "| Learned also from | plain |" in card
    assert str(folder) not in card
    exported = Run.open(tmp_path / "out").record.config
    assert (exported.teacher, exported.corpus) == (("plain",), (str(folder / "words.txt"),))
    pytest.importorskip("safetensors")
    plain = dataclasses.replace(PLAIN, corpus=(str(folder / "words.txt"),), teacher=(str(folder / "plain"),))
    run = Run.open(tmp_path / "fox")
    train(plain, run="plain", checkpoints=tmp_path)
    jaxlm.export(tmp_path / "plain", tmp_path / "plain.safetensors")
    held = (tmp_path / "plain.safetensors").read_bytes()
    assert str(folder).encode() not in held
    assert run.record.config.teacher == (str(folder / "plain"),)
