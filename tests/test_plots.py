"""Pictures of runs: what they show, and what they refuse; and what a text copies."""

import dataclasses
import json
import shutil
import statistics
import sys

import numpy as np
import pytest

import jaxlm
from jaxlm.cli import commands
from jaxlm.runs import plots
from jaxlm.runs.copies import BORDER, Source, pieces_of
from jaxlm.text import copying
from jaxlm.text.copying import longest_copies, longest_copy, share_of_words, share_repeated


def lines_of(figure):
    """The points of each line that has a name."""
    [axes] = figure.axes
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def with_metrics(trained, path, *epochs):
    """A copy of a run with other epochs, as an older run without copies in its checkpoints has them."""
    shutil.copytree(trained, path)
    for step in jaxlm.Run.open(path).checkpoints():
        shutil.rmtree(path / str(step))
    (path / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    return path


EPOCHS = [
    {"epoch": 1, "step": 11, "loss": 3.0, "validation_loss": 2.5, "seconds": 2.0},
    {"epoch": 2, "step": 22, "loss": 2.0, "validation_loss": 2.25, "seconds": 3.0},
    {"epoch": 3, "step": 33, "loss": 1.0, "validation_loss": 2.75, "seconds": 4.0},
]


def test_curves_show_each_epoch_and_mark_the_best(trained, tmp_path):
    pytest.importorskip("matplotlib")
    run = with_metrics(trained, tmp_path / "fox", *EPOCHS)
    figure = jaxlm.plot(run)
    assert {name: points.tolist() for name, points in lines_of(figure).items()} == {
        "training": [[1, 3.0], [2, 2.0], [3, 1.0]],
        "validation": [[1, 2.5], [2, 2.25], [3, 2.75]],
    }
    [best] = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert best.get_xydata().tolist() == [[2, 2.25]]
    figure = jaxlm.plot(run, trained, by="seconds")
    names = ["fox: training", "fox: validation", "fox: training"]
    assert [line.get_label() for line in figure.axes[0].lines if line.get_label()[0] != "_"] == names
    assert lines_of(figure)["fox: validation"].tolist() == [[2, 2.5], [5, 2.25], [9, 2.75]]


def test_the_suffix_says_what_is_written_and_the_same_run_gives_the_same_file(trained, tmp_path):
    pytest.importorskip("matplotlib")
    figure = jaxlm.plot(trained, path=tmp_path / "a.svg")
    jaxlm.plot(trained, path=tmp_path / "b.svg")
    jaxlm.plot(trained, path=tmp_path / "c.PNG")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert (tmp_path / "c.PNG").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_figures_that_a_stranger_made_up_are_passed_over(trained, tmp_path):
    pytest.importorskip("matplotlib")
    odd = [{"step": 1}, {"step": 1, "epoch": "x", "loss": 1.0}, {"step": 1, "epoch": 1, "loss": 1e400}]
    run = with_metrics(trained, tmp_path / "fox", *odd, *EPOCHS[:1])
    assert lines_of(jaxlm.plot(run))["training"].tolist() == [[1, 3.0]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "plot.pdf"], "output: found 'plot.pdf', expected a name that ends in .png or .svg"),
        (["-o", "none/plot.svg"], "output none/plot.svg: found no folder"),
        (["{run}", "--by", "temperature"], "by: found 'temperature', expected epoch or seconds for several runs"),
        (["nobody"], "run nobody: not found"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(trained, tmp_path, monkeypatch, capsys, arguments, told):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert commands.main(["plot", str(trained), *(word.format(run=trained) for word in arguments)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, "", "a\0.svg"])
def test_what_is_no_path_is_no_place_for_a_picture(trained, path):
    with pytest.raises(jaxlm.InputError, match=r"output: found .*, expected a name, or a path"):
        jaxlm.plot(trained, path=path)


def test_a_run_without_an_epoch_has_no_curve(trained, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(jaxlm.InputError, match="has no epoch to draw, since it has trained none"):
        jaxlm.plot(with_metrics(trained, tmp_path / "fox"))


def test_without_matplotlib_one_line_names_it(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert commands.main(["plot", str(trained), "-o", str(tmp_path / "a.svg")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: matplotlib is not installed")
    assert "python -m pip install 'jaxlm[plots]'" in line


def test_a_picture_without_a_name_takes_no_other_s_place(trained, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert commands.main(["plot", str(trained)]) == 0
    own = (tmp_path / "plot.svg").read_bytes()
    (tmp_path / "plot.svg").write_bytes(own + b"\n")
    assert commands.main(["plot", str(trained)]) == 0  # Again.
    assert (tmp_path / "plot.svg").read_bytes() == own
    capsys.readouterr()
    (tmp_path / "plot.svg").write_text("<svg>mine</svg>")
    assert commands.main(["plot", str(trained)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: output plot.svg: found a file there that jaxlm has not written")
    assert (tmp_path / "plot.svg").read_text() == "<svg>mine</svg>"
    assert commands.main(["plot", str(trained), "-o", "plot.svg"]) == 0
    assert (tmp_path / "plot.svg").read_bytes() == own


def test_the_command_draws_the_newest_run_or_those_that_are_named(trained, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert commands.main(["plot", "--checkpoints", str(trained.parent)]) == 0
    assert commands.main(["plot", "--checkpoints", str(trained.parent), "-o", "named.svg", "fox"]) == 0
    assert (tmp_path / "plot.svg").read_bytes() == (tmp_path / "named.svg").read_bytes()


def test_the_temperature_is_measured_on_what_the_model_generates_and_on_real_text(trained, monkeypatch):
    monkeypatch.setattr(plots, "TEXTS", 2)
    monkeypatch.setattr(plots, "LENGTH", 60)
    run = jaxlm.Run.open(trained)
    rows, real = plots.by_temperature(run, (0.1, 1.5))
    assert [row["temperature"] for row in rows] == [0.1, 1.5]
    generator, _ = run.generator()
    source, prompt = Source([run]).text, run.record.seed_text
    for row in rows:
        texts = generator.generate_batch(2, None, 60, temperature=row["temperature"], seed=0)
        rest = [text[len(prompt) :] for text in texts]
        nats = [-generator.score(text)[-60:].mean(dtype=float) for text in texts]
        assert row["surprise"] == pytest.approx(np.mean(nats), abs=1e-5)
        assert row["words"] == np.mean([share_of_words(text, source) for text in rest])
        assert row["copied"] == statistics.median(longest_copies(text, source).max() for text in rest)
    assert rows[0]["surprise"] < rows[1]["surprise"]
    assert (real["words"], real["copied"]) == (1.0, 60)  # This text says the same again and again.


def test_phrases_that_a_text_repeats_are_counted():
    # Of those between the ends: b c d e f, b c d e f; of 7 runs of four, b c d e and c d e f stand there again.
    assert share_repeated("a b c d e f b c d e f g") == pytest.approx(2 / 7)
    assert np.isnan(share_repeated("a b c d"))


@pytest.mark.parametrize("letters", ["a", "ab\0", "abcdefghijklmnopqrstuvwxyz가ß"])
def test_the_longest_copy_is_the_maximum_of_all_copies(letters, monkeypatch):
    monkeypatch.setattr(copying, "HASHED", 7)
    random = np.random.default_rng(len(letters))
    for _ in range(300):
        source, text = ("".join(random.choice(list(letters), random.integers(80))) for _ in range(2))
        at = random.integers(80)
        text += source[at : at + random.integers(60)] + text[:3]
        longest = longest_copies(text, source)
        copy = longest_copy(text, source)
        assert copy.length == longest.max(initial=0)
        if copy.length:
            span = text[copy.start : copy.start + copy.length]
            assert (copy.start, copy.at) == (longest.argmax(), source.index(span))


def test_a_piece_of_a_text_is_compared_with_all_of_the_rest():
    text = "".join(chr(0x4E00 + number) for number in range(100)) + "abcdefghij"
    for piece, rest in pieces_of(text, 20, 5):
        assert (len(piece), len(rest)) == (20, 91)
        assert rest.replace(BORDER, piece) == text
        assert longest_copy(piece, rest).length == 0
    [(piece, _), *_] = pieces_of("abcd", 400, 2)
    assert piece == "ab"


def test_copied_says_which_span_of_any_text_a_run_learned(trained):
    text = Source([jaxlm.Run.open(trained)]).text
    found = jaxlm.copied("§§ jumps over the lazy dog! §§", trained)
    assert (found.text, found.start) == (" jumps over the lazy dog", 2)
    assert text[found.at :].startswith(found.text)
    assert found.usual == 30  # The text says all of it twelve times.


def test_sample_tells_under_each_text_what_it_copies(trained, capsys):
    command = ["sample", "--run", str(trained), "--seed", "1", "-l", "30", "-n", "2"]
    assert commands.main([*command, "--copied"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--- longest")]
    assert commands.main([*command, "--copied", "--json"]) == 0
    texts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == len(texts) == 2
    source = Source([jaxlm.Run.open(trained)]).text
    for line, text in zip(told, texts, strict=True):
        span = text["text"][text["copied_from"] :][: text["copied"]]
        assert text["copied"] == longest_copies(text["text"], source).max()
        assert source[text["copied_at"] :].startswith(span)
        expected = f"--- longest span also in the training text: {len(span)} characters ({span!r}); "
        assert line == expected + "of a piece of that text in the rest of it: 30 (median)"


def test_what_needs_the_text_of_a_run_that_was_imported_without_it_says_so(trained, tmp_path):
    run = jaxlm.Run.open(shutil.copytree(trained, tmp_path / "fox"))
    run.write_record(dataclasses.replace(run.record, sha256=""))
    for needs in (jaxlm.copied, lambda _, run: jaxlm.load(run, mix_ngram=2)):
        with pytest.raises(jaxlm.InputError, match=r"imported without .*; import it again, and name that"):
            needs("the fox", tmp_path / "fox")


def test_copies_of_runs_that_learned_from_several_texts_are_refused(trained, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "fox")
    run = jaxlm.Run.open(copied)
    config = dataclasses.replace(run.record.config, validation=0.5)
    run.write_record(dataclasses.replace(run.record, config=config))
    with pytest.raises(jaxlm.InputError, match="which learned from different texts"):
        jaxlm.copied("fox", [trained, copied])
