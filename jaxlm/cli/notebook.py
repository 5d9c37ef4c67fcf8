"""What a run shows while it trains in a notebook."""

import sys
import time
from typing import Any

from jaxlm import invocation
from jaxlm.cli import words
from jaxlm.cli.curve import Curve
from jaxlm.config import WatchConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress
from jaxlm.text.visible import as_html, whole

SHOWN_SECONDS = 0.5
"""Seconds between updates of what is shown."""


def in_notebook() -> bool:
    """Whether the code runs in a notebook's kernel, and not in a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Notebook(Reporter):
    """Shows a run in a notebook's cell, updated in place: its facts, a bar, the curve of its losses, newest samples.

    Args:
      watch: the samples; by default those of the book.

    Raises:
      InputError: there is no IPython, to which notebooks belong.
    """

    def __init__(self, watch: WatchConfig | None = None) -> None:
        try:
            import IPython  # Only notebooks have it.
        except ImportError as error:
            raise InputError(
                "reporter: found no IPython, which jaxlm.Notebook shows a run with; outside of notebooks, leave it out"
            ) from error
        self._display = IPython.display.display
        self.watch = watch or WatchConfig()
        self._clear()

    def _clear(self) -> None:
        self._handle: Any = None
        self._updated = 0.0
        self._curve: Curve | None = None
        self._facts: dict[str, str] = {}
        self._notes: list[str] = []
        self._bar: tuple[int, int] | None = None
        self._state = self._epoch = self._ending = ""
        self._samples: list[tuple[float, str]] = []

    def download(self, done: int, total: int) -> None:
        self._bar, self._state = (done, total), f"Downloading the corpus: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
        if done >= total or self._is_due():
            self._update()

    def start(self, plan: Plan) -> None:
        self._plan, self._meter, self._standing = plan, words.Meter(plan), words.Standing(plan.best)
        config = plan.run.record.config
        self._steps = plan.steps * config.epochs
        self._curve = Curve(plan.steps, config.epochs, plan.run.metrics())
        self._facts = words.facts(plan)
        self._samples = _newest(plan.run)
        notes = [*plan.corpus.remarks, words.idle_gpu(plan), words.beginning(plan)]
        self._notes = [note for note in notes if note]
        self._bar = plan.start, self._steps
        self._state = "" if plan.finished else words.preparing(plan)
        self._update()

    def step(self, step: int, loss: float) -> None:
        assert self._curve is not None
        self._meter.step(step)
        self._curve.step(step, loss)
        self._bar = step, self._steps
        if self._is_due():
            meter = self._meter
            self._state = (
                f"{meter.epoch}  step {step:,} of {self._steps:,}  {meter.speed:.0f} steps/s  loss {loss:z.4f}  "
                f"{words.duration(meter.whole)} left"
            )
            self._update()

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        assert self._curve is not None
        config = self._plan.run.record.config
        self._curve.epoch(metrics.epoch, metrics.validation_loss)
        self._epoch = words.epoch_ended(metrics, config, self._standing.after(metrics))
        self._state, self._ending = "", self._standing.impatience(metrics, config)
        self._update()

    def samples(self, samples: list[dict[str, Any]]) -> None:
        self._samples = _newest(self._plan.run)
        self._update()

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        assert self._curve is not None
        self._meter.restart(progress.step)
        self._curve.go_back(progress.step)
        self._standing = words.Standing(progress)
        self._notes.append(words.diverged(reason, progress, learning_rate))
        self._update()

    def stopped(self, run: Run, step: int) -> None:
        again = f"or run the cell again if it has {invocation.setting('run', run.path.name)}"
        self._state, self._ending = "", f"{words.stopped(run, step)}, {again}"
        self._update()

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        self._bar, self._state = None, ""
        self._ending = " ".join(filter(None, [words.impatient(run, progress, best), words.done(run, best)]))
        self._update()

    def close(self) -> None:
        self._clear()

    def _is_due(self) -> bool:
        return time.monotonic() - self._updated >= SHOWN_SECONDS

    def _update(self) -> None:
        """Shows the present state in place of the last one."""
        self._updated = time.monotonic()
        shown = {"text/html": self._html(), "text/plain": self._text()}
        if self._handle is None:
            self._handle = self._display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _text(self) -> str:
        """What is shown where there is no HTML."""
        lines = [f"{name}: {fact}" for name, fact in self._facts.items()]
        lines += [*self._notes, self._state, self._epoch, self._ending]
        lines += [f"--- temperature {temperature:g}\n{text}" for temperature, text in self._samples]
        return whole("\n".join(line for line in lines if line))

    def _html(self) -> str:
        parts = [_line(" · ".join(f"{name}: {fact}" for name, fact in self._facts.items()), "opacity:.8")]
        parts += [_line(note, "opacity:.8") for note in self._notes]
        if self._bar:
            done, total = self._bar
            parts.append(f'<progress value="{done}" max="{total}" style="width:100%;max-width:640px"></progress>')
        parts.append(_line(self._state))
        if self._curve:
            parts.append(self._curve.svg())
        parts += [_line(self._epoch, "font-weight:bold"), _line(self._ending)]
        for temperature, text in self._samples:
            parts.append(_line(f"temperature {temperature:g}", "margin-top:.6em;font-weight:bold"))
            parts.append(f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{as_html(text)}</div>')
        return f'<div style="max-width:60em;line-height:1.5">{"".join(parts)}</div>'


def _newest(run: Run) -> list[tuple[float, str]]:
    """The temperature and the text of each sample of the newest epoch that has any."""
    kept = run.samples()
    return [(sample["temperature"], sample["text"]) for sample in kept if sample["epoch"] == kept[-1]["epoch"]]


def _line(text: str, style: str = "") -> str:
    """A line of its own; nothing for an empty one."""
    return f'<div style="{style}">{as_html(text)}</div>' if text else ""
