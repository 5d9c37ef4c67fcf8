"""Notations: how files of tunes become text, which notation a corpus is in, and what a run writes."""

import json
from typing import get_args

import pytest

import jaxlm
from jaxlm import config, invocation
from jaxlm.cli import commands
from jaxlm.errors import InputError
from jaxlm.notations import abc
from jaxlm.notations.registry import BY_SUFFIX, NOTATIONS, PROSE
from jaxlm.runs.data import read_piece
from jaxlm.runs.run import Run
from jaxlm.text.corpus import load_corpus

UNCLOSED = "with a bracket or quotation mark that is not closed"

TUNE = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n"


@pytest.fixture(autouse=True)
def as_command():
    with invocation.called_as("jaxlm"):
        yield


@pytest.fixture
def tunes(tmp_path):
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(1, 9):
        (folder / f"{number}.abc").write_text(TUNE.replace("X:1", f"X:{number}"))
    return folder


def read(*sources, **settings):
    return load_corpus(tuple(map(str, sources)), **settings)


def train(tunes, *options):
    flags = ["--epochs", "1", "--batch", "8", "--hidden", "8", "--length", "16", "-l", "10", "-t", "0.5"]
    assert commands.train([str(tunes), "--run", str(tunes.parent / "run"), *flags, *options]) == 0
    return Run.open(tunes.parent / "run")


# Which notation.


def test_settings_know_every_notation():
    assert get_args(config.NotationName) == tuple(NOTATIONS)
    assert all(name == notation.name for name, notation in NOTATIONS.items())


def test_no_two_notations_read_or_write_files_of_one_ending():
    suffixes = [suffix for notation in NOTATIONS.values() for suffix in notation.readers]
    assert len(suffixes) == len(set(suffixes)) == len(BY_SUFFIX)
    written = [suffix for notation in NOTATIONS.values() for suffix in notation.writers]
    assert len(written) == len(set(written))


def test_a_folder_of_tunes_is_one_text_with_a_blank_line_after_each(tunes):
    (tunes / "2.abc").write_bytes(b"\r\n" + TUNE.strip().replace("\n", "\r\n").encode())
    corpus = read(tunes)
    assert corpus.notation == "abc"
    assert corpus.text.count("\n\n") == 8
    assert corpus.text.startswith("\n".join([TUNE, TUNE]))
    assert "\r" not in corpus.text


def test_prose_is_read_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\r\nprose\r\n\r\n")
    corpus = read(tmp_path / "a.txt")
    assert (corpus.text, corpus.notation) == ("\r\nprose\r\n\r\n", "text")


def test_several_notations_are_one_line(tunes):
    (tunes / "README.txt").write_text("About these tunes.")
    with pytest.raises(InputError) as caught:
        load_corpus((str(tunes / "1.abc"), str(tunes / "README.txt")))
    assert str(caught.value) == (
        f"corpus {tunes}/README.txt: found texts, but {tunes}/1.abc has ABC tunes, expected one kind; read one alone "
        "with --notation abc or --notation text"
    )


def test_a_file_in_another_notation_is_told_what_to_do(tunes):
    with invocation.called_as("jaxlm"), pytest.raises(InputError) as caught:
        load_corpus((str(tunes / "1.abc"),), notation="midi")
    assert str(caught.value) == (
        f"corpus {tunes}/1.abc: found another kind of file, expected MIDI files (.mid, .midi); choose such a file, or "
        "another --notation"
    )


def test_what_most_files_of_a_folder_are_is_read_and_the_others_are_told(tunes, tmp_path):
    (tunes / "2.abc").write_text(TUNE)
    (tunes / "README.txt").write_text("About these tunes.")
    corpus = read(tunes)
    assert corpus.notation == "abc"
    assert corpus.left_out == ((f"{tunes}/README.txt", "not ABC tunes"),)
    novel = tmp_path / "novel"
    novel.mkdir()
    (novel / "one.txt").write_text("A text.")
    (novel / "cover.svg").write_text("<svg/>")
    corpus = read(novel)
    assert (corpus.text, corpus.notation) == ("A text.", "text")
    assert corpus.left_out == ((f"{novel}/cover.svg", "not texts"),)
    (novel / "tune.abc").write_text(TUNE)
    (novel / "two.txt").write_text("Another.")
    corpus = read(novel)
    assert corpus.text == "A text.\nAnother."
    assert read(novel, notation=corpus.notation).sha256 == corpus.sha256  # As a run reads it again.


