"""How the files of a run are read and written.

Reading opens only regular files of a bounded size: never a link, a pipe or a device. Writing never follows a link, and
never shows a half-written file. What a function here has written is on the disk when it returns.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

MEBIBYTE = 2**20

NOT_SUPPORTED = (errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What the system says where a file system lacks an operation."""

_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class Damaged(Exception):
    """A file of a run is missing, is no regular file, or is not what was saved."""


def is_there(path: Path) -> bool:
    """Whether a path exists. Unlike `Path.exists` since Python 3.14, raises OSError where that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_bytes(path: Path, limit: int, name: str = "") -> bytes:
    """The content of a file of at most `limit` bytes.

    Args:
      path: the file.
      limit: its largest acceptable size.
      name: what errors call it; by default its name.

    Raises:
      Damaged: it is missing, too large, or not a regular file.
      OSError: it cannot be read, but may be good.
    """
    with _open_regular(path, limit, name or path.name) as file:
        return file.read(limit + 1)


def read_json(path: Path, limit: int, name: str = "") -> Any:
    """The values in a JSON file; raises as `read_bytes` does, and Damaged if it is not JSON."""
    content = read_bytes(path, limit, name)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name or path.name} has changed since it was saved") from error


def file_digest(path: Path, limit: int, name: str) -> str:
    """The SHA-256 of a file; raises as `read_bytes` does."""
    with _open_regular(path, limit, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(values: Any) -> str:
    """A digest of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Replaces a file atomically, as `write_text` does."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically: after a kill or a power cut, it is either the old or the new one."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(temporary, _WRITE | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            _sync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def append_text(path: Path, text: str) -> None:
    """Appends to a file, or creates it."""
    descriptor = os.open(path, _WRITE | os.O_APPEND | os.O_CREAT, 0o666)
    with open(descriptor, "ab") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        file.write(text.encode("utf-8"))
        file.flush()
        _sync(descriptor)
    flush(path.parent)


def make_folder(path: Path) -> None:
    """Creates a folder, and its parents if they are missing."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush(folder.parent)


def flush(path: Path) -> None:
    """Waits until the content of a file, or the entries of a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # It has no such call, and journals a folder's entries itself.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        _sync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder.
        if not is_folder or error.errno not in NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flushes all files and folders below a folder, and itself."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


def regular_files(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The name and size of each file below a folder; names have `prefix`, and `/` between folders.

    Raises:
      Damaged: it contains anything but regular files and folders.
      OSError: it is missing, or cannot be listed.
    """
    if folder.is_symlink():
        raise Damaged(f"{prefix.rstrip('/')} is a link, not a folder")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name, status = prefix + entry.name, entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from regular_files(Path(entry.path), name + "/")
            continue
        _check_regular(status.st_mode, name)
        yield name, status.st_size


def delete(path: Path) -> None:
    """Deletes a file, a folder, or a link but not its target."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def delete_failed(path: Path) -> None:
    """Deletes what a failed save left, as far as possible: TensorStore may go on writing there for a moment."""
    for pause in (0.0, 0.05, 0.2):
        time.sleep(pause)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _open_regular(path: Path, limit: int, name: str) -> Iterator[BufferedReader]:
    try:
        _check_regular(path.lstat().st_mode, name)  # First, since opening a device may act on it.
        descriptor = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{name} is missing") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode, name)
        if status.st_size > limit:
            raise Damaged(f"{name} is too large, with {status.st_size:,} bytes")
        yield file


def _check_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")
        raise Damaged(f"{name} is {kind}, not a file")


def _sync(descriptor: int) -> None:
    """Waits until what was written is on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # On macOS, fsync leaves it in the drive's cache.
            return
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
    os.fsync(descriptor)
