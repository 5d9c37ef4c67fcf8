"""Every setting of a run, each in one place: its type, default, check and help; and the recipes as plain instances.

`--help`, docs/options.md and the classes' docstrings are generated from the settings. Nothing here needs JAX or a
run's files, so `--help` is fast.
"""

import dataclasses
import inspect
import os
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, cast, get_args

from jaxlm import invocation
from jaxlm.errors import (
    Check,
    InputError,
    corpus_sources,
    did_you_mean,
    one_of,
    optional,
    patterns,
    plain_text,
    real_number,
    reject,
    reject_idle,
    run_names,
    seed,
    stop_strings,
    temperatures,
    text_encoding,
    whole_number,
    yes_or_no,
)

T = TypeVar("T")

Recipe = Literal["book", "stream"]
Size = Literal["small", "medium", "large"]
Tokens = Literal["char", "byte", "word"]
Mode = Literal["window", "state"]
Axis = Literal["epoch", "seconds", "temperature"]
Unknown = Literal["error", "skip"]
Units = Literal["lines", "files"]
NotationName = Literal["text", "abc", "midi", "strokes"]
Protocol = Literal["carried", "cold-256", "window-60"]
Baseline = Literal["ngram"]
Optimizer = Literal["rmsprop", "adam"]
Schedule = Literal["constant", "cosine"]
Impl = Literal["auto", "scan", "fused", "cudnn"]
Precision = Literal["float32", "bfloat16"]
Gates = Literal["sigmoid", "hard_sigmoid"]

# The groups of settings in `--help`.
TEXT = "What to learn from"
RECIPE = "Recipe"
NETWORK = "Network"
LEARNING = "How to learn"
SHOWN = "What is shown"
GENERATE = "What to generate"
DRAW = "What may be drawn"
MEASURE = "What to measure"

HISTORY = 4096
"""The last tokens of prompt and text in which repetitions are looked for."""

BOOK_SAYS = "the book"
OURS = "our choice"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What defines a setting besides its name, type and default.

    Attributes:
      help: a description, without a full stop.
      check: takes its name and value; returns the value to store, or raises InputError.
      group: the group that it is shown in.
      source: where its default comes from.
      unset: the meaning of None, in words.
      short: the letter of its short flag.
      flag: its long flag without the dashes, if that is not its name.
      metavar: the placeholder for its value in `--help`.
      resumable: whether a run may be resumed with another value.
    """

    help: str
    check: Check
    group: str
    source: str = ""
    unset: str = ""
    short: str = ""
    flag: str = ""
    metavar: str = ""
    resumable: bool = False


def setting(default: T, help: str, check: Check, group: str, **about: Any) -> T:
    """A dataclass field that is a setting; the other arguments are those of `Setting`."""
    definition = Setting(help=help, check=check, group=group, **about)
    return cast(T, dataclasses.field(default=default, metadata={"setting": definition}))


def settings_in(config: object) -> Iterator[tuple[str, Setting, Any]]:
    """Yields the name, definition and value of each setting of a dataclass, including nested ones, in order."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if "setting" in field.metadata:
            yield field.name, field.metadata["setting"], value
        else:
            yield from settings_in(value)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Settings that are checked on creation, and stored as plain Python values."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "setting" in field.metadata:
                check = field.metadata["setting"].check
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))


