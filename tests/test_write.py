"""`jaxlm write`: a session's steps, lines from a pipe, and a terminal on which the text stands as it is saved."""

import contextlib
import fcntl
import io
import itertools
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same
from rich.cells import cell_len

import jaxlm
from jaxlm import generator
from jaxlm.cli import commands
from jaxlm.cli.write import SENTENCE_ENDS, SLASH_COMMANDS, UNDO, Session
from jaxlm.config import ModelConfig, SampleConfig
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import LanguageModel
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

LETTERS = "\n ,.abé"
VOCABS = {
    "char": Vocab("char", tuple(LETTERS)),
    "byte": Vocab("byte", tuple(map(chr, range(256)))),
    "word": Vocab("word", (*LETTERS, "aba", "baab", "bé")),
}


def made(tokens="char", mode="state", *, counted=False, scale=0.7):
    """A generator with weights large enough that the memory matters, and biases and what takes counts not zero."""
    vocab = VOCABS[tokens]
    counts = None
    if counted:
        text = np.random.default_rng(0).integers(0, len(vocab), 2000).astype(np.int32)
        counts = NGram.count(text, len(vocab), 3)
    model = LanguageModel(len(vocab), ModelConfig(12, ngram=3 if counted else 0))
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype), shapes)
    return TextGenerator(model, params, vocab, False, "ab a", 7, mode, counts=counts)


