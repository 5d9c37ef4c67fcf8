"""Several processes and one run; a run that is moved, deleted, replaced or linked to; file systems without locks."""

import functools
import shutil
import signal

import pytest
from helpers import contents
from program import RESUME, RUN, SAMPLE, WATCHED, run, start, state, verdict, workplace

TRAIN = f"train.py fox.txt --hidden 8 --batch 16 --length 10 {WATCHED} --epochs 40"


@functools.cache
def reference():
    """The state of a run that was trained alone."""
    with workplace() as place:
        assert verdict(run(f"{TRAIN} --run run", cwd=place)) == "right"
        return state(place / RUN)


def training(place):
    """A process that trains a run, and has saved an epoch."""
    reference()
    process = start(f"{TRAIN} --run run", cwd=place)
    process.until("Epoch 2/")
    return process


def stopped(process, number):
    process.signal(number)
    return process.wait(timeout=20)


def resumed(place):
    """The verdict of resuming to the end."""
    result = run(RESUME, cwd=place)
    assert result.status == 0, result.err
    assert state(place / RUN) == reference()
    return verdict(result)


def test_a_second_trainer(row):
    """A second trainer of a run, and the first one killed"""

    def trial(_):
        with workplace() as place:
            process = training(place)
            second = run(RESUME, cwd=place)
            assert (verdict(second), second.status) == ("line", 2)
            assert "another process is training it" in second.err
            assert stopped(process, signal.SIGKILL).status == -signal.SIGKILL
            return resumed(place)

    row.run(range(10), trial)


def test_two_new_runs_of_one_name(row):
    """Two new runs of one default name at one moment"""
    reference()

    def trial(_):
        with workplace() as place:
            results = [process.wait() for process in [start(TRAIN, cwd=place), start(TRAIN, cwd=place)]]
            assert [verdict(result) for result in results] == ["right", "right"], [result.err for result in results]
            assert sorted(path.name for path in (place / "checkpoints").iterdir()) == ["fox-book", "fox-book-2"]
            assert all(state(path) == reference() for path in (place / "checkpoints").iterdir())
            return "right"

    row.run(range(20), trial)


def test_reading_while_it_saves(row):
    """Sample and evaluate while a trainer saves all the time"""
    with workplace() as place:
        process = start(f"{TRAIN}0000 --run run", cwd=place)
        process.until("Epoch 2/")

        def trial(_, command):
            return verdict(run(command, cwd=place))

        commands = [f"{SAMPLE} run", "jaxlm evaluate --run run --corpus fox.txt", "jaxlm runs"]
        row.run([(number, command) for number in range(20) for command in commands], trial)
        assert verdict(stopped(process, signal.SIGTERM)) == "line"


@pytest.mark.parametrize("what", ["moved", "deleted", "replaced", "its parent moved"])
def test_a_run_that_goes_away(row, what):
    """A run's directory moved, deleted or replaced while it trains"""

    def trial(_):
        with workplace() as place:
            process = training(place)
            path, aside = place / RUN, place / "aside"
            if what == "its parent moved":
                path.parent.rename(aside)
            elif what == "deleted":
                while path.exists():  # The trainer may be adding to it.
                    shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(aside)
            if what == "replaced":
                path.mkdir()
                (path / "12").mkdir()
                (path / "config.json").write_text("precious")
            before = contents(place)
            result = process.wait(timeout=20)
            assert (verdict(result), result.status) == ("line", 1)
            assert "has been moved, deleted or replaced" in result.err
            assert {file: data for file, data in contents(place).items() if "aside" not in file.parts} == {
                file: data for file, data in before.items() if "aside" not in file.parts
            }
            assert what == "replaced" or not path.exists()
            if what == "deleted":
                return "line"
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            (aside / "run" if what == "its parent moved" else aside).rename(path)
            resumed(place)
            return "line"

    row.run(range(5), trial)


NO_LOCKS = """
import errno, fcntl, sys
def refuse(*arguments):
    raise OSError(errno.{name}, "no locks here")
fcntl.flock = fcntl.lockf = refuse
from jaxlm.cli import programs
sys.argv = {argv}
sys.exit(programs.train())
"""


def test_no_locks(row):
    """A file system without locks"""

    def trial(name, argv):
        with workplace() as place:
            if argv == RESUME:
                stopped(training(place), signal.SIGTERM)
            result = run(["python", "-c", NO_LOCKS.format(name=name, argv=argv.split())], cwd=place)
            assert result.err.count("\n") == 1
            assert "no locks" in result.err
            assert state(place / RUN) == reference()
            return verdict(result)

    row.run(
        [(name, argv) for name in ("ENOSYS", "EOPNOTSUPP", "ENOLCK") for argv in (f"{TRAIN} --run run", RESUME)], trial
    )


def test_a_step_that_is_a_link(row):
    """A step's directory that is a link to another disk"""

    def trial(which):
        with workplace() as place:
            stopped(training(place), signal.SIGKILL)
            steps = sorted(((place / RUN).glob("[0-9]*")), key=lambda path: int(path.name))
            target = shutil.move(steps[which], place / "aside")
            steps[which].symlink_to(target)
            before = contents(place / "aside")
            assert verdict(run(f"{SAMPLE} run", cwd=place)) == "right"
            found = resumed(place)
            assert contents(place / "aside") == before
            assert not any(path.is_symlink() for path in (place / RUN).iterdir())
            return found

    row.run([0, -1], trial)


CHANGED = """
import os, jaxlm
run, trained = jaxlm.Run.open("checkpoints/run"), jaxlm.load("checkpoints/run")
text = trained.generate("the ", 20, seed=1)
os.chdir("/")
assert run.generator()[0].generate("the ", 20, seed=1) == trained.generate("the ", 20, seed=1) == text
assert jaxlm.evaluate(run, corpus={corpus!r}).static.loss > 0
"""


def test_a_relative_path_after_chdir(row):
    """A relative path, and then another working directory"""

    def trial(code):
        with workplace() as place:
            assert verdict(run(f"{TRAIN} --run run", cwd=place)) == "right"
            return verdict(run(["python", "-c", code.format(corpus=str(place / "fox.txt"))], cwd=place))

    row.run([CHANGED], trial)