def test_an_endless_opening_of_fields_is_counted_at_once():
    assert abc.count("[A:" * 300_000) == 300_000


def test_only_one_piece_can_be_continued(tmp_path):
    drawings = tmp_path / "two.ndjson"
    drawings.write_text('{"drawing": [[[0, 255], [0, 255]]]}\n' * 2)
    with pytest.raises(InputError, match="found 2 drawings, expected one to continue"):
        read_piece(str(drawings))


def test_several_tunes_in_a_prompt_are_not_run_into_one(tunes, tmp_path, capsys):
    run = train(tunes)
    (tmp_path / "two.abc").write_text(f"{TUNE}\n{TUNE}")
    argv = ["--run", str(run.path), "-l", "9", "-o", str(tmp_path / "out.abc")]
    capsys.readouterr()
    assert commands.sample([*argv, "--prompt-file", str(tmp_path / "two.abc")]) == 2
    told = "error: prompt: found 2 tunes, expected the beginning of one; leave out the others\n"
    assert capsys.readouterr().err == told
    assert not (tmp_path / "out.abc").exists()
    (tmp_path / "one.abc").write_text(f"\n{TUNE}\n\n")
    assert commands.sample([*argv, "--prompt-file", str(tmp_path / "one.abc")]) == 0


def test_the_notation_that_is_asked_for_chooses_the_files_of_a_folder(tunes):
    (tunes / "README.txt").write_text("About these tunes.")
    assert read(tunes, notation="abc").text.count("X:") == 8
    text = read(tunes, notation="text")
    assert ("About" in text.text, text.notation) == (True, "text")


def test_a_pipe_is_read_as_what_is_asked_for(tunes, monkeypatch, tmp_path):
    (tmp_path / "all").write_text(TUNE)
    assert read(tmp_path / "all").notation == "text"
    assert read(tmp_path / "all", notation="abc").text == TUNE + "\n"


def test_case_is_kept_in_a_notation_and_that_is_told(tunes, tmp_path):
    corpus = read(tunes, lowercase=True)
    assert "CDEF|GABc" in corpus.text
    assert "Case is kept: it means something in ABC tunes." in corpus.remarks
    (tmp_path / "a.txt").write_text("ABC")
    assert read(tmp_path / "a.txt", lowercase=True).text == "abc"
    assert not any("Case" in remark for remark in read(tunes).remarks)


# Runs.


