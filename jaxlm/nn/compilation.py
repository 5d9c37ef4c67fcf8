"""Compiled programs, cached for the next process."""

import contextlib
import hashlib
import logging
import os
import platform
import stat
import warnings
from pathlib import Path

import filelock
import jax
import platformdirs

log = logging.getLogger("jaxlm")

MAX_BYTES = 2**29
"""The cache's size limit; the least recently used programs are evicted."""


def keep_compiled() -> None:
    """Caches compiled programs in the user's cache directory, unless JAX has a cache directory already.

    The files are native code, so a directory is not used if others could write to it, or replace it or a parent of
    it. The cache only saves compile time: without a usable directory, or room in it, the process does without.
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
        _drop_halves(path)
    except (OSError, RuntimeError):  # A user without a home is a RuntimeError.
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # With a limit, JAX locks the directory (by `filelock`); without one, two processes could write the same file.
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _can_write(path: Path) -> bool:
    """Whether a directory can be written to; creates it, and its parents, if they are missing."""
    try:
        for folder in (*reversed(path.parents), path):
            folder.mkdir(
                mode=0o700, exist_ok=True
            )  # With `parents=True`, parents would only be as private as umask says.
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


def _drop_halves(path: Path) -> None:
    """Deletes entries that a kill or a full disk left half-written: JAX would neither use nor replace them.

    An entry is a program and, written after it, a file with the time of its last use.
    """
    with filelock.FileLock(path / ".lockfile", timeout=10):
        for program in path.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.exists() or used.stat().st_size == 0:
                program.unlink()
                with contextlib.suppress(FileNotFoundError):
                    used.unlink()


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
