"""A run's training and validation text."""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np

from jaxlm.config import TrainConfig
from jaxlm.errors import InputError
from jaxlm.nn.counts import Prior, prior_of
from jaxlm.runs.run import Run
from jaxlm.text.batches import Streams, Windows, split_text
from jaxlm.text.corpus import Corpus, DownloadError, Received, load_corpus
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

SEED_LENGTH = 60
"""The most characters in the prompt of a run's samples (the book's: 60)."""


def own_corpus(run: Run, sources: Sequence[str] | None, remedy: str, progress: Received | None = None) -> Corpus:
    """Reads a run's corpus again.

    Args:
      run: the run.
      sources: where its corpus is now.
      remedy: the advice if it cannot be read.
      progress: as in `load_corpus`.

    Raises:
      InputError: the corpus cannot be read or downloaded, or is not the text that the run was started on.
    """
    try:
        corpus = load_corpus(
            sources,
            encoding=run.record.config.encoding,
            lowercase=run.record.config.lowercase,
            normalize=run.record.config.normalize,
            progress=progress,
        )
    except DownloadError as error:
        raise DownloadError(f"{error}; run {run.shown} learned from that text") from error
    except InputError as error:
        raise InputError(f"{error}; run {run.shown} learned from it: {remedy}") from error
    if corpus.sha256 != run.record.sha256:
        raise InputError(
            f"corpus {' '.join(corpus.sources)}: found {len(corpus.text):,} characters, not the same text as the "
            f"{run.record.characters:,} that run {run.shown} was trained on; restore that text, or train a new run"
        )
    return corpus


def seed_text(text: str, length: int) -> str:
    """The prompt of a run's samples: `length` characters of its corpus.

    Source: Deep Learning with Python, 8.1, which draws the start this way, after random.seed(42).
    """
    start = random.Random(42).randint(0, max(0, len(text) - length - 1))
    return text[start : start + length]


@dataclasses.dataclass(frozen=True)
class Data:
    """A run's training and validation text.

    Attributes:
      corpus: the whole corpus.
      text: the training text.
      ids: its tokens, int[N].
      order: which of them each step reads.
      held_out: the validation text; empty if there is none.
      held_out_ids: its tokens.
      counts: the n-grams of the training text; None if the network takes none.
    """

    corpus: Corpus
    text: str
    ids: np.ndarray
    order: Windows | Streams
    held_out: str
    held_out_ids: np.ndarray
    counts: NGram | None

    @classmethod
    def of(cls, config: TrainConfig, corpus: Corpus, vocab: Vocab) -> "Data":
        text, held_out = split_text(corpus.text, config.validation)
        ids, held_out_ids = vocab.encode(text), vocab.encode(held_out)
        if config.validation and len(held_out_ids) < 2:
            raise InputError(
                f"validation: {config.validation:g} leaves {len(held_out_ids)} of the corpus's tokens for validation, "
                "expected at least 2; use more text, or a larger share"
            )
        order: Windows | Streams
        try:
            if config.stride is None:
                order = Streams(len(ids), config.length)
            else:
                order = Windows(len(ids), config.length, config.stride)
        except InputError as error:
            if not config.validation:
                raise
            raise InputError(f"{error}, or validate on less than the last {len(held_out):,} characters") from error
        counts = NGram.count(ids, len(vocab), config.model.ngram) if config.model.ngram else None
        return cls(
            corpus=corpus,
            text=text,
            ids=ids,
            order=order,
            held_out=held_out,
            held_out_ids=held_out_ids,
            counts=counts,
        )

    def prior(self, starts: np.ndarray, length: int, steps: int) -> Prior | None:
        """What n-grams say after each token of some batches' windows, each position left out of its own counts.

        Without that, the network would learn to trust counts that contain the answer.

        Args:
          starts: int32[S, B], where the windows start.
          length: T.
          steps: to which the batches are padded, with arrays of ones and zeros.

        Returns:
          Arrays of leading shape (steps, B, T); None without n-grams.
        """
        if self.counts is None:
            return None
        positions = (starts[..., None] + np.arange(1, length + 1)) % len(self.ids)
        shape = (steps, *positions.shape[1:])
        whole = Prior(
            np.ones((*shape, self.counts.vocabulary), np.float32), np.zeros((*shape, self.counts.order + 1), np.int32)
        )
        # Step by step, since many at once would need memory that no cache holds.
        for step, here in enumerate(positions):
            whole.probabilities[step], whole.totals[step] = prior_of(self.counts.left_out(here))
        return whole
