"""Documents: which endings are read as more than plain text, and how each becomes text.

A document may come from a stranger, and what reads it is not ours. So it is read in a process of its own, whose memory
and time are limited: one that is damaged, or made to exhaust a machine, costs at most that.
"""

import dataclasses
import faulthandler
import html.parser
import io
import logging
import os
import posixpath
import re
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from jaxlm.errors import Unreadable
from jaxlm.notations.registry import BY_SUFFIX
from jaxlm.text.encodings import guess_encoding

SECONDS, MEMORY = 120.0, 2**30
"""The most that reading one document may take: time, and bytes of memory."""

UNPACKED = 2**26
"""The most bytes of markup that a zipped document may hold."""

_HOME = str(Path(__file__).parents[2])
"""Where jaxlm lies, in whatever way it was found."""

_START = "import sys; sys.path[:] = sys.argv[2:]; from jaxlm.text import documents; documents.serve(int(sys.argv[1]))"


class NotInstalled(Exception):
    """A library that a reader needs is missing; names it."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How the files of an ending become text.

    Attributes:
      kind: what such a file is.
      read: takes the file's content. May raise Unreadable, or anything else if the content is damaged.
      extra: jaxlm's extra that installs what `read` imports; empty if it needs nothing more.
      remedy: what to do with one that cannot be read.
    """

    kind: str
    read: Callable[[bytes], str]
    extra: str = ""
    remedy: str = "save it as plain text (.txt) first"


