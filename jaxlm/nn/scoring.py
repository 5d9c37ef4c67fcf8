"""Scores: the log-probability of each token of a text, given the previous ones.

Scores are float32, in nats; sum them in float64. Every function compiles once, whatever the text's length: it reads
the text in chunks of one shape, and drops the padding.

Shapes: N tokens, T time, K scored positions, S windows or segments, V vocabulary. Throughout, `model` and `params` are
the network and its parameters; `ids`, int[N] in [0, V), is the text; `counts` are those of a network that takes them.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import Protocol
from jaxlm.errors import InputError
from jaxlm.nn import sharding
from jaxlm.nn.ambient import reproducible
from jaxlm.nn.counts import NetworkCounts, Prior, prior_after, prior_within, states_within
from jaxlm.nn.metrics import log_probs
from jaxlm.nn.model import Carry, LanguageModel, Params

CARRIED_TOKENS = 1024
"""Tokens per device call of `score_carried`."""

UNDER_WAY = 4
"""Device calls that may be pending."""

NO_TOKEN = -1
"""The id that pads a text at its end."""


@reproducible
def score_carried(
    model: LanguageModel,
    params: Params,
    ids: np.ndarray,
    *,
    counts: NetworkCounts = None,
    resets: np.ndarray | None = None,
) -> np.ndarray:
    """The log-probability of each token given all previous ones: the state is carried through the text.

    Args:
      resets: bool[N], the tokens before which it is reset; None as in `LanguageModel.states`.

    Returns:
      float32[N - 1]; the first token has no score.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    rows = consecutive(ids, CARRIED_TOKENS)
    priors = carried_priors(ids, CARRIED_TOKENS, counts)

    def chunks() -> Iterator[jax.Array]:
        carry = model.initial_carry(1)
        for number, (row, given) in enumerate(zip(rows, priors, strict=True)):
            begun = None
            if resets is not None:
                begun = resets[number * CARRIED_TOKENS :][:CARRIED_TOKENS]
                begun = np.pad(begun, (0, CARRIED_TOKENS - len(begun)))[None]
            scores, carry = score_rows(model, params, carry, row[None], CARRIED_TOKENS, given, begun)
            yield scores

    return fetch(chunks())[: len(ids) - 1]


@reproducible
def score_cold(
    model: LanguageModel, params: Params, ids: np.ndarray, length: int = 256, *, counts: NetworkCounts = None
) -> np.ndarray:
    """The log-probability of each token given the previous ones in its window, which starts from a zero state.

    The windows are adjacent: inputs 0 to T - 1 have the targets 1 to T, inputs T to 2 T - 1 the next T. `length` is T.

    Returns:
      float32[N - 1]; every token but the first is scored once.

    Raises:
      InputError: there are fewer than 2 tokens.

    Source: nanoGPT's `estimate_loss`, which averages over such windows at random positions; these cover the text.
    """
    return _score_windows(model, params, consecutive(ids, length), length, counts)[: len(ids) - 1]


@reproducible
def score_windows(
    model: LanguageModel,
    params: Params,
    ids: np.ndarray,
    length: int = 60,
    stride: int = 3,
    *,
    counts: NetworkCounts = None,
) -> np.ndarray:
    """The log-probability of the token after each window of `length` T, given the window alone, from a zero state.

    Returns:
      float32[S], for the windows that start at range(0, N - T, stride).

    Raises:
      InputError: there are not more than T tokens.

    Source: the examples that Deep Learning with Python, 8.1, trains on.
    """
    return _score_windows(model, params, _windows(ids, length, stride), 1, counts)


PROTOCOLS: dict[Protocol, Callable[..., np.ndarray]] = {
    "carried": score_carried,
    "cold-256": score_cold,
    "window-60": score_windows,
}


@reproducible
@functools.partial(jax.jit, static_argnames=("model", "positions"))
def score_rows(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    rows: jax.Array,
    positions: int,
    prior: Prior | None = None,
    resets: jax.Array | None = None,
) -> tuple[jax.Array, Carry]:
    """The log-probabilities of the last K tokens of each row, given the previous ones in the row.

    Args:
      carry: before the rows; batch S.
      rows: int[S, T + 1].
      positions: K, from 1 to T.
      prior: after each of the first T tokens of each row.
      resets: bool[S, T], as in `LanguageModel.states`.

    Returns:
      (float32[S, K], carry after T tokens).
    """
    logits, carry = _logits(model, params, carry, rows, positions, prior, resets)
    return log_probs(logits, rows[:, -positions:]), carry


@reproducible
@functools.partial(jax.jit, static_argnames="model")
def expect(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    rows: jax.Array,
    prior: Prior | None = None,
    resets: jax.Array | None = None,
) -> tuple[jax.Array, Carry]:
    """The distributions after the first T tokens of each row, given the previous ones.

    Args:
      carry, rows, prior, resets: as in `score_rows`.

    Returns:
      (float16[S, T, V], carry after T tokens).
    """
    logits, carry = _logits(model, params, carry, rows, rows.shape[1] - 1, prior, resets)
    return jax.nn.softmax(logits).astype(jnp.float16), carry


