"""How a run is asked to stop: by signals, or by an event."""

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
"""Ctrl-C and `kill`: a second one means that the sender will not wait."""

FROM_SYSTEM = _existing("SIGHUP", "SIGBREAK")
"""A closed terminal or connection."""

FROM_SCHEDULER = _existing("SIGUSR1", "SIGUSR2", "SIGXCPU")
"""What Slurm, Grid Engine and a CPU time limit send before they kill; programs use them for other things, too."""


class Stop:
    """Whether a run was asked to stop. It stops after the step at hand, saved; asked a second time, at once.

    Args:
      event: once set, it asks the run to stop, as a signal does.
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
        """Raises what the request stands for: KeyboardInterrupt, SystemExit, or Stopped with a message."""
        if self._signal is None:
            raise Stopped(message)
        raise _exception(self._signal)

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """For what follows a save: even a first signal ends the block at once, and `asked` is true after it."""
        self._nothing_to_save = True
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if error is not self._raised or self._impatient:
                raise
        finally:
            self._nothing_to_save = False

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of every signal."""
        if self._signal is not None and not self._lost:
            if number not in FROM_PERSON:
                return  # It repeats what was said: a limit that is passed, a terminal that is closed.
            self._impatient = True
        self._signal, self._lost = number, False
        if self._impatient or self._nothing_to_save:
            sys.unraisablehook = self._send_again
            self._raised = _exception(number)
            raise self._raised

    def _send_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Repeats a signal whose exception Python dropped, as in a finalizer or in JAX's callback of the collector."""
        if lost.exc_value is not self._raised:
            self._others_lost(lost)
            return
        self._lost = True
        # From another thread, a little later: a signal that arrived now would be dropped in the same callback.
        threading.Timer(0.05, self._interrupt).start()

    def _interrupt(self) -> None:
        if self._signal is None or signal.getsignal(self._signal) != self.handle:
            return  # The run has ended meanwhile.
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, self._signal)  # Wakes it if it waits.
        else:
            _thread.interrupt_main(signal.Signals(self._signal))


@contextlib.contextmanager
def stop_on_signals(event: threading.Event | None = None) -> Iterator[Stop]:
    """Lets signals, or an event, ask a run to stop while the context lasts.

    A signal that was ignored stays ignored: `nohup` ignores SIGHUP, and a script's background jobs ignore SIGINT. A
    scheduler's signal is only taken where nothing else handles it.
    """
    stop = Stop(event)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals.
        return
    previous, hook = {}, sys.unraisablehook
    try:
        for number in FROM_PERSON + FROM_SYSTEM + FROM_SCHEDULER:
            handler = signal.getsignal(number)
            # None is a handler of C code, which could not be put back.
            if handler in (signal.SIG_IGN, None) or (number in FROM_SCHEDULER and not _is_free(number)):
                continue
            previous[number] = signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _is_free(number: int) -> bool:
    """Whether nothing handles a signal. Python does not see handlers in C, such as faulthandler's; Linux does."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return True
    return caught is None or not int(caught[1], 16) >> (number - 1) & 1


def _exception(number: int) -> BaseException:
    """What a signal stands for: SystemExit with the status that a shell gives it, but for Ctrl-C."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
