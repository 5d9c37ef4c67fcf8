"""Training steps, compiled once per run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from jaxlm.config import BOOK, TrainConfig
from jaxlm.nn import sharding
from jaxlm.nn.ambient import KEY_KINDS, device_get, reproducible
from jaxlm.nn.counts import Prior
from jaxlm.nn.metrics import cross_entropy_sum, nll_sum
from jaxlm.nn.model import Carry, LanguageModel, Params


class TrainState(NamedTuple):
    """Everything that the next step depends on besides its batch.

    Attributes:
      step: int32, completed updates.
      params: the model's parameters.
      average: their EMA; empty if there is none.
      opt_state: the optimizer's state.
      carry: the recurrent state of each of the B streams; empty if every window starts from zero.
      key: uint32[...], data of the key from which each step derives its own.
    """

    step: jax.Array
    params: Params
    average: Params
    opt_state: Any
    carry: Carry
    key: jax.Array

    def to_items(self) -> dict[str, Any]:
        """What a checkpoint stores: `params`, for generation, and `training`, which only the next step needs."""
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
        """The parameters to evaluate and generate with: the EMA, if there is one."""
        return self.average or self.params


def make_optimizer(config: TrainConfig, steps: int, factor: float = 1.0) -> optax.GradientTransformation:
    """The optimizer of a run.

    RMSprop is that of Keras 2.2.4: p -= lr * g / (sqrt(a) + 1e-7), where a is the decaying mean of g * g, starting at
    0. The epsilon is outside the square root; Optax's default has it inside. Adam's b2 is 0.99, not 0.999, which
    learned faster here (benchmarks/SWEEPS.md); its weight decay is decoupled (Loshchilov and Hutter 2019,
    arXiv:1711.05101).

    Args:
      config: all settings.
      steps: updates in the whole run, over which a cosine schedule decays to a hundredth of the peak rate.
      factor: scales the learning rate, which is cut after a divergence.
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


STEP_SETTINGS = (
    "recipe",
    "length",
    "batch",
    "optimizer",
    "learning_rate",
    "schedule",
    "weight_decay",
    "clip",
    "average",
    "reset",
)
"""All settings, beside the network's own, that a step and its state depend on."""


def _of_a_step(config: TrainConfig) -> TrainConfig:
    """A config with STEP_SETTINGS alone, so that runs which differ in others share what is compiled."""
    stride = None if config.recipe == "stream" else BOOK.stride
    return TrainConfig(stride=stride, **{name: getattr(config, name) for name in STEP_SETTINGS})


def initial_state(model: LanguageModel, config: TrainConfig) -> TrainState:
    """The state before the first step, on the host; its random numbers depend only on the seed."""
    state: TrainState = _initial_state(model, _of_a_step(config), np.uint32(config.seed))
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
    """Moves a state to the devices, as `train_step` expects it: the carry split by rows, the rest replicated."""
    whole = sharding.replicate(state._replace(carry=()), mesh)
    return whole._replace(carry=jax.tree.map(lambda leaf: sharding.split(leaf, mesh), state.carry))


def to_host(state: TrainState, batch: int) -> TrainState:
    """Moves a state to the host, as NumPy arrays, without the carry's padding."""
    host: TrainState = device_get(state)
    return host._replace(carry=jax.tree.map(lambda leaf: leaf[:batch], host.carry))


BLOCK = 64
"""The most steps whose batches are sent to the devices at once, and that a call takes."""

TEACHER_SHARE = 0.7
"""How much of what training lowers is the cross-entropy relative to a teacher, not the text (benchmarks/SWEEPS.md).

Source: Hinton et al. 2015, arXiv:1503.02531, at temperature 1.
"""

PRIOR_BYTES = 2**25
"""About the most that is sent at once of what n-grams and a teacher say: it is V numbers a token, of each."""


def step_bytes(config: TrainConfig, rows: int) -> int:
    """About the memory that a step needs on a CPU core with so many rows of a batch, besides its state, in bytes.

    Eight numbers for each unit, row and token, which its gradient is computed from; and the gradient of the kernels
    four times, until it is summed over the devices. Right within a third for all sizes and the book's recipe; too
    little for vocabularies of thousands of tokens, whose logits it leaves out.
    """
    units = config.model.hidden * config.model.layers
    values = 8 * rows * config.length * units
    kernels = 8 * config.model.hidden * units  # Of the input and the state, for four gates.
    return np.dtype(np.float32).itemsize * (values + 4 * kernels)


