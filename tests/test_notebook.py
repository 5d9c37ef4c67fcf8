"""Notebooks: what a run shows in a cell, and the notebooks of the project, run from top to bottom."""

import dataclasses
import html.parser
import json
import re
import runpy
import signal
import sys
import types
from pathlib import Path

import IPython
import nbformat
import pytest
from helpers import TEXT, SignalAt, assert_same_run

import jaxlm
from jaxlm.cli import notebook as notebook_room
from jaxlm.runs.storage import Progress

FOLDER = Path(__file__).parents[1] / "notebooks"
RUN = runpy.run_path(str(FOLDER / "run.py"))
BOOKS, execute, code = RUN["BOOKS"], RUN["execute"], RUN["code"]

# The kernel's packages emit warnings that are not ours.
in_a_kernel = pytest.mark.filterwarnings("default")


@pytest.fixture
def cells(monkeypatch):
    """What is displayed: for each display, its states in order."""
    displays = []

    def display(shown, *, raw, display_id):
        assert raw
        assert display_id
        states = [shown]
        displays.append(states)
        return types.SimpleNamespace(update=lambda shown, raw: states.append(shown))

    monkeypatch.setattr(IPython.display, "display", display)
    return displays


@pytest.fixture
def kernel(monkeypatch):
    """Makes IPython take this process for a notebook's kernel."""
    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))


def markup(page):
    """The tags of HTML, its text, and its attributes with their values."""
    tags, words, attributes = set(), [], set()
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: (tags.add(tag), attributes.update(attrs))
    parser.handle_data = words.append
    parser.feed(page)
    return tags, "".join(words), attributes


def test_a_run_is_one_display_that_is_updated_in_place(small, tmp_path, cells, monkeypatch):
    monkeypatch.setattr(notebook_room, "SHOWN_SECONDS", 0.0)
    config = dataclasses.replace(small, validation=0.25)
    watch = jaxlm.WatchConfig(temperature=(0.5, 1.0), sample_length=30)
    jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=jaxlm.Notebook(watch))
    [states] = cells
    steps = [re.search(r'<progress value="(\d+)" max="(\d+)"', state["text/html"]) for state in states]
    assert [int(step[1]) for step in steps if step] == sorted(int(step[1]) for step in steps if step)
    assert {int(step[2]) for step in steps if step} == {2 * 8}
    assert all(state["text/html"].count("<progress") <= 1 for state in states)
    curves = [re.findall(r'points="([^"]*)"', state["text/html"]) for state in states]
    grown = [len(curve[0].split()) for curve in curves if curve]
    assert grown == sorted(grown)
    assert grown[0] < grown[-1] == 16


def test_what_remains_in_the_cell_is_the_end_the_curve_and_the_newest_samples(small, tmp_path, cells):
    config = dataclasses.replace(small, validation=0.25)
    watch = jaxlm.WatchConfig(temperature=(0.5, 1.0), sample_length=30)
    model = jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=jaxlm.Notebook(watch))
    last = cells[-1][-1]
    tags, words, _ = markup(last["text/html"])
    assert "progress" not in tags
    assert last["text/html"].count("<svg viewBox") == 1
    second = jaxlm.Run.open(tmp_path / "fox").metrics()[-1]["validation_loss"]
    for shown in (words, last["text/plain"]):
        assert "Corpus: fox, 1,032 characters" in shown
        assert f"validation loss {second:.4f} nats" in shown
        assert "Epoch 1/2" not in shown
        assert f"To generate text: jaxlm.load({str(tmp_path / 'fox')!r}).generate()" in shown
        for temperature in (0.5, 1.0):
            sample = model.generate(length=30, temperature=temperature, seed=config.seed)
            assert f"temperature {temperature:g}" in shown
            assert sample in shown
    assert len(json.dumps(last)) < 60_000


def test_the_steps_of_a_fast_run_are_not_all_shown(small, tmp_path, cells, monkeypatch):
    monkeypatch.setattr(notebook_room, "SHOWN_SECONDS", 1e9)
    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=jaxlm.Notebook(jaxlm.WatchConfig(temperature=())))
    assert len(cells[0]) == 1 + 2 + 1  # The start; each epoch; the end.


