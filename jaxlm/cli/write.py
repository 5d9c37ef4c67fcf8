"""`jaxlm write`: a person and a model write a text in turns."""

import contextlib
import dataclasses
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from jaxlm import invocation
from jaxlm.cli.generate import PROMPT_LIMIT, describe, read_prompt
from jaxlm.cli.guard import note
from jaxlm.cli.options import WriteFlags
from jaxlm.cli.output import is_terminal, show
from jaxlm.config import SampleConfig
from jaxlm.errors import InputError, did_you_mean, reject
from jaxlm.errors import seed as check_seed
from jaxlm.notations.registry import MADE
from jaxlm.runs.target import target

if TYPE_CHECKING:  # `--help` need not wait for them.
    from jaxlm.generator import Passage, TextGenerator

SENTENCE_ENDS = (
    *(mark + close + space for mark in ".!?\u2026" for close in ("", *"\"'\u201d\u2019\u00bb)") for space in " \n"),
    *"\u3002\uff01\uff1f",  # Chinese and Japanese have no spaces after them.
)
"""The strings after which a continuation ends by default."""

UNDO = 100
"""The most steps that can be taken back."""

WORDS = 5
"""The words that `/top` offers by default."""

ABOVE = -1
"""In place of a row's start in the text: the row is a message."""


class _Step(NamedTuple):
    """A state of the text: the passage, None while there is no text; and the seed of the continuation that made it."""

    passage: "Passage | None"
    seed: int | None = None


class Session:
    """A text that is written in turns: what a person adds, continuations, and chosen words. Each is a step.

    A step back restores the passage as it was, text and memory. So each continuation is what
    `TextGenerator.generate` writes after the same text with the same seed, whatever was written and taken back before.

    Attributes:
      config: how continuations are drawn; its seed is that of the next one, and counts up.
      words: the words that were offered last, while the text is the one that they were found for.
    """

    def __init__(self, generator: "TextGenerator", config: SampleConfig, prompt: str | None = None) -> None:
        self.config = config
        self.words: list[tuple[str, float]] = []
        self._generator = generator
        self._steps = [_Step(None)]
        if prompt:
            self._steps = [_Step(self._read(prompt))]

    @property
    def text(self) -> str:
        """The whole text."""
        passage = self._steps[-1].passage
        return "" if passage is None else passage.text

    @property
    def last_seed(self) -> int | None:
        """The seed of the last continuation that is in the text, if it is not too long ago."""
        return next((step.seed for step in reversed(self._steps) if step.seed is not None), None)

    def add(self, text: str) -> None:
        """Adds what a person has written.

        Raises:
          InputError: it has unknown characters; nothing was added.
        """
        self._append(_Step(self._read(self.text + text)))

    def go_on(self) -> Generator[str, None, None]:
        """Continues the text, or the run's seed text if there is none; yields what is new, piece by piece.

        Each piece is part of the text when it is yielded, so that whoever stops here keeps what there is.
        """
        if not self.text:
            self.add(self._generator.seed_text)
        begun = self._steps[-1].passage
        assert begun is not None
        step = _Step(begun, self.config.seed)
        pieces = self._generator.continuation(begun, self.config)
        self._append(step)
        self.config = dataclasses.replace(self.config, seed=((self.config.seed or 0) + 1) % 2**32)
        for piece in pieces:
            step = step._replace(passage=self._read(self.text + piece))
            self._steps[-1] = step
            yield piece

    def again(self) -> Generator[str, None, None]:
        """Takes the last continuation back, and continues with the next seed.

        Raises:
          InputError: the last step was no continuation.
        """
        if self._steps[-1].seed is None:
            raise InputError("again: found no continuation at the end of the text, expected one; Enter writes one")
        self.undo()
        return self.go_on()

    def undo(self) -> None:
        """Takes the last step back. The seed of the next continuation stays, so that it is another one.

        Raises:
          InputError: there is no step.
        """
        if len(self._steps) == 1:
            raise InputError("undo: found no step to take back")
        self._steps.pop()
        self.words = []

    def find_words(self, count: int) -> None:
        """Finds the most probable next words.

        Raises:
          InputError: there is no text yet.
        """
        passage = self._steps[-1].passage
        if passage is None:
            raise InputError("top: found no text yet, expected some to find the next word for; type its beginning")
        self.words = self._generator.next_words(passage, count)

    def choose(self, number: int) -> None:
        """Adds one of the words that were found; the first is 1."""
        self.add(self.words[number - 1][0])

    def _append(self, step: _Step) -> None:
        self._steps = [*self._steps[-UNDO:], step]
        self.words = []

    def _read(self, text: str) -> "Passage":
        known = [step.passage for step in self._steps if step.passage is not None]
        return self._generator.read(text, known, mode=self.config.mode, unknown=self.config.unknown)


