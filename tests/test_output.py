"""What reaches a terminal, whatever is in names, settings, files and generated text: a real pty is read."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading

import pytest

import jaxlm
from jaxlm.cli import commands

pty = pytest.importorskip("pty")

EVIL = "a\x1b]0;title\x07\x1b[31mb\x08\x7f\x9bc\u202ed"
"""Sets a terminal's title, rings its bell, changes the colour, and reverses the text."""

OWN = re.compile("\r\n|\x1b\\[[0-9;?]*[A-Za-z]|\r")
"""What rich, and the terminal itself, may send: line ends, colours, and moves of a bar's cursor."""


@contextlib.contextmanager
def terminal():
    """A terminal's stream, and a list to which all that it was sent is added at the end."""
    master, slave = pty.openpty()
    received, shown = [], []

    def read():
        with contextlib.suppress(OSError):  # EIO, once the other end is closed.
            while block := os.read(master, 4096):
                received.append(block)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with open(slave, "w", encoding="utf-8", buffering=1) as stream:
            yield stream, shown
    finally:
        reader.join()
        os.close(master)
        shown.append(b"".join(received).decode("utf-8"))


@pytest.fixture
def show(monkeypatch):
    """Runs a command on a terminal; returns its status and all that it showed."""

    def show(*argv):
        with terminal() as (stream, shown), monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            try:
                status = commands.main(list(argv))
            except SystemExit as stop:
                status = stop.code
        return status, shown[0]

    return show


def assert_harmless(shown, visible=True):
    """No control character is in it, but for the program's own; and the evil text, if `visible`, as marks."""
    assert "\x1b]" not in shown
    assert "\x1b[31m" not in shown
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", OWN.sub("", shown)) == []
    assert not visible or re.search(r"title(␇|\\x07|\\u0007)", shown), shown


TINY = ["--epochs", "1", "--hidden", "8", "--length", "10", "--batch", "32", "--temperature", "1"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with text that has control characters in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / EVIL).mkdir()
    (tmp_path / EVIL / f"{EVIL}.txt").write_text(f"{EVIL} and so on. " * 40)
    (tmp_path / EVIL / f"{EVIL}.c").touch()
    return tmp_path


@pytest.fixture
def run(place):
    """A run of an evil name, trained on evil text."""
    jaxlm.train(
        f"{EVIL}/{EVIL}.txt", run=EVIL, checkpoints=EVIL, epochs=1, hidden=8, length=10, batch=32, reporter=None
    )
    return place / EVIL / EVIL


def test_training_shows_names_and_samples_harmlessly(place, show):
    status, shown = show("train", "--corpus", EVIL, "--checkpoints", EVIL, *TINY)
    assert status == 0
    for what in ("Corpus:", "Run:", "Seed text:", "read 1 file", "left out 1", "--- temperature", "To generate text:"):
        assert what in shown
    assert_harmless(shown)


def test_samples_runs_and_evaluations_are_shown_harmlessly(run, show):
    for argv in (
        ["sample", "--run", EVIL, "--checkpoints", EVIL, "--length", "300", "--temperature", "5"],
        ["sample", "--run", EVIL, "--checkpoints", EVIL, "--prompt", EVIL],
        ["evaluate", "--run", EVIL, "--checkpoints", EVIL, "--corpus", f"{EVIL}/{EVIL}.txt"],
        ["runs", "--checkpoints", EVIL],
        ["runs", "--checkpoints", EVIL, "--json"],
        ["train", "--resume", "--run", EVIL, "--checkpoints", EVIL],
    ):
        status, shown = show(*argv)
        assert status == 0, shown
        assert_harmless(shown)


@pytest.mark.parametrize(
    "argv",
    [
        [EVIL],
        ["train", f"--{EVIL}"],
        ["train", f"-_{EVIL}"],
        ["train", "--epochs", EVIL],
        ["train", "--recipe", EVIL],
        ["train", "--temperature", EVIL],
        ["train", "--encoding", EVIL],
        ["train", f"--resume={EVIL}"],
        ["train", "--corpus", f"no{EVIL}"],
        ["train", "--corpus", f"{EVIL}/{EVIL}.c"],
        ["train", "--run", f"{EVIL}/{EVIL}.c/x", "--corpus", f"{EVIL}/{EVIL}.txt"],
        ["train", "--resume", "--run", EVIL, "--checkpoints", EVIL],
        ["sample", EVIL],
        ["sample", "--run", EVIL],
        ["sample", "--checkpoints", f"no{EVIL}", "--run", "none"],
        ["evaluate", "--run", EVIL, "--corpus", EVIL],
        ["runs", "--checkpoints", f"{EVIL}/{EVIL}.c"],
    ],
)
def test_mistakes_are_shown_harmlessly(place, show, argv):
    status, shown = show(*argv)
    assert status == 2
    assert len(shown.splitlines()) == 1
    assert_harmless(shown)


def test_the_environment_is_shown_harmlessly(place, show, monkeypatch):
    monkeypatch.setenv("JAXLM_CHECKPOINTS", EVIL)
    for argv in (["runs"], ["train", "--resume"], ["sample", "--run", "none"], ["sample", "--help"]):
        # The list has the bundled model as well, and help names the variable.
        assert_harmless(show(*argv)[1], visible=argv not in (["runs"], ["sample", "--help"]))


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"])
def test_settings_of_jax_are_shown_harmlessly(run, name):
    value = os.path.join(EVIL, f"{EVIL}.c", "cache") if name.endswith("DIR") else EVIL
    command = [sys.executable, "-m", "jaxlm", "sample", "--run", EVIL, "--checkpoints", EVIL]
    with terminal() as (stream, shown):
        subprocess.run(command, env=os.environ | {name: value}, stdout=stream, stderr=stream)
    assert_harmless(shown[0])
    assert "Traceback" not in shown[0]


def test_a_strangers_run_is_shown_harmlessly(run, show):
    values = json.loads((run / "config.json").read_text())
    for name, text in {
        "config.json": json.dumps(values | {"corpus_name": EVIL, "seed_text": EVIL, EVIL: 1}),
        "metrics.jsonl": EVIL,
        "vocab.json": json.dumps([EVIL]),
    }.items():
        (run / name).write_text(text)
        for argv in (["sample", "--run", EVIL], ["runs"], ["train", "--resume", "--run", EVIL]):
            assert_harmless(show(*argv, "--checkpoints", EVIL)[1])
