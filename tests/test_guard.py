"""A command's surroundings: streams, signals, warnings, other programs, and other platforms."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from jaxlm import invocation
from jaxlm.cli import guard
from jaxlm.cli.guard import guarded, note
from jaxlm.cli.output import Output, show
from jaxlm.errors import InputError, RunError

ROOT = Path(__file__).parents[1]


class Tty(io.StringIO):
    """A terminal's stream."""

    def __init__(self, encoding="utf-8"):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return True


def test_a_terminal_is_shown_control_characters_as_marks():
    text = "a\x1b[31m\r\n\tb\x00\x08\x7f\x9b1m\u202egpj\u2066é☃"
    assert show(text, Tty()) == "a␛[31m␍\n\tb␀␈␡\\x9b1m\\u202egpj\\u2066é☃"
    assert show(text, Tty("latin-1")) == "a\\x1b[31m\\x0d\n\tb\\x00\\x08\\x7f\\x9b1m\\u202egpj\\u2066é☃"


def test_a_pipe_gets_text_as_it_is():
    text = "".join(map(chr, range(256)))
    assert show(text, io.StringIO()) == text
    assert show(text, None) == text
    closed = io.StringIO()
    closed.close()
    assert show(text, closed) == text


class Failing(io.StringIO):
    """A stream whose terminal, reader or disk has gone."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def flush(self):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EPIPE, errno.EAGAIN])
def test_output_that_cannot_be_written_is_lost_in_silence(number):
    assert Output(Failing(number)).write("text") == 4


def test_output_goes_on_once_it_can_be_written_again():
    stream = Failing(errno.ENOSPC)
    output = Output(stream)
    output.write("a")
    stream.flush = lambda: None
    output.write("b")
    assert stream.getvalue().endswith("b")


def test_output_without_a_letter_shows_a_mark_for_it():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output(stream).write("köni\ud800g\n")
    assert raw.getvalue() == b"k?ni?g\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_output_that_was_never_there_is_done_without(stream):
    if stream:
        stream = io.StringIO()
        stream.close()
    output = Output(stream)
    assert not output.isatty()
    output.write("text")


def test_a_note_is_one_line_whatever_is_in_it(monkeypatch):
    terminal = Tty()
    monkeypatch.setattr(sys, "stderr", terminal)
    note("error: run a\nb\x1b[2J: no folder")
    assert terminal.getvalue() == "error: run a b␛[2J: no folder\n"


@pytest.mark.parametrize("stream", [None, Failing(errno.EIO)])
def test_a_note_that_no_one_can_read_is_ignored(monkeypatch, capsys, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    note("error")
    assert capsys.readouterr().out == ""


def raising(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("hidden: found 0"), 2, "hidden: found 0"),
        (RunError("the disk is full"), 1, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "fox.txt"), 1, "fox.txt: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
        (OSError("a sentence"), 1, "a sentence"),
        (MemoryError(), 1, "this machine has too little memory (none is left); ask for less"),
        (MemoryError("Unable to allocate 7 GiB"), 1, "(Unable to allocate 7 GiB)"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\ntrace"), 1, "(RESOURCE_EXHAUSTED: Out of memory)"),
        (BrokenPipeError(), 141, None),
    ],
)
def test_trouble_is_one_line_and_a_status(capsys, error, status, line):
    assert guarded(raising(error), []) == status
    lines = capsys.readouterr().err.splitlines()
    if line is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert line in lines[0]


@pytest.mark.parametrize("bug", [ValueError("x"), RuntimeError("x"), TypeError("x"), KeyError("x")])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        guarded(raising(bug), [])


def test_warnings_of_others_are_plain_lines_and_those_of_soft_locks_none(capsys):
    def command(argv):
        warnings.simplefilter("default")
        guard.quiet()
        warnings.warn("a library's warning", UserWarning, stacklevel=1)
        warnings.warn("flock not supported on this filesystem, falling back to SoftFileLock", stacklevel=1)
        warnings.warn("only soft file lock is available", stacklevel=1)

    assert guarded(command, []) == 0
    assert capsys.readouterr().err == "warning: a library's warning\n"


class Last:
    """Raises an exception that Python drops."""

    def __init__(self, words):
        self.words = words

    def __del__(self):
        raise RuntimeError(self.words)


def test_what_a_failed_save_leaves_undone_is_no_news(capsys):
    def command(argv):
        warnings.simplefilter("default")
        guard.quiet()
        for words in ("Event loop is closed", "no attribute '_ssock'", "a bug"):
            Last(words)
        warnings.warn("coroutine 'save' was never awaited", RuntimeWarning, stacklevel=1)
        warnings.warn("another", RuntimeWarning, stacklevel=1)

    assert guarded(command, []) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("RuntimeError", "warning"))]
    assert told == ["RuntimeError: a bug", "warning: another"]


def surroundings():
    """What a process has one of."""
    logger = logging.getLogger("jaxlm")
    return (
        signal.getsignal(signal.SIGINT),
        sys.unraisablehook,
        warnings.showwarning,
        list(warnings.filters),
        logger.handlers,
        logger.propagate,
        [logging.getLogger(name).level for name in ("jax", "absl", "orbax", "asyncio")],
    )


def test_another_program_is_left_as_it_was(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    before, within = surroundings(), []
    assert guarded(lambda argv: within.append(signal.getsignal(signal.SIGINT)), []) == 0
    assert within == [before[0]]
    assert surroundings() == before
    assert output.errors == "strict"


def test_an_interrupt_reaches_another_program():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            guarded(lambda argv: signal.raise_signal(signal.SIGINT), [])
    finally:
        signal.signal(signal.SIGINT, before)


PROGRAM = """
import signal, sys
from jaxlm.cli import commands, programs

