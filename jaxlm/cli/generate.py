"""`jaxlm sample`: what a user types becomes a prompt; texts go to a terminal, a pipe or a file, or become JSON."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jaxlm import invocation
from jaxlm.cli.guard import note
from jaxlm.cli.options import SampleFlags
from jaxlm.cli.output import show
from jaxlm.cli.tints import says_tints, tinted
from jaxlm.config import SampleConfig, settings_in
from jaxlm.errors import InputError, RunError, reject, reject_idle
from jaxlm.notations.notation import Notation, Write, Written, plural
from jaxlm.notations.registry import BY_SUFFIX, MADE, PROSE
from jaxlm.runs.target import target

if TYPE_CHECKING:  # `--help` need not wait for them.
    from jaxlm.generator import Text, TextGenerator
    from jaxlm.runs.copies import Source
    from jaxlm.runs.storage import Progress

PIPED_PROMPT = "-"
"""The prompt that stands for standard input."""

PROMPT_LIMIT = 64 * 2**20
"""The most bytes that are read as a prompt."""

PIECE_LENGTH = 4000
"""The most characters of a tune or drawing, by default."""

TEXT_ENDINGS = ("", ".txt")
"""The endings of files that get the text of tunes or drawings."""

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL)


def generate(flags: SampleFlags, is_length_given: bool = True) -> None:
    """Generates texts, and shows or stores them; whole tunes or drawings if `output` is a file of such."""
    config, output = _typed(flags), None if flags.output is None else target("output", flags.output)
    if flags.show_probabilities and (flags.json or output):
        other = "json" if flags.json else "output"
        reject_idle("show_probabilities", True, f"with {invocation.setting(other)}", "leave out one of the two")
    from jaxlm.runs.data import notation_of
    from jaxlm.runs.mixing import generator_of, open_trained

    runs = open_trained(flags.where.run, flags.where.checkpoints)
    names = [run.shown for run in runs]
    source = None
    if flags.copied:
        from jaxlm.runs.copies import Source

        source = Source(runs)
    notation = notation_of(runs[0])
    write = None if flags.output is None else _writer(notation, names[0], flags.output, flags.json)
    if write is not None:
        if flags.json:
            reject_idle("json", True, f"with {invocation.setting('output', flags.output)}", "choose another ending")
        config = _whole(config, notation, is_length_given)
    generator, progress = generator_of(runs, flags.mix_ngram, flags.impl, epoch=flags.epoch)
    texts = generator.texts(config)
    note(f"{describe(names, progress, flags.mix_ngram, flags.epoch == 'best')}, seed {texts[0].seed}")
    if flags.json:
        epochs = [reached.epoch for reached in progress]
        several = {"run": names, "epoch": epochs}
        one = {"run": names[0], "epoch": epochs[0]}
        about = {**(several if len(runs) > 1 else one), "mix_ngram": flags.mix_ngram}
        parts = _as_json(generator, texts, config, about, source)
    elif flags.show_probabilities and says_tints(sys.stdout):
        parts = _tinted(generator, texts, config, source)
    else:
        parts = (show(part, sys.stdout) if output is None else part for part in _as_text(texts, config, source))
    if output is None:
        for part in parts:
            print(part, end="", flush=True)
        return
    from jaxlm.runs.files import write_bytes

    if write is None:
        content = "".join(parts).encode("utf-8")
    else:
        pieces = ["".join(text.pieces) for text in texts]
        written = write([piece.strip("\n") for piece in pieces])
        content = written.content
        cut = sum(len(piece) - len(text.prompt) >= config.length for text, piece in zip(texts, pieces, strict=True))
        note(_told(notation, len(pieces), written, cut, config.length))
    try:
        write_bytes(output, content)
    except OSError as error:
        raise RunError(f"output {flags.output}: cannot be written ({error.strerror}); nothing was") from error


def _writer(notation: Notation, run: str, output: str, as_json: bool) -> Write | None:
    """What writes a file of this ending; None if it gets the text as it is, or lines of JSON.

    Raises:
      InputError: the run cannot write such a file, and its text does not belong there.
      RunError: what it needs is not installed.
    """
    suffix = Path(output).suffix.lower()
    if write := notation.writers.get(suffix):
        try:
            write(())  # What is missing is told before anything is generated.
        except ModuleNotFoundError as error:
            raise RunError(
                f"{error.name} is not installed, which {suffix} files need; install it: python -m pip install "
                f"'jaxlm[{notation.extra}]'"
            ) from error
        return write
    is_for_text = as_json or suffix in TEXT_ENDINGS if notation.writers else suffix not in MADE
    if not is_for_text:
        own = f"{notation.files} ({', '.join(notation.writers)}), or their text (.txt)" if notation.writers else "texts"
        raise InputError(
            f"output {output}: found the ending {suffix}, but run {run} writes {own}; {notation.elsewhere}"
        )
    return None


def _whole(config: SampleConfig, notation: Notation, is_length_given: bool) -> SampleConfig:
    """The settings that generate whole pieces: each from its beginning to the separator at its end.

    Raises:
      InputError: the prompt is more than the beginning of one.
    """
    length = config.length if is_length_given else PIECE_LENGTH
    if config.lines:
        return dataclasses.replace(config, length=length)
    if more := (config.prompt or "").strip("\n").count(notation.separator):
        found = plural(more + 1, notation.piece)
        raise InputError(f"prompt: found {found}, expected the beginning of one; leave out the others")
    return dataclasses.replace(
        config,
        length=length,
        prompt=notation.separator + (config.prompt or "").lstrip("\n"),
        stop_strings=(*config.stop_strings, notation.separator),
    )


def _told(notation: Notation, count: int, written: Written, cut: int, length: int) -> str:
    """What was written, in words, and how much of it is not well formed."""
    told = plural(count, notation.piece)
    if cut:
        told += f", {cut:,} of them cut at {length:,} characters"
    if written.malformed:
        faults = ", ".join(f"{fault}: {times:,}" for fault, times in written.faults.items())
        return f"{told}, {written.malformed:,} of them not well formed, written as far as they go ({faults})"
    return f"{told}, all of them well formed"


def describe(runs: Sequence[str], progress: Sequence["Progress"], mix_ngram: int, best: bool = True) -> str:
    """A checkpoint of each run in words, whether it is its best, and what is mixed in."""
    found = []
    for run, reached in zip(runs, progress, strict=True):
        kind = "loss" if reached.validation is None else "validation loss"
        words = f"epoch {reached.epoch} ({'best: ' if best else ''}{kind} {reached.judged or 0.0:.4f})"
        found.append(f"{run}, {f'step {reached.step}' if reached.judged is None else words}")
    average = f"average of {len(found)} runs: " if len(found) > 1 else ""
    return average + "; ".join(found) + (f", n-gram of order {mix_ngram} mixed in" if mix_ngram else "")


def _typed(flags: SampleFlags) -> SampleConfig:
    """The settings with the prompt that is meant, and with escapes in what was typed replaced."""
    config = flags.config
    prompt, stops = config.prompt, config.stop_strings
    if prompt is not None and flags.prompt_file is not None:
        reject("prompt_file", flags.prompt_file, "none beside a prompt", "leave out one of the two")
    is_typed = prompt is not None and prompt != PIPED_PROMPT
    if flags.escapes:
        if not is_typed and not stops:
            reject_idle("escapes", True, "without a prompt or a stop string on the command line", "leave it out")
        prompt = _unescaped("prompt", prompt) if is_typed and prompt else prompt
        stops = tuple(_unescaped("stop_strings", stop) for stop in stops)
    if flags.prompt_file is not None:
        prompt = read_prompt(flags.prompt_file)
    elif prompt == PIPED_PROMPT and not is_typed:
        prompt = _read(sys.stdin, "prompt")
    return dataclasses.replace(config, prompt=prompt, stop_strings=stops)


def read_prompt(path: str) -> str:
    """The text of a prompt's file, or the tune or drawing in it."""
    name = f"prompt_file {path}"
    if BY_SUFFIX.get(Path(path).suffix.lower(), PROSE).is_plain:
        try:
            with open(path, "rb") as file:
                return _read(file, name)
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror}); expected a text file") from error
    from jaxlm.runs.data import read_piece

    try:
        return read_piece(path)
    except InputError as error:
        raise InputError(f"{name}: {str(error).removeprefix(f'corpus {path}: ')}") from error


