"""Any Unicode through every vocabulary, and corpora from files, folders, the network and Python itself."""

import contextlib
import gc
import hashlib
import http.server
import json
import os
import random
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.errors import InputError
from jaxlm.runs import trainer as run
from jaxlm.text import corpus as text
from jaxlm.text.batches import Windows
from jaxlm.text.corpus import DownloadError, Published, load_corpus
from jaxlm.text.vocab import Vocab

KINDS = ("char", "byte", "word")

anything = st.text()  # Every character but surrogates.
phrases = st.lists(st.sampled_from(["the", "ab", " ", "\r\n", "\0", "ß", "日本", "👩‍👩‍👧", "é", "_x1"])).map("".join)
texts = st.tuples(anything | phrases, phrases).map("".join)

relaxed = settings(deadline=None)


@relaxed
@given(kind=st.sampled_from(KINDS), corpus=texts.filter(bool), words=st.integers(0, 5), cuts=st.lists(st.integers(0)))
def test_any_text_round_trips(kind, corpus, words, cuts):
    vocab = Vocab.build(kind, corpus, words=words)
    ids = vocab.encode(corpus)
    assert ids.dtype == np.int32
    assert vocab.decode(ids) == corpus
    assert vocab.widths[ids].sum() == len(corpus)
    assert vocab.unknown(corpus) == []

    decode = vocab.decoder()
    pieces = np.split(ids, sorted(cut % (len(ids) + 1) for cut in cuts))
    assert "".join([decode(piece, False) for piece in pieces]) + decode([], True) == corpus

    again = Vocab.from_json(json.loads(json.dumps(vocab.to_json())))
    assert again == vocab
    assert again.encode(corpus).tolist() == ids.tolist()


@relaxed
@given(corpus=texts.filter(bool), prompt=texts)
def test_text_from_elsewhere_is_encoded_or_its_characters_named(corpus, prompt):
    unseen = list(dict.fromkeys(character for character in prompt if character not in corpus))
    for kind in ("char", "word"):
        vocab = Vocab.build(kind, corpus, words=3)
        assert vocab.unknown(prompt) == unseen
        if unseen:
            with pytest.raises(InputError, match=f"U\\+{ord(unseen[0]):04X}"):
                vocab.encode(prompt)
        else:
            assert vocab.decode(vocab.encode(prompt)) == prompt


@relaxed
@given(corpus=texts, prompt=texts)
def test_bytes_spell_any_text(corpus, prompt):
    vocab = Vocab.build("byte", corpus)
    assert len(vocab) == 256
    assert vocab.encode(prompt).tolist() == list(prompt.encode("utf-8"))
    assert vocab.decode(vocab.encode(prompt)) == prompt


def test_characters_are_sorted():
    vocab = Vocab.build("char", "héllo\n日")
    assert vocab.tokens == ("\n", "h", "l", "o", "é", "日")
    assert vocab.encode("oh\n").tolist() == [3, 1, 0]


def test_words_outside_the_vocabulary_are_spelled():
    vocab = Vocab.build("word", "the cat saw the hat, the end. a a a a", words=1)
    assert vocab.tokens == (*" ,.acdehnstw", "the")
    ids = vocab.encode("the that, the a")
    assert [vocab.tokens[i] for i in ids] == ["the", " ", "t", "h", "a", "t", ",", " ", "the", " ", "a"]
    assert vocab.widths[ids].tolist() == [3, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1]


def test_the_most_frequent_words_are_known_ties_by_the_alphabet():
    def words(number):
        return Vocab.build("word", "cc bb aa bb aa dd dd dd", words=number).tokens[5:]

    assert [words(n) for n in range(4)] == [(), ("dd",), ("aa", "dd"), ("aa", "bb", "dd")]
    assert words(99) == ("aa", "bb", "cc", "dd")


