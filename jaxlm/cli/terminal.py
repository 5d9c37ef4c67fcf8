"""What a run prints while it trains."""

import time
from typing import Any, TextIO, cast

from rich import progress as bars
from rich.console import Console

from jaxlm.cli import words
from jaxlm.cli.output import Output, show
from jaxlm.config import WatchConfig
from jaxlm.generator import TextGenerator
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress

PLAIN_SECONDS = 30.0
"""Seconds between lines of progress if no bar can be drawn."""

SHORT_SECONDS = 1.0
"""A run that takes less is over before its time is read."""

TIMED_STEPS = 20
"""Steps, after the first, which compiles, from which a run's duration is estimated."""


def fact_line(name: str, fact: str) -> str:
    """A named fact, aligned with others."""
    return f"{name + ':':<21}{fact}"


class Terminal(Reporter):
    """Prints a run: its facts, its progress (a bar on a terminal, lines elsewhere), losses and samples.

    Output that cannot be written is dropped; it never stops the run.
    """

    def __init__(self, watch: WatchConfig | None = None, console: Console | None = None) -> None:
        self.watch = watch or WatchConfig()
        # In Jupyter, rich would put each piece of a text into its own block.
        self._console = console or Console(force_jupyter=False)
        self._console.file = cast(TextIO, Output(self._console.file))
        self._plan: Plan
        self._meter: words.Meter
        self._standing: words.Standing
        self._bar: bars.Progress | None = None
        self._shown_at = 0.0
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
        self._meter, self._standing = words.Meter(plan), words.Standing(plan.best)
        for name, fact in words.facts(plan).items():
            self._print(fact_line(name, fact))
        for remark in plan.corpus.remarks:
            self._print(remark)
        if hint := words.idle_gpu(plan):
            self._print(hint, "yellow")
        if beginning := words.beginning(plan):
            self._print(beginning)
        if not plan.finished:
            self._print(words.preparing(plan), "dim")

    def step(self, step: int, loss: float) -> None:
        plan, meter = self._plan, self._meter
        meter.step(step)
        if step > plan.start + TIMED_STEPS and meter.whole > SHORT_SECONDS and self._is_first("time"):
            left = words.duration(meter.whole)
            self._print(f"The run will take about {left}. Ctrl-C loses nothing: the run is saved first.")
        state = f"{meter.speed:.0f} steps/s  loss {loss:z.4f}  {words.duration(meter.left)} left"
        if self._can_draw():
            if self._bar is None:
                self._bar = self._start_bar(
                    "{task.description}",
                    bars.BarColumn(),
                    "{task.completed}/{task.total}  {task.fields[state]}",
                )
                self._bar.add_task(meter.epoch, total=plan.steps, state="")
            self._bar.update(self._bar.task_ids[0], description=meter.epoch, completed=meter.row, state=state)
        elif (now := time.monotonic()) - max(self._shown_at, meter.started) > PLAIN_SECONDS:
            self._shown_at = now
            self._print(f"{meter.epoch}  {meter.row}/{plan.steps}  {state}")

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        self.close()
        config = self._plan.run.record.config
        self._print(words.epoch_ended(metrics, config, self._standing.after(metrics)), "bold")
        if (hint := self._standing.impatience(metrics, config)) and self._is_first("patience"):
            self._print(hint, "yellow")
        self._shown_at = time.monotonic()

    def samples(self, samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            self._print(f"--- temperature {sample['temperature']:g}", "cyan")
            self._write(f"{sample['text']}\n")
        self._shown_at = time.monotonic()

    def stopped(self, run: Run, step: int) -> None:
        self.close()
        self._print(words.stopped(run, step), "yellow")

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        self.close()
        self._meter.restart(progress.step)
        self._standing = words.Standing(progress)
        self._print(words.diverged(reason, progress, learning_rate), "yellow")

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        self.close()
        if early := words.impatient(run, progress, best):
            self._print(early)
        self._print(words.done(run, best), "green")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self, *columns: str | bars.ProgressColumn) -> bars.Progress:
        bar = bars.Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        bar.start()
        return bar
