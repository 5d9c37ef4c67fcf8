"""A run's training and validation text."""

import dataclasses
import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxlm import invocation
from jaxlm.config import NotationName, TrainConfig, Units
from jaxlm.errors import InputError, reject_idle
from jaxlm.nn.counts import Prior, prior_of
from jaxlm.notations.notation import Notation, plural
from jaxlm.notations.registry import NOTATIONS, PROSE
from jaxlm.runs.run import Run, line_end_of
from jaxlm.text.batches import Streams, Windows, split_text, split_units
from jaxlm.text.corpus import Corpus, DownloadError, Received, load_corpus
from jaxlm.text.documents import Documents
from jaxlm.text.files import read_text
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

SEED_LENGTH = 60
"""The most characters in the prompt of a run's samples (the book's: 60)."""


READING_LIMIT = 20_000
"""The most characters of names that a run keeps of the files that it read, and as many of those that it did not."""


def read_corpus(config: TrainConfig, progress: Received | None = None, *, documents: bool = True) -> Corpus:
    """Reads the corpus that a run's settings name, as they say; takes and raises what `load_corpus` does."""
    return load_corpus(
        config.corpus,
        encoding=config.encoding,
        lowercase=config.lowercase,
        normalize=config.normalize,
        glob=config.glob,
        skip_unreadable=config.skip_unreadable,
        notation=config.notation,
        documents=documents,
        progress=progress,
    )


def read_piece(path: str) -> str:
    """The text of a file, without the separator after it.

    Raises:
      InputError: it cannot be read, as BadFile, or is empty.
    """
    with Documents() as documents:
        text, notation = read_text(Path(path), None, documents)
    if not text:
        raise InputError(f"corpus {path}: found nothing in it; choose another file")
    piece = text.removesuffix(notation.separator)
    if not notation.is_plain and (more := piece.count(notation.separator)):
        found = plural(more + 1, notation.piece)
        raise InputError(f"corpus {path}: found {found}, expected one to continue; put that into a file of its own")
    return piece


def notation_of(run: Run) -> Notation:
    """The notation of a run's text; of older runs, prose."""
    return NOTATIONS[run.record.config.notation or PROSE.name]


def read_as(config: TrainConfig, corpus: Corpus) -> TrainConfig:
    """A run's settings, with what its corpus was read from and as.

    Raises:
      InputError: a setting has no effect on such a corpus.
    """
    notation = NOTATIONS[corpus.notation]
    if config.transpose and notation.transpose is None:
        reject_idle("transpose", config.transpose, f"on {notation.files}", "leave it out, or learn from music")
    if config.transpose and config.units == "lines" and "\n" in notation.separator[:-1]:
        where = f"on lines of {notation.files}, which are several each"
        reject_idle("transpose", config.transpose, where, f"leave out {invocation.setting('units', 'lines')}")
    return dataclasses.replace(in_notation(config, corpus.notation), corpus=corpus.sources)


def in_notation(config: TrainConfig, name: str) -> TrainConfig:
    """The settings of a run on texts of this notation."""
    lowercase = config.lowercase and name == PROSE.name
    return dataclasses.replace(config, notation=cast(NotationName, name), lowercase=lowercase)


def reading(corpus: Corpus) -> dict[str, list[tuple[str, int | str]]]:
    """What a run keeps of how its corpus was read: each file and its characters, and what was left out and why."""
    return {"files": _abridged(corpus.parts), "left_out": _abridged(corpus.left_out)}


def _abridged(entries: Sequence[tuple[str, Any]]) -> list[tuple[str, int | str]]:
    lengths = itertools.accumulate(len(name) + len(str(fact)) for name, fact in entries)
    kept = sum(length <= READING_LIMIT for length in lengths)
    more = [(f"and {len(entries) - kept:,} more", "")] if kept < len(entries) else []
    return [*entries[:kept], *more]


def own_corpus(
    run: Run,
    remedy: str,
    config: TrainConfig | None = None,
    progress: Received | None = None,
) -> Corpus:
    """Reads a run's corpus again.

    Args:
      run: the run.
      remedy: the advice if it cannot be read.
      config: its settings, which say where the corpus is now; by default those that it was last trained with.
      progress: as in `load_corpus`.

    Raises:
      InputError: the corpus cannot be read or downloaded, or is not the text that the run was started on.
    """
    if not run.record.sha256:
        raise InputError(
            f"run {run.shown}: was imported without the text that it learned from, which is needed here; import it "
            f"again, and name that text with {invocation.setting('corpus')}"
        )
    try:
        # Older runs, which did not keep how they read their corpus, read documents as plain text.
        corpus = read_corpus(config or run.record.config, progress, documents=bool(run.record.reading))
    except DownloadError as error:
        raise DownloadError(f"{error}; run {run.shown} learned from that text") from error
    except InputError as error:
        raise InputError(f"{error}; run {run.shown} learned from it: {remedy}") from error
    if corpus.sha256 != run.record.sha256:
        raise InputError(
            f"corpus {' '.join(corpus.sources)}: found {len(corpus.text):,} characters, not the same text as the "
            f"{run.record.characters:,} that run {run.shown} was trained on; restore that text, or train a new run"
        )
    return corpus


