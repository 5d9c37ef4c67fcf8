"""`jaxlm sample`: where its prompt comes from, where its texts go, and which checkpoint generates them."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.cli import commands
from jaxlm.cli import generate as command
from jaxlm.config import ModelConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import LanguageModel
from jaxlm.runs.target import target
from jaxlm.text.vocab import Vocab

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sample(trained, capsys, monkeypatch, tmp_path):
    """Runs `jaxlm sample` with the small run; returns its output and what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv, status=0, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        assert commands.sample(["--run", str(trained), "--seed", "5", *map(str, argv)]) == status
        return capsys.readouterr()

    return run


def refused(sample, *argv, **options):
    """The one line on stderr with which a command is refused, which prints nothing and writes nothing."""
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    out, err = sample(*argv, status=2, **options)
    assert out == ""
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before
    return err.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize("content", [b"the fox", b"the fox\n", b"the fox\r\n", b"\xef\xbb\xbfthe fox\n"])
def test_a_prompt_comes_from_standard_input_or_a_file_without_its_last_line_end(sample, trained, content):
    expected = jaxlm.load(trained).generate("the fox", 30, seed=5) + "\n"
    assert sample("-p", "the fox", "-l", "30").out == expected
    assert sample("-p", "-", "-l", "30", stdin=content).out == expected
    Path("prompt.txt").write_bytes(content)
    assert sample("--prompt-file", "prompt.txt", "-l", "30").out == expected
    Path("link.txt").symlink_to("prompt.txt")
    assert sample("--prompt-file", "link.txt", "-l", "30").out == expected


@pytest.mark.parametrize(
    ("argv", "options", "words"),
    [
        (
            ["--prompt-file", "none.txt"],
            {},
            "prompt_file none.txt: cannot be read (No such file or directory); expected",
        ),
        (["--prompt-file", "."], {}, "prompt_file .: cannot be read (Is a directory); expected a text file"),
        (["--prompt-file", "a", "-p", "b"], {}, "prompt_file: found 'a', expected none beside a prompt"),
        (["-p", "-"], {"stdin": b"ab\xff"}, "prompt: found byte 0xFF at offset 2, expected UTF-8 text; convert it"),
        (["-p", "-"], {"stdin": b""}, "prompt: found no text that the model knows, expected at least one character"),
        (["-p", "-"], {"stdin": b"x" * 101}, "prompt: found more than 100 bytes, expected a prompt; shorten it"),
        (["-p", r"a\q", "--escapes"], {}, r"prompt: found '\\q', expected one of \n, \t, \r, \\, \xHH, \uHHHH or"),
        (["-p", "a\\", "--escapes"], {}, "prompt: found '\\\\', expected one of"),
        (["-p", r"\U00110000", "--escapes"], {}, r"prompt: found '\\U00110000', expected one of"),
        (["--stop", r"\x1", "--escapes"], {}, r"stop_strings: found '\\x', expected one of"),
        (["--escapes"], {}, "escapes: True has no effect without a prompt or a stop string on the command line"),
        (["--stop="], {}, "stop_strings: found ('',), expected strings that are not empty"),
        (["--top-k", "0"], {}, "top_k: found 0, expected a whole number from 1"),
        (["--top-p", "0"], {}, "top_p: found 0.0, expected a finite number above 0 and at most 1"),
        (["--min-p", "2"], {}, "min_p: found 2.0, expected a finite number of 0 or more and at most 1"),
        (["--no-repeat", "0"], {}, "no_repeat_ngram_size: found 0, expected a whole number from 1 to 4096"),
        (["--keep-stop"], {}, "keep_stop: True has no effect without a stop string"),
        (["--lines", "2"], {}, "lines: found 2, expected none of a model that has never seen a line end"),
        (["--lines", "2", "-p", "-"], {"stdin": b"a\nb"}, r"prompt: found 'a\nb', expected no line end in it"),
        (["-o", "."], {}, "output .: found a folder there, expected a file"),
        (["-o", "/dev/null"], {}, "output /dev/null: found something that is not a file there, expected a file"),
        (["-o", "none/a.txt"], {}, "output none/a.txt: found no folder none to write into"),
        (["--show-probabilities", "--json"], {}, "show_probabilities: True has no effect with "),
        (["--show-probabilities", "-o", "a.txt"], {}, "show_probabilities: True has no effect with "),
        (["--epoch", "0"], {}, "epoch: found 0, expected a whole number of 1 or more; or choose best or last"),
        (["--epoch", "first"], {}, "epoch: found 'first', expected best, last, or a whole number of 1 or more"),
    ],
)
def test_a_mistake_is_one_line(sample, monkeypatch, argv, options, words):
    monkeypatch.setattr(command, "PROMPT_LIMIT", 100)
    assert words in refused(sample, *argv, **options)


