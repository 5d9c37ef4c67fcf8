"""Errors, and the checks that raise them: what was wrong, what was found, what to do."""

import codecs
import functools
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

Check = Callable[[str, Any], Any]
"""Takes a setting's name and its value; returns the value as a plain Python one, or raises InputError."""


class InputError(ValueError):
    """A mistake in the user's input; the command line prints it in one line and exits with 2."""


class Unreadable(Exception):
    """A file whose content cannot be read; says why in a few words that may follow "a file that"."""


class RunError(RuntimeError):
    """A failure that is not the user's mistake; the command line prints it in one line and exits with 1."""


class Diverged(RunError):
    """A run diverged: its loss or weights are not finite, or its loss is far worse than before."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class Stopped(RunError):
    """A run was stopped by its `stop` event, and is saved."""


VALUE_SHOWN = 500
"""The most characters of a rejected value that a message shows."""


def reject(name: str, found: object, expected: str, remedy: str = "") -> NoReturn:
    """Raises InputError in the form that all settings share."""
    if isinstance(found, numbers.Number) and hasattr(found, "item"):
        found = found.item()  # NumPy's 3 is shown as 3.
    try:
        shown = repr(found)
    except ValueError:  # Python does not write numbers of more than 4,300 digits.
        shown = "a number of thousands of digits"
    if len(shown) > VALUE_SHOWN:
        shown = f"{shown[:VALUE_SHOWN]}..."
    raise InputError(f"{name}: found {shown}, expected {expected}{'; ' if remedy else ''}{remedy}")


def reject_idle(name: str, value: object, where: str, remedy: str) -> NoReturn:
    """Raises InputError for a setting that the others make ineffective."""
    raise InputError(f"{name}: {value!r} has no effect {where}; {remedy}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name or flag: the nearest known one, if any is near."""
    import difflib  # Only mistakes need it.

    names = {name.lstrip("-").casefold(): name for name in known}
    bare = word.lstrip("-").casefold()
    near = [name for name in names if bare and name.startswith(bare)] or difflib.get_close_matches(bare, names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


def whole_number(low: int, high: int | None = None, remedy: str = "") -> Check:
    """A check for a whole number in [low, high], Python's or NumPy's."""
    span = f"of {low} or more" if high is None else f"from {low} to {high}"

    def check(name: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            number = low - 1
        if isinstance(value, bool) or number < low or (high is not None and number > high):
            reject(name, value, f"a whole number {span}", remedy)
        return number

    return check


def real_number(
    low: float, high: float = math.inf, *, above: bool = False, up_to: bool = False, remedy: str = ""
) -> Check:
    """A check for a finite number, Python's or NumPy's.

    Args:
      low: the smallest.
      high: a limit that it must stay below.
      above: whether it must be above `low`.
      up_to: whether it may be `high`.
      remedy: what to do instead.
    """
    span = f"above {low:g}" if above else f"of {low:g} or more"
    if high != math.inf:
        span += f" and {'at most' if up_to else 'below'} {high:g}"

    def check(name: str, value: Any) -> float:
        try:
            number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
        except OverflowError:  # An int too large for a float.
            number = math.inf
        is_low = number < low or (above and number == low)
        is_high = number > high or (number == high and not up_to)
        if not math.isfinite(number) or is_low or is_high:
            reject(name, value, f"a finite number {span}", remedy)
        return number

    return check


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of `choices`; raises InputError for anything else."""
    if value not in choices:
        reject(name, value, f"one of {', '.join(choices)}")
    return str(value)


def one_of(*choices: str) -> Check:
    """A check for one of some words."""
    return functools.partial(check_choice, choices=choices)


def optional(check: Check) -> Check:
    """A check that lets None pass, for a setting that may be left out."""
    return lambda name, value: None if value is None else check(name, value)


def yes_or_no(name: str, value: object) -> bool:
    """A check for True or False."""
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's is none of Python's.
        reject(name, value, "True or False")
    return bool(value)


def plain_text(name: str, value: object) -> str:
    """A check for text."""
    if not isinstance(value, str):
        reject(name, value, "text")
    return str(value)


def file_path(name: str, value: object, remedy: str = "leave it out for the default") -> str:
    """A check for a name or a path; `~` becomes the home directory."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        reject(name, value, "a name, or a path", remedy)
    return os.path.expanduser(path)


def file_paths(name: str, value: Any) -> tuple[str, ...]:
    """A check for one name or path, or several, as a tuple."""
    return tuple(file_path(name, one) for one in (value if isinstance(value, tuple | list) and value else [value]))


def corpus_sources(left_out: str) -> Check:
    """A check for one name or path, or several, as a tuple; `left_out` is the default in words."""

    def check(name: str, value: Any) -> tuple[str, ...]:
        sources = (value,) if isinstance(value, str | os.PathLike) else value
        if not isinstance(sources, tuple | list):
            reject(name, value, "names and paths", 'for example corpus="nietzsche", or corpus=("a.txt", "b.txt")')
        if not sources:
            reject(name, value, "a name or a path", f"leave it out for {left_out}")
        if not all(isinstance(source, str | os.PathLike) and os.fspath(source) for source in sources):
            reject(name, value, "names and paths", 'for example corpus=("a.txt", "b.txt")')
        return tuple(os.path.expanduser(os.fspath(source)) for source in sources)

    return check


def patterns(name: str, value: Any) -> tuple[str, ...]:
    """A check for a pattern of file names, or several, as a tuple."""
    given = (value,) if isinstance(value, str) else value
    if (
        not isinstance(given, tuple | list)
        or not given
        or not all(isinstance(one, str) and one.strip("/.") for one in given)
    ):
        reject(name, value, "patterns of file names", 'for example "*.py"')
    return tuple(given)


def run_names(name: str, value: Any) -> tuple[str, ...]:
    """A check for the name of a run, or several, as a tuple of texts."""
    given = (value,) if isinstance(value, str | os.PathLike) else value
    are_names = isinstance(given, tuple | list) and all(
        isinstance(one, str | os.PathLike) and str(one) for one in given
    )
    if not are_names or not given:
        reject(name, value, "names of runs, or paths to them", "for example checkpoints/nietzsche")
    return tuple(str(one) for one in given)


def text_encoding(name: str, value: object) -> str:
    """A check for the name of a text encoding that Python knows."""
    try:
        known = isinstance(value, str) and codecs.lookup(value)._is_text_encoding
    except (LookupError, ValueError):  # A NUL in it is a ValueError.
        known = False
    if not known:
        reject(name, value, "the name of a text encoding, such as cp949 or windows-1252")
    return str(value)


seed = whole_number(0, 2**32 - 1)
"""A check for a seed: 32 bits, which every generator here accepts."""

_temperature = real_number(0.0, remedy="0 is greedy, 0.5 is cautious, 1 is as learned")


def check_temperature(value: object) -> float:
    """A finite temperature; 0 means greedy. Raises InputError for anything else."""
    return float(_temperature("temperature", value))


def which_epoch(name: str, value: Any) -> int | str:
    """A check for `best`, `last`, or the number of an epoch, which may be in digits."""
    if value in ("best", "last"):
        return str(value)
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if isinstance(number, str):
        reject(name, value, "best, last, or a whole number of 1 or more")
    return int(whole_number(1, remedy="or choose best or last")(name, number))


def stop_strings(name: str, value: Any) -> tuple[str, ...]:
    """A check for one string or several, none of them empty, as a tuple."""
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, tuple | list) or not all(isinstance(string, str) and string for string in strings):
        reject(name, value, "strings that are not empty", r'for example "\n\n", or ("\n", "THE END")')
    return tuple(strings)


def temperatures(name: str, value: Any) -> tuple[float, ...]:
    """A check for one temperature or several, as a tuple."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # NumPy's single number.
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        reject(name, value, "a number, or several", "for example 0.5, or (0.2, 0.5, 1.0)")
    return tuple(_temperature(name, temperature) for temperature in value)
