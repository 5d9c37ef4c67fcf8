"""The programs: a process that was started as one of them belongs to its command.

What takes long is imported by the programs when they run, so that Ctrl-C is quiet before that.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator

from jaxlm import invocation

COLLECT_AFTER = 50_000
"""New objects after which Python looks for garbage.

Python's own number is 700 to 2,000. While a program starts, nearly every object stays, and to look through all of them
again and again takes 0.3 s. Training leaves little garbage later.
"""


def main() -> int:
    """`jaxlm COMMAND`, `python -m jaxlm COMMAND`: returns the exit status."""
    with _started():
        from jaxlm.cli import commands

        return commands.main(sys.argv[1:])


def train() -> int:
    """`python train.py`: returns the exit status."""
    with _started():
        from jaxlm.cli import commands

        return commands.train(sys.argv[1:])


def sample() -> int:
    """`python sample.py`: returns the exit status."""
    with _started():
        from jaxlm.cli import commands

        return commands.sample(sys.argv[1:])


@contextlib.contextmanager
def _started() -> Iterator[None]:
    """Lets messages name the program, and signals end the process, unless it is a notebook or a prompt."""
    with invocation.called_as(invocation.of_process(sys.argv)):
        if invocation.is_interactive():
            yield
            return
        _own_process()
        try:
            yield
        except SystemExit as end:
            if isinstance(end.code, int) and end.code > 128:
                _end(end.code)
            raise


def _own_process() -> None:
    """Sets what only a program may set, since it is all that its process runs."""
    _interrupt_by_default()
    gc.set_threshold(COLLECT_AFTER)
    # Registered first, so called last: the interpreter would look through all objects once more, for another 0.3 s.
    # What only cycles hold is not finalised then; files are closed before.
    atexit.register(gc.freeze)


def _interrupt_by_default() -> None:
    """Makes Ctrl-C end the process immediately while there is nothing to save, unless it is ignored or handled.

    As an exception, it could be raised during an import, and dropped in a callback there. Training handles the signal
    itself.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(status: int) -> None:
    """Ends the process at once, since a thread of XLA that compiles may crash while the interpreter is taken down."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
