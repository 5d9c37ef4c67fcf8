"""Reporters: how a run shows its progress."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from jaxlm.config import WatchConfig
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
      held_out: the number of characters at its end that are held out for validation.
      order: the windows or streams in which the rest is read.
      steps: the number of steps per epoch.
      parameters: the model's number of parameters.
      counts: the number of n-grams that were counted; 0 if the network takes none.
      devices: a description of the devices.
      start: completed steps; more than 0 when the run is resumed.
      best: the progress at the end of the best epoch; None before the end of the first.
      finished: whether nothing is left to do: all epochs are trained, or patience has run out.
    """

    run: Run
    corpus: Corpus
    held_out: int
    order: Windows | Streams
    steps: int
    parameters: int
    counts: int
    devices: str
    start: int
    best: Progress | None
    finished: bool


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """A line of metrics.jsonl.

    Attributes:
      epoch: completed epochs, this one included.
      step: completed steps.
      loss: the epoch's mean training loss, in nats per token; each step's loss is taken before its update.
      bits_per_character: the same loss, in bits per character.
      perplexity: exp(loss).
      validation_loss: the loss on the validation text, in nats per token; like the next two, None if there is none.
      validation_bits_per_character: the same loss, in bits per character.
      validation_perplexity: exp(validation_loss).
      seconds: since the epoch started, or was resumed.
      device: what trained it to its end, in words.
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
    device: str


class Reporter:
    """Receives a run's events. Every method does nothing; subclasses override those they need.

    Attributes:
      watch: the texts that the run generates after each epoch, and keeps, for `Run.samples`; by default none.
    """

    watch = WatchConfig(temperature=())

    def download(self, done: int, total: int) -> None:
        """A corpus is being downloaded: bytes so far, and the total."""

    def start(self, plan: Plan) -> None:
        """The run is about to start, or to resume."""

    def step(self, step: int, loss: float) -> None:
        """A step is complete; `loss` is the epoch's mean so far, in nats per token."""

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        """An epoch is complete and saved; `generator` has its weights.

        Since nothing is left to save, a signal that stops the run interrupts this method with an exception.
        """

    def samples(self, samples: list[dict[str, Any]]) -> None:
        """Texts of the epoch's model are kept; each is as `Run.samples` returns it. May be interrupted likewise."""

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        """The run diverged; it rolls back to `progress`, and continues with a lower learning rate."""

    def stopped(self, run: Run, step: int) -> None:
        """The run was asked to stop, and is saved at `step`."""

    def end(self, run: Run, progress: Progress, best: Progress | None) -> None:
        """The run is complete: all its epochs are trained, or its patience has run out."""

    def close(self) -> None:
        """The last call, however the run ended."""


class Several(Reporter):
    """Reporters that receive a run's events in turn; the samples are those that the first one watches."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters
        self.watch = reporters[0].watch


def _in_turn(event: str) -> Callable[..., None]:
    def tell(self: Several, *details: Any) -> None:
        for reporter in self._reporters:
            getattr(reporter, event)(*details)

    return tell


for _event in [name for name, value in vars(Reporter).items() if inspect.isfunction(value)]:
    setattr(Several, _event, _in_turn(_event))