def seed_text(text: str, length: int, units: Units | None = None, notation: Notation = PROSE) -> str:
    """The prompt of a run's samples: `length` characters of its corpus; what is before a new tune or line, if its
    corpus consists of them.

    Source: Deep Learning with Python, 8.1, which draws the start this way, after random.seed(42).
    """
    if notation.separator:
        return notation.separator
    if units == "lines":
        return "\n"
    start = random.Random(42).randint(0, max(0, len(text) - length - 1))
    return text[start : start + length]


@dataclasses.dataclass(frozen=True)
class Part:
    """The training or the validation text of a run.

    Attributes:
      text: it.
      starts: where each of its documents begins; one alone unless units are set.
      fixed: how many of its pieces that hold something could not be transposed as was asked.
    """

    text: str
    starts: tuple[int, ...]
    fixed: int = 0

    def documents(self) -> list[str]:
        """Its documents."""
        return [self.text[start:end] for start, end in itertools.pairwise((*self.starts, len(self.text)))]


def split(config: TrainConfig, corpus: Corpus) -> tuple[Part, Part]:
    """A corpus's training and validation text: without units the beginning and the end, else whole documents.

    Raises:
      InputError: there are too few documents.
    """
    if config.units is None:
        learned, held_out = split_text(corpus.text, config.validation)
        return _transposed(config, Part(learned, (0,))), Part(held_out, (0,))
    if config.units == "files":
        starts = corpus.starts
    else:
        starts = (0, *(match.end() for match in re.finditer(r"\n(?!\Z)", corpus.text)))
    documents = Part(corpus.text, starts).documents()
    if len(documents) < 2:
        raise InputError(
            f"units: found {len(documents)} in the corpus, expected at least 2 {config.units}; leave it out, or choose "
            "other units"
        )
    chosen = split_units(np.array([len(document) for document in documents]), config.validation, config.seed)
    return (
        _transposed(config, joined([document for document, out in zip(documents, chosen, strict=True) if not out])),
        joined([document for document, out in zip(documents, chosen, strict=True) if out]),
    )


def _transposed(config: TrainConfig, part: Part) -> Part:
    """A training text followed by itself in other keys, the nearest first, without the pieces that have only their own.

    So each piece is learned in all keys or in one. One that is cut off at the end of the text is no piece.
    """
    notation = NOTATIONS[config.notation or PROSE.name]
    if not config.transpose or notation.transpose is None:
        return part
    _, *shifts = sorted(range(-config.transpose, config.transpose + 1), key=abs)
    end, fixed = notation.separator, 0
    originals: list[str] = []
    copies: list[list[str]] = [[] for _ in shifts]
    for document in part.documents():
        *pieces, cut = document.split(end)
        moved = []
        for piece in pieces:
            versions = [notation.transpose(piece, shift) for shift in shifts]
            if None not in versions:
                moved.append(versions)
            elif notation.count(piece):  # What a file of tunes begins with may have no notes.
                fixed += 1
        originals.append(document + end if cut else document)
        for number, copy in enumerate(copies):
            copy.append("".join(f"{versions[number]}{end}" for versions in moved))
    whole = joined([*originals, *(document for copy in copies for document in copy if document)])
    return Part(whole.text, whole.starts if config.units else (0,), fixed)


def remarked(config: TrainConfig, corpus: Corpus, learned: Part) -> Corpus:
    """A corpus with remarks on what its training text in several keys is like."""
    notation, remarks = NOTATIONS[corpus.notation], []
    if learned.fixed:
        remarks.append(
            f"{plural(learned.fixed, notation.piece)} of the training text could not be transposed, and "
            f"{'is' if learned.fixed == 1 else 'are'} learned in one key."
        )
    if config.transpose and config.model.ngram:
        remarks.append(
            f"Counts of a text in {2 * config.transpose + 1} keys find in the other keys what is left out in one, and "
            f"mislead the network; without them, it learns more: {invocation.setting('ngram', 0)}."
        )
    return dataclasses.replace(corpus, remarks=(*corpus.remarks, *remarks))


