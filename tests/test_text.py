"""Any Unicode through every vocabulary, and corpora from files, folders, the network and Python itself."""
# ruff: noqa: RUF001 (letters of other scripts are meant)

import contextlib
import gc
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import socket
import threading
import time
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm import invocation
from jaxlm.errors import InputError
from jaxlm.generator import TextGenerator
from jaxlm.runs import trainer as run
from jaxlm.text import corpus as text
from jaxlm.text import files
from jaxlm.text.batches import Windows
from jaxlm.text.corpus import DownloadError, Published, load_corpus
from jaxlm.text.vocab import Vocab

KINDS = ("char", "byte", "word")

anything = st.text(max_size=80)  # Every character but surrogates.
phrases = st.lists(
    st.sampled_from(["the", "ab", " ", "\r\n", "\0", "ß", "日本", "👩‍👩‍👧", "é", "_x1"]), max_size=30
).map("".join)
texts = st.tuples(anything | phrases, phrases).map("".join)

relaxed = settings(deadline=None)


@pytest.fixture(autouse=True)
def as_command():
    """Messages are those of the command; from Python, settings are named as its arguments."""
    with invocation.called_as("jaxlm"):
        yield


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


@pytest.mark.parametrize(
    "text",
    [
        "GATTACA" * 1000,
        "\n".join(["GATTACACAT" * 6] * 20),
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n" * 10,
        "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。\n" * 10,
    ],
)
def test_word_tokens_of_a_text_without_spaces_are_refused_with_the_reason(text):
    longest = max(map(len, re.findall(r"\w+", text)))
    with pytest.raises(InputError, match=rf"without spaces .*{longest:,} characters.*--tokens char"):
        Vocab.build("word", text, words=9)
    assert "".join(sorted(set(text))) == "".join(Vocab.build("char", text).tokens)


@pytest.mark.parametrize(
    "text",
    [
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n" * 20,
        "Inuit tamarmik inunngorput nammineersinnaassuseqarlutik assigiimmillu ataqqinassuseqarlutik.\n" * 9,
        "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz ist ein langes deutsches Wort.\n" * 9,
        '{"name":"small","values":[1,2,3],"nested":{"key":"value","other":null}}' * 20,
        "GATTACA" * 20,
    ],
)
def test_word_tokens_of_long_words_are_not_refused(text):
    assert len(Vocab.build("word", text, words=9)) > len(set(text))


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
    assert "never seen: 'β' (U+03B2), '\\n' (U+000A), '👍' (U+1F44D)" in str(caught.value)
    with pytest.raises(InputError, match=r"'m' \(U\+006D\) and 2 more"):
        vocab.encode("defghijklmno")


def test_a_line_end_that_the_shell_left_as_two_characters_gets_a_hint():
    with pytest.raises(InputError, match=r"write \$'\.\.\.\\n' in the shell"):
        Vocab.build("char", "abn").encode(r"a\nb")
    with pytest.raises(InputError) as caught:
        Vocab.build("char", "abn").encode("a\\b\nb")
    assert "$'" not in str(caught.value)
    assert len(Vocab.build("char", "abn\\").encode(r"a\nb")) == 4


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


