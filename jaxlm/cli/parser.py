"""Command-line options from the settings of dataclasses: parsing and help.

Written by hand: with argparse, half of the code would reword its messages, and no value could begin with a dash
(`--prompt "--the"`).
"""

import dataclasses
import re
import shutil
import textwrap
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Literal

from jaxlm import invocation
from jaxlm.config import Checked, Setting
from jaxlm.errors import InputError, did_you_mean

EXPECTED = {int: "a whole number", float: "a number"}
METAVARS = {int: "N", float: "X", str: "TEXT"}
HELP = "-h", "--help"

WIDE, LEFT = 60, 27
"""The terminal width from which help is shown beside the flags, and the width of the flags' column."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command and its options.

    Attributes:
      name: as it is typed.
      summary: what it does, in a sentence.
      defaults: takes the given settings; returns the defaults, which may depend on them, as a dataclass.
      files: the setting for positional arguments, if any.
      places: the settings for one positional argument each, in order.
    """

    name: str
    summary: str
    defaults: Callable[[Mapping[str, Any]], Checked]
    files: str = ""
    places: tuple[str, ...] = ()

    @property
    def arguments(self) -> str:
        """The positional arguments, as `--help` shows them."""
        taken = next((option for option in options(self.defaults({})) if option.name == self.files), None)
        return f" [{taken.about.metavar} ...]" if taken else "".join(f" {place.upper()}" for place in self.places)


@dataclasses.dataclass(frozen=True)
class Option:
    """A setting as a flag.

    Attributes:
      name: the setting's name.
      about: the setting.
      kind: the type of its value, or of each of several.
      several: whether it takes any number of values.
      choices: the allowed words; empty if any are.
      default: the default value.
      turned_off: whether it is a switch that is on by default.
    """

    name: str
    about: Setting
    kind: type
    several: bool
    choices: tuple[str, ...]
    default: Any
    turned_off: bool

    @property
    def flag(self) -> str:
        """Its long flag."""
        return f"--{self.about.flag or self.name.replace('_', '-')}"

    @property
    def flags(self) -> dict[str, bool]:
        """All of its flags; the one that turns a switch off maps to False."""
        flags = {f"-{self.about.short}": True} if self.about.short else {}
        flags[self.flag] = True
        if self.kind is bool:
            flags[f"--no-{self.flag[2:]}"] = False
        return flags

    @property
    def shown(self) -> str:
        """Its flags and the placeholder for its value, as `--help` shows them."""
        flags = ", ".join(flag for flag, on in self.flags.items() if on or self.turned_off)
        if self.kind is bool:
            return flags
        value = self.about.metavar or "|".join(self.choices) or METAVARS[self.kind]
        return f"{flags} {value} ..." if self.several else f"{flags} {value}"

    @property
    def shown_default(self) -> str:
        """Its default in words; empty for a switch that is off by default."""
        if self.default is None:
            return self.about.unset
        if self.kind is bool:
            return "yes" if self.default else "no" if self.turned_off else ""
        if self.several:
            return " ".join(str(value) for value in self.default)
        return f"{self.default:g}" if self.kind is float else str(self.default)

    def read(self, word: str) -> Any:
        """Parses a value.

        Raises:
          InputError: the word is not a valid value.
        """
        if self.choices and word not in self.choices:
            raise InputError(f"{self.flag}: found {word!r}, expected one of {', '.join(self.choices)}")
        try:
            return self.kind(word)
        except ValueError:
            raise InputError(f"{self.flag}: found {word!r}, expected {EXPECTED[self.kind]}") from None


def options(config: Checked) -> Iterator[Option]:
    """Yields the settings of a dataclass, including nested ones, as options; its values are the defaults."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if "setting" not in field.metadata:
            yield from options(value)
            continue
        if NoneType in typing.get_args(kind):
            kind = typing.get_args(kind)[0]
        if several := typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        about, off = field.metadata["setting"], field.default is True
        yield Option(field.name, about, str if choices else kind, several, choices, value, off)


def groups(config: Checked) -> dict[str, list[Option]]:
    """The options by group."""
    found: dict[str, list[Option]] = {}
    for option in options(config):
        found.setdefault(option.about.group, []).append(option)
    return found


def read(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line gives, by name, and `help` if it was requested.

    Raises:
      InputError: there is no such option, or its value is missing or cannot be read.
    """
    try:
        return _read(command, argv)
    except InputError as error:
        raise see_help(str(error), invocation.command(command.name)) from None


def see_help(message: str, program: str) -> InputError:
    """A mistake on the command line, with a pointer to `--help`."""
    return InputError(f"{message}{'' if message.endswith('?') else ';'} see {program} --help")


