"""The recurrence against a Python loop over Flax's plain cell and against the equations in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import lstm as numpy_lstm

from jaxlm import lstm

B, T, D, H = 3, 30, 7, 5


def random_layer(seed):
    """Weights, biases, carry and inputs, none of them zero."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {}
    for gate in lstm.GATES:
        params["i" + gate] = {"kernel": normal(D, H)}
        params["h" + gate] = {"kernel": normal(H, H), "bias": normal(H)}
    return params, (normal(B, H), normal(B, H)), normal(B, T, D)


def loop(params, carry, inputs):
    """A Python loop over Flax's plain, unoptimised cell."""
    cell, outputs = nn.LSTMCell(H), []
    for t in range(inputs.shape[1]):
        carry, output = cell.apply({"params": params}, carry, inputs[:, t])
        outputs.append(output)
    return carry, jnp.stack(outputs, 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_scan_is_the_equations(seed):
    params, carry, inputs = random_layer(seed)
    (c, h), outputs = lstm.scan(params, carry, inputs)
    (expected_c, expected_h), expected = numpy_lstm(params, carry, inputs)
    np.testing.assert_allclose(outputs, expected, atol=2e-5)
    np.testing.assert_allclose(c, expected_c, atol=2e-5)
    np.testing.assert_allclose(h, expected_h, atol=2e-5)


def test_scan_is_a_loop_over_the_plain_cell_with_its_gradients():
    layer = random_layer(2)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, H)), jnp.float32)

    def loss(recurrence):
        def of(layer):
            (c, h), outputs = recurrence(*layer)
            return (weights * outputs).sum() + (c * c).sum() + (h * h * h).sum()

        return of

    value, grads = jax.value_and_grad(loss(lstm.scan))(layer)
    expected_value, expected_grads = jax.value_and_grad(loss(loop))(layer)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for grad, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(grad, expected, atol=1e-5 * np.abs(expected).max())


def test_an_output_depends_on_its_past_and_never_on_its_future():
    params, carry, inputs = random_layer(4)
    for t in (0, 17, T - 1):
        grad = jax.grad(lambda inputs, t=t: lstm.scan(params, carry, inputs)[1][:, t].sum())(inputs)
        assert (np.abs(grad[:, t + 1 :]) == 0).all()
        assert (np.abs(grad[:, t]).max(-1) > 0).all()
    # Through the saturated gates of random weights, little of step 0 is left at step 3, but not nothing.
    grad = jax.grad(lambda inputs: lstm.scan(params, carry, inputs)[1][:, 3].sum())(inputs)
    assert (np.abs(grad[:, 0]).max(-1) > 0).all()


def test_a_scan_in_two_halves_is_one_scan():
    params, carry, inputs = random_layer(5)
    middle, first = lstm.scan(params, carry, inputs[:, :13])
    last, second = lstm.scan(params, middle, inputs[:, 13:])
    whole_last, whole = lstm.scan(params, carry, inputs)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    for part, expected in zip(last, whole_last, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)
