"""The commands as a user types them, one process each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--epochs", "1", "--length", "10", "--batch", "32", "--hidden", "16", "--sample-length", "30"]


def run(*arguments, folder, **options):
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, encoding="utf-8", **options)


def programs():
    """The compiled programs in the user's cache, and when they were written."""
    files = Path(os.environ["XDG_CACHE_HOME"]).rglob("*-cache")
    return {file.name: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "Ein Märchen.txt").write_text("Es war einmal ein König, der hatte eine Tochter. " * 20, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained_by_command(folder):
    return run(ROOT / "train.py", "--corpus", "Ein Märchen.txt", *SMALL, folder=folder)


def test_train(trained_by_command, folder):
    assert trained_by_command.returncode == 0
    assert trained_by_command.stderr == ""  # None of JAX's, absl's or Orbax's noise.
    assert "Epoch 1/1  loss" in trained_by_command.stdout
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["Ein-Märchen-book"]


def test_sample(trained_by_command, folder):
    done = run(ROOT / "sample.py", "--prompt", "Es war ", "--length", "50", "--temperature", "0.5", folder=folder)
    assert done.returncode == 0
    assert done.stdout.startswith("es war ")
    assert len(done.stdout) == len("es war ") + 50 + 1
    # The prompt's words are the program's output; which model wrote them, and how to repeat it, is said beside it.
    assert done.stderr.count("\n") == 1
    assert "Ein-Märchen-book, epoch 1 (best: loss " in done.stderr
    seed = done.stderr.split()[-1]
    compiled = programs()
    assert compiled
    again = run(
        ROOT / "sample.py",
        "--prompt",
        "Es war ",
        "--length",
        "50",
        "--seed",
        seed,
        "--run",
        "Ein-Märchen-book",
        folder=folder,
    )
    assert again.stdout == done.stdout
    assert programs() == compiled  # It found what the first one had compiled.


def test_evaluate(trained_by_command, folder):
    done = run("-m", "jaxlm", "evaluate", "--corpus", "Ein Märchen.txt", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Text:                Ein Märchen, which the run learned from, 980 characters\n" in done.stdout
    assert "\nBits per character:  " in done.stdout


def test_sample_into_a_program_that_stops_reading(trained_by_command, folder):
    line = f"{sys.executable} {ROOT / 'sample.py'} --length 100000 --mode state | head -c 20"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True)
    # Twenty bytes may end inside a letter.
    assert (done.returncode, len(done.stdout)) == (0, 20)
    assert done.stderr.count(b"\n") == 1


def test_train_into_a_program_that_stops_reading_is_saved(folder):
    line = f"{sys.executable} {ROOT / 'train.py'} --corpus *.txt --run piped {' '.join(SMALL)} --epochs 100 | head -c 9"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=folder, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (143, "Corpus:  ", "")
    saved = [int(path.name) for path in (folder / "checkpoints" / "piped").iterdir() if path.name.isdecimal()]
    assert len(saved) > 0


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9])
def test_an_interrupt_before_there_is_anything_to_save_ends_without_a_word(folder, seconds):
    process = subprocess.Popen(
        [sys.executable, ROOT / "sample.py", "--length", "100000000", "--mode", "state"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    assert b"Traceback" not in errors


def test_a_narrow_encoding_gets_marks_for_letters_and_no_traceback(trained_by_command, folder):
    done = run(
        ROOT / "sample.py", "--prompt", "köni", "--length", "5", folder=folder, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert done.stdout.startswith("k?ni")


def test_a_mistake(folder):
    done = run(ROOT / "train.py", "--corpus", "missing.txt", folder=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: corpus missing.txt: found nothing there, expected a text file, a folder, or one of nietzsche, "
        "shakespeare, python-docs\n"
    )