def _read(stream: IO[bytes] | IO[str] | None, name: str) -> str:
    """The text of a stream, without the line end after its last line, which editors and `echo` add."""
    if stream is None:
        raise InputError(f"{name}: found that standard input is closed, expected text there")
    content = getattr(stream, "buffer", stream).read(PROMPT_LIMIT + 1)
    if len(content) > PROMPT_LIMIT:
        raise InputError(f"{name}: found more than {PROMPT_LIMIT:,} bytes, expected a prompt; shorten it")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: found byte 0x{content[error.start]:02X} at offset {error.start}, expected UTF-8 text; "
            "convert it, for example with iconv"
        ) from error
    return str(text).removesuffix("\n").removesuffix("\r")


def _unescaped(name: str, text: str) -> str:
    r"""A text with \n, \t, \r, \\, \xHH, \uHHHH and \UHHHHHHHH replaced by what they stand for."""

    def character(found: re.Match[str]) -> str:
        digits = found[1] or found[2] or found[3]
        if digits and int(digits, 16) <= sys.maxunicode:
            return chr(int(digits, 16))
        if digits or found[4] not in ESCAPES:
            known = r"\n, \t, \r, \\, \xHH, \uHHHH or \UHHHHHHHH"
            reject(name, found[0], f"one of {known}", "a backslash itself is typed twice")
        return ESCAPES[found[4]]

    return _ESCAPE.sub(character, text)


