"""Lists runs."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from jaxlm.errors import InputError
from jaxlm.nn.model import build_model, count_parameters
from jaxlm.runs.bundled import bundled
from jaxlm.runs.run import Run, runs_in
from jaxlm.runs.storage import best_epoch

log = logging.getLogger("jaxlm")


@dataclasses.dataclass(frozen=True)
class Summary:
    """A run in a line.

    Attributes:
      name: its directory's name.
      path: its directory.
      corpus: the corpus's name.
      recipe: book or stream.
      parameters: the model's number of parameters.
      epoch: completed epochs.
      epochs: epochs in total.
      loss: the best epoch's, in nats per token: the validation loss, if there is one; None before the first.
      bytes: the size of its files.
      created: when it started, ISO 8601 in UTC.
    """

    name: str
    path: str
    corpus: str
    recipe: str
    parameters: int
    epoch: int
    epochs: int
    loss: float | None
    bytes: int
    created: str


def list_runs(checkpoints: str | os.PathLike[str]) -> list[Summary]:
    """The runs in a folder, newest first, and the bundled model, unless a run there has its name.

    Warns of runs that cannot be opened.
    """
    if os.path.isfile(checkpoints):
        raise InputError(f"checkpoints {checkpoints}: found a file, expected a folder of runs")
    return sorted(_summaries(Path(checkpoints)), key=lambda run: run.created, reverse=True)


def _summaries(checkpoints: Path) -> Iterator[Summary]:
    paths = runs_in(checkpoints)
    model = bundled()
    if model and model.name not in [path.name for path in paths]:
        paths.append(model)
    for path in paths:
        try:
            yield _summary(Run.open(path))
        except (InputError, OSError) as error:
            log.warning("%s", error)


def _summary(run: Run) -> Summary:
    record, good = run.record, run.storage.good()
    model = build_model(record.config, len(run.vocab))
    best = best_epoch(good)
    return Summary(
        name=run.path.name,
        path=run.shown,
        corpus=record.corpus,
        recipe=record.config.recipe,
        parameters=count_parameters(model.abstract_params()),
        epoch=good[max(good)].epoch if good else 0,
        epochs=record.config.epochs,
        loss=best.judged if best else None,
        bytes=_size(run.path),
        created=record.created,
    )


def _size(folder: Path) -> int:
    """The total size of a folder's files in bytes, while a trainer may be deleting some."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
