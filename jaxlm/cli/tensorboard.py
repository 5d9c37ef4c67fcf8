"""A run's figures and samples as TensorBoard reads them."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm import invocation
from jaxlm.errors import InputError, file_path
from jaxlm.generator import TextGenerator
from jaxlm.runs.reporter import EpochMetrics, Plan, Reporter, Several
from jaxlm.runs.storage import Progress
from jaxlm.text.visible import whole

log = logging.getLogger("jaxlm")


def and_tensorboard(shown: Reporter, folder: str | os.PathLike[str] | None) -> Reporter:
    """A reporter, and a TensorBoard beside it if a folder is named."""
    return shown if folder is None else Several(shown, TensorBoard(file_path("tensorboard", folder)))


class TensorBoard(Reporter):
    """Writes a run's figures, under the names that they have in `Run.metrics`, and samples into a folder of the run.

    Each time that the run is started or resumed, it writes all that the run has had into a new file, and that this
    replaces what older files say; so curves are whole, even if only the run's last epochs were trained with it. What
    cannot be written is dropped, with a warning; it never stops the run.

    Args:
      folder: the folder of runs, which `tensorboard --logdir` takes.

    Raises:
      InputError: tensorboardX is not installed, or nothing can be written there.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import record_writer, summary
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise InputError(
                f"tensorboardX is not installed, which {invocation.setting('tensorboard')} needs; install it: "
                "python -m pip install 'jaxlm[tensorboard]'"
            ) from None
        # Its SummaryWriter hands events to a thread; if that dies of a full disk, the run would wait forever.
        self._open, self._summary, self._events = record_writer.RecordWriter, summary, event_pb2
        self._folder = Path(os.path.abspath(folder))
        there = next(path for path in (self._folder, *self._folder.parents) if os.path.lexists(path))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            found = invocation.shown(there)
            raise InputError(f"tensorboard {folder}: found {found}, expected a folder to write into; choose another")
        self._writer: Any = None

    def start(self, plan: Plan) -> None:
        epochs, samples = plan.run.metrics(), plan.run.samples()
        folder = self._folder / plan.run.path.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard takes files by the middle of their names, and reads them in order.
            self._writer = self._open(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        except OSError as error:
            self._drop(error)
        self._add(0, file_version="brain.Event:2")
        self._forget_after(0)
        seconds = [epoch.get("seconds") or 0.0 for epoch in epochs]  # A stranger's run may have none.
        ended = time.time() - sum(seconds)
        for epoch, took in zip(epochs, seconds, strict=True):
            ended += took
            self._add_figures(epoch, ended)
        self.samples(samples)

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        self._add_figures(vars(metrics), time.time())
        self._write("flush")

    def samples(self, samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            # Indented, so that Markdown takes it for code, and shows it as it is.
            lines = "".join(f"    {line}\n" for line in whole(sample["text"]).split("\n"))
            self._add(sample["step"], summary=self._summary.text(f"temperature {sample['temperature']:g}", lines))
        self._write("flush")

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        self._forget_after(progress.step)

    def close(self) -> None:
        self._write("close")
        self._writer = None

    def _add_figures(self, metrics: Mapping[str, Any], at: float) -> None:
        for name, value in metrics.items():
            if name not in ("epoch", "step") and isinstance(value, float):  # None, or the device, is no figure.
                self._add(metrics["step"], at, summary=self._summary.scalar(name, value))

    def _forget_after(self, step: int) -> None:
        """Has TensorBoard forget what it has read of later steps."""
        status = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(step + 1, session_log=status)

    def _add(self, step: int, at: float | None = None, **what: Any) -> None:
        event = self._events.Event(wall_time=time.time() if at is None else at, step=step, **what)
        self._write("write", event.SerializeToString())

    def _write(self, method: str, *what: Any) -> None:
        if self._writer is not None:
            try:
                getattr(self._writer, method)(*what)
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        log.warning("tensorboard %s: cannot be written (%s); the run goes on without it", self._folder, error.strerror)
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
