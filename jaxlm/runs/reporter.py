"""What a run tells as it goes on."""

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
      held_out: characters at its end that are held out.
      order: the windows or streams that the rest is read in.
      steps: in an epoch.
      parameters: of the model.
      devices: in words.
      start: completed updates; more than 0 when the run is resumed.
      finished: whether there is nothing to do, since all epochs are trained or patience has run out.
    """

    run: Run
    corpus: Corpus
    held_out: int
    order: Windows | Streams
    steps: int
    parameters: int
    devices: str
    start: int
    finished: bool


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """A line of metrics.jsonl.

    Attributes:
      epoch: completed epochs.
      step: completed updates.
      loss: the epoch's mean, in nats per token, each step's taken before the update that learns from it.
      bits_per_character: the same loss, per character.
      perplexity: the same, exp(loss).
      validation_loss: the loss on the held-out text, in nats per token; None, like the next two, where there is none.
      validation_bits_per_character: the same, per character.
      validation_perplexity: the same, exp(loss).
      seconds: since the epoch was begun, or resumed.
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
    """What a run tells as it goes on; subclasses show it. Every method may be left as it is: silent."""

    def download(self, done: int, total: int) -> None:
        """A corpus is being fetched: bytes so far, and in all."""

    def start(self, plan: Plan) -> None:
        """The run is about to begin, or to go on."""

    def step(self, step: int, loss: float) -> None:
        """An update is completed; `loss` is the epoch's mean so far."""

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        """An epoch is completed and saved."""

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        """The loss was lost; the run goes on from `progress`, with another learning rate."""

    def stopped(self, run: Run, step: int) -> None:
        """The run was asked to stop, and is saved at `step`."""

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        """The run is completed, before its last epoch where it ran out of patience."""

    def close(self) -> None:
        """Nothing more will be told, whatever happened."""
