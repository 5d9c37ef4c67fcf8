"""How a run is asked to stop: by signals, or by an event."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run after it has saved: Ctrl-C, `kill`, a closed connection."""


class Stop:
    """Signals that ask the run to end; the second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = number
        if again:
            self.end()

    def end(self) -> NoReturn:
        """Raises what the signal stands for."""
        if self.signal is None or self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals.
        return
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