def test_a_folder_is_read_in_order_and_says_what_it_read_and_left_out(tmp_path):
    for name in (
        "b.txt",
        "a/z.md",
        "a/b/c.text",
        "UPPER.TXT",
        "a.txt",
        ".hidden/x.txt",
        "a/.y.txt",
        "c.py",
        "a/d.py",
        "~$novel.docx",
        "d",
        ".txt",
    ):
        write(tmp_path / "books" / name, name)
    write(tmp_path / "elsewhere" / "linked.txt", "linked")
    (tmp_path / "books" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "books" / "broken.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "books" / "pipe.txt")
    folder = str(tmp_path / "books")
    corpus = load_corpus((folder,))
    names = ["UPPER.TXT", "a/b/c.text", "a/z.md", "a.txt", "b.txt"]
    assert corpus.text.split("\n") == names
    assert corpus.name == "books"
    assert corpus.parts == tuple((f"{folder}/{name}", len(name)) for name in names)
    assert corpus.starts == (0, 10, 21, 28, 34)
    left_out = {
        "a/d.py": "ending .py",
        "broken.txt": "not a file",
        "c.py": "ending .py",
        "d": "no ending",
        "link": "linked folder",
        "pipe.txt": "not a file",
        "~$novel.docx": "lock of an open document",
    }
    assert corpus.left_out == tuple((f"{folder}/{name}", why) for name, why in left_out.items())
    [remark] = corpus.remarks
    assert remark == (
        f"{folder}: read 5 files, 35 characters (UPPER.TXT 9, a/b/c.text 10, a/z.md 6, a.txt 5, b.txt 5); "
        f"left out 7: {', '.join(f'{name} ({why})' for name, why in left_out.items())}."
    )


def test_a_remark_names_ten_files_and_counts_the_rest(tmp_path):
    for i in range(13):
        write(tmp_path / f"{i:02}.txt", "text")
        write(tmp_path / f"{i:02}.jpg", "image")
    write(tmp_path / "Makefile", "all:")
    names = ", ".join(f"{i:02}.txt 4" for i in range(10))
    assert load_corpus((str(tmp_path),)).remarks == (
        f"{tmp_path}: read 13 files, 52 characters ({names} and 3 more); left out 14: 13 ending .jpg, 1 no ending.",
    )
    assert load_corpus((str(tmp_path / "00.txt"),)).remarks == ()


@pytest.mark.parametrize("name", ["a.markdown", "a.rst", "a.tex", "a.txt.gz", "A.TEX"])
def test_the_files_of_writers_and_musicians_are_read(tmp_path, name):
    write(tmp_path / "own" / name, gzip.compress(b"X:1") if name.endswith("gz") else "X:1")
    corpus = load_corpus((str(tmp_path / "own"),))
    assert (corpus.text, corpus.left_out) == ("X:1", ())


@pytest.mark.parametrize(
    ("glob", "text"),
    [
        (("*.py",), "a.py\nsrc/b.PY\nsrc/deep/c.py"),
        (("*.py", "*.c"), "a.py\nsrc/b.PY\nsrc/d.c\nsrc/deep/c.py"),
        (("src/*.py",), "src/b.PY"),
        (("c.*",), "src/deep/c.py"),
    ],
)
def test_patterns_choose_the_files_of_a_folder(tmp_path, glob, text):
    for name in ("a.py", "src/b.PY", "src/deep/c.py", "src/d.c", "README.md", ".git/e.py"):
        write(tmp_path / name, name)
    corpus = load_corpus((str(tmp_path),), glob=glob)
    assert corpus.text == text
    assert (str(tmp_path / "README.md"), f"not {' '.join(glob)}") in corpus.left_out
    assert load_corpus((str(tmp_path / "README.md"),), glob=glob).text == "README.md"
    with pytest.raises(InputError, match=r"folder without text \(it has .*\), expected files matching \*\.nothing"):
        load_corpus((str(tmp_path),), glob=("*.nothing",))


def test_a_corpus_in_parts_tells_where_each_begins(tmp_path):
    contents = ["one", "", "TWO\n", "\u0130x", "e\u0301\n\n"]
    paths = [write(tmp_path / f"{i}.txt", content) for i, content in enumerate(contents)]
    corpus = load_corpus(paths, lowercase=True, normalize=True)
    assert corpus.text == "one\ntwo\ni\u0307x\n\u00e9\n\n"
    assert corpus.parts == tuple(zip(paths, (3, 0, 4, 3, 3), strict=True))
    assert [corpus.text[start:] for start in corpus.starts[1:]] == [
        "two\ni\u0307x\n\u00e9\n\n",
        "i\u0307x\n\u00e9\n\n",
        "\u00e9\n\n",
    ]


@relaxed
@given(parts=st.lists(anything | phrases, min_size=1, max_size=4), lowercase=st.booleans())
def test_cleaning_each_part_is_cleaning_the_whole(tmp_path_factory, parts, lowercase):
    folder = tmp_path_factory.mktemp("parts")
    parts = [re.sub("[\0\ufeff]", "", part) for part in parts]  # No UTF-16, and no byte order marks.
    paths = [write(folder / f"{i}.txt", part.encode()) for i, part in enumerate(parts)]
    if not any(parts):
        return
    whole = load_corpus(paths)
    text = whole.text.lower() if lowercase else whole.text
    assert load_corpus(paths, lowercase=lowercase, normalize=True).text == unicodedata.normalize("NFC", text)


def test_a_folder_without_text_says_what_it_has(tmp_path):
    for name in ("a.krn", "b.krn", "c/d.PY", ".e.txt"):
        write(tmp_path / name, "text")
    found = r"folder without text \(it has 2 ending \.krn, 1 ending \.py\), expected .*\.txt.* --glob \*\.py"
    with pytest.raises(InputError, match=found):
        load_corpus((str(tmp_path),))
    assert load_corpus((str(tmp_path / "a.krn"),)).text == "text"


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.txt", "at home")
    corpus = load_corpus(("~/x.txt",))
    assert (corpus.text, corpus.name, corpus.sources) == ("at home", "x", ("~/x.txt",))
    assert load_corpus(corpus.sources) == corpus


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


KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n인간은 이성과 양심을 부여받았다.\n"
JAPANESE = "すべての人間は、生れながらにして自由であり、\nかつ、尊厳と権利とについて平等である。\n"
CHINESE = "人人生而自由，在尊严和权利上一律平等。\n他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
TAIWANESE = "人人生而自由，在尊嚴和權利上一律平等。\n他們賦有理性和良心，並應以兄弟關係的精神相對待。\n"
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах.\n"
FRENCH = (
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison ; à l’œuvre !\n"
)
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren. „Schöne Grüße“ – für Österreich.\n"
ENGLISH = "“It’s no use,” she said – and that was all.\n"
POLISH = "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Żółć, źdźbło.\n"
VIETNAMESE = "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.\n"


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (KOREAN, "cp949", "cp949"),
        (KOREAN, "euc_kr", "cp949"),
        ("대한민국은 민주공화국이다.\n모든 권력은 국민으로부터 나온다.\n", "cp949", "cp949"),
        (JAPANESE, "shift_jis", "cp932"),
        (JAPANESE, "euc_jp", "euc-jp"),
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "gb2312", "gb18030"),
        (TAIWANESE, "big5", "cp950"),
        (RUSSIAN, "cp1251", "windows-1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        (FRENCH, "cp1252", "windows-1252"),
        (GERMAN, "cp1252", "windows-1252"),
        (ENGLISH, "cp1252", "windows-1252"),
        ("Un café à la crème, où l'élève a mangé un gâteau; ça va.\n", "latin1", "windows-1252"),
        ("El niño comió piña; ¿qué más? La cigüeña voló.\n", "latin1", "windows-1252"),
        ("Der Bär zählte später im Café noch mehr Märchen.\n", "cp850", "cp850"),
        ("Le café du musée a fermé cet été.\n", "mac_roman", "mac-roman"),
        (POLISH, "cp1250", "windows-1250"),
        (POLISH, "iso8859_2", "iso8859-2"),
        (KOREAN, "utf-16-le", "utf-16-le"),
        (CHINESE, "utf-16-be", "utf-16-be"),
        (FRENCH, "utf-16-le", "utf-16-le"),
        (ENGLISH, "utf-16-be", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("copies", [1, 300])
@pytest.mark.parametrize("before", ["", "Chapter 1. It begins in plain English.\n" * 2000])
def test_another_encoding_is_named_and_then_reads_the_text(tmp_path, text, encoding, named, copies, before):
    content = before + text * copies
    path = write(tmp_path / "old text.txt", content.encode(encoding))
    with pytest.raises(InputError) as caught:
        load_corpus((path,))
    message = str(caught.value)
    assert message.startswith(f"corpus {path}: found ")
    assert message.endswith(f" use --encoding {named}")
    assert len(message.splitlines()) == 1
    assert load_corpus((path,), encoding=named).text == content


def test_an_encoding_is_guessed_from_what_tells_it_wherever_that_is(tmp_path):
    english = "It begins in plain English. "
    for content, encoding, named in (
        # In a single line, after much that says nothing, or after a word that could be in several.
        (english * 2000 + FRENCH, "cp1252", "windows-1252"),
        (english * 2000 + KOREAN.replace("\n", " "), "cp949", "cp949"),
        (f"A café.\n{(english + chr(10)) * 2000}{POLISH}", "cp1250", "windows-1250"),
        # No space or line end in it.
        ("人人生而自由在尊严和权利上一律平等" * 1000, "gb18030", "gb18030"),
        ("a" + "人人生而自由在尊严和权利上一律平等" * 1000, "gb18030", "gb18030"),
        ("すべての人間は生れながらにして自由" * 1000, "cp932", "cp932"),
    ):
        path = write(tmp_path / "a.txt", content.encode(encoding))
        with pytest.raises(InputError, match=f"use --encoding {named}$"):
            load_corpus((path,))


def test_the_first_byte_that_is_not_utf_8_is_told(tmp_path):
    for content, byte, offset in (
        (b"caf\xe9 au lait", "E9", 3),
        (b"ab\xed\xa0\x80", "ED", 2),
        ("日".encode()[:2], "E6", 0),
    ):
        path = write(tmp_path / "a.txt", content)
        with pytest.raises(InputError, match=f"found byte 0x{byte} at offset {offset}, expected UTF-8"):
            load_corpus((path,))


def test_an_encoding_that_cannot_be_told_is_one_of_several(tmp_path):
    path = write(tmp_path / "a.txt", b"\xcd\xf2")
    with pytest.raises(InputError, match=r"unclear, perhaps .* or .*: name it with --encoding") as caught:
        load_corpus((path,))
    # Hungarian, but for the ő it could be from further west.
    hungarian = "Az idő és a nő szép.".encode("cp1250")
    with pytest.raises(InputError, match=r"perhaps windows-1252 .*windows-1250 \(Central European\)"):
        load_corpus((write(tmp_path / "b.txt", hungarian),))
    named = re.findall(r"(\S+) \(", str(caught.value).partition("perhaps")[2])
    assert len(named) > 1
    for name in named:
        assert load_corpus((path,), encoding=name).text == b"\xcd\xf2".decode(name)


@pytest.mark.parametrize("content", ["Übergröße, größtenteils".encode()[:-1] + b"\xfc", "日本語で".encode()[:-1]])
def test_a_few_bad_bytes_in_utf_8_are_damage_and_no_other_encoding(tmp_path, content):
    path = write(tmp_path / "a.txt", content)
    for marked in (content, b"\xef\xbb\xbf" + content):
        write(Path(path), marked)
        with pytest.raises(InputError, match="damaged") as caught:
            load_corpus((path,))
        assert "--encoding" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding_whatever_is_asked_for(tmp_path, encoding):
    path = write(tmp_path / "a.txt", KOREAN.encode(encoding))
    for asked in (None, "cp949", "utf-8", "utf-16-le"):
        assert load_corpus((path,), encoding=asked).text == KOREAN
    for order in ("le", "be"):
        path = write(tmp_path / "b.txt", ("\ufeff" + KOREAN).encode(f"utf-16-{order}"))
        assert load_corpus((path,)).text == KOREAN
        write(Path(path), Path(path).read_bytes()[:-1])
        with pytest.raises(InputError, match=rf"utf-16-{order}.*damaged"):
            load_corpus((path,))


def test_a_byte_that_does_not_fit_the_encoding_is_told(tmp_path):
    path = write(tmp_path / "a.txt", b"\xb0\xa1 ab\xff cd")
    with pytest.raises(InputError, match="found byte 0xFF at offset 5, expected cp949 text"):
        load_corpus((path,), encoding="cp949")
    path = write(tmp_path / "b.txt", KOREAN)
    with pytest.raises(InputError, match="expected cp949 text; the file is UTF-8: leave out --encoding"):
        load_corpus((path,), encoding="cp949")
    path = write(tmp_path / "c.txt", "café")
    corpus = load_corpus((path,), encoding="cp1252")
    assert corpus.text == "cafÃ©"
    assert corpus.remarks == (f"{path}: read as cp1252, but it seems to be UTF-8.",)


def zipped(*entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in entries:
            archive.writestr(name, text)
    return content.getvalue()


def saved(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 504
OTHER_FILES = {
    "table.xlsx": (zipped(("[Content_Types].xml", "<x/>"), ("xl/workbook.xml", "<x/>")), "Excel"),
    "note.odt": (zipped(("mimetype", "application/vnd.oasis.opendocument.text")), "OpenDocument text.*save it as"),
    "texts.zip": (zipped(("word.txt", "a text")), "zip archive.*unpack"),
    "cut.zip": (zipped(("a.txt", "a text"))[:40], "zip archive"),
    "novel.doc": (OLE + "WordDocument".encode("utf-16-le"), "Word document.*save it as"),
    "novel.hwp": (OLE + "HwpSummaryInformation".encode("utf-16-le"), "HWP.*save it as"),
    "texts.tar.gz": (gzip.compress(b"a".ljust(257, b"\0") + b"ustar\0"), "tar archive.*unpack"),
    "cut.txt.gz": (gzip.compress(b"a text")[:-9], "damaged gzip file"),
    "tune.mid": (b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk", r"\.mid file|MIDI file"),
    "a.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG image.*choose a text file"),
    "a.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "JPEG image"),
    "a.gif": (b"GIF89a\1\0\1\0\x80\0\0", "GIF image"),
    "a.mp3": (b"ID3\4\0\0\0\0\0\x23", "MP3"),
    "a.ogg": (b"OggS\0\2\0\0", "Ogg"),
    "a.npy": (saved(np.arange(5)), "NumPy array.*export"),
    "a.db": (b"SQLite format 3\0\x10\0", "SQLite"),
    "program": (b"\x7fELF\2\1\1\0", "program"),
    "noise": (np.random.default_rng(0).bytes(4000), "binary data"),
    "samples": ((np.random.default_rng(0).normal(size=4000) * 300).astype("<i2").tobytes(), "binary data"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_that_is_no_text_is_called_what_it_is_and_never_offered_an_encoding(tmp_path, name):
    content, words = OTHER_FILES[name]
    path = write(tmp_path / name, content)
    for encoding in (None, "latin1"):
        if (name, encoding) in (("noise", "latin1"), ("samples", "latin1")):
            continue  # Any bytes are valid Latin-1.
        with pytest.raises(InputError, match=f"found .*{words}") as caught:
            load_corpus((path,), encoding=encoding)
        assert "encoding" not in str(caught.value)
        assert str(caught.value).startswith(f"corpus {path}: ")


@pytest.mark.parametrize(
    "content", ["PK is a text", "GIF89a is a format.", "ID3 tags", "MThd", "BM", "Rar!", "MZ", "OggS\n"]
)
def test_a_text_about_a_format_is_a_text(tmp_path, content):
    assert load_corpus((write(tmp_path / "a.txt", content),)).text == content


def test_all_bad_files_are_named_at_once(tmp_path):
    folder = tmp_path / "mixed"
    write(folder / "a.txt", KOREAN.encode("cp949"))
    write(folder / "b.txt", "plain ASCII")
    write(folder / "c.md", KOREAN.encode("cp949"))
    with pytest.raises(InputError) as caught:
        load_corpus((str(folder),))
    message = str(caught.value)
    assert f"{folder}/a.txt (looks like cp949), {folder}/c.md (looks like cp949); use --encoding cp949" in message
    assert load_corpus((str(folder),), encoding="cp949").text == f"{KOREAN}plain ASCII\n{KOREAN}"

    write(folder / "d.txt", b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        InputError, match=r"d\.txt \(a PNG image\).*, or leave them out with --skip-unreadable$"
    ) as caught:
        load_corpus((str(folder),))
    assert "--encoding" not in str(caught.value)

    corpus = load_corpus((str(folder),), skip_unreadable=True)
    assert corpus.text == "plain ASCII"
    assert corpus.left_out == (
        (f"{folder}/a.txt", "looks like cp949"),
        (f"{folder}/c.md", "looks like cp949"),
        (f"{folder}/d.txt", "a PNG image"),
    )
    assert "read 1 file, 11 characters (b.txt 11); left out 3: a.txt (looks like cp949), c.md" in corpus.remarks[0]

    for i in range(11):
        write(folder / f"e{i}.txt", RUSSIAN.encode("cp1251"))
    with pytest.raises(InputError, match="and 4 more"):
        load_corpus((str(folder),))


def test_a_corpus_of_which_nothing_can_be_read_is_no_corpus(tmp_path):
    path = write(tmp_path / "a.txt", b"\x89PNG\r\n\x1a\n")
    for source in (path, str(tmp_path)):
        with pytest.raises(InputError, match="PNG image") as caught:
            load_corpus((source,), skip_unreadable=True)
        assert "--skip-unreadable" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_cannot_be_read_is_told_with_the_files(tmp_path):
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b" / "c.txt", "more")
    write(tmp_path / "d.txt", b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b").chmod(0)
    with pytest.raises(InputError, match=r"/b \(Permission denied\), .*/d\.txt \(a PNG image\)"):
        load_corpus((str(tmp_path),))
    assert load_corpus((str(tmp_path),), skip_unreadable=True).text == "text"


def test_gzip_is_unpacked_in_bounded_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "poem.txt.gz", gzip.compress(KOREAN.encode()) + gzip.compress(b"more"))
    corpus = load_corpus((path,))
    assert (corpus.text, corpus.name) == (KOREAN + "more", "poem")
    assert (
        load_corpus((write(tmp_path / "a.txt.gz", gzip.compress(KOREAN.encode("cp949"))),), encoding="cp949").text
        == KOREAN
    )
    monkeypatch.setattr(files, "GZIP_LEAST", 10_000)
    bomb = write(tmp_path / "bomb.gz", gzip.compress(bytes(10_000_000), mtime=0))
    with pytest.raises(InputError, match=r"gzip file of more than 195,000 bytes; unpack it first"):
        load_corpus((bomb,))


# Pipes.


@pytest.fixture
def pipe(tmp_path):
    """Makes a named pipe into which another thread writes some pieces of a text."""
    threads = []

    def make(*pieces, pause=0.0, before=0.0):
        path = tmp_path / f"pipe{len(threads)}"
        os.mkfifo(path)

        def fill():
            time.sleep(before)
            with contextlib.suppress(BrokenPipeError), open(path, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    file.flush()
                    time.sleep(pause)

        threads.append(threading.Thread(target=fill))
        threads[-1].start()
        return str(path)

    yield make
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("times", [{}, {"pause": 0.1}, {"before": 0.3}])
def test_a_pipe_is_read_to_its_end(pipe, times):
    pieces = [b"one\n", b"x" * 200_000, "é".encode()[:1], "é".encode()[1:]]
    assert load_corpus((pipe(*pieces, **times),)).text == b"".join(pieces).decode()


def test_a_pipe_of_a_process_is_read_as_the_shell_names_it():
    reader, writer = os.pipe()
    try:
        os.write(writer, b"from a process")
        os.close(writer)
        corpus = load_corpus((f"/dev/fd/{reader}",))
    finally:
        os.close(reader)
    assert (corpus.text, corpus.name) == ("from a process", "pipe")


def test_a_pipe_that_does_not_end_is_not_read_for_ever(pipe, monkeypatch):
    monkeypatch.setattr(files, "PIPED", 1000)
    assert len(load_corpus((pipe(b"x" * 1000),)).text) == 1000
    with pytest.raises(InputError, match="found more than 1,000 bytes; save them in a file first"):
        load_corpus((pipe(b"x" * 70_000),))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_standard_input_is_a_corpus(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(KOREAN.encode()))))
    corpus = load_corpus(("-",))
    assert (corpus.text, corpus.name, corpus.sources) == (KOREAN, "stdin", ("-",))
    for terminal in (Terminal(), None):
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(InputError, match="standard input is a terminal; pipe a text into it, or name a file"):
            load_corpus(("-",))


def test_an_encoding_that_would_spoil_the_other_files_is_not_advised(tmp_path):
    old = write(tmp_path / "old.txt", KOREAN.encode("cp949"))
    new = write(tmp_path / "new.txt", KOREAN)
    with pytest.raises(InputError, match=r"old\.txt \(looks like cp949\); others are UTF-8, so convert") as caught:
        load_corpus((old, new))
    assert "--encoding" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\rb\rc", r"CR alone.* tr '\\r' '\\n'"),
        ("a\r\nb\r\n", r"CR LF, as on Windows.* tr -d '\\r'"),
        ("a\r\nb\nc\nd\re\n", r"different ways \(3 LF, 1 CR LF, 1 CR\)"),
        ("a\0b\x1b[31m" * 9, r"25% of the text is control characters"),
    ],
)
def test_unusual_line_ends_and_control_characters_are_kept_and_remarked_on(tmp_path, text, words):
    corpus = load_corpus((write(tmp_path / "a.txt", text),))
    assert corpus.text == text
    [remark] = corpus.remarks
    assert re.search(words, remark)
    assert len(remark.splitlines()) == 1


def test_usual_text_gets_no_remark(tmp_path):
    assert load_corpus((write(tmp_path / "a.txt", "a\tb\n\x0c" * 99 + "\0"),)).remarks == ()


@pytest.mark.parametrize("text", [KOREAN, FRENCH, VIETNAMESE])
def test_normalised_text_is_the_same_however_it_was_typed(tmp_path, text):
    composed = write(tmp_path / "a.txt", unicodedata.normalize("NFC", text))
    decomposed = write(tmp_path / "b.txt", unicodedata.normalize("NFD", text))
    first, second = load_corpus((composed,), normalize=True), load_corpus((decomposed,), normalize=True)
    assert first.text == second.text == unicodedata.normalize("NFC", text)
    assert first.sha256 == second.sha256
    assert load_corpus((decomposed,)).text == unicodedata.normalize("NFD", text)
    lowered = load_corpus((decomposed,), lowercase=True, normalize=True).text
    assert lowered == unicodedata.normalize("NFC", text.lower())


@pytest.mark.parametrize("text", [KOREAN, FRENCH, VIETNAMESE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_differs_only_in_normalisation_works(text, kind):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))

    def reader(corpus, normalize):
        vocab = Vocab.build(kind, corpus, words=3)
        return TextGenerator(None, None, vocab, False, "", 10, "window", normalize)

    for unknown in ("error", "skip"):
        assert reader(composed, True).as_read(decomposed, unknown) == composed
        assert reader(composed, True).as_read(composed, unknown) == composed
        for corpus, prompt in ((composed, decomposed), (decomposed, composed), (decomposed, decomposed)):
            # Bytes spell both, so a model of bytes that was trained on either reads what it is given.
            expected = prompt if kind == "byte" else corpus
            assert reader(corpus, False).as_read(prompt, unknown) == expected
    if kind != "byte":
        assert reader(composed, False).as_read(decomposed + "🦊", "error") == decomposed + "🦊"


@pytest.mark.parametrize("source", ["", "missing.txt", "x" * 5000, "a\0b", "loop", "/dev/zero", "/dev/tty"])
def test_what_is_no_text_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "text")
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"corpus .*: found .*, expected a text file, a folder, or one of nietzsche"):
        load_corpus((source,))


def test_a_pipe_that_nothing_writes_to_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="fifo: found a pipe that nothing was written to; name a file"):
        load_corpus((str(tmp_path / "fifo"),))