{before}
commands.main = lambda argv: print(repr(signal.getsignal(signal.SIGINT)))
programs.main()
"""


@pytest.mark.parametrize(
    ("before", "handler"),
    [
        ("", "<Handlers.SIG_DFL: 0>"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "<Handlers.SIG_IGN: 1>"),
        ("signal.signal(signal.SIGINT, print)", "<built-in function print>"),
        ("sys.ps1 = '>>> '", "<built-in function default_int_handler>"),
    ],
)
def test_ctrl_c_ends_a_program_of_its_own_unless_it_is_ignored_or_handled(before, handler):
    code = PROGRAM.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == handler


ENDED = """
import atexit, sys
from jaxlm.cli import commands, programs

def train(argv):
    print("a line", flush=False)
    raise SystemExit({status})

{before}
atexit.register(print, "taken down")
commands.train = train
programs.train()
"""


@pytest.mark.parametrize(
    ("before", "status", "output"),
    [
        ("", 130, "a line\n"),
        ("", 143, "a line\n"),
        ("", 2, "a line\ntaken down\n"),
        ("sys.ps1 = '>>> '", 143, "a line\ntaken down\n"),
    ],
)
def test_a_signal_ends_a_program_of_its_own_at_once(before, status, output):
    """A thread that compiles may crash while an interpreter is taken down around it."""
    code = ENDED.format(before=before, status=status)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=buffered, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, output, "")


@pytest.mark.parametrize(
    ("started", "train", "resume", "sample"),
    [
        (None, "jaxlm.train(...)", "jaxlm.resume('runs/a b', epochs=4)", "jaxlm.load('runs/a b').generate()"),
        ("/home/me/train.py", "python train.py", "", "python sample.py --run 'runs/a b'"),
        ("/usr/bin/jaxlm", "jaxlm train", "", "jaxlm sample --run 'runs/a b'"),
        ("/lib/jaxlm/__main__.py", "python -m jaxlm train", "", "python -m jaxlm sample --run 'runs/a b'"),
        ("my-program.py", "python -m jaxlm train", "", "python -m jaxlm sample --run 'runs/a b'"),
    ],
)
def test_messages_name_what_the_same_person_would_type_next(started, train, resume, sample):
    def names():
        return invocation.train(), invocation.resume("runs/a b", epochs=4), invocation.sample("runs/a b")

    if started is None:
        assert names() == (train, resume, sample)
    else:
        with invocation.called_as(invocation.of_process([started])):
            assert names() == (train, f"{train} --resume --run 'runs/a b' --epochs 4", sample)
    assert invocation.program is None


def test_a_run_without_a_folder_is_named_as_a_path():
    assert invocation.resume("fox") == "jaxlm.resume('./fox')"


def test_paths_are_whole_where_the_current_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert invocation.shown(tmp_path / "fox") == str(tmp_path / "fox")


WITHOUT_POSIX = """
import os, platformdirs, signal, subprocess, sys, warnings  # Those that look at the platform, before it changes.

warnings.simplefilter("ignore")
sys.modules["fcntl"] = None
for module, names in {os: "getuid geteuid sched_getaffinity", signal: "SIGHUP SIGUSR1 SIGUSR2 SIGXCPU"}.items():
    for name in names.split():
        delattr(module, name)
import jaxlm.cli.commands, jaxlm.cli.programs, jaxlm.nn.compilation, jaxlm.runs.trainer, jaxlm.cli.terminal
from jaxlm.runs.stop import stop_on_signals

jaxlm.nn.compilation.keep_compiled()
with stop_on_signals() as stop:
    signal.raise_signal(signal.SIGINT)
    print(stop.asked)
"""


def test_everything_imports_where_nothing_of_posix_is():
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
