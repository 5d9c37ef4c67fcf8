"""The step: losses and gradients against plain code, RMSprop against NumPy, padding, devices, compilation."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import log_softmax
from reference import logits as numpy_logits

import jaxlm
from jaxlm import sharding
from jaxlm.data import PADDING
from jaxlm.metrics import bits_per_character, nll_sum
from jaxlm.model import LanguageModel
from jaxlm.training import TrainState, init_state, make_optimizer, make_step

V, H, T = 11, 8, 6
MODEL = LanguageModel(V, H)
FUSED = LanguageModel(V, H, impl="fused")
IDS = np.random.default_rng(0).integers(0, V, 200).astype(np.uint8)


@functools.cache
def initial_params(model, seed):
    optimizer = make_optimizer(config())
    state = jax.device_get(jax.jit(lambda: init_state(model, optimizer, seed))())
    return state.params, state.key


def initial(optimizer, seed=0, model=MODEL):
    """What `init_state` gives; its parameters are computed once."""
    params, key = initial_params(model, seed)
    return TrainState(np.int32(0), params, jax.device_get(optimizer.init(params)), key)


def config(**changes):
    return dataclasses.replace(jaxlm.BOOK, **changes)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def run_steps(batches, config, devices=1, seed=0, model=MODEL):
    """The state after these batches of starts, and the (nats, count) of each."""
    mesh, optimizer = mesh_of(devices), make_optimizer(config)
    state = sharding.replicate(initial(optimizer, seed), mesh)
    step = make_step(model, optimizer, T, mesh)
    ids, sums = sharding.replicate(IDS, mesh), []
    for starts in batches:
        rows = sharding.split_rows(np.asarray(starts, np.int32), mesh, PADDING)
        state, nats, count = step(state, ids, rows)
        sums.append((float(nats), float(count)))
    return jax.device_get(state), sums


def plain_loss(params, starts):
    """Mean cross-entropy of the character after each window, without any of the step's machinery."""
    windows = jnp.asarray(np.stack([IDS[start : start + T + 1] for start in starts]), jnp.int32)
    logits, _ = MODEL.apply({"params": params}, windows[:, :T], MODEL.initial_carry(len(starts)))
    log_probs = jax.nn.log_softmax(logits[:, -1])
    return -log_probs[jnp.arange(len(starts)), windows[:, T]].mean()


def test_the_loss_is_that_of_the_equations():
    starts = [3, 50, 77, 120]
    state, [(nats, count)] = run_steps([starts], config(learning_rate=1e-30))
    tokens = np.stack([IDS[start : start + T] for start in starts])
    log_probs = log_softmax(numpy_logits(state.params, tokens, V)[:, -1])
    expected = -sum(log_probs[i, IDS[start + T]] for i, start in enumerate(starts))
    assert count == 4
    np.testing.assert_allclose(nats, expected, rtol=1e-5)


def test_rmsprop_is_keras_s_with_the_epsilon_outside_the_root():
    rng = np.random.default_rng(1)
    # Gradients down to the epsilon's own size, where its place matters.
    gradients = [rng.normal(size=5) * [1, 1e-3, 1e-6, 1e-7, 1e-8] for _ in range(4)]
    optimizer = make_optimizer(config())
    params, state = jnp.zeros(5), optimizer.init(jnp.zeros(5))
    expected, mean_square = np.zeros(5), np.zeros(5)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state)
        params = params + updates
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected -= 0.01 * gradient / (np.sqrt(mean_square) + 1e-7)
    np.testing.assert_allclose(params, expected, rtol=1e-4)


def test_a_step_is_rmsprop_on_the_gradient_of_the_mean():
    starts = [3, 50, 77, 120]
    before = initial(make_optimizer(config())).params
    state, _ = run_steps([starts], config())
    grads = jax.grad(plain_loss)(before, starts)
    for old, grad, new in zip(*map(jax.tree.leaves, (before, grads, state.params)), strict=True):
        grad = np.asarray(grad, np.float64)
        np.testing.assert_allclose(new, old - 0.01 * grad / (np.sqrt(0.1 * grad**2) + 1e-7), rtol=1e-3, atol=1e-5)
    assert state.step == 1


