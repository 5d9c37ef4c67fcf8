"""The command that trains a run, for whoever gets its weights."""

import dataclasses
import os
import shlex
from typing import Any

from jaxlm.config import INHERITED, SIZES, Size, TrainConfig, recipe_settings, settings_in
from jaxlm.text.corpus import PUBLISHED


def without_folders(config: TrainConfig) -> TrainConfig:
    """A run's settings with the mere names of files and runs: their folders are nobody else's business."""

    def names(paths: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return paths and tuple(os.path.basename(os.path.normpath(path)) or path for path in paths)

    return dataclasses.replace(config, corpus=names(config.corpus), teacher=names(config.teacher))


def training_command(config: TrainConfig, parent: str = "") -> str:
    """The command that trains a run, from its settings and the run whose weights it starts from, if any.

    It names no folders, as in `without_folders`.
    """
    of_folders = ["glob"] if all(source in PUBLISHED for source in config.corpus or ()) else []
    config = without_folders(config)
    names = config.corpus or ()
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
    words += [f"--teacher={name}" for name in config.teacher or ()]
    words += ["--start-from", parent] if parent else []
    return shlex.join(words)
