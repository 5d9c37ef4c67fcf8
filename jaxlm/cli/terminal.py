"""What a person sees while a run learns, and while it writes."""

import os
import shlex
import shutil
import signal
import sys
import time

from rich import progress as bars
from rich.console import Console

from jaxlm.config import WatchConfig
from jaxlm.generator import TextGenerator
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import Run, resume_command
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import Windows

PLAIN_SECONDS = 30.0
"""Seconds between lines of progress where the output is no terminal."""

KINDS = {"char": "characters", "byte": "bytes", "word": "words"}
"""What the kinds of tokens are called."""

TIMED_STEPS = 20
"""Steps after the first, which compiles, from which a run's time is estimated."""


def duration(seconds: float) -> str:
    """A span of time as a person says it: 4.5 s, 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def fact_line(name: str, fact: str) -> str:
    """A fact with its name, aligned with others."""
    return f"{name + ':':<21}{fact}"


class _Console(Console):
    """Plain text on standard output; where its reader has gone (`| head`), the run ends as it does when killed."""

    def __init__(self) -> None:
        # In a notebook, rich would put each piece of a text into a block of its own.
        super().__init__(highlight=False, markup=False, emoji=False, force_jupyter=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


class Terminal(Reporter):
    """Prints a run: its facts, a progress bar (plain lines where there is no terminal), losses and samples."""

    def __init__(self, watch: WatchConfig | None = None, console: Console | None = None) -> None:
        self._watch = watch or WatchConfig()
        self._console = console or _Console()
        self._plan: Plan
        self._bar: bars.Progress | None = None
        self._first: tuple[int, float] = (0, 0.0)
        self._shown_at = 0.0
        self._told = False

    def _print(self, text: str = "", style: str | None = None, end: str = "\n") -> None:
        # Soft wrap: a terminal breaks long lines itself, and a file keeps them whole.
        self._console.print(text, style=style, end=end, soft_wrap=True)

    def _write(self, text: str) -> None:
        # Past rich, which would change tabs and drop control characters.
        try:
            self._console.file.write(text)
            self._console.file.flush()
        except BrokenPipeError:
            self._console.on_broken_pipe()

    def download(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = ("Downloading the corpus", bars.BarColumn(), bars.DownloadColumn())
            self._bar = self._start_bar(*columns)
            self._bar.add_task("", total=total)
        self._bar.update(self._bar.task_ids[0], completed=done)
        if done >= total:
            self.close()

    def start(self, plan: Plan) -> None:
        self._plan = plan
        self.close()
        record, corpus = plan.run.record, plan.corpus
        config = record.config
        facts = {
            "Corpus": f"{corpus.name}, {len(corpus.text):,} characters",
            **self._reading(plan),
            f"Distinct {KINDS[config.tokens]}": f"{len(plan.run.vocab):,}",
            "Parameters": f"{plan.parameters:,}",
            "Device": plan.devices,
            "Run": str(plan.run.path),
            "Seed text": repr(record.seed_text),
        }
        for name, fact in facts.items():
            self._print(fact_line(name, fact))
        if plan.devices.startswith("CPU") and shutil.which("nvidia-smi"):
            self._print("This machine has an NVIDIA GPU, which JAX cannot use yet: pip install 'jax[cuda]'", "yellow")
        total = plan.steps * config.epochs
        if plan.finished and plan.start < total:
            return  # `end` says why.
        if plan.finished:
            self._print(
                f"All {config.epochs} epochs are trained already. To train on: {resume_command(plan.run.path)} "
                f"--epochs {2 * config.epochs}"
            )
            return
        if plan.start:
            self._print(
                f"Going on from step {plan.start:,}, in epoch {plan.start // plan.steps + 1} of {config.epochs}."
            )
        self._print("Compiling the training step...", "dim")

    def _reading(self, plan: Plan) -> dict[str, str]:
        """How the corpus is read, in words."""
        config, facts = plan.run.record.config, {}
        if isinstance(plan.order, Windows):
            facts["Windows"] = f"{len(plan.order):,} of {config.length} at stride {config.stride}"
        else:
            facts["Streams"] = f"{config.batch}, reading {config.length} {KINDS[config.tokens]} a step"
        if plan.held_out:
            facts["Held out"] = f"the last {plan.held_out:,} characters"
        return facts

    def step(self, step: int, loss: float) -> None:
        plan, now = self._plan, time.monotonic()
        epochs = plan.run.record.config.epochs
        row = (step - 1) % plan.steps + 1
        epoch = f"Epoch {(step - 1) // plan.steps + 1}/{epochs}"
        if step == plan.start + 1 or row == 1:
            self._first = step, now  # Compiling, saving and samples are no part of the speed.
        speed = (step - self._first[0]) / max(now - self._first[1], 1e-9)
        if not self._told and step > plan.start + TIMED_STEPS and speed:
            self._told = True
            whole = (plan.steps * epochs - step) / speed
            self._print(
                f"The run will take about {duration(whole)}. Ctrl-C loses nothing: it saves, and --resume goes on."
            )
        left_seconds = (plan.steps - row) / speed if speed else 0.0
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = self._start_bar(
                    "{task.description}",
                    bars.BarColumn(),
                    bars.TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
                )
                self._bar.add_task(epoch, total=plan.steps, state="")
            state = f"{speed:.0f} steps/s  loss {loss:.4f}  {duration(left_seconds)} left"
            self._bar.update(self._bar.task_ids[0], description=epoch, completed=row, state=state)
        elif now - max(self._shown_at, self._first[1]) > PLAIN_SECONDS:
            self._shown_at = now
            self._print(
                f"{epoch}  {row}/{plan.steps}  {speed:.0f} steps/s  loss {loss:.4f}  {duration(left_seconds)} left"
            )

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        self.close()
        config = self._plan.run.record.config
        loss = f"loss {metrics.loss:.4f} nats, {metrics.bits_per_character:.3f} bits per character"
        if metrics.validation_loss is not None:
            loss += (
                f"; held out {metrics.validation_loss:.4f} nats, {metrics.validation_bits_per_character:.3f} bits per "
                f"character, perplexity {metrics.validation_perplexity:.2f}"
            )
        self._print(f"Epoch {metrics.epoch}/{config.epochs}  {loss}, in {duration(metrics.seconds)}", "bold")
        for temperature in self._watch.temperature:
            self._print(f"--- temperature {temperature:g}", "cyan")
            pieces = generator.pieces(length=self._watch.sample_length, temperature=temperature, seed=config.seed)
            for piece in pieces:
                self._write(piece)
            self._print()
        self._shown_at = time.monotonic()

    def stopped(self, run: Run, step: int) -> None:
        self.close()
        self._print(f"Stopped and saved at step {step:,}. Go on with: {resume_command(run.path)}", "yellow")

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        self.close()
        self._first = progress.step, time.monotonic()
        place = f"epoch {progress.epoch}, the best," if progress.epoch else "the beginning"
        self._print(
            f"Diverged at {reason}. Going back to {place} with the learning rate cut to {learning_rate:.3g}.", "yellow"
        )

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        self.close()
        epochs = run.record.config.epochs
        if best and progress.epoch < epochs:
            self._print(
                f"Stopped after epoch {progress.epoch} of {epochs}: epoch {best.epoch} is still the best, with a "
                f"held-out loss of {best.judged:.4f}. To train on: {resume_command(run.path)} --patience "
                f"{2 * (progress.epoch - best.epoch)}"
            )
        self._print(f"Done. Write with: python sample.py --run {shlex.quote(str(run.path))}", "green")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, *columns: str | bars.ProgressColumn) -> bars.Progress:
        bar = bars.Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.start()
        return bar
