"""What is around a command: its streams, signals, warnings, and mistakes in one line."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from jaxlm.errors import InputError, RunError


def guarded(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a command; a mistake becomes one line on stderr and its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without the text's letters shows marks for them.
    try:
        with _default_interrupt():
            command(argv)
    except InputError as error:
        note(f"error: {error}")
        return 2
    except RunError as error:
        note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `| head` has read enough; nothing more must be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


@contextlib.contextmanager
def _default_interrupt() -> Iterator[None]:
    """Lets Ctrl-C end the process at once, while there is nothing to save.

    As an exception it could come in the middle of an import, and be lost in a callback there. A run that trains
    handles the signal itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def note(line: str) -> None:
    print(" ".join(line.splitlines()), file=sys.stderr, flush=True)  # A path may have line breaks in it.


class _Warnings(logging.Handler):
    """Tells jaxlm's warnings as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"warning: {record.getMessage()}")


def quiet() -> None:
    """Silences what JAX, Orbax and XLA tell their own developers; jaxlm's warnings come as plain lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("jax", "absl", "orbax", "asyncio"):  # Orbax saves on an event loop.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logger = logging.getLogger("jaxlm")
    logger.handlers = [_Warnings()]
    logger.propagate = False  # Orbax's import gives the root logger a handler, which would tell them again.
    sys.unraisablehook = _unraisable


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    # Where a disk is full, TensorStore tells of each refused write to Orbax's event loop, which is closed by then.
    # The refusal itself arrives as an exception of its own.
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)
