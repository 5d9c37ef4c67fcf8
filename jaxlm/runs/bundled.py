"""Finds the bundled model."""

from pathlib import Path

NAME = "nietzsche"


def bundled() -> Path | None:
    """The directory of the bundled model, which is read-only; None if it has been removed.

    The build copies it into the package; a clone has it among its checkpoints.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "bundled", package.parent / "checkpoints"):
        if (folder / NAME / "config.json").is_file():
            return folder / NAME
    return None
