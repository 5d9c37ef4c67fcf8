"""The command that trains a run, for whoever gets its weights."""

import shlex
from pathlib import Path
from typing import Any

from jaxlm.config import INHERITED, SIZES, Size, TrainConfig, recipe_settings, settings_in
from jaxlm.text.corpus import PUBLISHED


def training_command(config: TrainConfig, parent: str = "") -> str:
    """The command that trains a run, from its settings and the run whose weights it starts from, if any.

    Of files, it names no folders, which are nobody else's business.
    """
    sources = config.corpus or ()
    of_folders = ["glob"] if all(source in PUBLISHED for source in sources) else []
    left_out = {"corpus", "teacher", *of_folders}
    own = [(name, value) for name, _, value in settings_in(config) if name not in left_out]
    sizes: list[Size | None] = [*SIZES] if config.recipe == "stream" else [None]

    def changes(size: Size | None) -> list[tuple[str, Any]]:
        if parent:  # Its settings are the defaults, and not known here; those in INHERITED are the same.
            return [pair for pair in own if pair[0] not in INHERITED]
        usual = {name: value for name, _, value in settings_in(recipe_settings(config.recipe, size))}
        return [(name, value) for name, value in own if value != usual[name]]

    size = min(sizes, key=lambda size: len(changes(size)))
    flags = {name: f"--{about.flag or name.replace('_', '-')}" for name, about, _ in settings_in(config)}
    names = [Path(source).name for source in sources]
    are_options = any(name.startswith("-") for name in names)
    words = ["jaxlm", "train", *(f"--corpus={name}" if are_options else name for name in names)]
    words += ["--recipe", config.recipe]
    words += ["--size", size] if size not in (None, "small") and not parent else []
    for name, value in changes(size):
        if isinstance(value, bool):
            words.append(flags[name] if value else f"--no-{flags[name][2:]}")
        elif isinstance(value, tuple):
            words += [f"{flags[name]}={one}" for one in value]
        elif value is not None:
            words += [flags[name], str(value)]
    words += [f"--teacher={Path(name).name}" for name in config.teacher or ()]
    words += ["--start-from", parent] if parent else []
    return shlex.join(words)
