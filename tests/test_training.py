"""The step: losses and gradients against plain code, RMSprop against NumPy, padding, devices, compilation."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import emulate_cudnn
from reference import log_softmax
from reference import logits as numpy_logits

import jaxlm
from jaxlm.config import ModelConfig
from jaxlm.nn import lstm, sharding, training
from jaxlm.nn.metrics import bits_per_character, nll_sum, perplexity
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.training import (
    BLOCK,
    TrainState,
    compiled_steps,
    initial_state,
    make_optimizer,
    send_batches,
    to_devices,
    to_host,
)
from jaxlm.text.batches import NO_WINDOW

V, H, T = 11, 8, 6
MODEL = LanguageModel(V, ModelConfig(H))
FUSED = LanguageModel(V, ModelConfig(H), impl="fused")
CUDNN = LanguageModel(V, ModelConfig(H), impl="cudnn")
IDS = np.random.default_rng(0).integers(0, V, 200).astype(np.uint8)


@functools.cache
def initial_params(model, seed):
    state = initial_state(model, config(seed=seed))
    return state.params, state.key


def initial(optimizer, seed=0, model=MODEL):
    """What `init_state` gives; its parameters are computed once."""
    params, key = initial_params(model, seed)
    return TrainState(np.int32(0), params, {}, jax.device_get(optimizer.init(params)), (), key)


def config(**changes):
    return dataclasses.replace(jaxlm.BOOK, length=T, **changes)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def run_steps(batches, config, devices=1, seed=0, model=MODEL, calls=None):
    """The state after these batches of starts, and the (nats, count) of each; `calls` are the steps of each call."""
    mesh, optimizer = mesh_of(devices), make_optimizer(config, len(batches))
    state = sharding.replicate(initial(optimizer, seed, model), mesh)
    return run_calls(state, batches, calls or [len(batches)], config, mesh, model)


def run_calls(state, batches, calls, config, mesh, model):
    steps = compiled_steps(model, config, len(batches), 1.0, mesh)
    ids, starts = sharding.replicate(IDS, mesh), send_batches(np.asarray(batches, np.int32), None, mesh)
    sums, first = [], 0
    for count in calls:
        state, nats, counts = steps(state, ids, starts, np.int32(first), np.int32(count))
        sums += zip(nats[:count].tolist(), counts[:count].tolist(), strict=True)
        first += count
    return to_host(state, config.batch), sums


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
    optimizer = make_optimizer(config(), steps=1)
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
    before = initial(make_optimizer(config(), steps=1)).params
    state, _ = run_steps([starts], config())
    grads = jax.grad(plain_loss)(before, starts)
    for old, grad, new in zip(*map(jax.tree.leaves, (before, grads, state.params)), strict=True):
        grad = np.asarray(grad, np.float64)
        np.testing.assert_allclose(new, old - 0.01 * grad / (np.sqrt(0.1 * grad**2) + 1e-7), rtol=1e-3, atol=1e-5)
    assert state.step == 1


@pytest.mark.parametrize("model", [MODEL, FUSED, CUDNN], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 4])
def test_a_step_is_the_reference_s_on_one_device(devices, model, monkeypatch):
    emulate_cudnn(monkeypatch)
    batches = [[3, 50, 77, 120], [9, 13, 180, NO_WINDOW], [60, 5, 5, 99]]
    # Plain gradient descent, as it were: RMSprop's first steps follow the mere sign of rounding.
    changes = {"optimizer": "adam", "clip": 1.0}
    state, sums = run_steps(batches, config(**changes), devices, model=model)
    expected, expected_sums = run_steps(batches, config(**changes))
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, FUSED, CUDNN], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 3, 4])
def test_padding_and_devices_change_nothing(devices, model, monkeypatch):
    emulate_cudnn(monkeypatch)
    starts = [3, 50, 77, 120, 9]
    expected, [(nats, _)] = run_steps([starts, starts], config(learning_rate=0.1))[0], run_steps([starts], config())[1]
    padded = [*starts, NO_WINDOW, NO_WINDOW, NO_WINDOW]
    state, sums = run_steps([padded, padded], config(learning_rate=0.1), devices, model=model)
    assert [count for _, count in sums] == [5, 5]
    np.testing.assert_allclose(sums[0][0], nats, rtol=1e-6)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_clipping_bounds_the_global_norm():
    optimizer = make_optimizer(config(optimizer="adam", clip=0.5), steps=1)
    plain = make_optimizer(config(optimizer="adam"), steps=1)
    gradients = [jnp.array([3.0, 4.0]), jnp.array([0.03, 0.04])]
    state, plain_state = optimizer.init(gradients[0]), plain.init(gradients[0])
    for gradient, clipped in zip(gradients, [jnp.array([0.3, 0.4]), gradients[1]], strict=True):
        update, state = optimizer.update(gradient, state)
        expected, plain_state = plain.update(clipped, plain_state)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


@pytest.mark.parametrize("model", [MODEL, FUSED], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 4])
def test_one_compilation_serves_whole_and_partial_batches(caplog, devices, model):
    batches = [[1, 2, 3, 4], [5, 6, 7, 8], [9, NO_WINDOW, NO_WINDOW, NO_WINDOW]]
    training._compiled_steps.cache_clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        run_steps(batches, config(), devices, model=model)
        # Nor does another run need a new one, which differs in nothing that a step depends on.
        run_steps(batches, config(corpus=("other",), seed=3, epochs=7), devices, seed=3, model=model)
    assert sum("Compiling jit(train_steps)" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("model", [MODEL, FUSED], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 4])
def test_how_steps_are_divided_into_calls_changes_no_bit(devices, model):
    batches = np.random.default_rng(0).integers(0, len(IDS), (13, 32))
    alone, *others = (
        run_steps(batches, config(), devices, model=model, calls=calls) for calls in ([1] * 13, [13], [2, 8, 3])
    )
    assert all(jax.tree.all(jax.tree.map(np.array_equal, alone, other)) for other in others)


def test_a_call_of_a_full_block():
    batches = np.random.default_rng(0).integers(0, len(IDS), (BLOCK, 4))
    state, sums = run_steps(batches, config())
    assert state.step == len(sums) == BLOCK
    assert all(count == 4 and np.isfinite(nats) for nats, count in sums)


def test_a_call_is_sent_nothing_but_its_two_numbers():
    mesh, optimizer = mesh_of(2), make_optimizer(config(), steps=1)
    state = sharding.replicate(initial(optimizer), mesh)
    # As it is under the guard: outside, `reproducible` lifts every guard.
    steps, ids = compiled_steps(FUSED, config(), 1, 1.0, mesh).__wrapped__, sharding.replicate(IDS, mesh)
    batches = send_batches(np.arange(12, dtype=np.int32).reshape(3, 4), None, mesh)
    count, *rows = (sharding.replicate(np.int32(i), mesh) for i in (1, 0, 1, 2))
    with jax.transfer_guard("disallow"):
        for row in rows:
            state, nats, _ = steps(state, ids, batches, row, count)
    assert np.isfinite(float(nats[0]))


def test_the_seed_decides_the_initial_state():
    one, same, other = (initial(make_optimizer(config(), steps=1), seed) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one.params["dense"]["kernel"], other.params["dense"]["kernel"])
    assert not np.array_equal(one.key, other.key)


def test_dropout_draws_anew_at_each_step():
    model = LanguageModel(V, ModelConfig(H, layers=2, dropout=0.5))
    _, sums = run_steps([[1, 2, 1, 2]] * 3, config(learning_rate=1e-30), devices=2, model=model)
    assert len(set(sums)) == 3


def stream(**changes):
    return dataclasses.replace(config(), recipe="stream", stride=None, **changes)


def read_on(config, chunks, devices=1, model=MODEL):
    """The state after so many chunks of streams that start at 0, 50 and 190, near the end, and the sums of each."""
    config = dataclasses.replace(config, batch=3)
    mesh, optimizer = mesh_of(devices), make_optimizer(config, steps=100)
    params, key = initial_params(model, config.seed)
    average, carry = params if config.average else {}, jax.device_get(model.initial_carry(3))
    state = TrainState(np.int32(0), params, average, jax.device_get(optimizer.init(params)), carry, key)
    starts = (np.array([0, 50, 190]) + np.arange(chunks)[:, None] * config.length) % len(IDS)
    return run_calls(to_devices(state, mesh), starts, [chunks], config, mesh, model)


STANDS_STILL = {"learning_rate": 1e-30}


@pytest.mark.parametrize("model", [MODEL, FUSED], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [1, 2])
def test_a_stream_predicts_every_token_from_all_it_has_read(model, devices):
    state, sums = read_on(stream(**STANDS_STILL), 4, devices, model)
    read = (np.array([0, 50, 190])[:, None] + np.arange(4 * T + 1)) % len(IDS)
    log_probs = log_softmax(numpy_logits(state.params, IDS[read][:, :-1], V))
    taken = np.take_along_axis(log_probs, IDS[read][:, 1:, None].astype(int), 2)[..., 0]
    assert [count for _, count in sums] == [3 * T] * 4
    np.testing.assert_allclose([nats for nats, _ in sums], -taken.reshape(3, 4, T).sum((0, 2)), rtol=1e-5)


def test_the_memory_of_a_stream_meets_its_own_continuation():
    short, short_sums = read_on(stream(**STANDS_STILL), 6)
    long, long_sums = read_on(dataclasses.replace(stream(**STANDS_STILL), length=3 * T), 2)
    np.testing.assert_allclose(np.array(short_sums).reshape(2, 3, 2).sum(1), long_sums, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(short.carry), jax.tree.leaves(long.carry), strict=True):
        assert one.shape == (3, H)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_into_an_earlier_chunk():
    """The second step's update is that of its own chunk, from a carry that is given."""
    settings = stream(optimizer="adam", learning_rate=0.01)
    before, _ = read_on(settings, 1)
    after, _ = read_on(settings, 2)

    def loss(params):
        read = (np.array([0, 50, 190])[:, None] + T + np.arange(T + 1)) % len(IDS)
        tokens = jnp.asarray(IDS[read], jnp.int32)
        logits, _ = MODEL.apply({"params": params}, tokens[:, :-1], before.carry)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], 2).mean()

    optimizer = make_optimizer(settings, steps=100)
    updates, _ = optimizer.update(jax.grad(loss)(before.params), before.opt_state, before.params)
    for old, update, new in zip(*map(jax.tree.leaves, (before.params, updates, after.params)), strict=True):
        np.testing.assert_allclose(new, old + update, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, FUSED, CUDNN], ids=lambda model: model.impl)
