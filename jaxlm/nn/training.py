"""One step of training, compiled once for a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from jaxlm.config import TrainConfig
from jaxlm.nn import sharding
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


def init_state(model: LanguageModel, optimizer: optax.GradientTransformation, config: TrainConfig) -> TrainState:
    """The state before the first step; of the random numbers, it depends on the seed alone."""
    params_key, step_key = jax.random.split(jax.random.key(config.seed))
    params = model.init_params(params_key)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        average=params if config.average else {},
        opt_state=optimizer.init(params),
        carry=model.initial_carry(config.batch) if config.recipe == "stream" else (),
        key=jax.random.key_data(step_key),
    )


def to_devices(state: TrainState, mesh: Mesh) -> TrainState:
    """A state on the host, put where `make_step` wants it: the streams' carry by rows, the rest whole everywhere."""
    whole = sharding.replicate(state._replace(carry=()), mesh)
    return whole._replace(carry=jax.tree.map(lambda leaf: sharding.split_rows(leaf, mesh, 0), state.carry))


def to_host(state: TrainState, batch: int) -> TrainState:
    """A state on the host, as NumPy arrays, with the carry of the B streams alone."""
    host: TrainState = jax.device_get(state)
    return host._replace(carry=jax.tree.map(lambda leaf: leaf[:batch], host.carry))


Step = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array, jax.Array]]


def make_step(model: LanguageModel, optimizer: optax.GradientTransformation, config: TrainConfig, mesh: Mesh) -> Step:
    """The compiled update: (state, ids, starts) to (state, nats, count).

    From a window of T tokens, the book's recipe predicts what follows the last of them; `stream` predicts what
    follows each, from the memory that the stream's last step left. Each device takes its rows of the batch through
    the recurrence and back on its own; sums of losses and gradients meet once, at the end. `state` is donated.

    Args:
      model: what is trained.
      optimizer: how.
      config: recipe, length, average and reset count here.
      mesh: where.

    Returns:
      A function of the state, the corpus's ids (unsigned int[N], on every device) and the windows' starts
      (int32[B], split over the mesh; negative ones are padding). Positions past the corpus's end go on at its
      beginning. It returns the next state, and the batch's summed loss in nats and its targets, both float32 scalars.
      The update follows the mean over targets.

    No more than a few steps may be under way: on several CPU devices, JAX's 32 at once can wait for each other for
    ever. Who looks at each step's sums once the next is sent, as `run` does, has two.
    """
    length, stream = config.length, config.recipe == "stream"

    def summed_loss(params: Params, key: jax.Array, carry: Carry, ids: jax.Array, starts: jax.Array):
        mask = starts >= 0
        positions = jnp.where(mask, starts, 0)[:, None] + jnp.arange(length + 1)[None]
        windows = ids[positions % len(ids)].astype(jnp.int32)
        inputs, targets = windows[:, :length], windows[:, 1:]
        rngs = {"dropout": key}
        states, carry = model.apply({"params": params}, inputs, carry, True, rngs=rngs, method=model.states)
        if not stream:
            # The last state is in the carry too, from where its gradient is less work.
            states, targets = carry[-1][1][:, None], targets[:, -1:]
        logits = model.apply({"params": params}, states, True, rngs=rngs, method=model.logits)
        nats, count = nll_sum(logits, targets, mask)
        return nats, (count, carry)

    def start_carry(carry: Carry, key: jax.Array, rows: int) -> Carry:
        if not stream:
            return model.initial_carry(rows)
        if not config.reset:
            return carry
        kept = jax.random.bernoulli(key, 1 - config.reset, (rows, 1))
        return jax.tree.map(lambda leaf: jnp.where(kept, leaf, 0.0), carry)

    def sums(params: Params, key_data: jax.Array, step: jax.Array, carry: Carry, ids: jax.Array, starts: jax.Array):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        drop_key, reset_key = jax.random.split(key)
        carry = start_carry(carry, reset_key, len(starts))
        gradient = jax.value_and_grad(summed_loss, has_aux=True)
        (nats, (count, carry)), grads = gradient(params, drop_key, carry, ids, starts)
        # As one array, since the devices of a CPU meet once for each.
        flat, unravel = ravel_pytree((nats, count, grads))
        return unravel(jax.lax.psum(flat, "data")), carry if stream else ()

    whole, rows = PartitionSpec(), PartitionSpec("data")
    # Without shard_map the compiler exchanges the recurrent kernel's gradient at every one of the T steps.
    sharded_sums = jax.shard_map(
        sums,
        mesh=mesh,
        in_specs=(whole, whole, whole, rows, whole, rows),
        out_specs=(whole, rows),
        check_vma=False,
    )

    def averaged(average: Params, params: Params, step: jax.Array) -> Params:
        # Fewer weights of the past while there is little of it.
        kept = jnp.minimum(config.average, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)

    def step(state: TrainState, ids: jax.Array, starts: jax.Array):
        (nats, count, grads), carry = sharded_sums(state.params, state.key, state.step, state.carry, ids, starts)
        grads = jax.tree.map(lambda grad: grad / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = averaged(state.average, params, state.step) if config.average else state.average
        return TrainState(state.step + 1, params, average, opt_state, carry, state.key), nats, count

    return jax.jit(step, donate_argnums=0)
