"""How well a trained model predicts a text."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlm import invocation
from jaxlm.config import EvaluateConfig, Impl, Protocol, with_settings
from jaxlm.errors import InputError
from jaxlm.nn import dynamic, scoring
from jaxlm.nn.counts import Prior, prior_of
from jaxlm.nn.metrics import bits_per_character, perplexity
from jaxlm.runs.data import own_corpus
from jaxlm.runs.mixing import generator_with, mixable
from jaxlm.runs.run import Run, find
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import split_text
from jaxlm.text.corpus import load_corpus
from jaxlm.text.ngram import NGram

BASELINE_ORDER = 6
"""The most tokens of context that the n-gram has. Of 4 to 8 characters, 6 had the lowest loss on parts of the training
texts of Nietzsche and Shakespeare that were not counted."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """The loss of a model, or of an n-gram, on a text, in the usual units.

    Attributes:
      loss: nats per token.
      nats_per_character: the same loss, per character.
      bits_per_character: the same, in bits.
      perplexity: exp(loss).
      tokens: the number of tokens scored.
      tokens_per_second: once compiled.
    """

    loss: float
    nats_per_character: float
    bits_per_character: float
    perplexity: float
    tokens: int
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
      run: the run's directory.
      progress: the progress of the checkpoint that was evaluated, the run's best.
      text: a description of the text.
      characters: the text's length, including skipped characters.
      skipped: the number of unknown characters that were skipped.
      protocol: what each token was predicted from.
      static: the figures of the model as trained.
      dynamic: the figures under dynamic evaluation; None unless asked for.
      baseline: the figures of an n-gram alone, counted on the run's training text; None unless asked for.
    """

    run: str
    progress: Progress
    text: str
    characters: int
    skipped: int
    protocol: str
    static: Figures
    dynamic: Figures | None = None
    baseline: Figures | None = None


def evaluate(
    run: Run | str | os.PathLike[str] | None = None,
    config: EvaluateConfig | None = None,
    *,
    impl: Impl = "auto",
    mix_ngram: int = 0,
    **settings: Any,
) -> Evaluation:
    """Evaluates the best checkpoint of a run on a text.

    Args:
      run: the run, its directory, or its name, as in `load`; the newest if left out.
      config: which text, and how; by default the run's validation text.
      impl: the implementation of the recurrence.
      mix_ngram: as in `load`.
      **settings: fields of EvaluateConfig that differ: `evaluate("nietzsche", corpus="my.txt", dynamic=True)`.

    Raises:
      InputError: there is no such run or text, the run's corpus has changed, or the text has unknown characters.
      RunError: the checkpoint cannot be read, for a reason other than damage.
    """
    run = run if isinstance(run, Run) else Run.open(find(run, trained=True))
    config = with_settings(config or EvaluateConfig(), settings)
    mixable(run, mix_ngram)  # Before a needless download.
    part, name, learned = _read_texts(run, config, mix_ngram)
    generator, progress = generator_with(run, mix_ngram, impl, learned)
    model, params, vocab = generator.model, generator.params, generator.vocab
    text = generator.as_read(part, config.unknown)
    ids = vocab.encode(text, "text")

    def measured(score: Callable[[np.ndarray], np.ndarray]) -> Figures:
        score(ids[:1000])  # Compiles: one program serves texts of any length.
        began = time.perf_counter()
        scores = score(ids)
        seconds = time.perf_counter() - began
        loss = -float(scores.mean(dtype=float))
        characters = len(text) / len(ids)  # Per token.
        return Figures(
            loss=loss,
            nats_per_character=loss / characters,
            bits_per_character=bits_per_character(loss, characters),
            perplexity=perplexity(loss),
            tokens=len(scores),
            tokens_per_second=len(scores) / seconds,
        )

    static = measured(lambda ids: scoring.PROTOCOLS[config.protocol](model, params, ids, counts=generator.counts))
    adapted = None
    if config.dynamic:
        known, counts = vocab.encode(learned), generator.counts
        if counts is None:
            squares = dynamic.mean_squares(model, params, known)
            adapted = measured(lambda ids: dynamic.score_dynamic(model, params, squares, ids))
        else:
            grown = functools.partial(_grown, counts, known)
            squares = dynamic.mean_squares(model, params, known, prior=lambda at: prior_of(counts.left_out(at)))
            adapted = measured(
                lambda ids: dynamic.score_dynamic(model, params, squares, ids, prior=functools.partial(grown, ids))
            )
    counted = None
    if config.baseline:
        ngram = NGram.count(vocab.encode(learned), len(vocab), BASELINE_ORDER)
        counted = measured(lambda ids: _score_ngram(ngram, ids, config.protocol))
    return Evaluation(
        run=run.shown,
        progress=progress,
        text=name,
        characters=len(part),
        skipped=len(generator.as_read(part, "error")) - len(text),
        protocol=config.protocol,
        static=static,
        dynamic=adapted,
        baseline=counted,
    )


def _score_ngram(ngram: NGram, ids: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The log-probabilities that an n-gram gives to the tokens that a protocol scores, in the same order.

    Returns:
      float64[K], in nats.
    """
    if protocol == "cold-256":
        windows = scoring.consecutive(ids, 256)
        scores = ngram.log_probabilities(np.where(windows == scoring.NO_TOKEN, 0, windows))
        return scores[:, 1:].ravel()[: len(ids) - 1]
    # The contexts are shorter than a window, so that all that a window cuts off is out of their reach.
    first, stride = (60, 3) if protocol == "window-60" else (1, 1)
    return ngram.log_probabilities(ids)[first::stride]


def _grown(counts: NGram, known: np.ndarray, ids: np.ndarray, positions: np.ndarray) -> Prior:
    """What n-grams say of the tokens at some positions of a text, `ids`, given all before them.

    They are counted anew on the training text, `known`, and on what precedes the first of these positions.
    """
    first, last = positions.min(), positions.max()
    counts = NGram.count(np.concatenate([known, ids[:first]]), counts.vocabulary, counts.order)
    start = max(0, first - counts.order)
    return prior_of(counts.after(counts.states(ids[start:last])[positions - start]))


def _read_texts(run: Run, config: EvaluateConfig, mix_ngram: int) -> tuple[str, str, str]:
    """The text to evaluate on, its description, and the run's training text, if it is needed: it is empty if not.

    Raises:
      InputError: there is no such text, or the run's corpus has changed.
    """
    settings = run.record.config
    if config.corpus is None and not settings.validation:
        raise InputError(
            f"corpus: run {run.shown} has no validation text to evaluate on; "
            f"name a text with {invocation.setting('corpus')}"
        )
    learned = held_out = ""
    learns = config.dynamic or config.baseline is not None or mix_ngram
    if config.corpus is None or learns:
        another = f"restore it, or name another text with {invocation.setting('corpus')}"
        remedy = "restore it" if learns else another
        learned, held_out = split_text(own_corpus(run, settings.corpus, remedy).text, settings.validation)
    if config.corpus is None:
        return held_out, f"the end of {run.record.corpus}, held out from training", learned
    corpus = load_corpus(
        config.corpus, encoding=config.encoding, lowercase=settings.lowercase, normalize=settings.normalize
    )
    own = ", which the run learned from" if corpus.sha256 == run.record.sha256 else ""
    return corpus.text, corpus.name + own, learned
