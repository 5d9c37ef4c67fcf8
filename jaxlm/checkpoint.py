"""Runs on disk: checkpoints/<run>/{config.json, vocab.json, metrics.jsonl, <step>/}.

A run's directory holds all that it takes to go on with it or to write with it, on any machine. The steps are
Orbax's: `params`, `training` (what only the next step needs), `progress` and, at the end of an epoch, `metrics`.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers, options

import jaxlm
from jaxlm import config as config_lib
from jaxlm.config import InputError, RunError, TrainConfig
from jaxlm.model import LanguageModel
from jaxlm.sampling import TextGenerator
from jaxlm.text import Vocab
from jaxlm.training import TrainState, init_state, make_optimizer

log = logging.getLogger("jaxlm")

FORMAT = 1
"""Version of the directory's layout; a reader refuses others."""


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
      loss: mean loss of the last epoch, in nats, if the checkpoint is of its end; otherwise None.
    """

    step: int
    epoch: int
    nats: float
    count: int
    loss: float | None


def build_model(config: TrainConfig, vocab: Vocab) -> LanguageModel:
    """The network of a run."""
    return LanguageModel(len(vocab), config.model.hidden, config.model.layers, config.model.dropout)


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
            if path.exists():
                refuse(path)
            raise _unwritable(path.parent, error) from error
        run = cls(path, record, vocab)
        _write_json(path / "vocab.json", vocab.to_json())
        run.write_record(record)  # Last, since it is what makes the directory a run.
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Opens the directory of a run.

        Raises:
          InputError: there is none, or it is damaged or of another version.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            found = "a folder without config.json" if path.is_dir() else "no folder"
            raise InputError(
                f"run {path}: found {found}, expected the directory of a run, such as checkpoints/nietzsche-book; "
                "train one with: python train.py"
            )
        values = _read_json(path / "config.json")
        try:
            if values.pop("format") != FORMAT:
                raise KeyError("format")
            del values["jaxlm"]
            record = Record(**{**values, "config": config_lib.from_json(values["config"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"run {path}: found a config.json without a good {error}, expected one as jaxlm {jaxlm.__version__} "
                "writes it; use the version that made the run"
            ) from error
        return cls(path, record, Vocab.from_json(_read_json(path / "vocab.json")))

    def write_record(self, record: Record) -> None:
        """Makes `record` what config.json says."""
        self.record = record
        values = {**vars(record), "config": config_lib.to_json(record.config)}
        _write_json(self.path / "config.json", {"format": FORMAT, "jaxlm": jaxlm.__version__, **values})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainers out while the context lasts; a killed process lets go of it too.

        Raises:
          InputError: another trainer is at work in this run.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"run {self.path}: found another process training it, expected none; wait for it, or stop it"
                ) from error
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def writer(self) -> Iterator["Writer"]:
        """The checkpoints, open for saving; everything saved is on disk when the context ends."""
        with _manager(self.path, read_only=False) as manager:
            yield Writer(self, manager)

    def restore(self, *, best: bool = False) -> tuple[TrainState, Progress] | None:
        """The whole state of the last checkpoint, or of the best, on the host.

        A damaged checkpoint is named in a warning, and the one before it taken.

        Returns:
          The state, of NumPy arrays, and how far it is; None where no checkpoint was saved yet.

        Raises:
          InputError: there are checkpoints, and all of them are damaged.
        """
        model, optimizer = build_model(self.record.config, self.vocab), make_optimizer(self.record.config)
        target = jax.eval_shape(lambda: init_state(model, optimizer, 0))
        found = self._first_readable({"params": target.params, "training": _training(target)}, best)
        if found is None:
            return None
        items, progress = found
        return target._replace(params=items["params"], **items["training"]), progress

    def generator(self) -> tuple[TextGenerator, Progress]:
        """The best checkpoint as a generator of text, on JAX's default device, and how far it is.

        Best is the lowest loss of an epoch; before the end of the first, the last checkpoint.

        Raises:
          InputError: the run has no checkpoint yet, or all of them are damaged.
        """
        model = build_model(self.record.config, self.vocab)
        target = jax.eval_shape(lambda: model.init_params(jax.random.key(0)))
        found = self._first_readable({"params": target}, best=True)
        if found is None:
            raise InputError(
                f"run {self.path}: found no checkpoint in it yet, expected one; train on with: python train.py "
                f"--resume --run {self.path.name}"
            )
        items, progress = found
        return self.make_generator(items["params"]), progress

    def make_generator(self, params: Any) -> TextGenerator:
        """A generator of text with these parameters and this run's settings."""
        config = self.record.config
        return TextGenerator(
            build_model(config, self.vocab),
            jax.tree.map(jnp.asarray, params),
            self.vocab,
            config.lowercase,
            self.record.seed_text,
            config.length,
            "window",
        )

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")

    def trim_metrics(self, step: int) -> None:
        """Drops the lines of metrics.jsonl that are later than `step`, or were cut off by a kill."""
        path = self.path / "metrics.jsonl"
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        _write_text(path, "".join(kept))

    def _first_readable(self, targets: dict[str, Any], best: bool) -> tuple[dict[str, Any], Progress] | None:
        damaged: dict[int, Exception] = {}
        while True:
            # Opened anew each time: a trainer may have replaced the steps meanwhile.
            with _manager(self.path, read_only=True) as manager:
                steps = sorted(manager.all_steps(), reverse=True)
                if best:
                    losses = {step: (manager.metrics(step) or {}).get("loss", np.inf) for step in steps}
                    steps.sort(key=lambda step: losses[step])
                step = next((step for step in steps if step not in damaged), None)
                if step is None and damaged.keys() & set(steps):
                    raise InputError(
                        f"run {self.path}: found only damaged checkpoints ({_explain(damaged)}), expected a good one; "
                        "restore the directory from a backup, or train a new run"
                    )
                if step is None:
                    return None
                try:
                    items, progress = _read_step(manager, step, targets)
                except Exception as error:  # Orbax raises a bare Exception for some kinds of damage.
                    damaged[step] = error
                    continue
            for other in damaged.keys() & set(steps):
                log.warning("%s: checkpoint %s is passed over", self.path, _explain({other: damaged[other]}))
            return items, progress


