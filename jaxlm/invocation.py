"""How jaxlm was called, so that messages name what the same person would type next."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

SCRIPTS = "python"
"""The program of a clone's train.py and sample.py."""

MODULE = "python -m jaxlm"

program: str | None = None
"""What was started: `jaxlm`, MODULE or SCRIPTS; None where Python code calls the package."""


@contextlib.contextmanager
def called_as(name: str) -> Iterator[None]:
    """While the context lasts, messages speak of this program's commands."""
    global program
    program, previous = name, program
    try:
        yield
    finally:
        program = previous


def of_process(arguments: Sequence[str]) -> str:
    """The program that `sys.argv` names; MODULE, which works everywhere, where that is none of ours."""
    path = Path(arguments[0]) if arguments else Path()
    if path.name in ("train.py", "sample.py"):
        return SCRIPTS
    return "jaxlm" if path.name in ("jaxlm", "jaxlm.exe", "jaxlm-script.py") else MODULE


def command(name: str) -> str:
    """A command as it is typed here: `jaxlm train`, or `python train.py`."""
    if program == SCRIPTS:
        return f"python {name}.py" if name in ("train", "sample") else f"{MODULE} {name}"
    return f"{program or MODULE} {name}"


def train() -> str:
    """What trains a new run."""
    return "jaxlm.train(...)" if program is None else command("train")


def resume(path: str | os.PathLike[str], **settings: int) -> str:
    """What resumes the run at a path, with settings that differ from its own."""
    given = [setting(name, value) for name, value in settings.items()]
    if program is None:
        return f"jaxlm.resume({', '.join([repr(_path(path)), *given])})"
    return " ".join([command("train"), "--resume --run", shlex.quote(_path(path)), *given])


def sample(path: str | os.PathLike[str]) -> str:
    """What generates text with the run at a path."""
    if program is None:
        return f"jaxlm.load({_path(path)!r}).generate()"
    return f"{command('sample')} --run {shlex.quote(_path(path))}"


def setting(name: str, value: int) -> str:
    """A setting as it is given here: `--patience 8`, or `patience=8`."""
    return f"{name}={value}" if program is None else f"--{name} {value}"


def _path(path: str | os.PathLike[str]) -> str:
    """A path that is not taken for a name: a run's has a separator in it."""
    return text if os.sep in (text := os.fspath(path)) else f".{os.sep}{text}"