@pytest.mark.parametrize("devices", [2, 4])
def test_streams_are_the_same_on_any_number_of_devices(devices, model, monkeypatch):
    emulate_cudnn(monkeypatch)
    settings = stream(optimizer="adam", average=0.9)
    expected, expected_sums = read_on(settings, 3)
    state, sums = read_on(settings, 3, devices, model)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.shape == other.shape
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_streams_in_columns_are_the_same_on_two_devices(monkeypatch):
    settings = stream(optimizer="adam", average=0.9)
    expected, expected_sums = read_on(settings, 3)
    training._compiled_steps.cache_clear()
    monkeypatch.setattr(lstm.Loops, "in_columns", lambda *_: True)
    state, sums = read_on(settings, 3, 2, FUSED)
    training._compiled_steps.cache_clear()
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_a_reset_clears_the_memory_of_some_streams():
    settings = stream(**STANDS_STILL)
    fresh = [read_on(dataclasses.replace(settings, reset=1 - 1e-9), i)[1][-1][0] for i in (1, 2)]
    kept, _ = read_on(settings, 2)
    cleared, sums = read_on(dataclasses.replace(settings, reset=1 - 1e-9), 2)
    [(first, _), (second, _)] = sums
    assert fresh == [first, second]
    # From zero, the carry after a chunk is what the chunk alone leaves.
    read = (np.array([0, 50, 190])[:, None] + T + np.arange(T)) % len(IDS)
    _, carry = MODEL.apply({"params": cleared.params}, jnp.asarray(IDS[read], jnp.int32), MODEL.initial_carry(3))
    for leaf, alone, other in zip(*map(jax.tree.leaves, (cleared.carry, carry, kept.carry)), strict=True):
        np.testing.assert_allclose(leaf, alone, rtol=1e-5, atol=1e-6)
        assert not np.allclose(leaf, other)
    rows = [read_on(dataclasses.replace(settings, reset=0.5, seed=seed), 2)[0] for seed in range(4)]
    kept_rows = [read_on(dataclasses.replace(settings, seed=seed), 2)[0] for seed in range(4)]
    same = np.array([(a.carry[0][0] == b.carry[0][0]).all(1) for a, b in zip(rows, kept_rows, strict=True)])
    assert same.any()
    assert not same.all()


