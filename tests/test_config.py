"""Settings: what is refused, and that they survive as JSON."""

import dataclasses
import json
import math

import pytest

from jaxlm.config import (
    BOOK,
    STREAM,
    EvaluateConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    WatchConfig,
    differences,
    from_json,
    recipe_settings,
    to_json,
)
from jaxlm.errors import InputError

OTHER = TrainConfig(
    corpus=("a.txt", "nietzsche"),
    tokens="word",
    words=7,
    lowercase=False,
    validation=0.25,
    length=8,
    stride=1,
    epochs=2,
    batch=16,
    optimizer="adam",
    learning_rate=0.001,
    schedule="cosine",
    weight_decay=0.1,
    clip=1.0,
    average=0.9,
    patience=4,
    seed=2**32 - 1,
    model=ModelConfig(3, 2, 5, dropout=0.5, output_dropout=0.2, recurrent_dropout=0.3),
)


def test_settings_from_before_there_was_a_choice_of_impl_are_read():
    older = to_json(BOOK)
    del older["impl"]
    assert from_json(older) == BOOK


def test_settings_that_are_retired_are_read_where_they_did_nothing():
    older = to_json(BOOK)
    older["warmup"], older["model"]["input_dropout"] = 0, 0.0
    assert from_json(older) == BOOK
    with pytest.raises(InputError, match=r"warmup.*use the version that made the run"):
        from_json({**older, "warmup": 100})


def test_the_book_is_written_out():
    assert recipe_settings("book") == BOOK == TrainConfig()
    assert to_json(BOOK) == {
        "recipe": "book",
        "corpus": None,
        "encoding": None,
        "tokens": "char",
        "words": 2000,
        "lowercase": True,
        "normalize": True,
        "validation": 0.0,
        "patience": None,
        "length": 60,
        "stride": 3,
        "epochs": 60,
        "batch": 128,
        "optimizer": "rmsprop",
        "learning_rate": 0.01,
        "schedule": "constant",
        "weight_decay": 0.0,
        "clip": None,
        "average": 0.0,
        "reset": 0.0,
        "seed": 0,
        "impl": "auto",
        "model": {
            "hidden": 128,
            "layers": 1,
            "embedding": 0,
            "dropout": 0.0,
            "output_dropout": 0.0,
            "recurrent_dropout": 0.0,
        },
    }
    assert WatchConfig() == WatchConfig(temperature=(0.2, 0.5, 1.0, 1.2), sample_length=400)
    assert SampleConfig() == SampleConfig(None, 400, (0.5,), 1, None, None, "error")
    assert EvaluateConfig() == EvaluateConfig(None, "carried", False, "error")


BAD = [
    *((ModelConfig, name, value) for name in ("hidden", "layers") for value in (0, -1, 1.0, "1", None, True)),
    *((ModelConfig, "embedding", value) for value in (-1, 1.0, "1", None, True)),
    *(
        (kind, name, value)
        for kind, name in (
            (ModelConfig, "dropout"),
            (ModelConfig, "output_dropout"),
            (ModelConfig, "recurrent_dropout"),
            (TrainConfig, "validation"),
            (TrainConfig, "average"),
            (TrainConfig, "reset"),
        )
        for value in (-0.1, 1.0, 1, math.nan, math.inf, "0", None, True)
    ),
    *((TrainConfig, "weight_decay", value) for value in (-0.1, math.nan, math.inf, "0", None, True)),
    *((TrainConfig, "patience", value) for value in (0, -1, 1.0, "1", True)),
    *(
        (TrainConfig, name, value)
        for name in ("words", "length", "stride", "epochs", "batch")
        for value in (0, -1, 1.0, "1", None, True)
    ),
    *((TrainConfig, "learning_rate", value) for value in (0, 0.0, -1, math.nan, math.inf, 10**400, "1", None, True)),
    *((TrainConfig, "clip", value) for value in (0, -1.0, math.nan, math.inf, "1", False)),
    *((TrainConfig, "seed", value) for value in (-1, 2**32, 0.0, None, True)),
    *(
        (TrainConfig, name, value)
        for name in ("recipe", "tokens", "optimizer", "schedule")
        for value in ("", "Book", None, 1)
    ),
    *((TrainConfig, "validation", value) for value in (-0.1, 1.0, 1, math.nan, "0", None, True)),
    *((kind, "corpus", value) for kind in (TrainConfig, EvaluateConfig) for value in ("a.txt", ("a.txt", 1), (), 3)),
    *((TrainConfig, "lowercase", value) for value in (0, "yes", None)),
    *((TrainConfig, "model", value) for value in (None, {"hidden": 1})),
    *((WatchConfig, "sample_length", value) for value in (-1, 1.5, None, True)),
    *((WatchConfig, "temperature", value) for value in (0.5, None, "1")),
    *((SampleConfig, "temperature", value) for value in (0.5, None, (), "1")),
    *((SampleConfig, "length", value) for value in (-1, 1.5, None, True)),
    *((SampleConfig, "seed", value) for value in (-1, 2**32, 0.5, True)),
    *((SampleConfig, "mode", value) for value in ("", "windows", 1)),
    *((SampleConfig, "unknown", value) for value in ("", "drop", None)),
    *((EvaluateConfig, "protocol", value) for value in ("", "cold", None, 256)),
    *((EvaluateConfig, "dynamic", value) for value in (0, "yes", None)),
    *((EvaluateConfig, "unknown", value) for value in ("", "drop", None)),
    *((SampleConfig, "prompt", value) for value in (b"a", 1)),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD)
