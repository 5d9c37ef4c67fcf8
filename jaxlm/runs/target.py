"""The one file that a user asks for: a text, a picture, a page."""

import os
import stat
from pathlib import Path

from jaxlm import invocation
from jaxlm.errors import InputError, reject


def target(name: str, output: str, own: str | None = None) -> Path:
    """The file to write, behind any links.

    What a user names is replaced; what is written by a name of ours must not take the place of another's file.

    Args:
      name: what errors call it.
      output: the path.
      own: for a name of ours, what the files that we write by it say in their first 2,000 bytes.

    Raises:
      InputError: no file can be written there, or another's file is there.
    """
    if "\0" in output:
        reject(name, output, "a file's name", "choose another")
    path = Path(os.path.realpath(output))
    try:
        is_other = not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        is_other = False
    if is_other:
        found = "a folder" if path.is_dir() else "something that is not a file"
        raise InputError(f"{name} {output}: found {found} there, expected a file, or nothing yet; choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK) or not path.parent.is_dir():
        folder = invocation.shown(path.parent)
        raise InputError(f"{name} {output}: found no folder {folder} to write into, expected one; choose another")
    if own is not None and path.exists() and not _says(path, own):
        raise InputError(
            f"{name} {output}: found a file there that jaxlm has not written, which it replaces only if you name it; "
            f"name it, or another one, with {invocation.setting(name)}"
        )
    return path


def _says(path: Path, words: str) -> bool:
    """Whether a file says something in its first 2,000 bytes."""
    try:
        with open(path, "rb") as file:
            return words.encode() in file.read(2000)
    except OSError:
        return False
