"""The command line: flags made from the config dataclasses, the parts wired together, mistakes in one line."""

import contextlib
import dataclasses
import io
import logging
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from jaxlm.config import BOOK, RECIPES, InputError, RunError, SampleConfig, TrainConfig, WatchConfig, differences

Flags = TypeVar("Flags")
Setting = TypeVar("Setting")
Unnamed = Annotated[Setting, tyro.conf.arg(name="")]
"""Groups of settings are for the code; a user sees flags."""


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Train a character-level LSTM language model on any text, and watch it learn to write."""

    config: Unnamed[TrainConfig] = BOOK
    watch: Unnamed[WatchConfig] = WatchConfig()
    run: str | None = None
    """Name of the run, a folder in --checkpoints, or a path to it. Left out: made from corpus and recipe; with
    --resume, the newest."""
    checkpoints: Path = Path("checkpoints")
    """The folder of runs."""
    resume: bool = False
    """Go on with a run where it stopped, with its own settings; only --epochs and what is shown may change."""


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Write with a trained model: the best epoch of a run."""

    config: Unnamed[SampleConfig] = SampleConfig()
    run: str | None = None
    """Name of the run, a folder in --checkpoints, or a path to it. Left out: the newest."""
    checkpoints: Path = Path("checkpoints")
    """The folder of runs."""


def train(argv: Sequence[str] | None = None) -> int:
    """`python train.py`: returns the exit status."""
    return _guarded(lambda: _train(_parse(TrainFlags(), argv, "train.py"), argv))


def sample(argv: Sequence[str] | None = None) -> int:
    """`python sample.py`: returns the exit status."""
    return _guarded(lambda: _sample(_parse(SampleFlags(), argv, "sample.py")))


def _train(flags: TrainFlags, argv: Sequence[str] | None) -> None:
    _quiet()
    from jaxlm import checkpoint, run
    from jaxlm.reporting import Terminal

    reporter = Terminal(flags.watch)
    if not flags.resume:
        config = flags.config
        if config.recipe != BOOK.recipe:
            flags = _parse(dataclasses.replace(flags, config=RECIPES[config.recipe]), argv, "train.py")
        run.train(flags.config, run=flags.run, checkpoints=flags.checkpoints, reporter=reporter)
        return
    path = checkpoint.locate(flags.run, flags.checkpoints) if flags.run else checkpoint.newest(flags.checkpoints)
    stored = checkpoint.Run.open(path).record.config
    # Read the flags again over the run's own settings, to see which of them ask for something else.
    asked = _parse(dataclasses.replace(flags, config=stored), argv, "train.py").config
    # Another place for the corpus is fine, as long as it is the same text; `resume` sees to that.
    if changed := differences(stored, dataclasses.replace(asked, epochs=stored.epochs, corpus=stored.corpus)):
        raise InputError(
            f"run {path}: found other settings than its own ({'; '.join(changed)}), expected only --epochs to change; "
            "leave them out, or train a new run without --resume"
        )
    run.resume(path, epochs=asked.epochs, corpus=asked.corpus, reporter=reporter)


def _sample(flags: SampleFlags) -> None:
    _quiet()
    from jaxlm import checkpoint

    config = flags.config
    path = checkpoint.locate(flags.run, flags.checkpoints) if flags.run else checkpoint.newest(flags.checkpoints)
    run = checkpoint.Run.open(path)
    generator, progress = run.generator()
    loss = progress.loss
    best = f"step {progress.step}" if loss is None else f"epoch {progress.epoch} (best: loss {loss:.4f})"
    seed = secrets.randbelow(2**32) if config.seed is None else config.seed
    # All of them before a word is printed, since each checks the prompt.
    texts = [
        generator.stream(
            config.prompt,
            config.length,
            temperature=temperature,
            seed=seed,
            mode=config.mode,
            unknown=config.unknown,
        )
        for temperature in config.temperature
    ]
    _note(f"{path}, {best}, seed {seed}")
    for temperature, text in zip(config.temperature, texts, strict=True):
        if len(texts) > 1:
            print(f"--- temperature {temperature:g}", flush=True)
        for piece in text:
            print(piece, end="", flush=True)
        print(flush=True)


def _parse(defaults: Flags, argv: Sequence[str] | None, program: str) -> Flags:
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                type(defaults),
                default=defaults,
                args=argv,
                prog=f"python {program}",
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        # Our own checks of the settings need no box around them.
        cause = stop.__context__
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(told.getvalue())
        raise


def _guarded(command: Callable[[], None]) -> int:
    """Runs a command; a mistake becomes one line on stderr and its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal without the text's letters shows marks for them.
    try:
        command()
    except InputError as error:
        _note(f"error: {error}")
        return 2
    except RunError as error:
        _note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `| head` has read enough; nothing more must be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _note(line: str) -> None:
    print(" ".join(line.splitlines()), file=sys.stderr, flush=True)  # A path may have line breaks in it.


class _Warnings(logging.Handler):
    """Tells jaxlm's warnings as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _note(f"warning: {record.getMessage()}")


def _quiet() -> None:
    """Silences what JAX, Orbax and XLA tell their own developers; jaxlm's warnings come as plain lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("jax", "absl", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jaxlm").handlers = [_Warnings()]
    sys.unraisablehook = _unraisable


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    # Where a disk is full, TensorStore tells of each refused write to Orbax's event loop, which is closed by then.
    # The refusal itself arrives as an exception of its own.
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)
