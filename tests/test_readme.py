"""The README keeps up with the program."""

import dataclasses
import re
from pathlib import Path

import pytest

from jaxlm.cli import SampleFlags, TrainFlags

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def flags(settings):
    """Every flag made from a dataclass and those in it."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags(value)
        else:
            yield "--" + field.name.replace("_", "-")


@pytest.mark.parametrize(("settings", "program"), [(TrainFlags(), "train.py"), (SampleFlags(), "sample.py")])
def test_the_tables_have_every_option_and_no_other(settings, program):
    table = README.split(f"| `{program}` |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(--[a-z-]+)`", table, re.MULTILINE)
    assert sorted(rows) == sorted(flags(settings))
