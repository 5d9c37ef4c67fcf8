"""Runs on disk: checkpoints/<run>/{config.json, vocab.json, metrics.jsonl, <step>/}.

A run's directory holds all that it takes to go on with it or to write with it, on any machine. A step's directory
is Orbax's, with the items `params` and `training` (what only the next step needs). The file progress.json, written
into it last, makes it a checkpoint: it says how far that is, and has the digests of the files, since Orbax itself
does not notice a changed bit, and cannot quietly read what is damaged.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import jaxlm
from jaxlm import config as config_lib
from jaxlm.config import Impl, TrainConfig
from jaxlm.errors import Diverged, InputError, RunError
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import Params, build_model
from jaxlm.nn.training import TrainState, init_state, make_optimizer
from jaxlm.text.vocab import Vocab

log = logging.getLogger("jaxlm")

FORMAT = 1
"""Version of the directory's layout; a reader refuses others."""

PROGRESS = "progress.json"
"""The file without which a step's directory is no checkpoint."""


DELETED = ".deleted-"
"""What the name of a checkpoint begins with while it is deleted."""


class _Damaged(Exception):
    """A checkpoint's files are not what was saved, or not of this run."""


class _Unreadable(Exception):
    """A checkpoint could not be read, whatever its files are."""


@contextlib.contextmanager
def _damage_only(name: str) -> Iterator[None]:
    """Takes a missing file, or what is none, for damage; other refusals of the system come through."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _Damaged(f"{name} is missing") from error
    except UnicodeDecodeError as error:
        raise _Damaged(f"{name} is not what was saved") from error


@dataclasses.dataclass(frozen=True)
class Record:
    """What config.json says of a run.

    Attributes:
      config: all settings, with the corpus's sources spelled out.
      corpus: the corpus's name.
      characters: its length.
      sha256: its digest, once lowercased if the config says so.
      seed_text: the prompt of samples where none is given.
      created: when the run began, ISO 8601 in UTC; the newest run is the one with the latest.
    """

    config: TrainConfig
    corpus: str
    characters: int
    sha256: str
    seed_text: str
    created: str


def now() -> str:
    """This moment, as Record has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a checkpoint is.

    Attributes:
      step: completed updates.
      epoch: completed epochs.
      nats: summed loss of the unfinished epoch so far.
      count: targets in that sum.
      loss: mean training loss of the last epoch, in nats, if the checkpoint is of its end; otherwise None.
      validation: loss on the held-out text then, if there is one; otherwise None.
      cuts: how often the learning rate has been cut after a divergence.
    """

    step: int
    epoch: int
    nats: float
    count: int
    loss: float | None
    validation: float | None = None
    cuts: int = 0

    @property
    def judged(self) -> float | None:
        """The loss that decides which checkpoint is best: the held-out one, where there is one."""
        return self.loss if self.validation is None else self.validation


class Run:
    """A run's directory.

    Attributes:
      path: where it is.
      record: what config.json says.
      vocab: the vocabulary.
    """

    def __init__(self, path: Path, record: Record, vocab: Vocab) -> None:
        self.path = path
        self.record = record
        self.vocab = vocab

    @classmethod
    def create(cls, path: Path, record: Record, vocab: Vocab) -> "Run":
        """Makes the directory of a new run.

        Raises:
          InputError: it exists, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except OSError as error:
            if os.path.lexists(path):
                refuse(path)
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(
                    f"run {path.name[:40]}...: found a name of {len(path.name)} characters, expected a shorter one, "
                    "which a folder can have"
                ) from error
            raise _unwritable(path.parent, error) from error
        run = cls(path, record, vocab)
        try:
            _write_json(path / "vocab.json", vocab.to_json())
            run.write_record(record)  # Last, since it is what makes the directory a run.
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise _unwritable(path.parent, error) from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Opens the directory of a run.

        Raises:
          InputError: there is none, or it is damaged or of another version.
        """
        path = Path(path)
        # os.path, unlike Path, answers False where it may not look.
        if not os.path.isfile(path / "config.json"):
            found = "a folder without config.json" if os.path.isdir(path) else "no folder"
            raise InputError(
                f"run {path}: found {found}, expected the directory of a run, such as checkpoints/nietzsche-book; "
                "train one with: python train.py"
            )
        try:
            return cls._from_json(path, _read_json(path / "config.json"), _read_json(path / "vocab.json"))
        except InputError as error:
            raise InputError(f"run {path}: {error}") from error

    @classmethod
    def _from_json(cls, path: Path, values: Any, vocab: Any) -> "Run":
        try:
            if values["format"] != FORMAT:
                raise KeyError("format")
            values["config"] = config_lib.from_json(values["config"])
            for field in dataclasses.fields(Record):
                if not isinstance(values[field.name], cast(type, field.type)):
                    raise KeyError(field.name)
            record = Record(**{field.name: values[field.name] for field in dataclasses.fields(Record)})
        except (KeyError, TypeError) as error:
            missing = error.args[0] if isinstance(error, KeyError) else "format"  # It is no object at all.
            raise InputError(
                f"found a config.json without a good {missing!r}, expected one as jaxlm "
                f"{jaxlm.__version__} writes it; restore it from a backup, or use the version that made the run"
            ) from error
        return cls(path, record, Vocab.from_json(vocab))

    def write_record(self, record: Record) -> None:
        """Makes `record` what config.json says."""
        self.record = record
        values = {**vars(record), "config": config_lib.to_json(record.config)}
        _write_json(self.path / "config.json", {"format": FORMAT, "jaxlm": jaxlm.__version__, **values})

    def remove_if_untrained(self) -> None:
        """Deletes the directory if no checkpoint has come into it: a run that failed at once leaves nothing."""
        if not self.steps():
            shutil.rmtree(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainers out while the context lasts; a killed process lets go of it too.

        Raises:
          InputError: another trainer is at work in this run.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"run {self.path}: found another process training it, expected none; wait for it, or stop it"
                ) from error
            except OSError as error:
                raise _unwritable(self.path, error) from error
            yield
        finally:
            os.close(descriptor)

    def writer(self) -> "Writer":
        """The checkpoints, for saving."""
        return Writer(self)

    def check_trainable(self) -> None:
        """Raises InputError if the checkpoints are weights alone, as `export` writes them."""
        steps = self.steps()
        if steps and not any((self.path / str(step) / "training").exists() for step in steps):
            raise InputError(
                f"run {self.path}: found weights alone, which write but cannot be trained on, expected a whole "
                "checkpoint; go on with another run (--run), or train a new one: python train.py"
            )

    def restore(self, *, best: bool = False) -> tuple[TrainState, Progress] | None:
        """The whole state of the last checkpoint, or of the best, on the host.

        A damaged checkpoint is named in a warning, and the next in question taken.

        Returns:
          The state, of NumPy arrays, and how far it is; None where no checkpoint was saved yet.

        Raises:
          InputError: there were checkpoints, and all of them are damaged or gone.
        """
        self.check_trainable()
        config = self.record.config
        model, optimizer = build_model(config, len(self.vocab)), make_optimizer(config, steps=1)
        target = jax.eval_shape(lambda: init_state(model, optimizer, config))
        found = self._first_readable({"params": target.weights, "training": _training(target)}, best)
        if found is None:
            # An epoch's line is written before its checkpoint, so that a kill leaves one line more, never two.
            if len(epochs := self._metrics()) > 1:
                raise InputError(
                    f"run {self.path}: found no checkpoint, but {len(epochs)} epochs in metrics.jsonl, expected the "
                    "last one's; restore the directory from a backup, or train a new run"
                )
            return None
        items, progress = found
        weights = {"average" if target.average else "params": items["params"]}
        return target._replace(**weights, **items["training"]), progress

    def generator(self, impl: Impl = "auto") -> tuple[TextGenerator, Progress]:
        """The best checkpoint as a generator of text, on JAX's default device, and how far it is.

        Best is the epoch with the lowest loss, the held-out one where there is one; before the end of the first, the
        last checkpoint.

        Raises:
          InputError: the run has no checkpoint yet, or all of them are damaged; or this machine cannot do `impl`.
        """
        model = build_model(self.record.config, len(self.vocab))
        target = jax.eval_shape(lambda: model.init_params(jax.random.key(0)))
        found = self._first_readable({"params": target}, best=True)
        if found is None:
            raise InputError(
                f"run {self.path}: found no checkpoint in it yet, expected one; train on with: "
                f"{resume_command(self.path)}"
            )
        items, progress = found
        return self.make_generator(items["params"], impl), progress

    def make_generator(self, params: Any, impl: Impl = "auto") -> TextGenerator:
        """A generator of text with these parameters and this run's settings."""
        config = self.record.config
        return TextGenerator(
            build_model(config, len(self.vocab), impl),
            jax.tree.map(jnp.asarray, params),
            self.vocab,
            config.lowercase,
            self.record.seed_text,
            config.length,
            "window" if config.recipe == "book" else "state",
        )

    def export(self, path: str | os.PathLike[str]) -> "Run":
        """Copies what it takes to write with the best checkpoint, to share or keep: half the run's size or less.

        The copy is a run that is sampled from, measured and loaded like any other, but not trained on.

        Args:
          path: the directory to make.

        Raises:
          InputError: this run has no good checkpoint, or `path` exists or cannot be written.
          RunError: the disk is full; nothing is left at `path`.
        """
        generator, progress = self.generator()
        copy = Run.create(Path(path), self.record, self.vocab)
        try:
            with copy.writing("metrics.jsonl"):
                _write_text(copy.path / "metrics.jsonl", "".join(line + "\n" for _, line in self._metrics()))
            copy.writer().save_weights(jax.device_get(generator.params), progress)
        except BaseException:  # Ctrl-C, too, leaves nothing half-written.
            shutil.rmtree(copy.path, ignore_errors=True)
            raise
        return copy

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl.

        Raises:
          RunError: the disk refused it.
        """
        with self.writing("metrics.jsonl"), open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def go_back_to(self, step: int) -> None:
        """Makes room for what comes after `step`.

        Checkpoints after it, and whatever else has their numbers for a name, become damaged-<number>. Later lines
        of metrics.jsonl, and one that was cut off by a kill, are dropped.

        Raises:
          RunError: the disk refused it.
        """
        with self.writing("the directory"):
            for pattern in ("*.orbax-checkpoint-tmp*", f"{DELETED}*"):
                for path in self.path.glob(pattern):
                    shutil.rmtree(path)  # Left by a kill in the middle of a save.
            for other, path in sorted(self._numbered().items()):
                if other > step:
                    target, number = self.path / f"damaged-{other}", 1
                    while os.path.lexists(target):
                        number += 1
                        target = self.path / f"damaged-{other}-{number}"
                    path.rename(target)
                    log.warning("%s: checkpoint %s is set aside as %s", self.path, other, target.name)
            _write_text(
                self.path / "metrics.jsonl",
                "".join(line + "\n" for reached, line in self._metrics() if reached <= step),
            )

    def _metrics(self) -> list[tuple[int, str]]:
        """The whole lines of metrics.jsonl, each with its step."""
        path, lines = self.path / "metrics.jsonl", []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                lines.append((int(json.loads(line)["step"]), line))
        return lines

    def _numbered(self) -> dict[int, Path]:
        """Everything with a step for a name."""
        return {int(path.name): path for path in self.path.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)}

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turns the disk's refusal to write `name` into a RunError."""
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore tells of a full disk as a ValueError.
            raise RunError(
                f"run {self.path}: {name} could not be written ({(str(error).splitlines() or [''])[0][:200]}), "
                "expected room and permission to write; earlier checkpoints are untouched; make room, then train on "
                "with --resume"
            ) from error

    def steps(self) -> list[int]:
        """The checkpoints, damaged ones too, in order."""
        return sorted(step for step, path in self._numbered().items() if (path / PROGRESS).exists())

    def good(self) -> dict[int, Progress]:
        """How far the checkpoints are that say so, by step."""
        found = {}
        for step in self.steps():
            with contextlib.suppress(_Damaged):
                found[step] = self.read_progress(step)[0]
        return found

    def read_progress(self, step: int) -> tuple[Progress, dict[str, str]]:
        """How far a checkpoint is, and the digests of its files.

        Raises:
          _Damaged: it is damaged, or gone.
          OSError: it may be good, but cannot be read.
        """
        with _damage_only(PROGRESS):
            text = (self.path / str(step) / PROGRESS).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
            digest = values.pop("sha256")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise _Damaged(f"{PROGRESS} is not what was saved ({type(error).__name__})") from error
        if digest != _digest(values):
            raise _Damaged(f"{PROGRESS} is not what was saved")
        # From here on, it is what jaxlm wrote.
        if values.pop("vocab") != _digest(self.vocab.to_json()):
            raise _Damaged("vocab.json is not what was saved with it")
        files = values.pop("files")
        if values["step"] != step:
            raise _Damaged(f"it is a copy of checkpoint {values['step']}")
        return Progress(**values), files

    def _first_readable(self, targets: dict[str, Any], best: bool) -> tuple[dict[str, Any], Progress] | None:
        damaged: dict[int, _Damaged] = {}
        while True:
            # Listed anew each time: a trainer may have replaced the steps meanwhile.
            steps = self.steps()
            candidates = [step for step in steps if step not in damaged]
            if steps and not candidates:
                raise InputError(
                    f"run {self.path}: found only damaged checkpoints ({_explain(damaged)}), expected a good one; "
                    "restore the directory from a backup, or train a new run"
                )
            if not candidates:
                return None
            found = {}
            try:
                for step in candidates:
                    found[step] = self.read_progress(step)
                step = _best({step: progress for step, (progress, _) in found.items()}) if best else max(found)
                progress, files = found[step]
                items = self._read_items(step, targets, files)
            except _Damaged as error:
                damaged[step] = error
                continue
            except (OSError, _Unreadable) as error:
                if step not in self.steps():
                    continue
                # What keeps it from being read is not in its files: no other is taken, and nothing is called damaged.
                raise RunError(
                    f"run {self.path}: checkpoint {step} could not be read ({error}); the run was left as "
                    "it is; once the cause is gone, try again"
                ) from error
            for other in sorted(damaged.keys() & set(steps)):
                log.warning("%s: checkpoint %s is passed over", self.path, _explain({other: damaged[other]}))
            return items, progress

    def _read_items(self, step: int, targets: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
        for name, digest in files.items():
            # An item that is not asked for need not be good.
            asked = name.partition("/")[0] not in {"params", "training"} - targets.keys()
            if not asked:
                continue
            with _damage_only(name):
                found = _file_digest(self.path / str(step) / name)
            if found != digest:
                raise _Damaged(f"{name} is not what was saved")
        return _restore(self.path / str(step), targets)


class Writer:
    """The checkpoints of a run, for saving; made by `Run.writer`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._good = run.good()  # The other checkpoints are left alone.

    @property
    def best(self) -> Progress | None:
        """How far the best epoch is; None before the end of the first."""
        return best_epoch(self._good)

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves a checkpoint; it is on disk, or the error raised, when this returns.

        Kept are the two last, so that damage to one loses little, and the best.

        Args:
          state: on the host.
          progress: how far it is.

        Raises:
          Diverged: a number is not finite; earlier checkpoints are untouched.
          RunError: the disk refused it; as above.
        """
        step = progress.step
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
            raise Diverged(f"step {step}: found weights that are not finite, expected finite ones")
        self._write({"params": state.weights, "training": _training(state)}, progress)
        self._delete_all_but({*sorted(self._good)[-2:], _best(self._good)})

    def save_weights(self, weights: Params, progress: Progress) -> None:
        """Saves what writes, but cannot be trained on.

        Raises:
          RunError: as in `save`.
        """
        self._write({"params": weights}, progress)

    def _write(self, items: dict[str, Any], progress: Progress) -> None:
        step = progress.step
        path = self._run.path / str(step)
        if os.path.lexists(path) or step <= max(self._good, default=-1):
            raise RunError(
                f"run {self._run.path}: refused to save step {step}, as that or a later one is there already"
            )
        try:
            with self._run.writing(f"checkpoint {step}"):
                _save(path, items)
                self._check(path, items)
                self._seal(path, progress)
        except RunError:
            for part in (path, *self._run.path.glob(f"{step}.orbax-checkpoint-tmp*")):
                shutil.rmtree(part, ignore_errors=True)  # It takes the room that is missing.
            raise
        self._good[step] = progress

    def go_back_to(self, progress: Progress) -> None:
        """Deletes what came after a checkpoint, and has that one say `progress`, which may differ in `cuts` alone.

        Raises:
          RunError: the disk refused it.
        """
        step = progress.step
        self._delete_all_but({other for other in self._good if other <= step})
        self._run.go_back_to(step)
        if step in self._good:
            with self._run.writing(f"checkpoint {step}"):
                self._seal(self._run.path / str(step), progress)
            self._good[step] = progress

    def _check(self, path: Path, items: dict[str, Any]) -> None:
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
            f"run {self._run.path}: checkpoint {path.name} was written, but could not be read back ({found}); earlier "
            "checkpoints are untouched; check the disk, then train on with --resume"
        )

    def _seal(self, path: Path, progress: Progress) -> None:
        """Makes what Orbax saved a checkpoint."""
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != PROGRESS)
        values = {
            **vars(progress),
            "vocab": _digest(self._run.vocab.to_json()),
            "files": {file.relative_to(path).as_posix(): _file_digest(file) for file in files},
        }
        _write_json(path / PROGRESS, {**values, "sha256": _digest(values)})

    def _delete_all_but(self, kept: set[int]) -> None:
        for step in self._good.keys() - kept:
            with self._run.writing(f"checkpoint {step}"):
                # By another name first, so that no reader, and no kill, finds half a checkpoint.
                shutil.rmtree((self._run.path / str(step)).rename(self._run.path / f"{DELETED}{step}"))
            del self._good[step]


