"""The checkpoints of a run, and the figures and samples of its epochs, on disk.

    <run>/metrics.jsonl          a line for each epoch
    <run>/samples.jsonl          a line for each text that was shown after an epoch; no file if none was
    <run>/<step>/                a checkpoint: what Orbax saved, copies of both so far, and progress.json

What holds at any moment, whatever is killed, cut off or full:

- When `Saver.save` returns, the checkpoint is on the disk, has been read back, and survives a power cut.
- A directory appears under the number of its step only once it is complete, and is renamed before it is deleted. What
  is being saved or deleted, and temporary files, have names that begin with a dot.
- progress.json seals a checkpoint: it holds the SHA-256 of each file and of itself, and names the run that it belongs
  to. Nothing that differs from it is used, and whatever is passed over because of that is told.
- Only regular files below the checkpoint are read, of the names and about the size that the model calls for; shapes are
  compared before arrays are read. Links are not followed, except one in place of a whole step, so that old checkpoints
  may be moved to another disk. Such a checkpoint is read, but never written to.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm import invocation
from jaxlm.errors import Diverged, InputError, RunError, first_line, optional, plain_text, real_number, whole_number
from jaxlm.runs import arrays
from jaxlm.runs.arrays import Items, Unreadable
from jaxlm.runs.files import (
    MEBIBYTE,
    Damaged,
    append_text,
    delete,
    delete_failed,
    digest,
    file_digest,
    flush,
    flush_tree,
    read_bytes,
    read_json,
    regular_files,
    write_json,
    write_text,
)

log = logging.getLogger("jaxlm")

PROGRESS = "progress.json"
"""The file that seals a checkpoint."""

CONFIG, METRICS, SAMPLES = "config.json", "metrics.jsonl", "samples.jsonl"

HISTORIES = METRICS, SAMPLES
"""The files that grow with the epochs; each line has the step that it belongs to."""

CONFIG_LIMIT = MEBIBYTE

SAVING, DELETED = ".saving-", ".deleted-"
"""Name prefixes of a checkpoint that is being saved, and of one that is being deleted."""

_STRAYS = re.compile(
    # Written by versions before format 2: names with orbax and two with .tmp.
    rf"{re.escape(SAVING)}.*|{re.escape(DELETED)}.*|.*\.orbax-checkpoint-tmp.*"
    r"|\.(config\.json|vocab\.json|metrics\.jsonl|samples\.jsonl|progress\.json)(\.[0-9a-f]{8})?\.tmp"
)
"""Names of what a kill leaves behind."""

PROGRESS_LIMIT, HISTORY_LIMIT = 4 * MEBIBYTE, 64 * MEBIBYTE
"""The largest files that are read as such, in bytes."""

LISTED = 10
"""The most damaged checkpoints that a message describes."""

PACKING = 16
"""Weights hardly compress. Arrays that claim to be this many times larger than their files are not restored."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run had come at a checkpoint.

    Attributes:
      step: completed steps.
      epoch: completed epochs.
      nats: summed loss of the unfinished epoch so far.
      count: targets in that sum.
      loss: mean training loss of the last epoch, in nats, at its end; otherwise None.
      validation: validation loss at that point, if there is one; otherwise None.
      cuts: how often the learning rate has been cut after a divergence.
    """

    step: int = 0
    epoch: int = 0
    nats: float = 0.0
    count: int = 0
    loss: float | None = None
    validation: float | None = None
    cuts: int = 0

    @property
    def judged(self) -> float | None:
        """The loss that decides which checkpoint is best: the validation loss, if there is one."""
        return self.loss if self.validation is None else self.validation


class Storage:
    """The checkpoints, the metrics and the samples in a run's directory."""

    def __init__(self, path: Path, seal: dict[str, str]) -> None:
        """Takes the directory, and what progress.json must say to belong to this run."""
        self.path = path
        self.seal = seal

    def steps(self) -> list[int]:
        """The steps of all checkpoints, including damaged ones, in order."""
        return sorted(_numbered(self.path))

    def good(self) -> dict[int, Progress]:
        """The progress of each checkpoint whose progress.json is good, by step."""
        return {step: progress for step, (progress, _) in self._sealed().items()}

    def hold_only_weights(self) -> bool:
        """Whether there are checkpoints, but none that training can resume from."""
        sealed = self._sealed().values()
        return bool(sealed) and not any(name.startswith("training/") for _, files in sealed for name in files)

    def restore(self, like: Items, *, best: bool, epoch: int | None = None) -> tuple[Items, Progress] | None:
        """The last checkpoint, the best, or that of the end of an epoch.

        Skips damaged checkpoints, with a warning.

        Args:
          like: the trees to restore, of arrays or of their shapes and types.
          best: whether to restore the checkpoint with the lowest loss instead of the last.
          epoch: the number of the epoch whose end to restore instead.

        Returns:
          (trees of NumPy arrays, the progress); None if no checkpoint has been saved yet.

        Raises:
          InputError: there were checkpoints, and all of them are damaged or gone, or none is of that epoch's end.
          RunError: the checkpoint cannot be read, for a reason other than damage.
        """
        damaged: dict[int, Damaged] = {}
        found: dict[int, tuple[Progress, dict[str, str]]] = {}
        where = invocation.shown(self.path)
        while True:
            steps = self.steps()
            step = -1
            try:
                for step in steps:
                    if step not in found and step not in damaged:
                        try:
                            found[step] = self._read_progress(step)
                        except Damaged as error:
                            damaged[step] = error
                if self.steps() != steps:
                    continue  # A trainer has replaced checkpoints in the meantime.
                good = {step: found[step][0] for step in steps if step in found and step not in damaged}
                if steps and not good:
                    raise InputError(
                        f"run {where}: found only damaged checkpoints ({_explain(damaged)}); restore the directory "
                        "from a backup, or train a new run"
                    )
                if not good:
                    return None
                if epoch is not None:
                    good = _ends_of(good, epoch, where)
                step = best_step(good) if best else max(good)
                progress, files = found[step]
                items = self._read_items(step, like, files)
            except Damaged as error:
                damaged[step] = error
                continue
            except (OSError, Unreadable) as error:
                if step not in self.steps():
                    continue
                # The cause is not in its files, so this is not damage, and no other checkpoint is tried.
                raise RunError(
                    f"run {where}: checkpoint {step} could not be read ({error}); the run is unchanged; try again "
                    "once the cause is fixed"
                ) from error
            for other in sorted(damaged.keys() & set(steps)):
                log.warning("%s: skipping damaged checkpoint %s", where, _explain({other: damaged[other]}))
            return items, progress

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per epoch.

        Where the file has been damaged, they come from the last checkpoint, with a warning.
        """
        return [values for values in self._history(METRICS) if _is_epoch(values)]

    def samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl, one per text; read as `metrics` are. None of a run that was told to keep none."""
        found = (values for values in self._history(SAMPLES) if _is_sample(values))
        return [{field: values[field] for field in _SAMPLE_CHECKS} for values in found]

    def _history(self, name: str) -> list[dict[str, Any]]:
        # In this order, since a trainer writes a line before its checkpoint.
        saved, lines = self._saved_lines(name), self._lines(name)
        if lines[: len(saved)] != saved and saved == self._saved_lines(name):
            log.warning(
                "%s: %s has changed since it was saved; its %d epochs are taken from the last checkpoint",
                invocation.shown(self.path),
                name,
                len({values["step"] for line in saved if (values := _record(line))}),
            )
            lines = saved
        return [values for line in lines if (values := _record(line))]

    def roll_back(self, step: int) -> None:
        """Makes `step` the last: sets aside later checkpoints as damaged-<step>, and drops later epochs' lines.

        Also deletes what a kill has left behind, sets aside earlier checkpoints that have been damaged, and repairs
        metrics.jsonl and samples.jsonl.

        Raises:
          RunError: the disk refused it.
        """
        where = invocation.shown(self.path)
        with disk_of(self.path, "the directory's files"):
            for folder in (self.path, *(path for path in _numbered(self.path).values() if not path.is_symlink())):
                for path in folder.iterdir() if folder.is_dir() else ():
                    if _STRAYS.fullmatch(path.name):
                        delete(path)
            for other, path in sorted(_numbered(self.path).items()):
                if other > step or not self._is_whole(other):
                    target = self._set_aside(path)
                    log.warning("%s: checkpoint %s is set aside as %s", where, other, target.name)
            for name in HISTORIES:
                self._trim(name, step)
            flush(self.path)

    def _trim(self, name: str, step: int) -> None:
        """Drops the lines after a step; rebuilds a file that is damaged."""
        lines, saved = self._lines(name), self._saved_lines(name)
        kept = [line for line in lines if (values := _record(line)) and values["step"] <= step]
        path = self.path / name
        is_odd = os.path.lexists(path) and (path.is_symlink() or not path.is_file())
        if is_odd or lines[: len(saved)] != saved:
            kept = saved
            aside = ""
            if os.path.lexists(path):
                aside = f"; the damaged file is set aside as {self._set_aside(path).name}"
            log.warning("%s: %s is rebuilt from checkpoint %s%s", invocation.shown(self.path), name, step, aside)
        if kept != lines or is_odd:
            write_text(path, "".join(kept))

    def _sealed(self) -> dict[int, tuple[Progress, dict[str, str]]]:
        """The progress and the files' digests of each checkpoint whose progress.json is good, by step."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(Damaged):
                found[step] = self._read_progress(step)
        return found

    def _read_progress(self, step: int) -> tuple[Progress, dict[str, str]]:
        """The progress of a checkpoint, and the digests of its files.

        Raises:
          Damaged: it is damaged, or gone.
          OSError: it cannot be read, but may be good.
        """
        changed = Damaged(f"{PROGRESS} has changed since it was saved")
        values = read_json(self.path / str(step) / PROGRESS, PROGRESS_LIMIT)
        if not isinstance(values, dict):
            raise changed
        stated, files = values.pop("sha256", None), values.get("files")
        if stated != digest(values):
            raise changed
        seal = {name: values[name] for name in ("run", "vocab") if name in values}
        if seal != self.seal:
            raise Damaged(
                "it and config.json are of different runs"
                if "run" in seal
                else "vocab.json has changed since it was saved"
            )
        if not isinstance(files, dict) or not all(map(_is_sealable, files)):
            raise changed
        if values.get("step") != step:
            raise Damaged(f"it is a copy of checkpoint {values.get('step')}")
        try:
            return Progress(**{field: check(field, values[field]) for field, check in _CHECKS.items()}), files
        except (KeyError, InputError) as error:
            raise changed from error

    def _is_whole(self, step: int) -> bool:
        """Whether the files of a checkpoint are what was saved; also true where that cannot be read."""
        try:
            _, files = self._read_progress(step)
            for name, stated in files.items():
                if name not in HISTORIES and file_digest(self.path / str(step) / name, sys.maxsize, name) != stated:
                    return False
        except Damaged:
            return False
        except OSError:
            pass
        return True

    def _read_items(self, step: int, like: Items, files: dict[str, str]) -> Items:
        path = self.path / str(step)
        claimed = arrays.nbytes(like)
        limit, found = 2 * claimed + 16 * MEBIBYTE, 0
        for item in like:
            try:
                for name, size in regular_files(path / item, f"{item}/"):
                    found += size
                    if found > limit:
                        raise Damaged(f"{name} is too large, with {size:,} bytes")
                    # Finder and the like leave files whose names begin with a dot.
                    if name not in files and not name.rpartition("/")[2].startswith("."):
                        raise Damaged(f"{name} was not saved with it")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Damaged(f"{item} is missing") from error
        if claimed > PACKING * (found + 4 * MEBIBYTE):
            raise Damaged(f"its files, of {found:,} bytes, are too small for a model of {claimed:,} bytes")
        for name, stated in files.items():
            # Items that are not restored need not be good.
            if name.partition("/")[0] in {"params", "training", *HISTORIES} - like.keys():
                continue
            if file_digest(path / name, limit, name) != stated:
                raise Damaged(f"{name} has changed since it was saved")
        return arrays.restore(path, like)

    def _saved_lines(self, history: str) -> list[str]:
        """The lines of metrics.jsonl, or samples.jsonl, that the last good checkpoint has saved."""
        for step, (_, files) in sorted(self._sealed().items(), reverse=True):
            path = self.path / str(step) / history
            with contextlib.suppress(Damaged, OSError):
                if history in files and file_digest(path, HISTORY_LIMIT, history) == files[history]:
                    return self._lines(f"{step}/{history}")
        return []

    def _lines(self, name: str) -> list[str]:
        """The lines of metrics.jsonl, samples.jsonl or a copy; none where it is missing, or not a file."""
        try:
            content = read_bytes(self.path / name, HISTORY_LIMIT)
        except Damaged:
            return []
        return content.decode("utf-8", "replace").splitlines(keepends=True)

    def _set_aside(self, path: Path) -> Path:
        """Renames something damaged, so that it is kept, but not used."""
        number, target = 1, path.with_name(f"damaged-{path.name}")
        while os.path.lexists(target):
            number += 1
            target = path.with_name(f"damaged-{path.stem}-{number}{path.suffix}")
        return path.rename(target)

    def _write_seal(self, path: Path, progress: Progress, files: dict[str, str]) -> None:
        values = {**vars(progress), **self.seal, "files": files}
        write_json(path / PROGRESS, {**values, "sha256": digest(values)})


class Saver:
    """Saves a run's checkpoints, metrics and samples, and deletes checkpoints no longer needed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path = storage.path
        self._good = storage.good()  # The other checkpoints are left alone.
        self._config = read_bytes(self._path / CONFIG, CONFIG_LIMIT)
        self._lines = {name: storage._lines(name) for name in HISTORIES}

    @property
    def best(self) -> Progress | None:
        """The progress at the end of the best epoch; None before the end of the first."""
        return best_epoch(self._good)

    def add_metrics(self, *epochs: dict[str, Any]) -> None:
        """Appends lines to metrics.jsonl; each has its step.

        Raises:
          RunError: they cannot be written.
        """
        self._append(METRICS, epochs)

    def add_samples(self, *samples: dict[str, Any]) -> None:
        """Appends lines to samples.jsonl, each with its step, and seals them with the last checkpoint.

        It is saved before, since samples take time. After a kill in between, their absence shows that they are missing.

        Raises:
          RunError: they cannot be written.
        """
        self._append(SAMPLES, samples)
        step = max(self._good, default=None)
        if step is None or (place := self._path / str(step)).is_symlink():
            return
        with self._disk(SAMPLES):
            write_text(place / SAMPLES, "".join(self._lines[SAMPLES]))
            progress, files = self._storage._read_progress(step)
            files[SAMPLES] = file_digest(place / SAMPLES, HISTORY_LIMIT, SAMPLES)
            self._storage._write_seal(place, progress, files)

    def _append(self, name: str, records: Sequence[dict[str, Any]]) -> None:
        lines = [json.dumps(values) + "\n" for values in records]
        if not lines:
            return
        if sum(map(len, self._lines[name] + lines)) > HISTORY_LIMIT:
            log.warning("%s: %s is full, so nothing is added to it", invocation.shown(self._path), name)
            return
        with self._disk(name):
            append_text(self._path / name, "".join(lines))
        self._lines[name] += lines

    def save(self, items: Items, progress: Progress) -> None:
        """Saves a checkpoint and reads it back.

        The best and the last two checkpoints are kept, so that damage to one loses little. So is step 0, the weights
        of another run that this one started from, until there is a best epoch.

        Args:
          items: trees of NumPy arrays.
          progress: how far the run has come.

        Raises:
          Diverged: a number is not finite; earlier checkpoints are untouched.
          RunError: the checkpoint cannot be written or read back; earlier ones are untouched.
        """
        step = progress.step
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(items)):
            raise Diverged(f"step {step}: found weights that are not finite")
        place, path = self._path / str(step), self._path / f"{SAVING}{step}"
        if os.path.lexists(place) or step <= max(self._good, default=-1):
            raise RunError(
                f"run {invocation.shown(self._path)}: refused to save step {step}, since this or a later checkpoint "
                "exists"
            )
        try:
            with self._disk(f"checkpoint {step}"):
                delete(path)
                arrays.save(path, items)
                for name, lines in self._lines.items():
                    if lines or name == METRICS:  # Not every run keeps samples.
                        write_text(path / name, "".join(lines))
                flush_tree(path)
                self._check(path, items, step)
                files = {name: file_digest(path / name, size, name) for name, size in regular_files(path)}
                self._storage._write_seal(path, progress, files)
                self._check_place()
                path.rename(place)
                flush(self._path)
        except RunError:
            for part in self._path.glob(f"{SAVING}{step}*"):
                delete_failed(part)  # Frees the space it takes.
            if not self._is_here():
                with contextlib.suppress(OSError):
                    self._path.rmdir()  # If Orbax has created it anew, and it is empty.
            raise
        self._good[step] = progress
        start = () if self.best else (0,)
        self._delete_all_but({*start, *sorted(self._good)[-2:], best_step(self._good)})

    def roll_back(self, progress: Progress) -> None:
        """Deletes the checkpoints after `progress`, and stores it in its own, where only `cuts` may differ.

        A checkpoint that is a link lies outside the run, so nothing is stored in it. The next save stores `cuts`. A run
        that is killed before then goes on as it did from that checkpoint before: it diverges again, is cut again, and
        ends the same.

        Raises:
          RunError: the disk refused it.
        """
        step = progress.step
        self._delete_all_but({other for other in self._good if other <= step})
        if step in self._good:
            place = self._path / str(step)
            # A copy in the link's place would not do: no rename puts a folder there, so a kill might leave neither.
            if not place.is_symlink():
                with self._disk(f"checkpoint {step}"):
                    _, files = self._storage._read_progress(step)
                    self._storage._write_seal(place, progress, files)
            self._good[step] = progress
        self._storage.roll_back(step)
        self._lines = {name: self._storage._lines(name) for name in HISTORIES}

    @contextlib.contextmanager
    def _disk(self, name: str) -> Iterator[None]:
        """As `disk_of`; also raises RunError where the directory has been moved, deleted or replaced."""
        self._check_place()  # First, since libraries would create the directory anew.
        try:
            with disk_of(self._path, name):
                yield
        except RunError:
            self._check_place()
            raise

    def _check_place(self) -> None:
        if not self._is_here():
            raise RunError(
                f"run {invocation.shown(self._path)}: its directory has been moved, deleted or replaced; training ends "
                "here, with what had been saved there"
            )

    def _is_here(self) -> bool:
        """Whether the directory is still this run's; not by its inode, which a new one may get, or a remount change."""
        try:
            return read_bytes(self._path / CONFIG, CONFIG_LIMIT) == self._config
        except Damaged:
            return False

    def _check(self, path: Path, items: Items, step: int) -> None:
        """Reads a save back as `restore` would; only then may earlier checkpoints be deleted.

        Raises:
          RunError: it cannot be read, or differs from what was saved.
        """
        try:
            if arrays.are_same(items, arrays.restore(path, items)):
                return
            found = "other values were found"
        except (Damaged, Unreadable) as error:
            found = str(error)
        raise RunError(
            f"run {invocation.shown(self._path)}: checkpoint {step} was written, but could not be read back ({found}); "
            "earlier checkpoints are untouched; check the disk, then resume the run"
        )

    def _delete_all_but(self, kept: set[int]) -> None:
        for step in self._good.keys() - kept:
            with self._disk(f"checkpoint {step}"):
                # Renamed first, so that neither a reader nor a kill can leave or see half a checkpoint.
                target = self._path / f"{DELETED}{step}"
                delete(target)
                delete((self._path / str(step)).rename(target))
            del self._good[step]


