"""Training from Python, with the output of the commands."""

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

from jaxlm.cli.notebook import Notebook, in_notebook
from jaxlm.cli.tensorboard import and_tensorboard
from jaxlm.cli.terminal import Terminal
from jaxlm.config import (
    Recipe,
    Size,
    TrainConfig,
    WatchConfig,
    changed,
    checkpoints_folder,
    settings_in,
    started,
    with_settings,
)
from jaxlm.config import settings as settings_of
from jaxlm.errors import InputError, reject, reject_idle
from jaxlm.generator import TextGenerator
from jaxlm.runs import trainer
from jaxlm.runs.data import in_notation
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.run import Run, find, locate

Source = str | os.PathLike[str]

_SHOWN = Reporter()
"""Stands for a Notebook or a Terminal, which is created when it is needed."""


def train(
    corpus: TrainConfig | Source | Sequence[Source] | None = None,
    *,
    recipe: Recipe | None = None,
    size: Size | None = None,
    run: Source | None = None,
    checkpoints: Source | None = None,
    reporter: Reporter | None = _SHOWN,
    stop: threading.Event | None = None,
    start_from: Source | None = None,
    tensorboard: Source | None = None,
    **settings: Any,
) -> TextGenerator:
    """Trains a model, saving as it goes: `train("my.txt", recipe="stream", epochs=5, hidden=256)`.

    Ctrl-C stops the run: it completes the steps under way, saves, and raises; `resume` resumes it. So does the same
    call again if it names the run: a notebook's cell may be run as often as one likes.

    Args:
      corpus: names of corpora, files and folders, as for `jaxlm train`; or all settings as a TrainConfig.
      recipe: book, the default, or stream.
      size: for the stream recipe: small, medium or large; small if left out.
      run: the name of the run's directory, or a path; by default a new one, made from corpus and recipe. A run of
        that name is resumed if it has these settings, except those that `resume` may change, and refused otherwise.
      checkpoints: the folder of runs; `$JAXLM_CHECKPOINTS` or `checkpoints` if left out.
      reporter: receives the run's events; by default a Notebook in a notebook's kernel, else a Terminal, which prints.
        None is silent.
      stop: saves and stops the run once it is set, also from another thread.
      start_from: a run, as in `load`, whose weights to start from; its settings then are the defaults.
      tensorboard: a folder for TensorBoard, in which the run's own one has its figures and samples.
      **settings: any other settings of TrainConfig, ModelConfig and WatchConfig by name.

    Returns:
      The best epoch's model.

    Raises:
      InputError: a setting, the corpus or a directory cannot be used; nothing was written.
      RunError: the loss diverged too often, or the disk is full; the best checkpoint is kept.
      Stopped: `stop` was set; the run is saved.
      KeyboardInterrupt: Ctrl-C; the run is saved.
      SystemExit: another signal that stops it; the run is saved.
    """
    shown = _reporter(reporter, settings, tensorboard)
    parent = None if start_from is None else Run.open(find(start_from, checkpoints))
    if isinstance(corpus, TrainConfig):
        if recipe or size:
            raise InputError("recipe, size: a TrainConfig has all settings already; leave these out")
        config = with_settings(corpus, settings)
    elif parent:
        config = started(parent.record.config, recipe, size, {"corpus": corpus, **settings})
    else:
        config = settings_of(recipe or "book", size, corpus=corpus, **settings)
    if begun := _begun(run, checkpoints, parent):
        notation = begun.record.config.notation
        if notation and not config.notation:  # The run knows what its corpus turned out to be.
            config = in_notation(config, notation)
        asked = {name: value for name, _, value in settings_in(config)}
        for name in ("glob", "teacher"):  # The run knows which files of a folder it reads, and what it learns from.
            if asked[name] is None:
                del asked[name]
        return trainer.resume(begun, reporter=shown, stop=stop, **asked)
    return trainer.train(config, run=run, checkpoints=checkpoints, reporter=shown, stop=stop, start_from=parent)


def _begun(run: Source | None, checkpoints: Source | None, parent: Run | None) -> Run | None:
    """The run of this name that started from this parent, if it can be trained further."""
    if run is None:
        return None
    path = locate(run, checkpoints_folder() if checkpoints is None else os.path.expanduser(checkpoints))
    if not os.path.lexists(path):
        return None
    with contextlib.suppress(InputError):  # Training says what is there instead.
        found = Run.open(path)
        found.check_trainable()
        if found.record.parent == (parent.path.name if parent else ""):
            return found
    return None


def resume(
    run: Source | None = None,
    *,
    checkpoints: Source | None = None,
    reporter: Reporter | None = _SHOWN,
    stop: threading.Event | None = None,
    tensorboard: Source | None = None,
    **settings: Any,
) -> TextGenerator:
    """Resumes a run from its last checkpoint, as if it had never stopped: `resume("my-run", epochs=20)`.

    Args:
      run: its name, or its directory; the newest if left out.
      checkpoints: as in `train`.
      reporter: as in `train`.
      stop: as in `train`.
      tensorboard: as in `train`.
      **settings: `epochs`, `patience` and `impl`, if they change, and `corpus`, the new location of the same text; and
        those of WatchConfig.

    Returns:
      The best epoch's model.

    Raises:
      InputError: there is no such run, a setting cannot change, the corpus has changed, or all checkpoints are damaged.
      RunError, Stopped, KeyboardInterrupt, SystemExit: as in `train`.
    """
    shown = _reporter(reporter, settings, tensorboard)
    return trainer.resume(Run.open(find(run, checkpoints)), reporter=shown, stop=stop, **settings)


def _reporter(reporter: Reporter | None, settings: dict[str, Any], tensorboard: Source | None) -> Reporter:
    """The reporter to use; takes the settings of WatchConfig out of these."""
    watched = {name: settings.pop(name) for name, _, _ in settings_in(WatchConfig()) if name in settings}
    if reporter is _SHOWN:
        reporter = (Notebook if in_notebook() else Terminal)(changed(WatchConfig(), watched))
    elif watched:
        name, value = next(iter(watched.items()))
        reject_idle(name, value, "with a reporter of your own", "leave it out")
    if not isinstance(reporter, Reporter | None):
        reject("reporter", reporter, "an instance of a subclass of jaxlm.Reporter, or None, which is silent")
    return and_tensorboard(reporter or Reporter(), tensorboard)
