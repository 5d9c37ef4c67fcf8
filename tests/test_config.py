"""Settings: bad values are refused, others become plain ones, and all survive as JSON."""

import dataclasses
import json
import math
import re
import typing
from pathlib import Path
from types import NoneType

import numpy as np
import pytest

import jaxlm
from jaxlm.config import (
    BOOK,
    SIZES,
    EvaluateConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    WatchConfig,
    changed,
    checkpoints_folder,
    from_json,
    recipe_settings,
    resumed,
    settings,
    settings_in,
    to_json,
)
from jaxlm.errors import InputError

KINDS = [ModelConfig, TrainConfig, WatchConfig, SampleConfig, EvaluateConfig]

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


def fields(*kinds):
    """Each setting of the dataclasses: its dataclass, its name, the type of its value, whether it may be None."""
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if "setting" in field.metadata:
                hint = hints[field.name]
                optional = NoneType in typing.get_args(hint)
                yield kind, field.name, typing.get_args(hint)[0] if optional else hint, optional


def test_settings_from_before_there_was_a_choice_of_impl_and_precision_are_read():
    older = to_json(BOOK)
    del older["impl"], older["precision"]
    assert from_json(older) == BOOK


def test_runs_from_before_texts_were_normalized_stay_as_they_are():
    older = to_json(BOOK)
    del older["normalize"]
    assert from_json(older) == dataclasses.replace(BOOK, normalize=False)


def test_runs_from_before_there_were_documents_read_the_files_that_they_read():
    older = to_json(BOOK)
    del older["glob"], older["skip_unreadable"]
    assert from_json(older) == dataclasses.replace(BOOK, glob=("*.txt", "*.text", "*.md"))


def test_settings_that_are_retired_are_read_where_they_did_nothing():
    older = to_json(BOOK)
    older["warmup"], older["model"]["input_dropout"] = 0, 0.0
    assert from_json(older) == BOOK
    with pytest.raises(InputError, match=r"warmup.*use the version that made the run"):
        from_json({**older, "warmup": 100})


def test_the_bundled_model_s_settings_are_those_of_the_medium_size_on_fastai_s_split_with_a_teacher():
    stored = json.loads((Path(__file__).parents[1] / "checkpoints/nietzsche/config.json").read_text())["config"]
    kept = {"corpus": ("nietzsche",), "validation": 0.17831, "lowercase": True}
    taught = {"teacher": ("first",) * 3 + ("second",) * 3 + ("without",) * 2, "epochs": 22, "seed": 4}
    kinds = ("dropout", "recurrent_dropout", "output_dropout")
    expected = changed(SIZES["medium"], {**dict.fromkeys(kinds, 0.1), "hidden": 272, "precision": "bfloat16"})
    assert from_json(stored) == dataclasses.replace(expected, **kept, **taught, notation="text")


def test_the_book_is_written_out():
    assert recipe_settings("book") == settings() == BOOK == TrainConfig()
    assert to_json(BOOK) == {
        "recipe": "book",
        "corpus": None,
        "encoding": None,
        "glob": None,
        "skip_unreadable": False,
        "notation": None,
        "transpose": 0,
        "tokens": "char",
        "words": 2000,
        "lowercase": True,
        "normalize": True,
        "validation": 0.0,
        "units": None,
        "patience": None,
        "teacher": None,
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
        "precision": "float32",
        "impl": "auto",
        "model": {
            "hidden": 128,
            "layers": 1,
            "embedding": 0,
            "gates": "sigmoid",
            "ngram": 0,
            "dropout": 0.0,
            "output_dropout": 0.0,
            "recurrent_dropout": 0.0,
        },
    }
    assert WatchConfig() == WatchConfig(temperature=(0.2, 0.5, 1.0, 1.2), sample_length=400)
    assert SampleConfig() == SampleConfig(None, 400, (0.5,), 1, None, None, "error")
    assert EvaluateConfig() == EvaluateConfig(None, None, "carried", False, "error")