def test_text_is_shown_and_is_never_markup(small, tmp_path, cells):
    text = "<script>\x1b[31m\u202e\x00</script>&'\"" * 40  # Shorter than the seed text by more than `<script>`.
    (tmp_path / "<b>.txt").write_text(text, newline="")
    config = dataclasses.replace(small, corpus=(str(tmp_path / "<b>.txt"),), epochs=1, length=50)
    watch = jaxlm.WatchConfig(temperature=(0.0, 1.0), sample_length=100)
    jaxlm.train(config, run="<i>", checkpoints=tmp_path, reporter=jaxlm.Notebook(watch))
    for state in cells[0]:
        tags, words, attributes = markup(state["text/html"])
        assert tags <= {"div", "progress", "svg", "path", "polyline", "circle", "text", "title"}
        assert not {name for name, _ in attributes if name.startswith("on") or name in ("src", "href")}
        assert not re.search("[\x00\x1b\u202e]", state["text/html"] + state["text/plain"])
    assert "<script>" in words
    assert "␛[31m" in words
    assert "\\u202e" in words
    assert "Corpus: <b>, " in words


def test_an_interrupted_run_says_how_to_resume_and_the_same_call_resumes_it(small, tmp_path, cells, one_at_a_time):
    class Interrupted(jaxlm.Notebook):
        step_of = 14

        def step(self, step, loss):
            super().step(step, loss)
            SignalAt(self.step_of, signal.SIGINT).step(step, loss)

    watch = jaxlm.WatchConfig(temperature=(0.5,), sample_length=20)
    with pytest.raises(KeyboardInterrupt):
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=Interrupted(watch))
    stopped = cells[0][-1]["text/plain"]
    again = f"jaxlm.resume({str(tmp_path / 'fox')!r}), or run the cell again if it has run='fox'"
    assert re.search(rf"Stopped and saved at step 1\d\. To resume: {re.escape(again)}", stopped)
    assert "--- temperature 0.5" in stopped
    assert "<polyline" in cells[0][-1]["text/html"]

    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=jaxlm.Notebook(watch))
    assert re.search(r"Resuming from step 1\d, in epoch 2 of 2\.", cells[1][0]["text/plain"])
    jaxlm.train(small, run="whole", checkpoints=tmp_path, reporter=None)
    assert_same_run(tmp_path / "fox", tmp_path / "whole")


def test_a_divergence_is_told_and_a_download_has_a_bar(small, tmp_path, cells):
    class Trouble(jaxlm.Notebook):
        def start(self, plan):
            self.download(600_000, 1_200_000)
            super().start(plan)
            self.diverged("step 3: found a loss of nan", Progress(), 0.0025)

    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=Trouble(jaxlm.WatchConfig(temperature=())))
    assert "Downloading the corpus: 0.6 of 1.2 MB" in cells[0][0]["text/plain"]
    assert '<progress value="600000" max="1200000"' in cells[0][0]["text/html"]
    assert "Rolling back to the beginning, and cutting the learning rate to 0.0025." in cells[0][-1]["text/plain"]


def test_a_reporter_shows_each_of_its_runs_in_a_display_of_its_own(small, tmp_path, cells):
    reporter = jaxlm.Notebook(jaxlm.WatchConfig(temperature=(1.0,), sample_length=20))
    for name in ("a", "b"):
        jaxlm.train(small, run=name, checkpoints=tmp_path, reporter=reporter)
    assert len(cells) == 2
    assert "temperature" not in cells[1][0]["text/plain"]


def test_a_kernel_shows_runs_by_itself(small, tmp_path, cells, kernel, capsys):
    jaxlm.train(small, run="fox", checkpoints=tmp_path, temperature=0.5, sample_length=10)
    jaxlm.resume("fox", checkpoints=tmp_path, temperature=())
    assert len(cells) == 2
    assert "--- temperature 0.5" in cells[0][-1]["text/plain"]
    assert "Trained 2 of 2 epochs already." in cells[1][-1]["text/plain"]
    newest = [states[-1]["text/plain"].split("---")[1] for states in cells]
    assert newest == 2 * [f" temperature 0.5\n{jaxlm.Run.open(tmp_path / 'fox').samples()[-1]['text']}"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace()], ids=["Python", "IPython in a terminal"])
def test_a_terminal_keeps_its_lines(small, tmp_path, cells, shell, monkeypatch, capsys):
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    jaxlm.train(small, run="fox", checkpoints=tmp_path, temperature=())
    assert "Epoch 2/2" in capsys.readouterr().out
    assert cells == []


