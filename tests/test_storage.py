"""Checkpoints: exact, self-contained, and never silently wrong, whatever happens to their files."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore
from helpers import TEXT, assert_same, assert_same_run, contents, steps

import jaxlm
from jaxlm.cli import commands
from jaxlm.nn import training
from jaxlm.nn.model import build_model
from jaxlm.runs import arrays, files, listing, storage
from jaxlm.runs.run import Record, Run, newest, now
from jaxlm.runs.storage import PROGRESS, Progress, Saver
from jaxlm.runs.trainer import resume
from jaxlm.text.vocab import Vocab

ROOT = Path(__file__).parents[1]

LAST, EARLIER = 22, 11
"""The checkpoints of `trained`."""

NOTHING_GOOD = "found only damaged checkpoints"


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of `trained`, to be harmed."""
    return Path(shutil.copytree(trained, tmp_path / "fox", symlinks=True))


def make_run(path, **changes):
    """A run that was never trained, and its state."""
    config = dataclasses.replace(jaxlm.BOOK, length=4, model=jaxlm.ModelConfig(hidden=3), **changes)
    run = Run.create(path, Record(config, "abc", 3, "0" * 64, "abc", now()), Vocab.build("char", "abc"))
    return run, training.initial_state(build_model(config, len(run.vocab)), config)


def at(state, step, loss=None):
    """A state like this one, with `step` for every parameter, and its progress."""
    params = jax.tree.map(lambda leaf: np.full_like(leaf, step), state.params)
    return state._replace(step=np.int32(step), params=params), Progress(step=step, epoch=step, loss=loss)


def items_at(*arguments):
    """The same, as Saver takes it."""
    state, progress = at(*arguments)
    return state.to_items(), progress


def saving(run):
    """A function that saves states of a run, one after the other."""
    saver = Saver(run.storage)
    return lambda state, progress: saver.save(state.to_items(), progress)


