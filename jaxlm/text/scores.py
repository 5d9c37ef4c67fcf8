"""The log-probabilities of a text's tokens, and the text tinted by them."""

import math
from typing import Any

import numpy as np

from jaxlm.notations.notation import plural
from jaxlm.text.visible import as_html

SURPRISES = (0.7, 1.4, 2.3, 3.2, 4.6, 6.9)
"""The least surprise of each tint, in nats, as on a run's page: that of 1/2, 1/4, 1/10, 1/25, 1/100 and 1/1000."""

TINTED = 5000
"""The most characters that a notebook shows of a text; each takes about a hundred bytes."""


class Scores(np.ndarray):
    """The log-probability of each token of a text but the first, float32[N - 1], in nats.

    An array like any other, which a notebook shows as the text, each character tinted by its surprise. What is computed
    or cut from it is an array without the text.
    """

    _text: tuple[str, np.ndarray] | None

    @classmethod
    def of(cls, scores: np.ndarray, text: str, widths: np.ndarray) -> "Scores":
        """The scores of a text.

        Args:
          scores: float32[N - 1].
          text: as the model read it.
          widths: int[N], the characters of each token; of a character's bytes, the first has it.
        """
        found = scores.view(cls)
        found._text = text, widths
        return found

    def __array_finalize__(self, other: Any) -> None:
        self._text = None  # Of other numbers, it might be the wrong one.

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else array.view(np.ndarray)

    def surprises(self) -> list[tuple[str, float]]:
        """Each token's characters, and -log of its probability; nan of the first. Bytes are taken together.

        Empty of an array without a text.
        """
        if self._text is None:
            return []
        return by_character(*self._text, np.concatenate([[np.nan], np.asarray(self)]))

    def _repr_html_(self) -> str | None:
        """The text, tinted; None, so that a notebook shows the numbers, if there is none."""
        pieces = self.surprises()
        if not pieces:
            return None
        shown, length = [], 0
        for characters, surprise in pieces:
            if length + len(characters) > TINTED:
                break
            length += len(characters)
            shown.append(_tinted(characters, surprise))
        assert self._text is not None
        more = f"{length:,} of {len(self._text[0]):,} characters, " if len(shown) < len(pieces) else ""
        mean = -float(self.mean(dtype=float))
        return (
            '<div style="max-width:60em;line-height:1.6">'
            f'<div style="opacity:.8">{more}{plural(len(self), "token")} scored, {mean:.4f} nats each on average; '
            "the stronger its tint, the more a character surprised the model</div>"
            f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(shown)}</div></div>'
        )


def _tinted(characters: str, surprise: float) -> str:
    """Characters as HTML, with their probability as a tooltip; without both where that is nan."""
    if math.isnan(surprise):
        return as_html(characters)
    level = sum(surprise >= least for least in SURPRISES)
    # An orange that lets black and white pages through, so that their own ink stays readable.
    tint = f"background:rgba(234,88,12,{0.01 + 0.09 * level:.2f})" if level else ""
    style = f' style="{tint}"' if tint else ""
    return f'<span title="probability {math.exp(-max(surprise, 0)):.2g}"{style}>{as_html(characters)}</span>'


def by_character(text: str, widths: np.ndarray, scores: np.ndarray) -> list[tuple[str, float]]:
    """Each token's characters, and minus its score. Bytes are taken together to characters.

    Args:
      text: what the tokens say.
      widths: int[N], the characters of each token; of a character's bytes, the first has it.
      scores: float[N].
    """
    starts = np.flatnonzero(widths)
    if not len(starts):
        return []
    sums, ends = -np.add.reduceat(scores.astype(float), starts), np.cumsum(widths[starts])
    return [
        (text[end - width : end], float(value)) for end, width, value in zip(ends, widths[starts], sums, strict=True)
    ]
