"""The recurrence of one layer: everything that is specific to an LSTM.

The rest of the network uses only `init_params`, `initial_carry`, `IMPLS` (how it is applied), `last_output`,
`map_recurrent` (for DropConnect) and `fold_embedding`.

An implementation takes the parameters of a layer, named and shaped as in Flax's LSTM cell; a carry (c, h) of
float[B, H]; inputs, float[B, T, D], or int[B, T] ids that stand for one-hot vectors of width D; the precision of the
matrix products; resets, bool[B, T], or None: the carry is zero before the steps where they are true; and the activation
of the gates. It returns the carry after the last step and the outputs, float[B, T, H]. All implementations agree up to
rounding; only `fused` has products of bfloat16, and `cudnn` has no hard gates.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental import rnn

from jaxlm.config import Gates, Impl, Precision
from jaxlm.errors import InputError, check_choice
from jaxlm.nn.products import linear, operand, product
from jaxlm.nn.sharding import devices

LayerParams = dict[str, Any]
LayerCarry = tuple[jax.Array, jax.Array]
"""(c, h), float[B, H] each."""

GATES = ("i", "f", "g", "o")
"""Input, forget, candidate and output, in Keras's order; the kernels are named `ii if ig io`, `hi hf hg ho`."""


class Loops(NamedTuple):
    """How the loops of `fused` run; changes rounding only.

    Attributes:
      turn: the most steps in a turn.
      span: about how many vectors (steps times batch) the backward loop collects before it multiplies them into the
        kernels' gradients; None for all of them.
      columns: the fewest units with which a text is a column of the loops' matrices, not a row; None for never.
      in_place: whether the backward loop reads a step's squashed sums one step ahead, into an array of their own, and
        puts their derivatives where they were; for a GPU, that would be one more kernel to launch.
    """

    turn: int
    span: int | None
    columns: int | None
    in_place: bool

    def unroll(self, steps: int) -> int:
        """Steps in a turn of a loop: what divides them, as a shorter last turn costs more than it gains."""
        return max(count for count in range(1, self.turn + 1) if not steps % count)

    def in_columns(self, batch: int, steps: int, hidden: int) -> bool:
        """Whether texts are columns: never with a few texts or a single step, as in generation."""
        return self.columns is not None and hidden >= self.columns and batch >= FEWEST_COLUMNS and steps > 1


FEWEST_COLUMNS = 8
"""With fewer texts, the products of all steps' inputs with a kernel are faster in one, as rows, than in the loop."""

LOOPS = {
    # A span is large enough for full-speed matrix products, small enough to stay in the cache. To multiply rows with a
    # kernel, XLA rearranges the kernel at every step; to multiply a kernel with columns, it need not. That pays once
    # the kernel outgrows the core's own cache (measured with jax 0.10 and 0.12, benchmarks/RESULTS.md).
    # From sums in an array of their own, XLA computes faster than from a part of a larger one: the book's step takes
    # about 0.85 times as long.
    "cpu": Loops(turn=1, span=512, columns=200, in_place=True),
    # Most of the time goes to launching kernels, and XLA launches those of a turn as one graph. On an H100, a training
    # step takes half the time that it takes with the CPU's loops; 20 steps in a turn gain nothing over 10.
    "gpu": Loops(turn=10, span=None, columns=None, in_place=False),
    "tpu": Loops(turn=1, span=None, columns=None, in_place=False),
}
"""By JAX's name of the default device's platform."""


glorot_uniform = nn.initializers.glorot_uniform()
orthogonal = nn.initializers.orthogonal()


def init_params(key: jax.Array, width: int, hidden: int) -> LayerParams:
    """Keras's initial weights of an LSTM layer, under the names of Flax's LSTM cell.

    The input kernel (D, 4H) is Glorot-uniform and the recurrent kernel U (H, 4H) orthogonal, U Uᵀ = I; each is
    drawn as one matrix, then split by gate. (Flax draws each gate alone, so that U Uᵀ = 4 I.) The forget gate's bias
    is 1, the others are 0.

    Source: keras/layers/recurrent.py, Keras 2.2.4: LSTM, LSTMCell.build.
    """
    input_key, recurrent_key = jax.random.split(key)
    inputs = jnp.split(glorot_uniform(input_key, (width, 4 * hidden), jnp.float32), 4, axis=1)
    recurrent = jnp.split(orthogonal(recurrent_key, (hidden, 4 * hidden), jnp.float32), 4, axis=1)
    params: LayerParams = {}
    for gate, kernel, recurrent_kernel in zip(GATES, inputs, recurrent, strict=True):
        bias = jnp.full(hidden, 1.0 if gate == "f" else 0.0, jnp.float32)
        params[f"i{gate}"] = {"kernel": kernel}
        params[f"h{gate}"] = {"kernel": recurrent_kernel, "bias": bias}
    return params


