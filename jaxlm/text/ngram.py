"""Token n-grams, smoothed by Kneser and Ney: counted from a text in one sort, and asked in batches.

The strings of up to K + 1 tokens that occur in a text are the nodes of a trie, numbered by length, and in the order of
their tokens within a length. So the strings that continue a context by one token are neighbours, and a node is both an
n-gram (its last token after the rest) and, up to K tokens, a context. What is asked about a context starts from its
node, an int32: the node of the longest end of what was read that occurs in the text.
"""

import dataclasses
import functools
import itertools
from typing import Any, Self

import numpy as np

from jaxlm.errors import InputError, reject, whole_number
from jaxlm.text.suffixes import sorted_suffixes

ROOT = 0
"""The node of the empty context: nothing was read, or only tokens that the text lacks."""

ABSENT = -1
"""In place of a node: there is no such string, or a context has fewer tokens than this order."""

BLOCK_POSITIONS = 1 << 16
"""The positions that are looked up at once, so that a long text needs little memory."""

WHOLE_SHARE = 2
"""The most numbers in the whole distributions of the shortest contexts, per token of the text."""

LEAST = np.finfo(np.float32).tiny
"""What a probability is at least, so that its logarithm is finite."""

_order = whole_number(0, 100)
"""A check for an order; higher ones would overflow `NGram.repeated`."""


