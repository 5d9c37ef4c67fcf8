"""Where the model is that comes with jaxlm."""

from pathlib import Path

NAME = "nietzsche"


def bundled() -> Path | None:
    """The directory of the bundled model, which is not to be written to; None where it was taken away.

    An installed package has it inside, copied there when it was built; a clone has it among its checkpoints.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "bundled", package.parent / "checkpoints"):
        if (folder / NAME / "config.json").is_file():
            return folder / NAME
    return None
