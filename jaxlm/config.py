"""Every setting of a run, checked as soon as it is made, and the recipes as plain instances.

This is the lowest room: it knows neither JAX nor files, so `--help` can be answered from it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxlm.errors import (
    InputError,
    check_bool,
    check_choice,
    check_corpus,
    check_encoding,
    check_float,
    check_int,
    check_length,
    check_seed,
    check_temperatures,
    reject,
)

Recipe = Literal["book", "stream"]
Size = Literal["small", "medium", "large"]
Tokens = Literal["char", "byte", "word"]
Mode = Literal["window", "state"]
Unknown = Literal["error", "skip"]
Protocol = Literal["carried", "cold-256", "window-60"]
Optimizer = Literal["rmsprop", "adam"]
Schedule = Literal["constant", "cosine"]
Impl = Literal["auto", "scan", "fused", "cudnn"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: `layers` LSTM layers of `hidden` units, then a softmax over the vocabulary.

    Every dropout but the recurrent one drops the same units at all steps of a window (Gal and Ghahramani 2016,
    arXiv:1512.05287).

    Attributes:
      hidden: Units of each LSTM layer (the book's: 128).
      layers: LSTM layers, one on another (the book's: 1).
      embedding: Numbers that stand for a token where it enters the first layer; 0: one-hot (the book's).
      dropout: Share of units dropped between layers in training, so it needs two layers or more (the book's: none).
      output_dropout: Share of units dropped before the softmax in training (the book's: none).
      recurrent_dropout: Share of the recurrent weights dropped in each training step: DropConnect, as in AWD-LSTM (the
        book's: none).
    """

    hidden: int = 128
    layers: int = 1
    embedding: int = 0
    dropout: float = 0.0
    output_dropout: float = 0.0
    recurrent_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_int("hidden", self.hidden, 1, 2**16)
        check_int("layers", self.layers, 1, 2**10)
        check_int("embedding", self.embedding, 0, 2**16)
        for name in ("dropout", "output_dropout", "recurrent_dropout"):
            check_float(name, getattr(self, name), 0.0, 1.0, above=False)
        if self.dropout and self.layers == 1:
            reject("dropout", self.dropout, "0 with one layer, since it acts between layers", "add layers=2 or more")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All that decides what a run learns. The defaults are the `book` recipe.

    Source: F. Chollet, Deep Learning with Python, 8.1 (notebook for Keras 2.2.4).

    Attributes:
      recipe: How to learn, and the defaults to start from. book: the system of Deep Learning with Python, chapter 8,
        which learns one character from each window of 60. stream: learns every character of the text, read on and on
        with its memory kept: far better text in the same time; --recipe stream --help shows its defaults.
      corpus: nietzsche, shakespeare, python-docs, or files and folders of UTF-8 text. Left out: nietzsche, or
        python-docs where that can't be had.
      encoding: Encoding of the corpus's files, such as cp949 or windows-1252. Left out: UTF-8, or UTF-16 with a mark.
      tokens: What the model reads and writes at each step (the book's: char). Bytes want stride 1 in the book's recipe:
        at 3, a script of three bytes a character is only half seen.
      words: For word tokens, how many of the most frequent words to know; the others are spelled in characters. More
        words make slower steps (our choice: 2000).
      lowercase: Lowercase the corpus, and prompts too (the book's: yes).
      normalize: Bring the corpus, and prompts too, into Unicode's composed form (NFC), so that a letter is the same
        however it was typed.
      validation: Share of the corpus, at its end, that is held out: never learned from, and measured after every epoch,
        with the memory carried on, so that the best epoch is the one that does best on unseen text (the book's: 0,
        none).
      patience: Stop after so many epochs without a better held-out loss. Left out: train all epochs, as in the book.
      length: Tokens in a window; in the stream recipe, tokens that each stream reads in a step (the book's: 60).
      stride: Tokens from one window's start to the next's; the stream recipe has none (the book's: 3).
      epochs: Passes over the corpus in all (the book's text: 60).
      batch: Windows in a step; in the stream recipe, streams that are read side by side (the book's: 128).
      optimizer: rmsprop as in Keras 2.2.4, with decay 0.9 and epsilon 1e-7 outside the root (the book's); adam with
        decays 0.9 and 0.99.
      learning_rate: Step size of the optimizer, at its largest (the book's: 0.01).
      schedule: cosine: the learning rate falls to a hundredth by the last epoch, along a cosine; constant (the book's).
      weight_decay: Share of each weight, times the learning rate, that every step takes away, for adam (the book's: 0).
      clip: Largest global norm of the gradient; larger ones are scaled down. Left out: no limit, as in the book.
      average: Write and measure with a running average of the weights, of which each step keeps this share (0.99, say);
        with 0, by the last weights (the book's).
      reset: For the stream recipe: how likely a stream's memory is cleared before a step, so that the model learns to
        begin a text, too.
      seed: Decides the initial weights and the order of the windows (the book sets none; our choice: 0).
      impl: How to compute, with the same numbers but for rounding: scan, the plain reference; fused, faster; cudnn,
        NVIDIA's library, on its GPUs only. auto chooses for the machine.
    """

    recipe: Recipe = "book"
    corpus: tuple[str, ...] | None = None
    encoding: str | None = None
    tokens: Tokens = "char"
    words: int = 2000
    lowercase: bool = True
    normalize: bool = True
    validation: float = 0.0
    patience: int | None = None
    length: int = 60
    stride: int | None = 3
    epochs: int = 60
    batch: int = 128
    optimizer: Optimizer = "rmsprop"
    learning_rate: float = 0.01
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    clip: float | None = None
    average: float = 0.0
    reset: float = 0.0
    seed: int = 0
    impl: Impl = "auto"
    model: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        check_choice("recipe", self.recipe, get_args(Recipe))
        stream = self.recipe == "stream"
        object.__setattr__(self, "corpus", check_corpus(self.corpus, "nietzsche"))
        check_encoding(self.encoding)
        check_choice("tokens", self.tokens, get_args(Tokens))
        check_int("words", self.words, 1, 2**24)
        if self.tokens != "word" and self.words != type(self).words:
            reject("words", self.words, "nothing, since it is for tokens=word", "leave it out, or choose word tokens")
        check_bool("lowercase", self.lowercase)
        check_bool("normalize", self.normalize)
        check_float("validation", self.validation, 0.0, 1.0, above=False, remedy="0.1 holds out the last tenth")
        if self.patience is not None:
            check_int("patience", self.patience, 1, remedy="leave it out to train all epochs")
            if not self.validation:
                reject("patience", self.patience, "nothing without a held-out text", "leave it out, or hold one out")
        check_int("length", self.length, 1, 2**20)
        if not stream:
            check_int("stride", self.stride, 1, 2**31 - 1)
        elif self.stride is not None:
            reject(
                "stride",
                self.stride,
                "nothing, since recipe=stream has no windows",
                'leave it out (in Python, begin with jaxlm.STREAM["small"], or set stride=None)',
            )
        check_int("epochs", self.epochs, 1, 2**31 - 1)
        check_int("batch", self.batch, 1, 2**20)
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_float("learning_rate", self.learning_rate, 0.0, above=True)
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_float("weight_decay", self.weight_decay, 0.0, above=False)
        if self.weight_decay and self.optimizer != "adam":
            reject(
                "weight_decay", self.weight_decay, "0, since it is for optimizer=adam", "choose adam, or leave it out"
            )
        if self.clip is not None:
            check_float("clip", self.clip, 0.0, above=True, remedy="leave it out for no limit")
        check_float("average", self.average, 0.0, 1.0, above=False, remedy="0.999, for example")
        check_float("reset", self.reset, 0.0, 1.0, above=False)
        if self.reset and not stream:
            reject("reset", self.reset, "0, since it is for recipe=stream", "leave it out, or choose that recipe")
        check_seed(self.seed)
        check_choice("impl", self.impl, get_args(Impl))
        if not isinstance(self.model, ModelConfig):
            reject("model", self.model, "a ModelConfig")


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What is shown while a run learns; it changes nothing that is learned.

    Attributes:
      temperature: Temperatures of the samples after each epoch (the book's: 0.2 0.5 1.0 1.2).
      sample_length: Characters in each of these samples (the book's: 400).
    """

    temperature: tuple[float, ...] = (0.2, 0.5, 1.0, 1.2)
    sample_length: int = 400

    def __post_init__(self) -> None:
        check_temperatures(self.temperature)
        check_int("sample_length", self.sample_length, 0)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What to write, and how.

    Attributes:
      prompt: Text to go on from. Left out: the run's seed text.
      length: Characters to write after the prompt (the book's: 400).
      temperature: 0 is greedy, 1 is as learned, more is wilder; several are shown one after the other.
      count: Texts to write at each temperature, all at once. The first has the seed, the others those that follow it.
      seed: Repeats a text exactly. Left out: a new one each time; it is shown.
      mode: window: each token from the last ones alone, as many as a training window had; state: the memory goes on,
        which is much faster. Left out: as the model was trained.
      unknown: What to do with prompt characters that the model has never seen: error, or skip them.
    """

    prompt: str | None = None
    length: int = 400
    temperature: tuple[float, ...] = (0.5,)
    count: int = 1
    seed: int | None = None
    mode: Mode | None = None
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        if self.prompt is not None and not isinstance(self.prompt, str):
            reject("prompt", self.prompt, "text")
        check_length(self.length)
        check_temperatures(self.temperature)
        if not self.temperature:
            reject("temperature", self.temperature, "at least one number", "for example 0.5")
        check_int("count", self.count, 1, 2**20)
        if self.seed is not None:
            check_seed(self.seed)
        if self.mode is not None:
            check_choice("mode", self.mode, get_args(Mode))
        check_choice("unknown", self.unknown, get_args(Unknown))


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Which text to measure a model on, and how.

    Attributes:
      corpus: Names, files and folders of text, as in train.py. Left out: the part of the run's own corpus that was held
        out from its training.
      encoding: Encoding of its files, as in train.py.
      protocol: carried: each token from all before it; cold-256: each from those before it in its window, one of 256
        after the other, as nanoGPT measures; window-60: the one after each window of 60, at stride 3, as the book
        trains.
      dynamic: Let the model learn from what it has just read, too (dynamic evaluation). It never looks ahead, and the
        run stays as it is.
      unknown: What to do with characters that the model has never seen: error, or skip them.
    """

    corpus: tuple[str, ...] | None = None
    encoding: str | None = None
    protocol: Protocol = "carried"
    dynamic: bool = False
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "corpus", check_corpus(self.corpus, "the run's held-out part"))
        check_encoding(self.encoding)
        check_choice("protocol", self.protocol, get_args(Protocol))
        check_bool("dynamic", self.dynamic)
        if self.dynamic and self.protocol != "carried":
            reject("dynamic", self.dynamic, f"False with protocol={self.protocol}", "choose protocol=carried")
        check_choice("unknown", self.unknown, get_args(Unknown))


# The book's own system. Expected on Nietzsche: the curve in README.md.
BOOK = TrainConfig()

# Every setting of the stream recipe comes from benchmarks/SWEEPS.md; the losses are those of benchmarks/RESULTS.md, in
# nats per character on held-out text, with the memory carried on.
# Small, in under a minute: Nietzsche 1.364 - 1.369.
_STREAM = TrainConfig(
    recipe="stream",
    lowercase=False,
    validation=0.1,
    length=32,
    stride=None,
    epochs=10,
    batch=32,
    optimizer="adam",
    learning_rate=0.015,
    schedule="cosine",
    weight_decay=0.03,
    clip=1.0,
    reset=0.05,
    model=ModelConfig(hidden=128, embedding=64),
)

# Larger and longer, so regularised more, and with an average that makes the epochs on the way better. In half an hour:
# Nietzsche 1.2460 (fastai's split), tiny Shakespeare 1.402 (30 epochs).
_MEDIUM = dataclasses.replace(
    _STREAM,
    length=64,
    epochs=60,
    learning_rate=0.01,
    weight_decay=0.1,
    average=0.99,
    model=ModelConfig(256, 2, 64, dropout=0.2, output_dropout=0.25, recurrent_dropout=0.25),
)

STREAM: dict[Size, TrainConfig] = {
    "small": _STREAM,
    "medium": _MEDIUM,
    # Wider, with more dropout: chosen on a stand-in; nobody has trained it to the end yet.
    "large": dataclasses.replace(
        _MEDIUM,
        learning_rate=5e-3,
        model=ModelConfig(640, 2, 64, dropout=0.3, output_dropout=0.4, recurrent_dropout=0.3),
    ),
}


def recipe_settings(recipe: Recipe, size: Size | None = None) -> TrainConfig:
    """What a recipe starts from; for `stream`, the small size unless one is named.

    Raises:
      InputError: a size is named for `book`.
    """
    if recipe == "stream":
        return STREAM[size or "small"]
    if size is not None:
        reject("size", size, "nothing, since it is for recipe=stream", "leave it out, or choose that recipe")
    return BOOK


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain JSON values; `from_json` reads them back."""
    return dataclasses.asdict(config)


RETIRED = {"warmup": 0, "input_dropout": 0.0}
"""Settings that there are no more, with the value at which they did nothing (why: benchmarks/SWEEPS.md)."""


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """Reads what `to_json` wrote; a setting that it lacks, being older, takes its default.

    One that is retired may be there, if it did nothing.

    Raises:
      InputError: a setting is unknown to this version, or out of range.
    """

    def current(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in RETIRED or value != RETIRED[name]}

    try:
        # Runs begun when texts were read as they came.
        values = {"normalize": False, **values}
        return TrainConfig(**{**current(values), "model": ModelConfig(**current(values.get("model", {})))})
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"stored settings: found some that this version of jaxlm does not know ({error}), expected its own; use "
            "the version that made the run"
        ) from error


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The settings in which two configs differ, one phrase each."""

    def flat(config: TrainConfig) -> dict[str, Any]:
        values = to_json(config)
        return {**values.pop("model"), **values}

    before, after = flat(old), flat(new)
    return [f"{name} {after[name]!r} instead of {before[name]!r}" for name in before if before[name] != after[name]]
