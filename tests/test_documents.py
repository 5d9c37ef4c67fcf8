"""Documents: what becomes of books, pages and manuscripts, and of those that are damaged or hostile."""

import gzip
import io
import itertools
import re
import subprocess
import sys
import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm import invocation
from jaxlm.errors import InputError
from jaxlm.text import documents
from jaxlm.text.corpus import load_corpus
from jaxlm.text.documents import Documents, Unreadable, read_html


@pytest.fixture(autouse=True)
def as_command():
    with invocation.called_as("jaxlm"):
        yield


@pytest.fixture(scope="module")
def reader():
    with Documents() as documents:
        yield documents


def needs(module):
    return pytest.importorskip(module, reason=f"{module} is not installed; it is in jaxlm[documents] or jaxlm[test]")


def epub(pages, *, folder="OEBPS/", spine=None, first="", others=()):
    """An EPUB book with these pages, by name."""
    items = "".join(
        f'<item id="i{i}" href="{name}" media-type="application/xhtml+xml"/>' for i, name in enumerate(pages)
    )
    order = "".join(f'<itemref idref="i{i}"/>' for i in (range(len(pages)) if spine is None else spine))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            f'<rootfile full-path="{folder}book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            f"{folder}book.opf",
            f'{first}<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}'
            '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
            '<item id="cover" href="cover.jpg" media-type="image/jpeg"/></manifest>'
            f'<spine><itemref idref="nav"/>{order}</spine></package>',
        )
        for name, page in pages.items():
            archive.writestr(folder + name.replace("%20", " "), page)
        for name, text in others:
            archive.writestr(name, text)
    return content.getvalue()


def page(body):
    return f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head><body>{body}</body></html>'


# Pages.


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>one</p><p>two\n  words</p>", "one\n\ntwo words\n"),
        ("<p>a <b>bold</b> <i> word</i>, it is</p>", "a bold word, it is\n"),
        ("roses<br>are <br/> red<br><br>violets", "roses\nare\nred\n\nviolets\n"),
        ("<h1>T</h1>text<ul><li>one<li>two</ul>", "T\n\ntext\n\none\ntwo\n"),
        ("<table><tr><td>1<td>2<tr><td>3<td>4</table>", "1\t2\n3\t4\n"),
        ("<pre>def f():\n    return 1\n</pre>end", "def f():\n    return 1\n\n\nend\n"),
        ("<title>no</title><style>p {}</style><script>if (a < b) '<p>';</script>yes", "yes\n"),
        ("caf&eacute; &amp; &#x65E5; &nosuch; &lt;p&gt;", "café & 日 &nosuch; <p>\n"),
        ("<p>unclosed<p>and <b>wrongly <i>nested</b> tags</i>", "unclosed\n\nand wrongly nested tags\n"),
        ("<!-- no --><p>a\N{NO-BREAK SPACE}b</p>", "a\N{NO-BREAK SPACE}b\n"),
        ("", ""),
        ("<p> </p>\n", ""),
    ],
)
def test_a_page_becomes_its_text(markup, text):
    assert read_html(markup.encode()) == text


@settings(deadline=None)
@given(st.lists(st.text("abc é日&<>\"'").map(lambda text: " ".join(text.split())).filter(bool), min_size=1))
def test_paragraphs_come_back_as_they_were_written(paragraphs):
    import html

    markup = "".join(f"<div><p>{html.escape(text)}</p></div>\n" for text in paragraphs)
    assert read_html(markup.encode()) == "\n\n".join(paragraphs) + "\n"


@settings(deadline=None)
@given(st.text("<>/!-=ap\"' \nx"))
def test_no_markup_is_too_wrong(markup):
    assert set(read_html(markup.encode())) <= {*markup, *" \n\t"}