@dataclasses.dataclass(frozen=True, eq=False)
class NGram:
    """The n-grams of a text: interpolated, modified Kneser-Ney with contexts of up to K tokens.

    P_k(w | u), for a context u of k tokens, is max(c - D(c), 0) / total(u) + backoff(u) * P_{k-1}(w | u without its
    first token), and P_{-1} = 1 / V. At order K, c is the number of times that w follows u; below, it is the number of
    distinct tokens before u w, where the beginning of the text counts as one. Each order has three discounts, for
    c = 1, 2, and more. After fewer than K tokens (at the beginning of a text or a window) and after contexts that the
    text lacks, the longest known context is the highest order; its counts and discounts are those of its own length.

    Arrays that a compiled program can look up, for M nodes, of which C are contexts:

      row = 0; weight = 1; u = state
      while u >= len(whole):                            # at most K - whole_order times
        for w in children[u] .. children[u + 1]:        # at most widest[length of u]
          row[tokens[w]] += weight * probabilities[w]
        weight *= backoffs[u]; u = shorter[u]
      row += weight * whole[u]                          # the distribution after the state

    The state after token t is the child of u with token t, for the first u of state, shorter[state], ... that has
    one; tokens[children[u]:children[u + 1]] is sorted. A child that is no context, >= C, becomes its shorter[child].
    If none has one, it is ROOT.

    Attributes:
      order: K, the most tokens of a context.
      vocabulary: V.
      levels: the strings of n tokens are the nodes levels[n] .. levels[n + 1], for n of 0 .. K + 1.
      tokens: unsigned[M], the last token of each string.
      children: int32[C + 1], the continuations of context u are the nodes children[u] .. children[u + 1].
      shorter: int32[M], each string without its first token; ROOT's is ROOT.
      counts: int32[M], c above.
      totals: int32[C], the sum of a context's counts; 0 for one that occurs only at the text's end.
      probabilities: float32[M], max(c - D(c), 0) / total.
      backoffs: float32[C], the weight of the next shorter context; 1 where the total is 0.
      discounts: float64[K + 1, 4], each order's for c = 0 (none), 1, 2, and more.
      whole: float32[S, V], the distributions after contexts of up to whole_order tokens; S = levels[whole_order + 1].
      whole_order: the highest, of order 0 and those with which `whole` has at most WHOLE_SHARE numbers a token of text.
      longest: int32[N], for each position of the text, the string of up to K tokens before it and its own.
      repeated: int8[N], for each position, the highest order whose n-gram there also occurs elsewhere; -1 for none.
    """

    order: int
    vocabulary: int
    levels: tuple[int, ...]
    tokens: np.ndarray
    children: np.ndarray
    shorter: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray
    discounts: np.ndarray
    whole: np.ndarray
    whole_order: int
    longest: np.ndarray
    repeated: np.ndarray

    @classmethod
    def count(cls, text: np.ndarray, vocabulary: int, order: int) -> Self:
        """Counts the n-grams of a text.

        Args:
          text: int[N], token ids in [0, V); N may be 0.
          vocabulary: V.
          order: K, the most tokens of a context, 0 to 100; time and memory grow with it.

        Raises:
          InputError: ids outside the vocabulary, an order outside 0 to 100, or more text than 32 bits suffice for.
        """
        order = _order("order", order)
        largest = np.iinfo(np.int32).max // (order + 1)
        if len(text) > largest:
            raise InputError(
                f"corpus: found {len(text):,} tokens, expected at most {largest:,} for n-grams of order {order}, since "
                "they are numbered in 32 bits; use less text, or n-grams of a smaller order"
            )
        text = _checked(text, vocabulary)
        levels, tokens, parents, shorter, occurrences, longest, repeated = _strings(text, order + 1)
        nodes, contexts = levels[-1], levels[-2]
        # Below the highest order, an n-gram counts once for each token before it, and once if it begins the text.
        counts = np.bincount(shorter, minlength=nodes).astype(np.int32)
        counts[longest[:order]] += 1
        counts[contexts:] = occurrences
        counts[ROOT] = 0
        discounts, taken = np.zeros((order + 1, 4)), np.zeros(nodes)
        for k in range(order + 1):
            level = slice(levels[k + 1], levels[k + 2])
            discounts[k] = discounts_of(count_sizes(counts[level]))
            taken[level] = discounts[k][np.minimum(counts[level], 3)]
        totals = np.bincount(parents, counts, contexts)
        divisors = np.maximum(totals, 1)
        probabilities = ((counts - taken) / divisors[parents]).astype(np.float32)
        backoffs = np.where(totals > 0, np.bincount(parents, taken, contexts) / divisors, 1).astype(np.float32)
        children = np.cumsum(np.bincount(parents[1:] + 1, minlength=contexts + 1), dtype=np.int32) + 1

        whole_order = 0
        while whole_order < order and levels[whole_order + 2] * vocabulary <= WHOLE_SHARE * len(text):
            whole_order += 1
        whole = np.zeros((levels[whole_order + 1], vocabulary), np.float32)
        for k in range(whole_order + 1):
            rows, level = slice(levels[k], levels[k + 1]), slice(levels[k + 1], levels[k + 2])
            below = whole[shorter[rows]] if k else np.float32(1 / vocabulary)
            whole[rows] = backoffs[rows, None] * below
            whole[parents[level], tokens[level]] += probabilities[level]
        return cls(
            order=order,
            vocabulary=vocabulary,
            levels=levels,
            tokens=tokens,
            children=children,
            shorter=shorter,
            counts=counts,
            totals=totals.astype(np.int32),
            probabilities=probabilities,
            backoffs=backoffs,
            discounts=discounts,
            whole=whole,
            whole_order=whole_order,
            longest=longest,
            repeated=repeated,
        )

    def __len__(self) -> int:
        """The number of distinct n-grams, of all orders."""
        return len(self.counts) - 1

    @functools.cached_property
    def widest(self) -> tuple[int, ...]:
        """For each order, the most continuations that one of its contexts has."""
        widths = np.diff(self.children)
        return tuple(int(widths[first:end].max(initial=0)) for first, end in itertools.pairwise(self.levels[:-1]))

    def states(self, tokens: np.ndarray) -> np.ndarray:
        """The contexts met in reading texts or windows, each from its own beginning.

        Args:
          tokens: int[..., T], ids in [0, V).

        Returns:
          int32[..., T + 1]: the node of the longest known context before each token, and after the last one. The first
          is ROOT. To read on from where a text stopped, put its last K tokens before what follows.
        """
        tokens = _checked(tokens, self.vocabulary)
        known = np.zeros((*tokens.shape[:-1], tokens.shape[-1] + 1), np.int32)
        states = known.copy()
        for _ in range(self.order):
            # One token longer each time, up to all t tokens before token t.
            known[..., 1:] = self._children(known[..., :-1], tokens)
            states = np.where(known == ABSENT, states, known)
        return states

    def after(self, states: np.ndarray) -> "Predictions":
        """What follows the contexts of some nodes, int32[...], from `states`."""
        return Predictions(self, states)

    def left_out(self, positions: np.ndarray) -> "Predictions":
        """What follows before some positions of the counted text, int[...] in [0, N), each left out of its own counts.

        A position is left out as if the text were counted again without the n-grams that end at this position, one of
        each order, with the discounts as they are: its highest order has one occurrence fewer, and each order below
        has one distinct token before the n-gram fewer where the order above had no other occurrence.
        """
        positions = np.asarray(positions)
        return Predictions(self, self._before(positions), positions)

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Natural logarithms of the probabilities of texts' or windows' tokens, each read from its own beginning.

        Args:
          tokens: int[..., T], ids in [0, V).

        Returns:
          float64[..., T].
        """
        tokens = np.asarray(tokens)
        states, flat = self.states(tokens)[..., :-1].ravel(), tokens.ravel()
        parts = [
            self.after(states[start : start + BLOCK_POSITIONS]).probabilities(flat[start : start + BLOCK_POSITIONS])
            for start in range(0, len(flat), BLOCK_POSITIONS)
        ]
        return np.log(np.concatenate([np.empty(0), *parts])).reshape(tokens.shape)

    def _before(self, positions: np.ndarray) -> np.ndarray:
        """The contexts of positions of the counted text."""
        previous = self.longest[positions - 1]
        previous = np.where(positions > self.order, self.shorter[previous], previous)
        return np.where(positions == 0, ROOT, previous)

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        """int64[M], growing numbers for each context and last token, from node 1 on; then one above all."""
        contexts = np.repeat(np.arange(len(self.totals), dtype=np.int64), np.diff(self.children))
        return np.append(contexts * self.vocabulary + self.tokens[1:], np.iinfo(np.int64).max)

    def _children(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The strings of contexts and a token after each, or ABSENT."""
        children = np.full(nodes.shape, ABSENT, np.int32)
        present = nodes != ABSENT
        keys = (nodes.astype(np.int64) * self.vocabulary + tokens)[present]
        found = np.searchsorted(self._keys, keys)
        children[present] = np.where(self._keys[found] == keys, found + 1, ABSENT)
        return children