NOT_A_COUNT = (-1, 1.5, 1.0, "1", True, [1], np.float32(1.0), np.True_)
NOT_A_NUMBER = (-0.1, math.nan, math.inf, -math.inf, 10**400, "0", True, np.float64("nan"), (0.5,), 1j)
BAD = {
    int: NOT_A_COUNT,
    float: NOT_A_NUMBER,
    bool: (0, 1, "yes", np.int64(1)),
    str: (b"a", 1, True),
    tuple[str, ...]: (3, (), ("a.txt", 1), ("",), (None,), b"a.txt", {"a.txt": 1}),
    tuple[float, ...]: ("1", b"1", True, *((0.5, value) for value in NOT_A_NUMBER)),
}
"""Values that no setting of a type takes."""

LIMITS = {
    "hidden": (0, 2**16 + 1),
    "layers": (0, 2**6 + 1),
    "embedding": (2**16 + 1,),
    "words": (0, 2**24 + 1),
    "epochs": (0, 2**31),
    "patience": (0,),
    "batch": (0, 2**20 + 1),
    "length": (2**14 + 1,),
    "stride": (0, 2**31),
    "seed": (2**32,),
    "count": (0, 2**20 + 1),
    "learning_rate": (0, 0.0),
    "clip": (0, 0.0),
    "dropout": (1.0, 1),
    "output_dropout": (1.0, 1),
    "recurrent_dropout": (1.0, 1),
    "validation": (1.0, 1),
    "average": (1.0, 1),
    "reset": (1.0, 1),
    "encoding": ("", "utf-9", "rot13", "hex", "a\0b"),
    "temperature": ((0.5, -1e-300),),
    "lines": (0, 2**20 + 1),
    "top_k": (0, 2**31),
    "top_p": (0, 0.0, 1.0000001),
    "min_p": (1.0000001,),
    "no_repeat_ngram_size": (0, 4097),
}
"""Values that a setting does not take though others of its type do."""


def bad_values():
    for kind, name, of, optional in fields(*KINDS):
        choices = typing.get_origin(of) is typing.Literal
        limits = LIMITS.get(name, ())
        if (kind, name) == (SampleConfig, "length"):
            limits = ()
        if (kind, name) == (SampleConfig, "temperature"):
            limits += ((),)
        if (kind, name) == (TrainConfig, "length"):
            limits += (0,)
        for value in (*(("", "Book", 1) if choices else BAD[of]), *limits):
            if (name, value) != ("stop_strings", ()):
                yield kind, name, value
        # A stride of None is the stream recipe's alone.
        if not optional or name == "stride":
            yield kind, name, None


@pytest.mark.parametrize(("kind", "name", "value"), list(bad_values()))
def test_a_bad_setting_is_named_with_what_was_found_and_expected(kind, name, value):
    with pytest.raises(InputError) as caught:
        kind(**{name: value})
    found, _, rest = str(caught.value).removeprefix(f"{name}: found ").partition(", expected ")
    assert str(caught.value).startswith(f"{name}: found ")
    assert rest
    if not isinstance(value, np.generic | tuple):
        assert found == repr(value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a" * 5000, "found '" + "a" * 499 + "..., expected"), (-(10**5000), "found a number of thousands of digits, ex")],
    ids=["word", "number"],
)
def test_a_bad_value_of_any_length_is_shown_in_a_line(value, shown):
    with pytest.raises(InputError) as caught:
        SampleConfig(length=value)
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_numpy_number_that_will_not_do_is_shown_as_a_number():
    with pytest.raises(InputError, match=r"^epochs: found -3, expected a whole number from 1 to 2147483647$"):
        TrainConfig(epochs=np.int64(-3))


@pytest.mark.parametrize("kind", [TrainConfig, ModelConfig])
def test_a_model_must_be_one(kind):
    for value in (None, {"hidden": 1}, kind):
        with pytest.raises(InputError, match=r"model: found .*, expected a ModelConfig"):
            TrainConfig(model=value)


