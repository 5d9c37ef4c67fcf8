"""Checkpoints on disk: <run>/<step>/, saved by Orbax, with digests that reveal damage.

Orbax saves the items `params` and `training` (what only the next step needs) in a step's directory. progress.json,
written there last, makes it a checkpoint: it holds the progress, and the digests of the files, since Orbax itself does
not detect flipped bits. A save counts only once it has been read back.
"""

import contextlib
import dataclasses
import errno
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

from jaxlm import invocation
from jaxlm.errors import Diverged, InputError, RunError, first_line

log = logging.getLogger("jaxlm")

PROGRESS = "progress.json"
"""The file that makes a step's directory a checkpoint."""

DELETED = ".deleted-"
"""Name prefix of a checkpoint that is being deleted."""

Items = dict[str, Any]
"""The pytrees of a checkpoint by name: `params` and `training`."""


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


class _Damaged(Exception):
    """A checkpoint's files have changed since they were saved, or belong to another run."""


class _Unreadable(Exception):
    """A checkpoint could not be read; its files may be good."""


class Storage:
    """The checkpoints in a run's directory."""

    def __init__(self, path: Path, vocabulary: Any) -> None:
        """Takes the directory, and the vocabulary as JSON values: with another, its checkpoints count as damaged."""
        self.path = path
        self._vocabulary = digest(vocabulary)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, including damaged ones, in order."""
        return sorted(step for step, path in self._numbered().items() if is_there(path / PROGRESS))

    def good(self) -> dict[int, Progress]:
        """The progress of each checkpoint whose progress.json is good, by step."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(_Damaged):
                found[step] = self._read_progress(step)[0]
        return found

    def hold_only_weights(self) -> bool:
        """Whether there are checkpoints, but none that training can resume from."""
        steps = self.steps()
        return bool(steps) and not any(is_there(self.path / str(step) / "training") for step in steps)

    def restore(self, like: Items, *, best: bool) -> tuple[Items, Progress] | None:
        """The last checkpoint, or the best.

        Skips damaged checkpoints, with a warning.

        Args:
          like: the trees to restore, of arrays or of their shapes and types.
          best: whether to restore the checkpoint with the lowest loss instead of the last.

        Returns:
          (trees of NumPy arrays, the progress); None if no checkpoint has been saved yet.

        Raises:
          InputError: there were checkpoints, and all of them are damaged or gone.
          RunError: the checkpoint cannot be read, for a reason other than damage.
        """
        damaged: dict[int, _Damaged] = {}
        while True:
            # Listed again each time: a trainer may have replaced checkpoints in the meantime.
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
                # The cause is not in its files, so this is not damage, and no other checkpoint is tried.
                raise RunError(
                    f"run {self.path}: checkpoint {step} could not be read ({error}); the run is unchanged; try again "
                    "once the cause is fixed"
                ) from error
            for other in sorted(damaged.keys() & set(steps)):
                log.warning("%s: skipping damaged checkpoint %s", self.path, _explain({other: damaged[other]}))
            return items, progress

    def set_aside_after(self, step: int) -> None:
        """Renames everything that is named by a step after `step` to damaged-<step>.

        Raises:
          RunError: the disk refused it.
        """
        with disk_of(self.path, "the directory"):
            for pattern in ("*.orbax-checkpoint-tmp*", f"{DELETED}*"):
                for path in self.path.glob(pattern):
                    _delete(path)  # Left by a kill during a save.
            for other, path in sorted(self._numbered().items()):
                if other > step:
                    target, number = self.path / f"damaged-{other}", 1
                    while os.path.lexists(target):
                        number += 1
                        target = self.path / f"damaged-{other}-{number}"
                    path.rename(target)
                    log.warning("%s: checkpoint %s is set aside as %s", self.path, other, target.name)

    def _numbered(self) -> dict[int, Path]:
        """Everything that is named by a step."""
        return {int(path.name): path for path in self.path.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)}

    def _read_progress(self, step: int) -> tuple[Progress, dict[str, str]]:
        """The progress of a checkpoint, and the digests of its files.

        Raises:
          _Damaged: it is damaged, or gone.
          OSError: it cannot be read, but may be good.
        """
        with _damage_only(PROGRESS):
            text = (self.path / str(step) / PROGRESS).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
            stated = values.pop("sha256")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise _Damaged(f"{PROGRESS} has changed since it was saved") from error
        if stated != digest(values):
            raise _Damaged(f"{PROGRESS} has changed since it was saved")
        # The digest is right, so these are the values that jaxlm wrote.
        if values.pop("vocab") != self._vocabulary:
            raise _Damaged("vocab.json has changed since it was saved")
        files = values.pop("files")
        if values["step"] != step:
            raise _Damaged(f"it is a copy of checkpoint {values['step']}")
        return Progress(**values), files

    def _read_items(self, step: int, like: Items, files: dict[str, str]) -> Items:
        for name, stated in files.items():
            # Items that are not restored need not be good.
            if name.partition("/")[0] in {"params", "training"} - like.keys():
                continue
            with _damage_only(name):
                found = _file_digest(self.path / str(step) / name)
            if found != stated:
                raise _Damaged(f"{name} has changed since it was saved")
        return _restore(self.path / str(step), like)

    def _seal(self, path: Path, progress: Progress) -> None:
        """Writes progress.json, which makes what Orbax saved a checkpoint."""
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
        """The progress at the end of the best epoch; None before the end of the first."""
        return best_epoch(self._good)

    def save(self, items: Items, progress: Progress) -> None:
        """Saves a checkpoint and reads it back.

        The best and the last two checkpoints are kept, so that damage to one loses little.

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
        path = self._path / str(step)
        if os.path.lexists(path) or step <= max(self._good, default=-1):
            raise RunError(f"run {self._path}: refused to save step {step}, since this or a later checkpoint exists")
        try:
            with disk_of(self._path, f"checkpoint {step}"):
                _save(path, items)
                self._check(path, items)
                self._storage._seal(path, progress)
        except RunError:
            for part in (path, *self._path.glob(f"{step}.orbax-checkpoint-tmp*")):
                shutil.rmtree(part, ignore_errors=True)  # Frees the space it takes.
            raise
        self._good[step] = progress
        self._delete_all_but({*sorted(self._good)[-2:], best_step(self._good)})

    def roll_back(self, progress: Progress) -> None:
        """Deletes the checkpoints after `progress`, and stores it in its own, where only `cuts` may differ.

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
        """Reads a save back as `restore` would; only then may earlier checkpoints be deleted.

        Raises:
          RunError: it cannot be read, or differs from what was saved.
        """
        try:
            if _are_same(items, _restore(path, items)):
                return
            found = "other values were found"
        except (_Damaged, _Unreadable) as error:
            found = str(error)
        raise RunError(
            f"run {self._path}: checkpoint {path.name} was written, but could not be read back ({found}); earlier "
            "checkpoints are untouched; check the disk, then resume the run"
        )

    def _delete_all_but(self, kept: set[int]) -> None:
        for step in self._good.keys() - kept:
            with disk_of(self._path, f"checkpoint {step}"):
                # Renamed first, so that neither a reader nor a kill can leave or see half a checkpoint.
                _delete((self._path / str(step)).rename(self._path / f"{DELETED}{step}"))
            del self._good[step]