class Writer:
    """The checkpoints of a run, open for saving; made by `Run.writer`."""

    def __init__(self, run: Run, manager: ocp.CheckpointManager) -> None:
        self._run = run
        self._manager = manager

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints later than `step` to damaged-<step>, as their numbers will be used again."""
        for other in self._manager.all_steps():
            if other > step:
                target = self._run.path / f"damaged-{other}"
                number = 1
                while target.exists():
                    number += 1
                    target = self._run.path / f"damaged-{other}-{number}"
                (self._run.path / str(other)).rename(target)
        self._manager.reload()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves a checkpoint; it is on disk, or the error raised, when this returns.

        Kept are the two last, so that damage to one loses little, and the best.

        Raises:
          RunError: the disk refused it, or a parameter is not finite; earlier checkpoints are untouched.
        """
        host: TrainState = jax.device_get(state)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host.params)):
            raise RunError(
                f"step {progress.step}: found weights that are not finite, expected finite ones; the last good "
                "checkpoint is kept; train again with a smaller --learning-rate, or with --clip 1"
            )
        items = {"params": host.params, "training": _training(host)}
        meta = {**vars(progress), "sha256": {name: _digest(item) for name, item in items.items()}}
        arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        metrics = None if progress.loss is None else {"loss": progress.loss}
        try:
            saved = self._manager.save(
                progress.step, args=ocp.args.Composite(**arguments, progress=ocp.args.JsonSave(meta)), metrics=metrics
            )
        except (OSError, ValueError) as error:  # TensorStore tells of a full disk as a ValueError.
            raise RunError(
                f"run {self._run.path}: checkpoint {progress.step} could not be saved "
                f"({str(error).splitlines()[0][:200]}), expected room and permission to write; earlier checkpoints "
                "are untouched; make room, then train on with --resume"
            ) from error
        if not saved:
            raise RunError(f"run {self._run.path}: Orbax refused to save step {progress.step}; is it saved already?")


