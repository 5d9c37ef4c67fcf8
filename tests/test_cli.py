"""Mistakes on the command line, and the same ones through Python: one clear line, and nothing written."""

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

import jaxlm
from jaxlm import cli
from jaxlm.cli import guard
from jaxlm.config import EvaluateConfig, ModelConfig, SampleConfig, TrainConfig, WatchConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn import dynamic, scoring
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
    config = Path("checkpoints/fox/config.json")
    record = json.loads(config.read_text())
    record["config"]["corpus"] = ["fox.txt"]
    config.write_text(json.dumps(record))
    return tmp_path


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
    return jaxlm.train(TrainConfig(corpus=corpus, **settings), run=run, checkpoints=checkpoints)


def fox(*arguments, **settings):
    return jaxlm.load("checkpoints/fox").generate(*arguments, **settings)


def fox_score(*arguments, **settings):
    return jaxlm.load("checkpoints/fox").score(*arguments, **settings)


def hold_out(share):
    """Has the run say that it held out the end of its corpus."""
    config = Path("checkpoints/fox/config.json")
    record = json.loads(config.read_text())
    record["config"]["validation"] = share
    config.write_text(json.dumps(record))


WITH = ("--corpus", "good.txt")

# What is typed, the same in Python, and what the message says.
MISTAKES = {
    "missing corpus": (cli.train, "--corpus missing.txt", lambda: train("missing.txt"), "missing.txt: found nothing"),
    "dangling link": (cli.train, "--corpus dangling.txt", lambda: train("dangling.txt"), "dangling.txt: found nothing"),
    "second is missing": (
        cli.train,
        "--corpus good.txt missing.txt",
        lambda: train("good.txt", "missing.txt"),
        "corpus missing.txt: found nothing there, expected a text file",
    ),
    "overlong name": (cli.train, f"--corpus {'x' * 300}", lambda: train("x" * 300), "found nothing there"),
    "empty corpus": (cli.train, "--corpus empty.txt", lambda: train("empty.txt"), "corpus empty.txt: found no text"),
    "only a BOM": (cli.train, "--corpus bom.txt", lambda: train("bom.txt"), "corpus bom.txt: found no text"),
    "empty files": (cli.train, "--corpus empties", lambda: train("empties"), "corpus empties: found no text"),
    "short corpus": (
        cli.train,
        "--corpus short.txt",
        lambda: train("short.txt"),
        "corpus: found a text of only 60 tokens, expected at least 61",
    ),
    "short for its length": (
        cli.train,
        "--corpus good.txt --length 560",
        lambda: train("good.txt", length=560),
        "corpus: found a text of only 560 tokens, expected at least 561",
    ),
    "Latin-1": (
        cli.train,
        "--corpus latin.txt",
        lambda: train("latin.txt"),
        "corpus latin.txt: found byte 0xE9 at offset 7, expected UTF-8",
    ),
    "Latin-1 after a BOM": (
        cli.train,
        "--corpus latin-bom.txt",
        lambda: train("latin-bom.txt"),
        "corpus latin-bom.txt: found byte 0xE9 at offset 10, expected UTF-8",
    ),
    "surrogate": (
        cli.train,
        "--corpus surrogate.txt",
        lambda: train("surrogate.txt"),
        "corpus surrogate.txt: found byte 0xED at offset 2, expected UTF-8",
    ),
    "surrogate after a BOM": (
        cli.train,
        "--corpus surrogate-bom.txt",
        lambda: train("surrogate-bom.txt"),
        "corpus surrogate-bom.txt: found byte 0xED at offset 5, expected UTF-8",
    ),
    "Latin-1 in a folder": (
        cli.train,
        "--corpus mixed",
        lambda: train("mixed"),
        "corpus mixed/latin.md: found byte 0xE9 at offset 7, expected UTF-8",
    ),
    "folder without text": (
        cli.train,
        "--corpus binaries",
        lambda: train("binaries"),
        "corpus binaries: found a folder without text (it has .png 1), expected files ending in .txt",
    ),
    "FIFO": (cli.train, "--corpus fifo", lambda: train("fifo"), "corpus fifo: found something that is neither"),
    "device": (cli.train, "--corpus /dev/null", lambda: train("/dev/null"), "corpus /dev/null: found something that"),
    "negative temperature in training": (
        cli.train,
        "--corpus good.txt --temperature 0.5 -1",
        lambda: WatchConfig(temperature=(0.5, -1.0)),
        "temperature: found -1.0, expected a finite number of 0 or more",
    ),
    "no temperature in training": (
        cli.train,
        "--corpus good.txt --temperature nan",
        lambda: WatchConfig(temperature=(float("nan"),)),
        "temperature: found nan, expected a finite number of 0 or more",
    ),
    "infinite temperature in training": (
        cli.train,
        "--corpus good.txt --temperature inf",
        lambda: WatchConfig(temperature=(float("inf"),)),
        "temperature: found inf, expected a finite number of 0 or more",
    ),
    "negative sample length": (
        cli.train,
        "--corpus good.txt --sample-length -1",
        lambda: WatchConfig(sample_length=-1),
        "sample_length: found -1, expected a whole number of 0 or more",
    ),
    "no window": (cli.train, "--corpus good.txt --length 0", lambda: train("good.txt", length=0), "length: found 0"),
    "no unit": (cli.train, "--corpus good.txt --hidden 0", lambda: ModelConfig(hidden=0), "hidden: found 0"),
    "file for checkpoints": (
        cli.train,
        "--corpus good.txt --checkpoints good.txt",
        lambda: train("good.txt", checkpoints="good.txt"),
        "checkpoints good.txt: ",
    ),
    "file above checkpoints": (
        cli.train,
        "--corpus good.txt --checkpoints good.txt/deep/down --run new",
        lambda: train("good.txt", checkpoints="good.txt/deep/down", run="new"),
        "checkpoints good.txt/deep/down: ",
    ),
    "run in a file": (
        cli.train,
        "--corpus good.txt --run good.txt/new",
        lambda: train("good.txt", run="good.txt/new"),
        "checkpoints good.txt: ",
    ),
    "foreign directory": (
        cli.train,
        "--corpus good.txt --run foreign",
        lambda: train("good.txt", run="foreign"),
        "run checkpoints/foreign: found something that is no run of jaxlm there",
    ),
    "foreign file": (
        cli.train,
        "--corpus good.txt --run file",
        lambda: train("good.txt", run="file"),
        "run checkpoints/file: found something that is no run of jaxlm there",
    ),
    "existing run": (
        cli.train,
        "--corpus good.txt --run fox",
        lambda: train("good.txt", run="fox"),
        "go on with it (jaxlm.resume('checkpoints/fox')), or choose another name",
    ),
    "no name": (cli.train, "--corpus good.txt --run ", lambda: train("good.txt", run=""), "run: found ''"),
    "huge hidden": (
        cli.train,
        "--corpus good.txt --hidden 10000000",
        lambda: train("good.txt", model=ModelConfig(hidden=10**7)),
        "hidden: found 10000000, expected a whole number from 1 to 65536",
    ),
    "huge stride": (
        cli.train,
        f"--corpus good.txt --stride {10**20}",
        lambda: train("good.txt", stride=10**20),
        f"stride: found {10**20}, expected a whole number from 1 to 2147483647",
    ),
    "huge batch": (
        cli.train,
        f"--corpus good.txt --batch {10**14}",
        lambda: train("good.txt", batch=10**14),
        f"batch: found {10**14}, expected a whole number from 1 to 1048576",
    ),
    "fewer epochs than trained": (
        cli.train,
        "--resume --run fox --epochs 1",
        lambda: jaxlm.resume("checkpoints/fox", epochs=1),
        "epochs: found 1, expected at least the 2 that run checkpoints/fox has trained",
    ),
    "resume a foreign directory": (
        cli.train,
        "--resume --run foreign",
        lambda: jaxlm.resume("checkpoints/foreign"),
        "run checkpoints/foreign: found a folder without config.json, expected the directory of a run",
    ),
    "resume nothing": (
        cli.train,
        "--resume --run other",
        lambda: jaxlm.resume("checkpoints/other"),
        "run checkpoints/other: found no folder, expected the directory of a run",
    ),
    "sample a foreign directory": (
        cli.sample,
        "--run foreign",
        lambda: jaxlm.load("checkpoints/foreign"),
        "run checkpoints/foreign: found a folder without config.json, expected the directory of a run",
    ),
    "sample a foreign file": (
        cli.sample,
        "--run file",
        lambda: jaxlm.load("checkpoints/file"),
        "run checkpoints/file: found ",
    ),
    "sample nothing": (
        cli.sample,
        "--run other",
        lambda: jaxlm.load("checkpoints/other"),
        "run checkpoints/other: found no folder, expected the directory of a run",
    ),
    "unknown characters": (
        cli.sample,
        "--prompt theβ§β",
        lambda: fox("theβ§β"),
        "prompt: found characters that the model has never seen: 'β' (U+03B2), '§' (U+00A7); expected",
    ),
    "unknown characters, several temperatures": (
        cli.sample,
        "--prompt § --temperature 0.5 1.0",
        lambda: fox("§"),
        "'§' (U+00A7)",
    ),
    "bytes of another encoding": (cli.sample, "--prompt \udce9", lambda: fox("\udce9"), "(U+DCE9)"),
    "empty prompt": (cli.sample, "--prompt=", lambda: fox(""), "prompt: found no text"),
    "prompt of unknown characters": (
        cli.sample,
        "--prompt §§ --unknown skip",
        lambda: fox("§§", unknown="skip"),
        "prompt: found no text that the model knows",
    ),
    "negative temperature": (
        cli.sample,
        "--temperature -1",
        lambda: fox(temperature=-1.0),
        "temperature: found -1.0, expected a finite number of 0 or more",
    ),
    "no temperature": (
        cli.sample,
        "--temperature 0.5 nan",
        lambda: fox(temperature=float("nan")),
        "temperature: found nan, expected a finite number of 0 or more",
    ),
    "infinite temperature": (
        cli.sample,
        "--temperature inf",
        lambda: fox(temperature=float("inf")),
        "temperature: found inf, expected a finite number of 0 or more",
    ),
    "empty list of temperatures": (
        cli.sample,
        "--temperature",
        lambda: SampleConfig(temperature=()),
        "temperature: found (), expected at least one number",
    ),
    "negative length": (
        cli.sample,
        "--length -1",
        lambda: fox(length=-1),
        "length: found -1, expected a whole number of 0 or more",
    ),
    "no text at all": (
        cli.sample,
        "--count 0",
        lambda: SampleConfig(count=0),
        "count: found 0, expected a whole number",
    ),
    "train by a library that is not here": (
        cli.train,
        "--corpus good.txt --impl cudnn",
        lambda: train("good.txt", impl="cudnn"),
        "impl: found cudnn on a machine whose device is CPU, expected an NVIDIA GPU and jax[cuda]; choose auto",
    ),
    "resume by a library that is not here": (
        cli.train,
        "--resume --run fox --impl cudnn",
        lambda: jaxlm.resume("checkpoints/fox", impl="cudnn"),
        "impl: found cudnn on a machine whose device is CPU",
    ),
    "sample by a library that is not here": (
        cli.sample,
        "--impl cudnn",
        lambda: jaxlm.load("checkpoints/fox", impl="cudnn"),
        "impl: found cudnn on a machine whose device is CPU",
    ),
    "measure on nothing": (
        cli.evaluate,
        "--corpus",
        lambda: EvaluateConfig(corpus=()),
        "corpus: found (), expected a name or a path; leave it out for the run's held-out part",
    ),
    "measure on unknown characters": (
        cli.evaluate,
        "--corpus greek.txt",
        lambda: fox_score("theβ§β"),
        "text: found characters that the model has never seen: 'β' (U+03B2), '§' (U+00A7); expected",
    ),
    "measure on one character": (
        cli.evaluate,
        "--corpus one.txt",
        lambda: fox_score("x"),
        "text: found only 1 of the model's tokens in it, expected 2 or more",
    ),
    "measure on a text without a window": (
        cli.evaluate,
        "--corpus short.txt --protocol window-60",
        lambda: scoring.score_windows(None, None, np.zeros(60, int)),
        "text: found only 60 of the model's tokens in it, expected 61 or more",
    ),
    "measure a missing run": (
        cli.evaluate,
        "--run other --corpus good.txt",
        lambda: jaxlm.load("checkpoints/other"),
        "run checkpoints/other: found no folder, expected the directory of a run",
    ),
    "learn without a carried state": (
        cli.evaluate,
        "--corpus good.txt --dynamic --protocol cold-256",
        lambda: EvaluateConfig(dynamic=True, protocol="cold-256"),
        "dynamic: found True, expected False with protocol=cold-256; choose protocol=carried",
    ),
    "measure by a library that is not here": (
        cli.evaluate,
        "--corpus good.txt --impl cudnn",
        lambda: jaxlm.load("checkpoints/fox", impl="cudnn"),
        "impl: found cudnn on a machine whose device is CPU",
    ),
    "seed too large": (cli.sample, f"--seed {2**32}", lambda: fox(seed=2**32), "seed: found 4294967296, expected"),
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


UNREADABLE = {
    "--temprature 1": "Unrecognized options: --temprature, 1 (perhaps you meant --temperature [FLOAT [FLOAT ...]])",
    "--length warm": "--length: found 'warm', expected a whole number",
    "--seed 1.5": "--seed: found '1.5', expected a whole number",
    "--checkpoints": "Missing value for argument '--checkpoints'. Expected 1 values",
    "surplus": "Unrecognized options: surplus",
}


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("command", [cli.train, cli.sample])
@pytest.mark.parametrize("typed", UNREADABLE)
def test_a_flag_that_cannot_be_read_is_explained(place, capsys, monkeypatch, command, typed, boxes):
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", boxes)
    line = refused(capsys, command, *typed.split())
    assert line == f"{UNREADABLE[typed]}; see python {command.__name__}.py --help"


@pytest.mark.parametrize(
    ("command", "flag", "choices"),
    [
        (cli.train, "recipe", "book, stream"),
        (cli.train, "size", "small, medium, large"),
        (cli.sample, "mode", "window, state"),
        (cli.evaluate, "protocol", "carried, cold-256, window-60"),
    ],
)
def test_a_word_that_is_no_choice_is_answered_with_those_there_are(place, capsys, command, flag, choices):
    for word in ("cold", "None"):
        line = refused(capsys, command, f"--{flag}", word)
        assert line.startswith(f"--{flag}: found {word!r}, expected one of {choices}; see python ")


def test_a_file_that_may_not_be_read(place, capsys, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "corpus good.txt: cannot be read (Permission denied)" in refused(capsys, cli.train, *WITH)


def test_a_folder_that_may_not_be_read(place, capsys, monkeypatch):
    scandir = os.scandir

    def forbidden(path="."):
        if os.fspath(path) == "mixed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    line = refused(capsys, cli.train, "--corpus", "mixed")
    assert "corpus mixed: cannot be read (Permission denied)" in line


def test_a_corpus_that_cannot_be_downloaded(place, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url, 1, "")})
    monkeypatch.setenv("no_proxy", "*")
    line = refused(capsys, cli.train, "--corpus", "nietzsche")
    assert line.startswith(f"corpus nietzsche: could not be fetched from {url} (")
    assert "Connection refused" in line


