"""The recurrences against a loop over Flax's plain cell and against the equations in NumPy."""

import functools
import itertools
import os
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import emulate_cudnn
from jax.experimental import rnn
from reference import keras_2_hard_sigmoid
from reference import lstm as numpy_lstm

from jaxlm.errors import InputError
from jaxlm.nn import lstm, sharding

B, T, D, H = 3, 30, 7, 5
SPAN = 12  # Steps, of B rows.


LOOPS = {
    "fused": lstm.Loops(turn=1, span=SPAN * B, columns=None, in_place=True),
    "fused in columns": lstm.Loops(turn=1, span=SPAN * B, columns=H, in_place=True),
    "fused as on a GPU": lstm.LOOPS["gpu"],
}


@pytest.fixture(params=["scan", *LOOPS, "cudnn"])
def recurrence(request, monkeypatch):
    """Every implementation."""
    emulate_cudnn(monkeypatch)
    return implementation(request.param, monkeypatch)


@pytest.fixture(params=["scan", *LOOPS])
def with_hard_gates(request, monkeypatch):
    """Every implementation that has hard gates, with them."""
    return functools.partial(implementation(request.param, monkeypatch), gates="hard_sigmoid")


def implementation(name, monkeypatch):
    monkeypatch.setitem(lstm.LOOPS, "cpu", LOOPS.get(name, LOOPS["fused"]))
    monkeypatch.setattr(lstm, "FEWEST_COLUMNS", 1)
    return lstm.IMPLS[name.partition(" ")[0]]


def random_layer(seed, steps=T):
    """Weights, biases, carry and inputs, none of them zero."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {}
    for gate in lstm.GATES:
        params["i" + gate] = {"kernel": normal(D, H)}
        params["h" + gate] = {"kernel": normal(H, H), "bias": normal(H)}
    return params, (normal(B, H), normal(B, H)), normal(B, steps, D)


def loop(params, carry, inputs, gate=nn.sigmoid):
    """A loop over Flax's plain, unoptimised cell."""

    def step(carry, inputs):
        return nn.LSTMCell(H, gate_fn=gate).apply({"params": params}, carry, inputs)

    carry, outputs = jax.lax.scan(step, carry, jnp.moveaxis(inputs, 1, 0))
    return carry, jnp.moveaxis(outputs, 0, 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_equations(recurrence, seed):
    params, carry, inputs = random_layer(seed)
    (c, h), outputs = recurrence(params, carry, inputs)
    (expected_c, expected_h), expected = numpy_lstm(params, carry, inputs)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)
    np.testing.assert_allclose(c, expected_c, atol=2e-5)
    np.testing.assert_allclose(h, expected_h, atol=2e-5)


def loss(recurrence, steps=T):
    """A scalar that depends on every output and both parts of the carry."""
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(B, steps, H)), jnp.float32)

    def of(layer, inputs=None):
        params, carry, *rest = layer
        (c, h), outputs = recurrence(params, carry, *(rest if inputs is None else [inputs]))
        return (weights * outputs).sum() + (c * c).sum() + (h * h * h).sum()

    return of


def assert_alike(found, expected):
    (value, grads), (expected_value, expected_grads) = found, expected
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for grad, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(grad, other, atol=1e-5 * np.abs(other).max())


# One span of the backward scan, two of the same length, and three of which one is shorter.
@pytest.mark.parametrize("steps", [1, SPAN, 2 * SPAN, 2 * SPAN + 1])
def test_it_is_a_loop_over_the_plain_cell_with_its_gradients(recurrence, steps):
    layer = random_layer(2, steps)
    found = jax.jit(jax.value_and_grad(loss(recurrence, steps)))(layer)
    assert_alike(found, jax.jit(jax.value_and_grad(loss(loop, steps)))(layer))


def test_ids_are_one_hots(recurrence):
    params, carry, _ = random_layer(6)
    ids = jnp.asarray(np.random.default_rng(7).integers(0, D, (B, T)))
    found = jax.jit(jax.value_and_grad(loss(recurrence)))((params, carry), ids)
    assert_alike(found, jax.jit(jax.value_and_grad(loss(loop)))((params, carry), jax.nn.one_hot(ids, D)))