@pytest.mark.parametrize(
    "content",
    [
        "<p>café</p>".encode(),
        "<p>café</p>".encode("utf-8-sig"),
        "<p>café</p>".encode("utf-16"),
        '<meta charset="windows-1252"><p>café</p>'.encode("cp1252"),
        '<?xml version="1.0" encoding="iso-8859-1"?><p>café</p>'.encode("latin1"),
        '<meta http-equiv="Content-Type" content="text/html; charset=shift_jis"><p>カフェ</p>'.encode("cp932"),
        "<p>Tous les êtres humains naissent libres et égaux en dignité</p>".encode("cp1252"),
    ],
)
def test_a_page_is_read_in_its_encoding(content):
    assert re.search("café|カフェ|êtres .* dignité", read_html(content))


# Books.


def test_a_book_is_the_pages_of_its_spine_in_order(reader):
    pages = {"b.xhtml": page("<p>second</p>"), "a%20a.xhtml": page("<h1>I</h1><p>first</p>"), "c.xhtml": page("<img/>")}
    assert reader.read(".epub", epub(pages, spine=(1, 2, 0))) == "I\n\nfirst\n\nsecond\n"
    assert reader.read(".epub", epub(pages, folder="", spine=(0,))) == "second\n"


TENS = "".join(f"<!ENTITY {one} '{f'&{less};' * 10}'>" for less, one in itertools.pairwise("abcdefghij"))
ENTITIES = f"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaa'>{TENS}]>"
ENCRYPTED = '<encryption><CipherReference xmlns="http://www.w3.org/2001/04/xmlenc#" URI="OEBPS/a"/></encryption>'


MAKE_EPUB = """
import sys
import mkepub

book = mkepub.Book(title="A book", author="Someone")
book.add_page("First", "<h1>First</h1><p>It was a <em>dark</em> night.</p><p>\u00dcber &amp; out.</p>")
book.add_page("Second", "<p>The end.</p>")
book.save(sys.argv[1])
"""


def test_an_epub_made_by_another_program(reader, tmp_path):
    pytest.importorskip("mkepub")
    # In a process of its own, since it leaves a folder behind, of which Python would warn here.
    subprocess.run([sys.executable, "-c", MAKE_EPUB, tmp_path / "book.epub"], check=True)
    text = reader.read(".epub", (tmp_path / "book.epub").read_bytes())
    assert text == "First\n\nIt was a dark night.\n\n\u00dcber & out.\n\nThe end.\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged"),
        (b"PK\3\4 and so on", "is damaged"),
        (epub({"a": "x"})[:-30], "is damaged"),
        (epub({}), r"is damaged \(its spine names no pages\)"),
        (epub({"../../etc/passwd": "x"}, spine=(0,)), r"is damaged \(it lacks"),
        (epub({"a": "x"}, first=ENTITIES), "defines entities of its own"),
        (epub({"a": "x"}, others=[("META-INF/encryption.xml", ENCRYPTED)]), "is encrypted"),
        (epub({"a": " " * 2**25, "b": " " * 2**25}), "holds more than 64 MB of text"),
    ],
)
def test_a_damaged_or_hostile_book_is_refused_with_the_reason(reader, content, reason):
    began = time.monotonic()
    with pytest.raises(Unreadable, match=reason):
        reader.read(".epub", content)
    assert time.monotonic() - began < 60


def test_entities_of_a_page_multiply_nothing(reader):
    content = epub({"a": ENTITIES + page("<p>&j;&a;</p>")})
    assert len(reader.read(".epub", content)) < 2000


def test_depth_does_no_harm(reader):
    assert reader.read(".epub", epub({"a": "<div>" * 100_000 + "deep" + "</div>" * 100_000})) == "deep\n"


# The process that reads.