def resume_command(path: Path) -> str:
    """The line that goes on with the run of this directory."""
    return f"python train.py --resume --run {shlex.quote(str(path) if os.sep in str(path) else f'.{os.sep}{path}')}"


def refuse(path: Path) -> NoReturn:
    """Raises the InputError for a new run's path that is taken."""
    if (path / "config.json").exists():
        found, remedy = "a run", f"go on with it ({resume_command(path)}), or choose another name"
    else:
        found, remedy = "something that is no run of jaxlm", "choose another name"
    raise InputError(f"run {path}: found {found} there, expected nothing, as none is ever overwritten; {remedy}")


def locate(run: str | os.PathLike[str], checkpoints: str | os.PathLike[str]) -> Path:
    """The directory of a run given by its name, or by a path (which has a separator in it).

    Raises:
      InputError: the name is empty.
    """
    name = os.fspath(run)
    if not name:
        config_lib.reject("run", name, "a name, or a path", "leave it out for the default")
    return Path(name) if os.sep in name or name in (".", "..") else Path(checkpoints) / name


def newest(checkpoints: str | os.PathLike[str], *, trained: bool = False) -> Path:
    """The directory of the run in `checkpoints` that was begun last.

    Args:
      checkpoints: the folder of runs.
      trained: pass over runs that have no checkpoint yet, where others have one; otherwise, over those that cannot
        be trained on.

    Raises:
      InputError: there is none.
    """
    found = []
    for path in Path(checkpoints).glob("*/config.json"):
        with contextlib.suppress(InputError):
            run = Run.open(path.parent)
            if not trained:
                run.check_trainable()
            found.append((trained and bool(run.steps()), run.record.created, run.path))
    if not found:
        raise InputError(
            f"checkpoints {checkpoints}: found no run there, expected one; train one with: python train.py"
        )
    return max(found)[2]