def test_bytes_that_are_no_text_become_marks():
    vocab = Vocab.build("byte", "")
    assert vocab.decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    decode = vocab.decoder()
    assert [decode([0xE6, 0x97], False), decode([0xA5, 0xE6], False), decode([], True)] == ["", "日", "\ufffd"]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_unknown_characters_are_named_with_their_code_points(kind):
    vocab = Vocab.build(kind, "abc")
    with pytest.raises(InputError) as caught:
        vocab.encode("βaβ\n👍")
    assert "never seen: 'β' (U+03B2), '\\n' (U+000A), '👍' (U+1F44D); expected" in str(caught.value)
    with pytest.raises(InputError, match=r"'m' \(U\+006D\) and 2 more; expected"):
        vocab.encode("defghijklmno")


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_surrogate_is_an_unknown_character(kind):
    vocab = Vocab.build(kind, "abc")
    assert vocab.unknown("a\udcff\udcffb") == ["\udcff"]
    with pytest.raises(InputError, match=r"U\+DCFF"):
        vocab.encode("a\udcff")


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "char", "tokens": []},
        {"kind": "char", "tokens": ["a", "a"]},
        {"kind": "letters", "tokens": ["a"]},
        {"tokens": ["a"]},
        {"kind": "char", "tokens": None},
        [],
    ],
)
def test_a_damaged_vocabulary_is_refused(values):
    with pytest.raises(InputError, match="vocabulary"):
        Vocab.from_json(values)


# Files and folders.


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def test_a_file_is_read_as_it_is_but_for_its_byte_order_mark(tmp_path):
    content = "A\r\nb\0ç\rd\n日\x0b\u2028"
    path = write(tmp_path / "My Notes.v2.txt", b"\xef\xbb\xbf" + content.encode("utf-8"))
    corpus = load_corpus((path,))
    assert (corpus.text, corpus.name, corpus.sources) == (content, "My Notes.v2", (path,))
    lowered = load_corpus((path,), lowercase=True)
    assert lowered.text == content.lower()
    assert lowered.sha256 == hashlib.sha256(content.lower().encode("utf-8")).hexdigest()


def test_files_are_joined_with_line_ends_between_them(tmp_path):
    contents = ["one", "", "two\n", "three\r\n", "\n", "four"]
    paths = [write(tmp_path / f"{i}.txt", content) for i, content in enumerate(contents)]
    assert load_corpus(paths).text == "one\ntwo\nthree\r\n\nfour"
    assert load_corpus(paths[::-1]).text == "four\n\nthree\r\ntwo\none"
    assert load_corpus([paths[0], paths[0]]).text == "one\none"


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name in (
        "b.txt",
        "a/z.md",
        "a/b/c.text",
        "UPPER.TXT",
        "a.txt",
        ".hidden/x.txt",
        "a/.y.txt",
        "c.py",
        "d",
        ".txt",
    ):
        write(tmp_path / "books" / name, name)
    (tmp_path / "books" / "broken.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "books" / "pipe.txt")
    corpus = load_corpus((str(tmp_path / "books"),))
    assert corpus.text.split("\n") == ["UPPER.TXT", "a/b/c.text", "a/z.md", "a.txt", "b.txt"]
    assert corpus.name == "books"


def test_a_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "file.txt", "a file")
    (tmp_path / "python-docs").symlink_to("file.txt")
    named, file = load_corpus(("python-docs",)), load_corpus(("./python-docs",))
    assert (file.text, file.sources) == ("a file", ("./python-docs",))
    assert (named.name, named.sources) == ("python-docs", ("python-docs",))
    assert len(named.text) > 300_000


def test_python_carries_a_corpus():
    corpus = load_corpus(("python-docs",))
    assert len(corpus.text) > 300_000
    assert corpus.text.count("statement") > 100
    assert (corpus.name, corpus.sources) == ("python-docs", ("python-docs",))


