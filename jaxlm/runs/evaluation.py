"""How well a trained model predicts a text."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm import invocation
from jaxlm.config import EvaluateConfig, Impl, Protocol, with_settings
from jaxlm.errors import InputError
from jaxlm.nn import dynamic, scoring
from jaxlm.nn.counts import NetworkCounts, Prior
from jaxlm.nn.metrics import bits_per_character, perplexity
from jaxlm.notations.registry import PROSE
from jaxlm.runs.data import Part, joined, notation_of, own_corpus, resets, split
from jaxlm.runs.mixing import Trained, generator_of, left_out, mixable, open_trained
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress
from jaxlm.text.corpus import load_corpus
from jaxlm.text.growing import GrowingNGram
from jaxlm.text.ngram import NGram
from jaxlm.text.scores import Scores

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
      nats_per_unit: the same loss, per note or point; None of prose, and if there is none.
    """

    loss: float
    nats_per_character: float
    bits_per_character: float
    perplexity: float
    tokens: int
    tokens_per_second: float
    nats_per_unit: float | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
      runs: the directory of the run, or of each that was averaged.
      progress: the progress of the checkpoint that was evaluated, the best, of each of them.
      text: a description of the text.
      characters: the text's length, including skipped characters.
      skipped: the number of unknown characters that were skipped.
      protocol: what each token was predicted from.
      static: the figures of the model as trained.
      dynamic: the figures under dynamic evaluation; None unless asked for.
      baseline: the figures of an n-gram alone, counted on the run's training text; None unless asked for.
      unit: what the run's notation consists of, a note or a point; of prose, a character.
      units: how many of them the text has.
      scores: what the model as trained gave to each token but the first, which a notebook shows as the text, tinted;
        None with a protocol that leaves some out.
    """

    runs: tuple[str, ...]
    progress: tuple[Progress, ...]
    text: str
    characters: int
    skipped: int
    protocol: str
    static: Figures
    dynamic: Figures | None = None
    baseline: Figures | None = None
    unit: str = PROSE.unit
    units: int = 0
    scores: Scores | None = dataclasses.field(default=None, repr=False, compare=False)


def evaluate(
    run: Trained = None,
    config: EvaluateConfig | None = None,
    *,
    impl: Impl = "auto",
    mix_ngram: int = 0,
    **settings: Any,
) -> Evaluation:
    """Evaluates the best checkpoint of a run on a text.

    Args:
      run: the run, its directory, or its name, as in `load`; the newest if left out. The log-probabilities of several
        are averaged.
      config: which text, and how; by default the run's validation text.
      impl: the implementation of the recurrence.
      mix_ngram: as in `load`.
      **settings: fields of EvaluateConfig that differ: `evaluate("nietzsche", corpus="my.txt", dynamic=True)`.

    Raises:
      InputError: there is no such run or text, the run's corpus has changed, or the text has unknown characters.
      RunError: the checkpoint cannot be read, for a reason other than damage.
    """
    runs = open_trained(run)
    config = with_settings(config or EvaluateConfig(), settings)
    for each in runs:
        mixable(each, mix_ngram)  # Before a needless download.
    part, name, learned = _read_texts(runs, config, mix_ngram)
    generator, progress = generator_of(runs, mix_ngram, impl, learned)
    model, params, vocab = generator.model, generator.params, generator.vocab
    documents = [read for document in part.documents() if (read := generator.as_read(document, config.unknown))]
    text = "".join(documents)
    ids = vocab.encode(text, "text")
    notation = notation_of(runs[0])
    units = notation.count(text)
    begun = resets(runs[0].record.config, joined(documents), ids, vocab) if len(ids) else None

    def measured(score: Callable[[np.ndarray], np.ndarray]) -> tuple[Figures, np.ndarray]:
        score(ids[:1000])  # Compiles: one program serves texts of any length.
        began = time.perf_counter()
        scores = score(ids)
        seconds = time.perf_counter() - began
        loss = -float(scores.mean(dtype=float))
        characters = len(text) / len(ids)  # Per token.
        figures = Figures(
            loss=loss,
            nats_per_character=loss / characters,
            bits_per_character=bits_per_character(loss, characters),
            perplexity=perplexity(loss),
            tokens=len(scores),
            tokens_per_second=len(scores) / seconds,
            nats_per_unit=loss / characters * len(text) / units if notation is not PROSE and units else None,
        )
        return figures, scores

    def score(ids: np.ndarray) -> np.ndarray:
        given = {"resets": None if begun is None else begun[: len(ids)]} if config.protocol == "carried" else {}
        return scoring.PROTOCOLS[config.protocol](model, params, ids, counts=generator.counts, **given)

    static, scores = measured(score)
    adapted = None
    if config.dynamic:
        known, counts = vocab.encode(learned), generator.counts
        squares = dynamic.mean_squares(model, params, known, prior=lambda at: left_out(counts, at))
        adapted, _ = measured(
            lambda ids: dynamic.score_dynamic(model, params, squares, ids, prior=growing(counts, known, ids))
        )
    counted = None
    if config.baseline:
        ngram = NGram.count(vocab.encode(learned), len(vocab), BASELINE_ORDER)
        counted, _ = measured(lambda ids: _score_ngram(ngram, ids, config.protocol))
    return Evaluation(
        runs=tuple(run.shown for run in runs),
        progress=tuple(progress),
        text=name,
        characters=len(part.text),
        skipped=len(generator.as_read(part.text, "error")) - len(text),
        protocol=config.protocol,
        static=static,
        dynamic=adapted,
        baseline=counted,
        unit=notation.unit,
        units=units,
        scores=Scores.of(scores, text, vocab.widths[ids]) if len(scores) == len(ids) - 1 else None,
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


def growing(counts: NetworkCounts, known: np.ndarray, ids: np.ndarray) -> dynamic.Priors:
    """What n-grams say of the tokens of a text, `ids`, given all before them: those of the training text, `known`, too.

    Returns:
      A function of positions in [1, N). It serves one reading: each call goes on where the last one ended.
    """
    grown = jax.tree.map(lambda one: GrowingNGram(one, known), counts)

    def prior(positions: np.ndarray) -> Any:
        first, last = positions.min(), positions.max()
        given = jax.tree.map(lambda one: Prior(*one.read(ids[first - 1 : last])), grown)
        return jax.tree.map(lambda leaf: leaf[positions - first], given)

    return prior


def _read_texts(runs: Sequence[Run], config: EvaluateConfig, mix_ngram: int) -> tuple[Part, str, str]:
    """The text to evaluate on, its description, and the runs' training text, if it is needed: it is empty if not.

    Raises:
      InputError: there is no such text, the runs' corpus has changed, or they have several.
    """
    run, settings = runs[0], runs[0].record.config
    if config.corpus is None and not settings.validation:
        raise InputError(
            f"corpus: run {run.shown} has no validation text to evaluate on; "
            f"name a text with {invocation.setting('corpus')}"
        )
    learned = ""
    learns = config.dynamic or config.baseline is not None or mix_ngram
    if config.corpus is None or learns:
        if other := next((other for other in runs if _split(other) != _split(run)), None):
            raise InputError(
                f"run: found {run.shown} and {other.shown}, which learned from different texts, expected runs of one "
                f"corpus and validation share; "
                + ("leave one out" if learns else f"name a text with {invocation.setting('corpus')}")
            )
        another = f"restore it, or name another text with {invocation.setting('corpus')}"
        remedy = "restore it" if learns else another
        known, held_out = split(settings, own_corpus(run, remedy))
        learned = known.text
    if config.corpus is None:
        whole = f"{settings.units} of" if settings.units else "the end of"
        # The network itself knows where lines begin.
        judged = Part(held_out.text, (0,)) if settings.units == "lines" else held_out
        return judged, f"{whole} {run.record.corpus}, held out from training", learned
    corpus = load_corpus(
        config.corpus,
        encoding=config.encoding,
        lowercase=settings.lowercase,
        normalize=settings.normalize,
        notation=settings.notation,
    )
    own = ", which the run learned from" if corpus.sha256 == run.record.sha256 else ""
    starts = corpus.starts if settings.units == "files" else (0,)
    return Part(corpus.text, starts), corpus.name + own, learned


def _split(run: Run) -> tuple[Any, ...]:
    """What decides which part of which text a run learned from."""
    config = run.record.config
    return run.record.sha256, config.validation, config.units, config.units and config.seed, config.transpose
