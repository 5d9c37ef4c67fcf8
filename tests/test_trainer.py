"""Runs: stopped, killed, damaged and extended ones end as if nothing had happened, or report what did."""

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import TEXT, SignalAt, assert_same, assert_same_run, contents, metrics, steps
from reference import log_softmax
from reference import logits as numpy_logits

import jaxlm
from jaxlm.cli import commands
from jaxlm.nn import sharding, training
from jaxlm.nn.model import build_model
from jaxlm.runs import files, storage
from jaxlm.runs import trainer as run_lib
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.run import unused_path
from jaxlm.runs.storage import Saver
from jaxlm.runs.trainer import RATE_CUT, resume, train
from jaxlm.text.batches import Streams

STEPS = 11
"""In an epoch of SMALL; the last batch is partial."""

ROOT = Path(__file__).parents[1]


# A step is reported once the next one is sent, or the epoch ends.
@pytest.mark.parametrize(
    ("reported", "saved"), [(1, 2), (STEPS - 1, STEPS), (STEPS, STEPS), (STEPS + 5, STEPS + 6), (22, 22)]
)
def test_stopped_and_resumed_equals_never_stopped(small, tmp_path, trained, one_at_a_time, reported, saved):
    with pytest.raises(KeyboardInterrupt):
        train(small, run="fox", checkpoints=tmp_path, reporter=SignalAt(reported, signal.SIGINT))
    _, progress = jaxlm.Run.open(tmp_path / "fox").restore()
    assert (progress.step, progress.epoch, progress.loss is None) == (saved, saved // STEPS, saved % STEPS > 0)
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", trained)


def test_a_run_from_before_documents_were_read_resumes_on_their_markup(small, tmp_path):
    page = tmp_path / "fox.html"
    page.write_text("<p>" + TEXT)
    (tmp_path / "markup.txt").write_text("<p>" + TEXT)
    train(dataclasses.replace(small, epochs=1, corpus=(str(tmp_path / "markup.txt"),)), run="old", checkpoints=tmp_path)
    run = jaxlm.Run.open(tmp_path / "old")
    config = dataclasses.replace(run.record.config, corpus=(str(page),))
    run.write_record(dataclasses.replace(run.record, config=config, reading={}))
    resume(tmp_path / "old", epochs=2)
    assert jaxlm.Run.open(tmp_path / "old").restore()[1].epoch == 2

    run.write_record(dataclasses.replace(run.record, reading={"files": [[str(page), 1003]], "left_out": []}))
    with pytest.raises(jaxlm.InputError, match="not the same text"):
        resume(tmp_path / "old", epochs=3)


def test_a_run_from_before_streams_were_mixed_reads_on_in_its_own_order(small, tmp_path, monkeypatch):
    asked, starts = [], Streams.starts
    monkeypatch.setattr(
        Streams, "starts", lambda self, *arguments: asked.append(self.mixed) or starts(self, *arguments)
    )
    config = dataclasses.replace(small, recipe="stream", stride=None, epochs=1)
    train(config, run="new", checkpoints=tmp_path)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    values = json.loads(path.read_text())
    del values["seal"], values["mixed"]
    path.write_text(json.dumps({**values, "seal": files.digest(values)}))
    for run in ("new", "old", "old"):
        epoch = jaxlm.Run.open(tmp_path / run).restore()[1].epoch
        asked.clear()
        resume(tmp_path / run, epochs=epoch + 1)
        assert set(asked) == {run == "new"}


def test_stopped_between_calls_of_several_steps(small, tmp_path, trained, monkeypatch):
    monkeypatch.setattr(run_lib, "CALL_SECONDS", 1e9)
    monkeypatch.setattr(run_lib, "BLOCK", 5)
    monkeypatch.setattr(run_lib, "block_steps", lambda *_: 5)
    steps, calls = run_lib.compiled_steps, []

    def make(*arguments):
        made = steps(*arguments)
        return lambda *call: calls.append(tuple(map(int, call[-2:]))) or made(*call)

    monkeypatch.setattr(run_lib, "compiled_steps", make)
    with pytest.raises(KeyboardInterrupt):
        train(small, run="fox", checkpoints=tmp_path, reporter=SignalAt(STEPS + 2, signal.SIGINT))
    assert calls == [(0, 1), (1, 1), (2, 2), (4, 1), (0, 4), (4, 1), (0, 1), (0, 5), (0, 5)]
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].step == STEPS + 10
    resume(tmp_path / "fox")
    assert calls[9:] == [(0, 1)]
    assert_same_run(tmp_path / "fox", trained)


