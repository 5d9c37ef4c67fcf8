"""How jaxlm was called, so that messages can show the command to type next."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SCRIPTS = "python"
"""The program of a clone's train.py and sample.py."""

MODULE = "python -m jaxlm"

program: str | None = None
"""The program that was started: `jaxlm`, MODULE or SCRIPTS; None if Python code calls the package."""


@contextlib.contextmanager
def called_as(name: str) -> Iterator[None]:
    """Makes messages show this program's commands while the context lasts."""
    global program
    program, previous = name, program
    try:
        yield
    finally:
        program = previous


def of_process(arguments: Sequence[str]) -> str:
    """The program that `sys.argv` names; MODULE, which works everywhere, if it is not one of ours."""
    path = Path(arguments[0]) if arguments else Path()
    if path.name in ("train.py", "sample.py"):
        return SCRIPTS
    return "jaxlm" if path.name in ("jaxlm", "jaxlm.exe", "jaxlm-script.py") else MODULE


def is_interactive() -> bool:
    """Whether this process is a Python prompt or a notebook, where `%run` starts our programs."""
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)


def command(name: str) -> str:
    """A command as typed here: `jaxlm train`, or `python train.py`."""
    if program == SCRIPTS:
        return f"python {name}.py" if name in ("train", "sample") else f"{MODULE} {name}"
    return f"{program or MODULE} {name}"


def train() -> str:
    """The command or call that trains a new run."""
    return "jaxlm.train(...)" if program is None else command("train")


def resume(path: str | os.PathLike[str], **settings: int | float | str) -> str:
    """The command or call that resumes the run at a path, with changed settings."""
    given = [setting(name, value) for name, value in settings.items()]
    if program is None:
        return f"jaxlm.resume({', '.join([repr(_path(path)), *given])})"
    return " ".join([command("train"), "--resume --run", shlex.quote(_path(path)), *given])


def sample(path: str | os.PathLike[str]) -> str:
    """The command or call that generates text with the run at a path."""
    if program is None:
        return f"jaxlm.load({_path(path)!r}).generate()"
    return f"{command('sample')} --run {shlex.quote(_path(path))}"


def setting(name: str, value: int | float | str | None = None) -> str:
    """A setting as given here: `--patience 8`, or `patience=8`; the name alone without a value."""
    if program is None:
        return name if value is None else f"{name}={value!r}"
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None else f"{flag} {value}"


def shown(path: str | os.PathLike[str]) -> str:
    """A path for messages: relative if it is below the current folder."""
    whole = os.path.abspath(path)
    try:
        return os.path.relpath(whole) if os.path.commonpath([whole, here := os.getcwd()]) == here else whole
    except (OSError, ValueError):  # The current folder is gone, or on another drive.
        return whole


def _path(path: str | os.PathLike[str]) -> str:
    """A path that cannot be mistaken for a run's name: it contains a separator."""
    return text if os.sep in (text := shown(path)) else f".{os.sep}{text}"