class Interrupts:
    """Ctrl-C: noticed while a text is written; while a line is typed, it is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.noticed = False
        self.is_typing = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.noticed = True
        if self.is_typing:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles Ctrl-C while the context lasts, unless it is ignored, or in another thread than the main one."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            yield
            return
        previous = signal.signal(signal.SIGINT, self.handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    @contextlib.contextmanager
    def typing(self) -> Iterator[None]:
        """For the time in which a line is typed."""
        self.noticed, self.is_typing = False, True
        try:
            yield
        finally:
            self.is_typing = False


class Page(Protocol):
    """Where the text is shown, and lines are typed."""

    def show(self, text: str) -> None:
        """Shows the text as it is now: more than before, or less, or another."""

    def tell(self, line: str) -> None:
        """Shows a line that is not part of the text."""

    def ask(self) -> str:
        """Waits for a line.

        Raises:
          EOFError: there are no more lines.
          KeyboardInterrupt: Ctrl-C; what was typed is dropped.
          InputError: the line is no text, or too long.
        """

    def close(self) -> None:
        """Ends the last line."""


class Pipe:
    """Standard input and output that are not both a terminal: the text goes to stdout, other lines go to stderr.

    What is taken back cannot be unprinted: the text's last line is printed again, below.
    """

    def __init__(self) -> None:
        self._shown = ""

    def show(self, text: str) -> None:
        if not text.startswith(self._shown):
            print()
            self._shown = text[: text.rfind("\n") + 1]
        print(show(text[len(self._shown) :], sys.stdout), end="", flush=True)
        self._shown = text

    def tell(self, line: str) -> None:
        note(line)

    def ask(self) -> str:
        if sys.stdin is None:
            raise EOFError
        content = getattr(sys.stdin, "buffer", sys.stdin).readline(PROMPT_LIMIT + 1)
        if not content:
            raise EOFError
        if len(content) > PROMPT_LIMIT:
            while content and content[-1:] not in (b"\n", "\n"):
                content = getattr(sys.stdin, "buffer", sys.stdin).readline(PROMPT_LIMIT)
            raise InputError(f"found a line of more than {PROMPT_LIMIT:,} bytes; shorten it")
        return (content if isinstance(content, str) else _decoded(content)).removesuffix("\n").removesuffix("\r")

    def close(self) -> None:
        print(flush=True)


class Screen:
    """A terminal. The text stands there as it is saved: lines are typed at its end, and then become part of it.

    The rows of the screen are counted, so that what is not part of the text, or no longer, can be erased: a command
    that was typed, or a step that was taken back. Messages stand between two rows of the text.
    """

    def __init__(self) -> None:
        self._shown = ""
        # Where each row begins in the text, or ABOVE; the cursor is in the last.
        self._rows = [0]

    def show(self, text: str) -> None:
        if not text.startswith(self._shown):
            self._go_back(text)
        start = self._rows.pop()
        self._rows += _rows(text, start, self._size().columns)
        print(show(text[len(self._shown) :], sys.stdout), end="", flush=True)
        self._shown = text

    def tell(self, line: str) -> None:
        self._clear_row()
        message = show(f"-- {' '.join(line.splitlines())}", sys.stdout)
        print(message, flush=True)
        self._rows[-1:-1] = [ABOVE for _ in _rows(message, 0, self._size().columns)]

    def ask(self) -> str:
        columns = self._size().columns
        row = show(self._shown[self._rows[-1] :], sys.stdout)
        full = int(len(list(_rows(row + ".", 0, columns))) > 1)
        if full:  # Readline expects the cursor at the beginning of a row.
            print()
        self._clear_row()
        prompt = "" if full else row
        line = ""
        try:
            line = input(prompt)
        except (KeyboardInterrupt, EOFError):
            self._up(full)
            raise
        except UnicodeDecodeError as error:
            raise InputError("found bytes that are not text in the terminal's encoding") from error
        self._up(len(list(_rows(prompt + line, 0, columns))) + full)
        return line

    def close(self) -> None:
        print(flush=True)

    def _go_back(self, text: str) -> None:
        """Erases all rows from the first one in which another text differs from the one that is shown."""
        pairs = enumerate(zip(text, self._shown, strict=False))
        same = next((i for i, (new, old) in pairs if new != old), min(len(text), len(self._shown)))
        rows, size = 0, self._size()
        while self._rows[-1] > same or self._rows[-1] == ABOVE:
            self._rows.pop()
            rows += 1
        if rows >= size.lines:  # It has left the screen, which is filled anew.
            start = self._rows.pop()
            above = [row for row in self._rows if row != ABOVE]
            left = [*above, *_rows(text, start, size.columns)]
            self._rows = left[: max(len(left) - size.lines + 1, 0) + 1]
            rows = size.lines - 1
        self._up(rows)
        self._shown = text[: self._rows[-1]]

    def _clear_row(self) -> None:
        """Erases the row of the cursor."""
        self._up(0)
        self._shown = self._shown[: self._rows[-1]]

    def _up(self, rows: int) -> None:
        """Moves the cursor to the beginning of a row further up, and erases all from there."""
        print(f"\x1b[{rows}A\r\x1b[J" if rows else "\r\x1b[J", end="", flush=True)

    def _size(self) -> os.terminal_size:
        size = os.get_terminal_size(sys.stdout.fileno())
        return size if size.columns > 1 and size.lines > 1 else os.terminal_size((80, 24))


def _rows(text: str, start: int, columns: int) -> Iterator[int]:
    """Where the rows of a terminal begin in a text from `start` on, which is the beginning of a row."""
    from rich.cells import cell_len  # A Korean letter takes two columns.

    column = 0
    yield start
    for i in range(start, len(text)):
        if text[i] == "\n":
            column = 0
            yield i + 1
            continue
        # A tab does not leave the row.
        width = min(8 - column % 8, columns - 1 - column) if text[i] == "\t" else cell_len(show(text[i], sys.stdout))
        if column + width > columns:
            column = 0
            yield i
        column += width


class Writer:
    """Takes lines, text or commands, and acts on them."""

    def __init__(self, session: Session, page: Page) -> None:
        self._session, self._page = session, page
        self._interrupts = Interrupts()
        self._saved: tuple[Path, str] | None = None

    def run(self) -> None:
        """Until there are no more lines."""
        with self._interrupts.handled(), contextlib.suppress(EOFError):
            while True:
                self._page.show(self._session.text)
                try:
                    with self._interrupts.typing():
                        line = self._page.ask()
                    self._answer(line)
                except KeyboardInterrupt:
                    pass
                except InputError as error:
                    self._page.tell(f"error: {error}")
        self._page.show(self._session.text)
        self._page.close()

    def _answer(self, line: str) -> None:
        session = self._session
        if session.words and line.strip().isdecimal() and len(line) < 10:
            number = int(line)
            if not 1 <= number <= len(session.words):
                reject("word", number, f"a number from 1 to {len(session.words)}", "or type text, or a command")
            session.choose(number)
        elif line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.partition(" ")
            if name not in SLASH_COMMANDS:
                near = did_you_mean(name, SLASH_COMMANDS) if name != "/" else ""
                raise InputError(f"{name}: no such command{near or '; /help lists them'}")
            SLASH_COMMANDS[name].act(self, rest)
        else:
            if line:
                session.add(line.removeprefix("/") if line.startswith("//") else line)
            self._write(session.go_on())

    def _write(self, pieces: Generator[str, None, None]) -> None:
        """Shows a continuation as it is written, until Ctrl-C."""
        self._page.show(self._session.text)
        with contextlib.closing(pieces):
            for _ in pieces:
                self._page.show(self._session.text)
                if self._interrupts.noticed:
                    break

    def _again(self, rest: str) -> None:
        _none("again", rest)
        self._write(self._session.again())

    def _undo(self, rest: str) -> None:
        _none("undo", rest)
        self._session.undo()

    def _top(self, rest: str) -> None:
        count = _number("top", rest, int) if rest.strip() else WORDS
        if not 1 <= count <= 99:
            reject("top", count, "a whole number from 1 to 99")
        self._session.find_words(count)
        if not self._session.words:
            raise InputError("top: found no next word; Enter goes on")
        found = enumerate(self._session.words, 1)
        offered = "   ".join(f"{i} {word!r} {probability:.0%}" for i, (word, probability) in found)
        self._page.tell(f"{offered}   (type its number)")

    def _temperature(self, rest: str) -> None:
        self._change(temperature=(_number("t", rest, float),))

    def _length(self, rest: str) -> None:
        self._change(length=_number("l", rest, int))

    def _seed(self, rest: str) -> None:
        if rest.strip():
            self._change(seed=check_seed("seed", _number("seed", rest, int)))
        last = self._session.last_seed
        before = "" if last is None else f"; that of the last one was {last}"
        self._page.tell(f"the seed of the next continuation is {self._session.config.seed}{before}")

    def _change(self, **settings: object) -> None:
        self._session.config = dataclasses.replace(self._session.config, **settings)  # type: ignore[arg-type]

    def _line(self, rest: str) -> None:
        self._session.add(f"{rest}\n")

    def _save(self, rest: str) -> None:
        self._store(rest, replace=False)

    def _replace(self, rest: str) -> None:
        self._store(rest, replace=True)

    def _store(self, rest: str, replace: bool) -> None:
        """Saves the text, with a line end; where a file is already, only if it is as it was saved here, or if asked."""
        from jaxlm.runs import files

        name = rest.strip()
        if not name and self._saved is None:
            raise InputError("save: found no file's name, expected one; for example /save story.txt")
        path = target("save", os.path.expanduser(name)) if name else self._saved[0]  # type: ignore[index]
        if path.suffix.lower() in MADE:
            raise InputError(
                f"save {name}: found the ending {path.suffix}, expected that of a text; save a text, of which "
                f"{invocation.command('sample')} --prompt-file FILE -l 0 -o {name} makes such a file"
            )
        content = f"{self._session.text}\n"
        try:
            if files.is_there(path) and not replace and not self._is_own(path):
                raise InputError(
                    f"save: found {invocation.shown(path)} already there; choose another name, or replace it with "
                    f"/save! {name or path}"
                )
            files.write_text(path, content)
        except OSError as error:
            raise InputError(f"save {name or path}: cannot be written ({error.strerror}); nothing was") from error
        self._saved = path, content
        self._page.tell(f"saved {len(self._session.text):,} characters to {invocation.shown(path)}")

    def _is_own(self, path: Path) -> bool:
        """Whether a file is what was saved here last."""
        from jaxlm.runs import files

        if self._saved is None or path != self._saved[0]:
            return False
        content = self._saved[1].encode()
        try:
            return files.read_bytes(path, len(content)) == content
        except files.Damaged:
            return False

    def _help(self, rest: str) -> None:
        width = max(len(command.usage) for command in SLASH_COMMANDS.values())
        for command in SLASH_COMMANDS.values():
            self._page.tell(f"{command.usage:<{width}}  {command.help}")

    def _quit(self, rest: str) -> None:
        raise EOFError


class _Command(NamedTuple):
    usage: str
    help: str
    act: Callable[[Writer, str], None]


SLASH_COMMANDS = {
    "/again": _Command("/again", "takes the last continuation back, and writes another", Writer._again),
    "/undo": _Command(
        "/undo", "takes the last step back: a continuation, a chosen word, or what you typed", Writer._undo
    ),
    "/top": _Command("/top 5", "offers the five most probable next words; type the number of one", Writer._top),
    "/t": _Command("/t 0.8", "sets the temperature: lower is more cautious, higher is wilder", Writer._temperature),
    "/l": _Command("/l 200", "sets the most characters of a continuation", Writer._length),
    "/seed": _Command("/seed 7", "sets the seed of the next continuation; /seed alone shows it", Writer._seed),
    "/n": _Command("/n TEXT", "adds TEXT, or nothing, and a line end, and writes nothing", Writer._line),
    "/save": _Command("/save story.txt", "saves the text; /save! also where another file is already", Writer._save),
    "/save!": _Command("/save! story.txt", "replaces the file", Writer._replace),
    "/help": _Command("/help", "this list; a text that begins with / is typed with //", Writer._help),
    "/quit": _Command("/quit, Ctrl-D", "ends", Writer._quit),
}


def _none(name: str, rest: str) -> None:
    if rest.strip():
        reject(name, rest.strip(), "nothing after it")


def _number(name: str, word: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(word)
    except ValueError:
        example = {int: "a whole number", float: "a number, for example 0.8"}[kind]
        reject(name, word.strip(), example)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"found byte 0x{content[error.start]:02X} at offset {error.start} of the line, expected UTF-8 text"
        ) from error


def write_in_turns(flags: WriteFlags) -> None:
    """Loads the model, and writes until there are no more lines."""
    if flags.prompt is not None and flags.prompt_file is not None:
        reject("prompt_file", flags.prompt_file, "none beside a prompt", "leave out one of the two")
    prompt = flags.prompt if flags.prompt_file is None else read_prompt(flags.prompt_file)
    stops = (*flags.stop_strings, *(SENTENCE_ENDS if flags.sentences else ()))
    config = SampleConfig(
        length=flags.length,
        temperature=(flags.temperature,),
        seed=secrets.randbelow(2**32) if flags.seed is None else flags.seed,
        mode=flags.mode,
        unknown=flags.unknown,
        stop_strings=stops,
        keep_stop=bool(stops),
        top_k=flags.top_k,
        top_p=flags.top_p,
        min_p=flags.min_p,
        no_repeat_ngram_size=flags.no_repeat_ngram_size,
    )
    from jaxlm.runs.mixing import generator_of, open_trained

    runs = open_trained(flags.where.run, flags.where.checkpoints)
    generator, progress = generator_of(runs, flags.mix_ngram, flags.impl, epoch=flags.epoch)
    session = Session(generator, config, prompt)
    about = describe([run.shown for run in runs], progress, flags.mix_ngram, flags.epoch == "best")
    note(f"{about}, seed {config.seed}")
    if _can_move(sys.stdin) and _can_move(sys.stdout):
        with contextlib.suppress(ImportError):  # Windows has none.
            import readline  # With it, `input` edits lines.

            # Else each line of a paragraph that is pasted would be continued.
            readline.parse_and_bind("set enable-bracketed-paste on")
        note("Type and press Enter: it continues. Enter alone goes on. /help lists the commands, Ctrl-D ends.")
        page: Page = Screen()
    else:
        page = Pipe()
    Writer(session, page).run()


def _can_move(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal with a cursor that can be moved."""
    return stream is not None and is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"