def best_step(checkpoints: dict[int, Progress]) -> int:
    """The first step with the lowest loss, or the last step if none has a loss."""

    def rank(step: int) -> tuple[float, int]:
        judged = checkpoints[step].judged
        return (np.inf, -step) if judged is None else (judged, step)

    return min(checkpoints, key=rank)


def _ends_of(checkpoints: dict[int, Progress], epoch: int, run: str) -> dict[int, Progress]:
    """The checkpoints at the end of an epoch; InputError if there are none."""
    ends = {step: progress for step, progress in checkpoints.items() if progress.judged is not None}
    if found := {step: progress for step, progress in ends.items() if progress.epoch == epoch}:
        return found
    kept = ", ".join(str(number) for number in sorted({progress.epoch for progress in ends.values()}))
    raise InputError(
        f"epoch: found {epoch}, expected one whose checkpoint run {run} has kept: {kept or 'none yet'}; "
        "the best and the last two checkpoints are kept"
    )


def best_epoch(checkpoints: dict[int, Progress]) -> Progress | None:
    """The progress at the end of the best epoch; None before the end of the first."""
    best = checkpoints[best_step(checkpoints)] if checkpoints else None
    return best if best and best.judged is not None else None


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no more room."""


@contextlib.contextmanager
def disk_of(run: Path, name: str) -> Iterator[None]:
    """Turns a failure to write `name`, a part of a run, into a RunError."""
    try:
        yield
    except (OSError, Damaged) as error:
        is_full = isinstance(error, OSError) and error.errno in FULL
        remedy = "free some disk space" if is_full else "fix the cause"
        where, found = invocation.shown(run), first_line(error)[:200]
        try:
            is_saved = bool(_numbered(run))
        except OSError:
            is_saved = True
        if is_saved:
            remedy = f"earlier checkpoints are untouched; {remedy}, then resume: {invocation.resume(run)}"
        else:
            remedy = f"nothing has been saved yet; {remedy}, then try again"
        raise RunError(f"run {where}: {name} could not be written ({found}); {remedy}") from error


_whole, _finite = whole_number(0, 2**53), real_number(-1e300, 1e300)

_CHECKS = {
    "step": _whole,
    "epoch": _whole,
    "nats": _finite,
    "count": _whole,
    "loss": optional(_finite),
    "validation": optional(_finite),
    "cuts": whole_number(0, 100),
}
"""The fields of Progress, and what they may be."""


def _numbered(run: Path) -> dict[int, Path]:
    """Everything that is named by a step."""
    return {int(path.name): path for path in run.iterdir() if re.fullmatch("0|[1-9][0-9]{0,17}", path.name)}


def _is_sealable(name: object) -> bool:
    """Whether a name is that of a file of a checkpoint, as Orbax and TensorStore name them."""
    part = r"[\w+-][\w.+-]*"
    return isinstance(name, str) and re.fullmatch(rf"((params|training)(/{part})+|{part})", name, re.ASCII) is not None


def _record(line: str) -> dict[str, Any] | None:
    """The values in a line of metrics.jsonl or samples.jsonl; None if it is not such a line, as after a kill."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