def changed(config: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with some settings changed, its own or those of a nested one."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    own = {field.name: changes[field.name] for field in fields if field.name in changes}
    for field in fields:
        part = own.get(field.name, getattr(config, field.name))
        if isinstance(part, Checked):
            own[field.name] = changed(part, changes)
    return dataclasses.replace(config, **own)  # type: ignore[type-var]


_share = real_number(0.0, 1.0)

ngram_order = whole_number(0, 16)
"""A check for the most tokens of context of an n-gram; 0 is none."""


# Settings that several dataclasses share.


def _corpus(group: str, left_out: str, unset: str, source: str = "") -> tuple[str, ...] | None:
    return setting(
        None,
        "files, folders, - for standard input, or nietzsche, shakespeare, python-docs",
        optional(corpus_sources(left_out)),
        group,
        source=source,
        unset=unset,
        metavar="FILE",
        resumable=True,
    )


def _encoding(group: str) -> str | None:
    return setting(
        None,
        "encoding of the files, such as cp949 or windows-1252",
        optional(text_encoding),
        group,
        unset="UTF-8, or UTF-16 with a byte order mark",
        metavar="NAME",
    )


def implementation(group: str) -> Impl:
    """The setting for the implementation of the recurrence."""
    return setting(
        "auto",
        "scan: the plain reference; fused: fastest, chosen by auto; cudnn: NVIDIA's own; all agree up to rounding",
        one_of(*get_args(Impl)),
        group,
        resumable=True,
    )


def mixing(group: str) -> int:
    """The setting for an n-gram that a trained network is mixed with."""
    return setting(
        0,
        "mix in an n-gram of the run's training text, with contexts of up to this many tokens; 0: none",
        ngram_order,
        group,
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """The network: `layers` LSTM layers of `hidden` units, then a softmax over the vocabulary.

    All dropout except the recurrent one drops the same units at all steps of a window (Gal and Ghahramani 2016,
    arXiv:1512.05287).
    """

    hidden: int = setting(128, "units per LSTM layer", whole_number(1, 2**16), NETWORK, source=BOOK_SAYS)
    layers: int = setting(1, "stacked LSTM layers", whole_number(1, 2**6), NETWORK, source=BOOK_SAYS)
    embedding: int = setting(
        0, "embedding size; 0 feeds one-hot vectors", whole_number(0, 2**16), NETWORK, source=BOOK_SAYS
    )
    gates: Gates = setting(
        "sigmoid",
        "activation of the gates; hard_sigmoid is Keras 2's",
        one_of(*get_args(Gates)),
        NETWORK,
        source=OURS,
    )
    ngram: int = setting(
        0,
        "stream recipe: counts of n-grams beside the LSTM, with contexts of up to this many tokens; 0: none",
        ngram_order,
        NETWORK,
        source=BOOK_SAYS,
    )
    dropout: float = setting(0.0, "dropout between layers (two or more)", _share, NETWORK, source=BOOK_SAYS)
    output_dropout: float = setting(0.0, "dropout before the softmax", _share, NETWORK, source=BOOK_SAYS)
    recurrent_dropout: float = setting(
        0.0, "DropConnect on the recurrent weights, as in AWD-LSTM", _share, NETWORK, source=BOOK_SAYS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout and self.layers == 1:
            reject_idle("dropout", self.dropout, "with one layer, as it acts between layers", "use two layers or more")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """Everything that decides what a run learns. The defaults are the `book` recipe.

    Source: F. Chollet, Deep Learning with Python, 8.1 (notebook for Keras 2.2.4).
    """

    corpus: tuple[str, ...] | None = _corpus(TEXT, "nietzsche", "nietzsche; offline, python-docs", source=BOOK_SAYS)
    validation: float = setting(
        0.0,
        "share of the corpus held out for validation after every epoch: its end or, with units, some of them",
        real_number(0.0, 1.0, remedy="0.1 holds out the last tenth"),
        TEXT,
        source=BOOK_SAYS,
    )
    lowercase: bool = setting(
        True, "lowercase the corpus and prompts; not tunes and drawings", yes_or_no, TEXT, source=BOOK_SAYS
    )
    normalize: bool = setting(
        True,
        "normalize the corpus and prompts to Unicode's composed form, NFC",
        yes_or_no,
        TEXT,
        source=OURS,
    )
    encoding: str | None = _encoding(TEXT)
    glob: tuple[str, ...] | None = setting(
        None,
        "which files of a folder to read, such as '*.py'",
        optional(patterns),
        TEXT,
        source=OURS,
        unset="texts and documents, by their endings",
        metavar="PATTERN",
        resumable=True,
    )
    skip_unreadable: bool = setting(
        False, "leave out files that cannot be read", yes_or_no, TEXT, source=OURS, resumable=True
    )
    notation: NotationName | None = setting(
        None,
        "read the files as this, and of a folder only such files",
        optional(one_of(*get_args(NotationName))),
        TEXT,
        source=OURS,
        unset="what their endings say",
    )
    transpose: int = setting(
        0,
        "music: learn each piece also up to this many semitones higher and lower; then better without counts (ngram)",
        whole_number(0, 12),
        TEXT,
        source=OURS,
    )
    tokens: Tokens = setting(
        "char",
        "unit of text; with bytes, the book recipe needs a stride of 1",
        one_of(*get_args(Tokens)),
        TEXT,
        source=BOOK_SAYS,
    )
    words: int = setting(
        2000,
        "word tokens: number of frequent words in the vocabulary; other words are spelled out",
        whole_number(1, 2**24),
        TEXT,
        source=OURS,
    )
    units: Units | None = setting(
        None,
        "lines or files are documents of their own: the memory is reset between them, and validation holds out whole "
        "ones",
        optional(one_of(*get_args(Units))),
        TEXT,
        source=BOOK_SAYS,
        unset="one continuous text",
    )
    recipe: Recipe = setting(
        "book",
        "book: predict one character per window of text; stream: predict every character, for better text sooner",
        one_of(*get_args(Recipe)),
        RECIPE,
    )
    model: ModelConfig = ModelConfig()
    epochs: int = setting(
        60, "passes over the corpus", whole_number(1, 2**31 - 1), LEARNING, source="the book's text", resumable=True
    )
    patience: int | None = setting(
        None,
        "stop after this many epochs without a better validation loss",
        optional(whole_number(1, remedy="leave it out to train all epochs")),
        LEARNING,
        source=BOOK_SAYS,
        unset="train all epochs",
        resumable=True,
    )
    learning_rate: float = setting(0.01, "peak learning rate", real_number(0.0, above=True), LEARNING, source=BOOK_SAYS)
    batch: int = setting(
        128,
        "windows per step; in the stream recipe, streams read in parallel",
        whole_number(1, 2**20),
        LEARNING,
        source=BOOK_SAYS,
    )
    length: int = setting(
        60,
        "tokens per window; in the stream recipe, tokens that each stream reads per step",
        whole_number(1, 2**14),
        LEARNING,
        source=BOOK_SAYS,
    )
    stride: int | None = setting(
        3,
        "book recipe: tokens between the starts of successive windows",
        optional(whole_number(1, 2**31 - 1)),
        LEARNING,
        source=BOOK_SAYS,
        unset="none",
    )
    seed: int = setting(
        0,
        "seed of the initial weights, the order of the data and dropout",
        seed,
        LEARNING,
        source=OURS,
    )
    optimizer: Optimizer = setting(
        "rmsprop",
        "rmsprop as in Keras 2.2.4, or adam with decays 0.9 and 0.99",
        one_of(*get_args(Optimizer)),
        LEARNING,
        source=BOOK_SAYS,
    )
    schedule: Schedule = setting(
        "constant",
        "cosine: decay to a hundredth of the peak rate by the last epoch",
        one_of(*get_args(Schedule)),
        LEARNING,
        source=BOOK_SAYS,
    )
    clip: float | None = setting(
        None,
        "clip the global gradient norm to this",
        optional(real_number(0.0, above=True, remedy="leave it out for no limit")),
        LEARNING,
        source=BOOK_SAYS,
        unset="no clipping",
    )
    weight_decay: float = setting(0.0, "decoupled weight decay, for adam", real_number(0.0), LEARNING, source=BOOK_SAYS)
    average: float = setting(
        0.0,
        "EMA decay of the weights; the EMA is used to evaluate and generate; 0: no EMA",
        real_number(0.0, 1.0, remedy="0.999, for example"),
        LEARNING,
        source=BOOK_SAYS,
    )
    reset: float = setting(
        0.0,
        "stream recipe: probability of resetting a stream's state before a step",
        _share,
        LEARNING,
    )
    teacher: tuple[str, ...] | None = setting(
        None,
        "also learn what this run of the same text expects, or several, averaged",
        optional(run_names),
        LEARNING,
        source=OURS,
        unset="none",
        metavar="RUN",
        resumable=True,
    )
    precision: Precision = setting(
        "float32",
        "of training's matrix products; weights, states and losses are float32 either way",
        one_of(*get_args(Precision)),
        LEARNING,
        source=OURS,
    )
    impl: Impl = implementation(LEARNING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, ModelConfig):
            reject("model", self.model, "a ModelConfig")
        stream = self.recipe == "stream"
        if self.tokens != "word" and self.words != type(self).words:
            reject_idle("words", self.words, f"with {self.tokens} tokens", "leave it out, or choose word tokens")
        if self.patience is not None and not self.validation:
            reject_idle("patience", self.patience, "without a validation text", "leave it out, or set validation")
        if stream and self.stride is not None:
            remedy = 'leave it out (in Python, start from jaxlm.SIZES["small"], or set stride=None)'
            reject_idle("stride", self.stride, "in the stream recipe, which has no windows", remedy)
        if not stream and self.stride is None:
            reject("stride", self.stride, "a whole number of 1 or more in the book recipe")
        if self.weight_decay and self.optimizer != "adam":
            reject_idle("weight_decay", self.weight_decay, f"with {self.optimizer}", "choose adam, or leave it out")
        if self.reset and not stream:
            reject_idle("reset", self.reset, "in the book recipe", "leave it out, or choose the stream recipe")
        if self.model.ngram and not stream:
            reject_idle("ngram", self.model.ngram, "in the book recipe", "leave it out, or choose the stream recipe")
        if self.teacher and not stream:
            reject_idle(
                "teacher", " ".join(self.teacher), "in the book recipe", "leave it out, or choose the stream recipe"
            )
        if self.precision != "float32" and self.impl not in ("auto", "fused"):
            reject_idle("precision", self.precision, f"with impl {self.impl}", "leave it out, or choose impl fused")


@dataclasses.dataclass(frozen=True)
class WatchConfig(Checked):
    """What is shown during training; it has no effect on the model."""

    temperature: tuple[float, ...] = setting(
        (0.2, 0.5, 1.0, 1.2),
        "temperatures of the samples shown after each epoch; give none for no samples",
        temperatures,
        SHOWN,
        source=BOOK_SAYS,
        short="t",
    )
    sample_length: int = setting(400, "characters in each sample", whole_number(0), SHOWN, source=BOOK_SAYS, short="l")


@dataclasses.dataclass(frozen=True)
class SampleConfig(Checked):
    """What to generate, and how."""

    prompt: str | None = setting(
        None, "text to continue", optional(plain_text), GENERATE, unset="the run's seed text", short="p"
    )
    length: int = setting(
        400,
        "characters to generate after the prompt",
        whole_number(0, remedy="it counts the characters to generate"),
        GENERATE,
        short="l",
    )
    temperature: tuple[float, ...] = setting(
        (0.5,),
        "0 is greedy, 1 as learned, more is wilder; several are shown in turn",
        temperatures,
        GENERATE,
        short="t",
    )
    count: int = setting(
        1,
        "texts per temperature; their seeds count up from the first",
        whole_number(1, 2**20),
        GENERATE,
        short="n",
    )
    seed: int | None = setting(
        None, "random seed; the same one repeats a text exactly", optional(seed), GENERATE, unset="random, and shown"
    )
    mode: Mode | None = setting(
        None,
        "window: predict from the last tokens, as many as in training; state: from all tokens, and much faster",
        optional(one_of(*get_args(Mode))),
        GENERATE,
        unset="as trained",
    )
    unknown: Unknown = setting(
        "error",
        "how to handle characters in the prompt that the model has never seen",
        one_of(*get_args(Unknown)),
        GENERATE,
    )
    _: dataclasses.KW_ONLY
    stop_strings: tuple[str, ...] = setting(
        (),
        "end a text before the first of these strings",
        stop_strings,
        GENERATE,
        unset="none",
        flag="stop",
    )
    keep_stop: bool = setting(False, "end a text after its stop string instead", yes_or_no, GENERATE)
    lines: int | None = setting(
        None,
        "generate this many single lines, such as names or titles, each from a line's beginning",
        optional(whole_number(1, 2**20)),
        GENERATE,
        unset="texts of any number of lines",
    )
    top_k: int | None = setting(
        None,
        "draw one of this many most probable tokens",
        optional(whole_number(1, 2**31 - 1, remedy="leave it out to draw from all tokens")),
        DRAW,
        unset="all",
    )
    top_p: float | None = setting(
        None,
        "draw one of the most probable tokens that together have this probability",
        optional(real_number(0.0, 1.0, above=True, up_to=True, remedy="0.9, for example; 1 keeps all tokens")),
        DRAW,
        unset="1",
    )
    min_p: float | None = setting(
        None,
        "draw no token that is less probable than this, times the probability of the most probable one",
        optional(real_number(0.0, 1.0, up_to=True, remedy="0.05, for example; 0 keeps all tokens")),
        DRAW,
        unset="0",
    )
    no_repeat_ngram_size: int | None = setting(
        None,
        f"never repeat this many tokens in a row of the last {HISTORY:,}, prompt included; ends the loops of low "
        "temperatures, at the price of misspelt words where it is small: of the bundled model's words at temperature "
        "0, 96% are real ones with 16, 95% with 8, 76% with 4",
        optional(whole_number(1, HISTORY, remedy="leave it out to allow repetition")),
        DRAW,
        unset="repetition is allowed",
        flag="no-repeat",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature:
            reject("temperature", self.temperature, "at least one number", "for example 0.5")
        if self.keep_stop and not (self.stop_strings or self.lines):
            reject_idle("keep_stop", self.keep_stop, "without a stop string", "leave it out, or give one")
        if self.lines is not None:
            if self.count != 1:
                reject_idle("count", self.count, "with lines, which is their number", "leave it out")
            if self.keep_stop:
                reject_idle("keep_stop", self.keep_stop, "with lines, which end at line ends", "leave it out")
            if self.prompt and "\n" in self.prompt:
                reject("prompt", self.prompt, "no line end in it with lines", "leave out one of the two")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Which text to evaluate a model on, and how."""

    corpus: tuple[str, ...] | None = _corpus(MEASURE, "the run's validation text", "the run's own validation text")
    encoding: str | None = _encoding(MEASURE)
    protocol: Protocol = setting(
        "carried",
        "context of each prediction. carried: all previous tokens; cold-256: those in the same block of 256, as in "
        "nanoGPT; window-60: the last 60, as in the book",
        one_of(*get_args(Protocol)),
        MEASURE,
    )
    dynamic: bool = setting(
        False,
        "dynamic evaluation: keep learning while reading the text; the run does not change",
        yes_or_no,
        MEASURE,
    )
    unknown: Unknown = setting(
        "error",
        "how to handle characters that the model has never seen",
        one_of(*get_args(Unknown)),
        MEASURE,
    )

    baseline: Baseline | None = setting(
        None,
        "what to compare the model with. ngram: a Kneser-Ney n-gram, counted on the run's training text",
        optional(one_of(*get_args(Baseline))),
        MEASURE,
        unset="nothing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoding is not None and self.corpus is None:
            reject_idle("encoding", self.encoding, "without a corpus", "name the text, or leave it out")
        if self.dynamic and self.protocol != "carried":
            reject("dynamic", self.dynamic, f"False with protocol={self.protocol}", "choose protocol=carried")


def _explain(kind: type[Checked]) -> None:
    """Adds the settings to a class's docstring, as `help` shows it."""
    lines = [f"  {name}: {about.help}." for name, about, _ in settings_in(kind())]
    wrapped = [textwrap.fill(line, 100, subsequent_indent="    ") for line in lines]
    kind.__doc__ = "\n".join([f"{inspect.cleandoc(kind.__doc__ or '')}\n\nAttributes:", *wrapped])


for _kind in (ModelConfig, TrainConfig, WatchConfig, SampleConfig, EvaluateConfig):
    _explain(_kind)


# The book's system. For its loss on Nietzsche, see the curve in README.md.
BOOK = TrainConfig()

# Every setting of the stream recipe comes from benchmarks/SWEEPS.md, but for `ngram` (docs/counts.md) and the number of
# epochs, which counts halve. The losses are those of benchmarks/RESULTS.md, in nats per character on held-out text,
# with the state carried through it.
# Small, in half a minute: Nietzsche 1.242 - 1.246; without counts, after 10 epochs, 1.357 - 1.373.
_SMALL = TrainConfig(
    recipe="stream",
    lowercase=False,
    validation=0.1,
    length=32,
    stride=None,
    epochs=5,
    batch=32,
    optimizer="adam",
    learning_rate=0.015,
    schedule="cosine",
    weight_decay=0.03,
    clip=1.0,
    reset=0.05,
    model=ModelConfig(hidden=128, embedding=64, ngram=7),
)

# Larger and longer, so regularised more, and with an EMA, which improves the epochs before the last. In half an hour:
# Nietzsche 1.2192 (fastai's split); without counts, after 60 epochs, 1.2460.
_MEDIUM = dataclasses.replace(
    _SMALL,
    length=64,
    epochs=30,
    learning_rate=0.01,
    weight_decay=0.1,
    average=0.99,
    model=ModelConfig(
        hidden=256, layers=2, embedding=64, ngram=7, dropout=0.2, output_dropout=0.25, recurrent_dropout=0.25
    ),
)

SIZES: dict[Size, TrainConfig] = {
    "small": _SMALL,
    "medium": _MEDIUM,
    # Wider, with more dropout: tuned on a smaller proxy, not yet trained to completion.
    "large": dataclasses.replace(
        _MEDIUM,
        learning_rate=5e-3,
        model=ModelConfig(
            hidden=640, layers=2, embedding=64, ngram=7, dropout=0.3, output_dropout=0.4, recurrent_dropout=0.3
        ),
    ),
}

STREAM = SIZES
"""The former name of `SIZES`, until 0.2.0."""


def recipe_settings(recipe: Recipe, size: Size | None = None) -> TrainConfig:
    """A recipe's settings; `stream` is small by default.

    Raises:
      InputError: `book` was given a size.
    """
    if recipe == "stream":
        return SIZES[size or "small"]
    if size is not None:
        reject_idle("size", size, "in the book recipe", "leave it out, or choose the stream recipe")
    return BOOK


def settings(recipe: Recipe = "book", size: Size | None = None, **changes: Any) -> TrainConfig:
    """A recipe with some settings changed: `settings("stream", epochs=5, hidden=256)`.

    Args:
      recipe: what to start from.
      size: for the stream recipe: small, medium or large; small if left out.
      **changes: settings of TrainConfig and ModelConfig by name.

    Raises:
      InputError: a setting does not exist, or its value is invalid.
    """
    one_of(*get_args(Recipe))("recipe", recipe)
    optional(one_of(*get_args(Size)))("size", size)
    return with_settings(recipe_settings(recipe, size), changes)


def with_settings(config: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with some settings changed, its own or those of a nested one, of which it must have each.

    Raises:
      InputError: a setting does not exist, or its value is invalid.
    """
    known = [name for name, _, _ in settings_in(config)]
    for name in changes:
        if name not in [*known, "model"]:
            raise InputError(f"no setting {name!r}{did_you_mean(name, known)}")
    return changed(config, changes)


def checkpoints_folder() -> str:
    """The default folder of runs."""
    return os.path.expanduser(os.environ.get("JAXLM_CHECKPOINTS") or "checkpoints")


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain JSON values; `from_json` reads them back."""
    return dataclasses.asdict(config)


RETIRED = {"warmup": 0, "input_dropout": 0.0}
"""Removed settings, with the value at which each had no effect (why: benchmarks/SWEEPS.md)."""


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """Reads the values of `to_json`; settings that an older version did not have take their defaults.

    Removed settings are accepted if they had no effect.

    Raises:
      InputError: a setting is unknown to this version, or out of range.
    """

    def current(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in RETIRED or value != RETIRED[name]}

    try:
        # Runs older than these settings did not normalize, and read fewer kinds of files, all of them as text.
        values = {"normalize": False, "glob": ("*.txt", "*.text", "*.md"), "notation": "text", **values}
        return TrainConfig(**{**current(values), "model": ModelConfig(**current(values.get("model", {})))})
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"stored settings: found some that this version of jaxlm does not know ({error}); use the version that "
            "made the run"
        ) from error


INHERITED = ("tokens", "words", "hidden", "layers", "embedding", "gates", "ngram")
"""The settings that a run must share with the run whose weights it starts from."""

GENTLER = 3.0
"""A run that starts from another's weights divides its learning rate by this, by default (docs/exchange.md)."""


def started(parent: TrainConfig, recipe: Recipe | None, size: Size | None, asked: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run that starts from the weights of another: the other's, with these changes.

    Args:
      parent: the other run's settings.
      recipe: another recipe, whose settings then are the defaults, except for those of the text and the network.
      size: must be left out.
      asked: the other settings, by name.

    Raises:
      InputError: a setting does not exist, its value is invalid, the weights do not permit it, or there is no corpus.
    """
    if asked.get("corpus") is None:
        raise InputError("corpus: expected a text to train on; a run that starts from another needs its own")
    if size is not None:
        reject_idle("size", size, "for a run that starts from another's weights", "leave it out")
    # How the other's files were read, and what its machine did best, are not part of its weights.
    base = dataclasses.replace(
        parent,
        precision=TrainConfig.precision,
        impl=TrainConfig.impl,
        encoding=None,
        glob=None,
        skip_unreadable=False,
        teacher=None,
        learning_rate=parent.learning_rate / GENTLER,
    )
    if recipe not in (None, parent.recipe):
        kept = {
            name: getattr(parent, name) for name in ("tokens", "words", "lowercase", "normalize", "notation", "model")
        }
        base = dataclasses.replace(settings(recipe), **kept)
    new = with_settings(base, asked)
    check_inherited(parent, new)
    return new


def check_inherited(parent: TrainConfig, config: TrainConfig) -> None:
    """Checks that a run can start from the weights of another.

    Raises:
      InputError: a setting differs that the weights decide.
    """
    own, asked = ({name: value for name, _, value in settings_in(one)} for one in (parent, config))
    others = [name for name in INHERITED if asked[name] != own[name]]
    if "ngram" in others and not (own["ngram"] and asked["ngram"]):
        side = "takes counts of n-grams, and this one would" if own["ngram"] else "takes no counts of n-grams, this one"
        raise InputError(
            f"ngram: the run to start from {side} {'not' if own['ngram'] else 'would'}; leave it out, or start from "
            "another run"
        )
    if others:
        found = ", ".join(f"{name} {asked[name]!r} instead of {own[name]!r}" for name in others)
        raise InputError(f"the weights to start from decide {found}; leave that out, or start from another run")


def resumed(config: TrainConfig, asked: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run that is resumed with these changes.

    Raises:
      InputError: a setting does not exist, its value is invalid, or a run keeps it.
    """
    own = {name: value for name, about, value in settings_in(config) if not about.resumable}
    new = with_settings(config, asked)
    values = [(name, value) for name, _, value in settings_in(new) if name in own]
    others = [f"{name} {value!r} instead of {own[name]!r}" for name, value in values if value != own[name]]
    if others:
        free = [invocation.setting(name) for name, about, _ in settings_in(config) if about.resumable]
        raise InputError(
            f"a resumed run keeps its settings, except {', '.join(free)}; found {', '.join(others)}; leave that out, "
            "or train a new run"
        )
    return new