class Predictions:
    """The distributions over the next token after contexts, and what they rest on; from an `NGram`.

    Attributes:
      totals: int32[..., K + 1], the sum of the counts after the context of each order: how far that order can be
        trusted. It is 0 where the text lacks the context, or fewer tokens were read.
    """

    def __init__(self, ngram: NGram, states: np.ndarray, positions: np.ndarray | None = None) -> None:
        """Looks up states, and leaves out what the text has at these positions, if any, whose states they are."""
        self._ngram, self._shape = ngram, np.shape(states)
        orders, columns = np.arange(ngram.order + 1)[:, None], np.arange(np.size(states))
        own = np.empty(0, np.int32) if positions is None else ngram.longest[np.ravel(positions)]
        ends = _ends(ngram, np.concatenate([np.ravel(states), own]))
        self._nodes = nodes = ends[:-1, : len(columns)]
        present = nodes != ABSENT
        totals = np.where(present, ngram.totals[nodes], 0)
        backoffs = np.where(present, ngram.backoffs[nodes], 1).astype(np.float64)
        if positions is None:
            unchanged = present.sum(0) - 1
            scales = np.ones(nodes.shape)
        else:
            own = ends[1:, len(columns) :]
            unchanged = ngram.repeated[np.ravel(positions)].astype(np.int32) - 1
            left_out = present & (orders > unchanged)
            counts = np.where(left_out, ngram.counts[own], 0)
            fewer = np.maximum(counts - 1, 0)
            taken = ngram.discounts[orders, np.minimum(fewer, 3)]
            change = taken - ngram.discounts[orders, np.minimum(counts, 3)]
            divisors = np.maximum(totals - left_out, 1)
            scales = totals / divisors
            backoffs = np.where(left_out, (backoffs * totals + change) / divisors, backoffs)
            totals = totals - left_out
            backoffs[totals == 0] = 1
        # Up to an order whose distribution is known whole, it is looked up; each context above adds its continuations.
        base = np.clip(unchanged, ABSENT, ngram.whole_order)
        above = present & (orders > base)
        products = np.cumprod(np.where(above, backoffs, 1)[::-1], 0)[::-1]
        weights = np.concatenate([products[1:], np.ones((1, len(columns)))]) * above
        self._base = np.where(base == ABSENT, ABSENT, nodes[base, columns])
        self._base_weights = products[0].astype(np.float32)
        self._scales = (scales * weights).astype(np.float32)
        # Where the own n-gram is still a continuation, it has a probability of its own.
        self._own = None if positions is None else (left_out, own, ((fewer - taken) / divisors * weights))
        self.totals = np.moveaxis(totals, 0, -1).astype(np.int32).reshape(*self._shape, ngram.order + 1)

    def rows(self) -> np.ndarray:
        """float32[..., V], the probability of every token."""
        ngram, vocabulary = self._ngram, self._ngram.vocabulary
        rows = ngram.whole[self._base]
        rows[self._base == ABSENT] = 1 / vocabulary
        rows *= self._base_weights[:, None]
        # The continuations of all contexts in one list; those of each context begin at `begins`.
        orders, columns = np.nonzero(self._scales)
        nodes = self._nodes[orders, columns]
        first = ngram.children[nodes]
        sizes = ngram.children[nodes + 1] - first
        begins = np.cumsum(sizes) - sizes
        pairs = np.repeat(np.arange(len(sizes)), sizes)
        children = np.arange(len(pairs)) + (first - begins)[pairs]
        values = ngram.probabilities[children] * self._scales[orders, columns][pairs]
        if self._own:
            left_out, own, probabilities = (array[orders, columns] for array in self._own)
            values[(begins + own - first)[left_out]] = probabilities[left_out]
        np.add.at(rows.reshape(-1), (columns * vocabulary)[pairs] + ngram.tokens[children], values)
        return np.maximum(rows, LEAST, out=rows).reshape(*self._shape, vocabulary)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """The probability of one token each, as in `rows`.

        Args:
          tokens: int[...], ids in [0, V).

        Returns:
          float32[...].
        """
        ngram, tokens = self._ngram, np.ravel(tokens)
        children = ngram._children(np.where(self._scales > 0, self._nodes, ABSENT), tokens)
        values = np.where(children == ABSENT, 0, ngram.probabilities[children] * self._scales)
        if self._own:
            left_out, own, probabilities = self._own
            values = np.where(left_out & (children == own), probabilities, values)
        base = np.where(self._base == ABSENT, 1 / ngram.vocabulary, ngram.whole[self._base, tokens])
        return np.maximum(values.sum(0) + base * self._base_weights, LEAST, dtype=np.float32).reshape(self._shape)


