"""The fault matrix in pytest: a test is a row of it, of many trials; the rows' figures are printed at the end.

`--every N` runs only each N-th trial of a row.
"""

import collections
import inspect

import pytest

PARTS = 4
"""A row that takes long is split into so many tests, for as many workers."""

in_parts = pytest.mark.parametrize("row", range(PARTS), ids="part{}".format, indirect=True)
"""Splits a row."""

VERDICTS = ("right", "warned", "line", "wrong")
"""How a trial may end: as if there were no fault; the same, after a warning; with one clear line; otherwise."""


def pytest_addoption(parser):
    help = "of the trials of the fault matrix, run each N-th (default: all)"
    parser.addoption("--every", type=int, default=1, metavar="N", help=help)


class Row:
    """A row of the matrix."""

    def __init__(self, every, part):
        self._every, self._part = every, part
        self.figures = collections.Counter()

    def run(self, trials, check):
        """Runs this worker's share of the trials.

        Args:
          trials: a sequence of arguments for `check`; a tuple is several.
          check: runs one, and returns its verdict, or raises AssertionError.

        Raises:
          AssertionError: some were wrong; it shows the first of them. All have been run by then.
        """
        wrong = []
        # From the middle, since what comes first and last is rarely typical.
        chosen = list(trials)[(self._every - 1) // 2 :: self._every] or list(trials)[:1]
        for trial in chosen if self._part is None else chosen[self._part :: PARTS]:
            arguments = trial if isinstance(trial, tuple) else (trial,)
            try:
                verdict = check(*arguments)
                assert verdict in VERDICTS
                self.figures[verdict] += 1
            except Exception as error:  # Whatever it is, it must not hide the other trials.
                self.figures["wrong"] += 1
                shown = ", ".join(map(str, arguments))
                wrong.append(f"{shown}: {type(error).__name__}: {str(error)[:600]}")
        if wrong:
            more = f"\n... and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            pytest.fail(f"{len(wrong)} wrong:\n" + "\n".join(wrong[:5]) + more, pytrace=False)


@pytest.fixture
def row(request, record_property):
    """The row of this test; its name in the table is the first line of the test's docstring."""
    row = Row(request.config.getoption("every"), getattr(request, "param", None))
    yield row
    name = (inspect.getdoc(request.function) or request.function.__name__).splitlines()[0].rstrip(".")
    record_property("row", [name, *(row.figures[verdict] for verdict in VERDICTS)])


def pytest_terminal_summary(terminalreporter):
    """Prints the table."""
    rows = collections.defaultdict(collections.Counter)
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            # Those of xdist have been through JSON; a fixture's properties come with the teardown, as of all tests.
            if getattr(report, "when", None) != "teardown":
                continue
            for key, value in getattr(report, "user_properties", ()):
                if key == "row":
                    name, *figures = value
                    rows[name].update(dict(zip(VERDICTS, figures, strict=True)))
    if not rows:
        return
    width = max(map(len, rows))
    terminalreporter.section("fault matrix")
    terminalreporter.line(f"{'fault':<{width}}  trials  right  warned  one line  wrong")
    for name, figures in sorted(rows.items()):
        numbers = (sum(figures.values()), *(figures[verdict] for verdict in VERDICTS))
        terminalreporter.line(f"{name:<{width}}  {{:>6}}  {{:>5}}  {{:>6}}  {{:>8}}  {{:>5}}".format(*numbers))
