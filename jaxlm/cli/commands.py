"""The command line: flags made from the config dataclasses, the parts wired together, mistakes in one line."""

import contextlib
import dataclasses
import functools
import io
import itertools
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro

from jaxlm import invocation
from jaxlm.cli.guard import guarded, note
from jaxlm.cli.output import show
from jaxlm.config import (
    BOOK,
    EvaluateConfig,
    Impl,
    Recipe,
    SampleConfig,
    Size,
    TrainConfig,
    WatchConfig,
    differences,
    recipe_settings,
)
from jaxlm.errors import InputError, reject

if TYPE_CHECKING:  # `--help` need not wait for them.
    from jaxlm.runs.run import Progress

Flags = TypeVar("Flags")
Setting = TypeVar("Setting")
Unnamed = Annotated[Setting, tyro.conf.arg(name="")]
"""Groups of settings are for the code; a user sees flags."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """Which run, and where runs are.

    Attributes:
      run: Name of the run, a folder in --checkpoints, or a path to it. Left out: in train.py without --resume made from
        corpus and recipe, else the newest.
      checkpoints: The folder of runs.
    """

    run: str | None = None
    checkpoints: Path = Path("checkpoints")


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Train a character-level LSTM language model on any text, and watch it learn to write.

    Attributes:
      resume: Go on with a run where it stopped, with its own settings; only --epochs, --patience, --impl and what is
        shown may change.
      size: For the stream recipe: small (about 0.1 million parameters, a minute or two on a laptop), medium (0.9
        million) or large (5 million, for a GPU or a long night). Left out: small.
    """

    where: Unnamed[RunFlags] = RunFlags()
    resume: bool = False
    size: Size | None = None
    config: Unnamed[TrainConfig] = BOOK
    watch: Unnamed[WatchConfig] = WatchConfig()


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """The flags that decide which settings the others start from."""

    where: Unnamed[RunFlags] = RunFlags()
    resume: bool = False
    recipe: Recipe = "book"
    size: Size | None = None


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """Write with a trained model: the best epoch of a run.

    Attributes:
      impl: How to compute, with the same numbers but for rounding: scan, the plain reference, which draws as it goes;
        auto, the fastest here; or as in train.py.
    """

    where: Unnamed[RunFlags] = RunFlags()
    config: Unnamed[SampleConfig] = SampleConfig()
    impl: Impl = "auto"


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Measure a trained model, the best epoch of a run, on a text.

    Attributes:
      impl: How to compute, with the same numbers but for rounding; as in train.py.
    """

    where: Unnamed[RunFlags] = RunFlags()
    config: Unnamed[EvaluateConfig] = EvaluateConfig()
    impl: Impl = "auto"


def train(argv: Sequence[str] | None = None) -> int:
    """`python train.py`: returns the exit status."""
    return _run(_train, argv)


def sample(argv: Sequence[str] | None = None) -> int:
    """`python sample.py`: returns the exit status."""
    return _run(_sample, argv)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """`python -m jaxlm evaluate`: returns the exit status."""
    return _run(_evaluate, argv)


def main() -> int:
    """`python -m jaxlm COMMAND`: returns the exit status."""
    with invocation.called_as(invocation.of_process(sys.argv)):
        return _main()


def _main() -> int:
    commands = {"train": train, "sample": sample, "evaluate": evaluate}
    if sys.argv[1:2] and sys.argv[1] in commands:
        return commands[sys.argv[1]](sys.argv[2:])
    note(f"error: found {sys.argv[1:2]}, expected one of {', '.join(commands)}")
    return 2


def _run(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None) -> int:
    if argv is None:
        with invocation.called_as(invocation.of_process(sys.argv)):
            return guarded(command, sys.argv[1:])
    return guarded(command, argv)


def _train(argv: Sequence[str]) -> None:
    first = _parse(ResumeFlags(), argv, "train.py", others=True)
    if first.resume and not {"-h", "--help"} & set(argv):
        if first.size is not None:
            reject("size", first.size, "nothing with --resume, as a run keeps its own", "leave it out")
        _resume(first.where, argv)
        return
    flags = _parse(TrainFlags(config=recipe_settings(first.recipe, first.size)), argv, "train.py")
    from jaxlm.cli import terminal as reporting
    from jaxlm.nn import compilation
    from jaxlm.runs import trainer as run

    compilation.keep_compiled()
    where, reporter = flags.where, reporting.Terminal(flags.watch)
    run.train(flags.config, run=where.run, checkpoints=where.checkpoints, reporter=reporter)


def _resume(where: RunFlags, argv: Sequence[str]) -> None:
    from jaxlm.cli import terminal as reporting
    from jaxlm.nn import compilation
    from jaxlm.runs import run as checkpoint
    from jaxlm.runs import trainer as run

    compilation.keep_compiled()
    path = _find(where)
    stored = checkpoint.Run.open(path).record.config
    # Over the run's own settings, a flag either changes nothing or asks for something else.
    flags = _parse(TrainFlags(config=stored), argv, "train.py")
    # Another place for the corpus is fine, as long as it is the same text; `resume` sees to that.
    asked = flags.config
    free = "epochs", "patience", "corpus", "impl"
    if changed := differences(stored, dataclasses.replace(asked, **{name: getattr(stored, name) for name in free})):
        raise InputError(
            f"run {path}: found other settings than its own ({'; '.join(changed)}), expected only --epochs, "
            "--patience and --impl to change; leave them out, or train a new run without --resume"
        )
    terminal = reporting.Terminal(flags.watch)
    run.resume(path, **{name: getattr(asked, name) for name in free}, reporter=terminal)


def _find(where: RunFlags, *, trained: bool = False) -> Path:
    from jaxlm.runs import run as checkpoint

    if where.run is None:
        return checkpoint.newest(where.checkpoints, trained=trained)
    return checkpoint.locate(where.run, where.checkpoints)


def _sample(argv: Sequence[str]) -> None:
    flags = _parse(SampleFlags(), argv, "sample.py")
    from jaxlm.nn import compilation
    from jaxlm.runs import run as checkpoint

    compilation.keep_compiled()
    config = flags.config
    path = _find(flags.where, trained=True)
    run = checkpoint.Run.open(path)
    generator, progress = run.generator(flags.impl)
    seed = secrets.randbelow(2**32) if config.seed is None else config.seed
    texts = generator.texts(dataclasses.replace(config, seed=seed))
    note(f"{path}, {_describe(progress)}, seed {seed}")
    for text in texts:
        if len(texts) > 1:
            own_seed = f", seed {text.seed}" if config.count > 1 else ""
            print(f"--- temperature {text.temperature:g}{own_seed}", flush=True)
        for piece in text.pieces:
            print(show(piece, sys.stdout), end="", flush=True)
        print(flush=True)


def _describe(progress: "Progress") -> str:
    """The best checkpoint of a run in words."""
    if progress.judged is None:
        return f"step {progress.step}"
    kind = "loss" if progress.validation is None else "held-out loss"
    return f"epoch {progress.epoch} (best: {kind} {progress.judged:.4f})"


def _evaluate(argv: Sequence[str]) -> None:
    flags = _parse(EvaluateFlags(), argv, "-m jaxlm evaluate")
    from jaxlm.cli import terminal
    from jaxlm.nn import compilation
    from jaxlm.runs.evaluation import evaluate
    from jaxlm.runs.run import Run

    compilation.keep_compiled()
    found = evaluate(Run.open(_find(flags.where, trained=True)), flags.config, impl=flags.impl)
    print(terminal.fact_line("Run", f"{found.run}, {_describe(found.progress)}"))
    skipped = f", {found.skipped:,} of them unknown and skipped" if found.skipped else ""
    print(terminal.fact_line("Text", f"{found.text}, {found.characters:,} characters{skipped}"))
    print(terminal.fact_line("Protocol", found.protocol))
    figures = [found.static]
    if found.dynamic:
        figures.append(found.dynamic)
        print(terminal.fact_line("Evaluation", f"{'static':<12}dynamic"))
    table = {
        "Nats per token": [f"{one.loss:.4f}" for one in figures],
        "Nats per character": [f"{one.nats_per_character:.4f}" for one in figures],
        "Bits per character": [f"{one.bits_per_character:.4f}" for one in figures],
        "Perplexity": [f"{one.perplexity:.4f}" for one in figures],
        "Tokens scored": [f"{one.tokens:,}" for one in figures],
        "Tokens per second": [*(f"{one.tokens_per_second:,.0f}" for one in figures), "(once compiled)"],
    }
    if found.static.loss == found.static.nats_per_character:
        del table["Nats per token"]
    for name, values in table.items():
        print(terminal.fact_line(name, "".join(f"{value:<12}" for value in values).rstrip()))


def _parse(defaults: Flags, argv: Sequence[str], program: str, *, others: bool = False) -> Flags:
    """Reads flags over defaults; `others` passes over those that are not of this kind."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            call = functools.partial(
                tyro.cli,
                type(defaults),
                default=defaults,
                args=argv,
                prog=f"python {program}",
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry(),
            )
            return call(add_help=False, return_unknown_args=True)[0] if others else call()
    except SystemExit as stop:
        # Our own checks of the settings need no box around them.
        cause = stop.__context__
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        if stop.code:
            raise InputError(_one_line(told.getvalue(), program)) from None
        raise


