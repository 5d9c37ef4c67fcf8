"""Output to a terminal, a pipe or a file: made safe to show, and silently dropped if it cannot be written."""

import contextlib
import io
import os
import sys
from typing import IO

from jaxlm.text.visible import visible


def show(text: str, stream: IO[str] | None) -> str:
    """Makes text safe for a stream: on a terminal, control characters become visible and have no effect.

    Args:
      text: untrusted text: a sample, a file name, a message about either.
      stream: the destination; a pipe or a file gets the text unchanged.
    """
    if stream is None or not is_terminal(stream):
        return text
    return visible(text, getattr(stream, "encoding", None) or "utf-8")


def is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # It is closed.
        return False


class Output(io.TextIOBase):
    """A text stream that never fails: output that cannot be written is silently dropped.

    The terminal may be closed, the reader gone or the disk full; characters that the encoding lacks become `?`.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and is_terminal(self._stream)

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # A closed stream is a ValueError.
            self._write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def _write(self, text: str) -> None:
        stream = self._stream
        if stream is None:
            return
        raw = getattr(getattr(stream, "buffer", None), "raw", None) if stream is sys.__stdout__ else None
        if raw is None:
            stream.write(text)
            stream.flush()
            return
        # Bypasses the buffer: unwritten output would stay there, and fail again when the interpreter exits.
        stream.flush()
        rest = text.replace("\n", os.linesep).encode(self.encoding)
        while rest:
            rest = rest[raw.write(rest) or len(rest) :]
