"""A training run, from a corpus to its last checkpoint."""

import contextlib
import dataclasses
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import invocation
from jaxlm.config import TrainConfig, check_inherited, checkpoints_folder, resumed
from jaxlm.errors import Diverged, InputError, RunError, first_line
from jaxlm.generator import TextGenerator
from jaxlm.nn import lstm, sharding
from jaxlm.nn.ambient import device_get, device_put
from jaxlm.nn.metrics import bits_per_character, perplexity
from jaxlm.nn.model import Params, build_model, count_parameters, extended
from jaxlm.nn.scoring import score_carried
from jaxlm.nn.training import (
    BLOCK,
    Batches,
    Steps,
    TrainState,
    block_steps,
    compiled_steps,
    initial_state,
    send_batches,
    step_bytes,
    to_devices,
    to_host,
)
from jaxlm.notations.registry import NOTATIONS
from jaxlm.runs import arrays
from jaxlm.runs.data import SEED_LENGTH, Data, own_corpus, read_as, read_corpus, reading, remarked, seed_text, split
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import InUse, NameTaken, Record, Run, find, locate, now, refuse, unused_path
from jaxlm.runs.samples import draw_samples
from jaxlm.runs.stop import Stop, stop_on_signals
from jaxlm.runs.storage import CONFIG, Progress, Saver, disk_of
from jaxlm.runs.teaching import Teacher, open_teacher
from jaxlm.text.batches import Windows, smallest_ids
from jaxlm.text.vocab import Vocab

SAVE_SECONDS = 300.0
"""A checkpoint is saved after each epoch, and during long ones this often, so that a power cut costs only minutes."""

CALL_SECONDS = 0.5
"""About the most that a call of several steps takes; so stops, saves and progress come soon, and the host keeps up.

On a CPU, a call maps and clears the pages of its buffers once for all its steps, not for each.
"""

JUDGED_STEPS = 100
"""Steps of an epoch after which its mean loss can reveal a divergence, if windows come in random order."""

RATE_CUT, MAX_CUTS = 0.25, 5
"""The factor by which a divergence scales the learning rate, and how often that may happen."""


def worst_loss(best: float) -> float:
    """The loss, in nats, above which an epoch has diverged, given the best epoch's loss.

    It is far above what a healthy run reaches, and a diverging one soon exceeds it: the book's published run jumps
    from 1.30 to 14.57.
    """
    return 1.25 * best + 0.25


def train(
    config: TrainConfig,
    *,
    run: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    start_from: Run | None = None,
) -> TextGenerator:
    """Trains a new run.

    Ctrl-C, SIGTERM or SIGHUP stops it: it completes the steps under way, saves, and raises. So do SIGUSR1, SIGUSR2 and
    SIGXCPU, unless something else handles them. A signal that was ignored stays ignored. Signals reach only the main
    thread; `stop` stops a run in another.

    Args:
      config: all settings.
      run: the name of the run's directory, or a path; by default made from corpus and recipe.
      checkpoints: the folder of runs; `$JAXLM_CHECKPOINTS` or `checkpoints` if left out.
      reporter: receives the run's events; by default nothing does.
      stop: saves and stops the run, with Stopped, once it is set.
      start_from: the run whose weights to start from, instead of random ones: those of its best epoch. Its vocabulary
        is extended with the characters that it lacks; n-grams are counted anew. `config.started` makes the settings.

    Returns:
      The best epoch's model.

    Raises:
      InputError: the corpus or a directory cannot be used, or the weights do not permit a setting; nothing was written.
      RunError: the loss diverged again and again, or the disk is full; the best checkpoint is kept.
      Stopped: `stop` was set; the run is saved.
      KeyboardInterrupt: Ctrl-C; the run is saved.
      SystemExit: another signal; the status is 128 plus its number; the run is saved.
    """
    reporter = reporter or Reporter()
    folder = checkpoints_folder() if checkpoints is None else os.path.expanduser(checkpoints)
    _split_cpu(config)
    with contextlib.closing(reporter):
        if run is not None and os.path.lexists(locate(run, folder)):
            refuse(locate(run, folder))  # Before a needless download.
        lstm.choose(config.impl, config.model.gates)
        if start_from:
            check_inherited(start_from.record.config, config)
            weights, _ = start_from.weights()
        corpus = read_corpus(config, reporter.download)
        config = read_as(config, corpus)
        learned, held_out = split(config, corpus)
        corpus = remarked(config, corpus, learned)
        if start_from:
            vocab = start_from.vocab.extended(learned.text + held_out.text)
        else:
            vocab = Vocab.build(config.tokens, learned.text, held_out.text, words=config.words)
        data = Data.of(config, corpus, vocab, mixed=True)
        record = Record(
            config=config,
            corpus=corpus.name,
            characters=len(corpus.text),
            sha256=corpus.sha256,
            seed_text=seed_text(data.text, min(config.length, SEED_LENGTH), config.units, NOTATIONS[corpus.notation]),
            created=now(),
            reading=reading(corpus),
        )
        teacher = open_teacher(config, [folder], data, vocab)
        if teacher:
            record = dataclasses.replace(record, teacher_weights=teacher.digest)
        checkpoint = None
        if start_from:
            checkpoint = _start(weights, config, vocab), Progress()
            parent_weights = arrays.weights_digest(weights)
            record = dataclasses.replace(record, parent=start_from.path.name, parent_weights=parent_weights)
        with stop_on_signals(stop) as asked:
            directory = _new_run(run, folder, record, vocab, data.ids, checkpoint)
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(directory.lock())
                    return Trainer(directory, config, data, reporter, asked, teacher).run()
                except InUse:  # Another process has resumed it already.
                    raise
                except BaseException:
                    directory.remove_if_untrained()
                    raise