class Batches(NamedTuple):
    """What the steps of a block read, on the devices; steps come first, then the rows of a batch.

    Attributes:
      starts: int32[BLOCK, B], where the windows start, split over the mesh; negative ones are padding.
      prior: what n-grams say after each of a window's T tokens, for as many steps as `block_steps`; None without.
      resets: bool[BLOCK, B, T], the tokens before which the state is reset; None where `LanguageModel.states` knows.
      expected: float16[..., B, T, V], what a teacher expects after each token, for as many steps; None without.
    """

    starts: jax.Array
    prior: Prior | None
    resets: jax.Array | None = None
    expected: jax.Array | None = None


def block_steps(config: TrainConfig, vocabulary: int) -> int:
    """The steps in a block: BLOCK, or fewer if n-grams or a teacher say much."""
    width = (4 if config.model.ngram else 0) + (2 if config.teacher else 0)
    if not width:
        return BLOCK
    return max(1, min(BLOCK, PRIOR_BYTES // (width * config.batch * config.length * vocabulary)))


Steps = Callable[
    [TrainState, jax.Array, Batches, np.integer[Any], np.integer[Any]], tuple[TrainState, jax.Array, jax.Array]
]


def compiled_steps(model: LanguageModel, config: TrainConfig, steps: int, factor: float, mesh: Mesh) -> Steps:
    """`train_steps` with its first arguments bound, compiled once for all runs that share it.

    Args:
      model: the network.
      config: recipe, length, optimizer and its settings matter here.
      steps: as in `make_optimizer`.
      factor: as in `make_optimizer`.
      mesh: the devices that share each batch.

    Returns:
      A function of (state, ids, batches, first, count), which donates the state. Keep only a few calls pending: with
      several CPU devices, the 32 that JAX allows can deadlock. Fetching each call's sums after dispatching the next,
      as `runs.trainer` does, keeps it at two.
    """
    return _compiled_steps(model, _of_a_step(config), steps if config.schedule == "cosine" else 1, factor, mesh)


@functools.lru_cache(maxsize=8)
def _compiled_steps(model: LanguageModel, config: TrainConfig, steps: int, factor: float, mesh: Mesh) -> Steps:
    optimizer = make_optimizer(config, steps, factor)
    return reproducible(jax.jit(functools.partial(train_steps, model, optimizer, config, mesh), donate_argnums=0))


def send_batches(
    starts: np.ndarray,
    prior: Prior | None,
    mesh: Mesh,
    resets: np.ndarray | None = None,
    expected: np.ndarray | None = None,
) -> Batches:
    """Sends the starts of up to BLOCK batches, int32[S, B], to the devices, as `train_steps` expects them.

    Also sends what n-grams and a teacher say after their tokens, of leading shape (`block_steps`, B, T), and the tokens
    before which the state is reset, bool[S, B, T].
    """
    more = (0, BLOCK - len(starts))
    whole = np.pad(starts, [more, (0, 0)])
    # A row of padding, too, must have probabilities: their logarithms would be infinite.
    given = jax.tree.map(lambda leaf: sharding.split(leaf, mesh, axis=1, padding=1), prior)
    begun = None
    if resets is not None:
        begun = sharding.split(np.pad(resets, [more, (0, 0), (0, 0)]), mesh, axis=1, padding=False)
    taught = None if expected is None else sharding.split(expected, mesh, axis=1)
    return Batches(sharding.split(whole, mesh, axis=1, padding=-1), given, begun, taught)


def train_steps(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    mesh: Mesh,
    state: TrainState,
    ids: jax.Array,
    batches: Batches,
    first: jax.Array,
    count: jax.Array,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Several updates in one program, so that the host need not keep up with the device.

    How the steps of a run are divided into calls changes no bit of its results.

    Args:
      model, optimizer, config, mesh, state, ids: as in `train_step`.
      batches: those of a block, as `send_batches` sends them.
      first: int32 scalar, the number of the first batch in it.
      count: int32 scalar, the number of steps.

    Returns:
      (the state after the last update, each step's summed loss, its number of targets), the last two float32[BLOCK],
      zero after the first `count`.
    """

    def body(i: jax.Array, before: tuple[TrainState, jax.Array, jax.Array]):
        state, nats, counts = before
        batch = jax.tree.map(lambda leaf: leaf[first + i], batches)
        state, *sums = train_step(model, optimizer, config, mesh, state, ids, batch)
        return state, nats.at[i].set(sums[0]), counts.at[i].set(sums[1])

    zeros = jnp.zeros(BLOCK, jnp.float32)
    return jax.lax.fori_loop(0, count, body, (state, zeros, zeros))


def train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    mesh: Mesh,
    state: TrainState,
    ids: jax.Array,
    batch: Batches,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One update, by the gradient of the mean loss over a batch's targets.

    Args:
      model: the network.
      optimizer: as `make_optimizer` makes it.
      config: recipe, length, average and reset matter here.
      mesh: the devices that share the batch.
      state: before the update.
      ids: the corpus, unsigned int[N], on every device; windows wrap around its end.
      batch: that of the step, with starts of int32[B].

    Returns:
      (the state after the update, the batch's summed loss in nats, its number of targets), the last two float32
      scalars.
    """
    whole, rows = PartitionSpec(), PartitionSpec("data")
    # Each device runs the forward and backward passes of its rows alone; one all-reduce follows. Without shard_map,
    # the compiler would all-reduce the recurrent kernel's gradient at each of the T steps.
    sums = jax.shard_map(
        functools.partial(batch_sums, model, config),
        mesh=mesh,
        in_specs=(whole, whole, whole, rows, whole, rows),
        out_specs=(whole, rows),
        check_vma=False,
    )
    (nats, count, grads), carry = sums(state.params, state.key, state.step, state.carry, ids, batch)
    grads = jax.tree.map(lambda grad: grad / count, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = moving_average(config.average, state.average, params, state.step) if config.average else state.average
    after = TrainState(
        step=state.step + 1, params=params, average=average, opt_state=opt_state, carry=carry, key=state.key
    )
    return after, nats, count


def batch_sums(
    model: LanguageModel,
    config: TrainConfig,
    params: Params,
    key_data: jax.Array,
    step: jax.Array,
    carry: Carry,
    ids: jax.Array,
    batch: Batches,
) -> tuple[tuple[jax.Array, jax.Array, Params], Carry]:
    """The loss, number of targets and gradient of a batch, all summed over the mesh; and the streams' carry."""
    key = jax.random.wrap_key_data(key_data, impl=KEY_KINDS[key_data.shape[-1]])
    key = jax.random.fold_in(key, step)
    key = jax.random.fold_in(key, jax.lax.axis_index("data"))
    drop_key, reset_key = jax.random.split(key)
    before = start_carry(model, config, carry, reset_key, len(batch.starts))
    gradient = jax.value_and_grad(functools.partial(summed_loss, model, config), has_aux=True)
    (_, (nats, count, after)), grads = gradient(params, drop_key, before, ids, batch)
    # As one array, since CPU devices synchronise once for each.
    flat, unravel = ravel_pytree((nats, count, grads))
    return unravel(jax.lax.psum(flat, "data")), after if config.recipe == "stream" else ()


def start_carry(model: LanguageModel, config: TrainConfig, carry: Carry, key: jax.Array, rows: int) -> Carry:
    """The carry that each row of a batch starts from: zero, or in `stream` that of the last step unless reset."""
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
    batch: Batches,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Carry]]:
    """What training lowers, summed over windows of T tokens, and (the loss in nats, the targets, the carry after them).

    The book's recipe predicts only the token after each window; `stream` predicts the one after every token. Without a
    teacher, training lowers the loss.
    """
    mask = batch.starts >= 0
    positions = jnp.where(mask, batch.starts, 0)[:, None] + jnp.arange(config.length + 1)[None]
    windows = ids[positions % len(ids)].astype(jnp.int32)
    inputs, targets = windows[:, :-1], windows[:, 1:]
    rngs = {"dropout": key}
    given = (inputs, carry, True, batch.prior, batch.resets)
    states, carry = model.apply({"params": params}, *given, rngs=rngs, method=model.states)
    if config.recipe != "stream":
        states, targets = model.last_states(carry)[:, None], targets[:, -1:]
    logits = model.apply({"params": params}, states, True, batch.prior, rngs=rngs, method=model.logits)
    nats, count = nll_sum(logits, targets, mask)
    lowered = nats
    if batch.expected is not None:
        taught = cross_entropy_sum(logits, batch.expected, mask)
        lowered = (1 - TEACHER_SHARE) * nats + TEACHER_SHARE * taught
    return lowered, (nats, count, carry)


def moving_average(decay: float, average: Params, params: Params, step: jax.Array) -> Params:
    """The exponential moving average of the weights after a step; its decay starts lower and rises to `decay`."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)
