"""The commands' options: the settings in config, and those of the command line alone."""

import dataclasses
from typing import Any, get_args

from jaxlm.cli.parser import Command
from jaxlm.config import (
    GENERATE,
    MEASURE,
    RECIPE,
    SHOWN,
    TEXT,
    Axis,
    Checked,
    EvaluateConfig,
    Gates,
    Impl,
    Mode,
    SampleConfig,
    Size,
    TrainConfig,
    Unknown,
    WatchConfig,
    implementation,
    mixing,
    recipe_settings,
    setting,
)
from jaxlm.errors import (
    check_temperature,
    corpus_sources,
    file_path,
    file_paths,
    one_of,
    optional,
    which_epoch,
    whole_number,
    yes_or_no,
)

BEGINNING_LENGTH = 2000
"""The most characters of an evaluated text that are printed, by default."""

WHERE = "Where things go"
MODEL = "Which model"


def _run() -> str | None:
    return setting(
        None, "name of a run, or a path to it", optional(file_path), MODEL, unset="the newest", metavar="RUN"
    )


def _checkpoints(group: str) -> str | None:
    return setting(
        None,
        "folder of runs",
        optional(file_path),
        group,
        unset="$JAXLM_CHECKPOINTS or checkpoints",
        metavar="FOLDER",
    )


def _epoch() -> str:
    return setting(  # Or a number, once it is checked.
        "best",
        "which of the checkpoints that are kept: best, last, or the end of an epoch by its number",
        which_epoch,
        MODEL,
        metavar="N|last|best",
    )


def _sampled(name: str, **about: Any) -> Any:
    """A setting of SampleConfig, in which some of its `Setting` may differ."""
    [field] = [field for field in dataclasses.fields(SampleConfig) if field.name == name]
    definition = dataclasses.replace(field.metadata["setting"], **about)
    return dataclasses.field(default=field.default, metadata={"setting": definition})


@dataclasses.dataclass(frozen=True)
class Existing(Checked):
    """Which runs to use."""

    run: tuple[str, ...] | None = setting(
        None,
        "name of a run, or a path to it; of several, with one vocabulary, the log-probabilities are averaged",
        optional(file_paths),
        MODEL,
        unset="the newest",
        metavar="RUN",
    )
    checkpoints: str | None = _checkpoints(MODEL)


@dataclasses.dataclass(frozen=True)
class TrainFlags(Checked):
    """The options of `train`."""

    config: TrainConfig = TrainConfig()
    size: Size | None = setting(
        None,
        "stream recipe: 0.1, 0.9 or 5 million parameters; large is for a GPU",
        optional(one_of(*get_args(Size))),
        RECIPE,
        unset="small",
    )
    start_from: str | None = setting(
        None,
        "run whose weights and settings to start from",
        optional(file_path),
        TEXT,
        unset="none",
        metavar="RUN",
    )
    watch: WatchConfig = WatchConfig()
    run: str | None = setting(
        None,
        "name of the run, or a path to it",
        optional(file_path),
        WHERE,
        unset="from corpus and recipe; with --resume, the newest",
        metavar="RUN",
    )
    resume: bool = setting(
        False,
        "resume a run; only --epochs, --patience, --impl, --corpus (with --glob, --skip-unreadable), --teacher's place "
        "and what is shown may change",
        yes_or_no,
        WHERE,
    )
    checkpoints: str | None = _checkpoints(WHERE)
    tensorboard: str | None = setting(
        None,
        "folder in which TensorBoard finds the run's losses and samples",
        optional(file_path),
        WHERE,
        unset="none",
        metavar="FOLDER",
    )


