"""Mistakes on the command line, and the same ones through Python: one clear line, and nothing written."""

import dataclasses
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from reference import KneserNey

import jaxlm
from jaxlm.cli import commands, guard, parser, programs
from jaxlm.cli.options import COMMANDS
from jaxlm.config import EvaluateConfig, ModelConfig, SampleConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn import dynamic, scoring
from jaxlm.runs.evaluation import BASELINE_ORDER
from jaxlm.runs.storage import Progress
from jaxlm.text import corpus as text
from jaxlm.text.batches import split_text
from jaxlm.text.corpus import Published

ROOT = Path(__file__).parents[1]

LATIN = "Ein Café ".encode("latin1")
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def place(tmp_path, monkeypatch, trained):
    """A working directory with every bad thing in it, and a copy of a good run."""
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "good.txt": b"All is well that ends well. " * 20,
        "empty.txt": b"",
        "bom.txt": BOM,
        "short.txt": b"x" * 60,
        "one.txt": b"x",
        "greek.txt": "theβ§β".encode(),
        "latin.txt": LATIN,
        "latin-bom.txt": BOM + LATIN,
        "surrogate.txt": b"ab\xed\xa0\x80cd",
        "surrogate-bom.txt": BOM + b"ab\xed\xa0\x80cd",
        "binaries/a.png": b"\x89PNG",
        "binaries/.hidden.txt": b"text",
        "empties/a.txt": b"",
        "empties/b.md": b"",
        "mixed/good.txt": b"text",
        "mixed/latin.md": LATIN,
        "checkpoints/foreign/notes.txt": b"mine",
        "checkpoints/file": b"mine",
        "nothing/here": b"mine",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.mkfifo("fifo")
    Path("dangling.txt").symlink_to("nowhere")
    # The run, as if it had been trained here.
    shutil.copy(trained.parent / "fox.txt", "fox.txt")
    shutil.copytree(trained, "checkpoints/fox")
    change_settings(corpus=("fox.txt",))
    return tmp_path


def change_settings(**settings):
    """Has the run say that it was trained with other settings."""
    run = jaxlm.Run.open("checkpoints/fox")
    run.write_record(dataclasses.replace(run.record, config=dataclasses.replace(run.record.config, **settings)))


def listing():
    """Everything in the working directory and the cache, with size and time of change."""
    places = [Path.cwd(), Path(os.environ["XDG_CACHE_HOME"])]
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns)
        for place in places
        for path in [place, *place.rglob("*")]
    }


