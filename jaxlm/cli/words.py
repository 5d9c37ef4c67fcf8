"""What is said of a run, wherever it is shown."""

import shutil
import time

from jaxlm import invocation
from jaxlm.config import TrainConfig
from jaxlm.notations.notation import plural
from jaxlm.notations.registry import PROSE
from jaxlm.runs.data import notation_of
from jaxlm.runs.reporter import EpochMetrics, Plan
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import Windows

KINDS = {"char": "characters", "byte": "bytes", "word": "words"}
"""The kinds of tokens in words."""

HINT_EPOCHS, HINT_SHARE = 3, 0.25
"""A hint at `--patience` appears once the best epoch is this many epochs ago, and this share of all of them."""


def duration(seconds: float) -> str:
    """A readable duration: 4.5 s, 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def facts(plan: Plan) -> dict[str, str]:
    """What a run learns, from what and where, by name."""
    record, corpus = plan.run.record, plan.corpus
    config = record.config
    counts = {}
    if plan.counts:
        reach = f"contexts of up to {config.model.ngram} {KINDS[config.tokens]}"
        counts["Counts"] = f"{plan.counts:,} n-grams, with {reach}"
    return {
        "Corpus": f"{corpus.name}, {len(corpus.text):,} characters",
        **_notation(plan),
        **_reading(plan),
        **({"Weights": f"started from those of {record.parent}"} if record.parent else {}),
        **({"Teacher": " ".join(config.teacher)} if config.teacher else {}),
        f"Distinct {KINDS[config.tokens]}": f"{len(plan.run.vocab):,}",
        "Parameters": f"{plan.parameters:,}",
        **counts,
        "Device": plan.devices,
        "Run": plan.run.shown,
        "Seed text": repr(record.seed_text),
    }


def _notation(plan: Plan) -> dict[str, str]:
    """What the corpus is, if it is no prose."""
    notation, text = notation_of(plan.run), plan.corpus.text
    if notation is PROSE:
        return {}
    pieces, units = text.count(notation.separator), notation.count(text)
    return {"Notation": f"{notation.files}: {plural(pieces, notation.piece)}, {plural(units, notation.unit)}"}


def _reading(plan: Plan) -> dict[str, str]:
    """How the corpus is read."""
    config, found = plan.run.record.config, {}
    if isinstance(plan.order, Windows):
        found["Windows"] = f"{len(plan.order):,} of {config.length} at stride {config.stride}"
    else:
        found["Streams"] = f"{config.batch}, reading {config.length} {KINDS[config.tokens]} per step"
    if plan.held_out:
        which = f"whole {config.units} of" if config.units else "the last"
        found["Validation"] = f"{which} {plan.held_out:,} characters"
    return found


def idle_gpu(plan: Plan) -> str:
    """A hint at a GPU that JAX does not use; empty if there is none."""
    if plan.devices.startswith("CPU") and shutil.which("nvidia-smi"):
        return "This machine has an NVIDIA GPU that JAX cannot use yet: pip install 'jax[cuda]'"
    return ""


def beginning(plan: Plan) -> str:
    """Where a resumed run begins, or that all its epochs are trained; empty for a new one."""
    epochs = plan.run.record.config.epochs
    if not plan.finished:
        epoch = plan.start // plan.steps + 1
        return f"Resuming from step {plan.start:,}, in epoch {epoch} of {epochs}." if plan.start else ""
    if plan.start == plan.steps * epochs:
        longer = invocation.resume(plan.run.path, epochs=2 * epochs)
        return f"Trained {epochs} of {epochs} epochs already. To train longer: {longer}"
    return ""  # Patience has run out, as `ended` says.


def preparing(plan: Plan) -> str:
    """What comes before the first step, and takes a while."""
    reading = "Reading the text with the teacher, then compiling" if plan.run.record.config.teacher else "Compiling"
    return f"{reading} the training step..."


class Meter:
    """Where a run is, and how fast. Compiling, saving and samples do not count.

    Attributes:
      epoch: the epoch under way, of how many.
      row: the last step, counted from the epoch's start.
      speed: steps per second; 0 before the second step.
      left: the seconds to the end of the epoch.
      whole: the seconds to the end of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epochs = plan.run.record.config.epochs
        self.started = 0.0
        self.restart(plan.start)

    def restart(self, step: int) -> None:
        """The run has begun, or gone back to a step."""
        self._first, self.started = step, time.monotonic()

    def step(self, step: int) -> None:
        """A step is complete."""
        steps, now = self._plan.steps, time.monotonic()
        self.row = (step - 1) % steps + 1
        self.epoch = f"Epoch {(step - 1) // steps + 1}/{self._epochs}"
        if step == self._plan.start + 1 or self.row == 1:
            self._first, self.started = step, now
        self.speed = (step - self._first) / max(now - self.started, 1e-9)
        self.left = (steps - self.row) / self.speed if self.speed else 0.0
        self.whole = (steps * self._epochs - step) / self.speed if self.speed else 0.0


