"""Generation: the next token's distribution, and texts drawn from it token by token on the device."""

import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.errors import check_temperature, reject
from jaxlm.nn.ambient import reproducible
from jaxlm.nn.counts import Prior, Table, advance, is_table, lookup
from jaxlm.nn.model import Carry, LanguageModel, Params

CHUNK = 128
"""Tokens that one device call generates, or reads of a prompt; text is shown chunk by chunk."""

SAMPLING_TAG = 0x7E87
"""Keeps the random numbers of generation apart from those of training."""

TINY = np.finfo(np.float32).tiny
"""The smallest normal float32; temperatures below it are greedy."""


def reweight(probabilities: Any, temperature: float) -> np.ndarray:
    """A distribution at another temperature: p ** (1 / temperature), normalised.

    Computed in log space, so that zeros stay zeros and no temperature overflows. Temperature 0 is the limit: all of
    the probability goes to the largest entries, in equal shares.

    Args:
      probabilities: float[..., V], non-negative, not all 0.
      temperature: 0 or more.

    Returns:
      float64[..., V], each row summing to 1.

    Raises:
      InputError: the temperature is not a number of 0 or more, or `probabilities` not a distribution.

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
    """Draws a token from softmax(logits / temperature); below TINY, takes the most probable one.

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
    """`next_token`, given its random numbers: noise = jax.random.gumbel(key, logits.shape).

    `jax.random.categorical` is the argmax of log-probabilities plus Gumbel noise. Noise drawn beforehand, for many
    tokens, costs little.
    """
    drawn = jnp.argmax(_scale(logits, temperature) + noise, axis=-1)
    return jnp.where(temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def _scale(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    # Log-probabilities, up to a constant that a draw ignores. Since the largest is 0, no temperature makes all of them
    # infinite, or rounds different ones to the same number.
    log_probs = logits - jnp.max(logits, axis=-1, keepdims=True)
    return log_probs / jnp.where(temperature < TINY, 1.0, temperature)


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def prefill(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    tokens: jax.Array,
    count: jax.Array,
    prior: Prior | None = None,
) -> Carry:
    """The carry after reading the first `count` of tokens, int32[P], from a carry of batch 1.

    `prior` is what n-grams say after each of them, of leading shape (P,).
    """

    def read(carry: Carry, i: jax.Array) -> tuple[Carry, None]:
        given = jax.tree.map(lambda leaf: leaf[i][None, None], prior)
        _, after = model.apply({"params": params}, tokens[i][None, None], carry, False, given, method=model.states)
        return jax.tree.map(lambda new, old: jnp.where(i < count, new, old), after, carry), None

    return jax.lax.scan(read, carry, jnp.arange(len(tokens)))[0]


class StateMemory(NamedTuple):
    """The memory of S texts in which each token is drawn given all previous ones.

    Attributes:
      carry: after all tokens but the last; batch S.
      tokens: int32[S], the last of each text.
      nodes: int32[S], the n-grams' contexts after all tokens; None without n-grams.
    """

    carry: Carry
    tokens: jax.Array
    nodes: Any = None

    def read(self, model: LanguageModel, params: Params, table: Table | None) -> tuple[jax.Array, "StateMemory"]:
        """The logits of the next tokens, float32[S, V], and the memory after reading the last tokens."""
        found = jax.tree.map(lookup, table, self.nodes, is_leaf=is_table)
        prior = jax.tree.map(lambda leaf: leaf[:, None], found)
        logits, carry = model.apply({"params": params}, self.tokens[:, None], self.carry, False, prior)
        return logits[:, 0], self._replace(carry=carry)

    def append(self, tokens: jax.Array, table: Table | None) -> "StateMemory":
        """The memory with one more token in each text, int32[S]."""
        after = functools.partial(advance, tokens=tokens)
        return self._replace(tokens=tokens, nodes=jax.tree.map(after, table, self.nodes, is_leaf=is_table))


class WindowMemory(NamedTuple):
    """The memory of S texts in which each token is drawn given only the last T, as in the book.

    Attributes:
      windows: int32[S, T], the last tokens of each text, left-aligned; the rest is ignored.
      filled: int32 scalar from 1 to T, the number of tokens in each window.
    """

    windows: jax.Array
    filled: jax.Array

    def read(self, model: LanguageModel, params: Params, table: Table | None) -> tuple[jax.Array, "WindowMemory"]:
        """The logits of the next tokens, float32[S, V], from a zero carry; and the memory, unchanged."""
        carry = model.initial_carry(len(self.windows))
        prior = jax.tree.map(self._prior, table, is_leaf=is_table)
        states, _ = model.apply({"params": params}, self.windows, carry, False, prior, method=model.states)
        # The recurrence is causal: the state at the last token does not depend on what follows it.
        state, last = jax.tree.map(lambda leaf: leaf[:, self.filled - 1], (states, prior))
        return model.apply({"params": params}, state, False, last, method=model.logits), self

    def _prior(self, table: Table) -> Prior:
        """What n-grams say after each token of the windows, each read from its own beginning."""

        def read(nodes: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            nodes = advance(table, nodes, tokens)
            return nodes, nodes

        roots = jnp.zeros(len(self.windows), jnp.int32)
        nodes = jax.lax.scan(read, roots, self.windows.T)[1].T
        found = lookup(table, nodes.ravel())
        return jax.tree.map(lambda leaf: leaf.reshape(*nodes.shape, -1), found)

    def append(self, tokens: jax.Array, table: Table | None) -> "WindowMemory":
        """The memory with one more token in each text, int32[S]; full windows drop their first."""
        full = self.filled == self.windows.shape[1]
        windows = jnp.where(full, jnp.roll(self.windows, -1, axis=1), self.windows)
        filled = jnp.where(full, self.filled, self.filled + 1)
        return WindowMemory(windows.at[:, filled - 1].set(tokens), filled)


Memory = TypeVar("Memory", StateMemory, WindowMemory)


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def generate(
    model: LanguageModel,
    params: Params,
    memory: Memory,
    seeds: jax.Array,
    start: jax.Array,
    temperature: jax.Array,
    table: Table | None = None,
) -> tuple[Memory, jax.Array]:
    """Generates CHUNK more tokens of S texts, each drawn from softmax(logits / temperature).

    Args:
      model: the network.
      params: its parameters.
      memory: of the previous tokens.
      seeds: uint32[S], one per text. The key of a text's i-th token depends only on its seed and i, so chunk borders
        leave no trace.
      start: uint32 scalar, i of the first token.
      temperature: float32 scalar.
      table: the n-grams, for a network that takes them.

    Returns:
      (memory, tokens, int32[CHUNK, S]), the first for the next call.
    """
    steps = start + jnp.arange(CHUNK, dtype=jnp.uint32)
    # Not the key of the initial weights, even if a text has the seed of its run.
    keys = _fold_in(jax.vmap(jax.random.key)(seeds), SAMPLING_TAG)
    one_by_one = model.impl == "scan"  # The reference.

    def next_tokens(memory: Memory, drawn: jax.Array) -> tuple[Memory, jax.Array]:
        logits, memory = memory.read(model, params, table)
        if one_by_one:
            tokens = jax.vmap(next_token, (0, 0, None))(_fold_in(keys, drawn), logits, temperature)
        else:
            tokens = pick_token(drawn, logits, temperature)
        return memory.append(tokens, table), tokens

    return jax.lax.scan(next_tokens, memory, steps if one_by_one else _noise(keys, steps, model.vocabulary))


_fold_in = jax.vmap(jax.random.fold_in, (0, None))


def _noise(keys: jax.Array, steps: jax.Array, vocabulary: int) -> jax.Array:
    """The Gumbel noise of all steps and texts, float32[CHUNK, S, V], for `pick_token`."""
    gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (vocabulary,)))
    return jax.vmap(lambda i: gumbel(_fold_in(keys, i)))(steps)
