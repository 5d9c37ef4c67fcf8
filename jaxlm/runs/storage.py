"""Checkpoints on disk: <run>/<step>/, by Orbax, with the digests that tell damage.

A step's directory is Orbax's, with the items `params` and `training` (what only the next step needs). The file
progress.json, written into it last, makes it a checkpoint: it says how far that is, and holds the digests of the
files, since Orbax itself does not notice a changed bit. A save is believed once it was read back.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxlm.errors import Diverged, InputError, RunError

log = logging.getLogger("jaxlm")

PROGRESS = "progress.json"
"""The file without which a step's directory is no checkpoint."""

DELETED = ".deleted-"
"""What the name of a checkpoint begins with while it is deleted."""

Items = dict[str, Any]
"""The trees of a checkpoint by name: `params`, and `training`."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a checkpoint is.

    Attributes:
      step: completed updates.
      epoch: completed epochs.
      nats: summed loss of the unfinished epoch so far.
      count: targets in that sum.
      loss: mean training loss of the last epoch, in nats, if the checkpoint is of its end; otherwise None.
      validation: validation loss then, if there is any; otherwise None.
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
        """The loss that decides which checkpoint is best: the validation loss, where there is one."""
        return self.loss if self.validation is None else self.validation


class _Damaged(Exception):
    """A checkpoint's files are not what was saved, or not of this run."""


class _Unreadable(Exception):
    """A checkpoint could not be read, whatever its files are."""


