"""Power cuts: what was reported as saved is there, and the run resumes as if nothing had happened."""

import contextlib
import functools
import shutil
import subprocess

import disk
import pytest
from aftermath import recovered
from program import TRAININGS, Fault, has_shim, run, undisturbed, workplace
from rows import in_parts

pytestmark = pytest.mark.skipif(not has_shim(), reason="needs Linux and a C compiler: what is flushed must be seen")


@in_parts
@pytest.mark.parametrize("model", disk.MODELS)
@pytest.mark.parametrize("name", TRAININGS)
def test_a_cut_at_any_operation(row, name, model):
    """Power cut at a file operation (recorded, and replayed without what was not flushed)"""
    cuts = cuts_of(name, model)

    def trial(index):
        tree, out = cuts[index]
        with workplace() as folder:
            disk.write(tree, folder)
            return recovered(name, folder, out)

    row.run(cuts, trial)


@in_parts
def test_a_cut_of_a_real_file_system(row):
    """Power cut at a file operation (copies of an ext4's disk)"""
    numbers = [found.number for found in undisturbed("book")[1]]

    def trial(number):
        with workplace() as folder:
            image, copy = folder / "disk", folder / "copy"
            with open(image, "wb") as file:
                file.truncate(2**25)
            subprocess.run(["mkfs.ext4", "-q", image], check=True)
            with mounted(image, folder / "checkpoints"):
                # Ended without a word to the file system, of which nobody else asks anything meanwhile.
                result = run(TRAININGS["book"], cwd=folder, fault=Fault("kill", number))
                shutil.copyfile(image, copy)
            with mounted(copy, folder / "checkpoints"):
                shutil.rmtree(folder / "checkpoints/lost+found")
                return recovered("book", folder, result.out)

    row.run([*numbers[::20], numbers[-1] + 1], trial)


@functools.cache
def cuts_of(name, model):
    """What power cuts leave of a training, and what was printed by then; cuts that leave the same are there once.

    By the number of operations and lines of output that were done.
    """
    with workplace() as folder:
        result = run(TRAININGS[name], cwd=folder, fault=Fault("record"))
        replayed, out, found, seen = disk.Disk(folder), "", {}, set()
        for index, operation in enumerate(result.operations):
            if operation.kind == "told":
                out += operation.paths[0] + "\n"
            else:
                replayed.apply(operation)
            tree = replayed.after_a_cut(model)
            key = disk.digest(tree), out
            if key not in seen:
                seen.add(key)
                found[index] = tree, out
        return found


@contextlib.contextmanager
def mounted(image, path):
    """Mounts a file with a file system at a path."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-o", "loop", image, path]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a file system: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)
