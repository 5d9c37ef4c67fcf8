"""Corpora and vocabularies: from names and files to one text, from text to token ids and back."""

import codecs
import dataclasses
import functools
import hashlib
import http.client
import logging
import os
import shlex
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import platformdirs

from jaxlm.errors import InputError

log = logging.getLogger("jaxlm")

Received = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all."""

TEXT_SUFFIXES = (".txt", ".text", ".md")
"""Files with one of these endings are the text of a folder."""

TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up."""

EMBEDDED = "python-docs"
"""The corpus that needs neither network nor file: the help topics that every CPython carries."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A corpus at a public address, and facts that tell it from a captive portal's page."""

    url: str
    bytes: int
    characters: int
    offset: int
    passage: str


PUBLISHED = {
    # The book's corpus: translations into English, in the public domain.
    "nietzsche": Published(
        url="https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        bytes=600_901,
        characters=600_893,
        offset=116_739,
        passage="the slowly ascending ranks and classes, in which,\nthrough fo",
    ),
    # The corpus of char-rnn and nanoGPT.
    "shakespeare": Published(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        bytes=1_115_394,
        characters=1_115_394,
        offset=0,
        passage="First Citizen:\nBefore we proceed any further, hear me speak.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text to learn from.

    Attributes:
      name: short; a run is named after it.
      sources: the names and paths it was read from, which read it again.
      text: the whole of it.
    """

    name: str
    sources: tuple[str, ...]
    text: str

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the text, in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def load_corpus(
    sources: Sequence[str] | None = None, *, lowercase: bool = False, progress: Received | None = None
) -> Corpus:
    """Reads a corpus.

    Args:
      sources: names of published corpora, `python-docs`, files of UTF-8 text, and folders of them, joined in
        this order. A name wins over a file of that name (`./nietzsche` is always a file). None means
        nietzsche, or python-docs where that is neither in the cache nor on the network.
      lowercase: whether to lowercase the text.
      progress: told of a download as it goes on.

    Raises:
      InputError: a source is missing, unreadable, not UTF-8, or holds no text.
    """
    if sources is None:
        try:
            sources, text = ("nietzsche",), fetch("nietzsche", progress)
        except DownloadError as error:
            sources, text = (EMBEDDED,), _embedded()
            log.warning("%s. Training on %s, Python's own help topics, instead.", error, EMBEDDED)
    else:
        parts = [part for source in sources for part in _read(source, progress) if part]
        # Two files' lines must not run into one another.
        text = "".join(
            part if part.endswith("\n") or i == len(parts) - 1 else part + "\n" for i, part in enumerate(parts)
        )
    if not text:
        raise InputError(f"corpus {' '.join(sources)}: found no text in it, expected some; choose another file")
    name = Path(sources[0]).resolve().stem if _is_path(sources[0]) else sources[0]
    return Corpus(name, tuple(sources), text.lower() if lowercase else text)


class DownloadError(InputError):
    """A published corpus that could not be fetched whole."""


def fetch(name: str, progress: Received | None = None) -> str:
    """The text of a published corpus: from the user's cache, or downloaded into it, whole or not at all.

    Raises:
      DownloadError: the network or the server failed, or what came is not that corpus.
    """
    published = PUBLISHED[name]
    path = Path(platformdirs.user_cache_dir("jaxlm", appauthor=False)) / f"{name}.txt"
    try:
        return _verified(name, path.read_bytes())
    except (OSError, DownloadError):
        pass  # Not there, or damaged: fetched anew.
    advice = "check the network, or give a text of your own with --corpus FILE"
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT) as response:
            received = bytearray()
            while block := response.read(64 * 1024):
                received += block
                if len(received) > published.bytes:
                    break  # Not this corpus; _verified says so.
                if progress:
                    progress(len(received), published.bytes)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # It is the answer too, with its connection.
        reason = str(error.reason if isinstance(error, urllib.error.URLError) else error).strip()
        raise DownloadError(
            f"corpus {name}: could not be fetched from {published.url} ({reason or type(error).__name__}); {advice}"
        ) from error
    text = _verified(name, bytes(received))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside it under another name, which is gone however this ends.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=name) as folder:
            whole = Path(folder) / path.name
            whole.write_bytes(received)
            os.replace(whole, path)
    except OSError as error:
        log.warning("cache %s: cannot be written to (%s), so %s is not kept", path.parent, error.strerror, name)
    return text


def _verified(name: str, content: bytes) -> str:
    published = PUBLISHED[name]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    found = text.lower()[published.offset : published.offset + len(published.passage)]
    if (len(content), len(text), found) != (published.bytes, published.characters, published.passage.lower()):
        raise DownloadError(
            f"corpus {name}: {published.url} gave {len(content):,} bytes that are not this corpus, expected its "
            f"{published.bytes:,}; try again later, or give a text of your own with --corpus FILE"
        )
    return text


def _embedded() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def _is_path(source: str) -> bool:
    return source not in PUBLISHED and source != EMBEDDED


def _read(source: str, progress: Received | None) -> Iterator[str]:
    if source in PUBLISHED:
        yield fetch(source, progress)
        return
    if source == EMBEDDED:
        yield _embedded()
        return
    # os.path, unlike Path, answers False where it may not look, and for what is no path at all.
    path = Path(source)
    if os.path.isfile(source):
        yield _read_file(path)
    elif os.path.isdir(source):
        files = sorted(_text_files(path))
        if not files:
            raise InputError(
                f"corpus {source}: found a folder without text, expected files ending in "
                f"{', '.join(TEXT_SUFFIXES)}; name the files themselves if they end otherwise"
            )
        for file in files:
            yield _read_file(file)
    else:
        found = "something that is neither a file nor a folder" if os.path.exists(source) else "nothing there"
        names = ", ".join([*PUBLISHED, EMBEDDED])
        raise InputError(f"corpus {source}: found {found}, expected a text file, a folder, or one of {names}")


def _text_files(folder: Path) -> Iterator[Path]:
    """The text files below a folder, but none that is hidden."""

    def stop(error: OSError) -> NoReturn:
        raise _unreadable(Path(error.filename), error)

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in TEXT_SUFFIXES and os.path.isfile(file):
                yield file


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"corpus {path}: cannot be read ({error.strerror}), expected to be allowed to; change its permissions, or "
        "choose another file"
    )


def _read_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    # A byte order mark is not text; line ends and NUL are kept as they are.
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
        raise InputError(
            f"corpus {path}: found byte 0x{content[offset]:02X} at offset {offset}, expected UTF-8 text; convert it "
            f"first, for example: iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > "
            f"{shlex.quote(f'utf8-{path.name}')}"
        ) from error