def unused_path(checkpoints: str | os.PathLike[str], corpus: str, recipe: str) -> Path:
    """The directory for a new run of a corpus and a recipe: numbered, if their names are taken."""
    # Cut, as a file system's names are at most 255 bytes.
    name = re.sub(r"[^\w.-]+", "-", f"{corpus[:50]}-{recipe}").strip("-.")
    path = Path(checkpoints) / name
    number = 1
    while path.exists():
        number += 1
        path = Path(checkpoints) / f"{name}-{number}"
    return path


def load(path: str | os.PathLike[str], *, impl: Impl = "auto") -> TextGenerator:
    """The best checkpoint of a run, ready to write: `load("checkpoints/nietzsche").generate("the truth ")`.

    Args:
      path: the run's directory; nothing else is needed, whatever machine it was trained on.
      impl: how the recurrence is computed: `scan` is the plain reference, `auto` the fastest here.

    Raises:
      ValueError: there is no run, or no checkpoint in it, or this machine cannot do `impl`.
    """
    return Run.open(path).generator(impl)[0]


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
    if plain and not re.search(r"[*?\[\]\\]", str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        (Path(folder) / "run").symlink_to(path.parent, target_is_directory=True)
        yield Path(folder) / "run" / path.name


def _checkpointer() -> ocp.Checkpointer:
    handlers = {"params": ocp.StandardCheckpointHandler(), "training": ocp.StandardCheckpointHandler()}
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))