def test_a_closed_standard_input_is_told(sample, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "prompt: found that standard input is closed" in refused(sample, "-p", "-")


def test_escapes_are_read_in_what_is_typed_and_nowhere_else(sample, trained):
    expected = jaxlm.load(trained).generate("the fox", 30, seed=5, stop_strings="e ") + "\n"
    assert sample("-p", r"\x74he\u0020f\U0000006fx", "--stop", r"e\x20", "--escapes", "-l", "30").out == expected
    assert command._unescaped("prompt", r"\n\t\r\\n") == "\n\t\r\\n"
    # Neither without the flag nor in a file does a backslash mean anything: the model does not know it.
    assert "'\\\\' (U+005C)" in refused(sample, "-p", r"\x74he")
    Path("prompt.txt").write_text(r"\x74he")
    assert "'\\\\' (U+005C)" in refused(sample, "--prompt-file", "prompt.txt", "--stop", "a", "--escapes")


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("--top-k 4", {"top_k": 4}),
        ("--top-p 0.5", {"top_p": 0.5}),
        ("--min-p 0.5", {"min_p": 0.5}),
        ("--no-repeat 2", {"no_repeat_ngram_size": 2}),
        ("--stop zz u", {"stop_strings": ("zz", "u")}),
        ("--keep-stop --stop u", {"stop_strings": "u", "keep_stop": True}),
    ],
)
def test_every_option_reaches_the_generator(sample, trained, typed, options):
    model = jaxlm.load(trained)
    expected = model.generate("the fox", 100, temperature=1.5, seed=5, **options)
    assert sample("-p", "the fox", "-t", "1.5", "-l", "100", *typed.split()).out == expected + "\n"
    assert expected != model.generate("the fox", 100, temperature=1.5, seed=5)


def test_output_is_what_would_be_printed_whole_or_not_at_all(sample, monkeypatch):
    argv = ["-p", "the fox", "-l", "300", "-n", "2", "-t", "0.5", "1"]
    printed = sample(*argv).out
    assert printed.count("--- temperature") == 4
    Path("old.txt").write_text("old")
    Path("link.txt").symlink_to("old.txt")
    for name in ("new.txt", "link.txt"):
        out, err = sample(*argv, "-o", name)
        assert (out, err.count("\n")) == ("", 1)
        assert Path(name).read_text() == printed
    assert Path("link.txt").is_symlink()
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["link.txt", "new.txt", "old.txt"]

    def interrupted(self, *arguments):
        yield "the first piece"
        raise KeyboardInterrupt

    monkeypatch.setattr(TextGenerator, "_cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(*argv, "-o", "old.txt")
    assert Path("old.txt").read_text() == printed
    assert len(list(Path.cwd().iterdir())) == 3


def test_a_disk_that_refuses_the_output_is_one_line(sample, monkeypatch):
    Path("old.txt").write_text("old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    out, err = sample("-l", "5", "-o", "old.txt", status=1)
    assert out == ""
    assert err.splitlines()[-1] == "error: output old.txt: cannot be written (No space left on device); nothing was"
    assert [path.name for path in Path.cwd().iterdir()] == ["old.txt"]
    assert Path("old.txt").read_text() == "old"


def test_json_is_a_line_a_text_with_all_that_repeats_it(sample, trained):
    model = jaxlm.load(trained)
    out = sample("-p", "The Fox", "-l", "80", "-n", "2", "-t", "0.5", "1", "--top-k", "9", "--stop", "q", "--json").out
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["temperature"], one["seed"]) for one in found] == [(0.5, 5), (0.5, 6), (1.0, 5), (1.0, 6)]
    for one in found:
        again = model.generate(
            one["prompt"],
            one["length"],
            **{name: one[name] for name in ("temperature", "seed", "top_k", "stop_strings")},
        )
        assert one["prompt"] + one["text"] == again
        expected = model.score(again)[len("the fox") - 1 :].sum(dtype=float)
        assert one["log_probability"] == pytest.approx(expected, rel=1e-6)
        assert (one["prompt"], one["top_k"], one["top_p"], one["stop_strings"]) == ("the fox", 9, None, ["q"])
        assert (one["run"], one["epoch"], one["mode"], one["mix_ngram"]) == (str(trained), 2, "window", 0)
    assert json.loads(sample("-l", "0", "--json").out)["log_probability"] == 0
    sample("-l", "9", "--json", "-o", "a.jsonl")
    assert json.loads(Path("a.jsonl").read_text())["seed"] == 5


