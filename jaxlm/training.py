"""One step of training, compiled once for a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from jaxlm.config import TrainConfig
from jaxlm.metrics import nll_sum
from jaxlm.model import LanguageModel, Params


class TrainState(NamedTuple):
    """All that the next step depends on, besides its batch.

    Attributes:
      step: int32, completed updates.
      params: the model's parameters.
      opt_state: the optimizer's.
      key: uint32[...], data of the key that every step's own is folded from.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: jax.Array


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimizer of a run.

    RMSprop is Keras 2.2.4's: p -= lr * g / (sqrt(a) + 1e-7), a being the decaying mean of g * g from 0. The
    epsilon is outside the square root, where Optax's default has it inside.
    """
    if config.optimizer == "rmsprop":
        update = optax.rmsprop(config.learning_rate, decay=0.9, eps=1e-7, eps_in_sqrt=False)
    else:
        update = optax.adam(config.learning_rate)
    return update if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), update)


def init_state(model: LanguageModel, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; it depends on the seed alone."""
    params_key, step_key = jax.random.split(jax.random.key(seed))
    params = model.init_params(params_key)
    return TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key_data(step_key))


Step = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array, jax.Array]]


def make_step(
    model: LanguageModel, optimizer: optax.GradientTransformation, length: int, mesh: Mesh, positions: int = 1
) -> Step:
    """The compiled update: (state, ids, starts) to (state, nats, count).

    Each device takes its rows of the batch through the recurrence and back on its own; sums of losses and
    gradients meet once, at the end. `state` is donated.

    Args:
      model: what is trained.
      optimizer: how.
      length: T, tokens in a window.
      mesh: where.
      positions: K, how many of a window's last tokens have the one that follows predicted, from 1 to T.

    Returns:
      A function of the state, the corpus's ids (unsigned int[N], on every device) and the windows' starts
      (int32[B], split over the mesh; negative ones are padding). It returns the next state, and the batch's
      summed loss in nats and its targets, both float32 scalars. The update follows the mean over targets.

    No more than a few steps may be under way: on several CPU devices, JAX's 32 at once can wait for each other for
    ever. Who looks at each step's sums once the next is sent, as `run` does, has two.
    """

    def summed_loss(params: Params, key: jax.Array, ids: jax.Array, starts: jax.Array):
        mask = starts >= 0
        windows = ids[jnp.where(mask, starts, 0)[:, None] + jnp.arange(length + 1)[None]].astype(jnp.int32)
        inputs, targets = windows[:, :length], windows[:, length + 1 - positions :]
        states, carry = model.apply(
            {"params": params},
            inputs,
            model.initial_carry(len(starts)),
            True,
            rngs={"dropout": key},
            method=model.states,
        )
        # The last state is in the carry too, from where its gradient is less work.
        last = carry[-1][1][:, None] if positions == 1 else states[:, -positions:]
        logits = model.apply({"params": params}, last, method=model.logits)
        return nll_sum(logits, targets, mask)

    def sums(params: Params, key_data: jax.Array, step: jax.Array, ids: jax.Array, starts: jax.Array):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        (nats, count), grads = jax.value_and_grad(summed_loss, has_aux=True)(params, key, ids, starts)
        # As one array, since the devices of a CPU meet once for each.
        flat, unravel = ravel_pytree((nats, count, grads))
        return unravel(jax.lax.psum(flat, "data"))

    whole, rows = PartitionSpec(), PartitionSpec("data")
    # Without shard_map the compiler exchanges the recurrent kernel's gradient at every one of the T steps.
    sharded_sums = jax.shard_map(
        sums, mesh=mesh, in_specs=(whole, whole, whole, whole, rows), out_specs=whole, check_vma=False
    )

    def step(state: TrainState, ids: jax.Array, starts: jax.Array):
        nats, count, grads = sharded_sums(state.params, state.key, state.step, ids, starts)
        grads = jax.tree.map(lambda grad: grad / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), nats, count

    return jax.jit(step, donate_argnums=0)
