"""Mistakes and failures, and the checks that tell of them: what was wrong, what was found, what to do."""

import codecs
import math
from typing import NoReturn


class InputError(ValueError):
    """A mistake in what the user gave; the command line prints it as one line and exits with 2."""


class RunError(RuntimeError):
    """A run that cannot go on though its input was right; the command line exits with 1."""


class Diverged(RunError):
    """A run's loss or weights are lost: not finite, or far worse than they were."""


class Stopped(RunError):
    """A run was asked to stop by the event that it was given, and is saved."""


def reject(name: str, found: object, expected: str, remedy: str = "") -> NoReturn:
    """Raises InputError in the one form that all settings share."""
    raise InputError(f"{name}: found {found!r}, expected {expected}{'; ' * bool(remedy)}{remedy}")


def check_int(name: str, value: object, low: int, high: int | None = None, remedy: str = "") -> None:
    """Raises InputError unless `value` is an int in [low, high]."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not good or (high is not None and value > high):  # type: ignore[operator]
        span = f"of {low} or more" if high is None else f"from {low} to {high}"
        reject(name, value, f"a whole number {span}", remedy)


def check_float(name: str, value: object, low: float, high: float = math.inf, *, above: bool, remedy: str = "") -> None:
    """Raises InputError unless `value` is finite, over `low` (or at it, if not `above`) and under `high`."""
    try:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # An int beyond all floats.
        good = False
    if not good or value < low or (above and value == low) or value >= high:  # type: ignore[operator]
        lower = f"above {low:g}" if above else f"of {low:g} or more"
        upper = "" if high == math.inf else f" and below {high:g}"
        reject(name, value, f"a finite number {lower}{upper}", remedy)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        reject(name, value, f"one of {', '.join(choices)}")


def check_bool(name: str, value: object) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        reject(name, value, "True or False")


def check_seed(value: object) -> None:
    """Raises InputError unless `value` fits the 32 bits that every generator here takes."""
    check_int("seed", value, 0, 2**32 - 1)


def check_temperature(value: object) -> None:
    """Raises InputError unless `value` is a finite temperature; 0 means greedy."""
    check_float("temperature", value, 0.0, above=False, remedy="0 is greedy, 0.5 is cautious, 1 is as learned")


def check_temperatures(value: object) -> None:
    """Raises InputError unless `value` is a tuple or list of temperatures."""
    if not isinstance(value, tuple | list):
        reject("temperature", value, "a tuple of numbers", "for example (0.5,)")
    for temperature in value:
        check_temperature(temperature)


def check_corpus(value: object, left_out: str) -> tuple[str, ...] | None:
    """The sources of a corpus as a tuple; raises InputError unless there are some, or it is None."""
    if value is None:
        return None
    if not isinstance(value, tuple | list) or not all(isinstance(part, str) for part in value):
        reject("corpus", value, "a tuple of names and paths", 'for example corpus=("nietzsche",)')
    if not value:
        reject("corpus", value, "a name or a path", f"leave it out for {left_out}")
    return tuple(value)


def check_encoding(value: object) -> None:
    """Raises InputError unless `value` is the name of a text encoding that Python knows, or None."""
    if value is None:
        return
    try:
        known = isinstance(value, str) and codecs.lookup(value)._is_text_encoding
    except LookupError:
        known = False
    if not known:
        reject("encoding", value, "the name of a text encoding, such as cp949 or windows-1252")


def check_length(value: object) -> None:
    """Raises InputError unless `value` can be a number of characters to generate."""
    check_int("length", value, 0, remedy="it counts the characters to write")