@pytest.mark.parametrize(
    ("seconds", "settled"), [(5e-4, 64), (0.01, 32), (0.06, 8), (0.1, 4), (0.2, 2), (0.45, 1), (7.0, 1)]
)
def test_a_call_takes_about_half_a_second(monkeypatch, seconds, settled):
    clock, pace, counts = [0.0], run_lib._Pace(), []
    monkeypatch.setattr(run_lib.time, "monotonic", lambda: clock[0])
    for call in range(40):
        if call == 20:  # Something else has been waited for.
            clock[0] += 100
            pace.start()
        clock[0] += (counts[-1] if counts else 0) * seconds  # The devices are never idle.
        counts.append(pace.steps)
        pace.adapt(pace.steps)
    assert counts[18:20] == counts[-20:-18] == counts[-2:] == [settled] * 2
    assert max(counts) == settled
    for _ in range(20):  # Other programs slow it down.
        clock[0] += counts[-1] * seconds * 8
        counts.append(pace.steps)
        pace.adapt(pace.steps)
    assert counts[-1] == max(1, settled // 8) or seconds < 1e-3


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ("INTERNAL: cudnn_status was not success\nmore", r"cuDNN failed \(INTERNAL: .* success\); choose impl='fused'"),
        ("RESOURCE_EXHAUSTED: out of memory in cudnn", "memory: the device has too little"),
    ],
)
def test_trouble_of_a_device_is_one_line(small, tmp_path, monkeypatch, found, line):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(found)

    monkeypatch.setattr(run_lib, "compiled_steps", lambda *_: fail)
    with pytest.raises(jaxlm.RunError, match=line):
        train(small, run="fox", checkpoints=tmp_path)
    assert not (tmp_path / "fox").exists()


def test_a_run_begun_with_another_generator_keeps_it(small, tmp_path):
    """As where JAX_DEFAULT_PRNG_IMPL=rbg was set when jaxlm still took JAX's default."""
    config = dataclasses.replace(small, epochs=1, model=jaxlm.ModelConfig(hidden=8, layers=2, dropout=0.5))
    train(config, run="fox", checkpoints=tmp_path)
    run = jaxlm.Run.open(tmp_path / "fox")
    state, progress = run.restore()
    key = np.arange(4, dtype=np.uint32)
    later = dataclasses.replace(progress, step=progress.step + 1, nats=1.0, count=1, loss=None)
    saver = storage.Saver(run.storage)
    saver.save(state._replace(step=np.asarray(later.step, np.int32), key=key).to_items(), later)
    resume(run.path, epochs=2)
    state, progress = run.restore()
    assert (progress.step, progress.epoch) == (2 * STEPS, 2)
    np.testing.assert_array_equal(state.key, key)


def test_a_run_may_go_on_with_another_implementation(small, tmp_path, trained, monkeypatch):
    trained_with, compiled_steps = [], run_lib.compiled_steps
    monkeypatch.setattr(
        run_lib, "compiled_steps", lambda model, *rest: trained_with.append(model.impl) or compiled_steps(model, *rest)
    )
    train(dataclasses.replace(small, epochs=1, impl="scan"), run="fox", checkpoints=tmp_path)
    assert jaxlm.Run.open(tmp_path / "fox").record.config.impl == "scan"
    resume(tmp_path / "fox", epochs=2, impl="fused")
    assert trained_with == ["scan", "fused"]
    assert jaxlm.Run.open(tmp_path / "fox").record.config.impl == "fused"
    for mine, other in zip(metrics(tmp_path / "fox"), metrics(trained), strict=True):
        np.testing.assert_allclose(mine["loss"], other["loss"], rtol=1e-3)