class Documents:
    """Reads documents, all in one other process, which is started for the first and replaced if it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> "Documents":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, suffix: str, content: bytes) -> str:
        """The text of a document.

        Args:
          suffix: its ending, a key of READ.
          content: the file.

        Raises:
          Unreadable: it is damaged or protected, or takes too much time or memory.
          NotInstalled: the library that reads it is missing.
        """
        if self._process is None:
            # Its own errors go to a file, which no hostile document can fill as it could a pipe.
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, str(MEMORY), *sys.path, _HOME],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        header = b""
        try:
            requests.write(b"%s %d %f\n" % (suffix.encode(), len(content), SECONDS))
            requests.write(content)
            requests.flush()
            header = answers.readline()
        except BrokenPipeError:
            pass
        if not header:
            reason = self._why_it_ended()
            self._end()
            raise Unreadable(reason)
        status, size = header.split()
        answer = answers.read(int(size)).decode("utf-8")
        if status == b"missing":
            raise NotInstalled(answer)
        if status == b"unreadable":
            raise Unreadable(answer)
        return answer

    def _why_it_ended(self) -> str:
        assert self._process is not None
        assert self._errors is not None
        status = self._process.wait()
        self._errors.seek(0)
        told = self._errors.read(2**20).decode("utf-8", "replace")
        *_, last = told.strip().splitlines() or [""]
        if re.search("^Timeout", told, re.MULTILINE):
            return f"takes more than {SECONDS:g} seconds to read"
        if last.startswith("MemoryError") or status == -9:
            return f"takes more than {MEMORY / 2**30:.2g} GB of memory to read"
        if last.startswith("RecursionError"):
            return "is nested too deeply"
        cause = last.partition(": ")[2] or last or f"status {status}"
        return f"is damaged ({cause[:80]})"

    def _end(self) -> None:
        if self._process is not None and self._errors is not None:
            self._process.kill()
            self._process.communicate()
            self._errors.close()
        self._process = self._errors = None


def serve(memory: int) -> None:
    """Answers the requests of a `Documents`, on standard input, until that ends.

    What goes wrong with a document ends the process; `Documents` reads the cause from the last line of its errors.
    """
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.disable()
    sys.excepthook = _tell
    _limit_memory(memory)
    while header := sys.stdin.buffer.readline():
        suffix, size, seconds = header.decode().split()
        content = sys.stdin.buffer.read(int(size))
        # Ends the process, which no handler of a signal could while a library's C code runs.
        faulthandler.dump_traceback_later(float(seconds), exit=True)
        try:
            status, answer = b"text", READ[suffix].read(content)
        except ModuleNotFoundError as error:
            status, answer = b"missing", (error.name or "").partition(".")[0]
        except Unreadable as error:
            status, answer = b"unreadable", str(error)
        faulthandler.cancel_dump_traceback_later()
        encoded = answer.encode("utf-8", "replace")
        answers.write(b"%s %d\n" % (status, len(encoded)))
        answers.write(encoded)
        answers.flush()


def _tell(kind: type[BaseException], error: BaseException, _: object) -> None:
    # Not a traceback, which ends in an exception's notes where it has some.
    said = " ".join(str(error).split())
    print(f"{kind.__name__}: {said}" if said else kind.__name__, file=sys.stderr)


def _limit_memory(most: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):  # Windows has none, macOS may refuse it: there, time is the limit.
        pass


def read_html(content: bytes) -> str:
    """The text of an HTML page: paragraphs apart by an empty line, other lines by a line end."""
    parser = _Text()
    parser.feed(_decoded(content))
    parser.close()
    return parser.text()


def read_epub(content: bytes) -> str:
    """The text of an EPUB book: the pages of its spine, without the table of contents."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        unpacked = 0

        def part(name: str) -> bytes:
            nonlocal unpacked
            if name not in names:
                raise Unreadable(f"is damaged (it lacks {name[:80]})")
            unpacked += archive.getinfo(name).file_size  # No entry yields more than it declares.
            _check_size(unpacked)
            return archive.read(name)

        rootfile = _xml(part("META-INF/container.xml")).find(".//{*}rootfile")
        if rootfile is None:
            raise Unreadable("is damaged (it names no package)")
        package = rootfile.get("full-path", "")
        folder = posixpath.dirname(package)
        book = _xml(part(package))
        items = {item.get("id"): item for item in book.iterfind(".//{*}manifest/{*}item")}
        spine = [items.get(page.get("idref")) for page in book.iterfind(".//{*}spine/{*}itemref")]
        paths = [
            posixpath.normpath(posixpath.join(folder, urllib.parse.unquote(item.get("href", ""))))
            for item in spine
            if item is not None and "html" in item.get("media-type", "") and "nav" not in item.get("properties", "")
        ]
        if not paths:
            raise Unreadable("is damaged (its spine names no pages)")
        if "META-INF/encryption.xml" in names:
            encrypted = _xml(part("META-INF/encryption.xml")).iterfind(".//{*}CipherReference")
            if {place.get("URI") for place in encrypted} & set(paths):
                raise Unreadable("is encrypted")
        return "\n".join(page for path in paths if (page := read_html(part(path))))


def read_docx(content: bytes) -> str:
    """The text of a Word document, with a line end for each of its own."""
    import mammoth

    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable("is protected by a password, or an old .doc")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        markup = (info for info in archive.infolist() if info.filename.lower().endswith((".xml", ".rels")))
        _check_size(sum(info.file_size for info in markup))
    without_images = mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(io.BytesIO(content), convert_image=without_images).value
    return read_html(page.encode("utf-8"))


def read_rtf(content: bytes) -> str:
    """The text of an RTF document."""
    from striprtf.striprtf import rtf_to_text

    if not content.lstrip().startswith(b"{\\rtf"):
        raise Unreadable("is damaged (it does not begin as RTF)")
    # RTF is ASCII; the letters beyond that are spelled, in an encoding that the document names.
    return str(rtf_to_text(content.decode("cp1252", "replace"), errors="replace"))


def read_pdf(content: bytes) -> str:
    """The text of a PDF document, page by page."""
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("is protected by a password")
    text = "\n".join(page.extract_text().rstrip() for page in reader.pages)
    if not text.strip():
        raise Unreadable("has no text, perhaps only images of its pages")
    return text + "\n"