def refused(capsys, command, *argv, status=2):
    """Runs a command that must be refused in one line of stderr, without a trace; returns that line."""
    before = listing()
    capsys.readouterr()
    assert command([str(arg) for arg in argv]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert listing() == before
    return err.removeprefix("error: ").removesuffix("\n")


def train(*corpus, run=None, checkpoints="checkpoints", **settings):
    return jaxlm.train(corpus, run=run, checkpoints=checkpoints, reporter=None, **settings)


def fox(*arguments, **settings):
    return jaxlm.load("checkpoints/fox").generate(*arguments, **settings)


def fox_score(*arguments, **settings):
    return jaxlm.load("checkpoints/fox").score(*arguments, **settings)


def hold_out(share):
    """Has the run say that it held out the end of its corpus."""
    change_settings(validation=share)


WITH = ("--corpus", "good.txt")

# The command, the same in Python, and part of the message: one or two for each layer that can refuse.
MISTAKES = {
    "a value": (
        commands.train,
        "--corpus good.txt --hidden 10000000",
        lambda: train("good.txt", model=ModelConfig(hidden=10**7)),
        "hidden: found 10000000, expected a whole number from 1 to 65536",
    ),
    "two values that do not go together": (
        commands.evaluate,
        "--corpus good.txt --dynamic --protocol cold-256",
        lambda: EvaluateConfig(dynamic=True, protocol="cold-256"),
        "dynamic: found True, expected False with protocol=cold-256; choose protocol=carried",
    ),
    "no value where one is needed": (
        commands.sample,
        "--temperature",
        lambda: SampleConfig(temperature=()),
        "temperature: found (), expected at least one number",
    ),
    "a file that is not there": (
        commands.train,
        "--corpus good.txt missing.txt",
        lambda: train("good.txt", "missing.txt"),
        "corpus missing.txt: found nothing there, expected a text file",
    ),
    "a file that is no text": (
        commands.train,
        "--corpus mixed",
        lambda: train("mixed"),
        "corpus mixed/latin.md: found byte 0xE9 at offset 7, expected UTF-8",
    ),
    "a text that is too short": (
        commands.train,
        "--corpus good.txt --length 560",
        lambda: train("good.txt", length=560),
        "corpus: found a text of only 560 tokens, expected at least 561",
    ),
    "a folder of runs that is none": (
        commands.train,
        "--corpus good.txt --checkpoints good.txt/deep/down --run new",
        lambda: train("good.txt", checkpoints="good.txt/deep/down", run="new"),
        "checkpoints good.txt/deep/down: ",
    ),
    "a run's name that is taken": (
        commands.train,
        "--corpus good.txt --run foreign",
        lambda: train("good.txt", run="foreign"),
        "run checkpoints/foreign: found something that is not a run there",
    ),
    "a run that is none": (
        commands.sample,
        "--run foreign",
        lambda: jaxlm.load("foreign"),
        "run checkpoints/foreign: found a folder without config.json, expected the directory of a run",
    ),
    "a run that does not exist": (
        commands.train,
        "--resume --run foxx",
        lambda: jaxlm.resume("checkpoints/foxx"),
        "run foxx: not found in checkpoints; there are fox, nietzsche; did you mean fox?",
    ),
    "fewer epochs than trained": (
        commands.train,
        "--resume --run fox --epochs 1",
        lambda: jaxlm.resume("checkpoints/fox", epochs=1),
        "epochs: found 1, but run checkpoints/fox has trained 2 already",
    ),
    "a library that is not here": (
        commands.sample,
        "--impl cudnn",
        lambda: jaxlm.load("checkpoints/fox", impl="cudnn"),
        "impl: found cudnn on a machine whose device is CPU, expected an NVIDIA GPU and jax[cuda]; choose auto",
    ),
    "letters that the model has never seen": (
        commands.sample,
        "--prompt theβ§β --temperature 0.5 1.0",
        lambda: fox("theβ§β"),
        "prompt: found characters that the model has never seen: 'β' (U+03B2), '§' (U+00A7); expected",
    ),
    "a text without a window": (
        commands.evaluate,
        "--corpus short.txt --protocol window-60",
        lambda: scoring.score_windows(None, None, np.zeros(60, int)),
        "text: found only 60 of the model's tokens in it, expected 61 or more",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_in_the_terminal_and_the_same_words_in_python(place, capsys, mistake):
    if "library" in mistake and jax.default_backend() != "cpu":
        pytest.skip("this machine may have the library")
    command, typed, call, words = MISTAKES[mistake]
    line = refused(capsys, command, *typed.split(" "))
    assert words in line
    before = listing()
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        call()
    assert isinstance(caught.value, InputError)
    assert str(caught.value) == line
    assert listing() == before


# Refused by one layer each, and read by no other test here.
REFUSED = {
    "--corpus dangling.txt": "dangling.txt: found nothing",
    f"--corpus {'x' * 300}": "found nothing there",
    "--corpus empty.txt": "corpus empty.txt: found no text",
    "--corpus bom.txt": "corpus bom.txt: found no text",
    "--corpus empties": "corpus empties: found no text",
    "--corpus short.txt": "corpus: found a text of only 60 tokens, expected at least 61",
    "--corpus binaries": "corpus binaries: found a folder without text",
    "--corpus fifo": "corpus fifo: found a pipe that nothing was written to",
    "--corpus /dev/null": "corpus /dev/null: found something that",
    "--corpus good.txt --checkpoints good.txt": "checkpoints good.txt: ",
    "--corpus good.txt --run good.txt/new": "checkpoints good.txt: ",
    "--corpus good.txt --run file": "run checkpoints/file: found something that is not a run there",
    "--corpus good.txt --run fox": "run checkpoints/fox: found a run there",
    "--corpus good.txt --run=": "run: found '', expected a name, or a path",
    "--corpus good.txt --impl cudnn": "impl: found cudnn on a machine whose device is CPU",
    "--resume --run fox --impl cudnn": "impl: found cudnn on a machine whose device is CPU",
    "--resume --run foreign": "run checkpoints/foreign: found a folder without config.json",
    "--resume --run file": "run checkpoints/file: found a file, expected the directory of a run",
    "--resume --size small": "size: 'small' has no effect with --resume",
    "--recipe book --size small": "size: 'small' has no effect in the book recipe",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_trained_on_or_into_is_refused_before_anything_is_written(place, capsys, typed):
    if "cudnn" in typed and jax.default_backend() != "cpu":
        pytest.skip("this machine may have the library")
    assert REFUSED[typed] in refused(capsys, commands.train, *typed.split(" "))


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        (commands.sample, "--prompt=", "prompt: found no text"),
        (commands.sample, "--prompt §§ --unknown skip", "prompt: found no text that the model knows"),
        (commands.sample, "--prompt \udce9", "(U+DCE9)"),
        (commands.evaluate, "--corpus greek.txt", "'β' (U+03B2), '§' (U+00A7); expected"),
        (commands.evaluate, "--corpus one.txt", "text: found only 1 of the model's tokens in it, expected 2 or more"),
        (commands.evaluate, "--corpus", "--corpus: expected a value after it; see"),
        (commands.evaluate, "--corpus good.txt --impl cudnn", "impl: found cudnn on a machine whose device is CPU"),
        (
            commands.evaluate,
            "--corpus good.txt --run other",
            "run other: not found in checkpoints; there are fox, nietzsche",
        ),
    ],
)
def test_what_cannot_be_generated_or_measured_is_refused(place, capsys, command, typed, words):
    if "cudnn" in typed and jax.default_backend() != "cpu":
        pytest.skip("this machine may have the library")
    assert words in refused(capsys, command, *typed.split(" "))


UNREADABLE = {
    "--temprature 1": "--temprature: no such option; did you mean --temperature?",
    "--temp 1": "--temp: no such option; did you mean --temperature?",  # Not taken for it.
    "-length 9": "-length: no such option; did you mean --length?",
    "--xyz=1": "--xyz: no such option;",
    "-x": "-x: no such option;",
    "--length warm": "--length: found 'warm', expected a whole number;",
    "--length=": "--length: found '', expected a whole number;",
    "-lwarm": "LENGTH: found 'warm', expected a whole number;",
    "--temperature 0.5 --length": "--length: expected a value after it;",
    "--temperature warm": "--temperature: found 'warm', expected a number;",
    "--seed 1.5": "--seed: found '1.5', expected a whole number;",
    "--checkpoints": "--checkpoints: expected a value after it;",
    "--run --seed 3": "--run: expected a value after it, found --seed; if that is the value, type --run=--seed;",
    "--impl fast": "--impl: found 'fast', expected one of auto, scan, fused, cudnn;",
}


@pytest.mark.parametrize("command", [commands.train, commands.sample])
@pytest.mark.parametrize("typed", UNREADABLE)
def test_a_flag_that_cannot_be_read_is_explained(place, capsys, command, typed):
    line = refused(capsys, command, *typed.split())
    name = command.__name__
    words = UNREADABLE[typed].replace("LENGTH", "--sample-length" if name == "train" else "--length")
    assert line == f"{words} see python -m jaxlm {name} --help"


def test_words_without_a_flag_are_the_corpus_and_nothing_else(place, capsys):
    assert "missing.txt: found nothing" in refused(capsys, commands.train, "good.txt", "--epochs", "1", "missing.txt")
    line = refused(capsys, commands.train, "good.txt", "--corpus", "good.txt")
    assert line == "good.txt: given in addition to --corpus; use one or the other; see python -m jaxlm train --help"
    assert refused(capsys, commands.sample, "length", "9").startswith(
        "length: expected an option here; did you mean --length?"
    )
    assert refused(capsys, commands.evaluate, "good.txt").startswith("good.txt: expected an option before it")
    assert refused(capsys, commands.sample, "--", "--seed").startswith("--seed: expected an option here")


def test_a_switch_takes_no_value(place, capsys):
    assert refused(capsys, commands.train, "--resume=yes").startswith("--resume: found 'yes', expected no value;")


@pytest.mark.parametrize(
    ("command", "argv", "given"),
    [
        ("train", "a.txt --epochs 3 b.txt", {"corpus": ("a.txt", "b.txt"), "epochs": 3}),
        ("train", "--corpus a.txt --corpus b.txt c.txt", {"corpus": ("a.txt", "b.txt", "c.txt")}),
        ("train", "-- --a.txt", {"corpus": ("--a.txt",)}),
        ("train", "--temperature 0.5 -1 a.txt", {"temperature": (0.5, -1.0), "corpus": ("a.txt",)}),
        ("train", "--temperature --no-lowercase", {"temperature": (), "lowercase": False}),
        ("train", "--lowercase --resume --no-resume", {"lowercase": True, "resume": False}),
        ("sample", "-p the -t 0.2 1 -n 3 -l9", {"prompt": "the", "temperature": (0.2, 1.0), "count": 3, "length": 9}),
        ("sample", "-t.5 -t=1 --length=9 -l 8", {"temperature": (0.5, 1.0), "length": 8}),
        ("sample", "--prompt --the", {"prompt": "--the"}),
        ("sample", "-p -", {"prompt": "-"}),
        ("sample", "--prompt=--seed --seed 3", {"prompt": "--seed", "seed": 3}),
        ("sample", "--prompt=a=b", {"prompt": "a=b"}),
        ("runs", "--json -h", {"json": True, "help": True}),
        ("export", "nietzsche a.keras", {"run": "nietzsche", "destination": "a.keras"}),
        ("export", "--run nietzsche a.keras", {"run": "nietzsche", "destination": "a.keras"}),
        ("import", "a.keras --chars b.txt", {"file": "a.keras", "chars": "b.txt"}),
    ],
)
def test_a_command_line_is_read(command, argv, given):
    assert parser.read(COMMANDS[command], argv.split()) == given


@pytest.mark.parametrize(
    ("command", "flag", "choices"),
    [
        (commands.train, "recipe", "book, stream"),
        (commands.train, "size", "small, medium, large"),
        (commands.sample, "mode", "window, state"),
        (commands.evaluate, "protocol", "carried, cold-256, window-60"),
    ],
)
def test_a_word_that_is_no_choice_is_answered_with_those_there_are(place, capsys, command, flag, choices):
    for word in ("cold", "None"):
        line = refused(capsys, command, f"--{flag}", word)
        assert line.startswith(f"--{flag}: found {word!r}, expected one of {choices}; see python ")


def test_a_file_that_may_not_be_read(place, capsys, monkeypatch):
    open_file = os.open

    def forbidden(path, *arguments, **keywords):
        if Path(path).name == "good.txt":
            raise PermissionError(13, "Permission denied", path)
        return open_file(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", forbidden)
    assert "corpus good.txt: cannot be read (Permission denied)" in refused(capsys, commands.train, *WITH)


def test_a_folder_that_may_not_be_read(place, capsys, monkeypatch):
    scandir = os.scandir

    def forbidden(path="."):
        if os.fspath(path) == "mixed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    line = refused(capsys, commands.train, "--corpus", "mixed")
    assert "corpus mixed: cannot be read (Permission denied)" in line


def test_a_corpus_that_cannot_be_downloaded(place, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url, 1, "")})
    monkeypatch.setenv("no_proxy", "*")
    line = refused(capsys, commands.train, "--corpus", "nietzsche")
    assert line.startswith(f"corpus nietzsche: could not be fetched from {url} (")
    assert "Connection refused" in line


def test_a_path_with_a_line_break_takes_one_line(place, capsys):
    assert "corpus a b: found nothing there" in refused(capsys, commands.train, "--corpus", "a\nb")


@pytest.mark.parametrize("checkpoints", ["nothing", "missing", "good.txt"])
def test_no_run_to_resume(place, capsys, checkpoints):
    line = refused(capsys, commands.train, "--checkpoints", checkpoints, "--resume")
    assert line.startswith(f"checkpoints {checkpoints}: found no run there; train one with")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--hidden 17", "; found hidden 17 instead of 16; "),
        ("--hidden 17 --epochs 9 --lowercase", "; found hidden 17 instead of 16; "),
        ("--stride 1 --seed 5", "; found stride 1 instead of 3, seed 5 instead of 0; "),
        ("--no-lowercase", "; found lowercase False instead of True; "),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_resumed_run_keeps_its_settings(place, capsys, typed, words, named):
    line = refused(capsys, commands.train, "--resume", *(["--run", "fox"] if named else []), *typed.split())
    assert line.startswith("run checkpoints/fox: a resumed run keeps its settings, except ")
    assert words in line


@pytest.mark.parametrize("named", [("--run", "./fox"), ("--run", "fox", "--checkpoints", ".")])
def test_a_run_that_is_named_by_a_path_is_that_run(place, capsys, named):
    shutil.copytree("checkpoints/fox", "fox")  # Of the same name as one in checkpoints.
    assert commands.train(["--resume", *named, "--epochs", "3", "--temperature"]) == 0
    assert [jaxlm.Run.open(path).metrics()[-1]["epoch"] for path in ("fox", "checkpoints/fox")] == [3, 2]
    capsys.readouterr()
    assert commands.evaluate([*named, "--corpus", "good.txt"]) == 0
    assert capsys.readouterr().out.startswith("Run:                 fox, epoch 3 ")


def test_a_resumed_run_keeps_its_corpus(place, capsys):
    content = bytearray(Path("fox.txt").read_bytes())
    content[500] ^= 2
    Path("fox.txt").write_bytes(content)
    line = refused(capsys, commands.train, "--resume")
    assert line.startswith("corpus fox.txt: found ")
    assert "run checkpoints/fox was trained on" in line
    with pytest.raises(ValueError, match="not the same text") as caught:
        jaxlm.resume("checkpoints/fox")
    assert str(caught.value) == line
    assert "corpus good.txt: found 560 characters, not the same" in refused(capsys, commands.train, "--resume", *WITH)
    Path("fox.txt").unlink()
    assert "corpus fox.txt: found nothing there" in refused(capsys, commands.train, "--resume")


def test_unknown_characters_can_be_skipped(place, capsys):
    argv = ["--length", "7", "--seed", "1", "--mode", "state"]
    assert commands.sample(["--prompt", "T§he β", "--unknown", "skip", *argv]) == 0
    skipped = capsys.readouterr().out
    assert commands.sample(["--prompt", "the ", *argv]) == 0
    out, err = capsys.readouterr()
    assert out == skipped
    assert out.startswith("the ")
    assert len(out) == len("the ") + 7 + len("\n")
    assert re.fullmatch(r"checkpoints/fox, epoch [12] \(best: loss \d\.\d{4}\), seed 1\n", err)


def test_a_loss_of_zero_is_a_loss(place, capsys, monkeypatch):
    generator = jaxlm.Run.generator
    progress = Progress(step=3, epoch=1, loss=0.0)
    monkeypatch.setattr(jaxlm.Run, "generator", lambda run, *given: (generator(run, *given)[0], progress))
    assert commands.sample(["--length", "0", "--seed", "1"]) == 0
    assert capsys.readouterr().err == "checkpoints/fox, epoch 1 (best: loss 0.0000), seed 1\n"


def test_warnings_are_told_once_however_often_a_command_is_called(place, capsys):
    for _ in range(3):
        guard.quiet()
    logging.getLogger("jaxlm").warning("a %s", "warning")
    assert capsys.readouterr().err == "warning: a warning\n"


def test_a_warning_is_told_once_in_a_process_of_its_own():
    code = "from jaxlm.cli import guard; guard.quiet(); import logging; logging.getLogger('jaxlm').warning('a warning')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "warning: a warning\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_option_with_its_choices_and_says_its_default_once(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    assert commands.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    options = list(parser.options(COMMANDS[name].defaults({})))
    assert sorted(re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", shown, re.MULTILINE)) == sorted(o.flag for o in options)
    for option in options:
        default = f" (default: {option.shown_default})" if option.shown_default else ""
        assert f" {option.shown} {option.about.help}{default}" in words
        assert all(choice in option.shown for choice in option.choices)
    assert words.count("default") == sum(bool(option.shown_default) for option in options)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("argv", [[], *([name, "-h"] for name in COMMANDS)], ids=" ".join)
def test_help_fits_the_terminal(capsys, monkeypatch, columns, argv):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert commands.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    # A word that is longer than a line, such as all choices of an option, is broken.
    assert max(map(len, lines)) <= columns
    assert len(lines) < {20: 325, 40: 185, 80: 120, 200: 110}[columns]


def test_help_shows_the_defaults_of_the_recipe_and_size_that_are_asked_for(capsys):
    assert commands.train(["--recipe", "stream", "--size", "medium", "--help", "--epochs", "3"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for said in ("--hidden N units per LSTM layer (default: 256)", "peak learning rate (default: 0.01)"):
        assert said in words
    assert "(default: medium)" in words
    assert re.search(r"--lowercase, --no-lowercase lowercase [a-z; ]* \(default: no\)", words)


@pytest.mark.parametrize("argv", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)], ids=" ".join)
def test_help_waits_for_no_library(argv):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jaxlm", *argv], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "jaxlm" in imported
    assert (
        imported & {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "rich", "platformdirs", "charset_normalizer"}
        == set()
    )


def test_without_a_command_it_says_what_it_can_do(capsys):
    assert commands.main([]) == 0
    shown = capsys.readouterr().out
    assert commands.main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxlm {jaxlm.__version__}\n"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trian", "no such command; did you mean train?"),
        ("xyzzy", "no such command;"),
        (
            "--corpus",
            "expected a command first, one of train, sample, write, evaluate, plot, page, runs, export, import;",
        ),
    ],
)
def test_another_command_is_answered_with_the_nearest(place, capsys, word, answer):
    assert refused(capsys, commands.main, word, "a.txt") == f"{word}: {answer} see python -m jaxlm --help"


