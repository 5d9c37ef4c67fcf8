"""What a model thinks of a text: the log-probability of each token, given those before it.

Scores are in nats, float32; sums of them belong in float64. Every function compiles once, whatever the text's length:
it is read in chunks of one shape, and what pads the last one is cut off.

Shapes: N tokens, T time, K scored positions, S windows or segments, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlm.config import InputError, Protocol
from jaxlm.metrics import log_probs
from jaxlm.model import Carry, LanguageModel, Params

CHUNK = 1024
"""Tokens that one call to the device reads with its state carried on."""

ROWS = 64
"""Windows that one call to the device reads."""

UNDER_WAY = 4
"""Calls that the device may be behind."""

SEGMENT = 50
"""Tokens from one update of dynamic evaluation to the next. Measured: 20 is worse, 100 no better."""

SEGMENTS = 20
"""Segments that one call to the device reads."""

EPSILON = 1e-5
"""Added to the root mean squares of gradients, so that parameters without any stay where they are."""

PADDING = -1
"""The id that stands for no token, after a text's end."""


def score_carried(model: LanguageModel, params: Params, ids: np.ndarray) -> np.ndarray:
    """The log-probability of each token given all before it: the state is carried on from the text's start.

    Args:
      model: what scores.
      params: its parameters.
      ids: int[N], in [0, V).

    Returns:
      float32[N - 1]; the first token has nothing before it.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    rows = _consecutive(ids, CHUNK)

    def chunks() -> Iterator[jax.Array]:
        carry = model.initial_carry(1)
        for row in rows:
            scores, carry = score_rows(model, params, carry, row[None], CHUNK)
            yield scores

    return _fetch(chunks())[: len(ids) - 1]


def score_cold(model: LanguageModel, params: Params, ids: np.ndarray, length: int = 256) -> np.ndarray:
    """The log-probability of each token given those before it in its window, which begins with a zero state.

    The windows follow one another: inputs 0 to T - 1 have the targets 1 to T, inputs T to 2 T - 1 the next T.

    Args:
      model: what scores.
      params: its parameters.
      ids: int[N], in [0, V).
      length: T, tokens in a window.

    Returns:
      float32[N - 1]; every token but the first is scored once.

    Raises:
      InputError: there are fewer than 2 tokens.

    Source: nanoGPT's `estimate_loss`, which averages such windows from random places; these are all of them.
    """
    return _score_windows(model, params, _consecutive(ids, length), length)[: len(ids) - 1]


def score_windows(
    model: LanguageModel, params: Params, ids: np.ndarray, length: int = 60, stride: int = 3
) -> np.ndarray:
    """The log-probability of the token after each window given the window alone, from a zero state.

    Args:
      model: what scores.
      params: its parameters.
      ids: int[N], in [0, V).
      length: T, tokens in a window.
      stride: tokens from one window's start to the next's.

    Returns:
      float32[S], for the windows that start at range(0, N - T, stride).

    Raises:
      InputError: there are not more than T tokens.

    Source: the examples that Deep Learning with Python, 8.1, trains on; see `data.Windows`.
    """
    return _score_windows(model, params, _windows(ids, length, stride), 1)


PROTOCOLS: dict[Protocol, Callable[[LanguageModel, Params, np.ndarray], np.ndarray]] = {
    "carried": score_carried,
    "cold-256": score_cold,
    "window-60": score_windows,
}


def mean_squares(model: LanguageModel, params: Params, ids: np.ndarray, *, segment: int = SEGMENT) -> Params:
    """How strongly a text pulls at each parameter: its squared gradient, averaged over the text's segments.

    What `score_dynamic` scales its updates by; meant for the text that the model was trained on.

    Args:
      model: what is adapted.
      params: its parameters, where all gradients are taken.
      ids: int[N], in [0, V).
      segment: tokens in a segment, whose mean loss has the gradient; as in `score_dynamic`.

    Returns:
      A tree like params.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    rows = _consecutive(ids, segment)
    state = jax.tree.map(jnp.zeros_like, params), model.initial_carry(1)
    for number, chunk in enumerate(_chunks(rows, SEGMENTS)):
        state = add_squares(model, params, *state, chunk)
        if number % UNDER_WAY == 0:
            jax.block_until_ready(state)
    return jax.tree.map(lambda total: total / len(rows), state[0])


