"""Devices: one mesh with one axis, `data`, for the cores of a CPU, several GPUs or TPU cores alike."""

import contextlib
import ctypes
import os
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.errors import RunError

MIN_ROWS = 16
"""Rows of a batch under which another device would not be worth its share of the exchange."""


def split_cpu() -> None:
    """Makes one device of each CPU core that this process may use, unless a number of devices was chosen already.

    XLA's CPU runtime leaves most of a recurrence to one core, so a batch is split over several devices. Works only
    before JAX's first computation. Also has the C library keep memory for them (`_keep_buffers`).
    """
    chosen = re.search("xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", ""))
    if chosen or jax.config.jax_num_cpu_devices >= 0:  # type: ignore[attr-defined, unused-ignore]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A notebook may have computed something already: its devices stay as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)
    _keep_buffers(cores)


def devices() -> list[jax.Device]:
    """The devices that JAX computes on.

    Raises:
      RunError: JAX cannot start any, for instance because the environment names a platform that is not here.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        asked = {name: os.environ[name] for name in DEVICE_SETTINGS if name in os.environ}
        settings = ", ".join(f"{name}={value}" for name, value in asked.items())
        cause = f" with {settings}; unset it, or name what this machine has" if asked else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
        raise RunError(f"JAX cannot start its devices{cause} ({reason})") from error


DEVICE_SETTINGS = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")
"""What in the environment decides which devices JAX starts."""


def _keep_buffers(heaps: int) -> None:
    """Has glibc reuse the memory of a step's buffers of up to 32 MB; other C libraries are left as they are.

    Left alone, it either gives some back after each step, to be mapped anew page by page (thousands of faults, a
    sixth of the time of the book's step), or keeps free ones in a heap for each thread that ever asked (tens of MB).
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # Their numbers in malloc.h.
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, heaps)
        mallopt(mmap_threshold, 2**25)  # The most that it takes.
        mallopt(trim_threshold, 2**30)


def make_mesh(batch: int) -> Mesh:
    """A mesh over as many of this machine's devices as a batch keeps busy."""
    return Mesh(np.array(devices()[: max(1, batch // MIN_ROWS)]), ("data",))


def replicate(tree, mesh: Mesh):
    """A pytree of host arrays, whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_rows(rows: np.ndarray, mesh: Mesh, padding: int) -> jax.Array:
    """An array of B rows, spread over the mesh, with rows of padding up to a multiple of its size."""
    missing = [(0, -len(rows) % mesh.size)] + [(0, 0)] * (rows.ndim - 1)
    return jax.device_put(np.pad(rows, missing, constant_values=padding), NamedSharding(mesh, PartitionSpec("data")))


def describe(mesh: Mesh) -> str:
    """The devices of a mesh in words."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return f"CPU, {mesh.size} core{'s' * (mesh.size != 1)}"
    count = f"{mesh.size} x " if mesh.size > 1 else ""
    return f"{device.platform.upper()}, {count}{device.device_kind}"
