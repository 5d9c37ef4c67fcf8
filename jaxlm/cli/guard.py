"""A command's surroundings: streams, signals, warnings, and errors, which are reported in one line."""

import contextlib
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from jaxlm import invocation
from jaxlm.cli.output import Output, show
from jaxlm.errors import InputError, RunError

OUTPUT_FAILS = (errno.ENOSPC, errno.EIO, errno.EFBIG)
"""What the system says where output goes to a full disk, or to a terminal that is gone."""

LIBRARIES = ("jax", "absl", "orbax", "asyncio")
"""Loggers of our dependencies; Orbax saves on an asyncio event loop."""


def guarded(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a command. Mistakes, and trouble with its surroundings, become one line on stderr.

    A process that was started as one of our programs belongs to the command. In any other, such as a notebook,
    signal handlers stay as they are, and streams, loggers and warnings are restored when the command returns.

    Args:
      command: takes the arguments.
      argv: the arguments.

    Returns:
      The exit status: 2 for a mistake of the caller, 1 for trouble, 141 if the reader of stdout has gone, else 0.

    Raises:
      KeyboardInterrupt: Ctrl-C, in a process that does not belong to the command.
      SystemExit: a signal stopped the command; the status is 128 plus its number.
    """
    owns_process = invocation.program is not None and not invocation.is_interactive()
    with contextlib.ExitStack() as stack:
        if not owns_process:
            stack.enter_context(_put_back())
        _replace_missing_letters()
        quiet()
        try:
            command(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
        except InputError as error:
            return _fail(str(error), 2)
        except RunError as error:
            return _fail(str(error), 1)
        except KeyboardInterrupt:
            if not owns_process:
                raise
            raise SystemExit(130) from None
        except BrokenPipeError:
            return 141  # `| head` has read enough.
        except OSError as error:
            is_output = _is_broken(sys.stdout) or (error.filename is None and error.errno in OUTPUT_FAILS)
            where = "standard output" if is_output else error.filename
            return _fail(": ".join(str(part) for part in (where, error.strerror or error) if part), 1)
        except MemoryError as error:
            found = _first_line(error) or "none is left"
            return _fail(f"this machine has too little memory ({found}); ask for less", 1)
        except RuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _fail(f"the device has too little memory ({_first_line(error)}); ask for less", 1)
        finally:
            if owns_process and _is_broken(sys.stdout):
                # Otherwise the interpreter would try to write the rest again at exit, and complain.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def note(line: str) -> None:
    """Prints one line on stderr, if possible."""
    text = " ".join(line.splitlines())  # A path may contain line breaks.
    Output(sys.stderr).write(show(text, sys.stderr) + "\n")


def quiet() -> None:
    """Silences what JAX, Orbax and XLA log for their developers; other warnings become plain lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logger = logging.getLogger("jaxlm")
    logger.handlers = [_Warnings()]
    logger.propagate = False  # Orbax's import gives the root logger a handler, which would print them again.
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    # On a file system without locks, filelock falls back to a lock file, which is good enough.
    warnings.filterwarnings("ignore", "(?i).*soft ?file ?lock", UserWarning)
    # What Orbax leaves undone where a save failed.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _unraisable


def _fail(message: str, status: int) -> int:
    note(f"error: {message}")
    return status


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _replace_missing_letters() -> None:
    """Makes stdout and stderr print `?` for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Restores what `_replace_missing_letters` and `quiet` set for the whole process."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    errors = [stream.errors for stream in streams]
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in LIBRARIES]
    logger = logging.getLogger("jaxlm")
    handlers, propagate, hook = logger.handlers, logger.propagate, sys.unraisablehook
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for stream, error in zip(streams, errors, strict=True):
            stream.reconfigure(errors=error)
        for library, level in levels:
            library.setLevel(level)
        logger.handlers, logger.propagate, sys.unraisablehook = handlers, propagate, hook


def _is_broken(stream: TextIO | None) -> bool:
    """Whether a stream still holds output that it cannot write."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return True
    return False


class _Warnings(logging.Handler):
    """Prints jaxlm's warnings as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"warning: {record.getMessage()}")


def _show_warning(message: Warning | str, *details: object) -> None:
    note(f"warning: {message}")


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    # When a disk is full, TensorStore reports each failed write to Orbax's event loop, which is closed by then; without
    # free file descriptors, that loop was never whole. The failure itself arrives as another exception.
    if str(found.exc_value) != "Event loop is closed" and "_ssock" not in str(found.exc_value):
        sys.__unraisablehook__(found)