def test_stopped_with_dropout_and_adam(small, tmp_path):
    config = dataclasses.replace(
        small, optimizer="adam", clip=0.5, model=jaxlm.ModelConfig(hidden=8, layers=2, dropout=0.3)
    )
    train(config, run="whole", checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, run="fox", checkpoints=tmp_path, reporter=SignalAt(4, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "fox", reporter=SignalAt(15, signal.SIGINT))
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", tmp_path / "whole")


STREAM = dataclasses.replace(
    jaxlm.STREAM["small"],
    epochs=3,
    length=10,
    batch=6,
    average=0.9,
    reset=0.1,
    weight_decay=0.01,
    patience=3,
    model=jaxlm.ModelConfig(8, 2, 5, dropout=0.2, output_dropout=0.1, recurrent_dropout=0.2),
)
"""Everything that a stream's next step can depend on."""

STREAM_STEPS = 16
"""In an epoch of STREAM: 928 characters of training text, 104 of validation text."""


@pytest.fixture
def stream(corpus):
    return dataclasses.replace(STREAM, corpus=(str(corpus),))


@pytest.mark.parametrize("reported", [1, STREAM_STEPS - 1, STREAM_STEPS, 2 * STREAM_STEPS + 3])
def test_a_stream_stopped_and_resumed_equals_one_never_stopped(stream, tmp_path, one_at_a_time, reported):
    train(stream, run="whole", checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(stream, run="fox", checkpoints=tmp_path, reporter=SignalAt(reported, signal.SIGINT))
    stopped, progress = jaxlm.Run.open(tmp_path / "fox").restore()
    assert 0 < progress.step < 3 * STREAM_STEPS
    assert all(np.any(leaf) for leaf in jax.tree.leaves(stopped.carry))
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", tmp_path / "whole")


def held_out_loss(path, text):
    """By the equations, with the state carried through the whole text."""
    run, generator = jaxlm.Run.open(path), jaxlm.load(path)
    ids = run.vocab.encode(text)
    log_probs = log_softmax(numpy_logits(generator.params, ids[None, :-1], len(run.vocab))[0])
    return -log_probs[np.arange(len(ids) - 1), ids[1:]].mean()


@pytest.mark.parametrize("recipe", ["book", "stream"])
def test_the_end_of_the_corpus_is_measured_exactly_and_never_learned_from(small, stream, tmp_path, recipe):
    model = jaxlm.ModelConfig(hidden=8)
    config = dataclasses.replace(small if recipe == "book" else stream, validation=0.25, epochs=1, model=model)
    border = len(TEXT) * 3 // 4
    for name, end in (("one", TEXT[border:]), ("other", TEXT[border:][::-1])):
        (tmp_path / "fox.txt").write_text(TEXT[:border] + end)
        train(config, run=name, checkpoints=tmp_path)
    states = [jaxlm.Run.open(tmp_path / name).restore() for name in ("one", "other")]
    assert_same(*(tuple(state) for state, _ in states))
    assert states[0][1].loss == states[1][1].loss
    end = TEXT[border:].lower() if config.lowercase else TEXT[border:]
    for name, text in (("one", end), ("other", end[::-1])):
        [line] = metrics(tmp_path / name)
        loss = held_out_loss(tmp_path / name, text)
        assert line["validation_loss"] == pytest.approx(loss, rel=1e-5)
        assert line["validation_bits_per_character"] == pytest.approx(loss / np.log(2), rel=1e-5)
        assert line["validation_perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))


def spoil_validation(monkeypatch, losses):
    """Replaces the validation loss of each epoch."""
    losses = iter(losses)
    monkeypatch.setattr(run_lib, "score_carried", lambda *_, **__: np.full(3, -next(losses)))


def test_the_best_epoch_is_the_one_with_the_lowest_held_out_loss(stream, tmp_path, monkeypatch):
    spoil_validation(monkeypatch, [3.0, 2.0, 2.5, 2.75])
    written = train(dataclasses.replace(stream, epochs=4), run="fox", checkpoints=tmp_path)
    assert steps(tmp_path / "fox") == [epoch * STREAM_STEPS for epoch in (2, 3, 4)]
    generator, progress = jaxlm.Run.open(tmp_path / "fox").generator()
    assert (progress.epoch, progress.validation, progress.judged) == (2, 2.0, 2.0)
    assert progress.loss == metrics(tmp_path / "fox")[1]["loss"]
    assert_same(written.params, generator.params)
    assert generator.mode == "state"


def test_patience(stream, tmp_path, monkeypatch):
    spoil_validation(monkeypatch, [3.0, 2.0, 2.5, 2.0, 2.0, 1.0, 1.5])
    ends = []
    reporter = Reporter()
    reporter.end = lambda run, progress, best: ends.append((progress.epoch, best.epoch))
    patient = dataclasses.replace(stream, epochs=7, patience=2)
    train(patient, run="fox", checkpoints=tmp_path, reporter=reporter)
    before = contents(tmp_path / "fox")
    resume(tmp_path / "fox", reporter=reporter)
    assert contents(tmp_path / "fox") == before
    resume(tmp_path / "fox", patience=4, reporter=reporter)
    assert ends == [(4, 2), (4, 2), (7, 6)]
    assert [line["validation_loss"] for line in metrics(tmp_path / "fox")] == [3.0, 2.0, 2.5, 2.0, 2.0, 1.0, 1.5]


def test_a_held_out_loss_that_is_not_finite_is_a_divergence(stream, tmp_path, monkeypatch):
    spoil_validation(monkeypatch, [3.0, float("nan"), 2.0, 1.0])
    told = Told()
    train(stream, run="fox", checkpoints=tmp_path, reporter=told)
    assert [(step, cuts) for _, step, cuts, _ in told.divergences] == [(STREAM_STEPS, 1)]
    assert [line["validation_loss"] for line in metrics(tmp_path / "fox")] == [3.0, 2.0, 1.0]


def test_a_text_too_short_to_hold_out_some_of_it(stream, tmp_path):
    before = contents(tmp_path)
    for share, words in (
        (0.0001, "validation: 0.0001 leaves 1 of the corpus's tokens for validation"),
        (0.9999, "corpus: found a text of only 0 tokens.* or validate on less than the last 1,032 characters"),
    ):
        with pytest.raises(jaxlm.InputError, match=words):
            train(dataclasses.replace(stream, validation=share), run="fox", checkpoints=tmp_path)
    assert contents(tmp_path) == before


def test_signals(small, tmp_path, one_at_a_time):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = []
    reporter = SignalAt(3, signal.SIGTERM)
    reporter.stopped = lambda run, step: told.append(("stopped", step))
    reporter.close = lambda: told.append("close")
    with pytest.raises(SystemExit) as stop:
        train(small, run="fox", checkpoints=tmp_path, reporter=reporter)
    assert stop.value.code == 143
    assert told == [("stopped", 4), "close"]
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].step == 4

    for numbers, error in (((signal.SIGHUP, signal.SIGINT), KeyboardInterrupt), ((signal.SIGTERM,) * 2, SystemExit)):
        with pytest.raises(error):
            resume(tmp_path / "fox", reporter=SignalAt(6, *numbers))
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].step == 4  # The second one did not wait for a save.
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def command(path, *flags):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--run", path, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_training_uses_every_core_of_the_cpu(corpus, tmp_path):
    code = (
        "import os, sys; os.sched_getaffinity = lambda pid: {0, 1, 2}; from jaxlm.cli import programs; programs.train()"
    )
    for flags in (f"--corpus {corpus} --epochs 1 --hidden 8 --temperature", "--resume --epochs 2 --temperature"):
        argv = [sys.executable, "-c", code, "--run", tmp_path / "fox", *flags.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        assert re.search(r"Device: +CPU, 3 cores", done.stdout)


class Stops(Reporter):
    """Ends a run at its first step, after a look at the C library's allocator."""

    def __init__(self, look):
        self.look = look

    def step(self, step, loss):
        self.seen = self.look()
        raise KeyboardInterrupt


def test_glibc_keeps_large_buffers_while_a_network_is_trained(small, tmp_path):
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("the C library here is not glibc of 64 bits")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    def mapped():
        """Whether a buffer has pages of its own, which are returned with it: larger than any free space in a heap."""
        buffer = libc.malloc(2**30)
        size_and_flags = ctypes.c_size_t.from_address(buffer - ctypes.sizeof(ctypes.c_size_t))
        is_mapped = bool(size_and_flags.value & 2)  # IS_MMAPPED of glibc's malloc.c.
        libc.free(buffer)
        return is_mapped

    reporter = Stops(mapped)
    assert mapped()
    with pytest.raises(KeyboardInterrupt):
        train(small, run="fox", checkpoints=tmp_path, reporter=reporter)
    assert not reporter.seen
    assert mapped()


@pytest.mark.parametrize(("length", "single"), [(10, False), (1200, True)])
def test_a_step_of_large_buffers_has_a_single_heap(length, single, corpus, tmp_path):
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("the C library here is not glibc of 64 bits")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("on a machine of one core there is only one heap")
    code = """
import ctypes, sys, jaxlm

class Shows(jaxlm.Reporter):
    def start(self, plan):
        libc = ctypes.CDLL(None)
        output = ctypes.c_void_p.in_dll(libc, "stdout")
        libc.malloc_info(0, output)
        libc.fflush(output)
        sys.exit()

corpus, checkpoints, length = sys.argv[1:]
jaxlm.train(corpus, recipe="stream", ngram=0, length=int(length), checkpoints=checkpoints, reporter=Shows())
"""
    arguments = [sys.executable, "-c", code, str(corpus), str(tmp_path / "checkpoints"), str(length)]
    chosen = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout
    assert "<heap nr=" in found
    assert (found.count("<heap nr=") == 1) is single


def test_a_run_and_one_resumed_say_what_their_steps_need(small, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sharding, "split_cpu", said.append)
    monkeypatch.setattr(sharding, "_cores", lambda: 2)
    train(small, run="fox", checkpoints=tmp_path)
    resume(tmp_path / "fox", epochs=3)
    assert said == [4 * (8 * 16 * 10 * 16 + 4 * 8 * 16 * 16)] * 2  # 16 rows of 10 tokens, 16 units, in float32.


def test_killed_process(corpus, tmp_path, capsys):
    flags = f"--corpus {corpus} --epochs 20 --length 10 --batch 32 --hidden 16 --sample-length 0".split()
    killed = command(tmp_path / "killed", *flags)
    while not killed.stdout.readline().startswith("Epoch 2/20"):
        assert killed.poll() is None
    killed.send_signal(signal.SIGSTOP)

    # A second trainer is refused as long as the first lives.
    before = contents(tmp_path / "killed")
    assert commands.train(["--resume", "--run", str(tmp_path / "killed")]) == 2
    refusal = capsys.readouterr().err.splitlines()
    assert len(refusal) == 1
    assert "another process is training it" in refusal[0]
    assert contents(tmp_path / "killed") == before

    killed.kill()
    killed.communicate()
    assert 2 <= len(metrics(tmp_path / "killed")) < 20
    whole = command(tmp_path / "whole", *flags)
    resumed = command(tmp_path / "killed", "--resume")
    for process in (whole, resumed):
        errors = process.communicate()[1]
        assert (process.returncode, errors) == (0, "")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert [line["epoch"] for line in metrics(tmp_path / "killed")] == list(range(1, 21))


def test_killed_before_the_first_checkpoint(small, tmp_path, trained, caplog):
    reporter = Reporter()
    reporter.start = lambda plan: 1 / 0
    # A killed process does not tidy up, where a failing one would.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxlm.Run, "remove_if_untrained", lambda run: None)
        with pytest.raises(ZeroDivisionError):
            train(small, run="fox", checkpoints=tmp_path, reporter=reporter)
    run = jaxlm.Run.open(tmp_path / "fox")
    assert run.restore() is None
    with pytest.raises(jaxlm.InputError, match="has no checkpoint yet"):
        jaxlm.load(tmp_path / "fox")
    # What a kill during the first save leaves.
    (tmp_path / "fox" / f".saving-{STEPS}" / "params").mkdir(parents=True)
    (tmp_path / "fox" / f".saving-{STEPS}.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (tmp_path / "fox" / f"{STEPS}.orbax-checkpoint-tmp-1" / "params").mkdir(parents=True)  # By former versions.
    storage.Saver(run.storage).add_metrics({"epoch": 1, "step": STEPS, "loss": 9.0})
    assert run.restore() is None
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", trained)
    assert caplog.text == ""
    assert sorted(path.name for path in (tmp_path / "fox").glob("*.*")) == [
        ".lock",
        "config.json",
        "metrics.jsonl",
        "vocab.json",
    ]


def test_an_epoch_s_line_is_there_before_its_checkpoint(small, tmp_path, trained, monkeypatch):
    """A resumed run drops a line that is too new, but could not make one that is missing."""
    save = storage.Saver.save

    def killed(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage.Saver, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(small, run="fox", checkpoints=tmp_path)
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", trained)


def test_a_run_that_fails_at_once_leaves_nothing(small, tmp_path):
    reporter = Reporter()
    reporter.start = lambda plan: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(small, run="fox", checkpoints=tmp_path / "runs", reporter=reporter)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_new_run_that_cannot_be_locked_leaves_nothing(small, tmp_path, monkeypatch):
    def refuse(lock):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(jaxlm.RunError, match=r"cannot be locked for training \(Input/output error\)"):
        train(small, run="fox", checkpoints=tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_new_run_that_another_process_has_resumed_is_left_to_it(small, tmp_path, monkeypatch):
    create = jaxlm.Run.create

    def resumed(*arguments):
        run = create(*arguments)
        stack.enter_context(jaxlm.Run.open(run.path).lock())
        return run

    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(jaxlm.Run, "create", resumed)
        with pytest.raises(jaxlm.InputError, match="another process is training it"):
            train(small, run="fox", checkpoints=tmp_path / "runs")
        assert jaxlm.Run.open(tmp_path / "runs" / "fox").checkpoints() == []


def test_two_new_runs_of_one_default_name_get_two_names(small, tmp_path, monkeypatch):
    names = []

    def slow(*arguments):
        names.append(unused_path(*arguments))
        if len(names) == 1:
            names[0].mkdir(parents=True)  # By another process, meanwhile.
        return names[-1]

    monkeypatch.setattr(run_lib, "unused_path", slow)
    train(small, checkpoints=tmp_path / "runs")
    assert [path.name for path in names] == ["fox-book", "fox-book-2"]
    assert jaxlm.Run.open(names[1]).checkpoints()


def test_saves_in_the_middle_of_an_epoch_change_nothing(small, tmp_path, trained, monkeypatch):
    saved = []
    save = storage.Saver.save
    monkeypatch.setattr(run_lib, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(storage.Saver, "save", lambda *args: (saved.append(args[2].step), save(*args)))
    train(small, run="fox", checkpoints=tmp_path)
    assert saved == list(range(1, 2 * STEPS + 1))
    assert_same(jaxlm.Run.open(tmp_path / "fox").restore()[0], jaxlm.Run.open(trained).restore()[0])
    assert metrics(tmp_path / "fox") == metrics(trained)


@pytest.mark.parametrize("tokens", ["byte", "word"])
def test_bits_are_per_character_whatever_the_tokens(small, tmp_path, tokens):
    text = "나는 생각한다, 그러므로 나는 존재한다. " * 20
    Path(small.corpus[0]).write_text(text)
    config = dataclasses.replace(small, tokens=tokens, epochs=1)
    train(config, run="fox", checkpoints=tmp_path)
    run = jaxlm.Run.open(tmp_path / "fox")
    [line] = metrics(run.path)
    nats = line["loss"] * len(run.vocab.encode(text))
    assert line["bits_per_character"] == pytest.approx(nats / len(text) / np.log(2))
    assert len(jaxlm.load(run.path).generate("나는", 30, temperature=1)) == 32


def test_metrics_of_a_killed_run(small, tmp_path, trained):
    with pytest.raises(KeyboardInterrupt):
        train(small, run="fox", checkpoints=tmp_path, reporter=SignalAt(STEPS, signal.SIGINT))
    with open(tmp_path / "fox" / "metrics.jsonl", "ab") as file:
        # A line later than the checkpoint, two that are none, one that a power cut spoiled, and half a line.
        file.write(b'{"epoch": 2, "step": 22, "loss": 9.0}\n[]\n{"step": "2"}\n\x00\xff\n{"epoch": 2, "st')
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", trained)


def spoil_steps(monkeypatch, change):
    """Has `change` make another loss of (completed updates, loss)."""
    compiled_steps = run_lib.compiled_steps

    def make(*arguments):
        update = compiled_steps(*arguments)

        def spoiled(state, ids, starts, first, count):
            state, nats, counts = update(state, ids, starts, first, count)
            before = int(state.step) - int(count) + 1  # This call's first step.
            nats = [change(before + i, loss) if i < count else loss for i, loss in enumerate(nats.tolist())]
            return state, np.array(nats), counts

        return spoiled

    monkeypatch.setattr(run_lib, "compiled_steps", make)


class Told(Reporter):
    """Records divergences."""

    def __init__(self):
        self.divergences = []

    def diverged(self, reason, progress, learning_rate):
        self.divergences.append((reason, progress.step, progress.cuts, learning_rate))


def once(change):
    """`change` at the first step that it is for."""
    changed = []

    def change_once(step, nats):
        if changed or change(step, nats) == nats:
            return nats
        changed.append(step)
        return change(step, nats)

    return change_once


LOST = {
    "not finite": (lambda step, nats: float("nan") if step == 15 else nats, "step 15: found a loss of nan"),
    "risen": (lambda step, nats: nats * 1000 if step == 15 else nats, "step 22: the loss rose to "),
}


@pytest.mark.parametrize(("change", "reason"), LOST.values(), ids=LOST)
def test_a_divergence_goes_back_to_the_best_epoch_with_a_smaller_learning_rate(
    small, tmp_path, monkeypatch, change, reason
):
    told = Told()
    with monkeypatch.context() as patch:
        spoil_steps(patch, once(change))
        train(small, run="fox", checkpoints=tmp_path, reporter=told)
    [(found, *rest)] = told.divergences
    assert found.startswith(reason)
    assert rest == [STEPS, 1, small.learning_rate / 4]
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].cuts == 1

    # The same, by hand.
    train(dataclasses.replace(small, epochs=1), run="slow", checkpoints=tmp_path)
    run = jaxlm.Run.open(tmp_path / "slow")
    slower = dataclasses.replace(run.record.config, learning_rate=small.learning_rate / 4)
    run.write_record(dataclasses.replace(run.record, config=slower))
    resume(run.path, epochs=2)
    assert_same(*(tuple(jaxlm.Run.open(tmp_path / name).restore()[0]) for name in ("fox", "slow")))
    assert metrics(tmp_path / "fox") == metrics(tmp_path / "slow")


def test_a_divergence_in_the_first_epoch_goes_back_to_the_beginning(small, tmp_path, monkeypatch):
    told = Told()
    with monkeypatch.context() as patch:
        spoil_steps(patch, once(lambda step, nats: float("inf") if step == 3 else nats))
        train(small, run="fox", checkpoints=tmp_path, reporter=told)
    assert told.divergences == [("step 3: found a loss of inf, expected a finite one", 0, 1, 0.0025)]
    train(dataclasses.replace(small, learning_rate=0.0025), run="slow", checkpoints=tmp_path)
    assert metrics(tmp_path / "fox") == metrics(tmp_path / "slow")


def test_a_checkpoint_in_the_middle_of_the_first_epoch_is_no_place_to_go_back_to(small, tmp_path, monkeypatch):
    """Its weights, and its sum of losses, may have diverged already."""
    told = Told()
    with monkeypatch.context() as patch:
        patch.setattr(run_lib, "SAVE_SECONDS", -1.0)
        spoil_steps(patch, once(lambda step, nats: nats * 1000 if step == 3 else nats))
        train(small, run="fox", checkpoints=tmp_path, reporter=told)
    [(reason, *rest)] = told.divergences
    assert reason.startswith("step 11: the loss rose to")
    assert rest == [0, 1, 0.0025]
    train(dataclasses.replace(small, learning_rate=0.0025), run="slow", checkpoints=tmp_path)
    assert metrics(tmp_path / "fox") == metrics(tmp_path / "slow")


def test_a_risen_loss_is_noticed_before_the_epoch_ends(small, tmp_path, monkeypatch):
    told = Told()
    monkeypatch.setattr(run_lib, "JUDGED_STEPS", 3)
    spoil_steps(monkeypatch, once(lambda step, nats: nats * 1000 if step == STEPS + 2 else nats))
    train(small, run="fox", checkpoints=tmp_path, reporter=told)
    assert [reason.split(":")[0] for reason, *_ in told.divergences] == [f"step {STEPS + 3}"]


def test_a_hard_passage_is_no_divergence(stream, tmp_path, monkeypatch):
    """A stream reads it in order; windows would come in random order."""
    told = Told()
    monkeypatch.setattr(run_lib, "JUDGED_STEPS", 3)
    spoil_steps(monkeypatch, lambda step, nats: nats * (20 if step % STREAM_STEPS < 5 else 1))
    monkeypatch.setattr(run_lib, "worst_loss", lambda best: 4.0 * 20 * 5 / STREAM_STEPS)
    train(stream, run="fox", checkpoints=tmp_path, reporter=told)
    assert told.divergences == []


def test_a_run_that_diverges_again_and_again_ends_with_its_best_checkpoint(small, tmp_path, trained, monkeypatch):
    told = Told()
    spoil_steps(monkeypatch, lambda step, nats: float("nan") if step == 15 else nats)
    words = r"step 15: found a loss of nan.* 5 times, to 9\.8e-06, did not help; the best checkpoint is kept"
    with pytest.raises(jaxlm.RunError, match=words):
        train(small, run="fox", checkpoints=tmp_path, reporter=told)
    assert [cuts for _, _, cuts, _ in told.divergences] == [1, 2, 3, 4, 5]
    assert steps(tmp_path / "fox") == [STEPS]
    assert [line["epoch"] for line in metrics(tmp_path / "fox")] == [1]
    assert_same(jaxlm.load(tmp_path / "fox").params, load_epoch(trained, STEPS))


def load_epoch(path, step):
    """The parameters of a checkpoint that is not the best."""
    run = jaxlm.Run.open(path)
    run.storage.steps = lambda: [step]
    return run.restore()[0].weights


def test_what_comes_after_a_divergence_is_resumed_exactly(small, tmp_path, monkeypatch):
    config = dataclasses.replace(small, epochs=3)

    def spoiled(run, reporter=None):
        with monkeypatch.context() as patch:
            spoil_steps(patch, once(lambda step, nats: float("nan") if step == 2 * STEPS + 3 else nats))
            train(config, run=run, checkpoints=tmp_path, reporter=reporter)

    spoiled("whole")
    reporter = SignalAt(2 * STEPS + 5, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        spoiled("fox", reporter)
    resume(tmp_path / "fox")
    assert_same_run(tmp_path / "fox", tmp_path / "whole")
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].cuts == 1


class KilledAt(Told):
    """Ends the run, as a kill would, at a divergence."""

    def __init__(self, divergence):
        super().__init__()
        self._divergence = divergence

    def diverged(self, *arguments):
        super().diverged(*arguments)
        if len(self.divergences) == self._divergence:
            raise ZeroDivisionError


@pytest.mark.parametrize("killed_at", [None, 1, 2])
def test_a_divergence_goes_back_to_a_checkpoint_that_is_a_link_and_leaves_it_alone(
    small, tmp_path, monkeypatch, killed_at
):
    """It ends as a run without a link, even if it is killed before a save has stored the cut."""
    elsewhere, rates = tmp_path / "elsewhere", []
    make = run_lib.compiled_steps

    def compiled_steps(model, config, total, scale, mesh):
        """Diverges in epoch 2, until the learning rate has been cut twice."""
        rates.append(scale)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_lib, "compiled_steps", make)
            spoil_steps(patch, lambda step, nats: np.nan if step > STEPS + 3 and scale > RATE_CUT**2 else nats)
            return run_lib.compiled_steps(model, config, total, scale, mesh)

    monkeypatch.setattr(run_lib, "compiled_steps", compiled_steps)
    for name in ("whole", "fox"):
        train(dataclasses.replace(small, epochs=1), run=name, checkpoints=tmp_path)
    resume(tmp_path / "whole", epochs=3)
    link = tmp_path / "fox" / str(STEPS)
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    before = contents(elsewhere)
    rates.clear()
    told = KilledAt(killed_at)
    with pytest.raises(ZeroDivisionError) if killed_at else contextlib.nullcontext():
        resume(tmp_path / "fox", epochs=3, reporter=told)
    assert [step for _, step, *_ in told.divergences] == [STEPS] * (killed_at or 2)
    assert contents(elsewhere) == before
    if killed_at:
        assert jaxlm.Run.open(tmp_path / "fox").restore(best=True)[1].step == STEPS
        rates.clear()
        resume(tmp_path / "fox")
    assert rates == [1, RATE_CUT, RATE_CUT**2]
    assert contents(elsewhere) == before
    assert_same_run(tmp_path / "fox", tmp_path / "whole")
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].cuts == 2


def test_learning_rate_that_is_too_large(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_lib, "MAX_CUTS", 2)
    flags = f"--corpus {corpus} --run {tmp_path / 'fox'} --epochs 1 --length 10 --batch 32 --hidden 16".split()
    assert commands.train([*flags, "--learning-rate", "1e38"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: step ")
    assert "2 times, to 6.2e+36, did not help; train a new run with a lower learning_rate, or with clip=1" in errors[0]
    assert not (tmp_path / "fox").exists()  # It had no good checkpoint.


def test_best_epoch_outlives_worse_ones(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil_steps(patch, lambda step, nats: nats * step)
        patch.setattr(run_lib, "worst_loss", lambda best: np.inf)
        train(small, run="fox", checkpoints=tmp_path)
        best = jaxlm.Run.open(tmp_path / "fox").generator()[0]
        resume(tmp_path / "fox", epochs=3)
        written = resume(tmp_path / "fox", epochs=5)
    losses = [line["loss"] for line in metrics(tmp_path / "fox")]
    assert losses == sorted(losses)
    assert steps(tmp_path / "fox") == [STEPS, 4 * STEPS, 5 * STEPS]
    generator, progress = jaxlm.Run.open(tmp_path / "fox").generator()
    assert (progress.epoch, progress.loss) == (1, losses[0])
    assert_same(generator.params, best.params)
    assert_same(written.params, best.params)
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].epoch == 5


def test_more_epochs(small, tmp_path, trained):
    train(dataclasses.replace(small, epochs=1), run="fox", checkpoints=tmp_path)
    resume(tmp_path / "fox", epochs=2)
    assert_same_run(tmp_path / "fox", trained)
    assert jaxlm.Run.open(tmp_path / "fox").record.config.epochs == 2
    before = contents(tmp_path / "fox")
    resume(tmp_path / "fox")
    assert contents(tmp_path / "fox") == before


def test_corpus_that_moved(small, tmp_path, trained):
    train(dataclasses.replace(small, epochs=1), run="fox", checkpoints=tmp_path)
    path = Path(small.corpus[0])
    path.rename(tmp_path / "elsewhere.txt")
    before = contents(tmp_path)
    with pytest.raises(jaxlm.InputError, match="found nothing there"):
        resume(tmp_path / "fox", epochs=2)
    path.write_text(TEXT + "!")
    with pytest.raises(jaxlm.InputError, match="not the same text"):
        resume(tmp_path / "fox", epochs=2)
    path.unlink()
    assert contents(tmp_path) == before
    resume(tmp_path / "fox", epochs=2, corpus=(str(tmp_path / "elsewhere.txt"),))
    assert_same_run(tmp_path / "fox", trained)
    resume(tmp_path / "fox")


def test_names(small, tmp_path):
    path = tmp_path / "차라투스트라 1.txt"
    path.write_text(TEXT)
    config = dataclasses.replace(small, corpus=(str(path),), epochs=1)
    for _ in range(2):
        train(config, checkpoints=tmp_path / "runs")
    names = sorted(entry.name for entry in (tmp_path / "runs").iterdir())
    assert names == ["차라투스트라-1-book", "차라투스트라-1-book-2"]
    assert metrics(tmp_path / "runs" / names[0]) == metrics(tmp_path / "runs" / names[1])
    assert len(unused_path(tmp_path, "가" * 84, "book").name.encode()) < 256
    before = contents(tmp_path)
    with pytest.raises(jaxlm.InputError, match=r"found a run there.*jaxlm\.resume\(.*or choose another name"):
        train(config, run=names[0], checkpoints=tmp_path / "runs")
    assert contents(tmp_path) == before


def test_the_devices_compute_the_next_epoch_while_a_save_takes_its_time(small, tmp_path, monkeypatch):
    events, save, make = [], Saver.save, run_lib.compiled_steps

    def compiled_steps(*arguments):
        steps = make(*arguments)

        def called(state, ids, batches, first, count):
            events.append("steps")
            return steps(state, ids, batches, first, count)

        return called

    def told(saver, items, progress):
        events.append(f"save {progress.epoch}")
        save(saver, items, progress)

    monkeypatch.setattr(run_lib, "compiled_steps", compiled_steps)
    monkeypatch.setattr(Saver, "save", told)
    monkeypatch.setattr(run_lib, "CALL_SECONDS", 1e-9)  # One step a call.
    train(dataclasses.replace(small, epochs=2), run="fox", checkpoints=tmp_path)
    calls = ["steps"] * STEPS
    assert events == [*calls, "steps", "save 1", *calls[1:], "save 2"]


def test_partial_batch(small, tmp_path, monkeypatch):
    """It weighs as much as it has windows, and is not compiled for; the learning rate keeps the initial weights."""
    training._compiled_steps.cache_clear()
    made = []

    def make(*arguments):
        made.append(training.compiled_steps(*arguments))
        return made[-1]

    monkeypatch.setattr(run_lib, "compiled_steps", make)
    config = dataclasses.replace(small, epochs=1, learning_rate=1e-30)
    train(config, run="fox", checkpoints=tmp_path)
    run = jaxlm.Run.open(tmp_path / "fox")
    ids = run.vocab.encode(TEXT.lower())
    starts = np.arange(0, len(ids) - config.length, config.stride)
    assert len(starts) % config.batch
    params = training.initial_state(build_model(config, len(run.vocab)), config).params
    inputs = ids[starts[:, None] + np.arange(config.length)]
    log_probs = log_softmax(numpy_logits(params, inputs, len(run.vocab))[:, -1])
    nats = -log_probs[np.arange(len(starts)), ids[starts + config.length]]
    assert metrics(run.path)[0]["loss"] == pytest.approx(nats.mean(), rel=1e-6)
    assert [step.__wrapped__._cache_size() for step in made] == [1]
