"""JAX's ambient settings, held still where results must not depend on them."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """JAX as jaxlm is written and measured for, whatever the program around it has set.

    Double precision, another generator of random numbers or another way to split it would change every text and
    every loss of a seed; strict promotion and transfer guards would stop code that is right.
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
    ):
        yield


def reproducible(function: Callable[P, R]) -> Callable[P, R]:
    """A function of arrays that gives the same numbers under any ambient settings of JAX."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with own_settings():
            return function(*args, **kwargs)

    return call