def test_files_without_a_character_are_refused(tmp_path):
    empty, bom = write(tmp_path / "a.txt", ""), write(tmp_path / "b.txt", b"\xef\xbb\xbf")
    for sources in ((empty,), (bom,), (empty, bom, empty), (str(tmp_path),)):
        with pytest.raises(InputError, match="found no text"):
            load_corpus(sources)


# Downloads.

BODY = ("Ecce homo: wie man wird, was man ist. Ünïcode\r\n" * 50).encode()
FACTS = {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}


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
    received = [0]
    with pytest.raises(DownloadError, match=words) as caught:
        load_corpus(("nietzsche",), progress=lambda done, total: received.append(done))
    assert max(received) <= len(BODY)
    message = str(caught.value)
    assert message.startswith("corpus nietzsche: ")
    assert text.PUBLISHED["nietzsche"].url in message
    assert "--corpus my.txt" in message
    assert str(Path(os.environ["XDG_CACHE_HOME"], "jaxlm", "nietzsche.txt")) in message
    assert len(message.splitlines()) == 1
    assert cached() == {}
    server.answer = good
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    del caught
    gc.collect()  # A connection left open is a warning, and so an error, here.


@pytest.fixture
def place():
    """Where nietzsche is cached."""
    path = Path(os.environ["XDG_CACHE_HOME"], "jaxlm", "nietzsche.txt")
    path.parent.mkdir()
    return path


