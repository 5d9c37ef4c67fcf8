"""A training run, from a corpus to its last checkpoint."""

import contextlib
import dataclasses
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxlm.config import Impl, TrainConfig
from jaxlm.errors import Diverged, InputError, RunError
from jaxlm.generator import TextGenerator
from jaxlm.nn import lstm, sharding
from jaxlm.nn.metrics import bits_per_character, perplexity
from jaxlm.nn.model import build_model
from jaxlm.nn.scoring import score_carried
from jaxlm.nn.training import Step, TrainState, init_state, make_optimizer, make_step, to_devices, to_host
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import Progress, Record, Run, Writer, best_epoch, locate, now, refuse, unused_path
from jaxlm.runs.stop import Stop, stop_on_signals
from jaxlm.text.batches import PADDING, Streams, Windows, smallest_ids, split_text
from jaxlm.text.corpus import Corpus, Received, load_corpus
from jaxlm.text.vocab import Vocab

SAVE_SECONDS = 300.0
"""A checkpoint is saved after each epoch, and in long ones this often, so that a power cut costs minutes."""

SEED_LENGTH = 60
"""Characters at most in the prompt of a run's samples (the book's: 60)."""

JUDGED_STEPS = 100
"""Steps of an epoch after which its mean loss can tell a divergence, where windows come in random order."""

CUT, CUTS = 0.25, 5
"""What a divergence leaves of the learning rate, and how often that may happen."""


def worst_loss(best: float) -> float:
    """The loss, in nats, over which an epoch that follows one of loss `best` has diverged.

    Far above what a healthy run does from epoch to epoch, and soon passed by one that is lost: the book's published
    run goes from 1.30 to 14.57.
    """
    return 1.25 * best + 0.25


def train(
    config: TrainConfig,
    *,
    run: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] = "checkpoints",
    reporter: Reporter | None = None,
) -> TextGenerator:
    """Trains a model, saving as it goes.

    Ctrl-C, SIGTERM or SIGHUP ends the step at hand, saves, and raises; `resume` goes on.

    Args:
      config: all settings; `dataclasses.replace(jaxlm.BOOK, epochs=5)`, for example.
      run: the name of the new run's directory, or a path; by default made from corpus and recipe.
      checkpoints: the directory of runs that a name is looked up in.
      reporter: told of everything; `jaxlm.Terminal()` prints it.

    Returns:
      The best epoch's model.

    Raises:
      ValueError: the corpus or a directory will not do; nothing was written.
      RunError: the loss diverged again and again, or the disk is full; the best checkpoint is kept.
      KeyboardInterrupt: Ctrl-C; the run is saved.
      SystemExit: SIGTERM or SIGHUP; the run is saved.
    """
    reporter = reporter or Reporter()
    with contextlib.closing(reporter):
        if run is not None and os.path.lexists(locate(run, checkpoints)):
            refuse(locate(run, checkpoints))  # Before a corpus is fetched for nothing.
        lstm.choose(config.impl)
        corpus = load_corpus(config.corpus, lowercase=config.lowercase, progress=reporter.download)
        config = dataclasses.replace(config, corpus=corpus.sources)
        vocab = Vocab.build(config.tokens, *split_text(corpus.text, config.validation), words=config.words)
        material = _Material.of(config, corpus, vocab)
        start = seed_text(material.text, min(config.length, SEED_LENGTH))
        record = Record(config, corpus.name, len(corpus.text), corpus.sha256, start, now())
        path = locate(run, checkpoints) if run is not None else unused_path(checkpoints, corpus.name, config.recipe)
        with stop_on_signals() as stop:
            directory = Run.create(path, record, vocab)
            try:
                with directory.lock():
                    return _fit(directory, config, material, reporter, stop)
            finally:
                directory.remove_if_untrained()