def _ends(ngram: NGram, nodes: np.ndarray) -> np.ndarray:
    """The last 0 to K + 1 tokens of strings, as nodes, int32[K + 2, len(nodes)]; ABSENT where a string is shorter."""
    ends = np.empty((ngram.order + 2, len(nodes)), np.int32)
    for length in reversed(range(ngram.order + 2)):
        present = nodes >= ngram.levels[length]
        ends[length] = np.where(present, nodes, ABSENT)
        nodes = np.where(present, ngram.shorter[nodes], nodes)
    return ends


def _strings(text: np.ndarray, longest: int) -> tuple[Any, ...]:
    """The distinct strings of up to `longest` tokens of a text, numbered by length, then by their tokens.

    Returns:
      levels, tokens, shorter, longest and repeated, as in `NGram`; parents, int32[M], each string without its last
      token; occurrences, int[], how often each of the longest strings occurs.
    """
    count = len(text)
    starts = next(starts for length, starts, _ in sorted_suffixes(text) if length >= longest)
    beyond = np.iinfo(np.int32).max
    padded = np.concatenate([text.astype(np.int32), np.full(longest, beyond, np.int32)])
    begins = np.zeros(count + 1, bool)  # Whether a string differs from the one before it, in sorted order.
    begins[[0, count]] = True
    nodes = np.zeros(count + 1, np.int32)  # The string of the present length that starts at each position.
    ending = np.zeros(count, np.int32)  # The longest one so far that ends there.
    repeated = np.full(count, -1, np.int8)
    empty = np.zeros(1, np.int32)
    levels, tokens, parents, shorter = [0, 1], [empty.astype(text.dtype)], [empty], [empty]
    for length in range(1, longest + 1):
        column = padded[starts + (length - 1)]
        begins[1:count] |= column[1:] != column[:-1]
        inside = starts <= count - length
        first = begins[:count] & inside
        heads = starts[first]
        tokens.append(text[heads + (length - 1)])
        parents.append(nodes[heads])
        shorter.append(nodes[heads + 1])
        repeated[starts[~(begins[:count] & begins[1:])] + (length - 1)] += 1
        nodes[starts] = np.cumsum(first, dtype=np.int32) + np.int32(levels[-1] - 1)
        ending[length - 1 :] = nodes[: max(count - length + 1, 0)]
        levels.append(levels[-1] + len(heads))
    bounds = np.flatnonzero(begins)
    occurrences = np.diff(bounds)[inside[bounds[:-1]]]
    return (
        tuple(levels),
        np.concatenate(tokens),
        np.concatenate(parents),
        np.concatenate(shorter),
        occurrences,
        ending,
        repeated,
    )


def count_sizes(counts: np.ndarray) -> list[int]:
    """How many n-grams have a count of 0, 1, 2, 3, 4, and more."""
    return np.bincount(np.minimum(counts, 5), minlength=6).tolist()


def discounts_of(sizes: list[int]) -> np.ndarray:
    """What is taken from counts of 0 (nothing), 1, 2, and more, float64[4]; from `count_sizes` of an order's n-grams.

    Where a text is too small or too regular for the formula, so that a discount would not lie between 0 and its count,
    half the count is taken.

    Source: Chen and Goodman 1998, TR-10-98, equation 26.
    """
    _, one, two, three, four, _ = sizes
    share = one / (one + 2 * two) if one else 0.0
    taken = [0.0]
    for count, (these, more) in enumerate(((one, two), (two, three), (three, four)), 1):
        formula = count - (count + 1) * share * more / these if these else 0.0
        taken.append(formula if 0 < formula < count else count / 2)
    return np.array(taken)


def _checked(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        reject("tokens", f"ids from {tokens.min()} to {tokens.max()}", f"ids from 0 to {vocabulary - 1}")
    return tokens
