"""Generation: the next token's distribution, and texts drawn from it token by token on the device."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import HISTORY
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

PAIRS = 2**14
"""Up to this many pairs of tokens, comparing them all is faster than searching for the last token to keep."""


class Draw(NamedTuple):
    """How a token is drawn from its logits; what is None is not in the compiled program.

    The order is that of Hugging Face: first repetitions are banned, then the logits are divided by the temperature,
    then `top_k`, `top_p` and `min_p` each leave out tokens of what is left. The most probable token is never left out.

    Attributes:
      temperature: float32 scalar, 0 or more; below TINY, the most probable token is taken.
      top_k: int32 scalar, 1 or more: keeps this many most probable tokens.
      top_p: float32 scalar in (0, 1]: keeps the fewest most probable tokens that together have this probability.
      min_p: float32 scalar in [0, 1]: keeps tokens that are at least this times as probable as the most probable one.
      no_repeat: int32 scalar from 1 to HISTORY: bans tokens that would repeat an n-gram of this many; see `History`.
    """

    temperature: Any
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    no_repeat: Any = None

    @classmethod
    def of(
        cls,
        temperature: float,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        no_repeat: int | None = None,
    ) -> "Draw":
        """The settings as arrays' scalars, so that another value compiles nothing."""
        return cls(
            np.float32(min(temperature, float(np.finfo(np.float32).max))),
            None if top_k is None else np.int32(top_k),
            None if top_p is None else np.maximum(np.float32(top_p), TINY),
            None if min_p is None else np.float32(min_p),
            None if no_repeat is None else np.int32(no_repeat),
        )


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


def next_token(keys: jax.Array, logits: jax.Array, draw: Draw) -> jax.Array:
    """Draws tokens from `distribution(logits, draw)`. The reference for `pick_token`.

    Args:
      keys: key[...], one for each distribution, used once.
      logits: float32[..., V].
      draw: how to draw; repetitions have been banned already.

    Returns:
      int32[...].
    """
    categorical = jax.random.categorical
    for _ in keys.shape:
        categorical = jax.vmap(categorical)
    drawn = categorical(keys, _log_weights(logits, draw))
    return jnp.where(draw.temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def pick_token(noise: jax.Array, logits: jax.Array, draw: Draw) -> jax.Array:
    """`next_token`, given its random numbers: noise = jax.random.gumbel(key, (V,)) for each key.

    `jax.random.categorical` is the argmax of log-probabilities plus Gumbel noise. Noise drawn beforehand, for many
    tokens, costs little.
    """
    drawn = jnp.argmax(_log_weights(logits, draw) + noise, axis=-1)
    return jnp.where(draw.temperature < TINY, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)


def distribution(logits: jax.Array, draw: Draw) -> jax.Array:
    """The probabilities with which `next_token` draws, float32[..., V]; tokens that are left out have 0."""
    greedy = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return jnp.where(draw.temperature < TINY, greedy, jax.nn.softmax(_log_weights(logits, draw)))


def _log_weights(logits: jax.Array, draw: Draw) -> jax.Array:
    """Log-probabilities at a temperature, up to a constant that a draw ignores; -inf for tokens that are left out."""
    scores = _scale(logits, draw.temperature)
    kept = []
    if draw.top_k is not None:
        kept.append(_first(scores, jnp.ones_like(scores), draw.top_k))
    if draw.top_p is not None:
        weights = functools.reduce(lambda left, keep: jnp.where(keep, left, 0), kept, jnp.exp(scores))
        # Sums are rounded, but 1 keeps all.
        kept.append(_first(scores, weights, draw.top_p * weights.sum(-1, keepdims=True)) | (draw.top_p >= 1))
    if draw.min_p is not None:
        kept.append(scores >= jnp.log(draw.min_p))  # The largest score is 0.
    return functools.reduce(lambda left, keep: jnp.where(keep, left, -jnp.inf), kept, scores)


def _first(scores: jax.Array, weights: jax.Array, limit: jax.Array) -> jax.Array:
    """The tokens before which, from the highest score down, there is less weight than a limit.

    Of equal scores, the token with the lower id comes first, as in a greedy choice.

    Args:
      scores: float32[..., V], 0 or less.
      weights: float32[..., V], 0 or more.
      limit: float32[..., 1], or a scalar.

    Returns:
      bool[..., V].
    """
    size = scores.shape[-1]
    if scores.size * size <= PAIRS:
        ids = jnp.arange(size)
        one, other = scores[..., :, None], scores[..., None, :]
        is_before = (one > other) | ((one == other) & jnp.broadcast_to(ids[:, None] < ids[None], (*scores.shape, size)))
        return jnp.where(is_before, weights[..., :, None], 0).sum(-2) < limit
    # As an integer, the magnitude of a score keeps its order: bit by bit, finds that of the last token to keep.
    places = jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.int32)

    def weight_before(place: jax.Array) -> jax.Array:
        return jnp.where(places < place, weights, 0).sum(-1, keepdims=True)

    def add_bit(i: jax.Array, place: jax.Array) -> jax.Array:
        larger = place | (1 << (30 - i))
        return jnp.where(weight_before(larger) < limit, larger, place)

    last = jax.lax.fori_loop(0, 31, add_bit, jnp.zeros((*scores.shape[:-1], 1), jnp.int32))
    tied = jnp.where(places == last, weights, 0)
    return (places < last) | ((places == last) & (weight_before(last) + jnp.cumsum(tied, -1) - tied < limit))


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


