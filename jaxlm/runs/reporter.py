"""What a run reports."""

import dataclasses

from jaxlm.generator import TextGenerator
from jaxlm.runs.run import Run
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import Streams, Windows
from jaxlm.text.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
      run: its directory.
      corpus: the text.
      held_out: characters at its end that are held out for validation.
      order: the windows or streams that the rest is read as.
      steps: in an epoch.
      parameters: of the model.
      devices: what it trains on, in words.
      start: completed updates; more than 0 when the run is resumed.
      best: how far its best epoch is; None before the end of the first.
      finished: whether nothing is left to do: all epochs are trained, or patience has run out.
    """

    run: Run
    corpus: Corpus
    held_out: int
    order: Windows | Streams
    steps: int
    parameters: int
    devices: str
    start: int
    best: Progress | None
    finished: bool


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """A line of metrics.jsonl.

    Attributes:
      epoch: completed epochs, this one included.
      step: completed updates.
      loss: the epoch's mean training loss, in nats per token; each step's is taken before its update.
      bits_per_character: the same loss, per character.
      perplexity: the same, exp(loss).
      validation_loss: the loss on the held-out text, in nats per token; like the next two None where there is none.
      validation_bits_per_character: the same, per character.
      validation_perplexity: the same, exp(loss).
      seconds: since the epoch began, or was resumed.
    """

    epoch: int
    step: int
    loss: float
    bits_per_character: float
    perplexity: float
    validation_loss: float | None
    validation_bits_per_character: float | None
    validation_perplexity: float | None
    seconds: float


class Reporter:
    """What a run reports. Subclasses show it, and override what they need: every method here does nothing."""

    def download(self, done: int, total: int) -> None:
        """A corpus is being downloaded: bytes so far, and in total."""

    def start(self, plan: Plan) -> None:
        """The run is about to begin, or to resume."""

    def step(self, step: int, loss: float) -> None:
        """An update is complete; `loss` is the epoch's mean so far, in nats per token."""

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        """An epoch is complete and saved. `generator` has its weights.

        A signal that stops the run ends this method at once, by an exception: nothing is left to save.
        """

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        """The run diverged; it is rolled back to `progress`, and continues with a lower learning rate."""

    def stopped(self, run: Run, step: int) -> None:
        """The run was asked to stop; it is saved at `step`."""

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        """The run is complete: all its epochs are trained, or its patience has run out."""

    def close(self) -> None:
        """Nothing more will be reported, whatever happened."""