def refuse(path: Path) -> NoReturn:
    """Raises the InputError for a new run's path that is taken."""
    if (path / "config.json").exists():
        found, remedy = "a run", f"go on with it (--resume --run {path.name}), or choose another name"
    else:
        found, remedy = "something that is no run of jaxlm", "choose another name"
    raise InputError(f"run {path}: found {found} there, expected nothing, as none is ever overwritten; {remedy}")


def locate(run: str, checkpoints: str | os.PathLike[str]) -> Path:
    """The directory of a run given by its name, or by a path (which has a separator in it)."""
    return Path(run) if os.sep in run or run in (".", "..") else Path(checkpoints) / run


def newest(checkpoints: str | os.PathLike[str]) -> Path:
    """The directory of the run in `checkpoints` that was begun last.

    Raises:
      InputError: there is none.
    """
    found = []
    for path in Path(checkpoints).glob("*/config.json"):
        with contextlib.suppress(InputError):
            found.append((Run.open(path.parent).record.created, path.parent))
    if not found:
        raise InputError(
            f"checkpoints {checkpoints}: found no run there, expected one; train one with: python train.py"
        )
    return max(found)[1]


def unused_path(checkpoints: str | os.PathLike[str], corpus: str, recipe: str) -> Path:
    """The directory for a new run of a corpus and a recipe: numbered, if their names are taken."""
    name = re.sub(r"[^\w.-]+", "-", f"{corpus}-{recipe}").strip("-.")
    path = Path(checkpoints) / name
    number = 1
    while path.exists():
        number += 1
        path = Path(checkpoints) / f"{name}-{number}"
    return path


def load(path: str | os.PathLike[str]) -> TextGenerator:
    """The best checkpoint of a run, ready to write: `load("checkpoints/nietzsche-book").generate("the truth ")`.

    Args:
      path: the run's directory; nothing else is needed, whatever machine it was trained on.

    Raises:
      ValueError: there is no run, or no checkpoint in it.
    """
    return Run.open(path).generator()[0]


def _manager(path: Path, read_only: bool) -> ocp.CheckpointManager:
    # Orbax ranks best_fn's scores from worst to best; a checkpoint in the middle of an epoch has none.
    policies = [
        checkpoint_managers.LatestN(2),
        checkpoint_managers.BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False),
    ]
    return ocp.CheckpointManager(
        path.resolve(),
        options=ocp.CheckpointManagerOptions(
            best_fn=_loss,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            create=False,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=False,
            save_root_metadata=False,
            # A partial copy, or an empty directory with a number for a name, is then no checkpoint.
            atomicity_options=options.AtomicityOptions(mode=options.AtomicityMode.COMMIT_FILE),
        ),
        item_handlers={
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        },
    )


def _loss(metrics: dict[str, float]) -> float:
    return metrics["loss"]


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _read_step(manager: ocp.CheckpointManager, step: int, targets: dict[str, Any]) -> tuple[dict[str, Any], Progress]:
    # NumPy targets: with others, Orbax wants the devices that a checkpoint was saved from.
    arguments = {
        name: ocp.args.StandardRestore(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target))
        for name, target in targets.items()
    }
    restored = manager.restore(step, args=ocp.args.Composite(**arguments, progress=ocp.args.JsonRestore()))
    progress = dict(restored["progress"])
    digests = progress.pop("sha256")
    items = {name: restored[name] for name in targets}
    for name, item in items.items():
        if _digest(item) != digests[name]:
            raise ValueError(f"the {name} are not those that were saved")
    return items, Progress(**progress)


def _digest(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _explain(damaged: dict[int, Exception]) -> str:
    return "; ".join(
        f"{step}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        for step, error in sorted(damaged.items())
    )


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"checkpoints {path}: cannot be written to ({error.strerror}), expected a directory that can; choose another "
        "with --checkpoints"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"run {path.parent}: {path.name} cannot be read ({error}), expected what jaxlm wrote; restore it from a "
            "backup"
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
