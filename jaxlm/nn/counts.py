"""What n-grams say of the next token, as the network takes it; and the lookup of it in a compiled program.

Shapes: S texts, B batch, T time, V vocabulary, K the n-grams' order, C contexts, M strings.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Prior(NamedTuple):
    """What n-grams say of each next token.

    Attributes:
      probabilities: float32[..., V], positive.
      totals: int32[..., K + 1], how often the context of each order was counted; 0 where it is unknown.
    """

    probabilities: Any
    totals: Any


class Predictions(Protocol):
    """Distributions after contexts: `jaxlm.text.ngram.Predictions`."""

    totals: np.ndarray

    def rows(self) -> np.ndarray: ...


class Counts(Protocol):
    """The n-grams of a text, with contexts of up to `order` tokens: `jaxlm.text.ngram.NGram`."""

    @property
    def order(self) -> int: ...

    def states(self, tokens: np.ndarray) -> np.ndarray: ...

    def after(self, states: np.ndarray) -> Predictions: ...


def prior_of(predictions: Predictions) -> Prior:
    """Predictions as arrays."""
    return Prior(predictions.rows(), predictions.totals)


NetworkCounts = Counts | tuple[Counts | None, ...] | None
"""The n-grams that a network takes, if any; a tuple for an average of networks, with an element for each."""


def states_within(counts: NetworkCounts, tokens: np.ndarray) -> Any:
    """The contexts before and after each token of some texts, int[..., T], each read from its own beginning."""
    return jax.tree.map(lambda one: one.states(tokens), counts)


def prior_after(counts: NetworkCounts, states: Any) -> Any:
    """What follows some contexts; None without counts."""
    return jax.tree.map(lambda one, states: prior_of(one.after(states)), counts, states)


def prior_within(counts: NetworkCounts, tokens: np.ndarray) -> Any:
    """What follows each token of some texts or windows, int[..., T], each read from its own beginning.

    Negative tokens are padding, whose prior means nothing.
    """
    states = states_within(counts, np.maximum(tokens, 0))
    return prior_after(counts, jax.tree.map(lambda after: after[..., 1:], states))


class Table(NamedTuple):
    """The n-grams of a text in a form that a compiled program looks up, with static shapes.

    Attributes:
      levels: int32[K + 1], as in NGram: contexts of k tokens are the nodes from levels[k] on.
      tokens: int32[M + W], each string's last token, then padding; W is the most continuations of a context that has
        no row in `whole`.
      children: int32[C + 1], as in NGram.
      shorter: int32[M].
      totals: int32[C].
      probabilities: float32[M + W].
      backoffs: float32[C].
      whole: float32[R, V], the distributions after contexts of up to some order, the first R nodes.
      following: int32[R, V], the context after each of these and one more token.
      slots: int32[L, W], 0 to W - 1 for each of the L orders above; tells their number.
    """

    levels: Any
    tokens: Any
    children: Any
    shorter: Any
    totals: Any
    probabilities: Any
    backoffs: Any
    whole: Any
    following: Any
    slots: Any


def is_table(value: Any) -> bool:
    """Whether a value is a table, and not several of them, or None; for `is_leaf` of JAX's functions."""
    return isinstance(value, Table)


def make_table(counts: Any) -> Table:
    """The table of an `NGram`, of NumPy arrays."""
    above = counts.order - counts.whole_order
    width = max((1, *counts.widest[counts.whole_order + 1 :]))
    contexts = len(counts.totals)
    following = np.zeros((len(counts.whole), counts.vocabulary), np.int32)
    for k in range(counts.whole_order + 1):
        nodes = np.arange(counts.levels[k], counts.levels[k + 1])
        if k:
            following[nodes] = following[counts.shorter[nodes]]
        children = np.arange(counts.levels[k + 1], counts.levels[k + 2])
        parents = np.repeat(nodes, np.diff(counts.children[nodes[0] : nodes[-1] + 2])) if len(nodes) else nodes
        known = np.where(children < contexts, children, counts.shorter[children])
        following[parents, counts.tokens[children]] = known
    return Table(
        levels=np.array(counts.levels[: counts.order + 1], np.int32),
        tokens=np.pad(counts.tokens.astype(np.int32), (0, width), constant_values=-1),
        children=counts.children,
        shorter=counts.shorter,
        totals=counts.totals,
        probabilities=np.pad(counts.probabilities, (0, width)),
        backoffs=counts.backoffs,
        whole=counts.whole,
        following=following,
        slots=np.tile(np.arange(width, dtype=np.int32), (above, 1)),
    )