def _as_text(texts: Sequence["Text"], config: SampleConfig, source: "Source | None") -> Iterator[str]:
    """All texts in pieces, with lines between them that tell them apart; `lines` are told apart already."""
    for text, heading in zip(texts, _headings(texts, config), strict=True):
        yield heading
        generated = ""
        for number, piece in enumerate(text.pieces):
            generated += piece if number else ""  # The prompt is first.
            yield piece
        yield f"\n{_copied(source, generated)}"


def _headings(texts: Sequence["Text"], config: SampleConfig) -> Iterator[str]:
    for i, text in enumerate(texts):
        own_seed = f", seed {text.seed}" if config.count > 1 else ""
        is_told = len(config.temperature) > 1 and i % config.lines == 0 if config.lines else len(texts) > 1
        yield f"--- temperature {text.temperature:g}{own_seed}\n" if is_told else ""


def _copied(source: "Source | None", generated: str) -> str:
    """A line that says how much a generated text copies; empty unless that was asked for."""
    if source is None:
        return ""
    copy = source.copy(generated)
    span = f" ({generated[copy.start : copy.start + copy.length]!r})" if copy.length else ""
    return (
        f"--- longest span also in the training text: {copy.length} characters{span}; "
        f"of a piece of that text in the rest of it: {source.usual(len(generated))} (median)\n"
    )


def _tinted(
    generator: "TextGenerator", texts: Sequence["Text"], config: SampleConfig, source: "Source | None"
) -> Iterator[str]:
    """As `_as_text`, with each character in the colour of its probability; each text as soon as it is complete."""
    for text, heading in zip(texts, _headings(texts, config), strict=True):
        prompt, *pieces = text.pieces
        generated = "".join(pieces)
        yield heading + show(prompt, sys.stdout)
        yield from tinted(generator.surprises(text.prompt, generated), sys.stdout)
        yield f"\n{show(_copied(source, generated), sys.stdout)}"


def _as_json(
    generator: "TextGenerator",
    texts: Sequence["Text"],
    config: SampleConfig,
    about: dict[str, object],
    source: "Source | None",
) -> Iterator[str]:
    """An object for each text, in a line."""
    settings = {name: value for name, _, value in settings_in(config)}
    for name in ("prompt", "count", "unknown"):
        del settings[name]
    for text in texts:
        _, *pieces = text.pieces
        generated = "".join(pieces)
        surprises = [surprise for _, surprise in generator.surprises(text.prompt, generated)]
        values = {
            "prompt": text.prompt,
            "text": generated,
            "log_probability": 0.0 - sum(surprises),
            **about,
            **settings,
        }
        own = {"temperature": text.temperature, "seed": text.seed, "mode": config.mode or generator.mode}
        if source:
            copy = source.copy(generated)
            own |= {"copied": copy.length, "copied_from": copy.start, "copied_at": copy.at}
            own["copied_usually"] = source.usual(len(generated))
        yield json.dumps({**values, **own}) + "\n"
