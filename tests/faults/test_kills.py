"""Processes that are killed at any file operation: what was saved is there, and the run resumes as if nothing was."""

import dataclasses
import shutil

import pytest
from aftermath import is_a_run_or_free, recovered
from helpers import contents
from program import RESUME, RUN, SAMPLE, TRAININGS, Fault, has_shim, run, undisturbed, verdict, workplace
from rows import in_parts

import jaxlm


def of_each_training(function):
    return in_parts(pytest.mark.parametrize("name", TRAININGS)(function))


@of_each_training
def test_killed_before_an_operation(row, name):
    """kill -9 before a file operation of training"""
    row.run(numbers(name), lambda number: killed(name, Fault("kill", number)))


@pytest.mark.skipif(not has_shim(), reason="needs Linux and a C compiler: writes are seen below Python only")
@of_each_training
def test_killed_in_a_write(row, name):
    """kill -9 in the middle of a write of training"""
    row.run(numbers(name, "write"), lambda number: killed(name, Fault("torn", number)))


@in_parts
def test_killed_while_it_resumes(row, untidy):
    """kill -9 before a file operation of --resume of an untidy run"""
    with workplace() as folder:
        shutil.copytree(untidy, folder / RUN)
        operations = run(RESUME, cwd=folder, fault=Fault("record")).operations

    def trial(number):
        with workplace() as folder:
            shutil.copytree(untidy, folder / RUN)
            result = run(RESUME, cwd=folder, fault=Fault("kill", number))
            check_killed(result)
            return recovered("book", folder, result.out)

    row.run(range(1, operations[-1].number + 1), trial)


@in_parts
def test_killed_while_it_rolls_back_to_a_link(row, linked):
    """kill -9 before a file operation of --resume that rolls back to a link to another disk"""

    def resumed(folder, fault):
        shutil.copytree(linked, folder, symlinks=True, dirs_exist_ok=True)
        return run(RESUME, cwd=folder, fault=fault)

    def moved(folder):
        return {path.relative_to(folder): data for path, data in contents(folder / "aside").items()}

    before = moved(linked)
    with workplace() as folder:
        result = resumed(folder, Fault("record"))
        assert "Rolling back to epoch 1" in result.out

    def trial(number):
        with workplace() as folder:
            result = resumed(folder, Fault("kill", number))
            check_killed(result)
            found = recovered("diverging", folder, result.out)
            assert moved(folder) == before
            return found

    row.run(range(1, result.operations[-1].number + 1), trial)


@in_parts
def test_killed_while_it_exports(row, finished):
    """kill -9 before a file operation of an export"""
    code = "import jaxlm; jaxlm.Run.open('checkpoints/run').export('checkpoints/{}')".format
    with workplace() as folder:
        shutil.copytree(finished, folder / RUN)
        operations = run(["python", "-c", code("copy")], cwd=folder, fault=Fault("record")).operations
        text = run(f"{SAMPLE} run", cwd=folder).out
        assert run(f"{SAMPLE} checkpoints/copy", cwd=folder).out == text

    def trial(number):
        with workplace() as folder:
            shutil.copytree(finished, folder / RUN)
            result = run(["python", "-c", code("copy")], cwd=folder, fault=Fault("kill", number))
            check_killed(result)
            is_a_run_or_free(folder / "checkpoints/copy")
            sample = run(f"{SAMPLE} checkpoints/copy", cwd=folder)
            found = verdict(sample)
            assert found == "line" or sample.out == text
            assert run(f"{SAMPLE} run", cwd=folder).out == text
            assert verdict(run(["python", "-c", code("other")], cwd=folder)) == "right"
            assert run(f"{SAMPLE} checkpoints/other", cwd=folder).out == text
            return found

    row.run(range(1, operations[-1].number + 1), trial)


@pytest.fixture(scope="session")
def finished():
    """The directory of a finished run."""
    with workplace() as folder:
        assert verdict(run(TRAININGS["book"], cwd=folder)) == "right"
        yield folder / RUN


@pytest.fixture(scope="session")
def untidy():
    """The directory of a run that was killed in its last epoch, with what else kills may leave."""
    last = numbers("book")[-1]
    with workplace() as folder:
        run(TRAININGS["book"], cwd=folder, fault=Fault("kill", last * 3 // 5))
        path = folder / RUN
        good = next(step for step in path.iterdir() if step.name.isdecimal())
        for name in (".saving-99", ".deleted-1", "99.orbax-checkpoint-tmp"):
            shutil.copytree(good, path / name)
            (path / name / "progress.json").unlink(missing_ok=True)
        (path / ".config.json.0123abcd.tmp").write_text('{"format":')
        with open(path / "metrics.jsonl", "a") as metrics:
            metrics.write('{"epoch": 3, "step": 4')
        yield path


@pytest.fixture(scope="session")
def linked():
    """A folder with a run that has trained the first of its epochs, whose checkpoint was then moved out of it.

    It diverges in the third, and rolls back to that checkpoint.
    """
    with workplace() as folder:
        one_epoch = TRAININGS["diverging"].replace("--epochs 3", "--epochs 1")
        assert verdict(run(one_epoch, cwd=folder)) == "right"
        trained = jaxlm.Run.open(folder / RUN)
        config = dataclasses.replace(trained.record.config, epochs=3)
        trained.write_record(dataclasses.replace(trained.record, config=config))
        [step] = [path for path in trained.path.iterdir() if path.name.isdecimal()]
        step.rename(folder / "aside")
        step.symlink_to("../../aside")
        yield folder


def numbers(name, kind=None):
    """The numbers of an undisturbed training's operations, or of those of one kind."""
    operations = [found for found in undisturbed(name)[1] if found.kind != "told"]
    if kind is None:
        return list(range(1, operations[-1].number + 1))  # Those that fail, as is usual, have no line in the log.
    return [found.number for found in operations if found.kind == kind]


def killed(name, fault):
    """Trains, with a fault that kills, and checks what is left."""
    with workplace() as folder:
        result = run(TRAININGS[name], cwd=folder, fault=fault)
        check_killed(result)
        return recovered(name, folder, result.out)


def check_killed(result):
    assert result.status in (-9, 0), f"status {result.status}: {result.err[-800:]}"