def test_without_ipython_a_notebook_s_reporter_is_refused_and_none_is_taken_for_granted(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(jaxlm.InputError, match=r"found no IPython, .*; outside of notebooks, leave it out"):
        jaxlm.Notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not notebook_room.in_notebook()


def printed(outputs):
    return "".join(output.get("text", "") for output in outputs)


@in_a_kernel
def test_the_notebook_restores_a_run_and_compares_temperatures(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(FOLDER / "restore.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    texts = [printed(cell.outputs) for cell in execute(notebook, FOLDER)]
    assert any(text.startswith("the truth ") and len(text) == 411 for text in texts)
    assert any(all(f"--- temperature {value}" in text for value in (0, 0.2, 0.5, 1.0, 1.2)) for text in texts)


@in_a_kernel
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_the_book_s_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "fox.txt").write_text(TEXT * 3)
    notebook = nbformat.read(path, as_version=4)
    [settings] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    settings.source = "import jaxlm\ncorpus, book_epochs, stream_epochs, sample_length = 'fox.txt', 2, 1, 50"
    outputs = [cell.outputs for cell in execute(notebook, tmp_path)]
    texts = [printed(output) for output in outputs]
    run = jaxlm.Run.open(tmp_path / "checkpoints" / "book")
    assert texts[1].startswith("3,096 characters")
    assert f"{len(run.vocab)} distinct characters, 1,012 windows, 8 batches of 128" in texts[2]
    [parameters] = re.findall(r"= ([\d,]+) parameters", texts[3])
    for number in (4, 7):
        [shown] = outputs[number]
        assert shown["output_type"] == "display_data"
        assert "<svg" in shown["data"]["text/html"]
        assert "\x1b" not in json.dumps(shown) + json.dumps(shown).replace("\\u001b", "\x1b")
        assert len(json.dumps(shown)) < 60_000
    assert f"Parameters: {parameters}\n" in outputs[4][0]["data"]["text/plain"]
    assert texts[6].startswith("--- temperature 0.2\n" + run.record.seed_text)
    assert re.findall("--- temperature (.*)", texts[6]) == ["0.2", "0.5", "1.0", "1.2"]
    assert all("image/png" in outputs[number][-1]["data"] for number in (5, 8))
    tags, words, _ = markup(outputs[9][-1]["data"]["text/html"])
    assert tags == {"div", "span"}
    assert words.endswith((TEXT * 3).lower()[-1000:-400])
    assert not any(output.get("name") == "stderr" for cell in outputs for output in cell)


@in_a_kernel
def test_a_cell_that_is_interrupted_saves_its_run_and_resumes_it_when_it_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "fox.txt").write_text(TEXT)
    # A kernel is interrupted by this signal.
    interrupt = """
import os, signal, jaxlm

own = jaxlm.Notebook.step

def interrupted(self, step, loss):
    own(self, step, loss)
    if step == 14:
        os.kill(os.getpid(), signal.SIGINT)

jaxlm.Notebook.step = interrupted
"""
    train = "model = jaxlm.train('fox.txt', run='fox', epochs=30, hidden=16, length=10, batch=32, temperature=())"
    cells = [interrupt, train, "jaxlm.Notebook.step = own", train, "print(model.generate('fox', 5))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[1].metadata.tags = ["raises-exception"]
    _, interrupted, _, resumed, last = [cell.outputs for cell in execute(notebook, tmp_path)]
    shown, error = interrupted
    assert error["ename"] == "KeyboardInterrupt"
    [step] = re.findall(r"Stopped and saved at step (\d+)\. To resume: ", shown["data"]["text/plain"])
    assert 14 <= int(step) < 30 * 11
    [shown] = resumed
    assert f"Resuming from step {step}, in epoch " in shown["data"]["text/plain"]
    assert "Done." in shown["data"]["text/plain"]
    assert len(jaxlm.Run.open(tmp_path / "checkpoints" / "fox").metrics()) == 30
    assert printed(last).startswith("fox")


def test_the_book_s_notebooks_have_the_same_code_and_each_its_language():
    english, korean = (nbformat.read(path, as_version=4).cells for path in BOOKS)
    assert [(cell.cell_type, cell.id) for cell in english] == [(cell.cell_type, cell.id) for cell in korean]
    for one, other in zip(english, korean, strict=True):
        if one.cell_type == "code":
            assert (one.source, one.outputs) == (other.source, other.outputs)
        else:
            assert re.search("[가-힣]", one.source) is None
            assert re.search("[가-힣]", other.source)
            assert re.findall(r"\]\(([^)]+)\)", one.source) == re.findall(r"\]\(([^)]+)\)", other.source)


@pytest.mark.parametrize("path", [*BOOKS, FOLDER / "restore.ipynb"], ids=lambda path: path.name)
def test_notebooks_name_files_that_exist_and_no_folder_of_whoever_ran_them(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        for link in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert (FOLDER / link).exists(), link
    whole = path.read_text(encoding="utf-8")
    assert re.search(r"(?<![\w.<])/(home|root|tmp|work|Users|usr)/", whole) is None
    assert "\\u001b" not in whole
    assert len(whole) < 250_000


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.name)
def test_the_outputs_that_readers_see_are_those_of_one_run_from_top_to_bottom(path):
    cells = code(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [bool(cell.outputs) for cell in cells] == [False] + [True] * (len(cells) - 1)
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.get("name", output.output_type) for output in outputs} == {
        "stdout",
        "display_data",
        "execute_result",
    }