def python(code, *arguments, **options):
    """A new process that runs `code` with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def warnings(caplog):
    found = [record.getMessage() for record in caplog.records if record.name == "jaxlm"]
    caplog.clear()
    return found


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"deleted": Path.unlink, "emptied": lambda path: path.write_bytes(b""), "halved": halve, "flipped": flip}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "clip": 1.0, "model": jaxlm.ModelConfig(hidden=2, layers=2, dropout=0.5)},
        {"average": 0.9, "recipe": "stream", "stride": None, "batch": 3},
    ],
)
def test_what_is_saved_comes_back(tmp_path, changes):
    config = dataclasses.replace(jaxlm.BOOK, length=4, **changes)
    run = Run.create(tmp_path / "fox", Record(config, "", 3, "", "abc", now()), Vocab.build("char", "cab"))
    state = training.initial_state(build_model(config, len(run.vocab)), config)
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: np.asarray(random.normal(size=leaf.shape), leaf.dtype), state)
    state = state._replace(step=np.int32(5))
    progress = Progress(5, 0, 1 / 3, 160, None)
    save = saving(run)
    save(state, progress)
    opened = Run.open(tmp_path / "fox")
    assert (opened.record, opened.vocab) == (run.record, run.vocab)
    restored, reached = opened.restore()
    assert reached == progress
    assert_same(restored, state)
    generator, reached = opened.generator()
    assert reached == progress
    assert_same(generator.params, state.weights)


def test_an_export_writes_the_same_and_is_not_trained_on(trained, tmp_path):
    copy = Run.open(trained).export(tmp_path / "shared" / "fox")
    run = Run.open(copy.path)
    assert (run.record, run.vocab) == (Run.open(trained).record, Run.open(trained).vocab)
    assert (run.path / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    [mine, progress], [other, reached] = run.generator(), Run.open(trained).generator()
    assert progress == reached
    assert_same(mine.params, other.params)
    assert mine.generate("the ", 40, seed=1) == other.generate("the ", 40, seed=1)
    sizes = [sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in (run.path, trained)]
    assert sizes[0] < sizes[1] / 3
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    for attempt in (run.restore, lambda: resume(run.path, epochs=9)):
        with pytest.raises(jaxlm.InputError, match=r"holds only weights, .* resume another run"):
            attempt()
    with pytest.raises(jaxlm.InputError, match="found a run there"):
        Run.open(trained).export(run.path)
    # It contains no path of the machine that made it.
    for file in run.path.rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes()
    # The newest run that can be resumed is another.
    shutil.copytree(trained, tmp_path / "shared" / "a")
    assert newest(tmp_path / "shared") == tmp_path / "shared" / "a"
    assert newest(tmp_path / "shared", trained=True) == run.path
    left = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert left == before


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_export_that_is_not_finished_leaves_nothing(trained, tmp_path, monkeypatch, trouble):
    def refuse(path, items):
        path.mkdir()
        raise trouble

    monkeypatch.setattr(arrays, "save", refuse)
    with pytest.raises((jaxlm.RunError, KeyboardInterrupt)):
        Run.open(trained).export(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


TRAIN_ON_FOUR = """
import dataclasses, sys, jax
jax.config.update("jax_num_cpu_devices", 4)
assert len(jax.devices()) == 4
import jaxlm
model = jaxlm.ModelConfig(hidden=8)
config = dataclasses.replace(jaxlm.BOOK, corpus=("fox.txt",), epochs=1, length=8, batch=64, model=model)
jaxlm.train(config, run="fox", checkpoints=".", reporter=None)
"""
LOAD_ON_ONE = """
import sys, jax, numpy as np, jaxlm
assert len(jax.devices()) == 1
generator = jaxlm.load(sys.argv[1])
print(generator.generate("the ", 20, temperature=0, mode="state"))
print(sum(np.asarray(leaf, np.float64).sum() for leaf in jax.tree.leaves(generator.params)))
"""


def test_loads_elsewhere_without_the_corpus(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "fox.txt").write_text(TEXT)
    trainer = python(TRAIN_ON_FOUR, cwd=tmp_path / "work")
    errors = trainer.communicate()[1]
    assert trainer.returncode == 0, errors
    (tmp_path / "work" / "fox.txt").unlink()
    loader = python(LOAD_ON_ONE, Path("work/fox"), cwd=tmp_path)
    output, errors = loader.communicate()
    assert loader.returncode == 0, errors
    generator = jaxlm.load(tmp_path / "work" / "fox")
    assert output.splitlines() == [
        generator.generate("the ", 20, temperature=0, mode="state"),
        str(sum(np.asarray(leaf, np.float64).sum() for leaf in jax.tree.leaves(generator.params))),
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_never_silent(trained, tmp_path, caplog, damage):
    good = {LAST: Run.open(trained).restore()}
    shutil.copytree(trained, tmp_path / "earlier", ignore=shutil.ignore_patterns(str(LAST)))
    good[EARLIER] = Run.open(tmp_path / "earlier").restore()
    assert [good[step][1].step for step in good] == [LAST, EARLIER]
    files = [path.relative_to(trained) for path in (trained / str(LAST)).rglob("*") if path.is_file()]
    assert len(files) > 15
    fallbacks = 0
    for file in files:
        path = tmp_path / "fox"
        shutil.copytree(trained, path)
        DAMAGES[damage](path / file)
        for best in (False, True):
            run = Run.open(path)
            if best:
                generator, progress = run.generator()
                assert_same(generator.params, good[progress.step][0].params)
            else:
                state, progress = run.restore()
                assert_same(state, good[progress.step][0])
            assert progress == good[progress.step][1]
            told = warnings(caplog)
            if progress.step == EARLIER:
                assert len(told) == 1, file
                assert f"checkpoint {LAST}" in told[0]
                fallbacks += 1
            else:
                assert told == [], file
        shutil.rmtree(path)
    assert fallbacks > 5


@pytest.mark.parametrize("name", ["step", "epoch", "nats", "count", "loss"])
def test_progress_that_is_another(copied, caplog, name):
    path = copied / str(LAST) / PROGRESS
    change(**{name: json.loads(path.read_text())[name] + 1})(path)
    for read in (Run.open(copied).restore, Run.open(copied).generator):
        assert read()[1].step == EARLIER
        assert [f"checkpoint {LAST}" in line for line in warnings(caplog)] == [True]


def largest(path, item):
    return max((path / item).rglob("*"), key=lambda file: file.is_file() and file.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "find"),
    [
        ("flipped", lambda step: largest(step, "params")),
        ("halved", lambda step: largest(step, "training")),
        ("emptied", lambda step: step / PROGRESS),
        ("deleted", lambda step: step / "_CHECKPOINT_METADATA"),
        ("deleted", lambda step: step / PROGRESS),
    ],
)
def test_training_goes_on_from_before_the_damage(copied, trained, caplog, damage, find):
    DAMAGES[damage](find(copied / str(LAST)))
    harmed = {path.relative_to(copied / str(LAST)): data for path, data in contents(copied / str(LAST)).items()}
    resume(copied)
    assert f"checkpoint {LAST} is set aside as damaged-{LAST}" in warnings(caplog)[-1]
    assert_same_run(copied, trained)
    aside = copied / f"damaged-{LAST}"
    assert {path.relative_to(aside): data for path, data in contents(aside).items()} == harmed
    assert steps(copied) == [EARLIER, LAST]


@pytest.mark.parametrize("harm", [flip, lambda file: shutil.rmtree(file.parents[3])])
def test_a_run_with_nothing_left_is_never_begun_anew(copied, capsys, harm):
    for step in (EARLIER, LAST):
        harm(largest(copied / str(step), "params/ocdbt.process_0"))
    if steps(copied):
        expected = "found only damaged checkpoints .*11.*22"
        with pytest.raises(jaxlm.InputError, match=expected):
            jaxlm.load(copied)
    else:
        expected = "found no checkpoint, but 2 epochs"
    before = contents(copied)
    with pytest.raises(jaxlm.InputError, match=expected):
        Run.open(copied).restore()
    assert commands.train(["--resume", "--run", str(copied), "--epochs", "9"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"error: run {copied}: found ")
    assert contents(copied) == before


@pytest.mark.parametrize("trouble", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")])
@pytest.mark.parametrize("where", ["file_digest", "restore"])
def test_what_surrounds_a_run_is_not_called_damage(copied, caplog, monkeypatch, trouble, where):
    def refuse(*arguments, **options):
        raise trouble

    before = contents(copied)
    if where == "file_digest":
        monkeypatch.setattr(storage, "file_digest", refuse)
    else:
        monkeypatch.setattr(arrays.ocp.Checkpointer, "restore", refuse)
    for read in (Run.open(copied).restore, Run.open(copied).generator, lambda: resume(copied, epochs=3)):
        with pytest.raises(jaxlm.RunError, match=f"checkpoint {LAST} could not be read .*{trouble.strerror}"):
            read()
    assert warnings(caplog) == []
    assert {path: data for path, data in contents(copied).items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


DEEP = "[" * 100_000

METRIC_DAMAGES = {
    **DAMAGES,
    "of another run": lambda path: path.write_text('{"epoch": 1, "step": 11, "loss": 1.0}\n'),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: path.rename(path.with_name("elsewhere")) and path.symlink_to("elsewhere"),
    "nested": lambda path: path.write_text(DEEP),
    "huge": lambda path: path.write_text('{"step": 1e999}\n'),
}


@pytest.mark.parametrize("damage", METRIC_DAMAGES)
def test_figures_that_are_lost_are_rebuilt_from_the_checkpoints(copied, trained, caplog, damage):
    path, expected = copied / "metrics.jsonl", Run.open(trained).metrics()
    METRIC_DAMAGES[damage](path)
    before = contents(copied)
    assert Run.open(copied).metrics() == expected
    assert warnings(caplog) == [
        f"{copied}: metrics.jsonl has changed since it was saved; its 2 epochs are taken from the last checkpoint"
    ]
    assert contents(copied) == before
    resume(copied, epochs=3)
    [told] = warnings(caplog)
    assert f"metrics.jsonl is rebuilt from checkpoint {LAST}" in told
    aside = copied / "damaged-metrics.jsonl"
    assert os.path.lexists(aside) == (damage != "deleted") == (aside.name in told)
    if path in before and damage != "a link":
        assert aside.read_bytes() == before[path]
    whole = shutil.copytree(trained, copied.with_name("whole"))
    resume(whole, epochs=3)
    assert_same_run(copied, whole)
    assert warnings(caplog) == []


@pytest.mark.parametrize("damage", ["a folder", "a pipe", "a link"])
def test_figures_without_a_copy_that_are_no_file_are_set_aside(copied, damage):
    as_format_1(copied)
    METRIC_DAMAGES[damage](copied / "metrics.jsonl")
    before = contents(copied)
    resume(copied, epochs=3)
    assert [values["epoch"] for values in Run.open(copied).metrics()] == [3]
    assert os.path.lexists(copied / "damaged-metrics.jsonl")
    assert (copied / "metrics.jsonl").is_file()
    if damage == "a link":
        assert (copied / "elsewhere").read_bytes() == before[copied / "elsewhere"]


def test_a_device_without_a_name_or_a_step_without_a_number_makes_no_figures(tmp_path):
    run, _ = make_run(tmp_path / "abc")
    saver = Saver(run.storage)
    good = {"epoch": 4, "step": 4, "device": "CPU, 1 core"}
    for odd in ({"device": ["CPU"]}, {"device": None}, {"device": 2}, {"step": True}, {"step": -1}, {"step": 2**70}):
        saver.add_metrics({**good, **odd})
    saver.add_metrics(good)
    assert run.metrics() == [good]


@pytest.mark.parametrize("goes_on", [True, False])
def test_figures_that_change_while_they_are_read_are_no_damage(tmp_path, caplog, goes_on):
    run, state = make_run(tmp_path / "abc")
    saver, saved_lines = Saver(run.storage), storage.Storage._saved_lines

    def epoch(number):
        saver.add_metrics({"epoch": number, "step": number})
        saver.save(*items_at(state, number, 3.0 - number))

    def meanwhile(self, name):
        patch.undo()
        if goes_on:
            epoch(3)
        found = saved_lines(self, name)
        if not goes_on:
            saver.roll_back(run.storage.good()[1])
        return found

    epoch(1)
    epoch(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.Storage, "_saved_lines", meanwhile)
        assert [values["epoch"] for values in run.metrics()] == ([1, 2, 3] if goes_on else [1])
    assert warnings(caplog) == []


def test_a_copy_of_the_figures_that_is_damaged_is_not_believed_and_costs_no_checkpoint(copied, trained, caplog):
    for step in (EARLIER, LAST):
        path = copied / str(step) / "metrics.jsonl"
        path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 7'))
    assert Run.open(copied).metrics() == Run.open(trained).metrics()
    whole = shutil.copytree(trained, copied.with_name("whole"))
    for path in (copied, whole):
        resume(path, epochs=3)
    assert_same_run(copied, whole)
    assert warnings(caplog) == []


def test_a_line_that_a_kill_cut_off_is_no_damage(copied, trained, caplog):
    with open(copied / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "step": 33, "lo')
    assert Run.open(copied).metrics() == Run.open(trained).metrics()
    resume(copied)
    assert warnings(caplog) == []
    assert_same_run(copied, trained)


def test_what_is_told_saved_is_on_the_disk(tmp_path, monkeypatch):
    """Every file and folder is flushed after its last change, the seal after all that it seals."""
    run, state = make_run(tmp_path / "new" / "abc")
    saver, flushed, told = Saver(run.storage), [], []
    fsync, rename = os.fsync, Path.rename

    def flush(descriptor):
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(path, target):
        told.append(sorted(str(file) for file in path.rglob("*")))
        flushed.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(files.os, "fsync", flush)
    monkeypatch.setattr(Path, "rename", renamed)
    saver.add_metrics({"epoch": 1, "step": 7})
    assert flushed == [str(run.path / "metrics.jsonl"), str(run.path)]
    saver.save(*items_at(state, 7, 1.0))
    hidden = run.path / ".saving-7"
    [there] = told
    sealing = next(i for i, name in enumerate(flushed) if f".{PROGRESS}." in name)
    assert {*there} - {str(hidden / PROGRESS)} <= {*flushed[:sealing]}
    assert flushed[sealing + 1 :] == [str(hidden), "renamed", str(run.path)]


def test_the_parents_of_a_new_run_are_on_the_disk(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda it: (flushed.append(os.readlink(f"/proc/self/fd/{it}")), fsync(it)))
    make_run(tmp_path / "a" / "b" / "abc")
    assert {str(tmp_path), str(tmp_path / "a")} <= {*flushed}
    assert flushed[-1] == str(tmp_path / "a" / "b")


def test_what_a_roll_back_renames_is_on_the_disk(copied, monkeypatch):
    done, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(files.os, "fsync", lambda it: (done.append(os.readlink(f"/proc/self/fd/{it}")), fsync(it)))
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append(path.name), rename(path, target))[1])
    shutil.copytree(copied / str(LAST), copied / "33")
    Run.open(copied).storage.roll_back(LAST)
    assert done == ["33", str(copied)]


def test_on_macos_the_drive_s_cache_is_flushed_as_well(tmp_path, monkeypatch):
    """Where it has no such call, as on a network's file system, fsync has to do."""
    done, answers = [], [None, None, OSError(errno.ENOTSUP, ""), None, OSError(errno.EIO, "Input/output error")]

    def full_fsync(descriptor, command):
        done.append(command)
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(files, "fcntl", types.SimpleNamespace(F_FULLFSYNC="full", fcntl=full_fsync))
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: done.append("fsync"))
    files.write_text(tmp_path / "a", "1")
    assert done == ["full", "full"]
    files.write_text(tmp_path / "a", "2")
    assert done[2:] == ["full", "fsync", "full"]
    with pytest.raises(OSError, match="Input/output"):
        files.write_text(tmp_path / "a", "3")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "2"


