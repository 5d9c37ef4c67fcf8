"""A training run, from a corpus to its last checkpoint."""

import contextlib
import dataclasses
import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import jax
import numpy as np

from jaxlm import lstm, sharding
from jaxlm.checkpoint import Progress, Record, Run, build_model, locate, now, refuse, unused_path
from jaxlm.config import Impl, InputError, RunError, TrainConfig
from jaxlm.data import PADDING, Windows, smallest_ids
from jaxlm.metrics import bits_per_character
from jaxlm.sampling import TextGenerator
from jaxlm.text import Corpus, Received, Vocab, load_corpus
from jaxlm.training import init_state, make_optimizer, make_step

SAVE_SECONDS = 300.0
"""A checkpoint is saved after each epoch, and in long ones this often, so that a power cut costs minutes."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run after it has saved: Ctrl-C, `kill`, a closed connection."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
      run: its directory.
      corpus: the text.
      windows: in an epoch.
      steps: in an epoch.
      parameters: of the model.
      devices: in words.
      start: completed updates; more than 0 when the run is resumed.
    """

    run: Run
    corpus: Corpus
    windows: int
    steps: int
    parameters: int
    devices: str
    start: int


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """A line of metrics.jsonl.

    Attributes:
      epoch: completed epochs.
      step: completed updates.
      loss: the epoch's mean, in nats per token, each window's taken before the update that learns from it.
      bits_per_character: the same loss, per character.
      seconds: since the epoch was begun, or resumed.
    """

    epoch: int
    step: int
    loss: float
    bits_per_character: float
    seconds: float


class Reporter:
    """What a run tells as it goes on; subclasses show it. Every method may be left as it is: silent."""

    def download(self, done: int, total: int) -> None:
        """A corpus is being fetched: bytes so far, and in all."""

    def start(self, plan: Plan) -> None:
        """The run is about to begin, or to go on."""

    def step(self, step: int, loss: float) -> None:
        """An update is completed; `loss` is the epoch's mean so far."""

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        """An epoch is completed and saved."""

    def stopped(self, run: Run, step: int) -> None:
        """The run was asked to stop, and is saved at `step`."""

    def end(self, run: Run) -> None:
        """All epochs are completed."""

    def close(self) -> None:
        """Nothing more will be told, whatever happened."""


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
      RunError: the loss is not finite, or the disk is full; the last good checkpoint is kept.
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
        vocab = Vocab.build(config.tokens, corpus.text, config.words)
        ids = vocab.encode(corpus.text)
        windows = Windows(len(ids), config.length, config.stride)
        start = seed_text(corpus.text, config.length)
        record = Record(config, corpus.name, len(corpus.text), corpus.sha256, start, now())
        path = locate(run, checkpoints) if run is not None else unused_path(checkpoints, corpus.name, config.recipe)
        with _stop_on_signals() as stop:
            directory = Run.create(path, record, vocab)
            try:
                with directory.lock():
                    return _fit(directory, config, corpus, ids, windows, reporter, stop)
            finally:
                directory.remove_if_untrained()


def resume(
    path: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    corpus: tuple[str, ...] | None = None,
    impl: Impl | None = None,
    reporter: Reporter | None = None,
) -> TextGenerator:
    """Goes on with a run from its last checkpoint, as if it had never stopped.

    With the same software, devices and impl, the parameters come out the same, bit for bit.

    Args:
      path: the run's directory.
      epochs: epochs in all, if other than the run was begun with.
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
        if epochs is not None:
            config = dataclasses.replace(config, epochs=epochs)
        if corpus is not None:
            config = dataclasses.replace(config, corpus=corpus)
        if impl is not None:
            config = dataclasses.replace(config, impl=impl)
        lstm.choose(config.impl)  # Before anything is written.
        text = own_corpus(run, config.corpus, "if it has moved, name its new place", reporter.download)
        config = dataclasses.replace(config, corpus=text.sources)
        ids = run.vocab.encode(text.text)
        windows = Windows(len(ids), config.length, config.stride)
        with _stop_on_signals() as stop, run.lock():
            return _fit(run, config, text, ids, windows, reporter, stop)


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


class _Stop:
    """Signals that ask the run to end; the second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = number
        if again:
            self.end()

    def end(self) -> NoReturn:
        """Raises what the signal stands for."""
        if self.signal is None or self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals.
        return
    previous = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Tally:
    """The steps and losses of an epoch, each fetched a step late, so that the device never waits for the host."""

    def __init__(self, progress: Progress, reporter: Reporter) -> None:
        self.step, self.nats, self.count = progress.step, progress.nats, progress.count
        self._reporter = reporter
        self._pending: tuple[jax.Array, jax.Array] | None = None

    def add(self, nats: jax.Array, count: jax.Array) -> None:
        """Takes the sums of the step just sent to the device, and looks at those of the step before."""
        self.settle()
        self._pending = nats, count

    def settle(self) -> None:
        """Looks at the last step too.

        Raises:
          RunError: its loss is not finite.
        """
        if self._pending is None:
            return
        nats, count = (float(value) for value in self._pending)
        self._pending = None
        self.step += 1
        if not math.isfinite(nats):
            raise RunError(
                f"step {self.step}: found a loss of {nats}, expected a finite one; the last good checkpoint is kept; "
                "train again with a smaller --learning-rate, or with --clip 1"
            )
        self.nats += nats
        self.count += int(count)
        self._reporter.step(self.step, self.nats / self.count)

    def start_epoch(self) -> None:
        """Forgets the losses so far."""
        self.nats, self.count = 0.0, 0


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


