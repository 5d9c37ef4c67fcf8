"""Vocabularies: text to token ids and back."""

import codecs
import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxlm import invocation
from jaxlm.config import Tokens
from jaxlm.errors import InputError, check_choice, reject

BYTES = tuple(chr(byte) for byte in range(256))
"""The tokens of every byte vocabulary: each byte, as the character with its number."""

UNSPACED = 200
"""Texts of up to this many letters are not checked for spaces."""


@dataclasses.dataclass(frozen=True)
class Vocab:
    """The tokens that a model knows, in the order of their ids.

    A text is always the concatenation of its tokens, so decoding undoes encoding. `char` tokens are the characters of
    the corpus. `byte` tokens are all 256 bytes, and spell any text in UTF-8. `word` tokens are the characters of the
    corpus and its most frequent words; other words are spelled in characters.
    """

    kind: Tokens
    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        check_choice("vocabulary kind", self.kind, ("char", "byte", "word"))
        if not all(isinstance(token, str) and token for token in self.tokens):
            reject("vocabulary", self.tokens[:3], "tokens that are text")
        if not self.tokens or len(set(self.tokens)) != len(self.tokens):
            reject("vocabulary", f"{len(self.tokens)} tokens", "distinct ones, at least one")
        if self.kind == "byte" and self.tokens != BYTES:
            reject("vocabulary", f"{len(self.tokens)} tokens", "the 256 bytes in order")
        if self.kind == "char" and max(map(len, self.tokens)) > 1:
            reject("vocabulary", max(self.tokens, key=len), "single characters")

    @classmethod
    def build(cls, kind: Tokens, text: str, held_out: str = "", *, words: int = 0) -> "Vocab":
        """The vocabulary of a corpus, in sorted order, so that it depends on the text alone.

        Args:
          kind: char, byte or word.
          text: the text to learn from.
          held_out: the validation text; only its characters are added.
          words: for `word`, the number of most frequent words to include; the alphabet breaks ties.

        Raises:
          InputError: `word` was chosen for a text that has no spaces between its words.
        """
        if kind == "byte":
            return cls(kind, BYTES)
        characters = sorted({*text, *held_out})
        if kind == "char":
            return cls(kind, tuple(characters))
        counts = collections.Counter(piece for piece in _pieces(text) if len(piece) > 1)
        _check_spaced(text, counts)
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:words]
        return cls(kind, (*characters, *sorted(frequent)))

    def extended(self, text: str) -> "Vocab":
        """The vocabulary with the characters of a text that it lacks, in sorted order after its own tokens."""
        return Vocab(self.kind, (*self.tokens, *sorted(self.unknown(text)))) if self.kind != "byte" else self

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of each token."""
        return {token: i for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def widths(self) -> np.ndarray:
        """int32[V], the characters that each token adds to a text; of a character's bytes, the first adds it."""
        if self.kind == "byte":
            return np.array([byte & 0xC0 != 0x80 for byte in range(256)], np.int32)
        return np.array([len(token) for token in self.tokens], np.int32)

    def unknown(self, text: str) -> list[str]:
        """The distinct characters of a text that cannot be encoded, in order of appearance."""
        if self.kind == "byte":
            # Python's placeholders for bytes that were not UTF-8, as from a terminal with another encoding.
            return list(dict.fromkeys(re.findall("[\ud800-\udfff]", text)))
        return [character for character in dict.fromkeys(text) if character not in self.ids]

    def encode(self, text: str, name: str = "prompt") -> np.ndarray:
        """The ids of a text's tokens, int32[N].

        Raises:
          InputError: the text has characters outside the vocabulary; the message lists them, and calls the text `name`.
        """
        if self.kind == "byte":
            self._check_known(text, name)
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        if self.kind == "word":
            self._check_known(text, name)
            return np.fromiter(self._spell(text), np.int32)
        characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known, order = self._codepoints
        places = np.minimum(np.searchsorted(known, characters), len(known) - 1)
        if not np.array_equal(known[places], characters):
            self._check_known(text, name)
        return order[places]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decoder()(ids, True)

    def decoder(self) -> Callable[[Iterable[int], bool], str]:
        """A function that decodes a text piece by piece.

        It takes ids, and whether they are the last, and returns the text that they complete: a character whose bytes
        are split between two pieces is part of the second.
        """
        if self.kind != "byte":
            return lambda ids, final: "".join([self.tokens[i] for i in ids])
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda ids, final: decoder.decode(bytes(int(i) for i in ids), final)

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values; `from_json` reads them back."""
        return {"kind": self.kind, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Vocab":
        """Reads what `to_json` wrote.

        Raises:
          InputError: these are not the values of a vocabulary.
        """
        try:
            vocab = cls(values["kind"], tuple(list.copy(values["tokens"])))
            "".join(vocab.tokens).encode("utf-8")  # Halves of characters can neither be shown nor stored.
            return vocab
        except (TypeError, KeyError, UnicodeEncodeError) as error:
            raise InputError(f"vocabulary: found {error}, expected kind and tokens") from error

    @functools.cached_property
    def _codepoints(self) -> tuple[np.ndarray, np.ndarray]:
        """The characters' numbers in rising order, uint32[V], and the id of each, int32[V]."""
        numbers = np.array([ord(character) for character in self.tokens], np.uint32)
        order = np.argsort(numbers).astype(np.int32)
        return numbers[order], order

    def _spell(self, text: str) -> Iterator[int]:
        for piece in _pieces(text):
            if piece in self.ids:
                yield self.ids[piece]
            else:
                for character in piece:
                    yield self.ids[character]

    def _check_known(self, text: str, name: str) -> None:
        if unknown := self.unknown(text):
            shown = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:10])
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            remedy = f"leave them out, or drop them with {invocation.setting('unknown', 'skip')}"
            if "\\" in unknown and (escape := re.search(r"\\[nt]", text)):
                kind = {"\\n": "line end", "\\t": "tab"}[escape.group()]
                remedy = f"for a {kind}, write $'...{escape.group()}' in the shell; otherwise {remedy}"
            raise InputError(
                f"{name}: found characters that the model has never seen: {shown}{more}; expected those of its "
                f"corpus; {remedy}"
            )


def _check_spaced(text: str, counts: Mapping[str, int]) -> None:
    """Raises InputError for text like Chinese, Japanese or DNA: hardly any spaces, and long runs of letters."""
    letters = sum(len(word) * count for word, count in counts.items())
    weighted = sum(len(word) ** 2 * count for word, count in counts.items())  # Mean per letter.
    if letters > UNSPACED and weighted > 8 * letters and len(re.findall(r"\s", text)) * 20 < len(text):
        longest = max(map(len, counts))
        raise InputError(
            f"tokens: found a text without spaces between its words (the longest has {longest:,} characters), so it "
            f"cannot be split into words; use {invocation.setting('tokens', 'char')}"
        )


def _pieces(text: str) -> Iterator[str]:
    """Words, and the single characters between them; together they are the text."""
    return (match.group() for match in re.finditer(r"\w+|\W", text))