@pytest.mark.parametrize(
    ("number", "of_folders", "is_trouble"),
    [(errno.EINVAL, True, False), (errno.EINVAL, False, True), (errno.EIO, True, True)],
)
def test_only_a_folder_may_lack_what_flushes_it(tmp_path, monkeypatch, number, of_folders, is_trouble):
    """As on some network file systems."""
    fsync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files, "fcntl", None)  # As without macOS's own call.
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(jaxlm.InputError, match="cannot be written to") if is_trouble else contextlib.nullcontext():
        make_run(tmp_path / "abc")
    assert os.listdir(tmp_path) == ([] if is_trouble else ["abc"])


def test_a_checkpoint_is_sealed_anew_as_it_was_however_often_that_is_interrupted(tmp_path, monkeypatch):
    run, state = make_run(tmp_path / "abc")
    save = saving(run)
    save(*at(state, 1, 1.0))
    progress = run.storage.good()[1]
    for cuts in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(Path, "unlink", lambda *arguments, **options: None)  # As a kill, it leaves what it had begun.
            with pytest.raises(KeyboardInterrupt):
                Saver(run.storage).roll_back(dataclasses.replace(progress, cuts=cuts))
        assert len(list((run.path / "1").glob(".progress.json.*"))) == 1
        Saver(run.storage).roll_back(dataclasses.replace(progress, cuts=cuts))
        assert list((run.path / "1").glob(".progress.json.*")) == []
        assert run.generator()[1].cuts == cuts
    assert_same(run.restore()[0], at(state, 1)[0])
    # What has been damaged is not sealed as good.
    flip(largest(run.path / "1", "training"))
    Saver(run.storage).roll_back(progress)
    assert (run.restore(), steps(run.path)) == (None, [])
    assert (run.path / "damaged-1").is_dir()