def test_a_path_with_a_line_break_takes_one_line(place, capsys):
    assert "corpus a b: found nothing there" in refused(capsys, cli.train, "--corpus", "a\nb")


@pytest.mark.parametrize("command", [cli.train, cli.sample, cli.evaluate])
@pytest.mark.parametrize("checkpoints", ["nothing", "missing", "good.txt"])
def test_no_run_to_go_on_with(place, capsys, command, checkpoints):
    argv = ["--checkpoints", checkpoints, *(["--resume"] if command is cli.train else [])]
    line = refused(capsys, command, *argv)
    assert line.startswith(f"checkpoints {checkpoints}: found no run there, expected one; train one with")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--hidden 17", "(hidden 17 instead of 16)"),
        ("--hidden 17 --epochs 9 --lowercase", "(hidden 17 instead of 16)"),
        ("--stride 1 --seed 5", "(stride 1 instead of 3; seed 5 instead of 0)"),
        ("--no-lowercase", "(lowercase False instead of True)"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_resumed_run_keeps_its_settings(place, capsys, typed, words, named):
    line = refused(capsys, cli.train, "--resume", *(["--run", "fox"] if named else []), *typed.split())
    assert line.startswith("run checkpoints/fox: found other settings than its own ")
    assert words in line
    assert "expected only --epochs, --patience and --impl to change" in line


def test_a_resumed_run_keeps_its_corpus(place, capsys):
    content = bytearray(Path("fox.txt").read_bytes())
    content[500] ^= 2
    Path("fox.txt").write_bytes(content)
    line = refused(capsys, cli.train, "--resume")
    assert line.startswith("corpus fox.txt: found ")
    assert "run checkpoints/fox was trained on" in line
    with pytest.raises(ValueError, match="expected it unchanged") as caught:
        jaxlm.resume("checkpoints/fox")
    assert str(caught.value) == line
    assert "corpus good.txt: found 560 characters, not the same" in refused(capsys, cli.train, "--resume", *WITH)
    Path("fox.txt").unlink()
    assert "corpus fox.txt: found nothing there" in refused(capsys, cli.train, "--resume")


def test_unknown_characters_can_be_skipped(place, capsys):
    argv = ["--length", "7", "--seed", "1", "--mode", "state"]
    assert cli.sample(["--prompt", "T§he β", "--unknown", "skip", *argv]) == 0
    skipped = capsys.readouterr().out
    assert cli.sample(["--prompt", "the ", *argv]) == 0
    out, err = capsys.readouterr()
    assert out == skipped
    assert out.startswith("the ")
    assert len(out) == len("the ") + 7 + len("\n")
    assert re.fullmatch(r"checkpoints/fox, epoch [12] \(best: loss \d\.\d{4}\), seed 1\n", err)


def test_a_loss_of_zero_is_a_loss(place, capsys, monkeypatch):
    generator = jaxlm.Run.generator
    progress = Progress(step=3, epoch=1, loss=0.0)
    monkeypatch.setattr(jaxlm.Run, "generator", lambda run, impl: (generator(run, impl)[0], progress))
    assert cli.sample(["--length", "0", "--seed", "1"]) == 0
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


FLAGS = {
    "train.py": "corpus recipe run checkpoints epochs hidden layers dropout length stride batch learning-rate seed "
    "resume tokens words lowercase optimizer clip temperature sample-length impl size validation patience schedule "
    "weight-decay average reset embedding output-dropout recurrent-dropout encoding normalize",
    "sample.py": "run checkpoints prompt length temperature seed mode unknown count impl",
    "-m jaxlm evaluate": "run checkpoints corpus encoding protocol dynamic unknown impl",
}


@pytest.mark.parametrize("program", FLAGS)
def test_help_names_every_flag_without_jax_and_breaks_no_text_but_at_the_terminal_s_edge(program):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program.split(), "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "600"},
        capture_output=True,
        text=True,
        check=True,
    )
    named = re.findall(r"│ (?:-h, )?--([a-z-]+)", done.stdout)
    assert sorted(named) == sorted([*FLAGS[program].split(), "help"])
    # Each flag's text is one line, which ends with the default; a docstring's line that begins with a digit is not
    # joined to the one before it.
    assert len(re.findall(r"\(default: [^│]*\) +│$", done.stdout, re.MULTILINE)) == len(named) - 1
    for line in re.findall(r"^│(?: +--\S+ \S+| {8})  +([^ │].*?) *│$", done.stdout, re.MULTILINE):
        assert re.search(r"\(default: .*\)$", line), line
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert imported & {"jax", "jaxlib", "flax", "optax", "orbax"} == set()