class _Context(NamedTuple):
    """The contexts of one order: int32[S] nodes, whether there is one, and its continuations, int32[S, W]."""

    node: jax.Array
    present: jax.Array
    children: jax.Array
    inside: jax.Array


def _take(values: jax.Array, *index: jax.Array) -> jax.Array:
    """`values[index]` for indices that are never negative: JAX would take three operations to look for those."""
    return values.at[index].get(wrap_negative_indices=False)


def _above(table: Table, nodes: jax.Array) -> tuple[list[_Context], jax.Array]:
    """The contexts that have no row in `whole`, the longest first; and the longest that has one, int32[S]."""
    found: list[_Context] = []
    for slots in table.slots:
        # Each node is as long as the order, or shorter and passed on.
        context, nodes = _of_order(table, table.levels[len(table.levels) - 1 - len(found)], slots, nodes)
        found.append(context)
    return found, nodes


@jax.jit  # As below, so that it is traced once for all orders: that saves a fifth of tracing and lowering generation.
def _of_order(table: Table, level: jax.Array, slots: jax.Array, nodes: jax.Array) -> tuple[_Context, jax.Array]:
    """The contexts of the order that begins at a level, of nodes no longer; and the longest shorter ones."""
    present = nodes >= level
    node = jnp.where(present, nodes, 0)
    first, end = _take(table.children, node), _take(table.children, node + 1)
    children = first[:, None] + slots[None]
    context = _Context(node, present, children, present[:, None] & (children < end[:, None]))
    return context, jnp.where(present, _take(table.shorter, node), nodes)


@jax.jit
def _weighed(table: Table, context: _Context, weight: jax.Array) -> tuple[jax.Array, ...]:
    """The tokens that the contexts of an order add to, and how much; the weight that is left; their totals."""
    places = jnp.where(context.inside, _take(table.tokens, context.children), -1)  # -1 is dropped.
    values = weight[:, None] * _take(table.probabilities, context.children)
    weight = jnp.where(context.present, weight * _take(table.backoffs, context.node), weight)
    return places, values, weight, jnp.where(context.present, _take(table.totals, context.node), 0)


@jax.jit
def _shortened(table: Table, level: jax.Array, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The totals of the contexts of the order that begins at a level; and the longest shorter ones."""
    present = nodes >= level
    return jnp.where(present, _take(table.totals, nodes), 0), jnp.where(present, _take(table.shorter, nodes), nodes)


def lookup(table: Table, nodes: jax.Array) -> Prior:
    """What follows the contexts of some nodes, int32[S]."""
    contexts, nodes = _above(table, nodes)
    rows, weight = jnp.arange(len(nodes))[:, None], jnp.ones(len(nodes), jnp.float32)
    parts, totals = [], []
    for context in contexts:
        places, values, weight, total = _weighed(table, context, weight)
        parts.append((places, values))
        totals.append(total)
    probabilities = weight[:, None] * _take(table.whole, nodes)
    for places, values in parts:
        # One after the other, so that no two are added to one number in whatever order a GPU takes.
        probabilities = probabilities.at[rows, places].add(values, mode="drop", wrap_negative_indices=False)
    for order in reversed(range(len(table.levels) - len(contexts))):
        total, nodes = _shortened(table, table.levels[order], nodes)
        totals.append(total)
    least = jnp.finfo(jnp.float32).tiny
    return Prior(jnp.maximum(probabilities, least), jnp.stack(totals[::-1], 1))


def advance(table: Table, nodes: jax.Array, tokens: jax.Array) -> jax.Array:
    """The contexts after one more token, int32[S]."""
    contexts, nodes = _above(table, nodes)
    after = _take(table.following, nodes, tokens)
    for context in reversed(contexts):
        after = _followed(table, context, tokens, after)
    return after


@jax.jit
def _followed(table: Table, context: _Context, tokens: jax.Array, after: jax.Array) -> jax.Array:
    """The contexts after a token, where those of this order have it as a continuation; elsewhere `after`."""
    hits = context.inside & (_take(table.tokens, context.children) == tokens[:, None])
    # Without a hit, it may be beyond the last string, which is clamped, and not taken.
    child = context.children[:, 0] + jnp.argmax(hits, 1).astype(jnp.int32)
    child = jnp.where(child < len(table.totals), child, _take(table.shorter, child))
    return jnp.where(hits.any(1), child, after)