def test_a_name_is_free_or_a_run(tmp_path, monkeypatch):
    def killed(path, target):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr("jaxlm.runs.run.delete_failed", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            make_run(tmp_path / "abc")
    assert not (tmp_path / "abc").exists()
    assert len(list(tmp_path.glob(".jaxlm-new-*/config.json"))) == 1
    with pytest.raises(jaxlm.InputError, match="found no run there"):
        newest(tmp_path)
    assert listing.list_runs(tmp_path)[0].name == "nietzsche"
    run, _ = make_run(tmp_path / "abc")
    assert newest(tmp_path) == run.path
    # What a kill has left is deleted once it cannot be at work any more.
    [left] = tmp_path.glob(".jaxlm-new-*")
    os.utime(left, (0, 0))
    others = [tmp_path / ".jaxlm-new-mine", tmp_path / ".jaxlm-new-0123456789abcdef"]
    others[0].mkdir()
    others[1].symlink_to("abc")
    for other in others:
        os.utime(other, (0, 0), follow_symlinks=False)
    make_run(tmp_path / "def")
    assert {*tmp_path.iterdir()} == {tmp_path / "abc", tmp_path / "def", *others}


def test_a_name_that_is_taken_while_a_run_is_made_stays_with_its_owner(tmp_path, monkeypatch):
    def slow(folder):
        (tmp_path / "abc").mkdir()
        (tmp_path / "abc" / "precious").write_text("mine")

    monkeypatch.setattr("jaxlm.runs.run._delete_stale", slow)
    with pytest.raises(jaxlm.InputError, match="found something that is not a run there"):
        make_run(tmp_path / "abc")
    assert [path.name for path in tmp_path.rglob("*")] == ["abc", "precious"]


@pytest.mark.parametrize("last", [False, True])
def test_a_new_run_that_the_disk_refuses_leaves_nothing(tmp_path, monkeypatch, last):
    def full(path):
        if not last or path == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxlm.runs.run.flush", full)
    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(jaxlm.InputError, match=r"cannot be written to \(No space left"):
        make_run(tmp_path / "abc")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing_that_waits(tmp_path, monkeypatch):
    """Threads that wait for a directory would hold up the process at its end."""
    run, state = make_run(tmp_path / "abc")
    save, makedirs, before = saving(run), os.makedirs, {*threading.enumerate()}

    def full(path, *arguments, **options):
        if "params" in os.fspath(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        makedirs(path, *arguments, **options)

    monkeypatch.setattr(os, "makedirs", full)
    with pytest.raises(jaxlm.RunError, match=r"nothing has been saved yet; free some disk space, then try again"):
        save(*at(state, 1, 1.0))
    for thread in {*threading.enumerate()} - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def test_many_stray_directories_are_passed_over_at_once(copied, caplog):
    for number in range(1000, 4000):
        (copied / str(number)).mkdir()
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        read = storage.read_json
        patch.setattr(storage, "read_json", lambda path, limit: (reads.append(path), read(path, limit))[1])
        flip(largest(copied / str(LAST), "params"))
        assert Run.open(copied).generator()[1].step == EARLIER
    progress = [path.parent.name for path in reads if path.name == PROGRESS]
    assert len(progress) == len({*progress}) == 3002
    shutil.rmtree(copied / str(EARLIER))
    shutil.rmtree(copied / str(LAST))
    with pytest.raises(jaxlm.InputError, match=r"1009: progress.json is missing; and 2990 more\)"):
        jaxlm.load(copied)


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_a_run_whose_directory_goes_away_ends_in_one_line(tmp_path, fate):
    run, state = make_run(tmp_path / "abc")
    saver = Saver(run.storage)
    saver.save(*items_at(state, 1, 1.0))
    moved = run.path.rename(tmp_path / "moved")
    if fate == "deleted":
        shutil.rmtree(moved)
    if fate == "replaced":
        make_run(tmp_path / "abc")
    before = contents(tmp_path)
    for attempt in (
        lambda: saver.add_metrics({"epoch": 2, "step": 2}),
        lambda: saver.save(*items_at(state, 2, 0.5)),
    ):
        with pytest.raises(jaxlm.RunError, match="has been moved, deleted or replaced"):
            attempt()
    run.remove_if_untrained()
    assert contents(tmp_path) == before
    if fate == "moved":
        assert Run.open(moved).restore()[1].step == 1


def test_a_run_is_found_again_after_a_change_of_folder(copied, monkeypatch):
    monkeypatch.chdir(copied.parent)
    run = Run.open("fox")
    monkeypatch.chdir("/")
    assert run.generator()[1].step == LAST
    monkeypatch.chdir(copied.parent)
    assert (run.shown, repr(run)) == ("fox", f"Run('fox', checkpoints=[{EARLIER}, {LAST}])")


@pytest.mark.parametrize("trouble", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
@pytest.mark.parametrize("was_locked", [False, True])
def test_runs_train_where_there_are_no_locks(copied, trained, caplog, monkeypatch, trouble, was_locked):
    import fcntl

    def refuse(descriptor, operation):
        raise OSError(trouble, os.strerror(trouble))

    (copied / ".lock").unlink()
    if was_locked:
        (copied / ".lock").touch()
    shutil.rmtree(copied / str(LAST))
    monkeypatch.setattr(fcntl, "flock", refuse)
    resume(copied)
    [told] = [line for line in warnings(caplog) if "lock" in line]
    assert told.startswith(f"{copied}: this file system has no locks ({os.strerror(trouble)})")
    assert_same_run(copied, trained)


def test_old_checkpoints_may_be_moved_to_another_disk(copied, trained, tmp_path):
    elsewhere = tmp_path / "big" / str(EARLIER)
    elsewhere.parent.mkdir()
    (copied / str(EARLIER)).rename(elsewhere)
    (copied / str(EARLIER)).symlink_to(elsewhere)
    before = contents(elsewhere)
    shutil.rmtree(copied / str(LAST))
    resume(copied, epochs=4)
    resume(copied, epochs=5)
    assert steps(copied) == [44, 55]
    assert contents(elsewhere) == before
    assert [path.name for path in copied.iterdir() if path.name.startswith(".")] == [".lock"]


def moved_away(checkpoint, elsewhere):
    """Moves a checkpoint out of its run, leaves a link, and returns what must not change of it."""
    checkpoint.rename(elsewhere)
    checkpoint.symlink_to(elsewhere)
    return all_of(elsewhere)


def all_of(folder):
    """Each file's content, and when and how each file and folder was changed last."""
    found = [folder, *sorted(folder.rglob("*"))]
    return [(path, path.stat().st_mtime_ns, path.stat().st_ino, path.is_file() and path.read_bytes()) for path in found]


def test_a_roll_back_to_a_checkpoint_that_was_moved_to_another_disk_writes_nothing_there(copied, tmp_path, caplog):
    elsewhere = tmp_path / "big"
    before = moved_away(copied / str(EARLIER), elsewhere)
    run = Run.open(copied)
    state, progress = run.restore()[0], run.storage.good()[EARLIER]
    saver = Saver(run.storage)
    saver.roll_back(dataclasses.replace(progress, cuts=1))
    assert all_of(elsewhere) == before
    assert (steps(copied), (copied / str(EARLIER)).is_symlink()) == ([EARLIER], True)
    assert saver.best == dataclasses.replace(progress, cuts=1)
    # Killed here, the run would go on from what was saved; otherwise, the next save tells of the cut.
    assert run.restore()[1] == progress
    saver.save(state.to_items(), Progress(LAST, 2, loss=progress.loss - 1, cuts=1))
    assert run.restore()[1].cuts == 1
    assert all_of(elsewhere) == before
    assert warnings(caplog) == []


LINKED = [
    ".config.json.tmp",
    ".metrics.jsonl.tmp",
    ".lock",
    "metrics.jsonl",
    ".saving-33",
    ".saving-33.orbax-checkpoint-tmp",
    ".deleted-11",
    "damaged-44",
    "33",
    "44/.progress.json.tmp",
]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("name", LINKED)
def test_links_in_a_stranger_s_run_are_never_written_through(copied, tmp_path, name, folder):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    (victim / ".progress.json.tmp").write_text("mine")
    path = copied / name
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(victim if folder else victim / "precious")
    before = {file: (file.lstat().st_mtime_ns, file.lstat().st_mode) for file in [victim, *victim.rglob("*")]}
    with contextlib.suppress(jaxlm.InputError, jaxlm.RunError):
        resume(copied, epochs=3)
    assert (victim / "precious").read_text() == "mine"
    assert {file: (file.lstat().st_mtime_ns, file.lstat().st_mode) for file in [victim, *victim.rglob("*")]} == before


@pytest.mark.parametrize("fate", ["deleted", "replaced", "deleted later"])
def test_a_run_whose_directory_goes_away_during_a_save_does_not_come_back(tmp_path, monkeypatch, fate):
    run, state = make_run(tmp_path / "abc")
    saver, save = Saver(run.storage), arrays.save

    def slow(path, items):
        if fate == "deleted later":
            save(path, items)
        shutil.rmtree(run.path)
        if fate == "replaced":
            make_run(tmp_path / "abc")
        if fate != "deleted later":
            save(path, items)

    monkeypatch.setattr(arrays, "save", slow)
    with pytest.raises(jaxlm.RunError, match="has been moved, deleted or replaced"):
        saver.save(*items_at(state, 1, 1.0))
    assert [path.name for path in tmp_path.iterdir()] == (["abc"] if fate == "replaced" else [])
    if fate == "replaced":
        assert jaxlm.Run.open(tmp_path / "abc").checkpoints() == []
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.json", "vocab.json"]


@pytest.mark.parametrize("item", ["params", "training"])
def test_a_part_of_a_checkpoint_that_is_a_link_is_not_followed(copied, tmp_path, caplog, item):
    (copied / str(LAST) / item).rename(tmp_path / item)
    (copied / str(LAST) / item).symlink_to(tmp_path / item)
    assert Run.open(copied).restore()[1].step == EARLIER
    assert f"{item} is a link, not a folder" in caplog.text


def resealed(checkpoint, **values):
    """Changes progress.json, without what is `...`, and seals it again, as whoever made the run could."""
    path = checkpoint / PROGRESS
    found = json.loads(path.read_text()) | values | {"sha256": ...}
    found = {name: value for name, value in found.items() if value is not ...}
    path.write_text(json.dumps({**found, "sha256": files.digest(found)}))


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "abc"},
        {"loss": float("nan")},
        {"epoch": -5},
        {"epoch": True},
        {"cuts": -1000},
        {"cuts": 10**400},
        {"nats": "x"},
        {"count": 1.5},
        {"validation": 1e999},
        {"step": LAST + 1},
        {"cuts": ...},
        {"files": []},
        {"files": None},
        {"files": {"/dev/zero": "0" * 64}},
        {"files": {"../../../etc/hostname": "0" * 64}},
        {"files": {"params/../../11/params/_METADATA": "0" * 64}},
        {"files": {"C:\\x": "0" * 64}},
        {"files": {"": "0" * 64}},
        {"files": {".": "0" * 64}},
        {"files": {"\ud800": "0" * 64}},
        {"run": "2026"},
    ],
    ids=str,
)
def test_values_of_a_stranger_s_checkpoint_are_checked(copied, caplog, values):
    resealed(copied / str(LAST), **values)
    for read in (Run.open(copied).restore, Run.open(copied).generator):
        assert read()[1].step == EARLIER
        [told] = warnings(caplog)
        assert f"skipping damaged checkpoint {LAST}: " in told