def score_dynamic(
    model: LanguageModel,
    params: Params,
    squares: Params,
    ids: np.ndarray,
    *,
    learning_rate: float = 5e-4,
    decay: float = 0.001,
    segment: int = SEGMENT,
) -> np.ndarray:
    """What `score_carried` gives, by a model that learns from each segment of the text once that is scored.

    After a segment, with the gradient g of its mean loss, rms = sqrt(squares) and the trained weights w0:
    w += -learning_rate * g / (rms + EPSILON) + min(1, decay * rms / mean(rms)) * (w0 - w). A score depends on
    nothing that comes later. Gradients go no further back than the segment; the state does.

    Args:
      model: what scores.
      params: its parameters, as trained; they are not changed.
      squares: what `mean_squares` gave for the training text.
      ids: int[N], in [0, V).
      learning_rate: how far to go with each segment (lamb's: 1e-3; twice as much as that is too far).
      decay: how strongly to be drawn back to the trained parameters (lamb's: 0.02).
      segment: tokens from one update to the next.

    Returns:
      float32[N - 1].

    Raises:
      InputError: there are fewer than 2 tokens.

    Source: Krause et al. 2018, arXiv:1709.07432, in the form of DeepMind's lamb, `dyneval.py`. The defaults are ours,
    chosen on held-out Nietzsche and Shakespeare with 128 and 256 units.
    """
    rows = _consecutive(ids, segment)

    def chunks() -> Iterator[jax.Array]:
        state = params, model.initial_carry(1)
        for chunk in _chunks(rows, SEGMENTS):
            *state, scores = adapt(model, params, squares, *state, chunk, learning_rate, decay)
            yield scores

    return _fetch(chunks())[: len(ids) - 1]


@functools.partial(jax.jit, static_argnames=("model", "positions"))
def score_rows(
    model: LanguageModel, params: Params, carry: Carry, rows: jax.Array, positions: int
) -> tuple[jax.Array, Carry]:
    """The log-probabilities of the last K tokens of each row, given those before them in it.

    Args:
      model: what scores.
      params: its parameters.
      carry: before the rows, batch S.
      rows: int[S, T + 1].
      positions: K, from 1 to T.

    Returns:
      (float32[S, K], carry after T tokens).
    """
    states, carry = model.apply({"params": params}, rows[:, :-1], carry, method=model.states)
    logits = model.apply({"params": params}, states[:, -positions:], method=model.logits)
    return log_probs(logits, rows[:, -positions:]), carry


def _segment_gradient(model: LanguageModel, params: Params, carry: Carry, row: jax.Array) -> tuple[Params, Any]:
    """The gradient of a segment's mean loss, int[T + 1], and (its scores, float32[T], the carry after it)."""

    def mean_loss(params: Params):
        scores, after = score_rows(model, params, carry, row[None], len(row) - 1)
        mask = row[1:] != PADDING
        return -jnp.where(mask, scores[0], 0.0).sum() / jnp.maximum(mask.sum(), 1), (scores[0], after)

    return jax.grad(mean_loss, has_aux=True)(params)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="total")
def add_squares(
    model: LanguageModel, params: Params, total: Params, carry: Carry, rows: jax.Array
) -> tuple[Params, Carry]:
    """Adds the squared gradients of segments, int[S, T + 1], to a total; the carry goes on from one to the next."""

    def add(state: tuple[Params, Carry], row: jax.Array):
        total, carry = state
        grads, (_, carry) = _segment_gradient(model, params, carry, row)
        return (jax.tree.map(lambda squares, grad: squares + grad * grad, total, grads), carry), None

    return jax.lax.scan(add, (total, carry), rows)[0]