FORMATS = {
    ".docx": Format("a Word document", read_docx, "documents"),
    ".epub": Format("an EPUB book", read_epub),
    ".htm": Format("an HTML page", read_html),
    ".html": Format("an HTML page", read_html),
    ".pdf": Format("a PDF document", read_pdf, "documents"),
    ".rtf": Format("an RTF document", read_rtf, "documents"),
    ".xhtml": Format("an HTML page", read_html),
}
"""Documents by ending, in lower case. They become prose."""

NOTATED = {
    suffix: Format(f"a {suffix} file", read, notation.extra, "repair it, or choose others")
    for suffix, notation in BY_SUFFIX.items()
    if (read := notation.readers[suffix])
}
"""Files of notations by ending, other than those that are plain text."""

READ = {**FORMATS, **NOTATED}
"""All files that are more than plain text."""


_PARAGRAPHS = re.compile(
    "address|article|aside|blockquote|body|caption|dl|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|main|nav|ol"
    "|p|pre|section|table|ul"
)
_LINES = re.compile("dd|div|dt|li|option|tr")
_UNSEEN = ("script", "style", "template", "title")


class _Text(html.parser.HTMLParser):
    """Collects the text of a page as it is read, so that no depth of nesting matters."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._breaks = 0  # Line ends before the next text.
        self._unseen: str | None = None
        self._preformatted = 0
        self._cells = 0

    def text(self) -> str:
        """All of it, with a line end, or nothing."""
        text = "".join(self._parts).rstrip()
        return f"{text}\n" if text else ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in _UNSEEN and self._unseen is None:
            self._unseen = tag
        elif tag == "br":
            self._breaks = min(self._breaks + 1, 2)
        elif tag in ("td", "th"):
            if self._cells and not self._breaks:
                self._add("\t")
            self._cells += 1
        elif tag == "tr":
            self._cells = 0
        if tag == "pre":
            self._preformatted += 1
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = None
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._preformatted:
            data = re.sub(r"[ \t\n\r\f]+", " ", data)
            if self._breaks or not self._parts or self._parts[-1][-1].isspace():
                data = data.lstrip(" ")
        if data:
            self._add(data)

    def _break(self, tag: str) -> None:
        if _PARAGRAPHS.fullmatch(tag):
            self._breaks = 2
        elif _LINES.fullmatch(tag):
            self._breaks = max(self._breaks, 1)

    def _add(self, text: str) -> None:
        if self._breaks and self._parts:
            self._parts[-1] = self._parts[-1].rstrip(" ")
            self._parts.append("\n" * self._breaks)
        self._breaks = 0
        self._parts.append(text)


def _decoded(page: bytes) -> str:
    """A page as text: in the encoding that it names, else in UTF-8, else in the one that it certainly is in."""
    head = page[:1024]
    named = re.search(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", head)
    names = [named.group(1).decode("ascii", "replace")] if named else []
    if page.startswith((b"\xff\xfe", b"\xfe\xff")):
        names = ["utf-16"]
    for name in ("utf-8-sig", *names):
        try:
            return page.decode(name)
        except UnicodeDecodeError as error:
            start = error.start
        except LookupError:
            raise Unreadable(f"names an encoding that does not exist, {name[:40]}") from None
    guesses = guess_encoding(page, start)
    if named or len(guesses) != 1:
        raise Unreadable(f"is not in {names[0] if names else 'UTF-8'}, and names no other encoding")
    return page.decode(guesses[0])


def _xml(content: bytes) -> ElementTree.Element:
    # Entities can multiply a few bytes into gigabytes; no book needs any here.
    if b"<!ENTITY" in content:
        raise Unreadable("defines entities of its own")
    return ElementTree.fromstring(content)


def _check_size(unpacked: int) -> None:
    if unpacked > UNPACKED:
        raise Unreadable(f"holds more than {UNPACKED >> 20} MB of text")
