"""Corpora: a single text from names, files and folders."""

import collections
import dataclasses
import errno
import functools
import hashlib
import http.client
import itertools
import logging
import os
import stat
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePath

import platformdirs

from jaxlm import invocation
from jaxlm.errors import InputError, did_you_mean
from jaxlm.notations.notation import Notation
from jaxlm.notations.registry import BY_SUFFIX, NOTATIONS, PROSE
from jaxlm.text.documents import FORMATS, READ, Documents
from jaxlm.text.encodings import count_controls
from jaxlm.text.files import STDIN, BadFile, ending, read_text

log = logging.getLogger("jaxlm")

Received = Callable[[int, int], None]
"""Called with the bytes downloaded so far and the total."""

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".abc")
"""The endings of plain text. The files of a folder that are read are those with one of these, or with one of READ;
before either, .gz may stand at the end."""

TIMEOUT = 10.0
"""Seconds without an answer after which a download is abandoned."""

EMBEDDED = "python-docs"
"""The corpus that needs neither a network nor a file: the help topics that come with every CPython."""

NAMES_SHOWN = 10
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
      parts: the files, and corpora by name, that it was read from, in order, and the characters of each.
      starts: where in the text each part begins that is not empty.
      left_out: what was left out of folders, and why.
      remarks: what users should know about the text before they train on it, a sentence each.
      notation: the name of the notation that it is in, a key of NOTATIONS.
    """

    name: str
    sources: tuple[str, ...]
    text: str
    parts: tuple[tuple[str, int], ...] = ()
    starts: tuple[int, ...] = (0,)
    left_out: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    notation: str = PROSE.name

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
    glob: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    notation: str | None = None,
    documents: bool = True,
    progress: Received | None = None,
) -> Corpus:
    """Reads a corpus.

    Args:
      sources: published corpora by name, `python-docs`, files, and folders of them, joined in this order. A name
        takes precedence over a file of that name (`./nietzsche` is always a file); `~` is the home directory, `-`
        standard input. None means nietzsche, or python-docs if that is neither cached nor can be downloaded.
      encoding: of plain text, except that with a byte order mark; by default UTF-8.
      lowercase: whether to lowercase the text, unless it is in a notation: there, case means something.
      normalize: whether to then normalize it to Unicode's composed form, NFC.
      glob: patterns of the names, or of the ends of paths, of the files of a folder that are read, whatever the case
        of letters; by default those that end like text or a document.
      skip_unreadable: whether to leave out files that cannot be read.
      notation: what the files are read as, a key of NOTATIONS; by default what their endings say.
      documents: whether documents are read as such, and not as plain text.
      progress: is called as a download proceeds.

    Raises:
      InputError: a source is missing, cannot be read, or is not text in this encoding, there is no text at all, or
        there are several notations.
        Files that cannot be read are all named at once.
    """

    def clean(text: str, notation: Notation) -> str:
        text = text.lower() if lowercase and notation is PROSE else text
        return unicodedata.normalize("NFC", text) if normalize else text

    with Documents() as reader:
        wanted = NOTATIONS[notation] if notation else None
        reading = _Reading(clean, encoding, glob, skip_unreadable, wanted, reader if documents else None, progress)
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
    text, starts = reading.text(sources)
    found = reading.notation
    kept = [f"Case is kept: it means something in {found.files}."] if lowercase and found is not PROSE else []
    return Corpus(
        name=_name(sources[0]),
        sources=tuple(sources),
        text=text,
        parts=tuple((name, len(part)) for name, part in reading.parts),
        starts=starts,
        left_out=tuple(reading.left_out),
        remarks=(*reading.remarks, *kept, *_remarks(text)),
        notation=found.name,
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


def _name(source: str) -> str:
    """A corpus's short name."""
    if _is_name(source):
        return source
    if source == STDIN:
        return "stdin"
    path = Path(os.path.expanduser(source))
    if stat.S_ISFIFO(path.stat().st_mode):
        return path.name if path.name.startswith("std") else "pipe"
    path = path.resolve()
    return path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem


class _Reading:
    """Reads sources, and collects their texts and the files that cannot be read."""

    def __init__(
        self,
        clean: Callable[[str, Notation], str],
        encoding: str | None,
        glob: Sequence[str] | None,
        skip_unreadable: bool,
        notation: Notation | None,
        documents: Documents | None,
        progress: Received | None,
    ) -> None:
        self.parts: list[tuple[str, str]] = []
        self.left_out: list[tuple[str, str]] = []
        self.remarks: list[str] = []
        self._clean, self._encoding, self._glob, self._skip = clean, encoding, glob, skip_unreadable
        self._notation, self._documents, self._progress = notation, documents, progress
        self._first: tuple[str, Notation] | None = None  # The first part's name, and its notation.
        self._bad: list[BadFile] = []
        self._utf8 = False  # Whether there is a file that is UTF-8, and not just ASCII.

    def read(self, source: str) -> None:
        """Reads a source; `text` reports the files that cannot be read as text.

        Raises:
          InputError: there is no such source, or a folder without text.
        """
        if _is_name(source):
            text = fetch(source, self._progress) if source in PUBLISHED else _embedded()
            self._add(source, text, PROSE)
            return
        # os.path, unlike Path, returns False if permission is missing, and for strings that cannot be paths.
        path = os.path.expanduser(source)
        if Path(path) == Path(STDIN) and source != STDIN:  # As in ./-, a file of that name.
            path = os.path.abspath(path)
        if os.path.isdir(path):
            self._read_folder(Path(path))
        elif source == STDIN or os.path.isfile(path) or _is_pipe(path):
            self._read_file(Path(path))
        else:
            found = "something that is neither a file nor a folder" if os.path.exists(path) else "nothing there"
            names = [*PUBLISHED, EMBEDDED]
            raise InputError(
                f"corpus {source}: found {found}, expected a text file, a folder, or one of {', '.join(names)}"
                f"{did_you_mean(source, names)}"
            )

    @property
    def notation(self) -> Notation:
        """The notation of what was read."""
        return self._first[1] if self._first else PROSE

    def text(self, sources: Sequence[str]) -> tuple[str, tuple[int, ...]]:
        """All texts that were read, joined, and where each begins.

        Raises:
          InputError: there is none, or files could not be read.
        """
        label = f"corpus {' '.join(sources)}"
        parts = [part for _, part in self.parts if part]
        if self._bad and not (self._skip and parts):
            raise _complaint(label, self._bad, self._encoding or "UTF-8", self._utf8, bool(parts))
        if not parts:
            raise InputError(f"{label}: found no text in it; choose another file")
        # The last line of a file must not join the first of the next.
        parts[:-1] = [part if part.endswith("\n") else part + "\n" for part in parts[:-1]]
        return "".join(parts), tuple(itertools.accumulate(map(len, parts[:-1]), initial=0))

    def _read_folder(self, folder: Path) -> None:
        before, bad = len(self.parts), len(self._bad)
        files, left_out = self._walk(folder)
        if not files and len(self._bad) == bad:
            kinds = collections.Counter(why for _, why in left_out)
            has = f" (it has {_counts(kinds)})" if left_out else ""
            wanted = "matching " + " ".join(self._glob) if self._glob else f"ending in {', '.join(self._suffixes())}"
            raise InputError(
                f"corpus {folder}: found a folder without text{has}, expected files {wanted}; name others one by one, "
                f"or by a pattern, such as {invocation.setting('glob', '*.py')}"
            )
        if not self._glob and self._notation in (None, PROSE):
            files, others = self._of_one_kind(files)
            left_out += [(str(file.relative_to(folder)), why) for file, why in others]
        for file in files:
            self._read_file(file)
        left_out += [(str(error.path.relative_to(folder)), error.kind) for error in self._bad[bad:]]
        self.left_out += [(str(folder / name), why) for name, why in left_out]
        read = [(str(Path(path).relative_to(folder)), len(text)) for path, text in self.parts[before:]]
        self.remarks.append(_report(str(folder), read, left_out))

    def _walk(self, folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
        """The files below a folder to read, in order; and what is left out, and why. Hidden ones are ignored."""

        def stop(error: OSError) -> None:
            place, why = Path(error.filename), f"cannot be read ({error.strerror})"
            self._bad.append(BadFile(place, why, "change its permissions, or leave it out", error.strerror or ""))

        files, left_out = [], []
        for place, folders, names in os.walk(folder, onerror=stop):
            folders[:] = [name for name in folders if not name.startswith(".")]
            linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
            left_out += [(os.path.relpath(os.path.join(place, name), folder), "linked folder") for name in linked]
            for file in (Path(place, name) for name in names if not name.startswith(".")):
                if why := self._why_not(file.relative_to(folder), file):
                    left_out.append((str(file.relative_to(folder)), why))
                else:
                    files.append(file)
        return sorted(files), sorted(left_out)

    def _of_one_kind(self, files: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
        """The files in the notation of what was read before, or else of most of them; and the others, and why not.

        A folder of texts may have pictures, and one of tunes a text about them. Where texts are asked for, files of
        tunes are some only if there are no others: so what is read as texts is read the same again.
        """
        kinds = [BY_SUFFIX.get(ending(file.name), PROSE) for file in files]
        usual = max([PROSE, *kinds], key=kinds.count)  # Of equally many, texts.
        wanted = self._first[1] if self._first and self._first[1] in kinds else usual
        if self._notation is PROSE:
            wanted = PROSE if PROSE in kinds else usual
        pairs = list(zip(files, kinds, strict=True))
        others = [(file, f"not {wanted.files}") for file, kind in pairs if kind is not wanted]
        return [file for file, kind in pairs if kind is wanted], others

    def _why_not(self, name: Path, file: Path) -> str:
        """Why a file of a folder is not read; empty if it is."""
        if not os.path.isfile(file):
            return "not a file"
        if name.name.startswith("~$"):
            return "lock of an open document"
        if self._glob:
            lower = PurePath(str(name).lower())
            return "" if any(lower.match(pattern.lower()) for pattern in self._glob) else f"not {' '.join(self._glob)}"
        if ending(name.name) in self._suffixes():
            return ""
        return f"ending {name.suffix.lower()}" if name.suffix else "no ending"

    def _suffixes(self) -> Collection[str]:
        """The endings of the files of a folder that are read."""
        if self._notation is None:
            return (*TEXT_SUFFIXES, *READ)
        return (*TEXT_SUFFIXES, *FORMATS) if self._notation is PROSE else self._notation.readers.keys()

    def _read_file(self, file: Path) -> None:
        try:
            text, notation = read_text(file, self._encoding, self._documents, self._notation)
        except BadFile as error:
            self._bad.append(error)
            return
        if self._encoding is None:
            self._utf8 |= not text.isascii()
        elif _seems_utf8(text, self._encoding):
            self.remarks.append(f"{file}: read as {self._encoding}, but it seems to be UTF-8.")
        self._add(str(file), text, notation)

    def _add(self, name: str, text: str, notation: Notation) -> None:
        """Adds a part.

        Raises:
          InputError: it is in another notation than those before it.
        """
        first, known = self._first = self._first or (name, notation)
        if notation is not known:
            choices = " or ".join(invocation.setting("notation", kind.name) for kind in (known, notation))
            raise InputError(
                f"corpus {name}: found {notation.files}, but {first} has {known.files}, expected one kind; read one "
                f"alone with {choices}"
            )
        self.parts.append((name, self._clean(text, notation)))


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _report(folder: str, read: Sequence[tuple[str, int]], left_out: Sequence[tuple[str, str]]) -> str:
    """A sentence on what was read of a folder, and what not."""
    total = sum(characters for _, characters in read)
    files = "1 file" if len(read) == 1 else f"{len(read):,} files"
    names = _listing([f"{name} {characters:,}" for name, characters in read])
    report = f"{folder}: read {files}, {total:,} characters ({names})"
    if left_out:
        named = _listing([f"{name} ({why})" for name, why in left_out])
        if len(left_out) > NAMES_SHOWN:
            named = _counts(collections.Counter(why for _, why in left_out))
        report += f"; left out {len(left_out):,}: {named}"
    return f"{report}."


def _counts(kinds: collections.Counter[str]) -> str:
    return _listing([f"{count:,} {kind}" for kind, count in kinds.most_common()])


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _complaint(label: str, bad: Sequence[BadFile], expected: str, others_utf8: bool, others: bool) -> InputError:
    """One error for all files that could not be read."""
    encoding = bad[0].encoding if len({error.encoding for error in bad}) == 1 else None
    skip = f", or leave {'it' if len(bad) == 1 else 'them'} out with {invocation.setting('skip_unreadable')}"
    if not others:
        skip = ""
    if len(bad) == 1 and not (encoding and others_utf8):
        return InputError(f"{bad[0]}{skip}")
    found = "a file" if len(bad) == 1 else f"{len(bad):,} files"
    names = _listing([f"{error.path} ({error.kind})" for error in bad])
    if encoding and not others_utf8:
        remedy = f"use {invocation.setting('encoding', encoding)}"
    elif not encoding and len({error.remedy for error in bad}) == 1:
        remedy = bad[0].remedy
    elif others_utf8:
        remedy = "others are UTF-8, so convert these to UTF-8"
    else:
        remedy = "convert them to UTF-8 text first"
    return InputError(f"{label}: found {found} that cannot be read as {expected} text: {names}; {remedy}{skip}")


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