@functools.partial(jax.jit, static_argnames="model")
def adapt(
    model: LanguageModel,
    trained: Params,
    squares: Params,
    params: Params,
    carry: Carry,
    rows: jax.Array,
    learning_rate: float,
    decay: float,
) -> tuple[Params, Carry, jax.Array]:
    """Scores segments, int[S, T + 1], one after the other, and moves the parameters after each.

    The arguments are those of `score_dynamic`, and what the call before returned.

    Returns:
      (params, carry, float32[S, T]), the first two for the next call.
    """
    rms = jax.tree.map(jnp.sqrt, squares)
    mean = jnp.maximum(ravel_pytree(rms)[0].mean(), jnp.finfo(jnp.float32).tiny)
    step_sizes = jax.tree.map(lambda rms: learning_rate / (rms + EPSILON), rms)
    pulls = jax.tree.map(lambda rms: jnp.minimum(1.0, decay * rms / mean), rms)

    def score_then_move(state: tuple[Params, Carry], row: jax.Array):
        params, carry = state
        grads, (scores, carry) = _segment_gradient(model, params, carry, row)

        def move(now: jax.Array, start: jax.Array, grad: jax.Array, step_size: jax.Array, pull: jax.Array):
            return now - step_size * grad + pull * (start - now)

        return (jax.tree.map(move, params, trained, grads, step_sizes, pulls), carry), scores

    (params, carry), scores = jax.lax.scan(score_then_move, (params, carry), rows)
    return params, carry, scores


def _windows(ids: np.ndarray, length: int, stride: int) -> np.ndarray:
    """int[S, T + 1]: windows, each with the token after it; a view of ids.

    Raises:
      InputError: there are not more than T tokens.
    """
    _check_count(ids, length + 1)
    return np.lib.stride_tricks.sliding_window_view(ids, length + 1)[::stride]


def _consecutive(ids: np.ndarray, length: int) -> np.ndarray:
    """int32[S, T + 1]: windows that follow one another, each with the token after it; the last one is padded.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    _check_count(ids, 2)
    missing = -(len(ids) - 1) % length
    return _windows(np.pad(ids.astype(np.int32), (0, missing), constant_values=PADDING), length, length)


def _check_count(ids: np.ndarray, least: int) -> None:
    if len(ids) < least:
        raise InputError(
            f"text: found only {len(ids)} of the model's tokens in it, expected {least} or more, so that there is one "
            "to predict; use more text"
        )


def _chunks(rows: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """int32[`count`, T + 1]: so many rows at a time; the last ones are padded."""
    for start in range(0, len(rows), count):
        chunk = rows[start : start + count].astype(np.int32)  # Unsigned ids have no PADDING.
        yield np.pad(chunk, ((0, count - len(chunk)), (0, 0)), constant_values=PADDING)


def _score_windows(model: LanguageModel, params: Params, rows: np.ndarray, positions: int) -> np.ndarray:
    """float32[S * K]: the scores of the last K tokens of each row, read from a zero state."""
    carry = model.initial_carry(ROWS)
    scores = (score_rows(model, params, carry, chunk, positions)[0] for chunk in _chunks(rows, ROWS))
    return _fetch(scores)[: len(rows) * positions]


def _fetch(chunks: Iterable[jax.Array]) -> np.ndarray:
    """All scores in a row, on the host; the device is never more than UNDER_WAY calls behind."""
    scores: list[jax.Array] = []
    for chunk in chunks:
        scores.append(chunk)
        if len(scores) > UNDER_WAY:
            scores[-1 - UNDER_WAY].block_until_ready()
    return np.concatenate([np.asarray(chunk).ravel() for chunk in scores])