def joined(documents: Sequence[str]) -> Part:
    """Documents as one text."""
    return Part("".join(documents), tuple(itertools.accumulate(map(len, documents[:-1]), initial=0)))


def resets(config: TrainConfig, part: Part, ids: np.ndarray, vocab: Vocab) -> np.ndarray | None:
    """The tokens before which the memory is reset, bool[N]; None if the network knows them, or there are none.

    They are the line ends before the documents: so the first letter of each is predicted from a line end alone, as
    that of a text which is generated from one.
    """
    if config.units != "files":
        return None
    found = np.zeros(len(ids), bool)
    # A byte that continues a character adds none, so each character begins with the last token at its place.
    places = np.cumsum(vocab.widths[ids]) - vocab.widths[ids]
    begin = np.searchsorted(places, part.starts, side="right") - 1
    line_end = line_end_of(vocab)
    # Streams read a text as a circle: before its beginning is its end.
    found[np.where(ids[begin - 1] == line_end, (begin - 1) % len(ids), begin)] = True
    return found


@dataclasses.dataclass(frozen=True)
class Data:
    """A run's training and validation text.

    Attributes:
      corpus: the whole corpus.
      text: the training text.
      ids: its tokens, int[N].
      order: which of them each step reads.
      held_out: the validation text; empty if there is none.
      held_out_ids: its tokens.
      counts: the n-grams of the training text; None if the network takes none.
      begun: the training tokens before which the memory is reset, bool[N]; None as in `resets`.
      held_out_begun: the same of the validation text.
    """

    corpus: Corpus
    text: str
    ids: np.ndarray
    order: Windows | Streams
    held_out: str
    held_out_ids: np.ndarray
    counts: NGram | None
    begun: np.ndarray | None
    held_out_begun: np.ndarray | None

    @classmethod
    def of(cls, config: TrainConfig, corpus: Corpus, vocab: Vocab, mixed: bool) -> "Data":
        """Prepares a corpus; `mixed` is as in `Streams`."""
        learned, judged = split(config, corpus)
        text, held_out = learned.text, judged.text
        ids, held_out_ids = vocab.encode(text), vocab.encode(held_out)
        if config.validation and len(held_out_ids) < 2:
            raise InputError(
                f"validation: {config.validation:g} leaves {len(held_out_ids)} of the corpus's tokens for validation, "
                "expected at least 2; use more text, or a larger share"
            )
        order: Windows | Streams
        try:
            if config.stride is None:
                order = Streams(len(ids), config.length, mixed)
            else:
                order = Windows(len(ids), config.length, config.stride)
        except InputError as error:
            if not config.validation:
                raise
            last = "" if config.units else "the last "
            raise InputError(f"{error}, or validate on less than {last}{len(held_out):,} characters") from error
        counts = NGram.count(ids, len(vocab), config.model.ngram) if config.model.ngram else None
        return cls(
            corpus=corpus,
            text=text,
            ids=ids,
            order=order,
            held_out=held_out,
            held_out_ids=held_out_ids,
            counts=counts,
            begun=resets(config, learned, ids, vocab),
            held_out_begun=resets(config, judged, held_out_ids, vocab) if held_out else None,
        )

    def resets(self, starts: np.ndarray, length: int) -> np.ndarray | None:
        """The tokens of some batches' windows before which the memory is reset, bool[S, B, T]; None as `begun`."""
        if self.begun is None:
            return None
        return self.begun[(starts[..., None] + np.arange(length)) % len(self.ids)]

    def prior(self, starts: np.ndarray, length: int, steps: int) -> Prior | None:
        """What n-grams say after each token of some batches' windows, each position left out of its own counts.

        Without that, the network would learn to trust counts that contain the answer.

        Args:
          starts: int32[S, B], where the windows start.
          length: T.
          steps: to which the batches are padded, with arrays of ones and zeros.

        Returns:
          Arrays of leading shape (steps, B, T); None without n-grams.
        """
        if self.counts is None:
            return None
        positions = (starts[..., None] + np.arange(1, length + 1)) % len(self.ids)
        shape = (steps, *positions.shape[1:])
        whole = Prior(
            np.ones((*shape, self.counts.vocabulary), np.float32), np.zeros((*shape, self.counts.order + 1), np.int32)
        )
        # Step by step, since many at once would need memory that no cache holds.
        for step, here in enumerate(positions):
            whole.probabilities[step], whole.totals[step] = prior_of(self.counts.left_out(here))
        return whole
