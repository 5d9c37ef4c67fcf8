"""Requests to stop a run: by signals, or by an event."""

import _thread
import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from jaxlm.errors import Stopped


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


FROM_PERSON = _existing("SIGINT", "SIGTERM")
"""Ctrl-C and `kill`: a second one means that the user will not wait."""

FROM_SYSTEM = _existing("SIGHUP", "SIGBREAK")
"""A closed terminal or connection."""

FROM_SCHEDULER = _existing("SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Sent by Slurm, Grid Engine and CPU time limits before they kill; programs also use them for other purposes."""


class Stop:
    """Whether a run was asked to stop. It stops after the steps under way, saved; at a second request, immediately.

    Args:
      event: asks the run to stop once it is set, as a signal does.
    """

    def __init__(self, event: threading.Event | None = None) -> None:
        self._event = event
        self._signal: int | None = None
        self._impatient = False
        self._nothing_to_save = False
        self._raised: BaseException | None = None
        self._lost = False
        self._others_lost = sys.unraisablehook

    @property
    def asked(self) -> bool:
        return self._signal is not None or (self._event is not None and self._event.is_set())

    def end(self, message: str) -> NoReturn:
        """Raises KeyboardInterrupt or SystemExit, depending on the signal, or Stopped with a message."""
        if self._signal is None:
            raise Stopped(message)
        raise _exception(self._signal)

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """For code that follows a save: a first signal, too, ends the block immediately; `asked` is then true."""
        self._nothing_to_save = True
        try:
            yield
        except BaseException:
            # Where a signal was raised in a callback of JAX, what arrives here may be JAX's RuntimeError for it.
            if self._raised is None or self._impatient:
                raise
        finally:
            self._nothing_to_save = False

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of every signal."""
        if self._signal is not None and not self._lost:
            if number not in FROM_PERSON:
                return  # A repetition, such as a limit that stays exceeded.
            self._impatient = True
        self._signal, self._lost = number, False
        if self._impatient or self._nothing_to_save:
            sys.unraisablehook = self._send_again
            self._raised = _exception(number)
            raise self._raised

    def _send_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Repeats a signal whose exception Python dropped, as in a finalizer or JAX's garbage collection callback."""
        if lost.exc_value is not self._raised:
            self._others_lost(lost)
            return
        self._lost = True
        # Later, from another thread: a signal sent now would be dropped in the same callback.
        threading.Timer(0.05, self._interrupt).start()

    def _interrupt(self) -> None:
        if self._signal is None or signal.getsignal(self._signal) != self.handle:
            return  # The run has ended in the meantime.
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, self._signal)  # Wakes the thread if it waits.
        else:
            _thread.interrupt_main(signal.Signals(self._signal))


@contextlib.contextmanager
def stop_on_signals(event: threading.Event | None = None) -> Iterator[Stop]:
    """Lets signals, or an event, ask a run to stop while the context lasts.

    A signal that was ignored stays ignored: `nohup` ignores SIGHUP, and a script's background jobs ignore SIGINT.
    Schedulers' signals are handled only if nothing else handles them.
    """
    stop = Stop(event)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals.
        return
    previous, hook = {}, sys.unraisablehook
    try:
        for number in FROM_PERSON + FROM_SYSTEM + FROM_SCHEDULER:
            handler = signal.getsignal(number)
            # None is a handler in C, which could not be restored.
            if handler in (signal.SIG_IGN, None) or (number in FROM_SCHEDULER and not _is_free(number)):
                continue
            previous[number] = signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _is_free(number: int) -> bool:
    """Whether nothing handles a signal. Python cannot see handlers in C, such as faulthandler's; Linux lists them."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return True
    return caught is None or not int(caught[1], 16) >> (number - 1) & 1


def _exception(number: int) -> BaseException:
    """The exception for a signal: KeyboardInterrupt for Ctrl-C, else SystemExit with the shell's status for it."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