@pytest.mark.parametrize("name", ["../../outside", "params/../../../outside", "{}"])
def test_files_outside_are_no_part_of_a_checkpoint_whatever_their_digest(copied, caplog, name):
    outside = copied.with_name("outside")
    outside.write_text("mine")
    names = json.loads((copied / str(LAST) / PROGRESS).read_text())["files"]
    resealed(copied / str(LAST), files={**names, name.format(outside): hashlib.sha256(b"mine").hexdigest()})
    assert Run.open(copied).restore()[1].step == EARLIER
    assert f"{LAST}: {PROGRESS} has changed" in caplog.text


@pytest.mark.parametrize("text", ["[]", "7", "null", DEEP], ids=lambda text: text[:4])
def test_progress_that_is_no_set_of_values_is_damage(copied, caplog, text):
    (copied / str(LAST) / PROGRESS).write_text(text)
    assert Run.open(copied).restore()[1].step == EARLIER
    assert f"{LAST}: {PROGRESS} has changed" in caplog.text


def test_a_step_that_is_not_in_its_epoch_is_refused(copied):
    for step in (EARLIER, LAST):
        resealed(copied / str(step), epoch=7)
    with pytest.raises(jaxlm.InputError, match=rf"step {LAST} is not in epoch 8, which has 11 steps"):
        resume(copied, epochs=9)


ODD_FILES = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/dev/zero"),
    "link to the file": lambda path: path.symlink_to(next(p for p in path.parents if p.name == "fox") / "moved"),
    "folder": Path.mkdir,
    "giant": lambda path: (path.touch(), os.truncate(path, 2**40)),
}


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("name", ["config.json", "vocab.json", PROGRESS, "params/_METADATA", "params/manifest.ocdbt"])
def test_only_files_of_a_sensible_size_are_opened(copied, caplog, kind, name):
    path = copied / name if name.endswith(("fig.json", "cab.json")) else copied / str(LAST) / name
    path.rename(copied / "moved")
    ODD_FILES[kind](path)
    if path.parent == copied:
        with pytest.raises(jaxlm.InputError, match=rf"{name} is (a |too large)"):
            Run.open(copied)
        return
    assert Run.open(copied).restore()[1].step == EARLIER
    [told] = warnings(caplog)
    assert f"{LAST}: {name} is " in told


@pytest.mark.parametrize("kind", [kind for kind in ODD_FILES if kind != "giant"])
def test_what_takes_a_file_s_place_once_it_was_looked_at_is_not_opened(copied, monkeypatch, kind):
    path, good = copied / "config.json", Path(__file__).stat()
    path.rename(copied / "moved")
    ODD_FILES[kind](path)
    monkeypatch.setattr(Path, "lstat", lambda path: good)
    with pytest.raises((files.Damaged, OSError)):
        files.read_bytes(path, 2**20)


def test_no_more_is_read_than_asked_for_of_a_file_that_grows():
    """As those of /proc do: their size is 0 until they are read."""
    assert len(files.read_bytes(Path("/proc/self/maps"), 10)) == 11


