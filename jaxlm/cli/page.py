"""`jaxlm page`: a run as one web page, in a file; and opened in a browser."""

import webbrowser

from jaxlm import invocation
from jaxlm.cli.guard import note
from jaxlm.cli.options import PageFlags
from jaxlm.runs.target import target


def write_page(flags: PageFlags) -> None:
    """Writes the page of a run, and says where it is."""
    from jaxlm.page.assemble import BEGINNING
    from jaxlm.runs.mixing import open_trained

    [run] = open_trained(flags.run, flags.checkpoints)
    output = flags.output or f"{run.path.name}.html"
    path = target("output", output, None if flags.output else BEGINNING)
    page = run.page(path, float32=flags.float32)
    size = page.stat().st_size / 1e6
    note(f"{run.shown}, as a page of {size:.1f} MB: {invocation.shown(page)}; open it in any browser")
    if flags.open and not webbrowser.open(page.as_uri()):
        note("no browser could be opened; open the file yourself")