def _start(weights: Params, config: TrainConfig, vocab: Vocab) -> arrays.Items:
    """What the checkpoint of step 0 holds if training starts from the weights of another run."""
    with _device_trouble():
        fresh = initial_state(build_model(config, len(vocab), config.impl), config)
    params = extended(weights, fresh.params)
    return fresh._replace(params=params, average=params if config.average else {}).to_items()


def _new_run(
    run: str | os.PathLike[str] | None,
    folder: str,
    record: Record,
    vocab: Vocab,
    ids: np.ndarray,
    checkpoint: tuple[arrays.Items, Progress] | None,
) -> Run:
    """Creates the run of this name, or of one made from its corpus and recipe that nothing else has taken."""
    if run is not None:
        return Run.create(locate(run, folder), record, vocab, ids, checkpoint)
    while True:
        with contextlib.suppress(NameTaken):  # By another process, at this moment.
            path = unused_path(folder, record.corpus, record.config.recipe)
            return Run.create(path, record, vocab, ids, checkpoint)


def resume(
    run: Run | str | os.PathLike[str] | None = None,
    *,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> TextGenerator:
    """Resumes a run from its last checkpoint, as if it had never stopped.

    With the same software, devices and impl, the parameters come out the same, bit for bit.

    Args:
      run: the run, its directory, or its name, as in `load`; the newest if left out.
      reporter: as in `train`.
      stop: as in `train`.
      **settings: `epochs`, `patience` and `impl`, if they change, and `corpus` and `teacher`, the new location of the
        same text and runs. All others must be the run's own.

    Returns:
      The best epoch's model.

    Raises:
      InputError: there is no such run, a setting cannot change, the corpus has changed, or all checkpoints are damaged.
      RunError, Stopped, KeyboardInterrupt, SystemExit: as in `train`.
    """
    reporter = reporter or Reporter()
    with contextlib.closing(reporter):
        directory = run if isinstance(run, Run) else Run.open(find(run))
        try:
            config = resumed(directory.record.config, settings)
        except InputError as error:
            raise InputError(f"run {directory.shown}: {error}") from error
        _split_cpu(config)
        directory.check_trainable()
        # Before anything is written.
        lstm.choose(config.impl, config.model.gates)
        directory.ids()
        text = own_corpus(directory, "if it has moved, name its new place", config, reporter.download)
        config = dataclasses.replace(config, corpus=text.sources)
        data = Data.of(config, text, directory.vocab, directory.record.mixed)
        teacher = open_teacher(config, [directory.path.parent, checkpoints_folder()], data, directory.vocab)
        _check_teacher(directory, config, teacher)
        with stop_on_signals(stop) as asked, directory.lock():
            return Trainer(directory, config, data, reporter, asked, teacher).run()


def _split_cpu(config: TrainConfig) -> None:
    """Makes devices of the CPU cores, and sets memory as the steps of a run want it."""
    sharding.split_cpu(step_bytes(config, sharding.cpu_rows(config.batch)))


def _check_teacher(run: Run, config: TrainConfig, teacher: Teacher | None) -> None:
    """Raises InputError unless a resumed run has the teacher that it began with."""
    name, named = invocation.setting("teacher"), " ".join(config.teacher or ())
    expected = run.record.teacher_weights
    if (teacher.digest if teacher else "") == expected:
        return
    if not teacher:
        raise InputError(f"{name}: found none, but run {run.shown} learns from one; leave it out, or train a new run")
    if not expected:
        raise InputError(
            f"{name}: found {named}, but run {run.shown} began without one; leave it out, or train a new run"
        )
    raise InputError(
        f"{name}: {named} has changed since run {run.shown} began to learn from it; restore it, or train a new run"
    )


class Trainer:
    """Trains a locked run from its last checkpoint, or from the start, to its last epoch."""

    def __init__(
        self, run: Run, config: TrainConfig, data: Data, reporter: Reporter, stop: Stop, teacher: Teacher | None
    ) -> None:
        self._run, self._config, self._data, self._teacher = run, config, data, teacher
        self._reporter, self._stop = reporter, stop
        self._steps = data.order.steps(config.batch)
        self._mesh = sharding.make_mesh(config.batch)
        self._training_model = run.model(config.impl, config.precision)
        self._model = run.model(config.impl)  # As for evaluation and generation.
        self._saved_at = time.monotonic()
        self._starts: tuple[int, np.ndarray] | None = None
        self._sent: tuple[tuple[int, int], Batches] | None = None
        self._expected: np.ndarray | None = None
        self._block = block_steps(config, len(run.vocab))
        self._pace = _Pace()

    def run(self) -> TextGenerator:
        """Trains, rolling back whenever the loss diverges; returns the best epoch's model.

        Raises:
          InputError: the run has trained for more epochs already, or all its checkpoints are damaged.
          RunError: the loss diverged too often, memory is too small, or the disk is full.
          Stopped, KeyboardInterrupt, SystemExit: the run was asked to stop, and is saved.
        """
        run, config = self._run, self._config
        found = run.restore()
        state, progress = found or (None, Progress())
        if config.epochs < progress.epoch:
            raise InputError(
                f"epochs: found {config.epochs}, but run {run.shown} has trained {progress.epoch} already; leave it "
                "out, or ask for more"
            )
        if not 0 <= progress.step - progress.epoch * self._steps < self._steps:
            raise InputError(
                f"run {run.shown}: step {progress.step:,} is not in epoch {progress.epoch + 1}, which has "
                f"{self._steps:,} steps; restore the directory from a backup, or train a new run"
            )
        run.storage.roll_back(progress.step)
        if config != run.record.config:
            with disk_of(run.path, CONFIG):
                run.write_record(dataclasses.replace(run.record, config=config))
        with _device_trouble():
            state = state or initial_state(self._model, config)
            self._ids = sharding.replicate(smallest_ids(self._data.ids, len(run.vocab)), self._mesh)
            saver = Saver(run.storage)
            self._announce(state, progress, saver.best)
            with sharding.large_buffers_kept():
                while True:
                    try:
                        self._train(state, progress, saver)
                        break
                    except Diverged as error:
                        state, progress = self._recover(error, progress, saver)
        return run.generator(config.impl)[0]

    def _announce(self, state: TrainState, progress: Progress, best: Progress | None) -> None:
        """Reports the plan."""
        self._reporter.start(
            Plan(
                run=self._run,
                corpus=self._data.corpus,
                held_out=len(self._data.held_out),
                order=self._data.order,
                steps=self._steps,
                parameters=count_parameters(state.params),
                counts=0 if self._data.counts is None else len(self._data.counts),
                devices=sharding.describe(self._mesh, self._config.batch),
                start=progress.step,
                best=best,
                finished=self._is_finished(progress.epoch, best),
            )
        )

    def _train(self, host_state: TrainState, progress: Progress, saver: Saver) -> None:
        """Trains to the last epoch, or until patience runs out.

        Raises:
          Diverged: the loss or the weights diverged.
          Stopped, KeyboardInterrupt, SystemExit: the run was asked to stop, and is saved.
        """
        config, run = self._config, self._run
        state = to_devices(host_state, self._mesh)
        steps = compiled_steps(
            self._training_model, config, self._steps * config.epochs, RATE_CUT**progress.cuts, self._mesh
        )
        if progress.judged is not None:  # Whatever ended the run may have come before its samples.
            with self._stop.nothing_to_save():
                self._sample(self._generator(device_put(host_state.weights)), progress, saver)
            self._end_if_asked(progress.step)
        if not self._is_finished(progress.epoch, saver.best):
            self._read_with_teacher(progress.step)
        call = None
        while not self._is_finished(progress.epoch, saver.best):
            began = time.monotonic()
            tally = self._tally(progress, saver.best)
            call = call or self._call(steps, state, progress.epoch, progress.step - progress.epoch * self._steps)
            state = self._train_epoch(steps, call, progress.epoch, tally, saver)
            host_state = to_host(state, config.batch)
            weights = device_put(host_state.weights)
            validation = self._validate(weights, tally.step)
            # The devices need not wait while the host saves. If the run ends here, these steps are lost.
            call = self._call(steps, state, progress.epoch + 1, 0) if progress.epoch + 1 < config.epochs else None
            generator = self._generator(weights)
            metrics = self._metrics(progress.epoch + 1, tally, validation, time.monotonic() - began)
            progress = Progress(
                step=tally.step, epoch=metrics.epoch, loss=tally.loss, validation=validation, cuts=progress.cuts
            )
            # The line before the checkpoint: `resume` drops one that is too new, but could not restore a missing one.
            saver.add_metrics(dataclasses.asdict(metrics))
            self._save(saver, host_state, progress)
            if not self._stop.asked:
                with self._stop.nothing_to_save():
                    self._reporter.epoch(metrics, generator)
                    self._sample(generator, progress, saver)
            self._end_if_asked(progress.step)
        self._reporter.end(run, progress, saver.best)

    def _generator(self, weights: Params) -> TextGenerator:
        return self._run.generator_of(self._model, weights, self._data.counts)

    def _sample(self, generator: TextGenerator, progress: Progress, saver: Saver) -> None:
        """Generates the texts that the reporter watches, and keeps them; those of this epoch that are not kept yet."""
        kept = {sample["temperature"] for sample in self._run.samples() if sample["step"] == progress.step}
        wanted = tuple(temperature for temperature in self._reporter.watch.temperature if temperature not in kept)
        if not wanted:
            return
        watch = dataclasses.replace(self._reporter.watch, temperature=wanted)
        drawn = draw_samples(generator, watch, self._config.seed, self._data.text)
        samples = [{"epoch": progress.epoch, "step": progress.step, **sample} for sample in drawn]
        saver.add_samples(*samples)
        self._reporter.samples(samples)

    def _call(self, steps: Steps, state: TrainState, epoch: int, batch: int) -> "_Call":
        """Dispatches the next steps of an epoch, from this batch on: as many as fit the pace."""
        first, batches = batch % self._block, self._batches(epoch, batch)
        count = min(self._pace.steps, self._block - first, self._steps - batch)
        found = steps(state, self._ids, batches, np.int32(first), np.int32(count))
        # While the devices still compute.
        if batch + count < self._steps:
            self._batches(epoch, batch + count)
        elif epoch + 1 < self._config.epochs:
            self._batches(epoch + 1, 0)
        return _Call(*found, count)

    def _train_epoch(self, steps: Steps, call: "_Call", epoch: int, tally: "_Tally", saver: Saver) -> TrainState:
        """Trains the rest of an epoch, whose next call has been dispatched; saves as it goes."""
        batch = tally.step - epoch * self._steps
        self._pace.start()
        while True:
            batch += call.number
            tally.add(call)
            self._pace.adapt(call.number)
            if batch == self._steps:
                break
            late = time.monotonic() - self._saved_at > SAVE_SECONDS
            if self._stop.asked or late:
                tally.settle()
                self._save(saver, to_host(call.state, self._config.batch), tally.progress())
                self._end_if_asked(tally.step)
                self._pace.start()
            call = self._call(steps, call.state, epoch, batch)
        tally.settle()
        tally.judge()
        return call.state

    def _tally(self, progress: Progress, best: Progress | None) -> "_Tally":
        """The tally of the epoch that begins, or goes on, at `progress`."""
        judged_from = math.inf
        # Streams come in the text's order: before the end, a hard passage would look like a divergence.
        if isinstance(self._data.order, Windows):
            judged_from = progress.epoch * self._steps + JUDGED_STEPS
        return _Tally(progress, self._worst(best), judged_from, self._reporter)

    def _batches(self, epoch: int, batch: int) -> Batches:
        """The block with this batch of an epoch, on the devices; the last one asked for is kept."""
        first = batch - batch % self._block
        if self._sent is None or self._sent[0] != (epoch, first):
            starts = self._starts_of(epoch)[first : first + self._block]
            prior = self._data.prior(starts, self._config.length, self._block)
            begun = self._data.resets(starts, self._config.length)
            expected = self._expectations(starts)
            self._sent = (epoch, first), send_batches(starts, prior, self._mesh, begun, expected)
        return self._sent[1]

    def _read_with_teacher(self, step: int) -> None:
        """Has the teacher, if there is one, read the text before the next step, so that stops need not wait for it."""
        if self._teacher is None:
            return
        with self._stop.nothing_to_save():
            self._expected = self._teacher.expectations(self._data)
        self._teacher = None  # Its parameters and counts are needed no more.
        if step:
            self._end_if_asked(step)
        elif self._stop.asked:
            self._stop.end(f"run {self._run.shown}: stopped before its first step")

    def _expectations(self, starts: np.ndarray) -> np.ndarray | None:
        """What the teacher expects after each token of some batches' windows, float16[block, B, T, V]; None without."""
        if self._expected is None:
            return None
        positions = (starts[..., None] + np.arange(1, self._config.length + 1)) % len(self._expected)
        whole = np.zeros((self._block, *positions.shape[1:], self._expected.shape[1]), np.float16)
        whole[: len(positions)] = self._expected[positions]
        return whole

    def _starts_of(self, epoch: int) -> np.ndarray:
        """Where the windows of each batch of an epoch start, int32[steps, B]; the last ones asked for are kept."""
        if self._starts is None or self._starts[0] != epoch:
            self._starts = epoch, self._data.order.starts(self._config.seed, epoch, self._config.batch)
        return self._starts[1]

    def _recover(self, error: Diverged, progress: Progress, saver: Saver) -> tuple[TrainState, Progress]:
        """Rolls the run back to its best state so far, with a lower learning rate; returns it and its progress.

        Raises:
          RunError: the learning rate has been cut too often.
        """
        if progress.cuts == MAX_CUTS:
            kept = "the best checkpoint is kept; " if saver.best else ""
            clip = "" if self._config.clip else f", or with {invocation.setting('clip', 1)}"
            raise RunError(
                f"{error}; cutting the learning rate {MAX_CUTS} times, to {self._rate(MAX_CUTS):.2g}, did not help; "
                f"{kept}train a new run with a lower {invocation.setting('learning_rate')}{clip}"
            ) from error
        found = self._run.restore(best=True) if saver.best else None
        best = dataclasses.replace(found[1] if found else Progress(), cuts=progress.cuts + 1)
        saver.roll_back(best)
        if not found:
            # A checkpoint within the first epoch may have diverged already; one of step 0 is what it started from.
            found = self._run.restore()
        state = found[0] if found else initial_state(self._model, self._config)
        self._reporter.diverged(str(error), best, self._rate(best.cuts))
        return state, best

    def _save(self, saver: Saver, state: TrainState, progress: Progress) -> None:
        saver.save(state.to_items(), progress)
        self._saved_at = time.monotonic()

    def _end_if_asked(self, step: int) -> None:
        """Ends a run that is saved at `step` and was asked to stop."""
        if self._stop.asked:
            self._reporter.stopped(self._run, step)
            resumes = invocation.resume(self._run.path)
            self._stop.end(f"run {self._run.shown}: stopped and saved at step {step:,}; to resume it: {resumes}")

    def _is_finished(self, epoch: int, best: Progress | None) -> bool:
        patience = self._config.patience
        impatient = patience is not None and best is not None and epoch - best.epoch >= patience
        return impatient or epoch >= self._config.epochs

    def _worst(self, best: Progress | None) -> float:
        """The loss above which an epoch has diverged."""
        # An untrained model gives all tokens about the same probability.
        return worst_loss(math.log(len(self._run.vocab)) if best is None or best.loss is None else best.loss)

    def _rate(self, cuts: int) -> float:
        return self._config.learning_rate * RATE_CUT**cuts

    def _validate(self, params: Params, step: int) -> float | None:
        """The loss on the whole validation text, in nats per token; None if there is none.

        Raises:
          Diverged: the loss is not finite.
        """
        ids = self._data.held_out_ids
        if not len(ids):
            return None
        data = self._data
        scores = score_carried(self._model, params, ids, counts=data.counts, resets=data.held_out_begun)
        loss = -float(scores.mean(dtype=np.float64))
        if not math.isfinite(loss):
            raise Diverged(f"step {step}: found a validation loss of {loss}")
        return loss

    def _metrics(self, epoch: int, tally: "_Tally", validation: float | None, seconds: float) -> EpochMetrics:
        data = self._data
        # Characters per token of the whole text: the stride must not skew the figure.
        bits = bits_per_character(tally.loss, len(data.text) / len(data.ids))
        held_out_bits = None
        if validation is not None:
            held_out_bits = bits_per_character(validation, len(data.held_out) / len(data.held_out_ids))
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
            device=sharding.named(self._mesh),
        )