@pytest.mark.parametrize("model", [MODEL, FUSED], ids=lambda model: model.impl)
@pytest.mark.parametrize("positions", [2, T])
def test_every_position_may_predict(model, positions):
    starts, mesh, optimizer = [3, 50, 77, PADDING], mesh_of(2), make_optimizer(config(learning_rate=1e-30))
    state = sharding.replicate(initial(optimizer), mesh)
    step = make_step(model, optimizer, T, mesh, positions)
    rows = sharding.split_rows(np.array(starts, np.int32), mesh, PADDING)
    state, nats, count = step(state, sharding.replicate(IDS, mesh), rows)
    windows = np.stack([IDS[start : start + T + 1] for start in starts[:3]])
    log_probs = log_softmax(numpy_logits(jax.device_get(state.params), windows[:, :T], V))
    taken = np.take_along_axis(log_probs, windows[:, 1:, None].astype(int), 2)[..., 0]
    assert count == 3 * positions
    np.testing.assert_allclose(nats, -taken[:, -positions:].sum(), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_fused_step_is_the_reference_s(devices):
    batches = [[3, 50, 77, 120], [9, 13, 180, PADDING], [60, 5, 5, 99]]
    # Plain gradient descent, as it were: RMSprop's first steps follow the mere sign of rounding.
    changes = {"optimizer": "adam", "clip": 1.0}
    state, sums = run_steps(batches, config(**changes), devices, model=FUSED)
    expected, expected_sums = run_steps(batches, config(**changes))
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 3, 4])
def test_padding_and_devices_change_nothing(devices):
    starts = [3, 50, 77, 120, 9]
    expected, [(nats, _)] = run_steps([starts, starts], config(learning_rate=0.1))[0], run_steps([starts], config())[1]
    padded = [*starts, PADDING, PADDING, PADDING]
    state, sums = run_steps([padded, padded], config(learning_rate=0.1), devices)
    assert [count for _, count in sums] == [5, 5]
    np.testing.assert_allclose(sums[0][0], nats, rtol=1e-6)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_clipping_bounds_the_global_norm():
    optimizer = make_optimizer(config(optimizer="adam", clip=0.5))
    plain = make_optimizer(config(optimizer="adam"))
    gradients = [jnp.array([3.0, 4.0]), jnp.array([0.03, 0.04])]
    state, plain_state = optimizer.init(gradients[0]), plain.init(gradients[0])
    for gradient, clipped in zip(gradients, [jnp.array([0.3, 0.4]), gradients[1]], strict=True):
        update, state = optimizer.update(gradient, state)
        expected, plain_state = plain.update(clipped, plain_state)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


@pytest.mark.parametrize("model", [MODEL, FUSED], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 4])
def test_one_compilation_serves_whole_and_partial_batches(caplog, devices, model):
    batches = [[1, 2, 3, 4], [5, 6, 7, 8], [9, PADDING, PADDING, PADDING]]
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        run_steps(batches, config(), devices, model=model)
    assert sum("Compiling jit(step)" in record.getMessage() for record in caplog.records) == 1


def test_a_step_is_sent_nothing_but_the_starts():
    mesh, optimizer = mesh_of(2), make_optimizer(config())
    state = sharding.replicate(initial(optimizer), mesh)
    step, ids = make_step(FUSED, optimizer, T, mesh), sharding.replicate(IDS, mesh)
    rows = [sharding.split_rows(np.arange(i, i + 4, dtype=np.int32), mesh, PADDING) for i in range(3)]
    with jax.transfer_guard("disallow"):
        for row in rows:
            state, nats, _ = step(state, ids, row)
    assert np.isfinite(float(nats))


def test_the_seed_decides_the_initial_state():
    one, same, other = (initial(make_optimizer(config()), seed) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one.params["dense"]["kernel"], other.params["dense"]["kernel"])
    assert not np.array_equal(one.key, other.key)


def test_dropout_draws_anew_at_each_step():
    model = LanguageModel(V, H, 2, 0.5)
    optimizer = make_optimizer(config(learning_rate=1e-30))
    mesh = mesh_of(2)
    state = sharding.replicate(initial(optimizer, model=model), mesh)
    step, ids = make_step(model, optimizer, T, mesh), sharding.replicate(IDS, mesh)
    rows = sharding.split_rows(np.array([1, 2, 1, 2], np.int32), mesh, PADDING)
    losses = []
    for _ in range(3):
        state, nats, _ = step(state, ids, rows)
        losses.append(float(nats))
    assert len(set(losses)) == 3


def test_nll_sum_counts_real_targets_only():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 5)), jnp.float32)
    targets = jnp.array([[0, 1], [2, 3], [4, 0]])
    nats, count = nll_sum(logits, targets, jnp.array([True, False, True]))
    log_probs = log_softmax(np.asarray(logits, np.float64))
    expected = -(log_probs[0, 0, 0] + log_probs[0, 1, 1] + log_probs[2, 0, 4] + log_probs[2, 1, 0])
    np.testing.assert_allclose(nats, expected, rtol=1e-6)
    assert count == 4
    with pytest.raises(ValueError, match=r"\(3, 2, 5\).*\(3, 1\)"):
        nll_sum(logits, targets[:, :1], jnp.ones(3, bool))


def test_bits_per_character():
    assert bits_per_character(np.log(8), 1) == pytest.approx(3)
    assert bits_per_character(np.log(8), 1.5) == pytest.approx(2)