def test_rows_are_added_alike_on_every_platform():
    kernel, (_, _, rows) = jnp.ones((D, H)), random_layer(11, B * T)
    rows, ids = rows[0][:, :H], jnp.asarray(np.random.default_rng(12).integers(0, D, B * T))
    found = lstm._multiply_rows(kernel, ids, rows)
    np.testing.assert_allclose(found, lstm._scatter_rows(kernel, ids, rows), atol=1e-5)
    step = jax.jit(jax.grad(lambda params: lstm.fused(params, lstm.initial_carry(B, H), ids.reshape(B, T))[1].sum()))
    params, _, _ = random_layer(13)
    for platform, scatters in (("cpu", True), ("cuda", False), ("tpu", False)):
        text = jax.export.export(step, platforms=[platform])(params).mlir_module()
        assert ("stablehlo.scatter" in text) == scatters, platform


def test_a_gradient_that_only_the_last_output_has(recurrence):
    params, carry, inputs = random_layer(8)

    def last(recurrence):
        return jax.jit(jax.value_and_grad(lambda params: (recurrence(params, carry, inputs)[1][:, -1] ** 2).sum()))

    assert_alike(last(recurrence)(params), last(loop)(params))


@pytest.mark.parametrize("columns", [None, H])
def test_a_batch_of_more_rows_than_a_span(monkeypatch, columns):
    monkeypatch.setitem(lstm.LOOPS, "cpu", lstm.Loops(turn=1, span=B - 1, columns=columns, in_place=True))
    monkeypatch.setattr(lstm, "FEWEST_COLUMNS", 1)
    layer = random_layer(9, 4)
    assert_alike(jax.value_and_grad(loss(lstm.fused, 4))(layer), jax.value_and_grad(loss(loop, 4))(layer))


@pytest.mark.parametrize("columns", [None, 1])
def test_derivatives_take_the_place_of_sums(monkeypatch, columns):
    steps, batch, hidden = 64, 16, 64
    params, carry = lstm.init_params(jax.random.key(0), D, hidden), lstm.initial_carry(batch, hidden)
    needed = []
    for in_place in (True, False):
        monkeypatch.setitem(lstm.LOOPS, "cpu", lstm.Loops(turn=1, span=512, columns=columns, in_place=in_place))

        @jax.jit
        @jax.grad
        def gradient(params):
            return (lstm.fused(params, carry, jnp.zeros((batch, steps), jnp.int32))[1] ** 2).sum()

        needed.append(gradient.lower(params).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] - needed[0] > 0.9 * steps * batch * 4 * hidden * 4  # A copy in the loop would need as much again.


def test_a_gradient_that_only_the_carry_has(recurrence):
    params, carry, inputs = random_layer(10)

    def last(recurrence):
        return jax.jit(jax.value_and_grad(lambda params: (recurrence(params, carry, inputs)[0][1] ** 2).sum()))

    assert_alike(last(recurrence)(params), last(loop)(params))


def test_an_output_depends_on_its_past_and_never_on_its_future(recurrence):
    params, carry, inputs = random_layer(4)
    for t in (0, 17, T - 1):
        grad = jax.grad(lambda inputs, t=t: recurrence(params, carry, inputs)[1][:, t].sum())(inputs)
        assert (np.abs(grad[:, t + 1 :]) == 0).all()
        assert (np.abs(grad[:, t]).max(-1) > 0).all()
    # Through the saturated gates of random weights, little of step 0 is left at step 3, but not nothing.
    grad = jax.grad(lambda inputs: recurrence(params, carry, inputs)[1][:, 3].sum())(inputs)
    assert (np.abs(grad[:, 0]).max(-1) > 0).all()