@pytest.mark.parametrize(("kind", "name", "of", "optional"), list(fields(*KINDS)))
def test_numbers_of_numpy_are_kept_as_plain_ones(kind, name, of, optional):
    needs = {
        "dropout": {"layers": 2},
        "patience": {"validation": 0.5},
        "weight_decay": {"optimizer": "adam"},
        "reset": {"recipe": "stream", "stride": None},
        "words": {"tokens": "word"},
    }.get(name, {})
    given = {int: [np.int64(7), np.uint8(7)], float: [np.float32(0.5), np.float64(0.5)]}.get(of, [])
    for value in given:
        kept = getattr(kind(**{name: value}, **needs), name)
        assert type(kept) is of
        assert kept == value
    if of == tuple[float, ...]:
        assert kind(**{name: np.linspace(0, 1, 3, dtype=np.float32)}) == kind(**{name: (0.0, 0.5, 1.0)})
        assert kind(**{name: np.float32(0.5)}) == kind(**{name: 0.5}) == kind(**{name: [0.5]})
        assert [type(value) for value in getattr(kind(**{name: (1, np.int8(1))}), name)] == [float, float]


@pytest.mark.parametrize("kind", [TrainConfig, EvaluateConfig])
def test_a_corpus_may_be_one_name_or_path_or_several(kind, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    for corpus in ("a.txt", Path("a.txt"), ["a.txt"], (Path("a.txt"),)):
        assert kind(corpus=corpus).corpus == ("a.txt",)
    assert kind(corpus=["~/a.txt", Path("~/b"), "nietzsche"]).corpus == ("/home/ann/a.txt", "/home/ann/b", "nietzsche")


def test_what_is_kept_is_plain_json():
    config = settings(
        "stream", corpus=Path("a"), epochs=np.int32(3), clip=np.float16(0.5), hidden=np.int64(9), seed=np.uint32(2)
    )
    assert json.loads(json.dumps(to_json(config)))["model"]["hidden"] == 9
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_settings_without_effect_are_refused():
    with pytest.raises(InputError, match=r"dropout: 0\.5 has no effect with one layer.*two layers or more"):
        ModelConfig(dropout=0.5)
    with pytest.raises(InputError, match="words: 7 has no effect with char tokens; leave it out, or choose word"):
        TrainConfig(words=7)
    with pytest.raises(InputError, match="patience: 3 has no effect without a validation text"):
        TrainConfig(patience=3)
    with pytest.raises(InputError, match=r"weight_decay: 0\.1 has no effect with rmsprop; choose adam"):
        TrainConfig(weight_decay=0.1)
    with pytest.raises(InputError, match=r"reset: 0\.1 has no effect in the book recipe"):
        TrainConfig(reset=0.1)
    with pytest.raises(InputError, match=r'stride: 3 has no effect in the stream recipe.*jaxlm\.SIZES\["small"\]'):
        TrainConfig(recipe="stream")
    with pytest.raises(InputError, match="size: 'large' has no effect in the book recipe"):
        recipe_settings("book", "large")
    with pytest.raises(InputError, match="dynamic: found True, expected False with protocol=window-60"):
        EvaluateConfig(dynamic=True, protocol="window-60")


def test_the_sizes_are_what_they_say():
    assert recipe_settings("stream") == SIZES["small"] == recipe_settings("stream", "small")
    assert set(SIZES) == {"small", "medium", "large"}
    for size, parameters in (("small", 0.1e6), ("medium", 0.9e6), ("large", 5e6)):
        network = recipe_settings("stream", size).model
        widths = [network.embedding] + [network.hidden] * (network.layers - 1)
        weights = sum(4 * network.hidden * (width + network.hidden + 1) for width in widths)
        weights += 57 * (network.embedding + network.hidden + 1)  # Of Nietzsche's characters.
        assert 0.8 * parameters < weights < 1.2 * parameters


def test_the_former_name_of_the_sizes_still_works():
    assert jaxlm.STREAM is jaxlm.SIZES is SIZES


def test_settings_are_made_from_a_recipe_and_flat_keywords():
    small = SIZES["small"]
    assert settings("stream") == small
    assert settings("stream", "large") == settings(recipe="stream", size="large") == SIZES["large"]
    model = dataclasses.replace(small.model, hidden=256, layers=2, dropout=0.1)
    expected = dataclasses.replace(small, epochs=5, corpus=("a.txt",), model=model)
    assert settings("stream", epochs=5, corpus="a.txt", hidden=256, layers=2, dropout=0.1) == expected
    assert settings(model=ModelConfig(hidden=3), layers=4).model == ModelConfig(hidden=3, layers=4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: settings(hiden=3), "no setting 'hiden'; did you mean hidden?"),
        (lambda: settings("stream", learningrate=3), "no setting 'learningrate'; did you mean learning_rate?"),
        (lambda: settings(xyzzy=3), "no setting 'xyzzy'"),
        (lambda: settings("steam"), "recipe: found 'steam', expected one of book, stream"),
        (lambda: settings("stream", "tiny"), "size: found 'tiny', expected one of small, medium, large"),
        (lambda: settings(hidden=0), "hidden: found 0, expected a whole number from 1 to 65536"),
        (lambda: settings("stream", stride=2), None),
    ],
)
def test_keywords_that_will_not_do_are_refused(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words is None or str(caught.value) == words


def test_changes_reach_a_dataclass_within_another_and_leave_what_they_do_not_name():
    assert changed(OTHER, {}) == OTHER
    both = changed(OTHER, {"hidden": 9, "epochs": 8, "nothing": 0})
    assert both == dataclasses.replace(OTHER, epochs=8, model=dataclasses.replace(OTHER.model, hidden=9))


def test_every_setting_says_what_it_is_and_help_in_python_has_it():
    for kind in KINDS:
        for name, about, value in settings_in(kind()):
            assert f"  {name}: " in kind.__doc__
            assert about.help
            assert not about.help.endswith(".")
            assert "default" not in about.help, "said once, beside it"
            assert value is not None or about.unset


def test_the_folder_of_runs_may_be_named_by_the_environment(monkeypatch):
    monkeypatch.delenv("JAXLM_CHECKPOINTS", raising=False)
    assert checkpoints_folder() == "checkpoints"
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("JAXLM_CHECKPOINTS", "~/runs")
    assert checkpoints_folder() == "/home/ann/runs"


def test_the_edges_of_what_is_allowed():
    ModelConfig(hidden=1, layers=2, dropout=0.999)
    ModelConfig(hidden=2**16, layers=2**6, embedding=2**16)
    TrainConfig(length=2**14, stride=2**31 - 1, epochs=2**31 - 1, batch=2**20)
    TrainConfig(length=1, stride=1, epochs=1, batch=1, learning_rate=5e-324, seed=2**32 - 1)
    assert WatchConfig(temperature=(), sample_length=0).temperature == ()
    SampleConfig(prompt="", length=0, temperature=(0, 0.0, 5e-324, 1e308), seed=0)
    TrainConfig(encoding="CP949")


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BOOK.epochs = 1
    assert isinstance(TrainConfig(corpus=["a.txt"]).corpus, tuple)


@pytest.mark.parametrize("config", [BOOK, OTHER, *SIZES.values()])
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


def test_a_resumed_run_changes_what_it_may_and_names_what_it_may_not():
    assert resumed(OTHER, {}) == OTHER
    changes = {"corpus": "b.txt", "epochs": 9, "patience": 4, "impl": "scan", "hidden": 3}  # Its own: 3.
    assert resumed(OTHER, changes) == dataclasses.replace(OTHER, corpus=("b.txt",), epochs=9, patience=4, impl="scan")
    kept = "except corpus, glob, skip_unreadable, epochs, patience, teacher, impl; found hidden 4 instead of 3, "
    with pytest.raises(
        InputError, match=re.escape(kept + "embedding 0 instead of 5, clip 2.0 instead of 1.0; leave that out")
    ):
        resumed(OTHER, {"clip": 2.0, "epochs": 9, "hidden": 4, "embedding": 0})
    with pytest.raises(InputError, match=r"no setting .hiden.; did you mean hidden\?"):
        resumed(OTHER, {"hiden": 4})
