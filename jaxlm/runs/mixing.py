"""Trained models, ready to generate: as they were trained, averaged, or with an n-gram of their training text mixed in.

The average's distribution is the geometric mean of the networks', normalised again: the softmax of their mean logits.
The mixture's is softmax(a * logits + b * log p), with the probabilities p of the n-gram. It needs no training: it is a
network that takes counts (`nn.model`), but not at its input, and with the constant b as its gate. So whatever serves
such a network serves a mixture: sampling, scoring, dynamic evaluation.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxlm.config import Impl, ngram_order
from jaxlm.errors import InputError, reject
from jaxlm.generator import TextGenerator
from jaxlm.nn import scoring, sharding
from jaxlm.nn.ambient import device_get, device_put
from jaxlm.nn.counts import NetworkCounts, prior_of
from jaxlm.nn.model import Average
from jaxlm.runs.data import own_corpus, split
from jaxlm.runs.run import Run, find
from jaxlm.runs.storage import Progress
from jaxlm.text.ngram import NGram

TAIL_SHARE, TAIL_TOKENS, TAIL_NUMBERS = 0.1, 20_000, 2**22
"""The weights are fitted on the last tenth of the training text, on no more tokens and probabilities than these."""

NEWTON_STEPS = 50
"""Of the fit, at most; it needs about five."""


OneRun = Run | str | os.PathLike[str]
Trained = OneRun | Sequence[OneRun] | None
"""A run, its directory or its name; or several; or None for the newest."""


def load(path: Trained = None, *, impl: Impl = "auto", mix_ngram: int = 0, epoch: int | str = "best") -> TextGenerator:
    """The best checkpoint of a run, ready to generate: `load("nietzsche").generate("the truth ")`.

    Args:
      path: the run's directory, or its name in `$JAXLM_CHECKPOINTS` or `checkpoints`; `nietzsche` is the bundled model,
        unless there is a run of that name. The newest run if left out. A run can be loaded on any machine. The
        log-probabilities of several runs, `load(["a", "b"])`, are averaged; one that is named twice counts twice.
        Prompts are read as the first reads them, and its seed text, window and mode are the default.
      impl: the implementation of the recurrence: `scan` is the plain reference, `auto` the fastest here.
      mix_ngram: the most tokens of context of an n-gram that is mixed in, up to 16; 0 for none. It is counted on the
        run's training text, so the corpus must be there.
      epoch: which of the checkpoints that are kept: `best`, `last`, or the end of an epoch by its number.

    Raises:
      ValueError: there is no run, or no checkpoint in it, or this machine cannot run `impl`; or runs have different
        vocabularies; or for an n-gram, the corpus is missing or has changed, or the run's network takes n-grams
        already.
    """
    sharding.split_cpu()  # While it still can be done: the same program may train later.
    return generator_of(open_trained(path), mix_ngram, impl, epoch=epoch)[0]


def open_trained(run: Trained = None, checkpoints: str | None = None) -> list[Run]:
    """The runs that `load` means, names looked up in `checkpoints`.

    Raises:
      InputError: there is no such run; or the runs have different vocabularies, or read texts differently.
    """
    several: Sequence[Any] = run if isinstance(run, tuple | list) and run else [run]
    runs = [one if isinstance(one, Run) else Run.open(find(one, checkpoints, trained=True)) for one in several]
    _check_alike(runs)
    return runs


def generator_of(
    runs: Sequence[Run],
    mix_ngram: int = 0,
    impl: Impl = "auto",
    text: str | None = None,
    epoch: int | str = "best",
) -> tuple[TextGenerator, list[Progress]]:
    """`generator_with` of a run, or the average of several of `open_trained`; and each checkpoint's progress.

    A run that is named twice counts twice in the average.

    Raises:
      InputError: as in `generator_with`.
      RunError: as in `generator_with`.
    """
    times = Counter(run.path for run in runs)
    made = {}
    for run in runs:
        if run.path not in made:
            made[run.path] = generator_with(run, mix_ngram, impl, text, epoch)
    generators, progress = [generator for generator, _ in made.values()], [made[run.path][1] for run in runs]
    first = generators[0]
    if len(generators) == 1:
        return first, progress
    members = tuple(generator.model for generator in generators)
    weights = tuple(count / len(runs) for count in times.values())
    model = Average(first.model.vocabulary, first.model.config, first.model.impl, members=members, weights=weights)
    params = {f"members_{i}": generator.params for i, generator in enumerate(generators)}
    counts: Any = tuple(generator.counts for generator in generators)
    return dataclasses.replace(first, model=model, params=params, counts=counts), progress


def left_out(counts: NetworkCounts, positions: np.ndarray) -> Any:
    """What the n-grams of a training text say of its tokens at some positions, if each had not been counted."""
    return jax.tree.map(lambda one: prior_of(one.left_out(positions)), counts)


def _check_alike(runs: Sequence[Run]) -> None:
    """Raises InputError unless runs can be averaged."""
    first, *others = runs
    for other in others:
        if other.vocab != first.vocab:
            found, expected = "different vocabularies", "one vocabulary, as those of one text have"
        elif _reading(other) != _reading(first):
            found, expected = "different settings of lowercase, normalize, units or notation", "the same"
        else:
            continue
        raise InputError(
            f"run: found {first.shown} and {other.shown} with {found}, expected {expected}, to average them; "
            "leave one out"
        )


def _reading(run: Run) -> tuple[Any, ...]:
    config = run.record.config
    return config.lowercase, config.normalize, config.units, config.notation


def generator_with(
    run: Run, mix_ngram: int, impl: Impl = "auto", text: str | None = None, epoch: int | str = "best"
) -> tuple[TextGenerator, Progress]:
    """`Run.generator`, with an n-gram of the run's training text mixed in.

    Args:
      run: the run.
      mix_ngram: the n-gram's order; 0 for none.
      impl: the implementation of the recurrence.
      text: the run's training text; it is read again if left out.
      epoch: as in `Run.generator`.

    Raises:
      InputError: the order is out of range, the run's network takes n-grams already, or its corpus is missing or has
        changed; or as in `Run.generator`.
      RunError: as in `Run.generator`.
    """
    order, config = mixable(run, mix_ngram), run.record.config
    if not order:
        return run.generator(impl, epoch)
    if text is None:
        text = split(config, own_corpus(run, "restore it"))[0].text
    generator, progress = run.generator(impl, epoch)
    ids = generator.vocab.encode(text)
    counts = NGram.count(ids, len(generator.vocab), order)
    of_network, of_ngram = _fit(*_predictions(generator, counts, ids, progress.validation))

    model = generator.model.clone(config=dataclasses.replace(generator.model.config, ngram=order))
    params = dict(device_get(generator.params))
    params["dense"] = jax.tree.map(lambda leaf: leaf * np.float32(of_network), params["dense"])
    gate = model.abstract_params()["ngram_gate"]
    params["ngram_gate"] = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), gate)
    params["ngram_gate"]["bias"][:] = of_ngram
    return dataclasses.replace(generator, model=model, params=device_put(params), counts=counts), progress


def mixable(run: Run, mix_ngram: int) -> int:
    """The order of an n-gram that can be mixed into a run; 0 for none.

    Raises:
      InputError: the order is out of range, or the run's network takes n-grams already.
    """
    order = ngram_order("mix_ngram", mix_ngram)
    if order and run.record.config.model.ngram:
        reject("mix_ngram", order, f"0 for run {run.shown}, whose network takes n-grams already", "leave it out")
    return order


def _predictions(
    generator: TextGenerator, counts: NGram, ids: np.ndarray, validation: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network and its n-gram say at the end of the training text, as if neither had learned from it.

    Leaving each position out of its own counts is easy, but the network has learned all of it, one that is large for
    its text so well that n-grams would seem to be of no use. How well it does on other text is known if there was a
    validation text: then each answer's logit is lowered by as much as it takes to reach that loss, and the n-grams are
    those of the text before the tail, since nothing of a validation text is counted either.

    Args:
      generator: the model as it was trained.
      counts: the n-grams of the training text.
      ids: the training text, int[N].
      validation: the model's loss on its validation text; None if there was none.

    Returns:
      The network's log-probabilities, float64[n, V]; the n-gram's; and the answers, int[n].
    """
    length = generator.length if generator.mode == "window" else None
    first = length or 1
    most = min(TAIL_TOKENS, TAIL_NUMBERS // counts.vocabulary, int(TAIL_SHARE * len(ids)), len(ids) - first)
    count = max(1, most)
    border = len(ids) - count
    answers = ids[border:]
    logits = scoring.predict(generator.model, generator.params, ids[border - first :], length).astype(float)
    network = logits - _log_sum(logits)
    if validation is None:
        predictions = counts.left_out(np.arange(border, len(ids)))
    else:
        own = network[np.arange(count), answers]
        network[np.arange(count), answers] -= _handicap(own, validation)
        network -= _log_sum(network)
        before = NGram.count(ids[:border], counts.vocabulary, counts.order)
        start = max(0, border - counts.order)
        predictions = before.after(before.states(ids[start:-1])[border - start :])
    return network, np.log(predictions.rows().astype(float)), answers


def _handicap(own: np.ndarray, loss: float) -> float:
    """By how much logits of the right answers must fall to reach a mean loss; 0 if it is that high already.

    Args:
      own: the answers' log-probabilities, float64[n].
      loss: the mean loss, in nats.
    """
    others = np.log(np.maximum(-np.expm1(own), np.finfo(float).tiny))
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        reached = (np.logaddexp(others, own - middle) - (own - middle)).mean()
        low, high = (middle, high) if reached < loss else (low, middle)
    return low


def _fit(network: np.ndarray, ngram: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The weights of two log-probabilities, float64[2], that minimize the loss of their mixture.

    The loss is convex. Each weight also costs half its squared distance from the network alone, 1 and 0, divided by n.
    So there is one minimum, and a finite one, also where every answer is certain or the weights make no difference.

    Args:
      network: float64[n, V].
      ngram: float64[n, V].
      answers: int[n].
    """
    rows, alone = np.arange(len(answers)), np.array([1.0, 0.0])
    features = np.stack([network, ngram])
    features -= features[:, rows, answers, None]

    def loss(weights: np.ndarray) -> float:
        total = _log_sum(np.tensordot(weights, features, 1)).mean()
        return float(total + ((weights - alone) ** 2).sum() / (2 * len(rows)))

    weights = alone
    for _ in range(NEWTON_STEPS):
        scores = np.tensordot(weights, features, 1)
        shares = np.exp(scores - _log_sum(scores))
        weighed = features * shares
        means = weighed.sum(2)
        gradient = means.mean(1) + (weights - alone) / len(rows)
        squares = np.array([[(one * other).sum() for other in features] for one in weighed])
        curvature = (squares - means @ means.T + np.eye(2)) / len(rows)
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < 1e-12:  # The loss would fall by half of this.
            break
        while loss(weights - step) > loss(weights) - gradient @ step / 4:
            step /= 2
        weights = weights - step
    return weights


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """float64[n, 1]: the logarithm of the sum of exponentials of float64[n, V]."""
    most = logits.max(-1, keepdims=True)
    return most + np.log(np.exp(logits - most).sum(-1, keepdims=True))