def best_step(checkpoints: dict[int, Progress]) -> int:
    """The first step with the lowest loss, or the last step if none has a loss."""

    def rank(step: int) -> tuple[float, int]:
        judged = checkpoints[step].judged
        return (np.inf, -step) if judged is None else (judged, step)

    return min(checkpoints, key=rank)


def best_epoch(checkpoints: dict[int, Progress]) -> Progress | None:
    """The progress at the end of the best epoch; None before the end of the first."""
    best = checkpoints[best_step(checkpoints)] if checkpoints else None
    return best if best and best.judged is not None else None


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no more room."""


def is_there(path: Path) -> bool:
    """Whether a path exists. Unlike `Path.exists` since Python 3.14, raises OSError where that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def disk_of(run: Path, name: str) -> Iterator[None]:
    """Turns a failure to write `name`, a part of a run, into a RunError."""
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError.
        is_full = not isinstance(error, OSError) or error.errno in FULL
        remedy = "free some disk space" if is_full else "see to the cause"
        raise RunError(
            f"run {run}: {name} could not be written ({first_line(error)[:200]}); earlier checkpoints are untouched; "
            f"{remedy}, then resume: {invocation.resume(run)}"
        ) from error


def digest(values: Any) -> str:
    """A digest of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Replaces a file atomically, as `write_text` does."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically: after a power cut, too, it is either the old or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def _damage_only(name: str) -> Iterator[None]:
    """Turns errors of a missing or undecodable file into _Damaged; other system errors pass through."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _Damaged(f"{name} is missing") from error
    except UnicodeDecodeError as error:
        raise _Damaged(f"{name} has changed since it was saved") from error