def _logits(
    model: LanguageModel,
    params: Params,
    carry: Carry,
    rows: jax.Array,
    positions: int,
    prior: Prior | None = None,
    resets: jax.Array | None = None,
) -> tuple[jax.Array, Carry]:
    """The logits from which `score_rows` takes its scores, float32[S, K, V], and the carry after T tokens."""
    states, carry = model.apply({"params": params}, rows[:, :-1], carry, False, prior, resets, method=model.states)
    states, last = jax.tree.map(lambda leaf: leaf[:, -positions:], (states, prior))
    return model.apply({"params": params}, states, False, last, method=model.logits), carry


_compiled_logits = jax.jit(_logits, static_argnames=("model", "positions"))


@reproducible
def predict(model: LanguageModel, params: Params, ids: np.ndarray, length: int | None = None) -> np.ndarray:
    """The logits of all tokens at the positions of a text, for a network without counts.

    Args:
      length: T, for the tokens after windows of T tokens, each from a zero state, at every position; None for the
        tokens given all previous ones.

    Returns:
      float32[N - T, V], or float32[N - 1, V].

    Raises:
      InputError: there are not more than T tokens, or fewer than 2.
    """
    if length is None:
        together, positions = 1, min(CARRIED_TOKENS, len(ids))
        rows = consecutive(ids, positions)
    else:
        together, positions = _rows_per_call(length), 1
        rows = _windows(ids, length, 1)

    def chunks() -> Iterator[jax.Array]:
        carry = start = model.initial_carry(together)
        for chunk in row_chunks(rows, together):
            logits, carry = _compiled_logits(model, params, carry if length is None else start, chunk, positions)
            yield logits

    return fetch(chunks()).reshape(-1, model.vocabulary)[: len(ids) - (length or 1)]


def _windows(ids: np.ndarray, length: int, stride: int) -> np.ndarray:
    """int[S, T + 1]: windows, each with the token after it; a view of ids.

    Raises:
      InputError: there are not more than T tokens.
    """
    _check_count(ids, length + 1)
    return np.lib.stride_tricks.sliding_window_view(ids, length + 1)[::stride]


def consecutive(ids: np.ndarray, length: int) -> np.ndarray:
    """int32[S, T + 1]: adjacent windows, each with the token after it; the last one is padded.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    _check_count(ids, 2)
    missing = -(len(ids) - 1) % length
    return _windows(np.pad(ids.astype(np.int32), (0, missing), constant_values=NO_TOKEN), length, length)


def _check_count(ids: np.ndarray, least: int) -> None:
    if len(ids) < least:
        raise InputError(
            f"text: found only {len(ids)} of the model's tokens in it, expected {least} or more, so that there is one "
            "to predict; use more text"
        )


def carried_priors(ids: np.ndarray, length: int, counts: NetworkCounts) -> Iterator[Prior | None]:
    """Yields, for each of the `consecutive` windows, what n-grams say after each token given all previous ones.

    Its leading shape is (1, T). Without counts, None.
    """
    count = -(-(len(ids) - 1) // length)
    states = states_within(counts, np.pad(ids[:-1], (0, count * length - len(ids) + 1)))
    rows = jax.tree.map(lambda after: after[1:].reshape(count, 1, length), states)
    for number in range(count):
        yield prior_after(counts, jax.tree.map(operator.itemgetter(number), rows))


def row_chunks(rows: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yields `count` rows at a time, int32[count, T + 1]; the last chunk is padded."""
    for start in range(0, len(rows), count):
        chunk = rows[start : start + count].astype(np.int32)  # Unsigned ids have no NO_TOKEN.
        yield np.pad(chunk, ((0, count - len(chunk)), (0, 0)), constant_values=NO_TOKEN)


def _rows_per_call(length: int) -> int:
    """As many windows of T tokens as a CPU's cache has room for, or as keep another device busy."""
    return 64 if sharding.devices()[0].platform == "cpu" else max(1, 2**15 // length)


def _score_windows(
    model: LanguageModel, params: Params, rows: np.ndarray, positions: int, counts: NetworkCounts
) -> np.ndarray:
    """float32[S * K]: the scores of the last K tokens of each row, from a zero state."""
    count = _rows_per_call(rows.shape[1] - 1)
    carry = model.initial_carry(count)

    def scores() -> Iterator[jax.Array]:
        for chunk in row_chunks(rows, count):
            yield score_rows(model, params, carry, chunk, positions, prior_within(counts, chunk[:, :-1]))[0]

    return fetch(scores())[: len(rows) * positions]


def fetch(chunks: Iterable[jax.Array]) -> np.ndarray:
    """All scores in one array on the host; at most UNDER_WAY device calls are pending."""
    scores: list[jax.Array] = []
    for chunk in chunks:
        scores.append(chunk)
        if len(scores) > UNDER_WAY:
            scores[-1 - UNDER_WAY].block_until_ready()
    return np.concatenate([np.asarray(chunk).ravel() for chunk in scores])