def _save(path: Path, items: dict[str, Any]) -> None:
    """Saves trees of NumPy arrays by Orbax as the new directory `path`."""
    arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    with _plain(path) as plain, _checkpointer() as checkpointer:
        checkpointer.save(plain, args=ocp.args.Composite(**arguments))
    for file in path.rglob("commit_success.txt"):
        file.unlink()  # It says nothing but where on this machine the checkpoint lies.


def _restore(path: Path, targets: dict[str, Any]) -> dict[str, Any]:
    """The trees that Orbax saved as `path`, as NumPy arrays in trees like the targets.

    Raises:
      _Damaged: its trees or shapes are others.
      _Unreadable: Orbax failed.
      OSError: it cannot be looked at.
    """
    # NumPy targets: with others, Orbax wants the devices that a checkpoint was saved from.
    arguments = {
        name: ocp.args.StandardRestore(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target))
        for name, target in targets.items()
    }
    with _merged(path, targets) as merged, _plain(merged) as plain, _checkpointer() as checkpointer:
        # Orbax raises whatever its layers do, bare Exceptions too. That nothing of ours is among them is why so
        # little is inside.
        for name, target in targets.items():
            try:
                stored = ocp.StandardCheckpointHandler().metadata(plain / name).tree
            except Exception as error:
                raise _Unreadable(_first_line(error)) from error
            # Orbax takes other shapes than a NumPy target's without a word.
            if _stored_shapes(stored) != _shapes(target):
                raise _Damaged(f"its {name} do not fit the model in config.json")
        try:
            restored = checkpointer.restore(plain, args=ocp.args.Composite(**arguments))
        except Exception as error:
            raise _Unreadable(_first_line(error)) from error
        return {name: restored[name] for name in targets}


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


