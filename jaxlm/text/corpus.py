"""Corpora: a single text from names, files and folders."""

import collections
import dataclasses
import errno
import functools
import hashlib
import http.client
import logging
import os
import stat
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import platformdirs

from jaxlm import invocation
from jaxlm.errors import InputError, did_you_mean
from jaxlm.text.encodings import count_controls
from jaxlm.text.files import BadFile, read_text

log = logging.getLogger("jaxlm")

Received = Callable[[int, int], None]
"""Called with the bytes downloaded so far and the total."""

TEXT_SUFFIXES = (".txt", ".text", ".md")
"""The files of a folder that are read: those with one of these endings."""

TIMEOUT = 10.0
"""Seconds without an answer after which a download is abandoned."""

EMBEDDED = "python-docs"
"""The corpus that needs neither a network nor a file: the help topics that come with every CPython."""

NAMES_SHOWN = 5
"""The number of files that a message names; the rest are counted."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A corpus at a public address, and the size and digest that identify it."""

    url: str
    bytes: int
    sha256: str


PUBLISHED = {
    # The book's corpus: translations into English, in the public domain.
    "nietzsche": Published(
        url="https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        bytes=600_901,
        sha256="23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
    ),
    # The corpus of char-rnn and nanoGPT.
    "shakespeare": Published(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        bytes=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text to learn from.

    Attributes:
      name: a short name; runs are named after it.
      sources: the names and paths that it was read from, and can be read from again.
      text: all of it.
      files: the paths of the files that were read, in order; none for published corpora and python-docs.
      remarks: what users should know about the text before they train on it, a sentence each.
    """

    name: str
    sources: tuple[str, ...]
    text: str
    files: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of the text in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def load_corpus(
    sources: Sequence[str] | None = None,
    *,
    encoding: str | None = None,
    lowercase: bool = False,
    normalize: bool = False,
    progress: Received | None = None,
) -> Corpus:
    """Reads a corpus.

    Args:
      sources: published corpora by name, `python-docs`, text files, and folders of them, joined in this order. A name
        takes precedence over a file of that name (`./nietzsche` is always a file); `~` is the home directory. None
        means nietzsche, or python-docs if that is neither cached nor can be downloaded.
      encoding: of the files, except those with a byte order mark; by default UTF-8.
      lowercase: whether to lowercase the text.
      normalize: whether to then normalize it to Unicode's composed form, NFC.
      progress: is called as a download proceeds.

    Raises:
      InputError: a source is missing, cannot be read, or is not text in this encoding, or there is no text at all.
        Files that cannot be read are all named at once.
    """
    reading = _Reading(encoding, progress)
    if sources is None:
        try:
            sources = ("nietzsche",)
            reading.read("nietzsche")
        except DownloadError as error:
            sources = (EMBEDDED,)
            reading.read(EMBEDDED)
            log.warning("%s. Training on %s, Python's own help topics, instead.", error, EMBEDDED)
    else:
        for source in sources:
            reading.read(source)
    text = reading.text(sources)
    if lowercase:
        text = text.lower()
    if normalize and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    first = sources[0]
    name = first if _is_name(first) else Path(os.path.expanduser(first)).resolve().stem
    return Corpus(
        name=name,
        sources=tuple(sources),
        text=text,
        files=tuple(map(str, reading.files)),
        remarks=(*reading.remarks, *_remarks(text)),
    )


class DownloadError(InputError):
    """A published corpus that could not be downloaded."""


def fetch(name: str, progress: Received | None = None) -> str:
    """The text of a published corpus: from the user's cache, or else downloaded and cached.

    Raises:
      DownloadError: the network or the server failed, or sent something else.
    """
    published = PUBLISHED[name]
    path = Path(platformdirs.user_cache_dir("jaxlm", appauthor=False)) / f"{name}.txt"
    found = ""
    try:
        content = _read_cached(path, published.bytes)
        if _is_published(content, published):
            return content.decode("utf-8")
        found = " (what is there now is something else)"
    except FileNotFoundError:
        pass
    except OSError as error:
        found = f" (what is there now cannot be read: {error.strerror})"
    place = f"put the file there as {path}{found}"
    advice = f"check the network, {place}, or use a text of your own with {invocation.setting('corpus', 'my.txt')}"
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT) as response:
            received = bytearray()
            while block := response.read(64 * 1024):
                received += block
                if len(received) > published.bytes:
                    break
                if progress:
                    progress(len(received), published.bytes)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # The error holds the connection.
        reason = str(error.reason if isinstance(error, urllib.error.URLError) else error).strip()
        raise DownloadError(
            f"corpus {name}: could not be fetched from {published.url} ({reason or type(error).__name__}); {advice}"
        ) from error
    if not _is_published(received, published):
        raise DownloadError(
            f"corpus {name}: {published.url} sent {len(received):,} bytes that are not this corpus, expected its "
            f"{published.bytes:,}; {advice}"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written to a temporary directory beside it, then moved, so that it is cached whole or not at all.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=name) as folder:
            whole = Path(folder) / path.name
            with whole.open("xb") as file:
                file.write(received)
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, path)
    except OSError as error:
        log.warning("cache %s: cannot be written to (%s), so %s is not cached", path.parent, error.strerror, name)
    return received.decode("utf-8")


def _read_cached(path: Path, size: int) -> bytes:
    """A file's content, but of more than `size` bytes only one more.

    Raises:
      OSError: it cannot be read, or is not a regular file.
    """
    # Opening a pipe must not wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        return file.read(size + 1)


def _is_published(content: bytes | bytearray, published: Published) -> bool:
    return len(content) == published.bytes and hashlib.sha256(content).hexdigest() == published.sha256


def _embedded() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def _is_name(source: str) -> bool:
    return source in PUBLISHED or source == EMBEDDED


class _Reading:
    """Reads sources, and collects their texts and the files that cannot be read."""

    def __init__(self, encoding: str | None, progress: Received | None) -> None:
        self.files: list[Path] = []
        self.remarks: list[str] = []
        self._encoding, self._progress = encoding, progress
        self._parts: list[str] = []
        self._bad: list[BadFile] = []
        self._utf8 = False  # Whether there is a file that is UTF-8, and not just ASCII.

    def read(self, source: str) -> None:
        """Reads a source; `text` reports the files that cannot be read as text.

        Raises:
          InputError: there is no such source, or a folder without text.
        """
        if _is_name(source):
            self._parts.append(fetch(source, self._progress) if source in PUBLISHED else _embedded())
            return
        # os.path, unlike Path, returns False if permission is missing, and for strings that cannot be paths.
        path = os.path.expanduser(source)
        if os.path.isfile(path):
            self._read_file(Path(path))
        elif os.path.isdir(path):
            self._read_folder(Path(path))
        else:
            found = "something that is neither a file nor a folder" if os.path.exists(path) else "nothing there"
            names = [*PUBLISHED, EMBEDDED]
            raise InputError(
                f"corpus {source}: found {found}, expected a text file, a folder, or one of {', '.join(names)}"
                f"{did_you_mean(source, names)}"
            )

    def text(self, sources: Sequence[str]) -> str:
        """All texts that were read, joined.

        Raises:
          InputError: there is none, or files could not be read.
        """
        label = f"corpus {' '.join(sources)}"
        if self._bad:
            raise _complaint(label, self._bad, self._encoding or "UTF-8", self._utf8)
        parts = [part for part in self._parts if part]
        if not parts:
            raise InputError(f"{label}: found no text in it; choose another file")
        # The last line of a file must not join the first of the next.
        return "".join(part if part.endswith("\n") else part + "\n" for part in parts[:-1]) + parts[-1]

    def _read_folder(self, folder: Path) -> None:
        files, others = _walk(folder)
        left_out = _counts(others)
        if not files:
            raise InputError(
                f"corpus {folder}: found a folder without text{f' (it has {left_out})' if others else ''}, expected "
                f"files ending in {', '.join(TEXT_SUFFIXES)}; name files with other endings one by one"
            )
        for file in files:
            self._read_file(file)
        names = _listing([str(file.relative_to(folder)) for file in files])
        remark = f"{folder}: read {len(files)} {'file' if len(files) == 1 else 'files'} ({names})"
        if others:
            remark += f"; left out {others.total()} ({left_out}); to read such a file, name it explicitly"
        self.remarks.append(f"{remark}.")

    def _read_file(self, file: Path) -> None:
        try:
            text = read_text(file, self._encoding)
        except BadFile as error:
            self._bad.append(error)
            return
        if self._encoding is None:
            self._utf8 |= not text.isascii()
        elif _seems_utf8(text, self._encoding):
            self.remarks.append(f"{file}: read as {self._encoding}, but it seems to be UTF-8.")
        self.files.append(file)
        self._parts.append(text)


def _walk(folder: Path) -> tuple[list[Path], collections.Counter[str]]:
    """The text files below a folder, in order, and the number of others by ending; hidden ones are ignored."""

    def stop(error: OSError) -> NoReturn:
        raise InputError(
            f"corpus {error.filename}: cannot be read ({error.strerror}); change its permissions, or choose another "
            "folder"
        )

    files, others = [], collections.Counter[str]()
    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        others["linked folder"] += sum(os.path.islink(os.path.join(place, name)) for name in folders)
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if not os.path.isfile(file):
                others["not a file"] += 1
            elif file.suffix.lower() in TEXT_SUFFIXES:
                files.append(file)
            else:
                others[file.suffix.lower() or "without ending"] += 1
    return sorted(files), +others


def _counts(others: collections.Counter[str]) -> str:
    return _listing([f"{kind} {count}" for kind, count in sorted(others.items())], 10)


def _listing(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _complaint(label: str, bad: Sequence[BadFile], expected: str, others_utf8: bool) -> InputError:
    """One error for all files that could not be read."""
    encoding = bad[0].encoding if len({error.encoding for error in bad}) == 1 else None
    if len(bad) == 1 and not (encoding and others_utf8):
        return bad[0]
    found = "a file" if len(bad) == 1 else "files"
    names = _listing([f"{error.path} ({error.kind})" for error in bad])
    if encoding and not others_utf8:
        remedy = f"use {invocation.setting('encoding', encoding)}"
    elif others_utf8:
        remedy = "others are UTF-8, so convert these to UTF-8, or leave them out"
    else:
        remedy = "convert them to UTF-8 text first, or leave them out"
    return InputError(f"{label}: found {found} that cannot be read as {expected} text: {names}; {remedy}")


def _seems_utf8(text: str, encoding: str) -> bool:
    """Whether a text's bytes in an encoding are UTF-8 too, which happens by chance only in very short texts."""
    try:
        return text.encode(encoding).decode("utf-8") != text
    except UnicodeError:
        return False


def _remarks(text: str) -> Iterator[str]:
    """Yields sentences about what is unusual in a text's characters."""
    crlf = text.count("\r\n")
    cr, lf = text.count("\r") - crlf, text.count("\n") - crlf
    keeps = "The model learns them as they are"
    if crlf and not cr and not lf:
        yield f"Lines end in CR LF, as on Windows. {keeps}; to convert a file: tr -d '\\r' < FILE > NEW."
    elif cr and not crlf and not lf:
        yield (f"Lines end in CR alone, as on old Macs. {keeps}; to convert a file: tr '\\r' '\\n' < FILE > NEW.")
    elif cr or crlf:
        ends = ", ".join(f"{count:,} {name}" for name, count in (("LF", lf), ("CR LF", crlf), ("CR", cr)) if count)
        yield f"Lines end in different ways ({ends}). {keeps}; an editor can convert them to one kind."
    if (controls := count_controls(text)) * 100 > len(text):
        yield f"{controls / len(text):.0%} of the text is control characters, such as NUL. Is it really text?"