def resume(
    path: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    patience: int | None = None,
    corpus: tuple[str, ...] | None = None,
    impl: Impl | None = None,
    reporter: Reporter | None = None,
) -> TextGenerator:
    """Goes on with a run from its last checkpoint, as if it had never stopped.

    With the same software, devices and impl, the parameters come out the same, bit for bit.

    Args:
      path: the run's directory.
      epochs: epochs in all, if other than the run was begun with; a falling learning rate falls until the last.
      patience: epochs without a better held-out loss to stop after, if others.
      corpus: where the same text is now, if elsewhere.
      impl: how the recurrence is computed, if otherwise.
      reporter: as in `train`.

    Returns:
      The best epoch's model.

    Raises:
      ValueError: there is no such run, its corpus has changed, or all its checkpoints are damaged.
      RunError, KeyboardInterrupt, SystemExit: as in `train`.
    """
    reporter = reporter or Reporter()
    with contextlib.closing(reporter):
        run = Run.open(path)
        config = run.record.config
        given: dict[str, Any] = {"epochs": epochs, "patience": patience, "corpus": corpus, "impl": impl}
        config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
        run.check_trainable()
        lstm.choose(config.impl)  # Before anything is written.
        text = own_corpus(run, config.corpus, "if it has moved, name its new place", reporter.download)
        config = dataclasses.replace(config, corpus=text.sources)
        material = _Material.of(config, text, run.vocab)
        with stop_on_signals() as stop, run.lock():
            return _fit(run, config, material, reporter, stop)


def own_corpus(run: Run, sources: Sequence[str] | None, remedy: str, progress: Received | None = None) -> Corpus:
    """The corpus that a run learns from, read again.

    Args:
      run: the run.
      sources: where its corpus is now.
      remedy: what to do where it is not there.
      progress: as in `load_corpus`.

    Raises:
      InputError: it cannot be read, or is not the text that the run began with.
    """
    try:
        corpus = load_corpus(sources, lowercase=run.record.config.lowercase, progress=progress)
    except InputError as error:
        raise InputError(f"{error}; run {run.path} learns from it: {remedy}") from error
    if corpus.sha256 != run.record.sha256:
        raise InputError(
            f"corpus {' '.join(corpus.sources)}: found {len(corpus.text):,} characters, not the same text as the "
            f"{run.record.characters:,} that run {run.path} was trained on, expected it unchanged; bring it back, "
            "or train a new run"
        )
    return corpus


def seed_text(text: str, length: int) -> str:
    """The prompt of a run's samples, `length` characters of its corpus.

    Source: Deep Learning with Python, 8.1, which draws its start so, after random.seed(42).
    """
    start = random.Random(42).randint(0, max(0, len(text) - length - 1))
    return text[start : start + length]


@dataclasses.dataclass(frozen=True)
class _Material:
    """What a run learns from, and is measured on.

    Attributes:
      corpus: all of it.
      text: what is learned from.
      ids: its tokens, int[N].
      order: what each step reads of them.
      held_out: the text that is only measured on; maybe empty.
      held_out_ids: its tokens.
    """

    corpus: Corpus
    text: str
    ids: np.ndarray
    order: Windows | Streams
    held_out: str
    held_out_ids: np.ndarray

    @classmethod
    def of(cls, config: TrainConfig, corpus: Corpus, vocab: Vocab) -> "_Material":
        text, held_out = split_text(corpus.text, config.validation)
        ids, held_out_ids = vocab.encode(text), vocab.encode(held_out)
        if config.validation and len(held_out_ids) < 2:
            raise InputError(
                f"validation: found {config.validation:g}, which holds out {len(held_out_ids)} tokens, expected at "
                "least 2; use more text, or hold out more of it"
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
            raise InputError(f"{error}, or hold out less than the last {len(held_out):,} characters") from error
        return cls(corpus, text, ids, order, held_out, held_out_ids)


class _Tally:
    """The steps and losses of an epoch, each fetched a step late, so that the device never waits for the host."""

    def __init__(self, progress: Progress, worst: float, reporter: Reporter) -> None:
        self._start, self._worst, self._reporter = progress, worst, reporter
        self.step, self.nats, self.count = progress.step, progress.nats, progress.count
        self._pending: tuple[jax.Array, jax.Array] | None = None

    @property
    def loss(self) -> float:
        """The epoch's mean so far."""
        return self.nats / self.count

    def progress(self) -> Progress:
        """How far the unfinished epoch is."""
        return dataclasses.replace(
            self._start, step=self.step, nats=self.nats, count=self.count, loss=None, validation=None
        )

    def add(self, nats: jax.Array, count: jax.Array) -> None:
        """Takes the sums of the step just sent to the device, and looks at those of the step before.

        Raises:
          Diverged: its loss is not finite.
        """
        self.settle()
        self._pending = nats, count

    def settle(self) -> None:
        """Looks at the last step too.

        Raises:
          Diverged: its loss is not finite.
        """
        if self._pending is None:
            return
        nats, count = (float(value) for value in self._pending)
        self._pending = None
        self.step += 1
        if not math.isfinite(nats):
            raise Diverged(f"step {self.step}: found a loss of {nats}, expected a finite one")
        self.nats += nats
        self.count += int(count)
        self._reporter.step(self.step, self.loss)

    def judge(self) -> None:
        """Compares the epoch's mean with what a healthy run has.

        Raises:
          Diverged: it is far worse than that of the best epoch.
        """
        if self.loss > self._worst:
            raise Diverged(
                f"step {self.step}: found the loss risen to {self.loss:.3f}, expected {self._worst:.3f} at most"
            )


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Turns a device's refusal of memory into a RunError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            "memory: found less than this model and batch need, expected more; choose a smaller --hidden, --batch or "
            "--length"
        ) from error


