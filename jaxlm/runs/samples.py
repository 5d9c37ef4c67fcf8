"""The texts that a run keeps after each epoch, so that one can watch it learn."""

import math
from collections.abc import Iterator
from typing import Any

from jaxlm.config import WatchConfig
from jaxlm.generator import TextGenerator
from jaxlm.text.copying import longest_copy


def draw_samples(generator: TextGenerator, watch: WatchConfig, seed: int, source: str) -> Iterator[dict[str, Any]]:
    """Generates a text at each temperature; yields what `Run.samples` says of it.

    Args:
      generator: the model after the epoch.
      watch: the temperatures, and how many characters to generate.
      seed: that of each text.
      source: the training text.
    """
    for temperature in watch.temperature:
        drawn = generator.pieces(length=watch.sample_length, temperature=temperature, seed=seed)
        prompt, *pieces = drawn
        generated = "".join(pieces)
        copy = longest_copy(generated, source)
        yield {
            "temperature": temperature,
            "seed": seed,
            "prompt": prompt,
            "text": prompt + generated,
            "surprise": mean_surprise(generator, prompt, generated),
            "copied": copy.length,
            "copied_at": copy.at,
            "copied_from": len(prompt) + copy.start,
        }


def mean_surprise(generator: TextGenerator, prompt: str, generated: str) -> float | None:
    """The mean of -log of the probability of a continuation's tokens, in nats; None if there are none, or of weights
    that diverged."""
    surprises = [surprise for _, surprise in generator.surprises(prompt, generated)]
    total = sum(surprises)
    return total / len(generator.vocab.encode(generated)) if surprises and math.isfinite(total) else None