@pytest.mark.parametrize(
    ("content", "byte", "offset"),
    [
        (b"caf\xe9 au lait", "E9", 3),
        (b"ab\xed\xa0\x80", "ED", 2),
        (b"\xef\xbb\xbfcaf\xe9", "E9", 6),
        ("日".encode()[:2], "E6", 0),
        ("hello".encode("utf-16"), "FF", 0),
    ],
)
def test_a_byte_that_is_not_utf_8_is_named_with_its_offset(tmp_path, content, byte, offset):
    path = write(tmp_path / "old text.txt", content)
    with pytest.raises(InputError) as caught:
        load_corpus((path,))
    assert f"corpus {path}: found byte 0x{byte} at offset {offset}, expected UTF-8" in str(caught.value)
    assert f"-t utf-8 '{path}' > 'utf8-old text.txt'" in str(caught.value)


@pytest.mark.parametrize("source", ["", "missing.txt", "x" * 5000, "a\0b", "fifo", "loop"])
def test_what_is_no_text_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "text")
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"corpus .*: found .*, expected a text file, a folder, or one of nietzsche"):
        load_corpus((source,))


def test_files_without_a_character_are_refused(tmp_path):
    empty, bom = write(tmp_path / "a.txt", ""), write(tmp_path / "b.txt", b"\xef\xbb\xbf")
    for sources in ((empty,), (bom,), (empty, bom, empty), (str(tmp_path),)):
        with pytest.raises(InputError, match="found no text"):
            load_corpus(sources)


# Downloads.

BODY = ("Ecce homo: wie man wird, was man ist. Ünïcode\r\n" * 50).encode()
FACTS = {"bytes": len(BODY), "characters": len(BODY.decode()), "offset": 11, "passage": "wie man wird"}


def good(handler, body=BODY, size=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if size is None else size))
    handler.end_headers()
    handler.wfile.write(body)


def hang(handler):
    handler.server.released.wait(5)
    good(handler)


