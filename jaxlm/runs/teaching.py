"""Teachers: trained runs from whose distributions a new run learns, beside the text itself (distillation).

A teacher knows how probable the other tokens were at each place, too, which a text does not tell. It must have learned
from the same training text: then it has not seen what the new run is judged by, and its n-grams can leave each
position out of their counts.

Source: Hinton et al. 2015, arXiv:1503.02531.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlm import invocation
from jaxlm.config import TrainConfig
from jaxlm.errors import InputError, RunError
from jaxlm.generator import TextGenerator
from jaxlm.nn.ambient import device_get
from jaxlm.nn.model import Average
from jaxlm.nn.scoring import expect
from jaxlm.runs import arrays
from jaxlm.runs.data import Data, split
from jaxlm.runs.mixing import generator_of, left_out, open_trained
from jaxlm.runs.run import Run, locate
from jaxlm.text.batches import Streams
from jaxlm.text.vocab import Vocab

ROWS, CALL_TOKENS = 32, 64
"""How many places of the text a teacher reads at once, and how many tokens of each in a call."""


class Teacher:
    """Runs that teach, averaged.

    Attributes:
      digest: the SHA-256 of their parameters, in order, and of how much each counts.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator
        shares = generator.model.weights if isinstance(generator.model, Average) else (1.0,)
        told = f"{arrays.weights_digest(device_get(generator.params))} {shares}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()

    def expectations(self, data: Data) -> np.ndarray:
        """What it expects of each token of a run's training text, given those before it.

        The text is a circle, as it is for `Streams`, and read from up to ROWS places, with an empty memory at first.

        Returns:
          float16[N, V], probabilities.

        Raises:
          RunError: memory is too small for them.
        """
        generator, count = self._generator, len(data.ids)
        shape = count, generator.model.vocabulary
        try:
            expected = np.zeros(shape, np.float16)
        except MemoryError as error:
            raise RunError(
                f"{invocation.setting('teacher')}: what it expects takes {2 * math.prod(shape) / 1e9:,.0f} GB of "
                f"memory, 2 bytes for each of {shape[0]:,} tokens and each of {shape[1]:,} that may follow, and this "
                "machine has not that much; train on less text, or leave it out"
            ) from error
        rows = max(1, min(ROWS, count // CALL_TOKENS))
        carry = generator.model.initial_carry(rows)
        # Where the end of a row is the beginning of another, what was expected with more memory comes last, and stays.
        for starts in Streams(count, CALL_TOKENS, mixed=False).starts(0, 0, rows):
            positions = (starts[:, None] + np.arange(CALL_TOKENS + 1)) % count
            after = positions[:, 1:]
            resets = None if data.begun is None else data.begun[positions[:, :-1]]
            prior = left_out(generator.counts, after)
            found, carry = expect(
                generator.model, generator.params, carry, data.ids[positions].astype(np.int32), prior, resets
            )
            expected[after] = found
        return expected


def open_teacher(config: TrainConfig, folders: Sequence[Path | str], data: Data, vocab: Vocab) -> Teacher | None:
    """The teacher of a run; None if it has none.

    Args:
      config: the run's settings.
      folders: where names are looked up, in this order.
      data: the run's text.
      vocab: its vocabulary.

    Raises:
      InputError: there is no such run, or it has another vocabulary, or learned from another text.
    """
    if not config.teacher:
        return None
    runs = []
    for name in config.teacher:
        holding = [folder for folder in folders if os.path.lexists(locate(name, folder))]
        runs += open_trained(name, str([*holding, *folders][0]))
    for run in runs:
        _check(run, data, vocab)
    return Teacher(generator_of(runs)[0])


def _check(run: Run, data: Data, vocab: Vocab) -> None:
    """Raises InputError unless a run can teach one that learns from this text."""
    if run.vocab != vocab:
        found, remedy = "another vocabulary", "with the same tokens, words and lowercase"
    elif run.record.sha256 != data.corpus.sha256 or split(run.record.config, data.corpus)[0].text != data.text:
        # Units are held out by the seed.
        same = "validation, units, seed and transpose" if run.record.config.units else "validation and transpose"
        found, remedy = "another training text", f"on the same text, with the same {same}"
    else:
        return
    raise InputError(
        f"{invocation.setting('teacher')}: found {run.shown} with {found}, expected that of the run to teach; train it "
        f"{remedy}, or leave it out"
    )
