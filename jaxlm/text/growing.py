"""The n-grams of a text that is being read: each token counts as soon as it was read."""

import numpy as np

from jaxlm.text.ngram import ABSENT, LEAST, ROOT, NGram, count_sizes, discounts_of

RECOUNT_TOKENS = 1 << 14
"""After how many tokens all is counted anew, so that what is kept beside an `NGram` stays small."""


class GrowingNGram:
    """What `NGram.count` would say after each token of a text that follows another, without counting all of it again.

    A token adds one to the count of its longest n-gram, of up to K + 1 tokens. Where that was new, the next shorter one
    has one more distinct token before it, so it counts, too, and so on. What changes is kept beside the `NGram` of what
    came before; contexts that it lacks have numbers above its nodes.
    """

    def __init__(self, ngram: NGram, text: np.ndarray) -> None:
        """Reads on where a text ends, int[N], of which these are the n-grams."""
        self._text, self._ngram = text, ngram
        self._tokens_read = 0
        self._since: list[int] = []  # The tokens that the NGram has not counted.
        self._begin()

    def _begin(self) -> None:
        ngram = self._ngram
        self._new: dict[tuple[int, int], int] = {}  # The contexts that it lacks, by all but the last token, and that.
        # The continuations of contexts in which a token was counted: tokens, in any order, and their counts.
        self._grown: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        levels = [slice(ngram.levels[k + 1], ngram.levels[k + 2]) for k in range(ngram.order + 1)]
        self._sizes = [count_sizes(ngram.counts[level]) for level in levels]
        self._discounts = ngram.discounts.copy()
        # The contexts that end where the text does, of 0 to K tokens.
        ends = [int(ngram.longest[-1]) if len(ngram.longest) else ROOT]
        while ends[-1] != ROOT:
            ends.append(int(ngram.shorter[ends[-1]]))
        self._ends = ends[::-1][: ngram.order + 1]

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads the next tokens, and tells what follows each, in contexts that begin where the reading began.

        Args:
          tokens: int[T], ids in [0, V).

        Returns:
          float32[T, V], the probabilities of all tokens, and int32[T, K + 1], the totals of the contexts, as
          `Predictions` has them.
        """
        order, vocabulary = self._ngram.order, self._ngram.vocabulary
        rows = np.full((len(tokens), vocabulary), 1 / vocabulary, np.float32)
        totals = np.zeros((len(tokens), order + 1), np.int32)
        for row, row_totals, token in zip(rows, totals, tokens.tolist(), strict=True):
            self._count(token)
            self._since.append(token)
            self._tokens_read += 1
            if len(self._since) == RECOUNT_TOKENS:
                self._text = np.concatenate([self._text, np.array(self._since, self._text.dtype)])
                self._ngram = NGram.count(self._text, vocabulary, order)
                self._since.clear()
                self._begin()
            for k, context in enumerate(self._ends[: self._tokens_read + 1]):
                after, counts = self._continuations(context)
                row_totals[k] = total = counts.sum()
                if total:
                    taken = self._discounts[k][np.minimum(counts, 3)]
                    row *= taken.sum() / total
                    row[after] += (counts - taken) / total
        return np.maximum(rows, LEAST, out=rows), totals

    def _continuations(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that follow a context, and their counts, int[M] each."""
        ngram = self._ngram
        if grown := self._grown.get(context):
            return grown
        known = context < len(ngram.totals)
        children = slice(ngram.children[context], ngram.children[context + 1]) if known else slice(0)
        return ngram.tokens[children], ngram.counts[children]

    def _count(self, token: int) -> None:
        ends, counting = [ROOT], True
        for k in reversed(range(len(self._ends))):
            context = self._ends[k]
            if counting:
                before = self._grow(context, token)
                sizes = self._sizes[k]
                sizes[min(before, 5)] -= 1
                sizes[min(before + 1, 5)] += 1
                self._discounts[k] = discounts_of(sizes)
                counting = before == 0
            if k < self._ngram.order:
                child = self._child(context, token)
                if child == ABSENT:
                    child = self._new[context, token] = len(self._ngram.counts) + len(self._new)
                ends.insert(1, child)
        self._ends = ends

    def _grow(self, context: int, token: int) -> int:
        """Counts a token after a context once more; returns how often it had been."""
        tokens, counts = self._continuations(context)
        place = np.flatnonzero(tokens == token)
        if not len(place):
            self._grown[context] = np.append(tokens, token), np.append(counts, 1)
            return 0
        before = int(counts[place[0]])
        if context not in self._grown:
            counts = counts.copy()  # Those of the NGram stay as they are.
        counts[place] += 1
        self._grown[context] = tokens, counts
        return before

    def _child(self, context: int, token: int) -> int:
        """The string of a context and a token, or ABSENT."""
        ngram = self._ngram
        if context < len(ngram.totals):
            first, end = ngram.children[context], ngram.children[context + 1]
            child = int(first + np.searchsorted(ngram.tokens[first:end], token))
            if child < end and ngram.tokens[child] == token:
                return child
        return self._new.get((context, token), ABSENT)