def test_reading_too_long_or_in_too_much_memory_ends_and_others_are_read(monkeypatch):
    with Documents() as reader:
        assert reader.read(".html", b"<p>one") == "one\n"
        monkeypatch.setattr(documents, "SECONDS", 0.2)
        with pytest.raises(Unreadable, match=r"takes more than 0\.2 seconds to read"):
            reader.read(".html", b"<p>x" * 2_000_000)
        monkeypatch.setattr(documents, "SECONDS", 60.0)
        assert reader.read(".html", b"<p>two") == "two\n"
    monkeypatch.setattr(documents, "MEMORY", 2**27)
    with Documents() as reader:
        with pytest.raises(Unreadable, match=r"takes more than 0\.12 GB of memory to read"):
            reader.read(".html", b"<p>x" * 2**24)
        assert reader.read(".html", b"<p>two") == "two\n"


def test_what_a_reader_raises_is_one_line(reader):
    with pytest.raises(Unreadable, match=r"^is damaged \(unknown status keyword 'foo ' in marked section\)$"):
        reader.read(".html", b"<![foo bar")


# Corpora of documents.


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_document_is_known_by_its_ending_or_by_how_it_begins(tmp_path):
    book = epub({"a": page("<p>a book</p>")})
    for name, content, text in (
        ("a.epub", book, "a book\n"),
        ("a.EPUB.gz", gzip.compress(book), "a book\n"),
        ("a.txt", book, "a book\n"),
        ("a.html", "<p>a page", "a page\n"),
        ("a.txt", "<p>a text", "<p>a text"),
    ):
        assert load_corpus((write(tmp_path / name, content),)).text == text


def test_a_folder_of_everything_is_read_or_told(tmp_path):
    write(tmp_path / "1.txt", "text")
    write(tmp_path / "2.epub", epub({"a": page("<p>a book</p>")}))
    write(tmp_path / "3.html", "<p>a page")
    write(tmp_path / "4.epub", b"PK")
    write(tmp_path / "5.html", "<![foo bar")
    with pytest.raises(InputError) as caught:
        load_corpus((str(tmp_path),))
    message = str(caught.value)
    assert "found 2 files that cannot be read" in message
    assert "4.epub (an EPUB book that is damaged (File is not a zip file))" in message
    assert "5.html (an HTML page that is damaged" in message
    assert message.endswith("save it as plain text (.txt) first, or leave them out with --skip-unreadable")
    corpus = load_corpus((str(tmp_path),), skip_unreadable=True)
    assert corpus.text == "text\na book\na page\n"
    assert [why for _, why in corpus.left_out] == [
        "an EPUB book that is damaged (File is not a zip file)",
        "an HTML page that is damaged (unknown status keyword 'foo ' in marked section)",
    ]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.pdf", b"%PDF-1.7\n", "a PDF document, which needs pypdf"),
        ("a.rtf", rb"{\rtf1\ansi A poem.}", "an RTF document, which needs striprtf"),
        ("a.docx", b"PK", "a Word document, which needs mammoth"),
        ("poem", rb"{\rtf1\ansi A poem.}", "an RTF document, which needs striprtf"),
    ],
)
def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch, name, content, kind):
    # As if these libraries were not there: a child process finds nothing to import but what Python has, and jaxlm.
    hidden = "for name in ('mammoth', 'striprtf', 'pypdf'): sys.modules[name] = None\n"
    start = documents._START.replace("documents.serve", f"\n{hidden}documents.serve")
    monkeypatch.setattr(documents, "_START", start)
    with pytest.raises(InputError) as caught:
        load_corpus((write(tmp_path / name, content),))
    assert str(caught.value) == (
        f"corpus {tmp_path / name}: found {kind}; install what reads it: pip install 'jaxlm[documents]'"
    )


# What the extra's libraries read, made by other programs.


