"""Reads files as text; for those that it cannot read, names the encoding or the kind of file."""

import codecs
import gzip
import io
import os
import re
import stat
import sys
import time
import zipfile
import zlib
from pathlib import Path

from jaxlm import invocation
from jaxlm.errors import InputError, Unreadable
from jaxlm.notations.notation import Notation
from jaxlm.notations.registry import BY_SUFFIX, PROSE
from jaxlm.text.documents import FORMATS, READ, Documents, NotInstalled
from jaxlm.text.encodings import ENCODINGS, guess_encoding, guess_wide

STDIN = "-"
"""The name of standard input."""

PIPED = 2**31
"""The most bytes that are read from a pipe."""

WRITER_SECONDS = 5.0
"""How long a pipe may have no writer."""

GZIP_LEAST, GZIP_RATIO = 2**27, 20
"""A gzip file may unpack to this many bytes, and beyond that to this many times its size."""

_BYTE_ORDER_MARKS = (
    # UTF-32 first, since its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_SAVE = "save it as plain text (.txt) first"
_UNPACK = "unpack it first"
_EXPORT = "export its text first"
_CHOOSE = "choose a text file"

_KINDS = (
    (rb".{60}BOOKMOBI", "a Kindle (MOBI) book", "convert it to plain text (.txt) first, for example with Calibre"),
    (rb"AT&TFORM", "a DjVu document", "extract its text first, for example with djvutxt"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "a bzip2 archive", _UNPACK),
    (rb"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb".{257}ustar[\0 ]", "a tar archive", _UNPACK),
    (rb"MThd\0\0\0", "a MIDI file", _CHOOSE),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", _CHOOSE),
    (rb"\xff\xd8\xff", "a JPEG image", _CHOOSE),
    (rb"GIF8[79]a.{6}[\0-\x1f]", "a GIF image", _CHOOSE),
    (rb"BM.{4}\0\0\0\0", "a BMP image", _CHOOSE),
    (rb"II\*\0|MM\0\*", "a TIFF image", _CHOOSE),
    (rb"RIFF.{4}WEBP", "a WebP image", _CHOOSE),
    (rb"RIFF.{4}WAVE", "a WAV recording", _CHOOSE),
    (rb"RIFF.{4}AVI ", "an AVI video", _CHOOSE),
    (rb"FORM.{4}AIF[FC]", "an AIFF recording", _CHOOSE),
    (rb"ID3[\2-\4]\0", "an MP3 recording", _CHOOSE),
    (rb"OggS\0", "an Ogg recording", _CHOOSE),
    (rb"fLaC\0", "a FLAC recording", _CHOOSE),
    (rb"\0\0\0.ftyp(hei|mif)", "a HEIF image", _CHOOSE),
    (rb"\0\0\0.ftyp", "an MP4 video or recording", _CHOOSE),
    (rb"\x1a\x45\xdf\xa3", "a Matroska or WebM video", _CHOOSE),
    (rb"\x93NUMPY", "a NumPy array", _EXPORT),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (rb"PAR1[\x15-\x18]", "a Parquet table", _EXPORT),
    (rb"SQLite format 3\0", "an SQLite database", _EXPORT),
    (rb"\x80[\2-\5][\x95c}\]]", "a Python pickle", _EXPORT),
    (rb"bplist0", "a binary property list, such as a web archive", _EXPORT),
    (rb"\x7fELF|MZ.{0,62}\0|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\0asm", "a compiled program", _CHOOSE),
)
"""Patterns of first bytes that no plain text has, the kind of file, and the remedy."""

_ZIPPED = (
    # OpenDocument and HWPX name themselves in their first entry, Office and Java by their other entries.
    (rb"mimetypeapplication/vnd\.oasis\.opendocument\.text", "an OpenDocument text", _SAVE),
    (rb"mimetypeapplication/vnd\.oasis\.opendocument", "an OpenDocument file", _SAVE),
    (rb"mimetypeapplication/hwp", "a Hangul (HWPX) document", _SAVE),
    (rb"(.*\n)?xl/", "an Excel workbook", _SAVE),
    (rb"(.*\n)?ppt/", "a PowerPoint presentation", _SAVE),
    (rb"(.*\n)?Index/(Document|Metadata)\.iwa", "a Pages document", _SAVE),
    (rb"[^\n]*\.npy\n", "NumPy arrays (.npz)", _EXPORT),
    (rb"(.*\n)?META-INF/MANIFEST\.MF\n", "a Java archive", _CHOOSE),
)
"""The same for a zip file; the patterns match the content of an entry named mimetype, then all entries' names, a line
each."""


_SIGNED = ((rb"%PDF-", ".pdf"), (rb"\{\\rtf", ".rtf"), (rb"MThd\0\0\0", ".mid"))
_SIGNED_ZIPPED = ((rb"mimetypeapplication/epub", ".epub"), (rb"(.*\n)?word/", ".docx"))
"""The same patterns for documents, and the ending that they should have."""


class BadFile(InputError):
    """A file that cannot be read as text.

    Attributes:
      path: the file.
      kind: what it seems to be, in a few words.
      encoding: the encoding that it seems to be in, if that is the only problem.
    """

    def __init__(self, path: Path, found: str, remedy: str, kind: str, encoding: str | None = None) -> None:
        super().__init__(f"corpus {path}: {found}; {remedy}")
        self.path, self.remedy, self.kind, self.encoding = path, remedy, kind, encoding


def ending(name: str) -> str:
    """The ending that tells how a file is read, in lower case: that before a final .gz."""
    return Path(name.lower().removesuffix(".gz")).suffix


def read_text(
    path: Path, encoding: str | None, documents: Documents | None, notation: Notation | None = None
) -> tuple[str, Notation]:
    """The text of a file, unpacked from gzip, and the notation that it is in.

    A document, by its ending or by how it begins, becomes text as `text.documents` says; so do tunes and drawings.
    Plain text loses its byte order mark; in prose, line ends and control characters stay as they are.

    Args:
      path: the file, a pipe, or STDIN.
      encoding: of plain text, unless it has a byte order mark; by default UTF-8.
      documents: reads documents; None if they are plain text, as to runs from before there was a choice.
      notation: what it must be read as; by default, what its ending says.

    Raises:
      BadFile: the file cannot be opened, is not text, or is in another encoding or notation. The message names its
        kind, or the encoding if it can be guessed.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise BadFile(
            path,
            f"cannot be read ({error.strerror})",
            "change its permissions, or choose another file",
            error.strerror or "unreadable",
        ) from error
    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(path, content)
    suffix = ending(path.name)
    if suffix not in READ and (signed := _signed(content)) in READ:
        suffix = signed
    notation = notation or BY_SUFFIX.get(suffix, PROSE)
    if documents and (notation.readers.get(suffix) or (notation.is_plain and suffix in FORMATS)):
        text = _document(path, suffix, content, documents)
    elif notation.is_plain:
        text = _plain_text(path, content, encoding)
    else:
        expected = f"{notation.files} ({', '.join(notation.readers)})"
        remedy = f"choose such a file, or another {invocation.setting('notation')}"
        raise BadFile(path, f"found another kind of file, expected {expected}", remedy, "another kind of file")
    return notation.settled(text), notation


def _content(path: Path) -> bytes:
    """What is in a file; of standard input or a pipe, what comes until its end.

    Raises:
      BadFile: it is something else, nothing comes, or too much.
      OSError: it cannot be read.
    """
    if str(path) == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise BadFile(path, "standard input is a terminal", "pipe a text into it, or name a file", "a terminal")
        content = sys.stdin.buffer.read(PIPED + 1)
    else:
        # Opening a pipe must not wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode):
                return file.read()
            if not stat.S_ISFIFO(mode):
                raise BadFile(path, "found something that is not a file", _CHOOSE, "not a file")
            first = _first_bytes(file.fileno())
            os.set_blocking(file.fileno(), True)
            content = first + file.read(PIPED + 1)
            if not content:
                raise BadFile(path, "found a pipe that nothing was written to", "name a file", "an empty pipe")
    if len(content) > PIPED:
        raise BadFile(path, f"found more than {PIPED:,} bytes", "save them in a file first", "endless")
    return content


def _first_bytes(pipe: int) -> bytes:
    """What a pipe has, if anything yet; waits a while for one that has no writer, as it may be about to open it."""
    tries = 100
    for _ in range(tries):
        try:
            if first := os.read(pipe, 2**16):
                return first
        except BlockingIOError:
            return b""  # It has one, and more will come.
        time.sleep(WRITER_SECONDS / tries)
    return b""


def _unpacked(path: Path, content: bytes) -> bytes:
    most = max(GZIP_LEAST, GZIP_RATIO * len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(path, f"found a damaged gzip file ({error})", _CHOOSE, "a damaged gzip file") from error
    if len(unpacked) > most:
        raise BadFile(path, f"found a gzip file of more than {most:,} bytes", _UNPACK, "too large when unpacked")
    return unpacked


def _document(path: Path, suffix: str, content: bytes, documents: Documents) -> str:
    kind, extra = READ[suffix].kind, READ[suffix].extra
    try:
        return documents.read(suffix, content)
    except NotInstalled as error:
        remedy = f"install what reads it: pip install 'jaxlm[{extra}]'"
        raise BadFile(path, f"found {kind}, which needs {error}", remedy, f"{kind}, which needs {error}") from error
    except Unreadable as error:
        raise BadFile(path, f"found {kind} that {error}", READ[suffix].remedy, f"{kind} that {error}") from error


def _plain_text(path: Path, content: bytes, encoding: str | None) -> str:
    if known := _kind(content):
        kind, remedy = known
        raise BadFile(path, f"found {kind}, expected plain text", remedy, kind)
    mark, marked = next(
        ((mark, name) for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), (b"", encoding or "utf-8")
    )
    try:
        text = content[len(mark) :].decode(marked)
    except UnicodeError as error:
        start = len(mark) + (error.start if isinstance(error, UnicodeDecodeError) else 0)
        raise _misread(path, content, start, marked, bool(mark)) from error
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # As unicode_escape makes of `\\ud800`.
        raise BadFile(
            path,
            f"found half a character (U+{ord(text[error.start]):04X})",
            f"{marked} is not its encoding",
            "not text",
        ) from error
    if encoding is None and "\0" in text and (wide := guess_wide(content)):
        raise BadFile(
            path,
            "found UTF-16 text without a byte order mark, expected UTF-8",
            f"use {invocation.setting('encoding', wide)}",
            f"looks like {wide}",
            wide,
        )
    return text


def _misread(path: Path, content: bytes, start: int, encoding: str, marked: bool) -> BadFile:
    """The error for content that cannot be decoded from position `start` on."""
    expected = "UTF-8" if encoding == "utf-8" else encoding
    found = f"found byte 0x{content[start]:02X} at offset {start}, expected {expected} text"
    if marked:
        remedy = f"its byte order mark says {expected}, so the file is damaged: save it again, or choose another"
        return BadFile(path, found, remedy, f"damaged {expected}")
    if encoding != "utf-8" and _is_utf8(content):
        return BadFile(path, found, f"the file is UTF-8: leave out {invocation.setting('encoding')}", "UTF-8")
    if encoding == "utf-8" and _is_nearly_utf8(content):
        remedy = "the rest is UTF-8, so the file is damaged there: repair it, or choose another"
        return BadFile(path, found, remedy, "damaged UTF-8")
    names = guess_encoding(content, start)
    if not names and _is_binary(content):
        return BadFile(path, "found binary data, expected plain text", _CHOOSE, "binary data")
    if len(names) == 1:
        [name] = names
        script = f" ({ENCODINGS[name]})" if name in ENCODINGS else ""
        return BadFile(
            path,
            found,
            f"it looks like {name}{script}: use {invocation.setting('encoding', name)}",
            f"looks like {name}",
            name,
        )
    if names:
        *most, last = (f"{name} ({ENCODINGS[name]})" for name in names[:5])
        unclear = f"its encoding is unclear, perhaps {', '.join(most)} or {last}"
    else:
        unclear = "its encoding is unknown"
    return BadFile(path, found, f"{unclear}: name it with {invocation.setting('encoding')}", "encoding unknown")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_nearly_utf8(content: bytes) -> bool:
    """Whether most non-ASCII characters are UTF-8, which never happens by chance."""
    text = content.decode("utf-8", "replace")
    bad = text.count("\N{REPLACEMENT CHARACTER}")
    return len(text) - len(text.encode("ascii", "ignore")) > 2 * bad


def _is_binary(content: bytes) -> bool:
    """Whether too many bytes are control characters for text in any encoding."""
    part = content[: 2**20]
    return len(re.findall(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", part)) * 100 > len(part)


def _kind(content: bytes) -> tuple[str, str] | None:
    """The kind of a file that is not plain text, and the remedy; None if its first bytes do not reveal it."""
    if content.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        # Names in this container are UTF-16.
        for name, kind in (("HwpSummaryInformation", "a Hangul (HWP) document"), ("WordDocument", "a Word document")):
            if name.encode("utf-16-le") in content:
                return kind, _SAVE
        return "a Microsoft Office document", _SAVE
    if content.startswith((b"PK\3\4", b"PK\5\6")):
        return _match(_ZIPPED, _zip_entries(content)) or ("a zip archive", _UNPACK)
    return _match(_KINDS, content)


def _signed(content: bytes) -> str:
    """The ending of the document that a file's first bytes reveal; empty if they reveal none."""
    signed: tuple[tuple[bytes, str], ...] = _SIGNED
    if content.startswith(b"PK\3\4"):
        signed, content = _SIGNED_ZIPPED, _zip_entries(content)
    return next((suffix for pattern, suffix in signed if re.match(pattern, content, re.DOTALL)), "")


def _match(kinds: tuple[tuple[bytes, str, str], ...], content: bytes) -> tuple[str, str] | None:
    return next(((kind, remedy) for pattern, kind, remedy in kinds if re.match(pattern, content, re.DOTALL)), None)


def _zip_entries(content: bytes) -> bytes:
    """The names of a zip file's entries, a line each, after the content of the one named mimetype, if any."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            mimetype = b"mimetype" + archive.open("mimetype").read(100) if "mimetype" in names else b""
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        OSError,
        EOFError,
        zlib.error,
    ):  # Damaged, encrypted, or exotic.
        return b""
    return mimetype + "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