class Storage:
    """The checkpoints in a run's directory."""

    def __init__(self, path: Path, vocabulary: Any) -> None:
        """Takes the directory, and the JSON values of the vocabulary, without which no checkpoint means anything."""
        self.path = path
        self._vocabulary = digest(vocabulary)

    def steps(self) -> list[int]:
        """The checkpoints, damaged ones too, in order."""
        return sorted(step for step, path in self._numbered().items() if (path / PROGRESS).exists())

    def good(self) -> dict[int, Progress]:
        """How far the checkpoints are that say so, by step."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(_Damaged):
                found[step] = self._read_progress(step)[0]
        return found

    def hold_only_weights(self) -> bool:
        """Whether there are checkpoints, and none that can be trained on."""
        steps = self.steps()
        return bool(steps) and not any((self.path / str(step) / "training").exists() for step in steps)

    def restore(self, like: Items, *, best: bool) -> tuple[Items, Progress] | None:
        """The last checkpoint, or the best.

        A damaged one is named in a warning, and the next in question taken.

        Args:
          like: the trees wanted, of arrays or of their shapes and types.
          best: whether the one with the lowest loss is wanted, and not the last.

        Returns:
          (trees of NumPy arrays, how far it is); None where no checkpoint was saved yet.

        Raises:
          InputError: there were checkpoints, and all of them are damaged or gone.
          RunError: something other than damage keeps it from being read.
        """
        damaged: dict[int, _Damaged] = {}
        while True:
            # Listed anew each time: a trainer may have replaced the steps meanwhile.
            steps = self.steps()
            candidates = [step for step in steps if step not in damaged]
            if steps and not candidates:
                raise InputError(
                    f"run {self.path}: found only damaged checkpoints ({_explain(damaged)}); restore the directory "
                    "from a backup, or train a new run"
                )
            if not candidates:
                return None
            found = {}
            try:
                for step in candidates:
                    found[step] = self._read_progress(step)
                step = best_step({step: progress for step, (progress, _) in found.items()}) if best else max(found)
                progress, files = found[step]
                items = self._read_items(step, like, files)
            except _Damaged as error:
                damaged[step] = error
                continue
            except (OSError, _Unreadable) as error:
                if step not in self.steps():
                    continue
                # What keeps it from being read is not in its files: no other is taken, and nothing is called damaged.
                raise RunError(
                    f"run {self.path}: checkpoint {step} could not be read ({error}); the run is left as it is; try "
                    "again once the cause is gone"
                ) from error
            for other in sorted(damaged.keys() & set(steps)):
                log.warning("%s: passing over checkpoint %s", self.path, _explain({other: damaged[other]}))
            return items, progress

    def set_aside_after(self, step: int) -> None:
        """Renames what comes after `step`, and whatever else has such a number for a name, to damaged-<number>.

        Raises:
          RunError: the disk refused it.
        """
        with disk_of(self.path, "the directory"):
            for pattern in ("*.orbax-checkpoint-tmp*", f"{DELETED}*"):
                for path in self.path.glob(pattern):
                    _delete(path)  # Left by a kill in the middle of a save.
            for other, path in sorted(self._numbered().items()):
                if other > step:
                    target, number = self.path / f"damaged-{other}", 1
                    while os.path.lexists(target):
                        number += 1
                        target = self.path / f"damaged-{other}-{number}"
                    path.rename(target)
                    log.warning("%s: checkpoint %s is set aside as %s", self.path, other, target.name)

    def _numbered(self) -> dict[int, Path]:
        """Everything with a step for a name."""
        return {int(path.name): path for path in self.path.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)}

    def _read_progress(self, step: int) -> tuple[Progress, dict[str, str]]:
        """How far a checkpoint is, and the digests of its files.

        Raises:
          _Damaged: it is damaged, or gone.
          OSError: it may be good, but cannot be read.
        """
        with _damage_only(PROGRESS):
            text = (self.path / str(step) / PROGRESS).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
            stated = values.pop("sha256")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise _Damaged(f"{PROGRESS} is not what was saved") from error
        if stated != digest(values):
            raise _Damaged(f"{PROGRESS} is not what was saved")
        # From here on, it is what jaxlm wrote.
        if values.pop("vocab") != self._vocabulary:
            raise _Damaged("vocab.json is not what was saved with it")
        files = values.pop("files")
        if values["step"] != step:
            raise _Damaged(f"it is a copy of checkpoint {values['step']}")
        return Progress(**values), files

    def _read_items(self, step: int, like: Items, files: dict[str, str]) -> Items:
        for name, stated in files.items():
            # An item that is not asked for need not be good.
            if name.partition("/")[0] in {"params", "training"} - like.keys():
                continue
            with _damage_only(name):
                found = _file_digest(self.path / str(step) / name)
            if found != stated:
                raise _Damaged(f"{name} is not what was saved")
        return _restore(self.path / str(step), like)

    def _seal(self, path: Path, progress: Progress) -> None:
        """Makes what Orbax saved a checkpoint."""
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != PROGRESS)
        values = {
            **vars(progress),
            "vocab": self._vocabulary,
            "files": {file.relative_to(path).as_posix(): _file_digest(file) for file in files},
        }
        write_json(path / PROGRESS, {**values, "sha256": digest(values)})


class Saver:
    """Saves the checkpoints of a run, and deletes those that are no longer needed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path = storage.path
        self._good = storage.good()  # The other checkpoints are left alone.

    @property
    def best(self) -> Progress | None:
        """How far the best epoch is; None before the end of the first."""
        return best_epoch(self._good)

    def save(self, items: Items, progress: Progress) -> None:
        """Saves a checkpoint; it is on disk and was read back, or the error is raised, when this returns.

        The two last are kept, so that damage to one loses little, and the best.

        Args:
          items: trees of NumPy arrays.
          progress: how far it is.

        Raises:
          Diverged: a number is not finite; earlier checkpoints are untouched.
          RunError: the disk refused it; as above.
        """
        step = progress.step
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(items)):
            raise Diverged(f"step {step}: found weights that are not finite")
        path = self._path / str(step)
        if os.path.lexists(path) or step <= max(self._good, default=-1):
            raise RunError(f"run {self._path}: refused to save step {step}, as that or a later one is there already")
        try:
            with disk_of(self._path, f"checkpoint {step}"):
                _save(path, items)
                self._check(path, items)
                self._storage._seal(path, progress)
        except RunError:
            for part in (path, *self._path.glob(f"{step}.orbax-checkpoint-tmp*")):
                shutil.rmtree(part, ignore_errors=True)  # It takes the room that is missing.
            raise
        self._good[step] = progress
        self._delete_all_but({*sorted(self._good)[-2:], best_step(self._good)})

    def roll_back(self, progress: Progress) -> None:
        """Deletes what came after a checkpoint, and has that one say `progress`, which may differ in `cuts` alone.

        Raises:
          RunError: the disk refused it.
        """
        step = progress.step
        self._delete_all_but({other for other in self._good if other <= step})
        if step in self._good:
            with disk_of(self._path, f"checkpoint {step}"):
                self._storage._seal(self._path / str(step), progress)
            self._good[step] = progress

    def _check(self, path: Path, items: Items) -> None:
        """Reads a save back as a reader would: only then may earlier checkpoints go.

        Raises:
          RunError: it cannot be read, or is not what was saved.
        """
        try:
            if _are_same(items, _restore(path, items)):
                return
            found = "other values were found"
        except (_Damaged, _Unreadable) as error:
            found = str(error)
        raise RunError(
            f"run {self._path}: checkpoint {path.name} was written, but could not be read back ({found}); earlier "
            "checkpoints are untouched; check the disk, then train on with --resume"
        )

    def _delete_all_but(self, kept: set[int]) -> None:
        for step in self._good.keys() - kept:
            with disk_of(self._path, f"checkpoint {step}"):
                # By another name first, so that no reader, and no kill, finds half a checkpoint.
                _delete((self._path / str(step)).rename(self._path / f"{DELETED}{step}"))
            del self._good[step]


def best_step(checkpoints: dict[int, Progress]) -> int:
    """The first step with the lowest loss, or the last where none has one."""

    def rank(step: int) -> tuple[float, int]:
        judged = checkpoints[step].judged
        return (np.inf, -step) if judged is None else (judged, step)

    return min(checkpoints, key=rank)


def best_epoch(checkpoints: dict[int, Progress]) -> Progress | None:
    """How far the best epoch is; None before the end of the first."""
    best = checkpoints[best_step(checkpoints)] if checkpoints else None
    return best if best and best.judged is not None else None