def test_a_program_s_own_name_is_in_its_messages(capsys, monkeypatch):
    monkeypatch.setattr(programs, "_own_process", lambda: None)  # This process is not theirs.
    for path, program, told in (
        ("/usr/bin/jaxlm", programs.main, "jaxlm train --help"),
        ("clone/train.py", programs.train, "python train.py --help"),
        ("/x/jaxlm/__main__.py", programs.main, "python -m jaxlm train --help"),
    ):
        monkeypatch.setattr(sys, "argv", [path, *(["train"] if program is programs.main else []), "--hiden", "3"])
        assert program() == 2
        assert capsys.readouterr().err == f"error: --hiden: no such option; did you mean --hidden? see {told}\n"


COLLECTS = """
import atexit, gc, sys
from jaxlm.cli import programs
before, frozen = gc.get_threshold(), gc.get_freeze_count()
{setting}
atexit.register(lambda: print(gc.get_threshold()[0], before[0], gc.get_freeze_count() > frozen))
sys.argv = ["jaxlm", "--version"]
programs.main()
"""


def test_only_a_program_s_own_process_looks_for_garbage_rarely():
    for setting, is_own in (("", True), ("sys.ps1 = '> '", False)):
        code = COLLECTS.format(setting=setting)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        now, before, frozen = done.stdout.splitlines()[-1].split()
        assert now == (str(programs.COLLECT_AFTER) if is_own else before)
        assert frozen == str(is_own)