def initial_carry(batch: int, hidden: int) -> LayerCarry:
    """The carry at the start of a text: zeros."""
    zeros = jnp.zeros((batch, hidden), jnp.float32)
    return zeros, zeros


def last_output(carry: LayerCarry) -> jax.Array:
    """The output of the step that left this carry, float[B, H]: outputs[:, -1], with a cheaper gradient."""
    return carry[1]


def map_recurrent(function: Callable[[jax.Array], jax.Array], params: LayerParams) -> LayerParams:
    """A layer's parameters with `function` applied to each recurrent kernel, float[H, H]."""
    thinned = {f"h{gate}": params[f"h{gate}"] for gate in GATES}
    return {**params, **{name: {**leaves, "kernel": function(leaves["kernel"])} for name, leaves in thinned.items()}}


def fold_embedding(params: LayerParams, embedding: jax.Array, precision: Precision) -> LayerParams:
    """A layer's parameters with an embedding, float[V, D], folded in, so that the layer takes ids.

    A row of the embedding times a kernel is a row of their product. For many tokens, looking up rows of that product
    is far less work than multiplying each.
    """
    folded = {f"i{gate}": linear(embedding, params[f"i{gate}"]["kernel"], precision) for gate in GATES}
    return {**params, **{name: {"kernel": kernel} for name, kernel in folded.items()}}


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Keras 2's, which the gates of the book's LSTM have. Flax's, and Keras 3's of that name, is clip(x / 6 + 0.5).

    Source: keras/backend/theano_backend.py and tensorflow_backend.py, Keras 2.2.4: hard_sigmoid.
    """
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


GATE_FUNCTIONS: dict[Gates, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": hard_sigmoid,
}


def scan(
    params: Any,
    carry: LayerCarry,
    inputs: jax.Array,
    precision: Precision = "float32",
    resets: jax.Array | None = None,
    gates: Gates = "sigmoid",
) -> tuple[LayerCarry, jax.Array]:
    """The reference: `nn.scan` over Flax's LSTM cell.

    `OptimizedLSTMCell` has the parameters of `LSTMCell`, and computes the four gates in one product.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """
    _, hidden = carry
    if _are_ids(inputs):
        inputs = jax.nn.one_hot(inputs, params["ii"]["kernel"].shape[0], dtype=jnp.float32)
    _check_float32("scan", precision)
    if resets is not None:
        return _scan_with_resets(params, carry, inputs, resets, gates)
    cell = nn.scan(
        nn.OptimizedLSTMCell,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )(features=hidden.shape[-1], gate_fn=GATE_FUNCTIONS[gates], parent=None)
    with jax.default_matmul_precision("highest"):
        after: tuple[LayerCarry, jax.Array] = cell.apply({"params": params}, carry, inputs)
    return after


def _scan_with_resets(
    params: Any, carry: LayerCarry, inputs: jax.Array, resets: jax.Array, gates: Gates
) -> tuple[LayerCarry, jax.Array]:
    """The same cell, step by step."""
    cell = nn.OptimizedLSTMCell(carry[1].shape[-1], gate_fn=GATE_FUNCTIONS[gates], parent=None)

    def body(before: LayerCarry, x: tuple[jax.Array, jax.Array]):
        return cell.apply({"params": params}, _keep(before, x[1]), x[0])

    with jax.default_matmul_precision("highest"):
        after, outputs = jax.lax.scan(body, carry, (jnp.swapaxes(inputs, 0, 1), _kept(resets)))
    return after, jnp.swapaxes(outputs, 0, 1)


def _kept(resets: jax.Array) -> jax.Array:
    """float32[T, B, 1]: the factors of the carry before each step, 0 or 1."""
    return 1 - resets.T[..., None].astype(jnp.float32)


def _keep(carry: LayerCarry, kept: jax.Array | None) -> LayerCarry:
    c, h = carry
    return carry if kept is None else (c * kept, h * kept)


class _Kernels(NamedTuple):
    """A layer's parameters, with the four gates side by side in the order of GATES.

    Attributes:
      inputs: W, float[D, 4H].
      recurrent: U, float[H, 4H].
      bias: b, float[4H].
    """

    inputs: jax.Array
    recurrent: jax.Array
    bias: jax.Array


def _pack(params: Any) -> _Kernels:
    """Packs a layer's parameters, gates side by side."""

    def side_by_side(side: str, leaf: str) -> jax.Array:
        return jnp.concatenate([params[side + gate][leaf] for gate in GATES], axis=-1)

    return _Kernels(side_by_side("i", "kernel"), side_by_side("h", "kernel"), side_by_side("h", "bias"))