def _fit(
    run: Run,
    config: TrainConfig,
    corpus: Corpus,
    ids: np.ndarray,
    windows: Windows,
    reporter: Reporter,
    stop: _Stop,
) -> TextGenerator:
    """Trains a locked run from its last checkpoint, or from the start, to its last epoch."""
    vocab = run.vocab
    steps = windows.steps(config.batch)
    characters = len(corpus.text) / len(ids)  # In a token; a stride that favours some of them must not tell here.
    sharding.split_cpu()
    restored = run.restore()
    progress = restored[1] if restored else Progress(step=0, epoch=0, nats=0.0, count=0, loss=None)
    if config.epochs < progress.epoch:
        raise InputError(
            f"epochs: found {config.epochs}, expected at least the {progress.epoch} that run {run.path} has trained; "
            "leave it out, or ask for more"
        )
    run.go_back_to(progress.step)
    if config != run.record.config:
        with run.writing("config.json"):
            run.write_record(dataclasses.replace(run.record, config=config))
    with _enough_memory(), run.writer() as writer:
        mesh = sharding.make_mesh(config.batch)
        model, optimizer = build_model(config, vocab, config.impl), make_optimizer(config)
        initial = restored[0] if restored else jax.jit(lambda: init_state(model, optimizer, config.seed))()
        state = sharding.replicate(initial, mesh)
        device_ids = sharding.replicate(smallest_ids(ids, len(vocab)), mesh)
        update = make_step(model, optimizer, config.length, mesh)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        reporter.start(Plan(run, corpus, len(windows), steps, parameters, sharding.describe(mesh), progress.step))

        tally = _Tally(progress, reporter)
        saved_at = time.monotonic()
        for epoch in range(progress.epoch, config.epochs):
            began = time.monotonic()
            starts = windows.epoch(config.seed, epoch, config.batch)
            for row in range(tally.step - epoch * steps, steps):
                state, nats, count = update(state, device_ids, sharding.split_rows(starts[row], mesh, PADDING))
                tally.add(nats, count)
                if row + 1 < steps and (stop.signal or time.monotonic() - saved_at > SAVE_SECONDS):
                    tally.settle()
                    writer.save(state, Progress(tally.step, epoch, tally.nats, tally.count, None))
                    saved_at = time.monotonic()
                    if stop.signal:
                        reporter.stopped(run, tally.step)
                        stop.end()
            tally.settle()
            loss = tally.nats / tally.count
            tally.start_epoch()
            metrics = EpochMetrics(
                epoch + 1, tally.step, loss, bits_per_character(loss, characters), time.monotonic() - began
            )
            # The line before the checkpoint: one that is too new is trimmed by `resume`, a missing one never found.
            run.append_metrics(dataclasses.asdict(metrics))
            writer.save(state, Progress(tally.step, epoch + 1, 0.0, 0, loss))
            saved_at = time.monotonic()
            if stop.signal is None:
                reporter.epoch(metrics, run.make_generator(jax.device_get(state.params), config.impl))
            if stop.signal:
                reporter.stopped(run, tally.step)
                stop.end()
        reporter.end(run)
    return run.generator(config.impl)[0]