class _Call(NamedTuple):
    """Steps that have been dispatched.

    Attributes:
      state: after them.
      nats, counts: float32[BLOCK] and int32[BLOCK], the sums of each step.
      number: of steps.
    """

    state: TrainState
    nats: jax.Array
    counts: jax.Array
    number: int


class _Pace:
    """How many steps a call of the devices takes: about as many as fit CALL_SECONDS."""

    def __init__(self) -> None:
        self.steps = 1
        self._pending: tuple[int, float] | None = None

    def start(self) -> None:
        """No call is pending."""
        self._pending = None

    def adapt(self, steps: int) -> None:
        """A call of so many steps has been dispatched, and the one before has ended."""
        now = time.monotonic()
        # A call before the last change, or at the end of a block, says nothing about the present number.
        if self._pending is not None and self._pending[0] == self.steps:
            seconds = now - self._pending[1]
            if seconds > CALL_SECONDS:
                self.steps = max(1, self.steps // 2)
            elif seconds < CALL_SECONDS / 2:
                self.steps = min(BLOCK, self.steps * 2)
        self._pending = steps, now


class _Tally:
    """The steps and losses of an epoch, each fetched one call late, while the next call is under way.

    Args:
      progress: at the first step.
      worst: the mean loss above which the epoch has diverged.
      judged_from: the step after which its mean so far is judged, too.
      reporter: told of each step.
    """

    def __init__(self, progress: Progress, worst: float, judged_from: float, reporter: Reporter) -> None:
        self._start, self._worst, self._judged_from, self._reporter = progress, worst, judged_from, reporter
        self.step, self.nats, self.count = progress.step, progress.nats, progress.count
        self._pending: _Call | None = None

    @property
    def loss(self) -> float:
        """The epoch's mean so far."""
        return self.nats / self.count

    def progress(self) -> Progress:
        """The progress within the unfinished epoch."""
        return dataclasses.replace(
            self._start, step=self.step, nats=self.nats, count=self.count, loss=None, validation=None
        )

    def add(self, call: _Call) -> None:
        """Takes the sums of steps just dispatched, and fetches those of the previous ones.

        Raises:
          Diverged: as `settle` does.
        """
        self.settle()
        self._pending = call

    def settle(self) -> None:
        """Fetches the sums of the last call.

        Raises:
          Diverged: the loss of one of its steps is not finite, or the mean has risen too far.
        """
        if self._pending is None:
            return
        call, self._pending = self._pending, None
        nats, counts = device_get((call.nats, call.counts))
        for loss, count in zip(nats[: call.number].tolist(), counts[: call.number].tolist(), strict=True):
            self.step += 1
            if not math.isfinite(loss):
                raise Diverged(f"step {self.step}: found a loss of {loss}, expected a finite one")
            self.nats += loss
            self.count += int(count)
            self._reporter.step(self.step, self.loss)
            if self.step >= self._judged_from:
                self.judge()

    def judge(self) -> None:
        """Compares the epoch's mean loss with the best epoch's.

        Raises:
          Diverged: it is far worse.
        """
        if self.loss > self._worst:
            raise Diverged(f"step {self.step}: the loss rose to {self.loss:.3f}, expected {self._worst:.3f} at most")


@contextlib.contextmanager
def _device_trouble() -> Iterator[None]:
    """Turns a device's lack of memory, or a failure of cuDNN, into a RunError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            if "cudnn" not in str(error).lower():
                raise
            raise RunError(
                f"cuDNN failed ({first_line(error)[:200]}); choose {invocation.setting('impl', 'fused')}"
            ) from error
        raise RunError(
            "memory: the device has too little for this model and batch; choose a smaller "
            f"{invocation.setting('hidden')}, {invocation.setting('batch')} or {invocation.setting('length')}"
        ) from error