def test_a_library_that_is_not_installed_is_one_line(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxlm.runs.trainer", None)
    monkeypatch.delattr("jaxlm.runs.trainer")
    line = refused(capsys, commands.train, *WITH, status=1)
    assert line.startswith("jaxlm.runs.trainer is not installed, which jaxlm needs; install it: ")


def test_a_run_that_does_not_exist_is_answered_with_those_that_do(place, capsys):
    there = "there are fox, nietzsche"
    for typed, end in (
        ("foxy", f"run foxy: not found in checkpoints; {there}; did you mean fox?"),
        ("Foxes", f"run Foxes: not found in checkpoints; {there}; did you mean fox?"),
        ("nietzche", f"run nietzche: not found in checkpoints; {there}; did you mean nietzsche?"),
        ("xyz", f"run xyz: not found in checkpoints; {there}"),
        ("mixed/fox", "run fox: not found in mixed; there are no runs"),
        ("nowhere/fox", "run fox: not found in nowhere; there is no such folder"),
        (f"{'x' * 300}/fox", f"run fox: not found in {'x' * 300}; there is no such folder"),
    ):
        assert refused(capsys, commands.sample, "--run", typed) == end
        with pytest.raises(InputError) as caught:
            jaxlm.load(typed)
        assert str(caught.value) == end


def test_runs_are_found_where_the_environment_says(place, capsys, monkeypatch):
    Path("checkpoints").rename("mine")
    monkeypatch.setenv("JAXLM_CHECKPOINTS", "mine")
    argv = ["--length", "5", "--seed", "1"]
    assert commands.sample(argv) == 0
    assert capsys.readouterr().err.startswith("mine/fox, ")
    assert commands.sample([*argv, "--run", "fox"]) == 0
    assert capsys.readouterr().err.startswith("mine/fox, ")
    assert jaxlm.load().generate(None, 5, seed=1) == jaxlm.load("fox").generate(None, 5, seed=1)
    Path("mine").rename("other")
    assert commands.sample([*argv, "--checkpoints", "other"]) == 0
    assert capsys.readouterr().err.startswith("other/fox, ")


def test_runs_are_listed_with_the_newest_first(place, capsys, caplog):
    Path("checkpoints/broken").mkdir()
    Path("checkpoints/broken/config.json").write_text("{")
    assert commands.runs(["--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: run checkpoints/broken: ")
    assert err.count("\n") == 1
    mine, bundled = sorted(json.loads(out), key=lambda run: run["name"])
    run = jaxlm.Run.open("checkpoints/fox")
    losses = [json.loads(line)["loss"] for line in Path("checkpoints/fox/metrics.jsonl").read_text().splitlines()]
    assert mine == {
        "name": "fox",
        "path": "checkpoints/fox",
        "corpus": "fox",
        "recipe": "book",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.generator()[0].params)),
        "epoch": 2,
        "epochs": 2,
        "loss": pytest.approx(min(losses)),
        "bytes": sum(file.stat().st_size for file in Path("checkpoints/fox").rglob("*") if file.is_file()),
        "created": run.record.created,
    }
    assert (bundled["name"], bundled["parameters"], bundled["epochs"]) == ("nietzsche", 982754, 22)
    assert [run["created"] for run in json.loads(out)] == sorted([mine["created"], bundled["created"]], reverse=True)
    assert commands.runs([]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "CORPUS", "RECIPE", "PARAMETERS", "EPOCHS", "BEST", "LOSS", "SIZE", "CREATED"]
    [row] = [row.split() for row in rows if row.startswith("fox ")]
    assert row[:6] == ["fox", "fox", "book", f"{mine['parameters']:,}", "2/2", f"{mine['loss']:.4f}"]
    assert row[-1] == mine["created"][:10]