def _one_line(box: str, program: str) -> str:
    """What tyro says of a flag in a box, with what it suggests, as a line."""
    # A title and rules, drawn in ASCII where the terminal wants that, surround what matters.
    parts = [line.strip(" │╭╮╰╯─") for line in box.splitlines()[1:]]
    words = list(itertools.takewhile(_is_text, itertools.dropwhile(lambda part: not _is_text(part), parts)))
    if "Perhaps you meant:" in parts:
        words.append(f"(perhaps you meant {parts[parts.index('Perhaps you meant:') + 1]})")
    return f"{' '.join(words).removeprefix('Error parsing ').rstrip('.')}; see python {program} --help"


def _is_text(line: str) -> bool:
    return bool(line.strip("-"))


def _registry() -> tyro.constructors.ConstructorRegistry:
    """How flags are read: one that may be left out as a value, never as the word None; mistakes in clear words."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def read_flag(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        optional = type(None) in get_args(info.type)
        kind = get_args(info.type)[0] if optional else info.type
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        several = optional and kind == tuple[str, ...]
        if kind not in (str, int, float) and not choices and not several:
            return None
        if choices:
            metavar, expected = f"{{{','.join(choices)}}}", f"one of {', '.join(choices)}"
        else:
            metavar = "STR [STR ...]" if several else kind.__name__.upper()
            expected = "a whole number" if kind is int else "a number"

        def read(word: str) -> Any:
            try:
                return choices[choices.index(word)] if choices else kind(word)
            except ValueError:
                raise ValueError(f"found {word!r}, expected {expected}") from None

        accepted = str if choices else tuple if several else kind
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*" if several else 1,
            metavar=metavar,
            instance_from_str=lambda words: tuple(words) if several else read(words[0]),
            is_instance=lambda value: (optional and value is None) or isinstance(value, accepted),
            str_from_instance=lambda value: ["unset"] if value is None else list(value) if several else [str(value)],
        )

    return registry
