"""Generation: the next token's distribution, and texts drawn from it one token at a time on the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.errors import check_temperature, reject
from jaxlm.nn.model import Carry, LanguageModel, Params

CHUNK = 128
"""Tokens that one call to the device generates, or reads of a prompt; text is shown chunk by chunk."""

DRAWS = 2**23
"""Random numbers that are drawn at once, 32 MB; of more texts than that is enough for, groups are written in turn."""

STREAM = 0x7E87
"""Sets the random numbers of generation apart from those of training."""

TINY = np.finfo(np.float32).tiny
"""The smallest normal float32; temperatures below it are greedy."""


def reweight(probabilities: Any, temperature: float) -> np.ndarray:
    """A distribution at another temperature: p ** (1 / temperature), normalised.

    Computed from logarithms, so that zeros stay zeros and no temperature overflows. At temperature 0 it is the
    limit: the most probable entries share everything.

    Args:
      probabilities: float[..., V], not negative, not all 0.
      temperature: 0 or more.

    Returns:
      float64[..., V], each row summing to 1.

    Raises:
      ValueError: the temperature or the probabilities are none.

    Source: `reweight_distribution`, Deep Learning with Python, 8.1.
    """
    check_temperature(temperature)
    weights = np.asarray(probabilities, np.float64)
    if not weights.size or not np.all(np.isfinite(weights)) or np.any(weights < 0) or np.any(weights.sum(-1) <= 0):
        reject("probabilities", probabilities, "finite numbers of 0 or more, not all 0")
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(weights)
        logs -= logs.max(-1, keepdims=True)
        scaled = np.where(logs == 0, 0.0, -np.inf) if temperature == 0 else logs / temperature
    unnormalised = np.exp(scaled)
    return unnormalised / unnormalised.sum(-1, keepdims=True)


def next_token(key: jax.Array, logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Draws a token from softmax(logits / temperature); below TINY, the most probable one.

    The reference for `pick_token`.

    Args:
      key: used once.
      logits: float32[..., V].
      temperature: float32 scalar, 0 or more.

    Returns:
      int32[...].
    """
    drawn = jax.random.categorical(key, _scale(logits, temperature))
    return jnp.where(temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def pick_token(noise: jax.Array, logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """What `next_token` draws, from its random numbers: noise = jax.random.gumbel(key, logits.shape).

    `categorical` is the argmax of log-probabilities plus Gumbel noise; drawn ahead, for many tokens at once, the
    noise costs little.
    """
    drawn = jnp.argmax(_scale(logits, temperature) + noise, axis=-1)
    return jnp.where(temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def _scale(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    # Log-probabilities, up to the constant that a draw ignores. Relative to the largest, which stays 0, no
    # temperature turns all of them infinite, and no two of them are rounded together.
    log_probs = logits - jnp.max(logits, axis=-1, keepdims=True)
    return log_probs / jnp.where(temperature < TINY, 1.0, temperature)


@functools.partial(jax.jit, static_argnames="model")
def prefill(model: LanguageModel, params: Params, carry: Carry, tokens: jax.Array, count: jax.Array) -> Carry:
    """The carry after reading the first `count` of tokens, int32[P], from a carry of batch 1."""

    def read(carry: Carry, i: jax.Array) -> tuple[Carry, None]:
        _, after = model.apply({"params": params}, tokens[i][None, None], carry, method=model.states)
        return jax.tree.map(lambda new, old: jnp.where(i < count, new, old), after, carry), None

    return jax.lax.scan(read, carry, jnp.arange(len(tokens)))[0]


@functools.partial(jax.jit, static_argnames="model")
def generate_state(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    tokens: jax.Array,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[Carry, jax.Array, jax.Array]:
    """CHUNK tokens of S texts, each from the carry that all tokens before it left.

    Args:
      model: what generates.
      params: its parameters.
      carry: after all tokens but the last, batch S.
      tokens: int32[S], the last of each text.
      seeds: uint32[S], of the whole texts; the i-th tokens' keys depend on them and i, so that chunks are seamless.
      start: i of the first token.
      temperature: float32 scalar.

    Returns:
      (carry, tokens, int32[CHUNK, S]), the first two for the next call.
    """

    def logits_of(state: tuple[Carry, jax.Array]) -> tuple[jax.Array, Carry]:
        carry, tokens = state
        logits, carry = model.apply({"params": params}, tokens[:, None], carry)
        return logits[:, 0], carry

    def append(carry: Carry, tokens: jax.Array) -> tuple[Carry, jax.Array]:
        return carry, tokens

    (carry, tokens), written = _write(model, logits_of, append, (carry, tokens), seeds, start, temperature)
    return carry, tokens, written


@functools.partial(jax.jit, static_argnames="model")
def generate_window(
    model: LanguageModel,
    params: Params,
    windows: jax.Array,
    count: jax.Array,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CHUNK tokens of S texts, each from the window of tokens before it alone, read from a zero carry.

    Args:
      model: what generates.
      params: its parameters.
      windows: int32[S, T], the last tokens, the first `count` of it; what follows them is ignored.
      count: int32 scalar from 1 to T.
      seeds: as in generate_state.
      start: as in generate_state.
      temperature: float32 scalar.

    Returns:
      (windows, count, int32[CHUNK, S]), the first two for the next call.
    """
    length = windows.shape[1]

    def logits_of(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        windows, count = state
        carry = model.initial_carry(len(windows))
        states, _ = model.apply({"params": params}, windows, carry, method=model.states)
        # The recurrence is causal: the state at the last real token knows nothing of what follows it.
        return model.apply({"params": params}, states[:, count - 1], method=model.logits), state

    def append(state: tuple[jax.Array, jax.Array], tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows, count = state
        full = count == length
        windows = jnp.where(full, jnp.roll(windows, -1, axis=1), windows)
        count = jnp.where(full, count, count + 1)
        return windows.at[:, count - 1].set(tokens), count

    (windows, count), written = _write(model, logits_of, append, (windows, count), seeds, start, temperature)
    return windows, count, written


def _write(
    model: LanguageModel,
    logits_of: Callable[[Any], tuple[jax.Array, Any]],
    append: Callable[[Any, jax.Array], Any],
    state: Any,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
) -> tuple[Any, jax.Array]:
    """Scans over CHUNK tokens: logits from the state, a draw, the token into the state."""
    fold_in = jax.vmap(jax.random.fold_in, (0, None))
    # Not the key of the initial weights, even where a text has the seed of its run.
    keys = fold_in(jax.vmap(jax.random.key)(seeds), STREAM)
    steps = start + jnp.arange(CHUNK, dtype=jnp.uint32)

    if model.impl == "scan":  # The reference draws as it goes.
        draws = steps

        def draw(drawn: jax.Array, logits: jax.Array) -> jax.Array:
            return jax.vmap(next_token, (0, 0, None))(fold_in(keys, drawn), logits, temperature)

    else:

        def noise(key: jax.Array) -> jax.Array:
            return jax.random.gumbel(key, (model.vocabulary,))

        draws = jax.vmap(lambda i: jax.vmap(noise)(fold_in(keys, i)))(steps)

        def draw(drawn: jax.Array, logits: jax.Array) -> jax.Array:
            return pick_token(drawn, logits, temperature)

    def write(state: Any, drawn: jax.Array) -> tuple[Any, jax.Array]:
        logits, state = logits_of(state)
        tokens = draw(drawn, logits)
        return append(state, tokens), tokens

    return jax.lax.scan(write, state, draws)
