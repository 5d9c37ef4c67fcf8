"""Writes options.md beside this file, from the settings themselves: `python docs/options.py`."""

from collections.abc import Iterator
from pathlib import Path

from jaxlm.cli.options import COMMANDS
from jaxlm.cli.parser import Command, groups, options
from jaxlm.config import BOOK, SIZES

INTRODUCTION = """# Options

Every option of every command, as `jaxlm COMMAND --help` shows them. In a clone, `python train.py` and
`python sample.py` take the same. In Python, options are the fields of `TrainConfig`, `ModelConfig`, `WatchConfig`,
`SampleConfig` and `EvaluateConfig`, with `_` for `-`. This file is written by `python docs/options.py`.
"""


def markdown() -> str:
    """The whole document."""
    return "\n".join(
        [INTRODUCTION, *(line for command in COMMANDS.values() for line in _section(command)), *_recipes()]
    )


def _section(command: Command) -> Iterator[str]:
    yield f"## `jaxlm {command.name}{command.arguments} [options]`\n\n{command.summary}"
    for group, members in groups(command.defaults({})).items():
        yield f"\n### {group}\n\n| option | default | default from | |\n|---|---|---|---|"
        for option in members:
            shown = option.shown.replace("|", "\\|")
            yield f"| `{shown}` | {option.shown_default} | {option.about.source} | {option.about.help} |"
    yield ""


def _recipes() -> Iterator[str]:
    """What the sizes of the stream recipe set otherwise than the book's."""
    yield "## What `--recipe stream` sets\n\nFrom the sweeps in [SWEEPS.md](../benchmarks/SWEEPS.md);"
    yield "`ngram` and the epochs from [counts.md](counts.md).\n"
    yield f"| option | `book` | {' | '.join(f'`{size}`' for size in SIZES)} |\n|---|---|{'---|' * len(SIZES)}"
    for book, *sizes in zip(options(BOOK), *map(options, SIZES.values()), strict=True):
        if any(option.default != book.default for option in sizes) and book.name != "recipe":
            yield f"| `{book.flag}` | {' | '.join(option.shown_default for option in (book, *sizes))} |"
    yield ""


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(markdown(), encoding="utf-8")