FLIPPED = BODY[:900] + bytes([BODY[900] ^ 1]) + BODY[901:]


@pytest.mark.parametrize("damage", [BODY[:-7], BODY + b"!", FLIPPED, BODY.replace(b"Ecce", b"Ecc\xff"), b""])
def test_a_damaged_cache_is_fetched_anew(server, place, damage):
    write(place, damage)
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert cached() == {"jaxlm/nietzsche.txt": BODY}
    assert server.requests == 1


def endless(place):
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, endless, lambda place: place.symlink_to("nothing")])
def test_what_is_cached_as_no_file_is_fetched_anew(server, place, make):
    make(place)
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert not place.is_symlink()
    assert cached() == {"jaxlm/nietzsche.txt": BODY}


def test_a_link_to_the_right_file_serves_as_cache(server, place, tmp_path):
    place.symlink_to(write(tmp_path / "mine.txt", BODY))
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert server.requests == 0


def test_a_directory_in_the_cache_is_told_and_done_without(server, place, caplog):
    (place / "mine").mkdir(parents=True)
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert "so nietzsche is not cached" in caplog.messages[0]
    assert (place / "mine").is_dir()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda place: place.write_bytes(FLIPPED), "something else"),
        (lambda place: (place.touch(), os.truncate(place, 2**40)), "something else"),
        (os.mkfifo, "cannot be read: not a file"),
        (endless, "cannot be read: not a file"),
        (os.mkdir, "cannot be read: Is a directory"),
    ],
)
def test_without_a_network_a_damaged_cache_is_named_and_never_learned(unreachable, place, caplog, make, found):
    make(place)
    with pytest.raises(DownloadError, match=rf"nietzsche\.txt \(what is there now .*{found}\)"):
        load_corpus(("nietzsche",))
    assert load_corpus().name == "python-docs"
    assert found in caplog.messages[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_without_a_network_an_unreadable_cache_is_named(unreachable, place):
    write(place, BODY)
    place.chmod(0)
    with pytest.raises(DownloadError, match="cannot be read: Permission denied"):
        load_corpus(("nietzsche",))


def test_a_download_is_on_the_disk_before_it_has_its_name(server, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_size))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("named"), replace(*paths)))
    load_corpus(("nietzsche",))
    assert done == [len(BODY), "named"]


def test_a_cache_that_cannot_be_written_is_told_and_done_without(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", write(tmp_path / "file", "not a directory"))
    assert load_corpus(("nietzsche",)).text == BODY.decode()
    assert re.fullmatch(r"cache .*file.*: cannot be written to \(.+\), so nietzsche is not cached", caplog.messages[0])


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
    with pytest.raises(DownloadError, match=r"Connection refused.*put the file there as .*jaxlm/nietzsche\.txt"):
        load_corpus(("nietzsche",))
    assert cached() == {}
    place = Path(os.environ["XDG_CACHE_HOME"], "jaxlm", "nietzsche.txt")
    write(place, BODY + b"more")
    with pytest.raises(DownloadError, match="what is there now is something else"):
        load_corpus(("nietzsche",))
    write(place, BODY)
    assert load_corpus(("nietzsche",)).text == BODY.decode()


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
    for place in range(0, len(content), len(content) // 50):
        damaged = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        assert not text._is_published(damaged, text.PUBLISHED[name])
    assert not text._is_published(content[:-1], text.PUBLISHED[name])


def test_a_file_with_the_name_of_standard_input_is_read_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("in a file")
    assert load_corpus(("./-",)).text == "in a file"