def test_any_checkpoint_that_is_kept_generates(sample, trained):
    texts = {name: sample("-l", "60", "-t", "1", "--epoch", name) for name in ("1", "2", "last", "best")}
    assert texts["2"].out == texts["last"].out == texts["best"].out != texts["1"].out
    assert ", epoch 1 (loss " in texts["1"].err
    assert ", epoch 2 (best: loss " in texts["best"].err
    for epoch in (1, "1", np.int64(1)):
        assert jaxlm.load(trained, epoch=epoch).generate(None, 60, temperature=1, seed=5) + "\n" == texts["1"].out
    words = f"epoch: found 3, expected one whose checkpoint run {trained} has kept: 1, 2; the best and the last two"
    with pytest.raises(jaxlm.InputError, match=re.escape(words)):
        jaxlm.load(trained, epoch=3)
    for epoch in (0, 1.0, True, None, "x", "-1", "1.5"):
        with pytest.raises(jaxlm.InputError, match="epoch: found"):
            jaxlm.load(trained, epoch=epoch)


def test_lines_are_printed_one_below_the_other(sample, trained, monkeypatch):
    letters = "\nab"
    model = LanguageModel(len(letters), ModelConfig(2))
    params = jax.tree.map(np.zeros_like, jax.jit(model.init_params)(jax.random.key(0)))
    writer = TextGenerator(model, params, Vocab("char", tuple(letters)), False, "a", 7, "state")
    kept = jaxlm.Run.open(trained).generator()[1]
    monkeypatch.setattr("jaxlm.runs.mixing.generator_with", lambda *given, **named: (writer, kept))
    out = sample("--lines", "20").out
    assert len(out.splitlines()) == 20
    assert all(re.fullmatch("[ab]+", line) for line in out.splitlines())
    assert out.startswith(sample("--lines", "3").out)
    two = sample("--lines", "2", "-t", "0.5", "1").out.splitlines()
    assert [two[0], two[3]] == ["--- temperature 0.5", "--- temperature 1"]
    assert len(two) == 6
    begun = sample("--lines", "9", "-p", "ab").out.splitlines()
    assert len(begun) == 9
    assert all(re.fullmatch("ab[ab]*", line) for line in begun)


