"""What a run prints while it trains."""

import shutil
import time
from typing import TextIO, cast

from rich import progress as bars
from rich.console import Console

from jaxlm import invocation
from jaxlm.cli.output import Output, show
from jaxlm.config import WatchConfig
from jaxlm.generator import TextGenerator
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import Windows

PLAIN_SECONDS = 30.0
"""Seconds between lines of progress if no bar can be drawn."""

KINDS = {"char": "characters", "byte": "bytes", "word": "words"}
"""The kinds of tokens in words."""

SHORT_SECONDS = 1.0
"""A run that takes less is over before its time is read."""

TIMED_STEPS = 20
"""Steps, after the first, which compiles, from which a run's duration is estimated."""

HINT_EPOCHS, HINT_SHARE = 3, 0.25
"""A hint at `--patience` appears once the best epoch is this many epochs ago, and this share of all of them."""


def duration(seconds: float) -> str:
    """A readable duration: 4.5 s, 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def fact_line(name: str, fact: str) -> str:
    """A named fact, aligned with others."""
    return f"{name + ':':<21}{fact}"


class Terminal(Reporter):
    """Prints a run: its facts, its progress (a bar on a terminal, lines elsewhere), losses and samples.

    Output that cannot be written is dropped; it never stops the run.
    """

    def __init__(self, watch: WatchConfig | None = None, console: Console | None = None) -> None:
        self._watch = watch or WatchConfig()
        # In Jupyter, rich would put each piece of a text into its own block.
        self._console = console or Console(force_jupyter=False)
        self._console.file = cast(TextIO, Output(self._console.file))
        self._plan: Plan
        self._bar: bars.Progress | None = None
        self._first: tuple[int, float] = (0, 0.0)
        self._shown_at = 0.0
        self._best: tuple[int, float] | None = None
        self._printed: set[str] = set()

    def _print(self, text: str = "", style: str | None = None) -> None:
        # Soft wrap: a terminal breaks long lines itself, and a file keeps them whole.
        text = show(text, self._console.file)
        self._console.print(text, style=style, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def _write(self, text: str) -> None:
        # Bypasses rich, which would change tabs and drop control characters.
        self._console.file.write(show(text, self._console.file))

    def _is_first(self, message: str) -> bool:
        """Whether this message is new; marks it as printed."""
        first = message not in self._printed
        self._printed.add(message)
        return first

    def _can_draw(self) -> bool:
        """Whether a bar can be redrawn in place; FORCE_COLOR, which notebooks set too, only asks for colours."""
        return self._console.file.isatty() and self._console.is_interactive

    def download(self, done: int, total: int) -> None:
        if not self._can_draw():
            if self._is_first("download"):
                self._print(f"Downloading the corpus ({total / 1e6:.1f} MB)...")
            return
        if self._bar is None:
            self._bar = self._start_bar("Downloading the corpus", bars.BarColumn(), bars.DownloadColumn())
            self._bar.add_task("", total=total)
        self._bar.update(self._bar.task_ids[0], completed=done)
        if done >= total:
            self.close()

    def start(self, plan: Plan) -> None:
        self._plan, self._printed = plan, set()
        self.close()
        self._best = _epoch_and_loss(plan.best) if plan.best else None
        record, corpus = plan.run.record, plan.corpus
        config = record.config
        counts = {}
        if plan.counts:
            reach = f"contexts of up to {config.model.ngram} {KINDS[config.tokens]}"
            counts["Counts"] = f"{plan.counts:,} n-grams, with {reach}"
        facts = {
            "Corpus": f"{corpus.name}, {len(corpus.text):,} characters",
            **self._reading(plan),
            **({"Weights": f"started from those of {record.parent}"} if record.parent else {}),
            f"Distinct {KINDS[config.tokens]}": f"{len(plan.run.vocab):,}",
            "Parameters": f"{plan.parameters:,}",
            **counts,
            "Device": plan.devices,
            "Run": plan.run.shown,
            "Seed text": repr(record.seed_text),
        }
        for name, fact in facts.items():
            self._print(fact_line(name, fact))
        for remark in corpus.remarks:
            self._print(remark)
        if plan.devices.startswith("CPU") and shutil.which("nvidia-smi"):
            self._print("This machine has an NVIDIA GPU that JAX cannot use yet: pip install 'jax[cuda]'", "yellow")
        if not plan.finished:
            if plan.start:
                epoch = plan.start // plan.steps + 1
                self._print(f"Resuming from step {plan.start:,}, in epoch {epoch} of {config.epochs}.")
            self._print("Compiling the training step...", "dim")
        elif plan.start == plan.steps * config.epochs:  # Else patience has run out, as `end` says.
            longer = invocation.resume(plan.run.path, epochs=2 * config.epochs)
            self._print(f"Trained {config.epochs} of {config.epochs} epochs already. To train longer: {longer}")

    def _reading(self, plan: Plan) -> dict[str, str]:
        """How the corpus is read."""
        config, facts = plan.run.record.config, {}
        if isinstance(plan.order, Windows):
            facts["Windows"] = f"{len(plan.order):,} of {config.length} at stride {config.stride}"
        else:
            facts["Streams"] = f"{config.batch}, reading {config.length} {KINDS[config.tokens]} per step"
        if plan.held_out:
            which = f"whole {config.units} of" if config.units else "the last"
            facts["Validation"] = f"{which} {plan.held_out:,} characters"
        return facts

    def step(self, step: int, loss: float) -> None:
        plan, now = self._plan, time.monotonic()
        epochs = plan.run.record.config.epochs
        row = (step - 1) % plan.steps + 1
        epoch = f"Epoch {(step - 1) // plan.steps + 1}/{epochs}"
        if step == plan.start + 1 or row == 1:
            self._first = step, now  # Compiling, saving and samples do not count.
        speed = (step - self._first[0]) / max(now - self._first[1], 1e-9)
        whole = (plan.steps * epochs - step) / speed if speed else 0.0
        if step > plan.start + TIMED_STEPS and whole > SHORT_SECONDS and self._is_first("time"):
            self._print(f"The run will take about {duration(whole)}. Ctrl-C loses nothing: the run is saved first.")
        left_seconds = (plan.steps - row) / speed if speed else 0.0
        state = f"{speed:.0f} steps/s  loss {loss:z.4f}  {duration(left_seconds)} left"
        if self._can_draw():
            if self._bar is None:
                self._bar = self._start_bar(
                    "{task.description}",
                    bars.BarColumn(),
                    "{task.completed}/{task.total}  {task.fields[state]}",
                )
                self._bar.add_task(epoch, total=plan.steps, state="")
            self._bar.update(self._bar.task_ids[0], description=epoch, completed=row, state=state)
        elif now - max(self._shown_at, self._first[1]) > PLAIN_SECONDS:
            self._shown_at = now
            self._print(f"{epoch}  {row}/{plan.steps}  {state}")

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        self.close()
        config = self._plan.run.record.config
        loss = f"loss {metrics.loss:z.4f} nats, {metrics.bits_per_character:z.3f} bits per character"
        if metrics.validation_loss is not None:
            loss += (
                f"; validation loss {metrics.validation_loss:z.4f} nats, "
                f"{metrics.validation_bits_per_character:z.3f} bits per character, "
                f"perplexity {metrics.validation_perplexity:.2f}"
            )
        best = self._standing(metrics)
        self._print(f"Epoch {metrics.epoch}/{config.epochs}  {loss}, in {duration(metrics.seconds)}{best}", "bold")
        self._hint_at_patience(metrics)
        for temperature in self._watch.temperature:
            self._print(f"--- temperature {temperature:g}", "cyan")
            pieces = generator.pieces(length=self._watch.sample_length, temperature=temperature, seed=config.seed)
            try:
                for piece in pieces:
                    self._write(piece)
            finally:
                self._write("\n")
        self._shown_at = time.monotonic()

    def _standing(self, metrics: EpochMetrics) -> str:
        """Which epoch is the best so far, for the end of an epoch's line."""
        loss = metrics.loss if metrics.validation_loss is None else metrics.validation_loss
        if self._best is None or loss < self._best[1]:
            self._best = metrics.epoch, loss
            # A training loss nearly always falls: only the exception is worth mentioning.
            return "" if metrics.validation_loss is None else " (best so far)"
        return f" (best: epoch {self._best[0]})"

    def _hint_at_patience(self, metrics: EpochMetrics) -> None:
        config = self._plan.run.record.config
        if self._best is None or metrics.validation_loss is None or config.patience is not None:
            return
        since = metrics.epoch - self._best[0]
        if since >= max(HINT_EPOCHS, HINT_SHARE * config.epochs) and self._is_first("patience"):
            self._print(
                f"The validation loss has not improved for {since} epochs. The best epoch is kept; "
                f"{invocation.setting('patience', since)} would stop a run like this one here.",
                "yellow",
            )

    def stopped(self, run: Run, step: int) -> None:
        self.close()
        self._print(f"Stopped and saved at step {step:,}. To resume: {invocation.resume(run.path)}", "yellow")

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        self.close()
        self._first = progress.step, time.monotonic()
        self._best = _epoch_and_loss(progress)
        place = f"epoch {progress.epoch}, the best so far" if progress.epoch else "the beginning"
        self._print(
            f"Diverged at {reason}. Rolling back to {place}, and cutting the learning rate to {learning_rate:.3g}.",
            "yellow",
        )

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        self.close()
        epochs, summary = run.record.config.epochs, ""
        if best is not None:
            kind = "loss" if best.validation is None else "validation loss"
            summary = f"The best epoch is {best.epoch}, with a {kind} of {best.judged:z.4f}. "
            if progress.epoch < epochs:
                since = progress.epoch - best.epoch
                span = "an epoch" if since == 1 else f"{since} epochs"
                self._print(
                    f"Stopped after epoch {progress.epoch} of {epochs}: the {kind} has not improved for {span}. "
                    f"To train longer: {invocation.resume(run.path, patience=2 * since)}"
                )
        self._print(f"Done. {summary}To generate text: {invocation.sample(run.path)}", "green")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, *columns: str | bars.ProgressColumn) -> bars.Progress:
        bar = bars.Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.start()
        return bar


def _epoch_and_loss(progress: Progress) -> tuple[int, float] | None:
    """The epoch that a checkpoint ends, and the loss that it is judged by; None before the end of the first."""
    return None if progress.judged is None else (progress.epoch, progress.judged)