def test_a_run_of_the_bundled_model_s_name_hides_it(place, capsys):
    shutil.copytree("checkpoints/fox", "checkpoints/nietzsche")
    assert commands.runs(["--json"]) == 0
    paths = {run["path"] for run in json.loads(capsys.readouterr().out)}
    assert paths == {"checkpoints/fox", "checkpoints/nietzsche"}
    assert len(jaxlm.load("nietzsche").vocab) == len(jaxlm.load("fox").vocab)


def test_restating_a_run_s_own_settings_is_no_change(place, capsys):
    settings = ["--layers", "2", "--dropout", "0.3", "--tokens", "word", "--words", "5", "--length", "4"]
    small = ["--hidden", "4", "--batch", "32", "--temperature"]
    assert commands.train([*WITH, "--run", "two", "--epochs", "1", *settings, *small]) == 0
    assert commands.train(["--resume", "--run", "two", "--epochs", "2", *settings[:4], *settings[6:]]) == 0
    assert "Epoch 2/2  loss" in capsys.readouterr().out


def test_several_temperatures_are_shown_one_after_the_other(place, capsys):
    assert commands.sample(["--temperature", "0", "0.5", "--length", "5", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    seed_text = jaxlm.Run.open("checkpoints/fox").record.seed_text
    texts = [fox(None, 5, temperature=temperature, seed=3) for temperature in (0, 0.5)]
    assert out == f"--- temperature 0\n{texts[0]}\n--- temperature 0.5\n{texts[1]}\n"
    assert all(written.startswith(seed_text) for written in texts)


def test_several_texts_are_shown_with_the_seeds_that_repeat_them(place, capsys):
    arguments = ["--temperature", "0.3", "1", "--length", "5", "--seed", "4294967295", "--count", "2"]
    assert commands.sample([*arguments, "--prompt", "the "]) == 0
    expected = ""
    for temperature in ("0.3", "1"):
        for seed in (4294967295, 0):
            text = fox("the ", 5, temperature=float(temperature), seed=seed)
            expected += f"--- temperature {temperature}, seed {seed}\n{text}\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("impl", ["scan", "fused"])
def test_the_reference_and_what_is_faster_write_the_same(place, capsys, monkeypatch, impl):
    written_with, texts = [], TextGenerator.texts
    monkeypatch.setattr(
        TextGenerator, "texts", lambda self, config: written_with.append(self.model.impl) or texts(self, config)
    )
    assert commands.sample(["--impl", impl, "--length", "40", "--seed", "6", "--temperature", "0.7"]) == 0
    assert written_with == [impl]
    assert capsys.readouterr().out == fox(None, 40, temperature=0.7, seed=6) + "\n"


def test_the_largest_temperatures_draw_evenly(place, capsys):
    assert commands.sample(["--temperature", "1e39", "--length", "200", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert len(set(out)) > 20


def test_no_corpus_and_no_network_is_said_in_one_line(place, capsys, monkeypatch):
    url = "http://127.0.0.1:9/nietzsche.txt"  # The port of `discard`, which is closed.
    monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url, 10, "x")})
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(text, "_embedded", lambda: "What is a class? " * 20)
    assert commands.train(["--epochs", "1", "--hidden", "4", "--batch", "64", "--temperature"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: corpus nietzsche: could not be fetched from http://127.0.0.1:9/nietzsche.txt (")
    assert err.endswith("Training on python-docs, Python's own help topics, instead.\n")
    assert err.count("\n") == 1
    assert "Corpus:              python-docs, 340 characters" in out
    assert Path("checkpoints/python-docs-book").is_dir()


def measured(capsys, *argv):
    """What `evaluate` prints: each fact by its name, the figures as lists."""
    capsys.readouterr()
    assert commands.evaluate([str(arg) for arg in argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {line[:21].strip().rstrip(":"): line[21:] for line in out.splitlines()}


def figures(scores, characters):
    """The same from a text's scores, and the characters in a token."""
    loss = -scores.mean(dtype=float)
    return {
        "Nats per character": f"{loss / characters:.4f}",
        "Bits per character": f"{loss / characters / np.log(2):.4f}",
        "Perplexity": f"{np.exp(loss):.4f}",
        "Tokens scored": f"{len(scores):,}",
    }


def test_a_model_is_measured_on_any_text(place, capsys):
    facts = measured(capsys, "--corpus", "good.txt")
    assert re.fullmatch(r"checkpoints/fox, epoch [12] \(best: loss \d\.\d{4}\)", facts["Run"])
    assert facts["Text"] == "good, 560 characters"
    assert facts["Protocol"] == "carried"
    assert figures(fox_score("All is well that ends well. " * 20), 1).items() <= facts.items()
    assert re.fullmatch(r"[\d,]+ +\(once compiled\)", facts["Tokens per second"])
    assert "Nats per token" not in facts
    assert measured(capsys, "--corpus", "greek.txt", "--unknown", "skip")["Tokens scored"] == "2"
    assert "which the run learned from" in measured(capsys, "--corpus", "fox.txt")["Text"]


@pytest.mark.parametrize("protocol", scoring.PROTOCOLS)
def test_each_protocol_is_shown_with_its_own_figures(place, capsys, protocol):
    model = jaxlm.load("checkpoints/fox")
    scores = scoring.PROTOCOLS[protocol](
        model.model, model.params, model.vocab.encode("all is well that ends well. " * 20)
    )
    facts = measured(capsys, "--corpus", "good.txt", "--protocol", protocol)
    assert facts["Protocol"] == protocol
    assert figures(scores, 1).items() <= facts.items()


@pytest.mark.parametrize("impl", ["scan", "fused"])
def test_a_model_is_measured_on_what_was_held_out(place, capsys, monkeypatch, impl):
    hold_out(0.1)
    scored_with, score = [], scoring.score_carried
    monkeypatch.setitem(
        scoring.PROTOCOLS, "carried", lambda model, *rest, **more: scored_with.append(model.impl) or score(model, *rest)
    )
    facts = measured(capsys, "--impl", impl)
    assert set(scored_with) == {impl}
    assert facts["Text"] == "the end of fox, held out from training, 104 characters"
    held_out = split_text(Path("fox.txt").read_text().lower(), 0.1)[1]
    assert figures(jaxlm.load("checkpoints/fox", impl=impl).score(held_out), 1).items() <= facts.items()


def test_dynamic_evaluation_is_shown_beside_static(place, capsys):
    hold_out(0.1)
    model = jaxlm.load("checkpoints/fox")
    learned, held_out = (model.vocab.encode(part) for part in split_text(Path("fox.txt").read_text().lower(), 0.1))
    squares = dynamic.mean_squares(model.model, model.params, learned)
    for argv, ids in (
        ([], held_out),
        (["--corpus", "good.txt"], model.vocab.encode("all is well that ends well. " * 20)),
    ):
        scores = [
            scoring.score_carried(model.model, model.params, ids),
            dynamic.score_dynamic(model.model, model.params, squares, ids),
        ]
        facts = measured(capsys, "--dynamic", *argv)
        before, after = (figures(part, 1) for part in scores)
        assert facts["Evaluation"].split() == ["static", "dynamic"]
        assert {name: facts[name].split() for name in before} == {name: [before[name], after[name]] for name in before}
        assert before != after


@pytest.mark.parametrize("protocol", scoring.PROTOCOLS)
def test_an_n_gram_of_the_training_text_alone_is_shown_beside_the_model(place, capsys, protocol):
    hold_out(0.3)
    vocab = jaxlm.load("checkpoints/fox").vocab
    learned, held_out = (vocab.encode(part) for part in split_text(Path("fox.txt").read_text().lower(), 0.3))
    ngram = KneserNey(learned.tolist(), len(vocab), BASELINE_ORDER)
    for argv, ids in (([], held_out), (WITH, vocab.encode("all is well that ends well. " * 20))):
        count = len(ids)
        # Each token that is scored, after those from the first that the protocol lets it see.
        seen = {
            "carried": [(0, end) for end in range(1, count)],
            "cold-256": [((end - 1) // 256 * 256, end) for end in range(1, count)],
            "window-60": [(begin, begin + 60) for begin in range(0, count - 60, 3)],
        }[protocol]
        scores = np.log([ngram.row(ids[begin:end].tolist())[ids[end]] for begin, end in seen])
        facts = measured(capsys, "--protocol", protocol, "--baseline", "ngram", *argv)
        alone = measured(capsys, "--protocol", protocol, *argv)
        assert facts["Evaluation"].split() == ["static", "n-gram"]
        assert {name: facts[name].split() for name in figures(scores, 1)} == {
            name: [alone[name], figure] for name, figure in figures(scores, 1).items()
        }


def test_the_n_gram_is_shown_last(place, capsys):
    hold_out(0.1)
    facts = measured(capsys, "--dynamic", "--baseline", "ngram")
    assert facts["Evaluation"].split() == ["static", "dynamic", "n-gram"]
    both = [measured(capsys, *argv)["Perplexity"].split() for argv in (["--dynamic"], ["--baseline", "ngram"])]
    assert facts["Perplexity"].split() == [*both[0], both[1][1]]


@pytest.mark.parametrize("tokens", ["byte", "word"])
def test_other_tokens_are_measured_per_character_too(place, capsys, tokens):
    small = ["--tokens", tokens, "--epochs", "1", "--hidden", "4", "--length", "4", "--temperature"]
    assert commands.train([*WITH, "--run", "other", *small]) == 0
    content = "all is well, all is well"
    Path("é.txt").write_text(content if tokens == "word" else content + "é")
    facts = measured(capsys, "--run", "other", "--corpus", "é.txt", "--unknown", "skip")
    model = jaxlm.load("checkpoints/other")
    read = Path("é.txt").read_text() if tokens == "byte" else content.replace(",", "")
    scores = model.score(read)
    assert figures(scores, len(read) / (len(scores) + 1)).items() <= facts.items()
    assert facts["Nats per token"] == f"{-scores.mean(dtype=float):.4f}"
    assert facts["Nats per token"] != facts["Nats per character"]
    if tokens == "word":
        assert facts["Text"] == "é, 24 characters, 1 of them unknown and skipped"


def test_nothing_held_out_and_nothing_named_cannot_be_measured(place, capsys):
    line = refused(capsys, commands.evaluate)
    assert line.startswith("corpus: run checkpoints/fox has no validation text")
    assert line.endswith("name a text with corpus")


@pytest.mark.parametrize("argv", [(), ("--dynamic", *WITH), ("--baseline", "ngram", *WITH)])
def test_the_run_s_own_text_is_wanted_as_it_was(place, capsys, argv):
    hold_out(0.1)
    Path("fox.txt").write_text("Another text.")
    line = refused(capsys, commands.evaluate, *argv)
    assert line.startswith("corpus fox.txt: found 13 characters, not the same text as the 1,0")
    Path("fox.txt").unlink()
    line = refused(capsys, commands.evaluate, *argv)
    assert line.startswith("corpus fox.txt: found nothing there")
    remedy = "restore it" if argv else "restore it, or name another text with corpus"
    assert line.endswith(f"run checkpoints/fox learned from it: {remedy}")
