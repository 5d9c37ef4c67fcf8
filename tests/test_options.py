"""The documents keep up with the program."""

import re
import runpy
from pathlib import Path

from jaxlm.cli import parser
from jaxlm.cli.options import COMMANDS

ROOT = Path(__file__).parents[1]


def test_the_options_document_is_what_the_settings_say():
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == runpy.run_path(str(ROOT / "docs" / "options.py"))["markdown"](), "run python docs/options.py"


def test_the_options_document_has_every_option_of_every_command():
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        section = written.split(f"\n## `jaxlm {name}")[1].split("\n## ")[0]
        for option in parser.options(command.defaults({})):
            [row] = [line for line in section.splitlines() if re.match(rf"\| `(-\w, )?{option.flag}[ ,`]", line)]
            assert option.shown_default in row
            assert option.about.help in row


def test_the_readme_leads_to_the_options():
    assert "(docs/options.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