class Standing:
    """Which epoch is the best so far."""

    def __init__(self, best: Progress | None) -> None:
        judged = None if best is None else best.judged
        self._best = None if best is None or judged is None else (best.epoch, judged)

    def after(self, metrics: EpochMetrics) -> str:
        """The end of an epoch's line; empty if it says nothing new."""
        loss = metrics.loss if metrics.validation_loss is None else metrics.validation_loss
        if self._best is None or loss < self._best[1]:
            self._best = metrics.epoch, loss
            # A training loss nearly always falls: only the exception is worth mentioning.
            return "" if metrics.validation_loss is None else " (best so far)"
        return f" (best: epoch {self._best[0]})"

    def impatience(self, metrics: EpochMetrics, config: TrainConfig) -> str:
        """A hint at patience, if the best epoch is long ago."""
        if self._best is None or metrics.validation_loss is None or config.patience is not None:
            return ""
        since = metrics.epoch - self._best[0]
        if since < max(HINT_EPOCHS, HINT_SHARE * config.epochs):
            return ""
        return (
            f"The validation loss has not improved for {since} epochs. The best epoch is kept; "
            f"{invocation.setting('patience', since)} would stop a run like this one here."
        )


def epoch_ended(metrics: EpochMetrics, config: TrainConfig, standing: str) -> str:
    """An epoch's losses, and how it stands among the others."""
    loss = f"loss {metrics.loss:z.4f} nats, {metrics.bits_per_character:z.3f} bits per character"
    if metrics.validation_loss is not None:
        loss += (
            f"; validation loss {metrics.validation_loss:z.4f} nats, "
            f"{metrics.validation_bits_per_character:z.3f} bits per character, "
            f"perplexity {metrics.validation_perplexity:.2f}"
        )
    return f"Epoch {metrics.epoch}/{config.epochs}  {loss}, in {duration(metrics.seconds)}{standing}"


def stopped(run: Run, step: int) -> str:
    """Where a run was stopped, and how it goes on."""
    return f"Stopped and saved at step {step:,}. To resume: {invocation.resume(run.path)}"


def diverged(reason: str, progress: Progress, learning_rate: float) -> str:
    """Why a run goes back, where to, and with what learning rate."""
    place = f"epoch {progress.epoch}, the best so far" if progress.epoch else "the beginning"
    return f"Diverged at {reason}. Rolling back to {place}, and cutting the learning rate to {learning_rate:.3g}."


def impatient(run: Run, progress: Progress, best: Progress | None) -> str:
    """Why a run ended before its last epoch; empty if it did not."""
    epochs = run.record.config.epochs
    if best is None or progress.epoch >= epochs:
        return ""
    since = progress.epoch - best.epoch
    return (
        f"Stopped after epoch {progress.epoch} of {epochs}: the {_judged(best)} has not improved for "
        f"{'an epoch' if since == 1 else f'{since} epochs'}. "
        f"To train longer: {invocation.resume(run.path, patience=2 * since)}"
    )


def done(run: Run, best: Progress | None) -> str:
    """A complete run's best epoch, and what to do with it."""
    summary = ""
    if best is not None:
        summary = f"The best epoch is {best.epoch}, with a {_judged(best)} of {best.judged:z.4f}. "
    return f"Done. {summary}To generate text: {invocation.sample(run.path)}"


def _judged(best: Progress) -> str:
    """What epochs are judged by."""
    return "loss" if best.validation is None else "validation loss"