KINDS = {
    "characters": lambda: made(),
    "windows": lambda: made(mode="window"),
    "bytes": lambda: made("byte"),
    "words": lambda: made("word"),
    "counts": lambda: made(counted=True),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


def config(**settings):
    return SampleConfig(**{"length": 150, "temperature": (1.0,), "seed": 5, **settings})


def generated(model, prompt, seed, **settings):
    return model.generate(prompt, 150, temperature=1.0, seed=seed, **settings)


@pytest.mark.parametrize(
    ("kind", "settings"), [*((kind, {}) for kind in KINDS), ("counts", {"no_repeat_ngram_size": 5, "top_p": 0.9})]
)
def test_each_continuation_is_what_generate_writes_after_the_same_text(kind, settings):
    model = KINDS[kind]()
    session = Session(model, config(**settings), "a bab")
    expected = generated(model, "a bab", 5, **settings)
    list(session.go_on())
    assert session.text == expected
    session.add("aab a,")
    list(session.go_on())
    list(session.go_on())
    expected = generated(model, generated(model, expected + "aab a,", 6, **settings), 7, **settings)
    assert session.text == expected


@each_kind
def test_a_step_back_restores_text_and_memory_exactly(kind):
    model = KINDS[kind]()
    session = Session(model, config(), "a bab")
    before = []
    for act in (session.go_on, lambda: session.add("ba") or (), session.go_on, session.go_on):
        before.append(session._steps[-1].passage)
        list(act())
    for passage in reversed(before):
        session.undo()
        assert session.text == passage.text
        found, whole = session._steps[-1].passage, model.read(passage.text)
        assert found is passage
        assert_same(found.tokens, whole.tokens)
        assert_same(found.carry, whole.carry)  # As if it were read from its beginning.
    with pytest.raises(InputError, match="undo: found no step to take back"):
        session.undo()
    assert session.text == "a bab"


def test_again_writes_another_text_from_the_same_place():
    session = Session(made(), config(), "a bab")
    list(session.go_on())
    first = session.text
    list(session.again())
    assert session.text == generated(made(), "a bab", 6) != first
    assert session.last_seed == 6
    session.undo()
    assert session.text == "a bab"
    with pytest.raises(InputError, match="again: found no continuation at the end of the text"):
        session.again()


def test_the_same_steps_and_seed_write_the_same_text():
    def text(seed):
        session = Session(made(counted=True), config(seed=seed))
        session.add("ab")
        list(session.go_on())
        list(session.again())
        session.add(" a")
        list(session.go_on())
        return session.text

    assert text(5) == text(5) != text(6)


def test_the_last_seed_is_followed_by_the_first():
    session = Session(made(), config(seed=2**32 - 1), "ab")
    list(session.go_on())
    assert session.config.seed == 0


def test_without_a_text_it_begins_with_the_run_s_seed_text():
    session = Session(made(), config())
    list(session.go_on())
    assert session.text == generated(made(), "ab a", 5)
    session.undo()
    assert session.text == "ab a"
    session.undo()
    assert session.text == ""


def test_what_has_been_read_is_not_read_again(monkeypatch):
    session = Session(made(counted=True), config(length=20), "ab a" * 500)
    calls, prefill = [], generator.prefill
    monkeypatch.setattr(generator, "prefill", lambda *args: calls.append(int(args[4])) or prefill(*args))
    list(session.go_on())
    session.add("ba")
    assert sum(calls) == 22
    session.undo()
    list(session.again())
    assert sum(calls) == 42


def test_who_stops_within_a_continuation_keeps_what_was_written():
    session = Session(made(), config(length=1000), "ab")
    pieces = session.go_on()
    shown = next(pieces) + next(pieces)
    pieces.close()
    assert session.text == "ab" + shown
    assert len(shown) < 1000
    list(session.go_on())
    assert session.text.startswith(model_text := "ab" + shown)
    assert session.text == made().generate(model_text, 1000, temperature=1.0, seed=6)


def test_unknown_characters_add_nothing():
    session = Session(made(), config(), "ab")
    with pytest.raises(InputError, match="never seen: 'x'"):
        session.add("axb")
    assert session.text == "ab"
    skipping = Session(made(), config(unknown="skip"), "ab")
    skipping.add("axb")
    assert skipping.text == "abab"


def test_a_long_session_keeps_a_bounded_number_of_steps():
    session = Session(made(mode="window"), config(), "a")
    for _ in range(UNDO + 20):
        session.add("b")
    for _ in range(UNDO):
        session.undo()
    assert session.text == "a" + "b" * 20
    with pytest.raises(InputError, match="undo"):
        session.undo()


def chain(model, prompt, text):
    """The probability of a text after a prompt, by `next_token`."""
    probability = 1.0
    for i, character in enumerate(text):
        probability *= model.next_token(prompt + text[:i]).get(character, 0.0)
    return probability


def ending(model, prompt):
    return sum(p for token, p in model.next_token(prompt).items() if not token[0].isalpha())


@pytest.mark.parametrize("kind", ["characters", "windows", "counts"])
@pytest.mark.parametrize("prompt", ["a", "ab, ba ", "bab.\nb"])
def test_next_words_are_the_most_probable_ones_with_their_probabilities(kind, prompt):
    model = KINDS[kind]()
    found = dict(model.next_words(model.read(prompt), 5))
    assert len(found) == 5
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for word, probability in found.items():
        assert probability == pytest.approx(chain(model, prompt, word) * ending(model, prompt + word), rel=1e-3)
        assert re.fullmatch(r"[ ,.\n]*[abé]+", word)
    words = ["".join(word) for n in (1, 2) for word in itertools.product("abé ,.\n", repeat=n)]
    for word in words:
        if re.fullmatch(r"[ ,.\n]*[abé]+", word) and word not in found:
            assert chain(model, prompt, word) * ending(model, prompt + word) <= min(found.values()) * 1.001


def test_next_words_of_bytes_are_whole_characters():
    model = made("byte", scale=1.5)
    words = model.next_words(model.read("ab"), 20)
    assert len(words) > 3
    for word, _ in words:
        assert "\ufffd" not in word[-1:]
        assert model.vocab.decode(model.vocab.encode(word)) == word


def test_a_chosen_word_is_a_step():
    session = Session(made("word"), config(), "ab, b")
    with pytest.raises(InputError, match="top: found no text yet"):
        Session(made(), config()).find_words(5)
    session.find_words(5)
    [_, (word, _), *_] = session.words
    session.choose(2)
    assert session.text == "ab, b" + word
    assert session.words == []
    assert_same(session._steps[-1].passage.carry, made("word").read("ab, b" + word).carry)
    session.undo()
    assert session.text == "ab, b"


def test_a_continuation_ends_after_a_stop_string_too(piped, trained):
    text = jaxlm.load(trained).generate("the fox", 400, seed=5, stop_strings="o", keep_stop=True)
    assert text.endswith("o")
    assert piped(b"the fox\n", "-l", "400", "--no-sentences", "--stop", "o")[0] == text + "\n"


@pytest.mark.parametrize("end", [". ", ".\n", '." ', "?\u201d ", "\u3002", "! "])
def test_what_ends_a_sentence(end):
    assert end in SENTENCE_ENDS


def test_a_continuation_ends_with_a_sentence_by_default(piped, trained):
    whole = jaxlm.load(trained).generate("the fox", 400, seed=5)
    ends = [whole.find(end, 7) + len(end) for end in SENTENCE_ENDS if end in whole[7:]]
    assert ends
    assert piped(b"the fox\n", "-l", "400")[0] == whole[: min(ends)] + "\n"


# A pipe.


@pytest.fixture
def piped(trained, capsys, monkeypatch, tmp_path):
    """Gives lines to `jaxlm write`; returns its output and what it says on stderr without its first line."""
    monkeypatch.chdir(tmp_path)

    def run(lines, *argv, status=0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        capsys.readouterr()
        assert commands.write(["--run", str(trained), "--seed", "5", "-l", "30", *argv]) == status
        out, err = capsys.readouterr()
        return out, err.splitlines()[1:] if not status else err.splitlines()

    return run


def test_lines_from_a_pipe_are_answered_one_by_one(piped, trained):
    model = jaxlm.load(trained)
    first = model.generate("the fox", 30, seed=5)
    second = model.generate(first + " box", 30, seed=6)
    third = model.generate(second, 30, seed=7, temperature=1.5)
    assert piped(b"the fox\n box\r\n/t 1.5\n\n", "--no-sentences") == (third + "\n", [])
    assert piped(b"the fox", "--no-sentences")[0] == first + "\n"
    assert piped(b"", "-p", "the fox")[0] == "the fox\n"


def test_what_is_saved_is_what_was_printed_and_can_be_continued(piped):
    out, said = piped(b"the fox\n/save story.txt\n")
    assert said == [f"saved {len(out) - 1} characters to story.txt"]
    assert Path("story.txt").read_text() == out
    longer, _ = piped(b"\n/save\n/save! story.txt\n", "--prompt-file", "story.txt")
    assert longer.startswith(out[:-1])
    assert Path("story.txt").read_text() == longer


def test_a_file_is_not_replaced_unasked(piped):
    Path("story.txt").write_text("mine")
    out, [line] = piped(b"the fox\n/save story.txt\n")
    assert line.startswith("error: save: found story.txt already there; choose another name, or replace it with /save!")
    assert Path("story.txt").read_text() == "mine"
    # What was saved here may be saved again; not what someone has changed since.
    out, said = piped(b"the fox\n/save! story.txt\n\n/save story.txt\n/save\n")
    assert [line.split()[0] for line in said] == ["saved"] * 3
    assert Path("story.txt").read_text() == out
    Path("other.txt").write_text("other")
    assert "error: save" in piped(b"the fox\n/save! story.txt\n/save other.txt\n")[1][1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"/foo", "/foo: no such command; /help lists them"),
        (b"/sav a", "/sav: no such command; did you mean /save?"),
        (b"/", "/: no such command; /help lists them"),
        (b"/t", "t: found '', expected a number"),
        (b"/t x", "t: found 'x', expected a number"),
        (b"/t -1", "temperature: found -1.0, expected a finite number of 0 or more"),
        (b"/l -1", "length: found -1, expected a whole number of 0 or more"),
        (b"/seed x", "seed: found 'x', expected a whole number"),
        (b"/seed -1", "seed: found -1, expected a whole number from 0"),
        (b"/top 0", "top: found 0, expected a whole number from 1 to 99"),
        (b"/undo 3", "undo: found '3', expected nothing after it"),
        (b"/again", "again: found no continuation at the end of the text"),
        (b"/save", "save: found no file's name, expected one; for example /save story.txt"),
        (b"/save .", "save .: found a folder there, expected a file"),
        (b"/save a.mid", "save a.mid: found the ending .mid, expected that of a text; save a text, of which "),
        (b"/save none/a.txt", "save none/a.txt: found no folder none to write into"),
        (b"/t " + b"9" * 5000, "temperature: found inf, expected a finite number"),
        (b"/top " + b"9" * 5000, "top: found '" + "9" * 499 + "..., expected a whole number"),
        (b"/top " + b"9" * 4000, "top: found 999"),
        (b"/l " + b"9" * 5000, "l: found '999"),
        (b"/seed " + b"9" * 5000, "seed: found '999"),
        (b"a\xff", "found byte 0xFF at offset 1 of the line, expected UTF-8 text"),
        ("é".encode(), "text: found characters that the model has never seen: 'é' (U+00E9)"),
        (b"//", "text: found characters that the model has never seen: '/'"),
    ],
)
def test_a_mistake_is_one_line_and_the_session_goes_on(piped, line, words):
    out, said = piped(line + b"\n/l 0\n fox\n/save a.txt\n", "-p", "the dog")
    assert out == "the dog fox\n"
    assert len(said) == 2
    assert said[0].startswith(f"error: {words}")
    assert len(said[0]) < 600
    assert Path("a.txt").read_text() == out
    assert [path.name for path in Path().iterdir()] == ["a.txt"]