@dataclasses.dataclass(frozen=True)
class SampleFlags(Checked):
    """The options of `sample`."""

    config: SampleConfig = SampleConfig()
    mix_ngram: int = mixing(GENERATE)
    impl: Impl = implementation(GENERATE)
    prompt_file: str | None = setting(
        None,
        "a text file to continue; like --prompt -, which reads standard input, without the line end at its end; or a "
        "tune or drawing, such as theme.mid",
        optional(file_path),
        GENERATE,
        unset="none",
        metavar="FILE",
    )
    escapes: bool = setting(
        False, r"read \n, \t, \\, \xHH and \uHHHH in --prompt and --stop as in Python", yes_or_no, GENERATE
    )
    output: str | None = setting(
        None,
        "write the texts to this file once all are complete, replacing it; with the ending .abc, .mid or .svg, tunes "
        "or drawings",
        optional(file_path),
        WHERE,
        unset="standard output",
        short="o",
        metavar="FILE",
    )
    json: bool = setting(
        False,
        "print each text as a line of JSON, with its prompt, settings and log-probability in nats",
        yes_or_no,
        WHERE,
    )
    show_probabilities: bool = setting(
        False, "on a terminal, tint each character by how probable it was to the model", yes_or_no, WHERE
    )
    copied: bool = setting(
        False,
        "tell of each text how much of it stands in the training text word for word: its longest such span",
        yes_or_no,
        WHERE,
    )
    epoch: str = _epoch()
    where: Existing = Existing()


@dataclasses.dataclass(frozen=True)
class WriteFlags(Checked):
    """The options of `write`."""

    prompt: str | None = _sampled("prompt", help="text to begin with", unset="none")
    prompt_file: str | None = setting(
        None,
        "a text file to begin with, such as one that was saved here; without the line end at its end",
        optional(file_path),
        GENERATE,
        unset="none",
        metavar="FILE",
    )
    length: int = _sampled("length", help="the most characters of a continuation")
    sentences: bool = setting(
        True, "end a continuation at the end of a sentence, if that comes before its length", yes_or_no, GENERATE
    )
    stop_strings: tuple[str, ...] = _sampled(
        "stop_strings", help="also end a continuation after the first of these strings"
    )
    temperature: float = setting(
        0.5,
        "0 is greedy, 1 as learned, more is wilder",
        lambda name, value: check_temperature(value),
        GENERATE,
        short="t",
    )
    seed: int | None = _sampled(
        "seed", help="random seed of the first continuation; those after it count up; the same one repeats them exactly"
    )
    mode: Mode | None = _sampled("mode")
    unknown: Unknown = _sampled("unknown", help="how to handle characters that the model has never seen")
    mix_ngram: int = mixing(GENERATE)
    impl: Impl = implementation(GENERATE)
    top_k: int | None = _sampled("top_k")
    top_p: float | None = _sampled("top_p")
    min_p: float | None = _sampled("min_p")
    no_repeat_ngram_size: int | None = _sampled("no_repeat_ngram_size")
    epoch: str = _epoch()
    where: Existing = Existing()


@dataclasses.dataclass(frozen=True)
class EvaluateFlags(Checked):
    """The options of `evaluate`."""

    config: EvaluateConfig = EvaluateConfig()
    mix_ngram: int = mixing(MEASURE)
    impl: Impl = implementation(MEASURE)
    show_probabilities: bool = setting(
        False,
        "also print the beginning of the text; on a terminal, tint each character by how probable it was to the model",
        yes_or_no,
        SHOWN,
    )
    length: int | None = setting(
        None,
        "the most characters of the text that --show-probabilities prints",
        optional(whole_number(1)),
        SHOWN,
        unset=f"{BEGINNING_LENGTH:,}",
        short="l",
    )
    where: Existing = Existing()


@dataclasses.dataclass(frozen=True)
class PageFlags(Checked):
    """The options of `page`."""

    run: str | None = _run()
    checkpoints: str | None = _checkpoints(MODEL)
    output: str | None = setting(
        None,
        "the file to write, replacing it",
        optional(file_path),
        WHERE,
        unset="the run's name, .html",
        short="o",
        metavar="FILE",
    )
    open: bool = setting(False, "open the page in a browser", yes_or_no, WHERE)
    float32: bool = setting(
        False, "keep the weights as they are, for twice the size; else they are rounded to 16 bits", yes_or_no, WHERE
    )


@dataclasses.dataclass(frozen=True)
class RunsFlags(Checked):
    """The options of `runs`."""

    checkpoints: str | None = _checkpoints(WHERE)
    json: bool = setting(False, "print the list as JSON", yes_or_no, SHOWN)


