"""A disk that is full or broken, and limits of the system: one clear line, and its advice works."""

import contextlib
import errno
import os
import subprocess

import pytest
from aftermath import has_what_was_told, is_a_run_or_free, is_same, is_tidy
from program import RESUME, RUN, TRAININGS, Fault, run, state, undisturbed, verdict, workplace
from rows import in_parts

import jaxlm

DISKS = {
    # The training that meets it, and the operations that may fail so.
    errno.ENOSPC: ("book", {"create", "write", "mkdir", "rename", "fsync"}),
    errno.EIO: ("stream", {"create", "open", "write", "mkdir", "rename", "fsync", "unlink", "rmdir"}),
    errno.EACCES: ("diverging", {"create", "open", "mkdir", "rename", "unlink", "rmdir"}),
}


def of_each_errno(function):
    return in_parts(pytest.mark.parametrize("number", DISKS, ids=errno.errorcode.get)(function))


@of_each_errno
def test_an_operation_that_fails(row, number):
    """ENOSPC, EIO or EACCES at one file operation"""
    row.run(places(number), lambda at: failed(Fault("fail", at, number), number))


@of_each_errno
def test_a_disk_that_fails_from_then_on(row, number):
    """ENOSPC, EIO or EACCES from a file operation on"""
    row.run(places(number), lambda at: failed(Fault("fail from", at, number), number))


def test_files_that_may_not_grow(row):
    """A limit of the size of files"""

    def trial(size):
        with workplace() as folder:
            result = run(TRAININGS["book"], cwd=folder, file_size=size)
            return left("book", folder, result)

    # From what the output takes, to what the largest file takes.
    row.run(range(1000, 16000, 250), trial)


def test_few_file_descriptors(row):
    """A limit of file descriptors"""

    def trial(descriptors):
        with workplace() as folder:
            result = run(TRAININGS["book"], cwd=folder, descriptors=descriptors)
            return left("book", folder, result)

    row.run(range(8, 48), trial)


def test_a_small_disk(row):
    """A file system that is full"""

    def trial(kilobytes):
        with workplace() as folder, mounted(folder / "checkpoints", kilobytes) as enlarge:
            result = run(TRAININGS["book"], cwd=folder)
            enlarge()
            return left("book", folder, result)

    row.run(range(8, 400, 8), trial)


@contextlib.contextmanager
def mounted(path, kilobytes):
    """Mounts a file system of this size at a path; yields a function that makes it large enough."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a file system: {mount.stderr.strip()}")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", path], check=True)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def places(number):
    """The numbers of the operations that may fail with an errno."""
    name, kinds = DISKS[number]
    return [found.number for found in undisturbed(name)[1] if found.kind in kinds]


def failed(fault, number):
    """Trains with a fault, and checks what it says and leaves."""
    name, _ = DISKS[number]
    with workplace() as folder:
        result = run(TRAININGS[name], cwd=folder, fault=fault)
        # Where nothing can be deleted, no name can be made free again.
        return left(name, folder, result, frees=fault.mode == "fail" or number == errno.ENOSPC)


def left(name, folder, result, frees=True):
    """Checks a training that may have failed; then does what it advises, and compares it with an undisturbed one.

    Returns:
      The verdict on the training.
    """
    found, path = verdict(result), folder / RUN
    if found != "line":
        is_same(state(path), undisturbed(name)[0])
        is_tidy(path)
        return found
    if is_a_run_or_free(path):
        has_what_was_told(path, result.out, rolls_back=name == "diverging")
        has_checkpoints = bool(jaxlm.Run.open(path).checkpoints())
        assert has_checkpoints or not frees, f"left a run without a checkpoint: {result.err}"
    else:
        has_checkpoints = False
        beside = os.listdir(path.parent) if path.parent.exists() else []
        assert not frees or not beside, f"left {beside}: {result.err}"
    assert ("--resume" in result.err) == has_checkpoints, f"wrong advice: {result.err}"
    resumed = run(RESUME if has_checkpoints else TRAININGS[name], cwd=folder)
    if resumed.status and not frees and "--resume" in resumed.err:
        resumed = run(RESUME, cwd=folder)  # The name was not free.
    verdict(resumed)
    assert resumed.status == 0, f"{result.err} Then: {resumed.err}"
    is_same(state(path), undisturbed(name)[0])
    if frees:
        is_tidy(path)
    return found
