"""A run's directory: checkpoints/<run>/{config.json, vocab.json, text.ids, metrics.jsonl, samples.jsonl, <step>/}.

It holds everything needed to resume the run or to generate with it, on any machine. config.json seals what a run says
of itself: it holds the SHA-256 of its own values, of the vocabulary's and of text.ids, and is refused if they differ.
text.ids, the training text as tokens, is there only if the network takes its n-grams. `storage` states the guarantees
for checkpoints, metrics and samples.
"""

import contextlib
import dataclasses
import datetime
import errno
import glob
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import filelock
import numpy as np

import jaxlm
from jaxlm import config as config_lib
from jaxlm import invocation
from jaxlm.config import Impl, Precision, TrainConfig, checkpoints_folder
from jaxlm.errors import InputError, RunError, did_you_mean, file_path, which_epoch
from jaxlm.generator import TextGenerator
from jaxlm.nn import sharding
from jaxlm.nn.ambient import device_put
from jaxlm.nn.model import LanguageModel, Params, build_model
from jaxlm.page.assemble import Story, assemble
from jaxlm.runs.arrays import Items
from jaxlm.runs.bundled import bundled
from jaxlm.runs.command import training_command, without_folders
from jaxlm.runs.files import (
    MEBIBYTE,
    NOT_SUPPORTED,
    Damaged,
    delete,
    delete_failed,
    digest,
    flush,
    make_folder,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from jaxlm.runs.storage import CONFIG, CONFIG_LIMIT, Progress, Saver, Storage
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

if TYPE_CHECKING:
    from jaxlm.nn.training import TrainState

log = logging.getLogger("jaxlm")

FORMAT = 2
"""Version of the layout of new directories. Those of format 1 have no seal; they are read and resumed as they are."""

VOCAB, IDS, LOCK = "vocab.json", "text.ids", ".lock"

NEW, STALE_SECONDS = ".jaxlm-new-", 3600.0
"""Name prefix of a run that is being made, and the age at which a kill must have left it behind."""

VOCAB_LIMIT = 64 * MEBIBYTE


@dataclasses.dataclass(frozen=True)
class Record:
    """The contents of config.json.

    Attributes:
      config: all settings, with the corpus's sources filled in.
      corpus: the corpus's name.
      characters: its length.
      sha256: its digest, after lowercasing and normalization.
      seed_text: the default prompt.
      created: when the run started, ISO 8601 in UTC; it decides which run is the newest.
      parent: the name of the run whose weights it started from; empty if there is none.
      parent_weights: the SHA-256 of those weights.
      teacher_weights: the SHA-256 of the weights that it learned from; empty if there are none.
      reading: the files that the corpus was read from, and those that were left out; empty for older runs.
      mixed: whether streams are mixed, as in `Streams`; False for older runs.
    """

    config: TrainConfig
    corpus: str
    characters: int
    sha256: str
    seed_text: str
    created: str
    parent: str = ""
    parent_weights: str = ""
    teacher_weights: str = ""
    reading: dict = dataclasses.field(default_factory=dict)
    mixed: bool = True


def now() -> str:
    """The current time, in the format of `Record.created`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


class NameTaken(InputError):
    """There is something at the path of a new run."""


class InUse(InputError):
    """Another process is training the run."""


class Run:
    """A run's directory.

    Attributes:
      path: the directory, as an absolute path.
      record: the contents of config.json.
      vocab: the vocabulary.
      format: the version of its layout.
      text: the SHA-256 of text.ids; empty if there is none.
      storage: its checkpoints.
    """

    def __init__(self, path: Path, record: Record, vocab: Vocab, format: int = FORMAT, text: str = "") -> None:
        self.path = Path(os.path.abspath(path))
        self.record = record
        self.vocab = vocab
        self.format = format
        self.text = text
        seal = {"vocab": digest(vocab.to_json())} if format == 1 else {"run": record.created}
        self.storage = Storage(self.path, seal)

    def __repr__(self) -> str:
        return f"Run({self.shown!r}, checkpoints={self.checkpoints()})"

    @property
    def shown(self) -> str:
        """The path for messages."""
        return invocation.shown(self.path)

    @classmethod
    def create(
        cls,
        path: Path,
        record: Record,
        vocab: Vocab,
        ids: np.ndarray | None = None,
        checkpoint: tuple[Items, Progress] | None = None,
        metrics: Sequence[dict[str, Any]] = (),
        samples: Sequence[dict[str, Any]] = (),
        texts: Mapping[str, str] | None = None,
    ) -> "Run":
        """Creates the directory of a new run, whole or not at all.

        Args:
          path: the directory.
          record: what config.json will hold.
          vocab: the vocabulary.
          ids: the training text, int[N]; it is stored if the network takes its n-grams.
          checkpoint: the first one, if the run begins with one.
          metrics: the epochs before it.
          samples: the texts that were shown after them.
          texts: other files that it shall hold, by name.

        Raises:
          InputError: it exists, as NameTaken, or cannot be written to.
          RunError: the checkpoint cannot be saved, as where the disk is full.
        """
        path = Path(os.path.abspath(path))
        if os.path.lexists(path):
            refuse(path)
        text = b"" if ids is None or not record.config.model.ngram else ids.astype(_id_type(vocab)).tobytes()
        sha256 = hashlib.sha256(text).hexdigest() if text else ""
        # Under another name until it is complete, so that a kill leaves the name free.
        new = cls(path.with_name(f"{NEW}{secrets.token_hex(8)}"), record, vocab, text=sha256)
        place = new.path
        try:
            make_folder(path.parent)
            _delete_stale(path.parent)
            new.path.mkdir()
            try:
                write_json(new.path / VOCAB, vocab.to_json())
                if text:
                    write_bytes(new.path / IDS, text)
                for name, content in (texts or {}).items():
                    write_text(new.path / name, content)
                new.write_record(record)
                (new.path / LOCK).touch()
                if checkpoint:
                    saver = Saver(new.storage)
                    saver.add_metrics(*metrics)
                    saver.save(*checkpoint)
                    if samples:
                        saver.add_samples(*samples)
                new.path.rename(path)
                place = path
                flush(path.parent)
            except BaseException:
                delete_failed(place)
                raise
        except RunError as error:
            raise RunError(str(error).replace(new.shown, invocation.shown(path))) from error
        except OSError as error:
            if place != path and os.path.lexists(path):
                refuse(path)
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(
                    f"run {path.name[:40]}...: {len(path.name)} characters are too long for a folder's name; choose a "
                    "shorter one"
                ) from error
            raise _unwritable(path.parent, error) from error
        return cls(path, record, vocab, text=sha256)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Opens the directory of a run.

        Raises:
          InputError: there is none, it is damaged, or another version wrote it.
        """
        path = Path(os.path.abspath(os.path.expanduser(path)))
        if not os.path.lexists(path):
            raise missing(path, hint="" if path.parent.name else "; expected a path, such as checkpoints/fox")
        where = invocation.shown(path)
        # os.path, unlike Path, returns False where permission is missing.
        if not os.path.lexists(path / CONFIG):
            found = f"a folder without {CONFIG}" if os.path.isdir(path) else "a file"
            raise InputError(
                f"run {where}: found {found}, expected the directory of a run, such as checkpoints/nietzsche-book; "
                f"train one with: {invocation.train()}"
            )
        try:
            return cls._read(path)
        except Damaged as error:
            raise InputError(f"run {where}: {error}; undo the change, or restore it from a backup") from error
        except OSError as error:
            name = Path(error.filename or CONFIG).name
            raise InputError(f"run {where}: {name} cannot be read ({error.strerror}); fix the cause") from error
        except InputError as error:
            raise InputError(f"run {where}: {error}") from error

    @classmethod
    def _read(cls, path: Path) -> "Run":
        values = read_json(path / CONFIG, CONFIG_LIMIT)
        vocab = read_json(path / VOCAB, VOCAB_LIMIT)
        if not isinstance(values, dict):
            raise Damaged(f"{CONFIG} has changed since it was saved")
        format, seal = values.get("format"), values.pop("seal", None)
        if seal is not None or format == FORMAT or "vocab" in values:
            if seal != digest(values):
                raise Damaged(f"{CONFIG} has changed since it was saved")
            if values.get("vocab") != digest(vocab):
                raise Damaged(f"{VOCAB} has changed since it was saved")
        try:
            if type(format) is not int or not (format == FORMAT if seal else format == 1):
                raise KeyError("format")
            values["config"] = config_lib.from_json(values["config"])
            older = {"parent": "", "parent_weights": "", "teacher_weights": "", "reading": {}, "mixed": False}
            values = {**older, **values}  # They lack these.
            for field in dataclasses.fields(Record):
                if not isinstance(values[field.name], cast(type, field.type)):
                    raise KeyError(field.name)
            record = Record(**{field.name: values[field.name] for field in dataclasses.fields(Record)})
        except (KeyError, TypeError) as error:
            missing = error.args[0] if isinstance(error, KeyError) else "format"  # It is not even an object.
            raise InputError(
                f"{CONFIG} has no {missing!r} that jaxlm {jaxlm.__version__} can use; restore it from a backup, or "
                "use the version that made the run"
            ) from error
        text = values.get("text", "")
        if bool(record.config.model.ngram) != bool(text) or not isinstance(text, str):
            raise Damaged(f"{CONFIG} and its ngram disagree on whether there is a {IDS}")
        return cls(path, record, Vocab.from_json(vocab), format, text)

    def write_record(self, record: Record) -> None:
        """Replaces the contents of config.json."""
        self.record = record
        values: dict[str, Any] = {"format": self.format, "jaxlm": jaxlm.__version__, **vars(record)}
        values["config"] = config_lib.to_json(record.config)
        if self.format != 1:
            values["vocab"] = digest(self.vocab.to_json())
            if self.text:
                values["text"] = self.text
            values["seal"] = digest(values)
        write_json(self.path / CONFIG, values)

    def ids(self) -> np.ndarray:
        """The training text, unsigned int[N]; empty if the network takes no n-grams.

        Raises:
          InputError: text.ids is not what was stored.
        """
        if not self.text:
            return np.empty(0, _id_type(self.vocab))
        try:
            # A character has at most four tokens, and a token at most four bytes; a text may be there in several keys.
            keys = 2 * self.record.config.transpose + 1
            content = read_bytes(self.path / IDS, 16 * self.record.characters * keys)
            if hashlib.sha256(content).hexdigest() != self.text:
                raise Damaged(f"{IDS} has changed since it was saved")
            kind = _id_type(self.vocab)
            if len(content) % kind.itemsize:
                raise Damaged(f"{IDS} does not end with a whole token")
            ids = np.frombuffer(content, kind)
            if ids.max(initial=0) >= len(self.vocab):
                raise Damaged(f"{IDS} has tokens that {VOCAB} lacks")
            return ids
        except Damaged as error:
            raise InputError(f"run {self.shown}: {error}; undo the change, or restore it from a backup") from error
        except OSError as error:
            raise InputError(f"run {self.shown}: {IDS} cannot be read ({error.strerror}); fix the cause") from error

    def counts(self) -> NGram | None:
        """The n-grams of the training text; None if the network takes none. Raises as `ids` does."""
        return NGram.count(self.ids(), len(self.vocab), order) if (order := self.record.config.model.ngram) else None

    def model(self, impl: Impl = "auto", precision: Precision = "float32") -> LanguageModel:
        """The run's network.

        Raises:
          InputError: this machine cannot run `impl`.
        """
        line_end = line_end_of(self.vocab) if self.record.config.units == "lines" else None
        return build_model(self.record.config, len(self.vocab), impl, precision, line_end)

    def checkpoints(self) -> list[int]:
        """The steps of all checkpoints, including damaged ones, in order."""
        return self.storage.steps()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per epoch; where the file has been damaged, from the last checkpoint."""
        return self.storage.metrics()

    def samples(self) -> list[dict[str, Any]]:
        """The texts that were shown after each epoch, as `metrics` are read; none of older runs, or if none were asked.

        Each has `epoch`, `step`, `temperature`, `seed`, and:

        - `prompt`, and `text`, the prompt and its continuation, of which the rest is said;
        - `surprise`, how little the model expected it: the mean of -log of its tokens' probabilities at temperature 1,
          in nats; None if nothing was generated;
        - `copied`, the characters of the longest span of it that stands in the training text word for word;
          `copied_from`, where that begins in `text`; and `copied_at`, where it first does in the training text.
        """
        return self.storage.samples()

    def remove_if_untrained(self) -> None:
        """Deletes the directory if no step has a checkpoint, so that a run that failed early leaves nothing."""
        # What made the run fail is what the user must hear of.
        with contextlib.suppress(OSError, Damaged, InputError):
            if Run._read(self.path).record.created == self.record.created and not any(self.checkpoints()):
                delete_failed(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainers out of this run; the lock of a killed process is released.

        Where the file system has no locks, warns, and goes on.

        Raises:
          InUse: another process is training this run.
          RunError: the lock's file cannot be opened.
        """
        lock = filelock.FileLock(self.path / LOCK, timeout=0, mode=0o666, fallback_to_soft=False)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise InUse(f"run {self.shown}: another process is training it; wait for it, or stop it first") from error
        except OSError as error:
            if error.errno not in (*NOT_SUPPORTED, errno.ENOLCK):
                raise RunError(
                    f"run {self.shown}: cannot be locked for training ({error.strerror}); nothing was changed"
                ) from error
            log.warning(
                "%s: this file system has no locks (%s), so make sure that nothing else trains this run",
                self.shown,
                error.strerror,
            )
        try:
            yield
        finally:
            lock.release()

    def check_trainable(self) -> None:
        """Raises InputError if the checkpoints hold only weights, as `export` saves them."""
        if self.storage.hold_only_weights():
            raise InputError(
                f"run {self.shown}: holds only weights, which can generate text but not be trained further; resume "
                f"another run, or train a new one: {invocation.train()}"
            )

    def restore(self, *, best: bool = False) -> "tuple[TrainState, Progress] | None":
        """The training state of the last checkpoint, or of the best, on the host.

        Skips damaged checkpoints, with a warning.

        Returns:
          The state, of NumPy arrays, and its progress; None if no checkpoint has been saved yet.

        Raises:
          InputError: there were checkpoints, and all of them are damaged or gone.
          RunError: the checkpoint cannot be read, for a reason other than damage.
        """
        from jaxlm.nn.training import abstract_state  # With Optax, which texts need not wait for.

        self.check_trainable()
        sharding.devices()
        config = self.record.config
        like = abstract_state(self.model(), config)
        found = self.storage.restore(like.to_items(), best=best)
        if found is None:
            # An epoch's line is written before its checkpoint, so that a kill leaves one line more, never two.
            if len(epochs := self.metrics()) > 1:
                raise InputError(
                    f"run {self.shown}: found no checkpoint, but {len(epochs)} epochs in metrics.jsonl; restore the "
                    "directory from a backup, or train a new run"
                )
            if self.record.parent:
                raise InputError(
                    f"run {self.shown}: found no checkpoint, not even of the weights that it started from; restore the "
                    "directory from a backup, or train a new run"
                )
            return None
        items, progress = found
        return like.from_items(items), progress

    def generator(self, impl: Impl = "auto", epoch: int | str = "best") -> tuple[TextGenerator, Progress]:
        """A text generator with one of the checkpoints, on JAX's default device; and that checkpoint's progress.

        The best epoch has the lowest validation loss, or training loss without validation; before the end of the
        first, the last checkpoint is taken.

        Args:
          impl: the implementation of the recurrence.
          epoch: `best`; `last`, the last checkpoint; or an epoch's number, whose end must be among those that are kept.

        Raises:
          InputError: the run has no checkpoint yet, or not this one, or all of them are damaged; or this machine cannot
            run `impl`.
          RunError: the checkpoint cannot be read, for a reason other than damage.
        """
        model = self.model(impl)
        params, progress = self.weights(epoch)
        return self.generator_of(model, device_put(params), self.counts()), progress

    def weights(self, epoch: int | str = "best") -> tuple[Params, Progress]:
        """The parameters of a checkpoint, on the host, and its progress; takes and raises what `generator` does."""
        sharding.devices()
        number = None if isinstance(which_epoch("epoch", epoch), str) else int(epoch)
        like = {"params": self.model().abstract_params()}
        found = self.storage.restore(like, best=epoch == "best", epoch=number)
        if found is None:
            raise InputError(f"run {self.shown}: has no checkpoint yet; resume it with: {invocation.resume(self.path)}")
        items, progress = found
        return items["params"], progress

    def generator_of(self, model: LanguageModel, params: Params, counts: NGram | None) -> TextGenerator:
        """A text generator with this network, these parameters and n-grams, and the run's settings."""
        config = self.record.config
        return TextGenerator(
            model=model,
            params=params,
            vocab=self.vocab,
            lowercase=config.lowercase,
            seed_text=self.record.seed_text,
            length=config.length,
            mode="window" if config.recipe == "book" else "state",
            normalize=config.normalize,
            counts=counts,
        )

    def export(self, path: str | os.PathLike[str], texts: Mapping[str, str] | None = None) -> "Run":
        """Copies what is needed to generate with the best checkpoint: at most half of what its checkpoints take.

        The copy can be sampled, evaluated and loaded like any run, but not trained further. If the network takes
        n-grams, it holds the training text, from which they follow; that is told. It names teachers without their
        folders.

        Args:
          path: the directory to create.
          texts: other files that it shall hold, by name.

        Raises:
          InputError: this run has no good checkpoint, or `path` exists or cannot be written to.
          RunError: the disk is full; nothing is left at `path`.
        """
        params, progress = self.weights()
        ids, checkpoint = self.ids(), ({"params": params}, progress)
        place = Path(os.path.expanduser(path))
        # The corpus stays where it is, so that the copy can be evaluated; teachers have done their part.
        config = dataclasses.replace(self.record.config, teacher=without_folders(self.record.config).teacher)
        record = dataclasses.replace(self.record, config=config)
        copy = Run.create(
            place, record, self.vocab, ids, checkpoint, metrics=self.metrics(), samples=self.samples(), texts=texts
        )
        self._tell_of_text(copy.path)
        return copy

    def page(self, path: str | os.PathLike[str], *, float32: bool = False) -> Path:
        """Writes a web page with the best checkpoint in it, which runs the model and shows how it learned.

        It is one file that needs nothing else, neither Python nor a network. If the network takes n-grams, it holds the
        training text, from which they follow; that is told.

        Args:
          path: the file to write; what is there is replaced.
          float32: whether to keep the weights as they are; by default they are rounded to 16 bits, for half the size.

        Returns:
          The file's path.

        Raises:
          InputError: this run has no good checkpoint, or `path` is none.
          RunError: the file cannot be written; nothing was.
        """
        file = Path(os.path.realpath(file_path("output", path, "name the file to write")))
        generator, progress = self.generator()
        record = self.record
        story = Story(
            name=self.path.name,
            config=record.config,
            corpus=record.corpus,
            characters=record.characters,
            created=record.created,
            command=training_command(record.config, record.parent) if progress.step or record.parent else "",
            epoch=progress.epoch,
            metrics=self.metrics(),
            samples=self.samples(),
        )
        html = assemble(generator, story, self.ids(), float32)
        try:
            write_text(file, html)
        except OSError as error:
            raise RunError(f"output {path}: cannot be written ({error.strerror}); nothing was") from error
        self._tell_of_text(file)
        return file

    def _tell_of_text(self, copy: Path) -> None:
        if self.text:
            log.warning(
                "%s: holds the training text, whose n-grams the network takes; whoever gets it can read that text",
                invocation.shown(copy),
            )


def line_end_of(vocab: Vocab) -> int:
    """The token that is a line end, in a vocabulary of a text of several lines."""
    return int(vocab.encode("\n")[0])


def _id_type(vocab: Vocab) -> np.dtype[Any]:
    return np.min_scalar_type(len(vocab) - 1).newbyteorder("<")


def _delete_stale(folder: Path) -> None:
    """Deletes what kills have left of new runs."""
    for path in folder.glob(f"{NEW}*"):
        with contextlib.suppress(OSError):
            is_own = re.fullmatch(rf"{re.escape(NEW)}[0-9a-f]{{16}}", path.name) and not path.is_symlink()
            if is_own and time.time() - path.lstat().st_mtime > STALE_SECONDS:
                delete(path)


def refuse(path: Path) -> NoReturn:
    """Raises NameTaken for a new run's path."""
    if os.path.lexists(path / CONFIG):
        found, remedy = "a run", "choose another name"
        with contextlib.suppress(InputError, OSError):  # It is damaged.
            if not Run.open(path).storage.hold_only_weights():
                remedy = f"resume it ({invocation.resume(path)}), or choose another name"
    else:
        found, remedy = "something that is not a run", "choose another name"
    where = invocation.shown(path)
    raise NameTaken(f"run {where}: found {found} there, and nothing is ever overwritten; {remedy}")


def runs_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The directories of the runs in a folder, by name; without those that are being made."""
    # glob, unlike Path, finds nothing where it may not look, or where a name is too long.
    found = (Path(folder, name).parent for name in glob.glob(f"*/{CONFIG}", root_dir=folder, include_hidden=True))
    return sorted(path for path in found if not path.name.startswith(NEW))


def locate(run: str | os.PathLike[str], checkpoints: str | os.PathLike[str]) -> Path:
    """The directory of a run, given its name or a path (which contains a separator).

    Raises:
      InputError: the name is empty.
    """
    name = file_path("run", run)
    return Path(name) if Path(name).name != name else Path(checkpoints) / name


def missing(path: Path, *others: str, hint: str = "") -> InputError:
    """The error for a run that does not exist; it lists the runs beside that path, and `others`."""
    names = sorted({*(other.name for other in runs_in(path.parent)), *others})
    shown = [*names[:10], *([f"{len(names) - 10} more"] if len(names) > 10 else [])]
    if names or os.path.isdir(path.parent):
        there = f"there {'is' if len(names) == 1 else 'are'} {', '.join(shown) or 'no runs'}"
    else:
        there = "there is no such folder"
    folder = invocation.shown(path.parent)
    return InputError(f"run {path.name}: not found in {folder}; {there}{did_you_mean(path.name, names)}{hint}")


def find(
    run: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    *,
    trained: bool = False,
) -> Path:
    """The directory of an existing run; the user's own take precedence over the bundled model.

    Args:
      run: its name, or a path; the newest if left out.
      checkpoints: the folder in which names are looked up; `$JAXLM_CHECKPOINTS` or `checkpoints` if left out.
      trained: as in `newest`.

    Raises:
      InputError: there is none.
    """
    folder = Path(checkpoints_folder() if checkpoints is None else checkpoints)
    if run is None:
        return newest(folder, trained=trained)
    path, here, model = locate(run, folder), Path(file_path("run", run)), bundled()
    if os.path.lexists(path):
        return path
    if os.path.isfile(here / CONFIG):
        return here
    if path.parent != folder or model is None:
        raise missing(path)
    if path.name != model.name:
        raise missing(path, model.name)
    return model


def newest(checkpoints: str | os.PathLike[str], *, trained: bool = False) -> Path:
    """The directory of the newest run in `checkpoints`; the bundled model if there is none and `trained`.

    Args:
      checkpoints: the folder of runs.
      trained: whether to prefer runs that have a checkpoint; otherwise, runs that cannot be trained further are
        skipped.

    Raises:
      InputError: there is none.
    """
    found = []
    for path in runs_in(checkpoints):
        try:
            run = Run.open(path)
            if not trained:
                run.check_trainable()
            found.append((trained and bool(run.checkpoints()), run.record.created, path))
        except InputError:
            continue
        except OSError as error:
            log.warning("run %s: passed over, as it cannot be read (%s)", path, error.strerror)
    if not found and trained and (model := bundled()):
        return model
    if not found:
        raise InputError(f"checkpoints {checkpoints}: found no run there; train one with: {invocation.train()}")
    return max(found)[2]


def unused_path(checkpoints: str | os.PathLike[str], corpus: str, recipe: str) -> Path:
    """The directory for a new run, named after its corpus and recipe; numbered if that name is taken."""
    # Shortened, since most file systems limit names to 255 bytes.
    name = re.sub(r"[^\w.-]+", "-", f"{corpus[:50]}-{recipe}").strip("-.")
    path = Path(checkpoints) / name
    number = 1
    while os.path.lexists(path):
        number += 1
        path = Path(checkpoints) / f"{name}-{number}"
    return path


def _unwritable(path: Path, error: OSError) -> InputError:
    if os.path.isfile(path):
        found = "found a file, expected a folder for runs"
    else:
        found = f"cannot be written to ({error.strerror})"
    return InputError(
        f"checkpoints {invocation.shown(path)}: {found}; choose another folder with {invocation.setting('checkpoints')}"
    )