class _Squash(NamedTuple):
    """A gate's activation as s / 2 + 1 / 2, where s, from -1 to 1, is a function of its sum times a factor.

    sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, so that `_step` needs one tanh for all; and hard_sigmoid(z) = clip(0.4 z, -1,
    1) / 2 + 1 / 2.

    Attributes:
      factor: of the sum.
      apply: takes the sums of all gates, those of i, f and o times the factor; and where they are g's, whose s is a
        tanh.
      slope: takes the s of all gates and where they are g's; returns the derivatives of the activations, tanh for g.
    """

    factor: float
    apply: Callable[[jax.Array, np.ndarray], jax.Array]
    slope: Callable[[jax.Array, np.ndarray], jax.Array]


SQUASHES: dict[Gates, _Squash] = {
    "sigmoid": _Squash(
        0.5,
        lambda sums, candidate: jnp.tanh(sums),
        # The derivative of sigmoid(z) is (1 - tanh(z / 2) ** 2) / 4.
        lambda s, candidate: (1 - s * s) * np.where(candidate, np.float32(1), np.float32(0.25)),
    ),
    "hard_sigmoid": _Squash(
        0.4,
        lambda sums, candidate: jnp.where(candidate, jnp.tanh(sums), jnp.clip(sums, -1.0, 1.0)),
        lambda s, candidate: jnp.where(candidate, 1 - s * s, jnp.where(jnp.abs(s) < 1, 0.2, 0.0)),
    ),
}


def _scale(kernels: _Kernels, factor: float) -> _Kernels:
    """Scales what belongs to i, f and o."""
    hidden = kernels.recurrent.shape[0]
    factors = np.repeat(np.array([factor, factor, 1.0, factor], np.float32), hidden)
    return _Kernels(*(leaf * factors if leaf.ndim == 1 else leaf * factors[None] for leaf in kernels))


