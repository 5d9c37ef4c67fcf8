"""Dynamic evaluation: after scoring each segment of a text, the model is updated on it.

Shapes: N tokens, T time, S segments. `model`, `params` and `ids` are as in `scoring`. For a network that takes n-grams,
`prior` gives what they say of the tokens at some positions of the text, int[...] in [0, N).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlm.nn.ambient import reproducible
from jaxlm.nn.counts import Prior
from jaxlm.nn.model import Carry, LanguageModel, Params
from jaxlm.nn.scoring import NO_TOKEN, UNDER_WAY, consecutive, fetch, row_chunks, score_rows

SEGMENT = 20
"""Tokens per update of dynamic evaluation. Measured: 50 is worse, 10 no better (benchmarks/SWEEPS.md)."""

SQUARED = 50
"""Tokens per gradient whose square `mean_squares` takes. With fewer, it takes longer; the learning rate is tuned to
it."""

SEGMENTS = 20
"""Segments per device call."""

EPSILON = 1e-5
"""Added to the root mean squares of gradients, so that parameters without gradients do not move."""


Priors = Callable[[np.ndarray], Prior | None]


def _segments(ids: np.ndarray, segment: int, prior: Priors | None) -> Iterator[tuple[np.ndarray, Prior | None]]:
    """Yields SEGMENTS segments of a text at a time, int[S, T + 1], and what n-grams say of their last T tokens."""
    positions = np.arange(1, SEGMENTS * segment + 1).reshape(SEGMENTS, segment)
    for number, chunk in enumerate(row_chunks(consecutive(ids, segment), SEGMENTS)):
        yield chunk, prior and prior(np.minimum(positions + number * positions.size, len(ids) - 1))


@reproducible
def mean_squares(
    model: LanguageModel, params: Params, ids: np.ndarray, *, segment: int = SQUARED, prior: Priors | None = None
) -> Params:
    """The squared gradient of each parameter, averaged over the segments of a text.

    `score_dynamic` scales its updates by those of the text that the model was trained on.

    Args:
      params: where all gradients are taken.
      segment: tokens per segment; each gradient is that of a segment's mean loss.

    Returns:
      A tree like params.

    Raises:
      InputError: there are fewer than 2 tokens.
    """
    state = jax.tree.map(jnp.zeros_like, params), model.initial_carry(1)
    for number, (chunk, given) in enumerate(_segments(ids, segment, prior)):
        state = add_squares(model, params, *state, chunk, given)
        if number % UNDER_WAY == 0:
            jax.block_until_ready(state)
    count = len(consecutive(ids, segment))
    return jax.tree.map(lambda total: total / count, state[0])


@reproducible
def score_dynamic(
    model: LanguageModel,
    params: Params,
    squares: Params,
    ids: np.ndarray,
    *,
    learning_rate: float = 4e-4,
    decay: float = 4e-4,
    segment: int = SEGMENT,
    prior: Priors | None = None,
) -> np.ndarray:
    """`score_carried` with dynamic evaluation: the weights w are updated after each segment.

    With the gradient g of the segment's mean loss, rms = sqrt(squares) and the trained weights w0, the update is
    w += -learning_rate * g / (rms + EPSILON) + min(1, decay * rms / mean(rms)) * (w0 - w). No score depends on
    later tokens. The state is carried from segment to segment; gradients stop at a segment's start.

    Args:
      params: the trained parameters, which are not modified.
      squares: `mean_squares` of the training text.
      learning_rate: step size of the updates (lamb: 1e-3; twice that is too large).
      decay: strength of the pull back to the trained parameters (lamb: 0.02).
      segment: tokens per update.
      prior: is asked about SEGMENTS segments at a time, in order, without gaps, so that it may count what it is asked
        about; then it serves one reading.

    Returns:
      float32[N - 1].

    Raises:
      InputError: there are fewer than 2 tokens.

    Source: Krause et al. 2018, arXiv:1709.07432, in the form of DeepMind's lamb, `dyneval.py`. The defaults are ours,
    tuned on held-out text of Nietzsche and Shakespeare, with 128 and 256 units.
    """

    def chunks() -> Iterator[jax.Array]:
        state = params, model.initial_carry(1)
        for chunk, given in _segments(ids, segment, prior):
            *state, scores = adapt(model, params, squares, *state, chunk, learning_rate, decay, given)
            yield scores

    return fetch(chunks())[: len(ids) - 1]


def _segment_gradient(
    model: LanguageModel, params: Params, carry: Carry, row: jax.Array, prior: Prior | None
) -> tuple[Params, Any]:
    """The gradient of the mean loss of a segment, int[T + 1], and (its scores, float32[T], the carry after it)."""

    def mean_loss(params: Params):
        given = jax.tree.map(lambda leaf: leaf[None], prior)
        scores, after = score_rows(model, params, carry, row[None], len(row) - 1, given)
        mask = row[1:] != NO_TOKEN
        return -jnp.where(mask, scores[0], 0.0).sum() / jnp.maximum(mask.sum(), 1), (scores[0], after)

    return jax.grad(mean_loss, has_aux=True)(params)


@reproducible
@functools.partial(jax.jit, static_argnames="model", donate_argnames="total")
def add_squares(
    model: LanguageModel, params: Params, total: Params, carry: Carry, rows: jax.Array, prior: Prior | None = None
) -> tuple[Params, Carry]:
    """Adds the squared gradients of segments, int[S, T + 1], to a total; the carry passes from one to the next."""

    def add(state: tuple[Params, Carry], segment: tuple[jax.Array, Prior | None]):
        total, carry = state
        grads, (_, carry) = _segment_gradient(model, params, carry, *segment)
        return (jax.tree.map(lambda squares, grad: squares + grad * grad, total, grads), carry), None

    return jax.lax.scan(add, (total, carry), (rows, prior))[0]


@reproducible
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
    prior: Prior | None = None,
) -> tuple[Params, Carry, jax.Array]:
    """Scores segments, int[S, T + 1], one after the other, and updates the parameters after each.

    Takes the arguments of `score_dynamic`, the params and carry that the previous call returned, and what n-grams say
    of the segments' last T tokens.

    Returns:
      (params, carry, float32[S, T]), the first two for the next call.
    """
    rms = jax.tree.map(jnp.sqrt, squares)
    mean = jnp.maximum(ravel_pytree(rms)[0].mean(), jnp.finfo(jnp.float32).tiny)
    step_sizes = jax.tree.map(lambda rms: learning_rate / (rms + EPSILON), rms)
    pulls = jax.tree.map(lambda rms: jnp.minimum(1.0, decay * rms / mean), rms)

    def score_then_move(state: tuple[Params, Carry], segment: tuple[jax.Array, Prior | None]):
        params, carry = state
        grads, (scores, carry) = _segment_gradient(model, params, carry, *segment)

        def move(now: jax.Array, start: jax.Array, grad: jax.Array, step_size: jax.Array, pull: jax.Array):
            return now - step_size * grad + pull * (start - now)

        return (jax.tree.map(move, params, trained, grads, step_sizes, pulls), carry), scores

    (params, carry), scores = jax.lax.scan(score_then_move, (params, carry), (rows, prior))
    return params, carry, scores