def test_the_average_of_the_weights_is_what_it_says():
    settings = stream(optimizer="adam", average=0.3)
    states = [read_on(settings, i)[0] for i in range(5)]
    average = states[0].params
    for step, state in enumerate(states[1:]):
        kept = min(0.3, (1 + step) / (10 + step))
        average = jax.tree.map(lambda old, new, kept=kept: kept * old + (1 - kept) * new, average, state.params)
        for leaf, other in zip(jax.tree.leaves(state.average), jax.tree.leaves(average), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)
        assert state.weights is state.average
    assert not np.allclose(states[4].average["dense"]["kernel"], states[4].params["dense"]["kernel"])


def rates(config, steps):
    """The learning rate at each step: Adam follows a gradient that never changes at just that."""
    optimizer = make_optimizer(config, steps)
    state, found = optimizer.init(jnp.zeros(1)), []
    for _ in range(steps):
        update, state = optimizer.update(jnp.ones(1), state, jnp.zeros(1))
        found.append(-float(update[0]))
    return np.array(found)


def test_the_learning_rate_is_constant_or_falls_along_a_cosine_to_a_hundredth():
    fallen = 0.005 + 0.495 * (1 + np.cos(np.pi * np.arange(40) / 40)) / 2
    settings = config(optimizer="adam", learning_rate=0.5, schedule="cosine")
    np.testing.assert_allclose(rates(settings, 40), fallen, rtol=1e-3)
    np.testing.assert_allclose(rates(config(optimizer="adam"), 40), [0.01] * 40, rtol=1e-4)


def test_weight_decay_is_decoupled():
    decayed, plain = config(optimizer="adam", weight_decay=0.1), config(optimizer="adam")
    weights, gradient = jnp.array([2.0, -3.0]), jnp.array([1.0, 1e-3])
    updates = []
    for settings in (decayed, plain):
        optimizer = make_optimizer(settings, 10)
        updates.append(optimizer.update(gradient, optimizer.init(weights), weights)[0])
    np.testing.assert_allclose(updates[0] - updates[1], -0.01 * 0.1 * weights, rtol=1e-4)


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


def test_perplexity():
    assert perplexity(0.0) == 1
    assert perplexity(2.0) == pytest.approx(7.389056)
    assert perplexity(1e9) == float("inf")


@pytest.mark.parametrize(
    ("batch", "words"), [(128, "CPU, 4 cores"), (130, "CPU, 4 cores (batches of 130 are padded to 132)")]
)
def test_a_batch_that_devices_cannot_share_evenly_is_said(batch, words):
    assert sharding.describe(mesh_of(4), batch) == words