def test_two_halves_are_the_whole(recurrence):
    params, carry, inputs = random_layer(5)
    middle, first = recurrence(params, carry, inputs[:, :13])
    last, second = recurrence(params, middle, inputs[:, 13:])
    whole_last, whole = recurrence(params, carry, inputs)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    for part, expected in zip(last, whole_last, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


@pytest.fixture
def device(monkeypatch):
    """JAX's only device, to be changed."""

    class Client:
        platform_version = "cuda 13010"

    class Device:
        platform = "gpu"
        client = Client

    monkeypatch.setattr(jax, "devices", lambda: [Device])
    monkeypatch.setattr(rnn, "gpu_rnn", types.SimpleNamespace(compute_rnn_workspace_reserve_space_sizes=None))
    return Device


def test_on_an_nvidia_gpu_cudnn_can_be_chosen_but_fused_is_the_fastest(device):
    assert [lstm.choose(impl) for impl in ("auto", "cudnn", "scan", "fused")] == ["fused", "cudnn", "scan", "fused"]


LACKING = {
    "a machine whose device is CPU": {"platform": "cpu"},
    "a machine whose device is TPU": {"platform": "tpu"},
    "a GPU that is not NVIDIA's": {"platform_version": "rocm 60200"},
    "a JAX that has no cuDNN": {"gpu_rnn": types.SimpleNamespace()},
}


@pytest.mark.parametrize("found", LACKING)
def test_without_cudnn_auto_is_fused_and_cudnn_a_mistake_in_one_line(device, monkeypatch, found):
    for name, value in LACKING[found].items():
        owner = {"platform": device, "platform_version": device.client, "gpu_rnn": rnn}[name]
        monkeypatch.setattr(owner, name, value)
    assert lstm.choose("auto") == "fused"
    with pytest.raises(InputError, match=rf"impl: found cudnn on {found}, expected an NVIDIA GPU and jax\[cuda\]"):
        lstm.choose("cudnn")


@pytest.mark.parametrize(("platform", "unroll", "loops"), [("gpu", 8, 2), ("cpu", 1, 3), ("tpu", 1, 2), ("new", 1, 2)])
def test_a_gpu_takes_several_steps_in_a_turn(device, monkeypatch, platform, unroll, loops):
    monkeypatch.setattr(device, "platform", platform)
    params, carry, inputs = random_layer(14, 296)
    gradient = jax.make_jaxpr(jax.grad(lambda params: lstm.fused(params, carry, inputs)[1].sum()))(params)
    # One forwards and one backwards; on a CPU, within two spans, which its cache wants.
    assert str(gradient).count("scan[") == loops
    assert str(gradient).count(f"unroll={unroll}\n") >= 2


@pytest.mark.parametrize(
    ("batch", "steps", "hidden", "columns"),
    [(8, 2, 199, False), (8, 2, 200, True), (8, 1, 200, False), (7, 2, 200, False)],
)
def test_on_a_cpu_the_texts_of_a_large_layer_are_columns(device, monkeypatch, batch, steps, hidden, columns):
    monkeypatch.setattr(device, "platform", "cpu")
    params = jax.eval_shape(functools.partial(lstm.init_params, width=D, hidden=hidden), jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((batch, steps, D), jnp.float32)

    def outputs(params, inputs):
        return lstm.fused(params, lstm.initial_carry(batch, hidden), inputs)

    program = str(jax.make_jaxpr(outputs)(params, inputs))
    assert (f"f32[{4 * hidden},{batch}] = dot_general" in program) == columns
    assert (f"f32[{batch},{4 * hidden}] = dot_general" in program) == (not columns)


def test_the_steps_in_a_turn_divide_the_loop():
    found = {steps: lstm.LOOPS["gpu"].unroll(steps) for steps in (1, 7, 11, 32, 50, 60, 64, 256, 1024)}
    assert found == {1: 1, 7: 7, 11: 1, 32: 8, 50: 10, 60: 10, 64: 8, 256: 8, 1024: 8}


def test_hard_gates_are_keras_2_s(with_hard_gates):
    params, carry, inputs = random_layer(15)
    (c, h), outputs = with_hard_gates(params, carry, inputs)
    (expected_c, expected_h), expected = numpy_lstm(params, carry, inputs, keras_2_hard_sigmoid)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)
    np.testing.assert_allclose(c, expected_c, atol=2e-5)
    np.testing.assert_allclose(h, expected_h, atol=2e-5)


def test_hard_gates_have_the_gradients_of_a_loop_over_the_plain_cell(with_hard_gates):
    layer = random_layer(16)

    def hard_loop(params, carry, inputs):
        return loop(params, carry, inputs, lambda x: jnp.minimum(jnp.maximum(0.2 * x + 0.5, 0.0), 1.0))

    # Gates at their ends, where the gradient is zero, and between.
    params, carry, inputs = layer
    scaled = jax.tree.map(lambda leaf: 2 * leaf, params), carry, inputs
    for one in (layer, scaled):
        found = jax.jit(jax.value_and_grad(loss(with_hard_gates)))(one)
        assert_alike(found, jax.jit(jax.value_and_grad(loss(hard_loop)))(one))


def test_hard_gates_with_resets_are_those_of_pieces(with_hard_gates):
    params, carry, inputs = random_layer(17)
    resets = jnp.zeros((B, T), bool).at[:, 4].set(True)
    first = lstm.scan(params, carry, inputs[:, :4], gates="hard_sigmoid")[1]
    after, rest = lstm.scan(params, lstm.initial_carry(B, H), inputs[:, 4:], gates="hard_sigmoid")
    found, outputs = with_hard_gates(params, carry, inputs, resets=resets)
    np.testing.assert_allclose(outputs, jnp.concatenate([first, rest], 1), atol=1e-6)
    np.testing.assert_allclose(found[0], after[0], atol=1e-6)


def test_hard_gates_need_no_cudnn():
    assert [lstm.choose(impl, "hard_sigmoid") for impl in ("auto", "scan", "fused")] == ["fused", "scan", "fused"]


def test_cudnn_has_no_hard_gates(device):
    with pytest.raises(InputError, match="impl: found cudnn, expected another for gates hard_sigmoid"):
        lstm.choose("cudnn", "hard_sigmoid")


def test_another_name_is_a_mistake():
    with pytest.raises(InputError, match="impl: found 'Fused', expected one of auto, scan, fused, cudnn"):
        lstm.choose("Fused")


def test_cudnn_is_asked_to_be_the_same_at_every_call_unless_the_user_decides(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    sharding.devices()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:2"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    sharding.devices()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


# Documents of a text, at whose beginnings the memory is reset.

RESETS = np.zeros((B, T), bool)
RESETS[0, [0, 7, 8, T - 1]] = RESETS[1, SPAN] = True  # None in the last row.


def loop_from_zero(params, carry, inputs):
    """Each row read by itself, and each of its documents, the first from the carry."""
    carries, outputs = [], []
    for row in range(B):
        state, parts = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], carry), []
        bounds = [0, *np.flatnonzero(RESETS[row]).tolist(), T]
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            state = state if number == 0 else jax.tree.map(jnp.zeros_like, state)
            if end > start:
                state, output = loop(params, state, inputs[row : row + 1, start:end])
                parts.append(output)
        carries.append(state)
        outputs.append(jnp.concatenate(parts, 1))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *carries), jnp.concatenate(outputs)


@pytest.fixture(scope="module")
def new_beginnings():
    """A layer, ids, and what `loop_from_zero` makes of it: outputs, gradients, and gradients of one-hot inputs."""
    layer, ids = random_layer(21), jnp.asarray(np.random.default_rng(22).integers(0, D, (B, T)))
    grad = jax.jit(jax.value_and_grad(loss(loop_from_zero)))
    return layer, ids, jax.jit(loop_from_zero)(*layer), grad(layer), grad(layer[:2], jax.nn.one_hot(ids, D))


def test_a_reset_is_a_new_beginning_with_its_gradients(recurrence, new_beginnings):
    def resetting(params, carry, inputs):
        return recurrence(params, carry, inputs, "float32", jnp.asarray(RESETS))

    layer, ids, outputs, grads, grads_of_ids = new_beginnings
    for found, expected in zip(jax.tree.leaves(resetting(*layer)), jax.tree.leaves(outputs), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = jax.jit(jax.value_and_grad(loss(resetting)))
    assert_alike(found(layer), grads)
    assert_alike(found(layer[:2], ids), grads_of_ids)