def test_restating_a_run_s_own_settings_is_no_change(place, capsys):
    settings = ["--layers", "2", "--dropout", "0.3", "--tokens", "word", "--words", "5", "--length", "4"]
    small = ["--hidden", "4", "--batch", "32", "--temperature"]
    assert cli.train([*WITH, "--run", "two", "--epochs", "1", *settings, *small]) == 0
    assert cli.train(["--resume", "--run", "two", "--epochs", "2", *settings[:4], *settings[6:]]) == 0
    assert "Epoch 2/2  loss" in capsys.readouterr().out


def test_several_temperatures_are_shown_one_after_the_other(place, capsys):
    assert cli.sample(["--temperature", "0", "0.5", "--length", "5", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    seed_text = jaxlm.Run.open("checkpoints/fox").record.seed_text
    texts = [fox(None, 5, temperature=temperature, seed=3) for temperature in (0, 0.5)]
    assert out == f"--- temperature 0\n{texts[0]}\n--- temperature 0.5\n{texts[1]}\n"
    assert all(written.startswith(seed_text) for written in texts)


def test_several_texts_are_shown_with_the_seeds_that_repeat_them(place, capsys):
    arguments = ["--temperature", "0.3", "1", "--length", "5", "--seed", "4294967295", "--count", "2"]
    assert cli.sample([*arguments, "--prompt", "the "]) == 0
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
    assert cli.sample(["--impl", impl, "--length", "40", "--seed", "6", "--temperature", "0.7"]) == 0
    assert written_with == [impl]
    assert capsys.readouterr().out == fox(None, 40, temperature=0.7, seed=6) + "\n"


def test_the_largest_temperatures_draw_evenly(place, capsys):
    assert cli.sample(["--temperature", "1e39", "--length", "200", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert len(set(out)) > 20


def test_no_corpus_and_no_network_is_said_in_one_line(place, capsys, monkeypatch):
    url = "http://127.0.0.1:9/nietzsche.txt"  # The port of `discard`, where nobody listens.
    monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url, 10, "")})
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(text, "_embedded", lambda: "What is a class? " * 20)
    assert cli.train(["--epochs", "1", "--hidden", "4", "--batch", "64", "--temperature"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: corpus nietzsche: could not be fetched from http://127.0.0.1:9/nietzsche.txt (")
    assert err.endswith("Training on python-docs, Python's own help topics, instead.\n")
    assert err.count("\n") == 1
    assert "Corpus:              python-docs, 340 characters" in out
    assert Path("checkpoints/python-docs-book").is_dir()


def measured(capsys, *argv):
    """What `evaluate` tells: each fact by its name, the figures as lists."""
    capsys.readouterr()
    assert cli.evaluate([str(arg) for arg in argv]) == 0
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
        scoring.PROTOCOLS, "carried", lambda model, *rest: scored_with.append(model.impl) or score(model, *rest)
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


@pytest.mark.parametrize("tokens", ["byte", "word"])
def test_other_tokens_are_measured_per_character_too(place, capsys, tokens):
    small = ["--tokens", tokens, "--epochs", "1", "--hidden", "4", "--length", "4", "--temperature"]
    assert cli.train([*WITH, "--run", "other", *small]) == 0
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
    line = refused(capsys, cli.evaluate)
    assert line.startswith("corpus: found none, and nothing that run checkpoints/fox has held out from training")
    assert line.endswith("name one with --corpus")


@pytest.mark.parametrize("argv", [(), ("--dynamic", *WITH)])
def test_the_run_s_own_text_is_wanted_as_it_was(place, capsys, argv):
    hold_out(0.1)
    Path("fox.txt").write_text("Another text.")
    line = refused(capsys, cli.evaluate, *argv)
    assert line.startswith("corpus fox.txt: found 13 characters, not the same text as the 1,0")
    Path("fox.txt").unlink()
    line = refused(capsys, cli.evaluate, *argv)
    assert line.startswith("corpus fox.txt: found nothing there")
    assert "run checkpoints/fox learns from it: bring it back" in line