def test_a_bad_setting_is_named_with_what_was_found_and_expected(kind, name, value):
    with pytest.raises(InputError) as caught:
        kind(**{name: value})
    assert str(caught.value).startswith(f"{name}: found {value!r}, expected ")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", [WatchConfig, SampleConfig])
@pytest.mark.parametrize("value", [-1.0, -1e-300, math.nan, math.inf, -math.inf, 10**400, "1", None, True])
def test_one_bad_temperature_among_good_ones(kind, value):
    with pytest.raises(InputError) as caught:
        kind(temperature=(0.5, value))
    assert str(caught.value).startswith(f"temperature: found {value!r}, expected a finite number of 0 or more; ")


@pytest.mark.parametrize("value", [1, 1.0, -0.1, math.nan])
def test_dropout_is_a_share_below_one(value):
    with pytest.raises(InputError, match="expected a finite number of 0 or more and below 1"):
        ModelConfig(layers=2, dropout=value)


def test_settings_without_effect_are_refused():
    with pytest.raises(InputError, match=r"dropout: found 0\.5, expected 0 with one layer.*add layers=2"):
        ModelConfig(dropout=0.5)
    with pytest.raises(InputError, match="words: found 7, expected nothing, since it is for tokens=word"):
        TrainConfig(words=7)
    with pytest.raises(InputError, match="patience: found 3, expected nothing without a held-out text"):
        TrainConfig(patience=3)
    with pytest.raises(InputError, match=r"weight_decay: found 0\.1, expected 0, since it is for optimizer=adam"):
        TrainConfig(weight_decay=0.1)
    with pytest.raises(InputError, match=r"reset: found 0\.1, expected 0, since it is for recipe=stream"):
        TrainConfig(reset=0.1)
    with pytest.raises(InputError, match=r'stride: found 3, expected nothing, .*jaxlm\.STREAM\["small"\]'):
        TrainConfig(recipe="stream")
    with pytest.raises(InputError, match="size: found 'large', expected nothing, since it is for recipe=stream"):
        recipe_settings("book", "large")


def test_the_sizes_are_what_they_say():
    assert recipe_settings("stream") == STREAM["small"] == recipe_settings("stream", "small")
    assert set(STREAM) == {"small", "medium", "large"}
    for size, parameters in (("small", 0.1e6), ("medium", 1e6), ("large", 5e6)):
        network = recipe_settings("stream", size).model
        widths = [network.embedding] + [network.hidden] * (network.layers - 1)
        weights = sum(4 * network.hidden * (width + network.hidden + 1) for width in widths)
        weights += 57 * (network.embedding + network.hidden + 1)  # Of Nietzsche's characters.
        assert 0.8 * parameters < weights < 1.2 * parameters
    with pytest.raises(InputError, match="dynamic: found True, expected False with protocol=window-60"):
        EvaluateConfig(dynamic=True, protocol="window-60")


def test_the_edges_of_what_is_allowed():
    ModelConfig(hidden=1, layers=2, dropout=0.999)
    TrainConfig(length=1, stride=1, epochs=1, batch=1, learning_rate=5e-324, seed=2**32 - 1)
    assert WatchConfig(temperature=(), sample_length=0).temperature == ()
    SampleConfig(prompt="", length=0, temperature=(0, 0.0, 5e-324, 1e308), seed=0)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BOOK.epochs = 1
    assert isinstance(TrainConfig(corpus=["a.txt"]).corpus, tuple)


@pytest.mark.parametrize("config", [BOOK, OTHER])
def test_json_round_trip(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_stored_setting_that_is_missing_takes_its_default():
    values = to_json(OTHER)
    del values["clip"], values["model"]["dropout"]
    model = dataclasses.replace(OTHER.model, dropout=0.0)
    assert from_json(values) == dataclasses.replace(OTHER, clip=None, model=model)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"heads": 4}, "heads"),
        ({"model": {"heads": 4}}, "heads"),
        ({"model": {"hidden": 0}}, "hidden: found 0"),
        ({"batch": "128"}, "batch: found '128'"),
        ({"model": 3}, "stored settings"),
        ({"corpus": 3}, "corpus: found 3"),
    ],
)
def test_bad_stored_settings_are_refused(values, named):
    with pytest.raises(InputError, match=named):
        from_json({**to_json(BOOK), **values})


def test_differences_are_told_setting_by_setting():
    assert differences(OTHER, OTHER) == []
    changed = dataclasses.replace(OTHER, corpus=("b.txt",), clip=None, model=ModelConfig(hidden=4, layers=2))
    assert differences(OTHER, changed) == [
        "hidden 4 instead of 3",
        "embedding 0 instead of 5",
        "dropout 0.0 instead of 0.5",
        "output_dropout 0.0 instead of 0.2",
        "recurrent_dropout 0.0 instead of 0.3",
        "corpus ('b.txt',) instead of ('a.txt', 'nietzsche')",
        "clip None instead of 1.0",
    ]
