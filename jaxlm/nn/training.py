"""One step of training, compiled once for a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from jaxlm.config import TrainConfig
from jaxlm.nn import sharding
from jaxlm.nn.ambient import reproducible
from jaxlm.nn.metrics import nll_sum
from jaxlm.nn.model import Carry, LanguageModel, Params


class TrainState(NamedTuple):
    """All that the next step depends on, besides its batch.

    Attributes:
      step: int32, completed updates.
      params: the model's parameters.
      average: their running average; empty where none is kept.
      opt_state: the optimizer's.
      carry: where each of the B streams' memory stands; empty where every window begins without one.
      key: uint32[...], data of the key that every step's own is folded from.
    """

    step: jax.Array
    params: Params
    average: Params
    opt_state: Any
    carry: Carry
    key: jax.Array

    def to_items(self) -> dict[str, Any]:
        """What a checkpoint stores: `params`, which generate, and `training`, which only the next step needs."""
        training = {"step": self.step, "opt_state": self.opt_state, "key": self.key}
        if self.carry:
            training["carry"] = self.carry
        if self.average:
            training["params"] = self.params
        return {"params": self.weights, "training": training}

    def from_items(self, items: dict[str, Any]) -> "TrainState":
        """This state with the values of `items`, which have the structure that `to_items` gives."""
        return self._replace(**{"average" if self.average else "params": items["params"]}, **items["training"])

    @property
    def weights(self) -> Params:
        """The parameters that write and are measured: the average, where one is kept."""
        return self.average or self.params


def make_optimizer(config: TrainConfig, steps: int, factor: float = 1.0) -> optax.GradientTransformation:
    """The optimizer of a run.

    RMSprop is Keras 2.2.4's: p -= lr * g / (sqrt(a) + 1e-7), a being the decaying mean of g * g from 0. The
    epsilon is outside the square root, where Optax's default has it inside. Adam forgets squared gradients ten times
    as fast as its default, which learned faster here (benchmarks/SWEEPS.md); its weight decay is decoupled (Loshchilov
    and Hutter 2019, arXiv:1711.05101).

    Args:
      config: all settings.
      steps: updates in the whole run, at whose end a falling learning rate arrives at a hundredth.
      factor: of the learning rate, cut after a divergence.
    """
    peak = config.learning_rate * factor
    rate: optax.ScalarOrSchedule = peak
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(peak, steps, alpha=0.01)
    if config.optimizer == "rmsprop":
        update = optax.rmsprop(rate, decay=0.9, eps=1e-7, eps_in_sqrt=False)
    elif config.weight_decay:
        update = optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay)
    else:
        update = optax.adam(rate, b2=0.99)
    return update if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), update)


def initial_state(model: LanguageModel, config: TrainConfig) -> TrainState:
    """The state before the first step, on the host; of the random numbers, it depends on the seed alone."""
    shared = dataclasses.replace(config, corpus=None, encoding=None, seed=0, epochs=1, patience=None, impl="auto")
    state: TrainState = _initial_state(model, shared, np.uint32(config.seed))
    return to_host(state, config.batch)


@reproducible
@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial_state(model: LanguageModel, config: TrainConfig, seed: jax.Array) -> TrainState:
    params_key, step_key = jax.random.split(jax.random.key(seed))
    params = model.init_params(params_key)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        average=params if config.average else {},
        opt_state=make_optimizer(config, steps=1).init(params),
        carry=model.initial_carry(config.batch) if config.recipe == "stream" else (),
        key=jax.random.key_data(step_key),
    )


def abstract_state(model: LanguageModel, config: TrainConfig) -> TrainState:
    """The shapes and types of a run's state, without computing it."""
    return jax.eval_shape(functools.partial(_initial_state, model, config), np.uint32(0))


def to_devices(state: TrainState, mesh: Mesh) -> TrainState:
    """A state on the host, put where `train_step` wants it: the streams' carry by rows, the rest whole everywhere."""
    whole = sharding.replicate(state._replace(carry=()), mesh)
    return whole._replace(carry=jax.tree.map(lambda leaf: sharding.split_rows(leaf, mesh, 0), state.carry))


def to_host(state: TrainState, batch: int) -> TrainState:
    """A state on the host, as NumPy arrays, with the carry of the B streams alone."""
    host: TrainState = jax.device_get(state)
    return host._replace(carry=jax.tree.map(lambda leaf: leaf[:batch], host.carry))


Step = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array, jax.Array]]