class _Layout(NamedTuple):
    """How the loops hold a vector of each text of the batch: as rows, float[B, F], or as columns, float[F, B].

    Attributes:
      columns: whether as columns; what its methods call float[B, F] is float[F, B] then.
    """

    columns: bool

    @property
    def axis(self) -> int:
        """The axis of the features."""
        return 0 if self.columns else 1

    def orient(self, x: jax.Array) -> jax.Array:
        """Rows, float[..., B, F], in this layout, or back; and a kernel, float[F, G], as `times` takes it."""
        return jnp.swapaxes(x, -1, -2) if self.columns else x

    def flatten(self, xs: jax.Array) -> jax.Array:
        """The vectors of several steps, float[S, B, F], as those of one, float[S B, F]."""
        return jnp.swapaxes(xs, 0, 1).reshape(xs.shape[1], -1) if self.columns else xs.reshape(-1, xs.shape[2])

    def unflatten(self, x: jax.Array, steps: int) -> jax.Array:
        """`flatten` undone."""
        if self.columns:
            return jnp.swapaxes(x.reshape(len(x), steps, -1), 0, 1)
        return x.reshape(steps, -1, x.shape[1])

    def times(self, x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
        """float[B, F] times an oriented kernel."""
        return product(kernel, x, precision) if self.columns else product(x, kernel, precision)

    def gradient(self, x: jax.Array, dout: jax.Array, precision: Precision) -> jax.Array:
        """The gradient of a kernel, float[F, G], from float[B, F] and the gradient of the product, float[B, G]."""
        return product(x, dout.T, precision) if self.columns else product(x.T, dout, precision)

    def gates(self, squashed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The four gates from their squashed sums, float[B, 4H]."""
        i, f, g, o = jnp.split(squashed, 4, self.axis)
        return i * 0.5 + 0.5, f * 0.5 + 0.5, g, o * 0.5 + 0.5

    def candidate(self, hidden: int) -> np.ndarray:
        """Where float[B, 4H] is of g: bool[1, 4H]."""
        return np.expand_dims(np.repeat([gate == "g" for gate in GATES], hidden), 1 - self.axis)


def _step(
    precision: Precision, gates: Gates, layout: _Layout, recurrent: jax.Array, carry: LayerCarry, projected: jax.Array
) -> tuple[LayerCarry, jax.Array]:
    """One step, from scaled kernels.

    Args:
      precision: of the product.
      gates: their activation.
      layout: that of what follows.
      recurrent: U, float[H, 4H], scaled and oriented.
      carry: (c, h) of float[B, H].
      projected: x @ W + b of the step's inputs, float[B, 4H], scaled.

    Returns:
      (carry, the squashed sums of the four gates, float[B, 4H]).
    """
    c, h = carry
    sums = layout.times(h, recurrent, precision) + projected
    squashed = SQUASHES[gates].apply(sums, layout.candidate(c.shape[layout.axis]))
    i, f, g, o = layout.gates(squashed)
    c = f * c + i * g
    return (c, o * jnp.tanh(c)), squashed


def fused(
    params: Any,
    carry: LayerCarry,
    inputs: jax.Array,
    precision: Precision = "float32",
    resets: jax.Array | None = None,
    gates: Gates = "sigmoid",
) -> tuple[LayerCarry, jax.Array]:
    """A fast recurrence with a hand-written gradient, which keeps as much work as possible out of the loops.

    A step takes one matrix product and one tanh. Rows are projected before the loop. Within it, ids are looked up, one
    row each, and columns are projected, which is as fast there. The kernels' gradients are multiplied many steps at a
    time (LOOPS).
    """
    batch, steps = inputs.shape[:2]
    layout = _Layout(_loops().in_columns(batch, steps, carry[1].shape[1]))
    time_major = jnp.swapaxes(inputs, 0, 1)
    if not _are_ids(inputs):
        time_major = layout.orient(time_major)
    kept = None if resets is None else layout.orient(_kept(resets))
    before = layout.orient(carry[0]), layout.orient(carry[1])
    (c, h), outputs = _fused(precision, gates, layout, _pack(params), before, time_major, kept)
    return (layout.orient(c), layout.orient(h)), jnp.swapaxes(layout.orient(outputs), 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fused(
    precision: Precision,
    gates: Gates,
    layout: _Layout,
    kernels: _Kernels,
    carry: LayerCarry,
    inputs: jax.Array,
    kept: jax.Array | None,
) -> tuple[LayerCarry, jax.Array]:
    return _forward(precision, gates, layout, kernels, carry, inputs, kept)[0]


def _forward(
    precision: Precision,
    gates: Gates,
    layout: _Layout,
    kernels: _Kernels,
    carry: LayerCarry,
    inputs: jax.Array,
    kept: jax.Array | None,
):
    scaled = _scale(kernels, SQUASHES[gates].factor)
    recurrent = operand(layout.orient(scaled.recurrent), precision)
    if _are_ids(inputs):
        # A one-hot times a matrix is a row of it.
        rows = scaled.inputs + scaled.bias[None]
        xs, projected = inputs, lambda ids: layout.orient(rows[ids])
    elif layout.columns:
        kernel, bias = operand(layout.orient(scaled.inputs), precision), layout.orient(scaled.bias[None])
        xs, projected = inputs, lambda x: layout.times(x, kernel, precision) + bias
    else:
        xs, projected = product(inputs, scaled.inputs, precision) + scaled.bias[None, None], lambda x: x

    def body(before: LayerCarry, x: tuple[jax.Array, jax.Array | None]):
        before = _keep(before, x[1])
        after, squashed = _step(precision, gates, layout, recurrent, before, projected(x[0]))
        return after, (squashed, *before, None if kept is None else after[1])

    after, (squashed, cells, hiddens, outputs) = jax.lax.scan(body, carry, (xs, kept), unroll=_loops().unroll(len(xs)))
    if outputs is None:
        outputs = jnp.concatenate([hiddens[1:], after[1][None]])
    return (after, outputs), (kernels, inputs, kept, after[0], squashed, cells, hiddens)


def _backward(precision: Precision, gates: Gates, layout: _Layout, residuals: Any, cotangents: Any):
    kernels, inputs, kept, last_cell, all_squashed, cells, hiddens = residuals
    (dc, dh), doutputs = cotangents
    # If only the carry is used, as with one prediction per window, the outputs have no gradients.
    douts = () if isinstance(doutputs, SymbolicZero) else (doutputs,)
    dc, dh = (jnp.zeros(d.shape, d.dtype) if isinstance(d, SymbolicZero) else d for d in (dc, dh))
    kernel, recurrent = (operand(layout.orient(leaf.T), precision) for leaf in (kernels.inputs, kernels.recurrent))

    def back(carry: tuple[Any, jax.Array | None, jax.Array], step: jax.Array):
        (dc, dh, c_after), ahead, dzs = carry
        squashed = _take(all_squashed, step) if ahead is None else ahead
        c, *dout = (_take(xs, step) for xs in (cells, *douts))
        i, f, g, o = layout.gates(squashed)
        if kept is not None:
            c_after = f * c + i * g  # The next step's may have been reset.
        dh = sum(dout, dh)
        tanh_c = jnp.tanh(c_after)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        slopes = SQUASHES[gates].slope(squashed, layout.candidate(len(kernels.recurrent)))
        dz = jnp.concatenate([dc * g, dc * c, dc * i, dh * tanh_c], layout.axis) * slopes
        dc, dh = _keep((dc * f, layout.times(dz, recurrent, precision)), None if kept is None else _take(kept, step))
        dzs = jax.lax.dynamic_update_index_in_dim(dzs, dz, step, 0, allow_negative_indices=False)
        if ahead is not None:
            ahead = _take(dzs, jnp.maximum(step - 1, 0))
        return ((dc, dh, c), ahead, dzs), None

    def span(length: int, carry: Any, first: jax.Array):
        """Takes `length` steps back to `first`, then multiplies what they add to the kernels' gradients."""
        recurrence, (dkernel, drecurrent, dbias) = carry
        places = first + jnp.arange(length)
        recurrence, _ = jax.lax.scan(back, recurrence, places, reverse=True, unroll=loops.unroll(length))
        dz, before = (layout.flatten(_take(xs, first, length)) for xs in (recurrence[-1], hiddens))
        drecurrent = drecurrent + layout.gradient(before, dz, precision)
        if _are_ids(inputs):
            dkernel = _add_to_rows(dkernel, _take(inputs, first, length).ravel(), layout.orient(dz))
            dinputs = None
        else:
            dkernel = dkernel + layout.gradient(layout.flatten(_take(inputs, first, length)), dz, precision)
            dbias = dbias + dz.sum(1 - layout.axis)
            dinputs = layout.unflatten(layout.times(dz, kernel, precision), length)
        return (recurrence, _Kernels(dkernel, drecurrent, dbias)), dinputs

    loops = _loops()
    steps, batch = len(cells), cells.shape[2 - layout.axis]
    # Spans of about the same length; a single one needs no loop around it.
    count = 1 if loops.span is None else -(-steps * batch // loops.span)
    length = -(-steps // count)
    rest = steps if length == steps else steps % length
    written = (all_squashed[-1], all_squashed) if loops.in_place else (None, jnp.zeros_like(all_squashed))
    state: Any = (((dc, dh, last_cell), *written), jax.tree.map(jnp.zeros_like, kernels))
    dinputs = []
    # From the end: a shorter span, then whole ones.
    if rest:
        state, last = span(rest, state, jnp.int32(steps - rest))
        dinputs.append(last)
    if whole := (steps - rest) // length:
        state, others = jax.lax.scan(functools.partial(span, length), state, length * jnp.arange(whole), reverse=True)
        if others is not None:
            dinputs.append(others.reshape(-1, *others.shape[2:]))
    (((dc, dh, _), *_), dkernels) = state
    if _are_ids(inputs):
        # Each input adds the bias to one row of W.
        dkernels = dkernels._replace(bias=dkernels.inputs.sum(0))
        return dkernels, (dc, dh), None, None
    return dkernels, (dc, dh), jnp.concatenate(dinputs[::-1]), None


def _take(xs: jax.Array, step: jax.Array, count: int | None = None) -> jax.Array:
    """What a step has, of float[T, ...]; or what that many steps from it on have."""
    if count is None:
        return jax.lax.dynamic_index_in_dim(xs, step, keepdims=False, allow_negative_indices=False)
    return jax.lax.dynamic_slice_in_dim(xs, step, count, allow_negative_indices=False)


def _add_to_rows(kernel: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """float32[D, N] with each of the rows, float32[K, N], added to the row of its id, int[K]."""
    # A GPU would scatter them in whatever order they come, so that no two runs were the same, and a TPU slowly.
    return jax.lax.platform_dependent(kernel, ids, rows, cpu=_scatter_rows, default=_multiply_rows)


def _scatter_rows(kernel: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    return kernel.at[ids].add(rows)


def _multiply_rows(kernel: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    return kernel + product(jax.nn.one_hot(ids, len(kernel), dtype=rows.dtype).T, rows, "float32")


def _forward_of(precision: Precision, gates: Gates, layout: _Layout, *primals: Any):
    return _forward(precision, gates, layout, *jax.tree.map(lambda primal: primal.value, primals))


_fused.defvjp(_forward_of, _backward, symbolic_zeros=True)


def cudnn(
    params: Any,
    carry: LayerCarry,
    inputs: jax.Array,
    precision: Precision = "float32",
    resets: jax.Array | None = None,
    gates: Gates = "sigmoid",
) -> tuple[LayerCarry, jax.Array]:
    """cuDNN's recurrence, for NVIDIA GPUs; float32 throughout, without TF32.

    A single step, as in generation, is that of `fused`: it leaves cuDNN nothing to gain. So is what has resets, which
    cuDNN does not know.

    Source: `unpack_lstm_weights` in jax/experimental/rnn.py, for the layout of the weights.
    """
    _check_float32("cudnn", precision)
    if gates != "sigmoid":
        raise NotImplementedError(f"cudnn has no gates of {gates}")
    if inputs.shape[1] == 1 or resets is not None:
        return fused(params, carry, inputs, resets=resets)
    kernels = _pack(params)
    width, hidden = kernels.inputs.shape[0], kernels.recurrent.shape[0]
    if _are_ids(inputs):
        inputs = jax.nn.one_hot(inputs, width, dtype=jnp.float32)
    # cuDNN adds two biases.
    biases = (kernels.bias, jnp.zeros_like(kernels.bias))
    weights = jnp.concatenate([kernels.inputs.T.ravel(), kernels.recurrent.T.ravel(), *biases])
    lengths = jnp.full(inputs.shape[0], inputs.shape[1], jnp.int32)
    c, h = (leaf[None] for leaf in carry)
    exact = jax.lax.Precision.HIGHEST
    outputs, h, c = rnn.lstm(inputs, h, c, weights, lengths, width, hidden, 1, 0.0, False, exact)
    return (c[0], h[0]), outputs


IMPLS = {"scan": scan, "fused": fused, "cudnn": cudnn}


def choose(impl: Impl, gates: Gates = "sigmoid") -> str:
    """The implementation for JAX's default device; `auto` is `fused`, the fastest wherever it was measured.

    On an H100, that is true for 128 to 1,024 units (benchmarks/RESULTS.md).

    Raises:
      InputError: there is no such implementation, or this machine cannot run it.
    """
    check_choice("impl", impl, get_args(Impl))
    if impl == "cudnn" and (found := _without_cudnn()):
        raise InputError(
            f"impl: found cudnn on {found}, expected an NVIDIA GPU and jax[cuda]; choose auto, fused or scan"
        )
    if impl == "cudnn" and gates != "sigmoid":
        raise InputError(f"impl: found cudnn, expected another for gates {gates}; choose auto, fused or scan")
    return "fused" if impl == "auto" else impl


def _without_cudnn() -> str:
    """What JAX's default device has instead of cuDNN; empty if it has that."""
    device = devices()[0]
    if device.platform != "gpu":
        return f"a machine whose device is {device.platform.upper()}"
    if "cuda" not in device.client.platform_version:
        return "a GPU that is not NVIDIA's"
    has_cudnn = hasattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes")  # Of the plugin for CUDA.
    return "" if has_cudnn else "a JAX that has no cuDNN"


def _check_float32(impl: str, precision: Precision) -> None:
    if precision != "float32":
        raise NotImplementedError(f"{impl} has no products of {precision}")


def _loops() -> Loops:
    return LOOPS.get(devices()[0].platform, LOOPS["tpu"])


def _are_ids(inputs: jax.Array) -> bool:
    return jnp.issubdtype(inputs.dtype, jnp.integer)
