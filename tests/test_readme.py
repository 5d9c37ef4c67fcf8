"""The README keeps up with the program."""

import dataclasses
import re
from pathlib import Path

import pytest

from jaxlm.cli.commands import EvaluateFlags, SampleFlags, TrainFlags

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def flags(settings):
    """Every flag made from a dataclass and those in it, with its default."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags(value)
        else:
            yield "--" + field.name.replace("_", "-"), value


def shown(default):
    """A default as the README has it, where it is a number, a word or several of them."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return (
        " ".join(map(str, default)) if isinstance(default, tuple) else f"{default:g}" if default == 0 else str(default)
    )


@pytest.mark.parametrize(
    ("settings", "program"),
    [(TrainFlags(), "train.py"), (SampleFlags(), "sample.py"), (EvaluateFlags(), "python -m jaxlm evaluate")],
)
def test_the_tables_have_every_option_with_its_default_and_no_other(settings, program):
    table = README.split(f"| `{program}` |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(--[a-z-]+)`[^|]*\| ([^|]*) \|", table, re.MULTILINE))
    defaults = dict(flags(settings))
    assert sorted(rows) == sorted(defaults)
    for flag, default in defaults.items():
        if default is not None:  # What stands for it is said in words.
            assert rows[flag].strip("`") == shown(default), flag