@contextlib.contextmanager
def disk_of(run: Path, name: str) -> Iterator[None]:
    """Turns the disk's refusal to write `name`, a part of a run, into a RunError."""
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError.
        raise RunError(
            f"run {run}: {name} could not be written ({(str(error).splitlines() or [''])[0][:200]}); earlier "
            "checkpoints are untouched; make room, then train on with --resume"
        ) from error


def digest(values: Any) -> str:
    """A digest of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Replaces a file whole, as `write_text` does."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file whole: a reader, or a power loss, finds the old or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def _damage_only(name: str) -> Iterator[None]:
    """Takes a missing file, or what is none, for damage; other refusals of the system come through."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _Damaged(f"{name} is missing") from error
    except UnicodeDecodeError as error:
        raise _Damaged(f"{name} is not what was saved") from error


def _delete(path: Path) -> None:
    """Deletes a directory; of a link to one, the link alone, so that it never blocks a run."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to the same place that is nothing but a path, wherever a user has put it.

    Orbax looks for its own files by a pattern made of the path, where `[v1]` stands for one letter; TensorStore
    takes UTF-8 only. Such places are reached by a link.
    """
    path = path.resolve()
    try:
        plain = os.fsencode(path).decode("utf-8") == str(path)
    except UnicodeDecodeError:
        plain = False
    if plain and not re.search(r"[*?\[\]]" if os.sep == "\\" else r"[*?\[\]\\]", str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        (Path(folder) / "run").symlink_to(path.parent, target_is_directory=True)
        yield Path(folder) / "run" / path.name


@contextlib.contextmanager
def _merged(path: Path, names: Iterable[str]) -> Iterator[Path]:
    """A checkpoint as Orbax reads it, at least the items of these names: usually as it lies there.

    Where its path looked like a pattern, jaxlm before 0.1.0 left the data whole in `ocdbt.process_0`, and not where
    Orbax looks for them; such a checkpoint is read from a copy that has them in place.
    """
    unmerged = [path / name / "ocdbt.process_0" for name in names if not (path / name / "manifest.ocdbt").exists()]
    if not unmerged:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        copy = Path(folder) / path.name
        shutil.copytree(path, copy)
        for data in unmerged:
            for part in (copy / data.relative_to(path)).iterdir():
                part.rename(copy / data.parent.name / part.name)
        yield copy


def _checkpointer() -> ocp.Checkpointer:
    handlers = {"params": ocp.StandardCheckpointHandler(), "training": ocp.StandardCheckpointHandler()}
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))


def _save(path: Path, items: Items) -> None:
    """Saves trees of NumPy arrays by Orbax as the new directory `path`."""
    arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    with _plain(path) as plain, _checkpointer() as checkpointer:
        checkpointer.save(plain, args=ocp.args.Composite(**arguments))
    for file in path.rglob("commit_success.txt"):
        file.unlink()  # It says nothing but where on this machine the checkpoint lies.


def _restore(path: Path, like: Items) -> Items:
    """The trees that Orbax saved as `path`, as NumPy arrays.

    Raises:
      _Damaged: its trees or shapes are others.
      _Unreadable: Orbax failed.
      OSError: it cannot be looked at.
    """
    # NumPy targets: with others, Orbax wants the devices that a checkpoint was saved from.
    arguments = {
        name: ocp.args.StandardRestore(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target))
        for name, target in like.items()
    }
    with _merged(path, like) as merged, _plain(merged) as plain, _checkpointer() as checkpointer:
        for name, target in like.items():
            with _orbax_may_fail():
                stored = ocp.StandardCheckpointHandler().metadata(plain / name).tree
            # Orbax takes other shapes than a NumPy target's without a word.
            if _stored_shapes(stored) != _shapes(target):
                raise _Damaged(f"its {name} do not fit the model in config.json")
        with _orbax_may_fail():
            restored = checkpointer.restore(plain, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in like}


@contextlib.contextmanager
def _orbax_may_fail() -> Iterator[None]:
    """Turns whatever a call of Orbax raises, bare Exceptions among it, into _Unreadable; for nothing of ours."""
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines()
        raise _Unreadable(f"{type(error).__name__}{': ' + lines[0][:160] if lines else ''}") from error


def _are_same(saved: Any, read: Any) -> bool:
    """Whether two trees of arrays have the same structure, types and values."""
    same: bool = jax.tree.structure(saved) == jax.tree.structure(read)  # type: ignore[operator]
    return same and all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(saved), jax.tree.leaves(read), strict=True)
    )


def _shapes(tree: Any) -> dict[str, Any]:
    """The shape and type of each array by its name, as Orbax names them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _stored_shapes(tree: Any) -> dict[str, Any]:
    """The same of what Orbax says is stored."""
    return {leaf.name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(tree)}


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(damaged: dict[int, _Damaged]) -> str:
    return "; ".join(f"{step}: {error}" for step, error in sorted(damaged.items()))