def _delete(path: Path) -> None:
    """Deletes a file, a directory, or a link but not its target."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to the same place that Orbax and TensorStore can handle.

    Orbax uses the path in a glob pattern, where `[v1]` means one letter; TensorStore accepts only UTF-8. Other paths
    are reached through a link.
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
    """A checkpoint whose items of these names Orbax can read: usually the one at `path` itself.

    If the path looked like a glob pattern, jaxlm before 0.1.0 left the data in `ocdbt.process_0`, complete but not
    where Orbax looks. Such a checkpoint is read from a corrected copy.
    """
    unmerged = [path / name / "ocdbt.process_0" for name in names if not is_there(path / name / "manifest.ocdbt")]
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
    """Saves trees of NumPy arrays with Orbax, in the new directory `path`."""
    arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    with _plain(path) as plain, _checkpointer() as checkpointer:
        checkpointer.save(plain, args=ocp.args.Composite(**arguments))
    for file in path.rglob("commit_success.txt"):
        file.unlink()  # It contains nothing but the checkpoint's path on this machine.


def _restore(path: Path, like: Items) -> Items:
    """The trees that Orbax saved in `path`, as NumPy arrays.

    Raises:
      _Damaged: its trees or shapes differ from those of `like`.
      _Unreadable: Orbax failed.
      OSError: the directory cannot be read.
    """
    # NumPy targets: with others, Orbax needs the devices that the checkpoint was saved from.
    arguments = {
        name: ocp.args.StandardRestore(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target))
        for name, target in like.items()
    }
    with _merged(path, like) as merged, _plain(merged) as plain, _checkpointer() as checkpointer:
        for name, target in like.items():
            with _orbax_may_fail():
                stored = ocp.StandardCheckpointHandler().metadata(plain / name).tree
            stored_shapes, wanted = _stored_shapes(stored), _shapes(target)
            if "key" in wanted:
                wanted["key"] = stored_shapes.get("key")  # As wide as the generator has it that the run began with.
            # Orbax silently restores shapes that differ from a NumPy target's.
            if stored_shapes != wanted:
                raise _Damaged(f"its {name} do not match the model in config.json")
        with _orbax_may_fail():
            restored = checkpointer.restore(plain, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in like}


@contextlib.contextmanager
def _orbax_may_fail() -> Iterator[None]:
    """Turns any exception of an Orbax call, even a bare Exception, into _Unreadable; not for our own code."""
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
    """The shape and type of each array, by the name that Orbax gives it."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _stored_shapes(tree: Any) -> dict[str, Any]:
    """The same, from Orbax's metadata."""
    return {leaf.name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(tree)}


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(damaged: dict[int, _Damaged]) -> str:
    return "; ".join(f"{step}: {error}" for step, error in sorted(damaged.items()))