_epoch = whole_number(0, 2**31)


def _is_epoch(values: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl has an epoch, a step, a device's name, if any, and numbers: a run may come from a
    stranger."""
    try:
        _epoch("epoch", values["epoch"])
        _whole("step", values["step"])
        plain_text("device", values.get("device", ""))  # Older runs have none.
        return all(optional(_finite)(field, value) == value for field, value in values.items() if field != "device")
    except (KeyError, InputError):
        return False


_SAMPLE_CHECKS = {
    "epoch": _epoch,
    "step": _whole,
    "temperature": _finite,
    "seed": _whole,
    "prompt": plain_text,
    "text": plain_text,
    "surprise": optional(_finite),
    "copied": _whole,
    "copied_at": _whole,
    "copied_from": _whole,
}
"""The fields of a sample, and what they may be."""


def _is_sample(values: dict[str, Any]) -> bool:
    """Whether a line of samples.jsonl has all that its readers count on: a run may come from a stranger."""
    try:
        return all(check(field, values[field]) == values[field] for field, check in _SAMPLE_CHECKS.items())
    except (KeyError, InputError):
        return False


def _explain(damaged: dict[int, Damaged]) -> str:
    shown = [f"{step}: {error}" for step, error in sorted(damaged.items())]
    return "; ".join([*shown[:LISTED], *([f"and {len(shown) - LISTED} more"] if len(shown) > LISTED else [])])
