"""Matrix products, at a precision that is chosen, not inherited.

By default, JAX multiplies float32 arrays with fewer bits where that is faster: in TF32 on NVIDIA GPUs since Ampere, in
bfloat16 on TPUs; and a surrounding program may change that. Here, float32 means float32 on every device.
"""

import functools

import jax
import jax.numpy as jnp

from jaxlm.config import Precision


def product(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    """The matrix product of float32 arrays, float32[..., M] and float32[M, N], or of what `operand` made of them.

    With bfloat16, operands are rounded to it; sums are float32. Defines no gradient of its own: see `linear`.
    """
    if precision == "float32":
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return jnp.matmul(operand(a, precision), operand(b, precision), preferred_element_type=jnp.float32)


def operand(a: jax.Array, precision: Precision) -> jax.Array:
    """An array as `product` multiplies it. Before a loop, it rounds once what each step multiplies."""
    return a if precision == "float32" else a.astype(jnp.bfloat16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    """`product`, whose gradients are such products, too."""
    return product(a, b, precision)


def _forward(a: jax.Array, b: jax.Array, precision: Precision):
    return product(a, b, precision), (a, b)


def _backward(precision: Precision, residuals: tuple[jax.Array, jax.Array], dout: jax.Array):
    a, b = residuals
    rows = a.reshape(-1, a.shape[-1]), dout.reshape(-1, dout.shape[-1])
    return product(dout, b.T, precision), product(rows[0].T, rows[1], precision)


linear.defvjp(_forward, _backward)