@dataclasses.dataclass(frozen=True)
class PlotFlags(Checked):
    """The options of `plot`."""

    run: tuple[str, ...] | None = setting(
        None, "names of runs, or paths to them", optional(file_paths), MODEL, unset="the newest", metavar="RUN"
    )
    checkpoints: str | None = _checkpoints(MODEL)
    by: Axis = setting(
        "epoch",
        "epoch or seconds: the losses of the runs; temperature: the texts that one run generates at 0.1 to 1.5",
        one_of(*get_args(Axis)),
        SHOWN,
    )
    output: str | None = setting(
        None,
        "the picture to write, replacing it; a .png or .svg",
        optional(file_path),
        WHERE,
        unset="plot.svg",
        short="o",
        metavar="FILE",
    )


@dataclasses.dataclass(frozen=True)
class ExportFlags(Checked):
    """The options of `export`."""

    run: str | None = _run()
    checkpoints: str | None = _checkpoints(MODEL)
    destination: str | None = setting(
        None,
        "what to write: a name in .safetensors for PyTorch, in .keras for Keras, or a directory for jaxlm",
        optional(file_path),
        WHERE,
        unset="none; it must be given",
        metavar="PATH",
    )


@dataclasses.dataclass(frozen=True)
class ImportFlags(Checked):
    """The options of `import`."""

    file: str | None = setting(
        None,
        "a .keras, .weights.h5 or .h5 file of Keras 2 or 3",
        optional(file_path),
        MODEL,
        unset="none; it must be given",
        metavar="FILE",
    )
    chars: str | None = setting(
        None,
        "text file with the model's characters in the order of their ids, and nothing else",
        optional(file_path),
        MODEL,
        unset="none; give it or --corpus",
        metavar="FILE",
    )
    corpus: tuple[str, ...] | None = setting(
        None,
        "the text that the model learned from; its characters in sorted order are the model's",
        optional(corpus_sources("--chars")),
        MODEL,
        unset="none; give it or --chars",
        metavar="FILE",
    )
    gates: Gates | None = setting(
        None,
        "activation of the gates, where the file does not say; hard_sigmoid is Keras 2's",
        optional(one_of(*get_args(Gates))),
        MODEL,
        unset="as the file says, or else sigmoid",
    )
    length: int | None = setting(
        None,
        "characters per window, where the file does not say",
        optional(whole_number(1, 2**14)),
        MODEL,
        unset="as the file says, or else 60",
    )
    run: str | None = setting(
        None, "name of the run, or a path to it", optional(file_path), WHERE, unset="from the file", metavar="RUN"
    )
    checkpoints: str | None = _checkpoints(WHERE)


TRAIN = Command(
    "train",
    "Train a character-level LSTM on any text and watch it learn. FILE means --corpus FILE.",
    lambda given: TrainFlags(recipe_settings(given.get("recipe", "book"), given.get("size")), given.get("size")),
    files="corpus",
)
SAMPLE = Command("sample", "Generate text with a trained model.", lambda given: SampleFlags())
WRITE = Command("write", "Write a text in turns with a trained model.", lambda given: WriteFlags())
EVALUATE = Command(
    "evaluate", "Evaluate a trained model, the best epoch of a run, on a text.", lambda given: EvaluateFlags()
)
PAGE = Command(
    "page",
    "Write a run as one web page, which runs the model and shows how it learned.",
    lambda given: PageFlags(),
    places=("run",),
)
RUNS = Command("runs", "List your runs, newest first.", lambda given: RunsFlags())
EXPORT = Command(
    "export",
    "Write the best weights of a run for other programs or people, with a model card.",
    lambda given: ExportFlags(),
    places=("run", "destination"),
)
IMPORT = Command(
    "import",
    "Make a run of a model that Keras saved: LSTM layers and a softmax.",
    lambda given: ImportFlags(),
    places=("file",),
)

PLOT = Command(
    "plot",
    "Draw how runs learned, or what the temperature does to a run's text. RUN means --run RUN.",
    lambda given: PlotFlags(),
    files="run",
)

COMMANDS = {command.name: command for command in (TRAIN, SAMPLE, WRITE, EVALUATE, PLOT, PAGE, RUNS, EXPORT, IMPORT)}
