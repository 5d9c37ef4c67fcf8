"""Devices: a mesh with one axis, `data`, over CPU cores, GPUs or TPU cores alike."""

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.errors import RunError, first_line
from jaxlm.nn.ambient import device_put

MIN_ROWS = 16
"""Batch rows per device: with fewer, another device would cost more in communication than it saves."""


def split_cpu(step_bytes: int = 0) -> None:
    """Makes each CPU core that this process may use a device, unless the number of devices is already set.

    XLA's CPU runtime computes most of a recurrence on one core, so a batch is split over several devices. Works only
    before JAX's first computation, so the first call in a process decides. Also makes the C library reuse memory
    (`_keep_buffers`).

    Args:
      step_bytes: about the memory that each device will need for a training step; 0 if none is known to follow.
    """
    chosen = re.search("xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", ""))
    if chosen or jax.config.jax_num_cpu_devices >= 0:  # type: ignore[attr-defined, unused-ignore]
        return
    # After a first computation, as in a notebook, JAX refuses: the devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", _cores())
    _keep_buffers(heaps=1 if step_bytes > HEAP_BYTES else _cores())


def _cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_rows(batch: int) -> int:
    """The rows of a batch on each device, if each CPU core is one."""
    return -(-batch // min(_cores(), _most_devices(batch)))


def devices() -> list[jax.Device]:
    """The devices that JAX computes on.

    Raises:
      RunError: JAX cannot start any, for instance because the environment names a platform that this machine lacks.
    """
    # With more than one size of workspace, which is cuBLAS's default, cuDNN's recurrences differ from call to call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    try:
        return jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = [f"{name}={os.environ[name]}" for name in DEVICE_SETTINGS if name in os.environ]
        cause = f" with {', '.join(asked)}; unset that, or set what this machine has" if asked else ""
        reason = f" ({first_line(error).split(' (')[0]})" if str(error) else ""
        raise RunError(f"JAX cannot start its devices{cause}{reason}") from error


DEVICE_SETTINGS = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")
"""Environment variables that decide which devices JAX starts."""


HEAP_BYTES = 2**26
"""The largest buffer that glibc can allocate, and so reuse, in a heap other than the main one."""


def _keep_buffers(heaps: int) -> None:
    """Makes glibc reuse the memory of a step's buffers of up to 32 MB; does nothing with other C libraries.

    By default, glibc either returns some buffers after each step, to be mapped again page by page (thousands of page
    faults, a sixth of the time of the book's step), or keeps free ones in a heap per thread (tens of MB).

    Args:
      heaps: for all threads that start from now on. With fewer than cores, they wait for each other; but buffers of
        more than HEAP_BYTES are reused in the main heap alone (`large_buffers_kept`).
    """
    _glibc("mallopt", _ARENA_MAX, heaps)
    _glibc("mallopt", _MMAP_THRESHOLD, 2**25)  # The maximum.
    _glibc("mallopt", _TRIM_THRESHOLD, 2**30)


@contextlib.contextmanager
def large_buffers_kept() -> Iterator[None]:
    """Makes glibc also reuse the memory of buffers over 32 MB; only while a network is trained.

    Larger than HEAP_BYTES, only buffers of the main heap are reused; for a step that needs such, `split_cpu` allows no
    other. At the end, all free memory is returned.
    """
    _glibc("mallopt", _MMAP_MAX, 0)
    try:
        yield
    finally:
        _glibc("mallopt", _MMAP_MAX, 2**16)  # The default.
        _glibc("malloc_trim", 0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
"""From glibc's malloc.h."""


def _glibc(function: str, *arguments: int) -> None:
    """Calls a function of glibc's allocator, if that is what allocates here."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL(None).
        getattr(ctypes.CDLL(None), function)(*arguments)


def make_mesh(batch: int) -> Mesh:
    """A mesh over as many of this machine's devices as a batch can keep busy."""
    return Mesh(np.array(devices()[: _most_devices(batch)]), ("data",))


def _most_devices(batch: int) -> int:
    return max(1, batch // MIN_ROWS)


def replicate(tree, mesh: Mesh):
    """Copies a pytree of host arrays to every device of the mesh."""
    return device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(array: np.ndarray, mesh: Mesh, axis: int = 0, padding: int = 0) -> jax.Array:
    """Splits the rows of a batch, which are those of one axis, over the mesh, padded to a multiple of its size."""
    missing = [(0, -array.shape[axis] % mesh.size if i == axis else 0) for i in range(array.ndim)]
    place = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
    return device_put(np.pad(array, missing, constant_values=padding), place)


def named(mesh: Mesh) -> str:
    """The devices of a mesh in words."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return "CPU, 1 core" if mesh.size == 1 else f"CPU, {mesh.size} cores"
    count = f"{mesh.size} x " if mesh.size > 1 else ""
    return f"{device.platform.upper()}, {count}{device.device_kind}"


def describe(mesh: Mesh, batch: int) -> str:
    """The devices of a mesh in words, and what becomes of a batch that they cannot share evenly."""
    padding = -batch % mesh.size
    return named(mesh) + (f" (batches of {batch} are padded to {batch + padding})" if padding else "")