def compiled_step(model: LanguageModel, config: TrainConfig, steps: int, factor: float, mesh: Mesh) -> Step:
    """`train_step` with its first arguments bound, compiled once for all runs that differ in nothing it depends on.

    Args:
      model: what is trained.
      config: recipe, length, optimizer and its settings count here.
      steps: as in `make_optimizer`.
      factor: as in `make_optimizer`.
      mesh: the devices that share each batch.

    Returns:
      A function of (state, ids, starts), which donates the state. No more than a few calls may be under way: on
      several CPU devices, JAX's 32 at once can wait for each other for ever. Whoever looks at each step's sums once the
      next is sent, as `runs.trainer` does, has two.
    """
    # What a step does not depend on, left out.
    shared = dataclasses.replace(config, corpus=None, encoding=None, seed=0, epochs=1, patience=None)
    return _compiled_step(model, shared, steps if config.schedule == "cosine" else 1, factor, mesh)


@functools.lru_cache(maxsize=8)
def _compiled_step(model: LanguageModel, config: TrainConfig, steps: int, factor: float, mesh: Mesh) -> Step:
    optimizer = make_optimizer(config, steps, factor)
    return reproducible(jax.jit(functools.partial(train_step, model, optimizer, config, mesh), donate_argnums=0))


def train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    mesh: Mesh,
    state: TrainState,
    ids: jax.Array,
    starts: jax.Array,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One update from one batch, by the mean loss of its targets.

    Args:
      model: what is trained.
      optimizer: how.
      config: recipe, length, average and reset count here.
      mesh: the devices that share the batch.
      state: before the update.
      ids: the corpus, unsigned int[N], on every device; its beginning follows its end.
      starts: int32[B], where each window begins, split over the mesh; negative ones are padding.

    Returns:
      (the state after it, the batch's summed loss in nats, its count of targets), the last two float32 scalars.
    """
    whole, rows = PartitionSpec(), PartitionSpec("data")
    # Each device takes its rows forth and back on its own, and sums meet once, at the end. Without shard_map, the
    # compiler exchanges the recurrent kernel's gradient at every one of the T steps.
    sums = jax.shard_map(
        functools.partial(batch_sums, model, config),
        mesh=mesh,
        in_specs=(whole, whole, whole, rows, whole, rows),
        out_specs=(whole, rows),
        check_vma=False,
    )
    (nats, count, grads), carry = sums(state.params, state.key, state.step, state.carry, ids, starts)
    grads = jax.tree.map(lambda grad: grad / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = moving_average(config.average, state.average, params, state.step) if config.average else state.average
    return TrainState(state.step + 1, params, average, opt_state, carry, state.key), nats, count


def batch_sums(
    model: LanguageModel,
    config: TrainConfig,
    params: Params,
    key_data: jax.Array,
    step: jax.Array,
    carry: Carry,
    ids: jax.Array,
    starts: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array, Params], Carry]:
    """The summed loss of a batch, its targets and its gradient, added up over the mesh; and the streams' carry."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)
    key = jax.random.fold_in(key, jax.lax.axis_index("data"))
    drop_key, reset_key = jax.random.split(key)
    before = start_carry(model, config, carry, reset_key, len(starts))
    gradient = jax.value_and_grad(functools.partial(summed_loss, model, config), has_aux=True)
    (nats, (count, after)), grads = gradient(params, drop_key, before, ids, starts)
    # As one array, since the devices of a CPU meet once for each.
    flat, unravel = ravel_pytree((nats, count, grads))
    return unravel(jax.lax.psum(flat, "data")), after if config.recipe == "stream" else ()


def start_carry(model: LanguageModel, config: TrainConfig, carry: Carry, key: jax.Array, rows: int) -> Carry:
    """The carry that each row of a batch begins with: in `stream` what its last step left, unless that is reset."""
    if config.recipe != "stream":
        return model.initial_carry(rows)
    if not config.reset:
        return carry
    kept = jax.random.bernoulli(key, 1 - config.reset, (rows, 1))
    return jax.tree.map(lambda leaf: jnp.where(kept, leaf, 0.0), carry)


def summed_loss(
    model: LanguageModel,
    config: TrainConfig,
    params: Params,
    key: jax.Array,
    carry: Carry,
    ids: jax.Array,
    starts: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, Carry]]:
    """The summed loss of windows of T tokens in nats, and (how many targets it covers, the carry after them).

    The book's recipe predicts what follows the last token of a window; `stream` what follows each.
    """
    mask = starts >= 0
    positions = jnp.where(mask, starts, 0)[:, None] + jnp.arange(config.length + 1)[None]
    windows = ids[positions % len(ids)].astype(jnp.int32)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    rngs = {"dropout": key}
    states, carry = model.apply({"params": params}, inputs, carry, True, rngs=rngs, method=model.states)
    if config.recipe != "stream":
        states, targets = model.last_states(carry)[:, None], targets[:, -1:]
    logits = model.apply({"params": params}, states, True, rngs=rngs, method=model.logits)
    nats, count = nll_sum(logits, targets, mask)
    return nats, (count, carry)


def moving_average(decay: float, average: Params, params: Params, step: jax.Array) -> Params:
    """The exponential moving average of the weights after a step; shorter at first, while there is little past."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)
