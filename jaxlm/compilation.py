"""What was compiled, kept for the next process."""

import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs

MAX_BYTES = 2**29
"""Room for compiled programs; the least recently used make way."""


def keep_compiled() -> None:
    """Keeps what JAX compiles in the user's cache directory, unless JAX was told of another place.

    These files are native code, for this processor, and are run as they are found: a directory that others could
    write to is left alone.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    path = platformdirs.user_cache_path("jaxlm", appauthor=False) / "compiled" / _processor()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError:
        return
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # With a limit, JAX locks the directory (by `filelock`); without one, two processes could write the same file.
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """A name for this kind of processor, since a home directory may be shared by several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # Of one core: its model, and the instructions that it has.
    facts = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    facts += [platform.system(), platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