def hang_half_way(handler):
    good(handler, BODY[:1000], len(BODY))
    handler.server.released.wait(5)
    handler.wfile.write(BODY[1000:])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        with contextlib.suppress(ConnectionError):  # The client may have given up.
            self.server.answer(self)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves BODY as if it were nietzsche; `answer` is what it does, `requests` how often it did."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer, server.requests, server.released = good, 0, threading.Event()
        url = f"http://127.0.0.1:{server.server_port}/nietzsche.txt"
        monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url=url, **FACTS)})
        monkeypatch.setattr(text, "TIMEOUT", 0.3)
        monkeypatch.setenv("no_proxy", "*")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def unreachable(monkeypatch):
    """An address that refuses every connection, as nietzsche's."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}/nietzsche.txt"
    monkeypatch.setattr(text, "PUBLISHED", {"nietzsche": Published(url=url, **FACTS)})
    monkeypatch.setenv("no_proxy", "*")


def cached():
    """The files in the cache, and what is in them."""
    cache = Path(os.environ["XDG_CACHE_HOME"])
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_a_download_is_made_once(server):
    told = []
    corpus = load_corpus(("nietzsche",), progress=lambda done, total: told.append((done, total)))
    assert corpus.text == BODY.decode()
    assert told[-1] == (len(BODY), len(BODY))
    assert cached() == {"jaxlm/nietzsche.txt": BODY}
    assert os.listdir(Path(os.environ["XDG_CACHE_HOME"], "jaxlm")) == ["nietzsche.txt"]
    assert load_corpus(("nietzsche",), lowercase=True).text == BODY.decode().lower()
    assert server.requests == 1


BAD_ANSWERS = {
    "longer": (lambda handler: good(handler, BODY + b"more"), "are not this corpus"),
    "shorter": (lambda handler: good(handler, BODY[:-1]), "are not this corpus"),
    "other text": (lambda handler: good(handler, BODY.replace(b"wie man", b"wie Sau")), "are not this corpus"),
    "other characters": (lambda handler: good(handler, BODY.replace("Ü".encode(), b"UE")), "are not this corpus"),
    "truncated": (lambda handler: good(handler, BODY[:1000], len(BODY)), "1,000|Incomplete"),
    "endless": (lambda handler: good(handler, BODY * 100), "are not this corpus"),
    "empty": (lambda handler: good(handler, b""), "0 bytes"),
    "not found": (lambda handler: handler.send_error(404), "Not Found"),
    "no HTTP": (lambda handler: handler.wfile.write(b"hello\r\n"), "could not be fetched"),
    "closed": (lambda handler: None, "could not be fetched"),
    "hanging": (hang, "timed out"),
    "hanging half way": (hang_half_way, "timed out"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_bad_download_is_refused_and_leaves_nothing(server, kind):
    server.answer, words = BAD_ANSWERS[kind]
    with pytest.raises(DownloadError, match=words) as caught:
        load_corpus(("nietzsche",))
    message = str(caught.value)
    assert message.startswith("corpus nietzsche: ")
    assert text.PUBLISHED["nietzsche"].url in message
    assert "--corpus FILE" in message
    assert len(message.splitlines()) == 1
    assert cached() == {}
    server.answer = good
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    del caught
    gc.collect()  # A connection left open is a warning, and so an error, here.


@pytest.mark.parametrize("damage", [BODY[:-7], BODY.replace(b"Ecce", b"Ecc\xff"), b""])
def test_a_damaged_cache_is_fetched_anew(server, damage):
    write(Path(os.environ["XDG_CACHE_HOME"], "jaxlm", "nietzsche.txt"), damage)
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert cached() == {"jaxlm/nietzsche.txt": BODY}
    assert server.requests == 1


def test_a_cache_that_cannot_be_written_is_told_and_done_without(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", write(tmp_path / "file", "not a directory"))
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert re.fullmatch(r"cache .*file.*: cannot be written to \(.+\), so nietzsche is not kept", caplog.messages[0])


def test_a_full_disk_leaves_no_half_of_a_corpus(server, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert "No space left on device" in caplog.text
    assert cached() == {}
    assert os.listdir(Path(os.environ["XDG_CACHE_HOME"], "jaxlm")) == []


def test_without_a_corpus_nietzsche_is_taken(server, caplog):
    corpus = load_corpus()
    assert (corpus.name, corpus.sources, corpus.text) == ("nietzsche", ("nietzsche",), BODY.decode())
    assert caplog.messages == []


def test_without_a_network_python_docs_are_taken_and_said(unreachable, caplog):
    corpus = load_corpus()
    assert (corpus.name, corpus.sources) == ("python-docs", ("python-docs",))
    assert len(corpus.text) > 300_000
    [notice] = caplog.messages
    assert "nietzsche: could not be fetched" in notice
    assert "Training on python-docs" in notice
    assert len(notice.splitlines()) == 1
    with pytest.raises(DownloadError, match="Connection refused"):
        load_corpus(("nietzsche",))
    assert cached() == {}


# The real corpora.


def test_nietzsche_is_the_books(shared_corpora):
    path = shared_corpora / "nietzsche.txt"
    corpus = load_corpus((str(path),), lowercase=True)
    assert len(corpus.text) == 600_893
    assert len(Vocab.build("char", corpus.text)) == 57
    assert len(Windows(len(corpus.text), 60, 3)) == 200_278
    assert random.Random(42).randint(0, 600_893 - 61) == 116_739
    seed = "the slowly ascending ranks and classes, in which,\nthrough fo"
    assert run.seed_text(corpus.text, 60) == corpus.text[116_739 : 116_739 + 60] == seed


@pytest.mark.parametrize(("name", "file"), [("nietzsche", "nietzsche.txt"), ("shakespeare", "tinyshakespeare.txt")])
def test_published_facts_are_true_of_the_real_files(shared_corpora, name, file):
    content = (shared_corpora / file).read_bytes()
    write(Path(os.environ["XDG_CACHE_HOME"], "jaxlm", f"{name}.txt"), content)
    assert load_corpus((name,)).text == content.decode("utf-8")
    with pytest.raises(DownloadError):
        text._verified(name, content[:-1])
    with pytest.raises(DownloadError):
        text._verified(name, content[:-1] + b"\xff\xff")