def _are_same(saved: Any, read: Any) -> bool:
    """Whether two trees of arrays have the same structure, types and values."""
    same: bool = jax.tree.structure(saved) == jax.tree.structure(read)  # type: ignore[operator]
    return same and all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(saved), jax.tree.leaves(read), strict=True)
    )


def _best(checkpoints: dict[int, Progress]) -> int:
    """The first step with the lowest loss, or the last where none has one."""

    def rank(step: int) -> tuple[float, int]:
        judged = checkpoints[step].judged
        return (np.inf, -step) if judged is None else (judged, step)

    return min(checkpoints, key=rank)


def best_epoch(checkpoints: dict[int, Progress]) -> Progress | None:
    """How far the best epoch is; None before the end of the first."""
    best = checkpoints[_best(checkpoints)] if checkpoints else None
    return best if best and best.judged is not None else None


def _training(state: TrainState) -> dict[str, Any]:
    """What only training needs of a state."""
    values = {"step": state.step, "opt_state": state.opt_state, "key": state.key}
    if state.carry:
        values["carry"] = state.carry
    if state.average:
        values["params"] = state.params
    return values


def _shapes(tree: Any) -> dict[str, Any]:
    """The shape and type of each array by its name, as Orbax names them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in leaves
    }


def _stored_shapes(tree: Any) -> dict[str, Any]:
    """The same of what Orbax says is stored."""
    return {leaf.name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(tree)}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(damaged: dict[int, "_Damaged"]) -> str:
    return "; ".join(f"{step}: {error}" for step, error in sorted(damaged.items()))


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _unwritable(path: Path, error: OSError) -> InputError:
    found = "a file" if os.path.isfile(path) else f"what cannot be written to ({error.strerror})"
    return InputError(
        f"checkpoints {path}: found {found}, expected a folder for runs; choose another with --checkpoints"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name} cannot be read ({error}), expected what jaxlm wrote; restore it from a backup"
        ) from error


def _write_json(path: Path, values: Any) -> None:
    _write_text(path, json.dumps(values, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Replaces a file whole: a reader, or a power loss, finds the old or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
