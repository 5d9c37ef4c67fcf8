"""The commands as a user types them, one process each."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--epochs", "1", "--length", "10", "--batch", "32", "--hidden", "16", "--sample-length", "30"]


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""What a buffer still holds fails once more when the interpreter exits."""


def run(*arguments, folder, **options):
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, encoding="utf-8", **options)


def programs():
    """The compiled programs in the user's cache, and when they were written."""
    files = Path(os.environ["XDG_CACHE_HOME"]).rglob("*-cache")
    return {file.name: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "Ein Märchen.txt").write_text("Es war einmal ein König, der hatte eine Tochter. " * 20, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained_by_command(folder):
    return run(ROOT / "train.py", "--corpus", "Ein Märchen.txt", *SMALL, folder=folder)


def test_train(trained_by_command, folder):
    assert trained_by_command.returncode == 0
    assert trained_by_command.stderr == ""  # None of JAX's, absl's or Orbax's noise.
    assert "Epoch 1/1  loss" in trained_by_command.stdout
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["Ein-Märchen-book"]


def test_sample(trained_by_command, folder):
    done = run(ROOT / "sample.py", "--prompt", "Es war ", "--length", "50", "--temperature", "0.5", folder=folder)
    assert done.returncode == 0
    assert done.stdout.startswith("es war ")
    assert len(done.stdout) == len("es war ") + 50 + 1
    # The prompt's words are the program's output; which model generated them, and how to repeat it, goes to stderr.
    assert done.stderr.count("\n") == 1
    assert "Ein-Märchen-book, epoch 1 (best: loss " in done.stderr
    seed = done.stderr.split()[-1]
    compiled = programs()
    assert compiled
    again = run(
        ROOT / "sample.py",
        "--prompt",
        "Es war ",
        "--length",
        "50",
        "--seed",
        seed,
        "--run",
        "Ein-Märchen-book",
        folder=folder,
    )
    assert again.stdout == done.stdout
    assert programs() == compiled  # It found what the first one had compiled.


def test_evaluate(trained_by_command, folder):
    done = run("-m", "jaxlm", "evaluate", "--corpus", "Ein Märchen.txt", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Text:                Ein Märchen, which the run learned from, 980 characters\n" in done.stdout
    assert "\nBits per character:  " in done.stdout


def test_export_and_train_on(trained_by_command, folder):
    name = "Ein-Märchen-book"
    done = run("-m", "jaxlm", "export", name, "shared/Märchen", folder=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Written: shared/Märchen, with a model card")
    assert "jaxlm train 'Ein Märchen.txt' --recipe book" in (folder / "shared" / "Märchen" / "README.md").read_text()
    texts = [
        run(ROOT / "sample.py", "--seed", "1", "--length", "9", "--run", path, folder=folder).stdout
        for path in ("shared/Märchen", name)
    ]
    assert texts[0] == texts[1] != ""
    again = run("-m", "jaxlm", "export", name, "shared/Märchen", folder=folder)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    arguments = "--corpus", "Ein Märchen.txt", "--start-from", "shared/Märchen", "--epochs", "1", "--run", "more"
    done = run(ROOT / "train.py", *arguments, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Weights:             started from those of Märchen\n" in done.stdout


def test_sample_into_a_program_that_stops_reading(trained_by_command, folder):
    line = f"{sys.executable} {ROOT / 'sample.py'} --length 100000 --mode state | head -c 20"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True)
    # Twenty bytes may end inside a letter.
    assert (done.returncode, len(done.stdout)) == (0, 20)
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("output", ["| head -c 9", "> /dev/full"])
def test_train_goes_on_when_its_output_cannot_be_written(folder, output):
    name = "piped" if "head" in output else "full"
    flags = f"--corpus *.txt --run {name} {' '.join(SMALL)} --epochs 3"
    line = f"set -o pipefail; {sys.executable} {ROOT / 'train.py'} {flags} {output}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, encoding="utf-8", env=BUFFERED)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((folder / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()) == 3


def test_train_goes_on_when_its_terminal_is_closed_and_hangups_are_ignored(folder):
    terminal, output = os.openpty()
    command = f"{sys.executable} {ROOT / 'train.py'} --corpus Ein* --run left {' '.join(SMALL)} --epochs 12"
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' HUP; exec {command}"],  # As nohup does, which would send the output elsewhere.
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(output)
    shown = b""
    while b"Epoch 2/12" not in shown:
        shown += os.read(terminal, 65536)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert (process.communicate()[1].count(b"\n"), process.returncode) == (0, 0)
    assert len((folder / "checkpoints" / "left" / "metrics.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("command", [["sample.py", "--length", "50"], ["-m", "jaxlm", "evaluate", "--corpus", "a.txt"]])
def test_other_commands_end_with_a_line_when_their_output_cannot_be_written(trained_by_command, folder, command):
    (folder / "a.txt").write_text("es war einmal " * 20)
    if command[0] == "sample.py":
        command = [ROOT / "sample.py", *command[1:]]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"
    assert "Exception ignored" not in done.stderr


def test_help_into_a_program_that_stops_reading_makes_no_noise(folder):
    line = f"{sys.executable} {ROOT / 'train.py'} --help | true"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, env=BUFFERED)
    assert done.stderr == b""


@pytest.mark.parametrize("imported", ["jaxlm.cli.parser", "jaxlm.cli.commands", "jaxlib", "jaxlm.nn.lstm"])
def test_an_interrupt_before_there_is_anything_to_save_ends_without_a_word(folder, imported):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", ROOT / "sample.py", "--length", "100000000", "--mode", "state"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert any(line.split()[-1] == imported for line in process.stderr)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert [line for line in told.splitlines() if not line.startswith("import time:")] == []


def test_an_interrupt_while_text_is_written_ends_without_a_word(folder):
    process = subprocess.Popen(
        [sys.executable, ROOT / "sample.py", "--length", "100000000", "--mode", "state"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(1) != b""
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    assert b"Traceback" not in errors


def test_a_narrow_encoding_gets_marks_for_letters_and_no_traceback(trained_by_command, folder):
    done = run(
        ROOT / "sample.py", "--prompt", "köni", "--length", "5", folder=folder, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert done.stdout.startswith("k?ni")


def test_a_locale_without_unicode_reads_a_run_of_any_name(trained_by_command, folder):
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")} | plain
    line = f"cd {folder}/checkpoints/Ein-M* && {sys.executable} {ROOT / 'sample.py'} --run . --length 5 --seed 1"
    done = subprocess.run(["bash", "-c", line], env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1), done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("JAX_PLATFORMS=cuda", "JAX cannot start its devices with JAX_PLATFORMS=cuda; unset that"),
        ("JAX_NUM_CPU_DEVICES=0", "JAX cannot start its devices with JAX_NUM_CPU_DEVICES=0; unset that"),
        ("JAX_ENABLE_X64=maybe", "JAX cannot be imported with JAX_ENABLE_X64=maybe in the environment"),
    ],
)
def test_what_keeps_jax_from_computing_is_said_as_that(trained_by_command, folder, setting, words):
    name, value = setting.split("=")
    environment = {key: text for key, text in os.environ.items() if not key.startswith("JAX_")} | {name: value}
    before = {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}
    done = run(ROOT / "train.py", "--resume", "--run", "Ein-Märchen-book", folder=folder, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1
    after = {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}
    assert {path: time for path, time in after.items() if path.name != ".lock" and path.is_file()} == {
        path: time for path, time in before.items() if path.name != ".lock" and path.is_file()
    }


def test_a_mistake(folder):
    done = run(ROOT / "train.py", "--corpus", "missing.txt", folder=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: corpus missing.txt: found nothing there, expected a text file, a folder, or one of nietzsche, "
        "shakespeare, python-docs\n"
    )


def test_a_script_takes_files_without_a_flag(folder):
    small = [*SMALL, "--temperature", "--run", "words"]
    done = run(ROOT / "train.py", "Ein Märchen.txt", *small, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Corpus:              Ein Märchen, 980 characters" in done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what the package is built from, in a folder named jaxlm, as a clone is."""
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("this environment's setuptools is older than the build wants: install the test extra")
    clone = tmp_path_factory.mktemp("parent") / "jaxlm"
    for name in ("jaxlm", "checkpoints/nietzsche"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "train.py", "sample.py"):
        shutil.copy(ROOT / name, clone)
    (clone / "checkpoints" / "nietzsche" / ".lock").touch()  # Training leaves one; it is not part of a model.
    return clone


def built(*arguments, folder, **options):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "JAXLM_CHECKPOINTS")}
    environment.update(options)
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done


PIP = "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-build-isolation"


USE_OF_THE_MODEL = """
import jaxlm
print(jaxlm.__file__)
[text] = {jaxlm.load(*name).generate("the ", 9, seed=1) for name in ((), ("nietzsche",), ("checkpoints/nietzsche",))}
print(text)
try:
    jaxlm.resume("nietzsche")
except jaxlm.InputError as error:
    assert "holds only weights" in str(error), error
else:
    raise AssertionError
"""


def test_an_installed_package_generates_with_its_model_in_an_empty_folder(sources, tmp_path):
    code = "import setuptools.build_meta as build, sys; build.build_sdist(sys.argv[1])"
    built(sys.executable, "-c", code, tmp_path, folder=sources)
    [archive] = tmp_path.glob("*.tar.gz")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    # A wheel is built from the source distribution, which shows that both have the model.
    built(sys.executable, *PIP, "--target", installed, archive, folder=tmp_path)
    assert (installed / "jaxlm" / "py.typed").is_file()
    model = installed / "jaxlm" / "bundled" / "nietzsche"
    assert not (model / ".lock").exists()
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    assert {path.relative_to(model) for path in before} == {
        path.relative_to(ROOT / "checkpoints/nietzsche") for path in (ROOT / "checkpoints/nietzsche").rglob("[!.]*")
    }
    for path in (model, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    where = {"folder": empty, "PYTHONPATH": str(installed)}
    done = built(installed / "bin" / "jaxlm", "sample", "-p", "the ", "-l", "9", "--seed", "1", **where)
    assert (done.stdout[:4], len(done.stdout)) == ("the ", 14)
    assert done.stderr.startswith(f"{model}, epoch 20 ")
    place, *lines = built(sys.executable, "-c", USE_OF_THE_MODEL, **where).stdout.splitlines()
    assert Path(place) == installed / "jaxlm" / "__init__.py"
    assert "".join(lines) == done.stdout.rstrip("\n")
    built(installed / "bin" / "jaxlm", "page", "nietzsche", "-o", tmp_path / "page.html", **where)
    assert (tmp_path / "page.html").stat().st_size > 2e6
    assert list(empty.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before


def test_beside_a_clone_that_is_installed_for_editing_the_package_is_the_real_one(sources, tmp_path):
    environment = tmp_path / "environment"
    built(sys.executable, "-m", "venv", "--without-pip", environment, folder=tmp_path)
    python = environment / "bin" / "python"
    [packages] = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join([*others, sysconfig.get_path("purelib")]))
    built(python, *PIP, "--editable", sources, folder=tmp_path)
    code = "import jaxlm; print(jaxlm.__file__, jaxlm.TrainConfig().epochs, jaxlm.InputError.__name__)"
    expected = f"{sources / 'jaxlm' / '__init__.py'} 60 InputError\n"
    for folder in (sources.parent, tmp_path, sources):
        assert built(python, "-c", code, folder=folder).stdout == expected
    assert not (sources / "jaxlm" / "bundled").exists()
    code = "from jaxlm.runs.bundled import bundled; print(bundled())"
    assert built(python, "-c", code, folder=tmp_path).stdout == f"{sources / 'checkpoints' / 'nietzsche'}\n"
    assert built(environment / "bin" / "jaxlm", "--version", folder=tmp_path).stdout.startswith("jaxlm ")


LIBRARIES = "jax", "flax", "optax", "orbax", "numpy", "rich", "platformdirs", "filelock", "charset_normalizer"


def test_editors_and_checkers_know_the_types_of_the_public_names(tmp_path):
    pytest.importorskip("mypy")
    # Importing the dependencies takes long, and is not under test.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in LIBRARIES)
    )
    (tmp_path / "user.py").write_text(
        "import jaxlm\nreveal_type(jaxlm.load)\nreveal_type(jaxlm.train)\nreveal_type(jaxlm.SIZES)\n"
        "jaxlm.TrainConfig(epochs='a')\njaxlm.TrainConfig(epochs=1, recipe='stream')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    found = done.stdout.splitlines()
    assert "jaxlm.generator.TextGenerator" in found[0]
    assert "jaxlm.generator.TextGenerator" in found[1]
    assert "jaxlm.config.TrainConfig" in found[2]
    assert 'Argument "epochs" to "TrainConfig" has incompatible type "str"; expected "int"' in found[3]
    assert len(found) == 5, done.stdout