def on_a_terminal(*argv, **environment):
    """What a command shows on a terminal, and its stderr."""
    terminal, output = os.openpty()
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"} | environment
    done = subprocess.run(
        [sys.executable, "-m", "jaxlm", *argv],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=output,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    os.close(output)
    assert done.returncode == 0, done.stderr
    with os.fdopen(terminal, "rb") as shown:
        return shown.read1().decode().replace("\r\n", "\n"), done.stderr


def test_probabilities_are_tints_where_the_terminal_has_colours():
    argv = ["sample", "--run", "nietzsche", "--seed", "5", "-p", "the truth", "-l", "80", "-t", "1.5"]
    argv.append("--show-probabilities")
    model = jaxlm.load("nietzsche")
    text = model.generate("the truth", 80, temperature=1.5, seed=5)
    shown, said = on_a_terminal(*argv, TERM="xterm-256color")
    assert re.sub("\x1b\\[[0-9]*m", "", shown) == text + "\n"
    assert "tints: " in said
    expected = "the truth"
    for character, score in zip(text[9:], model.score(text)[8:], strict=True):
        share = np.exp(score)
        colour = "" if share >= 0.5 else "32" if share >= 0.1 else "33" if share >= 0.01 else "31"
        expected += f"\x1b[{colour}m{character}\x1b[0m" if colour else character
    assert shown == expected + "\n"
    assert "\x1b[31m" in shown
    plain, said = on_a_terminal(*argv, TERM="xterm-256color", NO_COLOR="1")
    assert plain == text + "\n"
    assert "no tints: standard output is no terminal with colours" in said


def test_an_evaluated_text_is_tinted_by_what_each_character_scored(trained, tmp_path):
    text = "the lazy fox jumps over the quick god. pack my jugs!"
    (tmp_path / "a.txt").write_text(text)
    argv = ["evaluate", "--run", str(trained), "--corpus", str(tmp_path / "a.txt"), "--show-probabilities"]
    shown, said = on_a_terminal(*argv, TERM="xterm-256color")
    _, tinted = shown.split("--- all 52 characters, as the model read them\n")
    assert "tints: " in said
    expected = "t"  # Nothing came before it.
    for character, score in zip(text[1:], jaxlm.load(trained).score(text), strict=True):
        share = np.exp(score)
        colour = "" if share >= 0.5 else "32" if share >= 0.1 else "33" if share >= 0.01 else "31"
        expected += f"\x1b[{colour}m{character}\x1b[0m" if colour else character
    assert tinted == expected + "\n"
    plain, said = on_a_terminal(*argv, "-l", "10", TERM="xterm-256color", NO_COLOR="1")
    assert plain.endswith("--- the first 10 of 52 characters, as the model read them\nthe lazy f\n")
    assert "no tints: standard output is no terminal with colours" in said


def test_what_an_evaluated_text_shows_without_being_shown_is_refused(trained, corpus, capsys):
    argv = ["evaluate", "--run", str(trained), "--corpus", str(corpus)]
    assert commands.main([*argv, "-l", "10"]) == 2
    assert commands.main([*argv, "--show-probabilities", "--protocol", "window-60"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    idle, odd = err.splitlines()
    assert idle.startswith("error: length: 10 has no effect without show_probabilities; ")
    assert odd.startswith("error: show_probabilities: found True, expected another protocol than window-60")


def test_surprises_are_those_of_whole_characters_and_of_what_came_before():
    for kind, source in (("char", "ein könig"), ("byte", ""), ("word", "ein könig ein könig und")):
        vocab = Vocab.build(kind, source, words=2)
        model = LanguageModel(len(vocab), ModelConfig(8))
        params = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(model.init_params)(jax.random.key(1)))
        writer = TextGenerator(model, params, vocab, False, "ein", 7, "state")
        found = writer.surprises("ein", " könig")
        assert "".join(characters for characters, _ in found) == " könig"
        assert [characters for characters, _ in found] == ([" ", "könig"] if kind == "word" else list(" könig"))
        total = writer.score("ein könig")[len(vocab.encode("ein")) - 1 :].sum(dtype=float)
        assert -sum(surprise for _, surprise in found) == pytest.approx(total, rel=1e-6)
        assert writer.surprises("ein", "") == []


def test_no_file_has_a_name_with_a_nul():
    with pytest.raises(InputError, match="expected a file's name"):
        target("save", "a\0b")
