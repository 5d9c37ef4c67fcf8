"""The recurrence alone.

An implementation takes the parameters of one layer, as Flax's own LSTM cell names and shapes them, a carry
(c, h) of float[B, H], and inputs float[B, T, D]; it returns the carry after the last step and the outputs
float[B, T, H].
"""

from typing import Any

import flax.linen as nn
import jax

Carry = tuple[jax.Array, jax.Array]

GATES = ("i", "f", "g", "o")
"""Input, forget, candidate and output, in Keras's order; the kernels are named `ii if ig io`, `hi hf hg ho`."""


def scan(params: Any, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
    """The reference: `nn.scan` over Flax's LSTM cell.

    `OptimizedLSTMCell` has the parameters of `LSTMCell`, and multiplies the four gates at once.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """
    _, hidden = carry
    cell = nn.scan(
        nn.OptimizedLSTMCell,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )(features=hidden.shape[-1], parent=None)
    return cell.apply({"params": params}, carry, inputs)