class History(NamedTuple):
    """The last HISTORY tokens of S texts, to find what would repeat.

    Attributes:
      tokens: int32[S, HISTORY], the newest first; -1 before a text's beginning.
      runs: int32[S, HISTORY]: runs[:, i] tokens in a row, up to the newest, equal those 1 + i tokens earlier.
    """

    tokens: Any
    runs: Any

    @classmethod
    def of(cls, texts: Sequence[np.ndarray]) -> "History":
        """The history of S texts, int32[N] each."""
        tokens, runs = np.full((len(texts), HISTORY), -1, np.int32), np.zeros((len(texts), HISTORY), np.int32)
        for text, newest, run in zip(texts, tokens, runs, strict=True):
            last = text[-HISTORY:][::-1]
            newest[: len(last)] = last
            lags, length = np.arange(1, len(last)), 0
            while len(lags := lags[(lags + length < len(last))]):
                lags = lags[last[lags + length] == last[length]]
                length += 1
                run[lags - 1] = length
        return cls(tokens, runs)

    def ban(self, logits: jax.Array, size: jax.Array) -> jax.Array:
        """Logits, float32[S, V], with -inf for each token that would complete `size` tokens that are here already.

        Where that would ban all tokens, none is.
        """
        lags = jnp.arange(HISTORY, dtype=jnp.int32)[None]
        # All of an earlier n-gram must be here. The token after its first size - 1 is the one that must not follow.
        repeats = jnp.where((self.runs >= size - 1) & (lags <= HISTORY - size), self.tokens, -1)
        ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None]

        def ban_one(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            token, left = state
            left = jnp.where(ids == token[:, None], -jnp.inf, left)
            return jnp.max(jnp.where(repeats < token[:, None], repeats, -1), axis=-1), left

        # From the highest id down: there are few distinct ones, mostly none, and a scatter would visit all places.
        found = jnp.max(repeats, axis=-1), logits
        left = jax.lax.while_loop(lambda state: jnp.any(state[0] >= 0), ban_one, found)[1]
        return jnp.where(jnp.max(left, axis=-1, keepdims=True) == -jnp.inf, logits, left)

    def append(self, tokens: jax.Array) -> "History":
        """The history with one more token in each text, int32[S]."""
        newest = tokens[:, None]
        runs = jnp.where(self.tokens == newest, self.runs + 1, 0)
        return History(jnp.concatenate([newest, self.tokens[:, :-1]], axis=1), runs)


class StateMemory(NamedTuple):
    """The memory of S texts in which each token is drawn given all previous ones.

    Attributes:
      carry: after all tokens but the last; batch S.
      tokens: int32[S], the last of each text.
      nodes: int32[S], the n-grams' contexts after all tokens; None without n-grams.
      history: of the texts; None where they may repeat themselves.
    """

    carry: Carry
    tokens: jax.Array
    nodes: Any = None
    history: History | None = None

    def read(self, model: LanguageModel, params: Params, table: Table | None) -> tuple[jax.Array, "StateMemory"]:
        """The logits of the next tokens, float32[S, V], and the memory after reading the last tokens."""
        found = jax.tree.map(lookup, table, self.nodes, is_leaf=is_table)
        prior = jax.tree.map(lambda leaf: leaf[:, None], found)
        logits, carry = model.apply({"params": params}, self.tokens[:, None], self.carry, False, prior)
        return logits[:, 0], self._replace(carry=carry)

    def append(self, tokens: jax.Array, table: Table | None) -> "StateMemory":
        """The memory with one more token in each text, int32[S]."""
        after = functools.partial(advance, tokens=tokens)
        nodes = jax.tree.map(after, table, self.nodes, is_leaf=is_table)
        return self._replace(tokens=tokens, nodes=nodes, history=self.history and self.history.append(tokens))


class WindowMemory(NamedTuple):
    """The memory of S texts in which each token is drawn given only the last T, as in the book.

    Attributes:
      windows: int32[S, T], the last tokens of each text, left-aligned; the rest is ignored.
      filled: int32 scalar from 1 to T, the number of tokens in each window.
      history: of the texts; None where they may repeat themselves.
    """

    windows: jax.Array
    filled: jax.Array
    history: History | None = None

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
        return WindowMemory(windows.at[:, filled - 1].set(tokens), filled, self.history and self.history.append(tokens))


Memory = TypeVar("Memory", StateMemory, WindowMemory)


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def generate(
    model: LanguageModel,
    params: Params,
    memory: Memory,
    seeds: jax.Array,
    start: jax.Array,
    draw: Draw,
    table: Table | None = None,
) -> tuple[Memory, jax.Array]:
    """Generates CHUNK more tokens of S texts.

    Args:
      model: the network.
      params: its parameters.
      memory: of the previous tokens.
      seeds: uint32[S], one per text. The key of a text's i-th token depends only on its seed and i, so chunk borders
        leave no trace.
      start: uint32 scalar, i of the first token.
      draw: how each is drawn.
      table: the n-grams, for a network that takes them.

    Returns:
      (memory, tokens, int32[CHUNK, S]), the first for the next call.
    """
    steps = start + jnp.arange(CHUNK, dtype=jnp.uint32)
    # Not the key of the initial weights, even if a text has the seed of its run.
    keys = _fold_in(jax.vmap(jax.random.key)(seeds), SAMPLING_TAG)
    one_by_one = model.impl == "scan"  # The reference.

    def next_tokens(memory: Memory, drawn: jax.Array) -> tuple[Memory, jax.Array]:
        logits, memory = _read(memory, model, params, draw, table)
        tokens = next_token(_fold_in(keys, drawn), logits, draw) if one_by_one else pick_token(drawn, logits, draw)
        return memory.append(tokens, table), tokens

    return jax.lax.scan(next_tokens, memory, steps if one_by_one else _noise(keys, steps, model.vocabulary))


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def predict(model: LanguageModel, params: Params, memory: Memory, draw: Draw, table: Table | None = None) -> jax.Array:
    """The distributions that the next tokens of S texts are drawn from, float32[S, V]; arguments as of `generate`."""
    return distribution(_read(memory, model, params, draw, table)[0], draw)


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def extend(
    model: LanguageModel,
    params: Params,
    memory: Memory,
    rows: jax.Array,
    tokens: jax.Array,
    table: Table | None = None,
) -> tuple[Memory, jax.Array]:
    """One step of a search among texts.

    Args:
      model: the network.
      params: its parameters.
      memory: of S texts.
      rows: int32[S], the texts to extend; one may be extended several times.
      tokens: int32[S], by which each is extended.
      table: as of `generate`.

    Returns:
      (memory, probabilities, float32[S, V]): of the extended texts, and of their next tokens, as learned.
    """
    chosen = jax.tree.map(lambda leaf: leaf[rows] if leaf.ndim else leaf, memory)
    logits, memory = chosen.append(tokens, table).read(model, params, table)
    return memory, jax.nn.softmax(logits)


def _read(
    memory: Memory, model: LanguageModel, params: Params, draw: Draw, table: Table | None
) -> tuple[jax.Array, Memory]:
    """`memory.read`, without what would repeat."""
    logits, memory = memory.read(model, params, table)
    return (logits if memory.history is None else memory.history.ban(logits, draw.no_repeat)), memory


_fold_in = jax.vmap(jax.random.fold_in, (0, None))


def _noise(keys: jax.Array, steps: jax.Array, vocabulary: int) -> jax.Array:
    """The Gumbel noise of all steps and texts, float32[CHUNK, S, V], for `pick_token`."""
    gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (vocabulary,)))
    return jax.vmap(lambda i: gumbel(_fold_in(keys, i)))(steps)