@pytest.mark.parametrize("recipe", [["--stride", "5"], ["--recipe", "stream", "--ngram", "2"]])
def test_a_run_keeps_its_notation_and_writes_tunes(tunes, tmp_path, capsys, recipe):
    run = train(tunes, *recipe)
    assert "Notation:            ABC tunes: 8 tunes, 64 notes\n" in capsys.readouterr().out
    assert (run.record.config.notation, run.record.config.lowercase, run.record.seed_text) == ("abc", False, "\n\n")
    out = tmp_path / "out.abc"
    assert commands.sample(["--run", str(run.path), "-n", "3", "-l", "30", "-p", "X:1", "-o", str(out)]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("3 tunes, ")
    assert [line for line in out.read_text().splitlines() if line.startswith("X:")] == ["X:1", "X:2", "X:3"]


def test_a_run_s_notation_is_sealed_and_cannot_change(tunes, capsys):
    run = train(tunes)
    assert commands.train(["--resume", "--run", str(run.path), "--epochs", "2", "--notation", "text"]) == 2
    assert "notation 'text' instead of 'abc'" in capsys.readouterr().err
    place = run.path / "config.json"
    place.write_text(place.read_text().replace('"notation": "abc"', '"notation": "text"'))
    assert commands.sample(["--run", str(run.path)]) == 2
    assert "config.json has changed since it was saved" in capsys.readouterr().err


def test_a_run_from_before_there_were_notations_is_text(tunes, capsys):
    run = train(tunes, "--notation", "text")
    older = config.to_json(run.record.config)
    del older["notation"]
    assert config.from_json(older) == run.record.config
    assert config.from_json({**json.loads(json.dumps(older))}).notation == "text"


def test_a_run_of_tunes_is_resumed_and_evaluated_per_note(tunes, capsys):
    run = train(tunes, "--validation", "0.3")
    assert commands.train(["--resume", "--run", str(run.path), "--epochs", "2"]) == 0
    found = jaxlm.evaluate(run)
    assert (found.unit, found.units) == ("note", 3 * 8)
    characters = found.characters
    assert found.static.nats_per_unit == pytest.approx(found.static.nats_per_character * characters / found.units)
    capsys.readouterr()
    assert commands.evaluate(["--run", str(run.path)]) == 0
    assert "Nats per note:" in capsys.readouterr().out


def test_prose_is_not_counted_in_units(trained):
    found = jaxlm.evaluate(trained, corpus=str(trained.parent / "fox.txt"))
    assert (found.unit, found.static.nats_per_unit) == (PROSE.unit, None)


# ABC.


def test_notes_are_counted_and_nothing_else():
    tune = 'X:1\nT:Cage\n% deaf\nK:C\n"Gm7"[CEG]2 z4 !fade!a,,/2 [K:D]^c{d}|\n'
    assert abc.count(tune) == 6


@pytest.mark.parametrize(
    ("tune", "faults"),
    [
        (TUNE, []),
        ("T:x\nK:C\nCDE", ["without a number (X:)"]),
        ("X:1\nCDE", ["without a key (K:)"]),
        ("X:1\nK:C\n", ["without notes"]),
        ('X:1\nK:C\n"G"[CE]|[1 {c}d :|[2 [K:D] !f! [|C|] % "[{\n', []),
        ("X:1\nK:C\nC [CE\nG] A", [UNCLOSED]),
        ("X:1\nK:C\n[C [EG]", [UNCLOSED]),
        ("X:1\nK:C\nC] [EG]", [UNCLOSED]),
        ("X:1\nK:C\n{c C", [UNCLOSED]),
        ('X:1\nK:C\n"Gm C', [UNCLOSED]),
        ("", ["without a number (X:)", "without a key (K:)"]),
    ],
)
def test_what_is_wrong_with_a_tune_is_told(tune, faults):
    assert abc.faults_of(tune) == faults


def test_tunes_are_numbered_so_that_players_tell_them_apart():
    written = abc.write([TUNE, "K:C\nCDE", ""])
    assert written.content.decode() == TUNE + "\nX:2\nK:C\nCDE\n\nX:3\n"
    assert (written.malformed, written.faults) == (2, {"without a number (X:)": 2, "without a key (K:)": 1})


def test_a_run_that_starts_from_one_of_tunes_learns_tunes_and_an_export_says_so(tunes, tmp_path, capsys):
    run = train(tunes, "--recipe", "stream", "--ngram", "0")
    child = str(tmp_path / "child")
    more = ["--start-from", str(run.path), "--epochs", "1", "-l", "9", "-t", "1"]
    assert commands.train([str(tunes), "--run", child, *more]) == 0
    assert Run.open(child).record.config.notation == "abc"
    assert commands.main(["export", str(run.path), str(tmp_path / "shared")]) == 0
    assert "| Notation | ABC tunes |" in (tmp_path / "shared" / "README.md").read_text()
    assert Run.open(tmp_path / "shared").record.config.notation == "abc"
    out = tmp_path / "out.abc"
    assert commands.sample(["--run", str(tmp_path / "shared"), "-l", "9", "-o", str(out)]) == 0
    assert out.read_text().startswith("X:1\n")
    assert commands.train([str(tunes), "--run", child + "2", "--start-from", str(run.path), "--notation", "midi"]) == 2
    assert "expected files ending in .mid, .midi" in capsys.readouterr().err
