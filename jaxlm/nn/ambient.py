"""Pins JAX's ambient settings where results must not depend on them."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

KEY_KINDS = {2: "threefry2x32", 4: "rbg"}
"""The generator of a training step's key, by the width of its data: runs that began with another default keep it."""

GUARDS = tuple(f"jax_transfer_guard_{way}" for way in ("host_to_device", "device_to_device", "device_to_host"))


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Gives JAX the settings that jaxlm is written and measured for, whatever the surrounding program has set.

    Double precision, another random number generator or another way to split it would change every text and loss of
    a seed; strict promotion and transfer guards would reject correct code.
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
    ):
        yield


def _are_set() -> bool:
    """Whether JAX already has these settings, as it does by default: checking is far faster than setting them."""
    now: Any = jax.config
    return (
        not now.jax_enable_x64
        and now.jax_default_prng_impl == "threefry2x32"
        and now.jax_threefry_partitionable
        and now.jax_numpy_dtype_promotion == "standard"
        and all(getattr(now, guard) in (None, "allow") for guard in GUARDS)
    )


def reproducible(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function of arrays return the same numbers under any ambient JAX settings."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _are_set():
            return function(*args, **kwargs)
        with own_settings():
            return function(*args, **kwargs)

    return call


device_put = reproducible(jax.device_put)
device_get = reproducible(jax.device_get)
"""JAX's own, which no guard stops."""
