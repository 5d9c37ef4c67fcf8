"""`jaxlm page`: a run as one web page, in a file; and opened in a browser."""

import os
import webbrowser
from pathlib import Path

from jaxlm import invocation
from jaxlm.cli.generate import target
from jaxlm.cli.guard import note
from jaxlm.cli.options import PageFlags
from jaxlm.errors import reject


def write_page(flags: PageFlags) -> None:
    """Writes the page of a run, and says where it is."""
    from jaxlm.page.assemble import BEGINNING
    from jaxlm.runs.mixing import open_trained

    [run] = open_trained(flags.run, flags.checkpoints)
    output = flags.output or f"{run.path.name}.html"
    path = target("output", output)
    if flags.output is None and not _may_replace(path, BEGINNING):
        reject("output", f"a file {output} that is not a page of jaxlm", "one, or none", "name a file with --output")
    page = run.page(path, float32=flags.float32)
    size = page.stat().st_size / 1e6
    note(f"{run.shown}, as a page of {size:.1f} MB: {invocation.shown(page)}; open it in any browser")
    if flags.open and not webbrowser.open(page.as_uri()):
        note("no browser could be opened; open the file yourself")


def _may_replace(path: Path, beginning: str) -> bool:
    """Whether nothing is at a path, or a page."""
    if not os.path.lexists(path):
        return True
    with open(path, "rb") as file:
        return file.read(len(beginning)) == beginning.encode()