def _fit(run: Run, config: TrainConfig, material: _Material, reporter: Reporter, stop: Stop) -> TextGenerator:
    """Trains a locked run from its last checkpoint, or from the start, to its last epoch."""
    sharding.split_cpu()
    found = run.restore()
    progress = found[1] if found else Progress(step=0, epoch=0, nats=0.0, count=0, loss=None)
    if config.epochs < progress.epoch:
        raise InputError(
            f"epochs: found {config.epochs}, expected at least the {progress.epoch} that run {run.path} has trained; "
            "leave it out, or ask for more"
        )
    run.go_back_to(progress.step)
    if config != run.record.config:
        with run.writing("config.json"):
            run.write_record(dataclasses.replace(run.record, config=config))
    with _enough_memory():
        fit = _Fit(run, config, material, reporter, stop)
        state = found[0] if found else fit.initial_state()
        fit.announce(state, progress, best_epoch(run.good()))
        writer = run.writer()
        while True:
            try:
                fit.train(state, progress, writer)
                break
            except Diverged as error:
                state, progress = fit.go_back(error, progress, writer)
    return run.generator(config.impl)[0]


class _Fit:
    """The training of a locked run, on its devices."""

    def __init__(self, run: Run, config: TrainConfig, material: _Material, reporter: Reporter, stop: Stop) -> None:
        self._run, self._config, self._material = run, config, material
        self._reporter, self._stop = reporter, stop
        self._steps = material.order.steps(config.batch)
        self._mesh = sharding.make_mesh(config.batch)
        self._model = build_model(config, len(run.vocab), config.impl)
        self._ids = sharding.replicate(smallest_ids(material.ids, len(run.vocab)), self._mesh)
        self._saved_at = time.monotonic()

    def initial_state(self) -> TrainState:
        """The state before the first step, on the host."""
        optimizer = self._optimizer(cuts=0)
        compute = jax.jit(lambda: init_state(self._model, optimizer, self._config))
        return to_host(compute(), self._config.batch)

    def announce(self, state: TrainState, progress: Progress, best: Progress | None) -> None:
        """Tells what is about to be done."""
        material, parameters = self._material, sum(leaf.size for leaf in jax.tree.leaves(state.params))
        self._reporter.start(
            Plan(
                run=self._run,
                corpus=material.corpus,
                held_out=len(material.held_out),
                order=material.order,
                steps=self._steps,
                parameters=parameters,
                devices=sharding.describe(self._mesh),
                start=progress.step,
                finished=self._is_finished(progress.epoch, best),
            )
        )

    def train(self, host_state: TrainState, progress: Progress, writer: Writer) -> None:
        """Trains to the last epoch, or until patience runs out.

        Raises:
          Diverged: the loss or the weights are lost.
          KeyboardInterrupt, SystemExit: the run was asked to stop, and is saved.
        """
        config, run = self._config, self._run
        state = to_devices(host_state, self._mesh)
        update = make_step(self._model, self._optimizer(progress.cuts), config, self._mesh)
        while not self._is_finished(progress.epoch, writer.best):
            began = time.monotonic()
            tally = _Tally(progress, self._worst(writer.best), self._reporter)
            state = self._train_epoch(update, state, progress.epoch, tally, writer)
            host_state = to_host(state, config.batch)
            generator = run.make_generator(host_state.weights, config.impl)
            validation = self._validate(generator, tally.step)
            metrics = self._metrics(progress.epoch + 1, tally, validation, time.monotonic() - began)
            progress = Progress(tally.step, metrics.epoch, 0.0, 0, tally.loss, validation, progress.cuts)
            # The line before the checkpoint: one that is too new is trimmed by `resume`, a missing one never found.
            run.append_metrics(dataclasses.asdict(metrics))
            self._save(writer, host_state, progress)
            if self._stop.signal is None:
                self._reporter.epoch(metrics, generator)
            self._end_if_asked(progress.step)
        self._reporter.end(run, progress, writer.best)

    def go_back(self, error: Diverged, progress: Progress, writer: Writer) -> tuple[TrainState, Progress]:
        """The best state so far, on the host, and how far it is, with a smaller learning rate.

        Raises:
          RunError: the learning rate has been cut too often.
        """
        if progress.cuts == CUTS:
            clip = "" if self._config.clip else ", or with --clip 1"
            raise RunError(
                f"{error}; the learning rate was cut {CUTS} times, to {self._rate(CUTS):.2g}, in vain; "
                f"{'the best checkpoint is kept; ' * bool(writer.best)}train a new run with a smaller "
                f"--learning-rate{clip}"
            ) from error
        # A checkpoint in the middle of the first epoch may be lost already.
        found = self._run.restore(best=True) if writer.best else None
        state, best = found or (self.initial_state(), Progress(step=0, epoch=0, nats=0.0, count=0, loss=None))
        best = dataclasses.replace(best, cuts=progress.cuts + 1)
        writer.go_back_to(best)
        self._reporter.diverged(str(error), best, self._rate(best.cuts))
        return state, best

    def _train_epoch(self, update: Step, state: TrainState, epoch: int, tally: _Tally, writer: Writer) -> TrainState:
        """The rest of an epoch, saving as it goes."""
        config = self._config
        starts = self._material.order.epoch(config.seed, epoch, config.batch)
        for row in range(tally.step - epoch * self._steps, self._steps):
            state, nats, count = update(state, self._ids, sharding.split_rows(starts[row], self._mesh, PADDING))
            tally.add(nats, count)
            # Streams come in the text's order: before the end, a hard passage looks like a loss that has risen.
            if row >= JUDGED_STEPS and isinstance(self._material.order, Windows):
                tally.judge()
            late = time.monotonic() - self._saved_at > SAVE_SECONDS
            if row + 1 < self._steps and (self._stop.signal or late):
                tally.settle()
                self._save(writer, to_host(state, config.batch), tally.progress())
                self._end_if_asked(tally.step)
        tally.settle()
        tally.judge()
        return state

    def _save(self, writer: Writer, state: TrainState, progress: Progress) -> None:
        writer.save(state, progress)
        self._saved_at = time.monotonic()

    def _end_if_asked(self, step: int) -> None:
        """Ends a run that is saved at `step` and was asked to stop."""
        if self._stop.signal:
            self._reporter.stopped(self._run, step)
            self._stop.end()

    def _is_finished(self, epoch: int, best: Progress | None) -> bool:
        patience = self._config.patience
        impatient = patience is not None and best is not None and epoch - best.epoch >= patience
        return impatient or epoch >= self._config.epochs

    def _worst(self, best: Progress | None) -> float:
        """The loss over which an epoch has diverged."""
        # Before it has learned, a model gives all tokens about the same probability.
        return worst_loss(math.log(len(self._run.vocab)) if best is None or best.loss is None else best.loss)

    def _rate(self, cuts: int) -> float:
        return self._config.learning_rate * CUT**cuts

    def _optimizer(self, cuts: int) -> optax.GradientTransformation:
        return make_optimizer(self._config, self._steps * self._config.epochs, CUT**cuts)

    def _validate(self, generator: TextGenerator, step: int) -> float | None:
        """The loss on the held-out text, in nats per token, from one end to the other; None where there is none.

        Raises:
          Diverged: it is not finite.
        """
        ids = self._material.held_out_ids
        if not len(ids):
            return None
        loss = -float(score_carried(generator.model, generator.params, ids).mean(dtype=np.float64))
        if not math.isfinite(loss):
            raise Diverged(f"step {step}: found a held-out loss of {loss}, expected a finite one")
        return loss

    def _metrics(self, epoch: int, tally: _Tally, validation: float | None, seconds: float) -> EpochMetrics:
        material = self._material
        # All characters in a token; a stride that favours some of them must not tell here.
        bits = bits_per_character(tally.loss, len(material.text) / len(material.ids))
        held_out_bits = None
        if validation is not None:
            held_out_bits = bits_per_character(validation, len(material.held_out) / len(material.held_out_ids))
        return EpochMetrics(
            epoch=epoch,
            step=tally.step,
            loss=tally.loss,
            bits_per_character=bits,
            perplexity=perplexity(tally.loss),
            validation_loss=validation,
            validation_bits_per_character=held_out_bits,
            validation_perplexity=None if validation is None else perplexity(validation),
            seconds=seconds,
        )
