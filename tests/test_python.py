"""jaxlm from Python: settings as keywords, what is shown, and what is answered."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import TEXT, contents

import jaxlm

TINY = {"seed": np.uint8(3), "hidden": 8, "length": 10, "batch": np.int64(32), "epochs": 1}
SHOWN = {"temperature": np.float32(0.5), "sample_length": 7}


def test_a_text_and_a_few_keywords_train_a_model_and_show_it(corpus, tmp_path, capsys):
    model = jaxlm.train(Path(corpus), recipe="stream", run="fox", checkpoints=tmp_path, **TINY, **SHOWN)
    shown = capsys.readouterr().out
    assert "Epoch 1/1  loss " in shown
    assert shown.count("--- temperature 0.5\n") == 1
    assert f"To generate text: jaxlm.load({str(tmp_path / 'fox')!r}).generate()" in shown
    config = jaxlm.Run.open(tmp_path / "fox").record.config
    assert (config.recipe, config.seed, config.model.hidden, config.batch) == ("stream", 3, 8, 32)
    assert config.corpus == (str(corpus),)
    assert repr(model) == "TextGenerator(6,600 parameters, 31 distinct tokens)"
    assert repr(jaxlm.Run.open(tmp_path / "fox")).count("\n") == 0
    assert model.generate("fox", np.int64(5), seed=np.int64(1), temperature=np.float64(0.5)) == model.generate(
        "fox", 5, seed=1, temperature=0.5
    )
    jaxlm.resume("fox", checkpoints=tmp_path, epochs=2, temperature=())
    shown = capsys.readouterr().out
    assert "Epoch 2/2  loss " in shown
    assert "--- temperature" not in shown


def test_no_reporter_is_silent_and_one_s_own_shows_what_it_likes(small, tmp_path, capsys):
    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None, epochs=1)
    assert capsys.readouterr().out == ""
    with pytest.raises(jaxlm.InputError, match=r"temperature: 0\.3 has no effect with a reporter of your own"):
        jaxlm.train(small, run="other", checkpoints=tmp_path, reporter=jaxlm.Reporter(), temperature=0.3)
    for odd in (jaxlm.Reporter, "silent", False):  # The first is a class.
        with pytest.raises(jaxlm.InputError, match=r"reporter: found .*, expected an instance of a subclass of"):
            jaxlm.train(small, run="other", checkpoints=tmp_path, reporter=odd)
    assert not (tmp_path / "other").exists()


def test_a_call_that_names_a_run_may_be_repeated_and_trains_it_once(small, corpus, tmp_path, capsys):
    model = jaxlm.train(small, run="fox", checkpoints=tmp_path, temperature=())
    again = jaxlm.train(small, run="fox", checkpoints=tmp_path, temperature=())
    assert again.generate("fox", 50, seed=1) == model.generate("fox", 50, seed=1)
    assert f"Trained 2 of 2 epochs already. To train longer: jaxlm.resume({str(tmp_path / 'fox')!r}, epochs=4)" in (
        capsys.readouterr().out
    )
    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None, epochs=3)
    assert [line["epoch"] for line in jaxlm.Run.open(tmp_path / "fox").metrics()] == [1, 2, 3]


def test_a_repeated_call_knows_that_the_run_s_text_is_tunes(tmp_path):
    (tmp_path / "tunes.abc").write_text("".join(f"X:{number}\nK:G\nGABc dedB|dedB dedB|\n\n" for number in range(40)))
    for epochs in (1, 2):
        jaxlm.train(
            tmp_path / "tunes.abc", run="tunes", checkpoints=tmp_path, reporter=None, **TINY | {"epochs": epochs}
        )
    config = jaxlm.Run.open(tmp_path / "tunes").record.config
    assert (config.notation, config.lowercase, config.epochs) == ("abc", False, 2)


def test_a_repeated_call_reads_the_files_that_the_run_did(small, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    config = dataclasses.replace(small, corpus=(str(tmp_path / "texts"),))
    jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=None, glob="*.txt", epochs=1)
    (tmp_path / "texts" / "b.md").write_text(TEXT)
    jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=None, epochs=2)
    run = jaxlm.Run.open(tmp_path / "fox")
    assert len(run.metrics()) == 2
    assert run.record.config.glob == ("*.txt",)


def test_a_call_that_names_a_run_of_other_settings_or_another_text_or_parent_changes_nothing(small, corpus, tmp_path):
    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None)
    before = contents(tmp_path / "fox")
    with pytest.raises(jaxlm.InputError, match=r"run .*fox: .* found hidden 8 instead of 16; leave that out, or train"):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None, hidden=8)
    with pytest.raises(jaxlm.InputError, match=r"nothing is ever overwritten; resume it \(jaxlm\.resume"):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None, start_from=tmp_path / "fox")
    corpus.write_text(corpus.read_text() * 2)
    with pytest.raises(jaxlm.InputError, match=r"not the same text as the 1,032 that run .*fox was trained on"):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None)
    assert contents(tmp_path / "fox") == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(jaxlm.InputError, match="found something that is not a run there"):
        jaxlm.train(small, run="mine", checkpoints=tmp_path, reporter=None)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: jaxlm.train("a.txt", hiden=3), "no setting 'hiden'; did you mean hidden?"),
        (lambda run: jaxlm.train(jaxlm.BOOK, recipe="stream"), "a TrainConfig has all settings already"),
        (
            lambda run: jaxlm.resume(run, hidden=3),
            "a resumed run keeps its settings, except corpus, glob, skip_unreadable, epochs, patience, teacher, impl",
        ),
        (lambda run: jaxlm.resume(run, epoch=3), "no setting 'epoch'; did you mean epochs?"),
        (lambda run: jaxlm.evaluate(run, corpsu="a.txt"), "no setting 'corpsu'; did you mean corpus?"),
        (lambda run: jaxlm.evaluate(run, encoding="cp949"), "encoding: 'cp949' has no effect without a corpus"),
        (lambda run: jaxlm.evaluate(run), "has no validation text to evaluate on; name a text with corpus"),
    ],
)
def test_a_mistake_is_answered_in_the_words_of_python(trained, call, words):
    with pytest.raises(jaxlm.InputError) as caught:
        call(trained)
    assert words in str(caught.value)
    assert "--" not in str(caught.value)


def test_an_evaluation_is_a_value(trained, corpus):
    found = jaxlm.evaluate(trained, corpus=corpus)
    scores = jaxlm.load(trained).score(corpus.read_text())
    assert found.static.loss == -scores.mean(dtype=float)
    assert (found.characters, found.skipped, found.static.tokens) == (1032, 0, 1031)
    assert found.dynamic is found.baseline is None
    assert jaxlm.evaluate(trained, corpus=corpus, baseline="ngram").baseline.tokens == 1031