@pytest.mark.parametrize("kind", [kind for kind in ODD_FILES if kind != "giant"])
def test_nothing_is_written_through_what_is_no_file(copied, monkeypatch, kind):
    """Neither at the name of a file, nor at that of a temporary one that was guessed."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "01234567")
    before = (copied / "config.json").read_bytes()
    (copied / "config.json").rename(copied / "moved")
    for place, name, write in (("a", "a", files.append_text), (".b.01234567.tmp", "b", files.write_text)):
        ODD_FILES[kind](copied / place)
        with pytest.raises(OSError, match=r"\[Errno"):
            write(copied / name, "stranger")
    os.link(copied / "moved", copied / ".c.01234567.tmp")
    with pytest.raises(FileExistsError):
        files.write_text(copied / "c", "stranger")
    assert (copied / "moved").read_bytes() == before


def test_nothing_is_appended_to_a_pipe_that_someone_reads(tmp_path):
    os.mkfifo(tmp_path / "a")
    with open(os.open(tmp_path / "a", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        with pytest.raises(OSError, match="not a regular file"):
            files.append_text(tmp_path / "a", "stranger")
        assert reader.read() == b""


def test_arrays_that_claim_more_than_their_files_hold_are_not_read(copied, monkeypatch):
    values = json.loads((copied / "config.json").read_text())
    values["config"]["model"]["hidden"] = 2**16
    sealed(config=values["config"])(copied / "config.json")
    monkeypatch.setattr(arrays, "restore", lambda path, like: pytest.fail("restored"))
    with pytest.raises(jaxlm.InputError, match=r"its files, of [\d,]+ bytes, are too small for a model of [\d,]{14,}"):
        jaxlm.load(copied)


@pytest.mark.parametrize(
    ("item", "array", "values"),
    [
        ("params", "dense.kernel", {"shape": [2**40, 28]}),
        ("params", "dense.kernel", {"dtype": "<f8"}),
        ("params", "dense.kernel", {"chunks": [2**40, 2**20]}),
        ("training", "key", {"shape": [2**40], "chunks": [2**40]}),
    ],
    ids=str,
)
def test_arrays_that_claim_to_be_others_are_not_read(copied, caplog, monkeypatch, item, array, values):
    path = copied / str(LAST)
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{path}/{item}/"}).result()
    key = f"{array}/.zarray"
    store.write(key, json.dumps(json.loads(store.read(key).result().value) | values)).result()
    names = [name for name, _ in files.regular_files(path) if name != PROGRESS]
    resealed(path, files={name: files.file_digest(path / name, 2**30, name) for name in names})
    restore = arrays.ocp.Checkpointer.restore

    def read(checkpointer, directory, **options):
        assert Path(directory).name == str(EARLIER)
        return restore(checkpointer, directory, **options)

    monkeypatch.setattr(arrays.ocp.Checkpointer, "restore", read)
    assert Run.open(copied).restore()[1].step == EARLIER
    assert f"skipping damaged checkpoint {LAST}: its {item} " in caplog.text


def test_an_earlier_checkpoint_that_is_damaged_is_set_aside(copied, trained, caplog):
    """Otherwise it could stay the best, and no better one would be kept in its place."""
    flip(largest(copied / str(EARLIER), "training"))
    resume(copied, epochs=3)
    assert warnings(caplog) == [f"{copied}: checkpoint {EARLIER} is set aside as damaged-{EARLIER}"]
    assert steps(copied) == [LAST, 33]


def test_what_cannot_be_read_is_not_set_aside(copied, monkeypatch):
    digest = storage.file_digest

    def refuse(path, *arguments):
        if str(EARLIER) in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        return digest(path, *arguments)

    monkeypatch.setattr(storage, "file_digest", refuse)
    Run.open(copied).storage.roll_back(LAST)
    assert steps(copied) == [EARLIER, LAST]


@pytest.mark.parametrize("name", ["params/checkpoint", "training/d/planted"])
def test_what_was_not_saved_with_a_checkpoint_is_not_read(copied, caplog, name):
    (copied / str(LAST) / name).write_text("")
    (copied / str(LAST) / "params" / ".DS_Store").write_text("")
    assert Run.open(copied).restore()[1].step == EARLIER
    assert f"{name} was not saved with it" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "link", "giant"])
def test_not_even_hidden_files_may_be_anything(copied, caplog, kind):
    """Checkpoints of former versions are copied with all that is in them."""
    ODD_FILES[kind](copied / str(LAST) / "params" / ".DS_Store")
    assert Run.open(copied).restore()[1].step == EARLIER
    assert "params/.DS_Store is " in caplog.text


def test_strays_are_no_checkpoints(copied, trained, caplog):
    (copied / "99").mkdir()
    (copied / "77").write_text("a file")
    shutil.copytree(copied / str(LAST), copied / "33", ignore=lambda folder, names: {PROGRESS})
    (copied / "notes").mkdir()
    (copied / "notes" / "mine.txt").write_text("keep")
    state = Run.open(trained).restore()[0]
    (copied / "88").symlink_to(copied / str(LAST))
    shutil.copytree(copied / str(EARLIER), copied / "66")
    for read in (Run.open(copied).restore, Run.open(copied).generator):
        found, reached = read()
        assert reached.step == LAST
        assert_same(found.params, state.params)
        assert [line.split("checkpoint ")[1][:2] for line in warnings(caplog)] == ["33", "66", "77", "88", "99"]
    resume(copied)
    assert_same_run(copied, trained)
    names = {path.name for path in copied.iterdir() if path.is_dir() or path.name.startswith("damaged-")}
    assert names == {"11", "22", "notes", *(f"damaged-{number}" for number in (33, 66, 77, 88, 99))}
    assert (copied / "notes" / "mine.txt").read_text() == "keep"


def test_what_was_set_aside_before_is_kept(copied, trained):
    (copied / f"damaged-{LAST}").symlink_to("nothing")
    (copied / f"damaged-{LAST}-2").mkdir()
    flip(largest(copied / str(LAST), "params"))
    resume(copied)
    assert_same_run(copied, trained)
    assert os.readlink(copied / f"damaged-{LAST}") == "nothing"
    assert list((copied / f"damaged-{LAST}-2").iterdir()) == []
    assert (copied / f"damaged-{LAST}-3" / PROGRESS).is_file()


def test_one_trainer_at_a_time(copied):
    run = Run.open(copied)
    with run.lock():
        before = contents(copied)
        with pytest.raises(jaxlm.InputError, match="another process is training it"):
            resume(copied, epochs=9)
        assert contents(copied) == before
        jaxlm.load(copied)
    resume(copied)


def test_kept_are_the_last_two_and_the_best(tmp_path):
    run, state = make_run(tmp_path / "abc")
    losses = {1: None, 2: 3.0, 3: 1.0, 4: 2.0, 5: None, 6: 1.5, 7: 1.0, 8: None, 9: None}
    kept = {
        1: [1],
        2: [1, 2],
        3: [2, 3],
        4: [3, 4],
        5: [3, 4, 5],
        6: [3, 5, 6],
        7: [3, 6, 7],
        8: [3, 7, 8],
        9: [3, 8, 9],
    }
    for step, loss in losses.items():
        saving(run)(*at(state, step, loss))
        assert steps(run.path) == kept[step]
        best = min(kept[step], key=lambda s: (losses[s] or np.inf, s))
        generator, progress = run.generator()
        assert (progress.step, progress.loss) == (best, losses[best])
        assert_same(generator.params, at(state, best)[0].params)
        restored, progress = run.restore()
        assert progress.step == step
        assert_same(restored, at(state, step)[0])


def test_writer_keeps_what_is_saved(tmp_path):
    run, state = make_run(tmp_path / "abc")
    save = saving(run)
    save(*at(state, 5, 1.0))
    for step in (5, 4):
        with pytest.raises(jaxlm.RunError, match=f"refused to save step {step}"):
            save(*at(state, step, 0.5))
    for spoiled in (
        state._replace(params=jax.tree.map(lambda leaf: leaf * np.float32("nan"), state.params)),
        state._replace(opt_state=jax.tree.map(lambda leaf: leaf + np.float32("inf"), state.opt_state)),
    ):
        with pytest.raises(jaxlm.RunError, match="step 6: found weights that are not finite"):
            save(spoiled, Progress(6, 0, 0.0, 0, None))
    (run.path / "6").mkdir()
    with pytest.raises(jaxlm.RunError, match="refused to save step 6"):
        save(*at(state, 6, 0.5))
    (run.path / "6").rmdir()
    assert steps(run.path) == [5]
    assert_same(run.restore()[0], at(state, 5)[0])


FULL_DISK = """
import resource, sys
from jaxlm.cli import programs
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.argv = ["train.py", "--resume", "--run", sys.argv[1], "--epochs", "3", "--temperature"]
sys.exit(programs.train())
"""


def test_full_disk(copied, trained):
    process = python(FULL_DISK, copied)
    errors = process.communicate()[1]
    assert process.returncode == 1, errors
    assert errors.startswith(f"error: run {copied}: checkpoint 33 could not be written")
    assert errors.count("\n") == 1, errors
    assert steps(copied) == [EARLIER, LAST]
    for step in (EARLIER, LAST):
        assert list(contents(copied / str(step)).values()) == list(contents(trained / str(step)).values())
    assert Run.open(copied).restore()[1].step == LAST


def test_what_is_there_under_a_hidden_name_is_neither_kept_nor_in_the_way(tmp_path):
    run, state = make_run(tmp_path / "abc")
    for name in (".saving-1", ".deleted-1"):
        (run.path / name / "params").mkdir(parents=True)
        (run.path / name / "params" / "planted").write_text("")
    save = saving(run)
    for step in (1, 2, 3):
        save(*at(state, step, 4.0 - step))
        assert list((run.path / str(step)).rglob("planted")) == []
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "2", "3", "config.json", "vocab.json"]
    assert_same(run.restore()[0], at(state, 3)[0])


def test_what_is_still_being_written_is_deleted_as_well(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    rmtree, late = shutil.rmtree, [tmp_path / "a" / "late"]

    def delete(path, **options):
        rmtree(path, **options)
        while late:
            late.pop().mkdir(parents=True)

    monkeypatch.setattr(files.shutil, "rmtree", delete)
    files.delete_failed(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left"), "free some disk space"),
        (OSError(errno.EDQUOT, "No quota left"), "free some disk space"),
        (ValueError("RESOURCE_EXHAUSTED: a\nb\nc"), "free some disk space"),
        (ValueError("OUT_OF_RANGE: a\nb\nc"), "free some disk space"),  # As where no file may be so large.
        (ValueError("UNKNOWN: a\nb\nc"), "fix the cause"),
        (OSError(errno.EIO, "Input/output error"), "fix the cause"),
    ],
    ids=str,
)
def test_refused_save_leaves_nothing(tmp_path, monkeypatch, error, remedy):
    run, state = make_run(tmp_path / "abc")

    def refuse(checkpointer, path, args):
        (path / "params").mkdir(parents=True)
        (path.with_name(f"{path.name}.orbax-checkpoint-tmp") / "params").mkdir(parents=True)
        raise error

    save = saving(run)
    save(*at(state, 1, 1.0))
    monkeypatch.setattr(arrays.ocp.Checkpointer, "save", refuse)
    with pytest.raises(jaxlm.RunError, match=r"checkpoint 2 could not be written \(.+\)") as caught:
        save(*at(state, 2, 0.5))
    assert len(str(caught.value).splitlines()) == 1
    assert f"earlier checkpoints are untouched; {remedy}, then resume: " in str(caught.value)
    assert steps(run.path) == [1]
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == [".lock"]
    assert_same(run.restore()[0], at(state, 1)[0])


def spoil(path, items):
    """Saves other values."""
    SAVE(path, jax.tree.map(lambda leaf: np.asarray(leaf + 1), items))


SAVE = arrays.save


@pytest.mark.parametrize("spoiled", [spoil, lambda path, items: path.mkdir()])
def test_a_save_that_cannot_be_read_back_costs_no_earlier_checkpoint(tmp_path, monkeypatch, spoiled):
    run, state = make_run(tmp_path / "abc")
    save = saving(run)
    for step in (1, 2, 3):
        save(*at(state, step, 4.0 - step))
    assert steps(run.path) == [2, 3]
    monkeypatch.setattr(arrays, "save", spoiled)
    with pytest.raises(jaxlm.RunError, match=r"checkpoint 4 .*earlier checkpoints are untouched"):
        save(*at(state, 4, 0.5))
    monkeypatch.undo()
    assert steps(run.path) == [2, 3]
    assert_same(run.restore()[0], at(state, 3)[0])
    saving(run)(*at(state, 4, 0.5))
    assert_same(run.restore()[0], at(state, 4)[0])


ODD = [
    "book [v1]",
    "[",
    "a]b[",
    "C:\\runs",
    "**",
    "*",
    "?",
    "{a,b}",
    os.fsdecode(b"caf\xe9"),
    "\u4e66 \u0301\n",
    "#%20",
]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_never_a_pattern(tmp_path, trained, name):
    folder = tmp_path / name / name
    folder.mkdir(parents=True)
    run, state = make_run(folder / "abc")
    for step in (1, 2, 3):
        saving(run)(*at(state, step, 4.0 - step))
    assert steps(run.path) == [2, 3]
    assert_same(Run.open(run.path).restore()[0], at(state, 3)[0])
    copy = run.export(folder / f"{name} copy")
    assert_same(copy.generator()[0].params, state._replace(params=at(state, 3)[0].params).params)


def test_a_run_that_is_moved_to_an_odd_place_goes_on_there(copied, trained, tmp_path):
    (tmp_path / "moved [2]").mkdir()
    shutil.rmtree(copied / str(LAST))
    moved = copied.rename(tmp_path / "moved [2]" / "fox")
    resume(moved)
    assert_same_run(moved, trained)
    jaxlm.load(moved).generate("the ", 3)
    assert steps(moved) == [EARLIER, LAST]


def unmerge(path):
    """Leaves of a checkpoint what Orbax saved where its path looked like a pattern."""
    for data in path.glob("*/ocdbt.process_0"):
        (data.parent / "manifest.ocdbt").unlink()
        shutil.rmtree(data.parent / "d")


def test_runs_that_were_saved_at_an_odd_place_before_are_read(copied, trained):
    run = Run.open(copied)
    for step, progress in run.storage.good().items():
        unmerge(copied / str(step))
        files_there = [name for name, _ in files.regular_files(copied / str(step)) if name != PROGRESS]
        digests = {name: files.file_digest(copied / str(step) / name, 2**30, name) for name in files_there}
        run.storage._write_seal(copied / str(step), progress, digests)
    before = contents(copied)
    assert_same(run.generator()[0].params, Run.open(trained).generator()[0].params)
    assert_same_run(copied, trained)
    assert contents(copied) == before
    resume(copied, epochs=3)
    assert steps(copied)[-1] == 33
    assert run.generator()[0].generate("the ", 3)


def test_killed_while_deleting(tmp_path, monkeypatch):
    run, state = make_run(tmp_path / "abc")

    def killed(path):
        (path / "params" / "_METADATA").unlink()
        raise KeyboardInterrupt

    save = saving(run)
    for step in (1, 2):
        save(*at(state, step, 3.0 - step))
    monkeypatch.setattr(files.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(*at(state, 3, 0.0))
    assert run.checkpoints() == steps(run.path) == [2, 3]
    assert len(list(run.path.glob(".deleted-*"))) == 1
    monkeypatch.undo()
    run.storage.roll_back(3)
    assert list(run.path.glob(".deleted-*")) == []
    assert run.checkpoints() == [2, 3]


def test_everything_opened_is_closed_and_nothing_temporary_left(copied, monkeypatch, tmp_path):
    opened = []

    class Checkpointer(arrays.ocp.Checkpointer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            opened.append(self)

        def close(self):
            super().close()
            opened.remove(self)

    monkeypatch.setattr(arrays.ocp, "Checkpointer", Checkpointer)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(arrays.tempfile, "tempdir", str(temporary))
    copied = copied.rename(tmp_path / "[1]")
    run = Run.open(copied)
    run.restore()
    flip(largest(copied / str(LAST), "params"))
    run.generator()
    flip(largest(copied / str(EARLIER), "params"))
    with pytest.raises(jaxlm.InputError):
        run.restore()
    assert opened == []
    assert list(temporary.iterdir()) == []


WRITE_ON = """
import sys; sys.path.insert(0, sys.argv[2])
from test_storage import Run, at, saving
run = Run.open(sys.argv[1])
state = run.restore()[0]
save = saving(run)
for step in range(2, 30):
    save(*at(state, step, 1.0 + step * 7 % 11))