def test_a_number_chooses_a_word_only_where_words_were_offered(piped, trained):
    model = jaxlm.load(trained)
    words = [word for word, _ in model.next_words(model.read("the q"), 3)]
    out, [offered] = piped(b"/top 3\n2\n", "-p", "the q")
    assert out == f"the q{words[1]}\n"
    assert [f"{i} {word!r} " in offered for i, word in enumerate(words, 1)] == [True] * 3
    _, [_, outside, later] = piped(b"/top 3\n4\n/l 0\nuick\n2\n", "-p", "the q")
    assert outside.startswith("error: word: found 4, expected a number from 1 to 3")
    assert "never seen: '2'" in later


def test_what_is_taken_back_is_printed_again_below(piped, trained):
    model = jaxlm.load(trained)
    first, second = (model.generate("the fox", 30, seed=seed) for seed in (5, 6))
    assert piped(b"the fox\n/again\n/undo\n", "--no-sentences")[0] == f"{first}\n{second}\nthe fox\n"


def test_help_names_every_command(piped):
    _, said = piped(b"/help\n")
    assert [line.split()[0].strip(",") for line in said] == list(SLASH_COMMANDS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--prompt-file", "a", "-p", "b"], "prompt_file: found 'a', expected none beside a prompt"),
        (["--prompt-file", "none.txt"], "prompt_file none.txt: cannot be read (No such file or directory)"),
        (["-p", "é"], "text: found characters that the model has never seen"),
        (["-t", "-1"], "temperature: found -1.0, expected a finite number"),
        (["--top-k", "0"], "top_k: found 0, expected"),
        (["--epoch", "first"], "epoch: found 'first', expected best, last"),
        (["--run", "none"], "run none: "),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(piped, argv, words):
    out, [line] = piped(b"the fox\n", *argv, status=2)
    assert out == ""
    assert words in line


# A terminal.


class Emulator:
    """What a terminal shows: rows of cells; of wide characters, the second cell is empty."""

    def __init__(self, columns, lines):
        self.columns, self.lines = columns, lines
        self.rows, self.row, self.column = [[]], 0, 0

    def feed(self, text):
        for found in re.finditer(r"\x1b\[(\??[0-9;]*)([A-Za-z@])|([^\x1b])", text):
            if found[3]:
                self._put(found[3])
            else:
                self._control(found[2], int(found[1]) if found[1].isdigit() else 1, found[1])

    def _control(self, letter, count, given):
        if letter == "A":
            self.row = max(self.row - count, len(self.rows) - self.lines, 0)
        elif letter == "C":
            self.column = min(self.column + count, self.columns - 1)
        elif letter in "JK":
            assert given == ""
            del self.rows[self.row][self.column :]
            if letter == "J":
                del self.rows[self.row + 1 :]
        elif letter in "P@":
            row = self.rows[self.row]
            row[self.column : self.column + (count if letter == "P" else 0)] = [" "] * (count if letter == "@" else 0)
        else:
            assert letter in "mhl", letter

    def _put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(min(self.column, self.columns) - 1, 0)
        elif character == "\n":
            self._down()
        elif character == "\t":
            self.column = min(self.column // 8 * 8 + 8, self.columns - 1)
        elif character >= " ":
            width = cell_len(character)
            if not width and self.column:  # A mark above, or the rest of a syllable, is in the cell before it.
                cells = self.rows[self.row][: self.column]
                at = max(i for i, cell in enumerate(cells) if cell)
                self.rows[self.row][at] += character
                return
            if self.column + width > self.columns:
                self.column = 0
                self._down()
            row = self.rows[self.row]
            row += [" "] * (self.column - len(row))
            row[self.column : self.column + width] = [character, ""][:width]
            self.column += width

    def _down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    @property
    def shown(self):
        return ["".join(row) for row in self.rows]


@contextlib.contextmanager
def terminal(*argv, columns=40, lines=12, folder):
    """`jaxlm write` on a terminal: a function that types, and waits until all is shown; and the emulator."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    # The leader of a session that opens a terminal controls it: Ctrl-C reaches it.
    opening = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(slave)]
    process = subprocess.Popen(
        [*opening, sys.executable, "-m", "jaxlm", "write", *argv],
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(jaxlm.__file__).parents[1])},
        start_new_session=True,
    )
    screen = Emulator(columns, lines)

    def receive(seconds):
        if not select.select([master], [], [], seconds)[0]:
            return None
        try:
            return os.read(master, 65536)
        except OSError:  # EIO: it has ended.
            return None

    def type_in(keys, until=PROMPT):
        """Types, and reads up to a pattern, and whatever else comes at once; returns all that was received."""
        received, deadline = b"", time.monotonic() + 90
        os.write(master, keys.encode())
        while not re.search(until, received) and process.poll() is None:
            assert time.monotonic() < deadline, received
            received += receive(0.1) or b""
        while until == PROMPT and (block := receive(0.3)):
            received += block
        screen.feed(received.decode())
        return received.decode()

    try:
        type_in("")
        screen.banner = len(screen.shown) - 1
        yield type_in, screen, process
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


PROMPT = rb"\x1b\[\?2004h"
"""Readline is ready for a line."""


def assert_saved_as_shown(type_in, screen, folder):
    """The text that is saved stands on the screen, row by row, between messages; and nothing else. Returns it."""
    type_in("/save! now.txt\r")
    text = (folder / "now.txt").read_text(encoding="utf-8").removesuffix("\n")
    alone = Emulator(screen.columns, screen.lines)
    alone.feed(text.replace("\n", "\r\n"))
    rows, is_message, above = [], False, ""
    for row in screen.shown[screen.banner :]:
        is_message = row.startswith("-- ") or (is_message and cell_len(above) >= screen.columns - 1)
        above = row
        rows += [] if is_message else [row]
    # Below a full row, the cursor is in the next one.
    assert "\n".join(rows).rstrip("\n") == "\n".join(alone.shown).rstrip("\n")
    return text


def test_on_a_terminal_the_text_stands_as_it_is_saved(trained, tmp_path):
    options = ["--run", str(trained), "--seed", "5", "--no-sentences", "-l", "55"]
    with terminal(*options, folder=tmp_path, lines=60) as (type_in, screen, process):
        model = jaxlm.load(trained)
        first = model.generate("The quick", 55, seed=5)
        type_in("The quick\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path) == first
        type_in(" box\x08\x08xx\x01 the\r")  # Edited: the end is deleted, and the beginning typed last.
        second = model.generate(first + " the bxx", 55, seed=6)
        assert assert_saved_as_shown(type_in, screen, tmp_path) == second
        for line in ("/foo\r", "//\r", "/t x\r", "\r", "/again\r", "/undo\r"):
            type_in(line)
            text = assert_saved_as_shown(type_in, screen, tmp_path)
        assert text == second
        type_in("lazy\x03", until=rb"\x1b\[J[^\x1b]*" + PROMPT)  # Ctrl-C drops what is typed.
        assert assert_saved_as_shown(type_in, screen, tmp_path) == second
        type_in("/undo\r")
        type_in("/undo\r")
        type_in("/undo\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path) == first[:9]
        type_in("\x1b[200~ brown fox\x1b[201~" + " jumps over the lazy dog" * 4 + "\r")  # Pasted; and a long line.
        long = model.generate(first[:9] + " brown fox" + " jumps over the lazy dog" * 4, 55, seed=9)
        assert assert_saved_as_shown(type_in, screen, tmp_path) == long
        type_in("/top 2\r")
        type_in("1\r")
        word, _ = model.next_words(model.read(long), 1)[0]
        assert assert_saved_as_shown(type_in, screen, tmp_path) == long + word
        type_in("\x04", until=rb"2004l\r.*\n")
        assert process.wait(30) == 0


def test_ctrl_c_stops_the_writing_and_not_the_program(trained, tmp_path):
    options = ["--run", str(trained), "--seed", "5", "--no-sentences", "-l", "1000000"]
    with terminal(*options, folder=tmp_path, columns=80, lines=24) as (type_in, _, process):
        type_in("the fox\r", until=rb"the fox[^\x1b]{300}")
        type_in("\x03")
        type_in("/l 20\r")
        type_in("/save story.txt\r")
        before = (tmp_path / "story.txt").read_text().removesuffix("\n")
        assert 300 < len(before) < 1000000
        assert before == jaxlm.load(trained).generate("the fox", len(before) - 7, seed=5)
        type_in(" dog\r")
        type_in("/save story.txt\r")
        after = (tmp_path / "story.txt").read_text().removesuffix("\n")
        assert after == jaxlm.load(trained).generate(before + " dog", 20, seed=6)
        assert process.poll() is None


def test_what_is_taken_back_leaves_a_screen_that_it_does_not_fit_on(trained, tmp_path):
    options = ["--run", str(trained), "--seed", "5", "--no-sentences", "-l", "500"]
    with terminal(*options, folder=tmp_path, lines=6) as (type_in, screen, _):
        type_in("the fox\r")
        type_in("\r")
        type_in("/undo\r")
        first = jaxlm.load(trained).generate("the fox", 500, seed=5)
        alone = Emulator(screen.columns, screen.lines)
        alone.feed(first)
        assert screen.shown[-5:] == alone.shown[-5:]
        type_in("/undo\r")
        assert screen.shown[-1] == "the fox"


KOREAN = "대한민국은 민주공화국이다. 대한민국의 주권은 국민에게 있고, 모든 권력은 국민으로부터 나온다.\n" * 12


def test_korean_is_typed_edited_and_shown(tmp_path):
    (tmp_path / "ko.txt").write_text(KOREAN, encoding="utf-8")
    jaxlm.train(
        tmp_path / "ko.txt",
        run="ko",
        checkpoints=tmp_path,
        epochs=1,
        hidden=16,
        length=10,
        batch=32,
        reporter=None,
    )
    with terminal("--run", str(tmp_path / "ko"), "--seed", "5", "-l", "60", folder=tmp_path, columns=31) as (
        type_in,
        screen,
        _,
    ):
        type_in("국민은 나\x7f\x7f 대한\r")
        text = assert_saved_as_shown(type_in, screen, tmp_path)
        assert text.startswith("국민은 대한")
        type_in("모든 권력은 국민으로부터 나온다. 대한민국은 민주공화국\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path).startswith(text + "모든 권력은")
        type_in("/n 있고\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path).endswith("있고\n")
        type_in("/undo\r")
        type_in("/undo\r")
        type_in("/undo\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path) == text


JAPANESE = "むかしむかし、おじいさんとおばあさんがありました。ドンブラコと桃が流れて、パチンと割れた。\n" * 12


def test_japanese_and_decomposed_letters_are_typed_edited_and_shown(tmp_path):
    for name, text in (("ja", JAPANESE), ("ko", KOREAN)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        settings = {"epochs": 1, "hidden": 16, "length": 10, "batch": 32, "reporter": None}
        jaxlm.train(tmp_path / f"{name}.txt", run=name, checkpoints=tmp_path, **settings)
    options = ["--seed", "5", "-l", "40"]
    with terminal("--run", str(tmp_path / "ja"), *options, folder=tmp_path, columns=21) as (type_in, screen, _):
        type_in("桃が流れ割\x7f\x7fむかし\r")  # What an input method sends, once it is composed.
        assert assert_saved_as_shown(type_in, screen, tmp_path).startswith("桃が流むかし")
        type_in("/undo\r")
        type_in("/undo\r")
        type_in(unicodedata.normalize("NFD", "おばあパが") + "\x7fド\r")  # As macOS spells voiced letters.
        text = assert_saved_as_shown(type_in, screen, tmp_path)
        assert text.startswith("おばあパド")
        # Wide letters that are inserted move those after them to another row.
        type_in("おじいさんとおばあさん\x01むかし、\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path).startswith(text + "むかし、おじいさんとおばあさん")
    with terminal("--run", str(tmp_path / "ko"), *options, folder=tmp_path, columns=21) as (type_in, screen, _):
        type_in(unicodedata.normalize("NFD", "대한민국은") + "\x7f의\r")
        assert assert_saved_as_shown(type_in, screen, tmp_path).startswith("대한민국의")