def word(*, table=False):
    """A Word document by python-docx."""
    document = needs("docx").Document()
    document.add_heading("Chapter 1", 1)
    paragraph = document.add_paragraph("It was “the best” of times, ")
    paragraph.add_run("it was").bold = True
    paragraph.add_run(" the worst of times: café, 日本.")
    verse = document.add_paragraph("roses are red")
    verse.add_run().add_break()
    verse.add_run("violets are blue")
    document.add_paragraph("an item", style="List Bullet")
    if table:
        cells = document.add_table(1, 2).rows[0].cells
        cells[0].text, cells[1].text = "left", "right"
    content = io.BytesIO()
    document.save(content)
    return content.getvalue()


WORDS = (
    "Chapter 1\n\nIt was “the best” of times, it was the worst of times: café, 日本.\n\n"
    "roses are red\nviolets are blue\n\nan item\n"
)


def rebuilt(content, change):
    """A Word document with its main part changed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            part = old.read(info)
            new.writestr(info.filename, change(part) if info.filename == "word/document.xml" else part)
    return whole.getvalue()


def test_a_word_document_becomes_its_text(reader):
    needs("mammoth")
    assert reader.read(".docx", word()) == WORDS
    assert reader.read(".docx", word(table=True)) == f"{WORDS}\nleft\n\nright\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: part[: len(part) // 2], "is damaged"),
        (lambda part: part.replace(b"<w:body>", b"<w:body>" + b" " * 2**26), "holds more than 64 MB of text"),
        (
            lambda part: part.replace(
                b"<w:body>", b"<w:body><w:p>" + b"<w:smartTag>" * 100_000 + b"</w:smartTag>" * 100_000 + b"</w:p>"
            ),
            "is nested too deeply",
        ),
        (
            lambda part: part.replace(
                b"<w:document", ENTITIES.replace("x", "w:document", 1).encode() + b"<w:document", 1
            ).replace(b"roses", b"&j;"),
            "amplification|entities|takes more|undefined",
        ),
    ],
)
def test_a_damaged_or_hostile_word_document_is_refused_with_the_reason(reader, change, reason):
    needs("mammoth")
    with pytest.raises(Unreadable, match=reason):
        reader.read(".docx", rebuilt(word(), change))


def test_a_protected_word_document_is_told_as_such(reader):
    needs("mammoth")
    with pytest.raises(Unreadable, match="protected by a password"):
        reader.read(".docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (rb"{\rtf1\ansi\ansicpg1252 Caf\'e9\par two\line three\tab \u26085?\par}", "Café\ntwo\nthree\t日\n"),
        (rb"{\rtf1\ansi\ansicpg949 \'b0\'a1\par}", "가\n"),
        (rb"{\rtf1\ansi{\fonttbl{\f0 Times;}}{\*\generator X;}{\b bold} text}", "bold text"),
    ],
)
def test_an_rtf_document_becomes_its_text(reader, content, text):
    needs("striprtf")
    assert reader.read(".rtf", content) == text


def pdf(*pages):
    """A PDF document by hand, with a page of text each."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages))), len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text.encode()
        objects += [
            b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * i),
            b"<< /Length %d >> stream\n%s\nendstream" % (len(stream), stream),
        ]
    content, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj %s endobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end


def test_a_pdf_document_becomes_its_text_page_by_page(reader):
    needs("pypdf")
    assert reader.read(".pdf", pdf("the first page", "the second")) == "the first page\nthe second\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7\nall of it ASCII", "is damaged"),
        (pdf(""), "has no text, perhaps only images"),
        (pdf("x").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"), "is damaged|nested|has no text"),
        (pdf("x").replace(b"startxref", b"startxxxx"), "is damaged|has no text"),
    ],
)
def test_a_damaged_or_absurd_pdf_document_is_refused_with_the_reason(reader, content, reason):
    needs("pypdf")
    with pytest.raises(Unreadable, match=reason):
        reader.read(".pdf", content)


def test_a_protected_pdf_document_is_told_as_such(reader):
    pypdf = needs("pypdf")
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    content = io.BytesIO()
    writer.write(content)
    with pytest.raises(Unreadable, match="protected by a password"):
        reader.read(".pdf", content.getvalue())