"""


# A checkpoint may be deleted while it is read: TensorStore then reports to an event loop that is closed by then.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_reading_while_training(tmp_path, caplog):
    run, state = make_run(tmp_path / "abc")
    save = saving(run)
    save(*at(state, 1, 1.0))
    trainer = python(WRITE_ON, run.path, ROOT / "tests")
    seen = set()
    while trainer.poll() is None or len(seen) < 2:
        for read in (run.restore, run.generator):
            found, progress = read()
            assert_same(found.params, at(state, progress.step)[0].params)
            seen.add(progress.step)
    assert trainer.communicate()[1] == ""
    assert trainer.returncode == 0
    assert len(seen) > 3
    assert warnings(caplog) == []


@pytest.mark.parametrize("place", ["_read_progress", "_read_items", "restore"])
def test_checkpoints_that_are_replaced_while_they_are_read_are_no_damage(tmp_path, caplog, place):
    run, state = make_run(tmp_path / "abc")
    save, owner = saving(run), arrays if place == "restore" else storage.Storage
    read = getattr(owner, place)

    def meanwhile(*arguments):
        patch.undo()
        for step in (3, 4):
            save(*at(state, step, 4.0 - step))
        return read(*arguments)

    for step in (1, 2):
        save(*at(state, step, 4.0 - step))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, place, meanwhile)
        generator, progress = run.generator()
    assert steps(run.path) == [3, 4]
    assert progress.step == 4
    assert_same(generator.params, at(state, 4)[0].params)
    assert warnings(caplog) == []


def change(**values):
    def edit(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def sealed(*names, **values):
    """Changes config.json, without the fields `names`, and seals it again, as whoever made the run could."""

    def edit(path):
        kept = {name: value for name, value in json.loads(path.read_text()).items() if name not in (*names, "seal")}
        kept |= values
        path.write_text(json.dumps({**kept, "seal": files.digest(kept)}))

    return edit


def unsealed(**values):
    """Changes config.json, and takes its seal away."""

    def edit(path):
        change(**values)(path)
        path.write_text(
            json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "seal"})
        )

    return edit


def other_vocabulary(values):
    """Changes vocab.json, and config.json with it."""

    def edit(path):
        path.write_text(json.dumps(values))
        sealed(vocab=files.digest(values))(path.with_name("config.json"))

    return edit


def more_hidden(path):
    values = json.loads(path.read_text())
    values["config"]["model"]["hidden"] = 17
    sealed(config=values["config"])(path)


def as_format_1(path):
    """Makes a run what versions before the seal wrote."""
    run = Run.open(path)
    for step in run.checkpoints():
        progress, digests = run.storage._read_progress(step)
        (path / str(step) / "metrics.jsonl").unlink()
        del digests["metrics.jsonl"]
        values = {**vars(progress), "vocab": files.digest(run.vocab.to_json()), "files": digests}
        (path / str(step) / PROGRESS).write_text(json.dumps({**values, "sha256": files.digest(values)}))
    values = json.loads((path / "config.json").read_text())
    del values["seal"], values["vocab"]
    (path / "config.json").write_text(json.dumps({**values, "format": 1}))


CHANGED = "has changed since it was saved"


@pytest.mark.parametrize(
    ("name", "edit", "expected"),
    [
        ("config.json", halve, f"config.json {CHANGED}"),
        ("config.json", lambda path: path.write_text(DEEP), f"config.json {CHANGED}"),
        ("config.json", lambda path: path.write_bytes(b"\xff\x00"), f"config.json {CHANGED}"),
        ("config.json", lambda path: path.write_text("[]"), f"config.json {CHANGED}"),
        ("config.json", lambda path: path.write_text("7"), f"config.json {CHANGED}"),
        ("config.json", change(format=1), f"config.json {CHANGED}"),
        ("config.json", change(seed_text="abc"), f"config.json {CHANGED}; undo the change, or restore it"),
        ("config.json", change(seal=None), f"config.json {CHANGED}"),
        ("config.json", unsealed(format=1), f"config.json {CHANGED}"),
        ("config.json", sealed(format=1), "config.json has no 'format'"),
        ("config.json", sealed(format=2.0), "config.json has no 'format'"),
        ("config.json", sealed(format=3), "config.json has no 'format'"),
        ("config.json", sealed("format"), "config.json has no 'format'"),
        ("config.json", sealed("seed_text"), "config.json has no 'seed_text'"),
        ("config.json", sealed("vocab"), f"vocab.json {CHANGED}"),
        ("config.json", sealed(created=7), "config.json has no 'created'"),
        (
            "config.json",
            sealed(created="2026"),
            "found only damaged checkpoints .*it and config.json are of different runs",
        ),
        ("config.json", sealed(config={"corpus": ["a"], "hiddden": 1}), "stored settings: found .*hiddden"),
        ("config.json", sealed(config=[]), "stored settings"),
        ("config.json", more_hidden, NOTHING_GOOD),
        ("config.json", Path.unlink, "found a folder without config.json"),
        ("vocab.json", halve, f"vocab.json {CHANGED}"),
        ("vocab.json", lambda path: path.write_text(DEEP), f"vocab.json {CHANGED}"),
        ("vocab.json", Path.unlink, "vocab.json is missing"),
        ("vocab.json", change(tokens=list("abc")), f"vocab.json {CHANGED}"),
        ("vocab.json", other_vocabulary([]), "vocabulary: found"),
        ("vocab.json", other_vocabulary({"kind": "char"}), "vocabulary: found 'tokens'"),
        ("vocab.json", other_vocabulary({"kind": "emoji", "tokens": ["a"]}), "vocabulary kind: found 'emoji'"),
        ("vocab.json", other_vocabulary({"kind": "char", "tokens": ["a", "b"]}), NOTHING_GOOD),
    ],
)
def test_foreign_and_damaged_settings(copied, name, edit, expected):
    edit(copied / name)
    with pytest.raises(jaxlm.InputError, match=expected) as caught:
        jaxlm.load(copied)
    assert len(str(caught.value).splitlines()) == 1


def test_no_flipped_bit_of_the_settings_is_believed(copied):
    record, path = Run.open(copied).record, copied / "config.json"
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 7):  # Every position in a byte; the fault matrix has every bit.
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        # Some flips change nothing: 1e-05 is 1E-05.
        with contextlib.suppress(jaxlm.InputError):
            assert Run.open(copied).record == record, bit


def test_resuming_with_other_settings_seals_them(copied):
    resume(copied, epochs=3)
    assert Run.open(copied).record.config.epochs == 3
    assert json.loads((copied / "config.json").read_text())["format"] == 2


def test_runs_without_a_seal_are_read_and_resumed(copied, trained):
    as_format_1(copied)
    before = contents(copied)
    run = Run.open(copied)
    assert (run.record, run.vocab) == (Run.open(trained).record, Run.open(trained).vocab)
    assert run.generator()[0].generate("the ", 9, seed=1) == jaxlm.load(trained).generate("the ", 9, seed=1)
    assert run.metrics() == Run.open(trained).metrics()
    assert contents(copied) == before
    whole = shutil.copytree(trained, copied.with_name("whole"))
    for path in (copied, whole):
        resume(path, epochs=3)
    assert_same_run(copied, whole)
    assert json.loads((copied / "config.json").read_text())["format"] == 1
    assert Run.open(copied.with_name("whole")).restore()[1].step == 33


def test_a_run_without_a_seal_refuses_another_vocabulary_and_sealed_checkpoints(copied, tmp_path):
    shutil.copytree(copied, tmp_path / "old")
    as_format_1(tmp_path / "old")
    change(tokens=json.loads((copied / "vocab.json").read_text())["tokens"][::-1])(tmp_path / "old" / "vocab.json")
    with pytest.raises(jaxlm.InputError, match=f"found only damaged checkpoints .*vocab.json {CHANGED}"):
        jaxlm.load(tmp_path / "old")
    # Without its seal, a run does not become one that never had it.
    values = json.loads((copied / "config.json").read_text())
    del values["seal"], values["vocab"]
    (copied / "config.json").write_text(json.dumps({**values, "format": 1}))
    with pytest.raises(
        jaxlm.InputError, match=r"found only damaged checkpoints .*it and config.json are of different runs"
    ):
        jaxlm.load(copied)


def test_newest_goes_by_the_time_in_the_config(trained, tmp_path):
    for number, created in enumerate(["2026-01-02T00:00:00.000000+00:00", "2026-03-01T00:00:00.000000+00:00"]):
        shutil.copytree(trained, tmp_path / str(number))
        sealed(created=created)(tmp_path / str(number) / "config.json")
    for broken in ("cut", "foreign", "empty"):
        (tmp_path / broken).mkdir()
    (tmp_path / "cut" / "config.json").write_text("{")
    (tmp_path / "foreign" / "config.json").write_text('{"created": "2027"}')
    for path in (tmp_path / "1").rglob("*"):
        os.utime(path, (0, 0))
    os.utime(tmp_path / "1", (0, 0))
    assert newest(tmp_path) == tmp_path / "1"
    shutil.rmtree(tmp_path / "0")
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(jaxlm.InputError, match="found no run there"):
        newest(tmp_path)


def test_reading_writes_nothing(copied):
    def state():
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [copied, *copied.rglob("*")]}

    before = state()
    jaxlm.load(copied).generate("the ", 3, mode="state")
    Run.open(copied).restore()
    assert state() == before


def test_unwritable_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxlm.InputError, match="found a file, expected a folder for runs"):
        make_run(tmp_path / "file" / "abc")

    def refuse(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_text", refuse)
    with pytest.raises(jaxlm.InputError, match=r"cannot be written to .*No space left"):
        make_run(tmp_path / "abc")
    assert not (tmp_path / "abc").exists()