def _read(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    flags = {flag: (option, on) for option in options(command.defaults({})) for flag, on in option.flags.items()}
    given: dict[str, Any] = {}
    words: list[str] = []
    rest = deque(argv)
    while rest:
        word = rest.popleft()
        if word == "--":
            words += rest
            break
        if word in HELP:
            given["help"] = True
            continue
        if not _is_flag(word):
            words.append(word)
            continue
        flag, value = _split(word)
        if f"-{word}" in flags:
            flag = word  # -length is no -l with the value "ength".
        if flag not in flags:
            raise InputError(f"{flag}: no such option{did_you_mean(flag, flags)}")
        option, on = flags[flag]
        if option.kind is bool:
            if value is not None:
                raise InputError(f"{flag}: found {value!r}, expected no value")
            given[option.name] = on
        elif option.several:
            values = _values(flag, rest, flags, option) if value is None else [value]
            given[option.name] = given.get(option.name, ()) + tuple(option.read(value) for value in values)
        else:
            given[option.name] = option.read(_next(flag, rest, flags) if value is None else value)
    for place in command.places:
        if words and place not in given:
            given[place] = words.pop(0)
    if words and not command.files:
        if words[0].startswith("-"):  # After `--`.
            raise InputError(f"{words[0]}: expected an option here")
        if (flag := f"--{words[0]}") in flags:
            raise InputError(f"{words[0]}: expected an option here; did you mean {flag}?")
        takers = [f"{flag} {words[0]}" for flag in ("--run", "--corpus") if flag in flags]
        usual = f", such as {' or '.join(takers)}" if takers else ""
        raise InputError(f"{words[0]}: expected an option before it{usual}")
    if words and command.files in given:
        raise InputError(f"{words[0]}: given in addition to --{command.files}; use one or the other")
    return {**given, command.files: tuple(words)} if words else given


def _is_flag(word: str) -> bool:
    """Whether a word is a flag rather than a number or a lone dash."""
    return re.match("--?[A-Za-z]", word) is not None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _split(word: str) -> tuple[str, str | None]:
    """A flag, and the value attached to it, if any: --length=9, -l9."""
    flag, value = word.split("=", 1) if word.startswith("--") and "=" in word else (word, "")
    if not word.startswith("--"):
        flag, value = word[:2], word[2:].removeprefix("=")
    return flag, value if len(word) > len(flag) else None


def _values(flag: str, rest: deque[str], flags: Mapping[str, Any], option: Option) -> list[str]:
    """Takes the values of an option with several, up to the next flag or, among numbers, the next other word.

    Numbers may be none, others not.
    """
    values = [] if option.kind is float else [_next(flag, rest, flags)]
    while rest and (_is_number(rest[0]) if option.kind is float and values else not _is_flag(rest[0])):
        values.append(rest.popleft())
    return values


def _next(flag: str, rest: deque[str], flags: Mapping[str, Any]) -> str:
    """Takes the value of an option, which may begin with a dash unless it is a flag itself."""
    if not rest:
        raise InputError(f"{flag}: expected a value after it")
    if rest[0] in flags or rest[0] in HELP:
        raise InputError(
            f"{flag}: expected a value after it, found {rest[0]}; if that is the value, type {flag}={rest[0]}"
        )
    return rest.popleft()


def help_text(command: Command, defaults: Checked) -> str:
    """The text of `--help`, wrapped to the width of the terminal."""
    width = terminal_width()
    lines = [
        *textwrap.wrap(f"Usage: {invocation.command(command.name)}{command.arguments} [options]", width),
        "",
        *textwrap.wrap(command.summary, width),
    ]
    for group, members in groups(defaults).items():
        lines += ["", f"{group}:"]
        for option in members:
            default = f" (default: {option.shown_default})" if option.shown_default else ""
            lines += entry(option.shown, option.about.help + default, width)
    return "\n".join(lines)


def terminal_width() -> int:
    """The width to wrap to: the terminal's, but from 20 to 100 columns."""
    return max(20, min(shutil.get_terminal_size().columns, 100))


def entry(term: str, text: str, width: int, left: int = LEFT) -> list[str]:
    """A term in `left` columns and, beside it or, on a narrow terminal, below it, its explanation."""
    if width < WIDE:
        below = textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        return textwrap.wrap(term, width, break_on_hyphens=False) + below
    indent = " " * left
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if len(term) > left - 4:
        return [f"  {term}", *lines]
    return [f"  {term}".ljust(left) + lines[0].lstrip(), *lines[1:]]
