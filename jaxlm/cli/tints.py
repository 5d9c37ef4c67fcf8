"""Text on a terminal, each character in the colour of how probable it was to a model."""

from collections.abc import Iterable, Iterator
from typing import IO

from jaxlm.cli.guard import note
from jaxlm.cli.output import is_terminal, show

TINTS = ((0.693147, ""), (2.302585, "32"), (4.605170, "33"), (float("inf"), "31"))
"""The most surprise of a character for each colour, in nats: those of 1/2, 1/10, 1/100. Plain, green, yellow, red."""


def says_tints(stream: IO[str]) -> bool:
    """Whether a stream shows tints; says on stderr what they mean, or why there are none."""
    if _has_colours(stream):
        note("tints: probability of 1/2 or more none, 1/10 or more green, 1/100 or more yellow, less red")
        return True
    note("no tints: standard output is no terminal with colours")
    return False


def tinted(pieces: Iterable[tuple[str, float]], stream: IO[str]) -> Iterator[str]:
    """Characters in the colour of their surprise, in nats; where that is nan, as they are."""
    for characters, surprise in pieces:
        colour = next((colour for most, colour in TINTS if surprise <= most), "")
        shown = show(characters, stream)
        yield f"\x1b[{colour}m{shown}\x1b[0m" if colour and shown else shown


def _has_colours(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that shows colours, and the user wants them: NO_COLOR is not set."""
    from rich.console import Console

    if stream is None or not is_terminal(stream):
        return False
    console = Console(file=stream)
    return console.color_system is not None and not console.no_color
