"""Compiled programs, cached for the next process."""

import atexit
import contextlib
import errno
import hashlib
import io
import logging
import os
import platform
import shutil
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock
import jax
import platformdirs

log = logging.getLogger("jaxlm")

MAX_BYTES = 2**26
"""The cache's size limit; the least recently used programs are evicted.

All of it is read at every start, which takes 0.1 s for a full one. Training with both recipes and sampling fills 1 MB.
"""

SUFFIXES = ("-cache", "-atime", "-sha256")
"""The files of an entry: JAX writes the program, then the time of its last use; the digest is ours."""

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for a program that was compiled and written to its cache."""

_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def keep_compiled() -> None:
    """Caches compiled programs in the user's cache directory, unless JAX has a cache directory already.

    The files are native code, so a directory is not used if others could write to it, or replace it or a parent of
    it. Nor would JAX notice every damage: each entry has a digest beside it, and those that it does not fit are deleted
    first. The cache only saves compile time: without a usable directory, or room in it, the process does without.
    """
    # JAX would warn once for each program.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache", UserWarning)
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined, unused-ignore]
    if chosen is not None:
        if "://" not in chosen and not _can_write(Path(chosen)):
            log.warning("JAX_COMPILATION_CACHE_DIR=%s cannot be written to: compiled programs are not cached", chosen)
        return
    try:
        # JAX opens the files by this path later, so there must be no link in it that could point elsewhere by then.
        path = (platformdirs.user_cache_path("jaxlm", appauthor=False) / "compiled" / _processor()).resolve()
        if not _can_write(path) or not _is_private(path):
            return
        _delete_damaged(path)
    except (OSError, RuntimeError):  # A user without a home is a RuntimeError.
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # With a limit, JAX locks the directory (by `filelock`); without one, two processes could write the same file.
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # XLA would keep files of its own there, which have no digest.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # At once, so that processes that start meanwhile find good entries; at exit, if JAX should rename the event.
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: _add_digests(path) if event == _COMPILED else None
    )
    atexit.register(_add_digests, path)


def _can_write(path: Path) -> bool:
    """Whether a directory can be written to; creates it, and its parents, if they are missing."""
    try:
        # With `parents=True`, parents would only be as private as umask says.
        for folder in (*reversed(path.parents), path):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _is_private(path: Path) -> bool:
    """Whether only this user, or root, can write to a directory or replace it; on Windows, users' own are private.

    Args:
      path: the directory, absolute and without links.
    """
    if not hasattr(os, "getuid"):
        return True
    for folder in (path, *path.parents):
        status = folder.lstat()
        # Where a parent is sticky, as /tmp is, only the owner of what is in it can move that.
        writable_by_others = status.st_mode & 0o022 and not (folder != path and status.st_mode & stat.S_ISVTX)
        if status.st_uid not in (0, os.getuid()) or writable_by_others:
            return False
    return True


def _delete_damaged(folder: Path) -> None:
    """Deletes every entry that is not whole or not what its digest says: JAX would run it, or never replace it.

    That includes what a kill or a full disk left half-written, and what is left of entries that JAX evicted.
    """
    with _lock(folder):
        for key in {name.rpartition("-")[0] for name in os.listdir(folder) if name.endswith(SUFFIXES)}:
            if _is_good(folder, key):
                continue
            for path in (folder / f"{key}{suffix}" for suffix in SUFFIXES):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _add_digests(folder: Path) -> None:
    """Writes the digests of entries that have none; where it cannot, the next process compiles them anew."""
    with contextlib.suppress(OSError, RuntimeError):
        if not _without_digest(folder):
            return
        with _lock(folder):
            for key in _without_digest(folder):
                with contextlib.suppress(OSError):  # Another process was killed while it wrote the entry.
                    digest = _digest(folder, key)
                    with (folder / f"{key}-sha256").open("xb") as file:  # Follows no link.
                        file.write(digest)


def _without_digest(folder: Path) -> list[str]:
    names = set(os.listdir(folder))
    keys = (name.removesuffix("-cache") for name in names if name.endswith("-cache"))
    return [key for key in keys if f"{key}-sha256" not in names]


def _lock(folder: Path) -> filelock.BaseFileLock:
    """The lock that JAX holds while it reads or writes an entry."""
    return filelock.FileLock(folder / ".lockfile", timeout=10)


def _is_good(folder: Path, key: str) -> bool:
    """Whether an entry is whole, and what its digest says."""
    try:
        with _open(folder / f"{key}-sha256") as file:
            return file.read() == _digest(folder, key)
    except OSError:
        return False


def _digest(folder: Path, key: str) -> bytes:
    """The digest, in hexadecimal, of a program and its key, so that no program passes for another.

    Raises:
      OSError: the entry is not whole, or cannot be read.
    """
    with _open(folder / f"{key}-cache") as program, _open(folder / f"{key}-atime") as used:
        if not used.read():
            raise OSError(errno.ENODATA, "found no time of its last use, which is written after the program", used.name)
        return hashlib.file_digest(program, lambda: hashlib.sha256(os.fsencode(key))).hexdigest().encode()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a regular file, and neither follows a link nor waits for a pipe.

    Raises:
      OSError: it cannot be opened, or is something else, or larger than anything in the cache.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _PLAINLY)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise OSError(errno.EINVAL, "this is not a file of the cache", str(path))
        yield file


def _processor() -> str:
    """A name for this kind of processor: machines with different ones may share a home directory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # The models of its cores and their instruction sets.
    facts = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    facts += [platform.system(), platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
