"""The sweeps behind the settings of `--recipe stream`: one setting changed at a time.

`python -m benchmarks.sweeps small '{}' '{"reset": 0.01}'` prints a line of JSON for the size as it is and for the
change; SWEEPS.md has the results. Models learn from a part of what the figures of their size in RESULTS.md are
trained on, and are judged on another. `medium` and `large` have stand-ins that train in minutes: a smaller model on a
shorter text, with about as many parameters for each character.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jaxlm
from jaxlm.config import SIZES, Size, TrainConfig, changed
from jaxlm.errors import Diverged
from jaxlm.generator import TextGenerator
from jaxlm.nn.scoring import PROTOCOLS
from jaxlm.runs.reporter import EpochMetrics, Reporter
from jaxlm.runs.storage import Progress
from jaxlm.text.batches import split_text
from jaxlm.text.corpus import fetch

_MEDIUM = replace(SIZES["medium"], length=32, learning_rate=0.018, epochs=50)
_LARGE = replace(SIZES["large"], length=32, epochs=35)

BASES: dict[Size, TrainConfig] = {
    "small": changed(SIZES["small"], {"ngram": 0, "epochs": 10}),
    "medium": changed(_MEDIUM, {"ngram": 0, "hidden": 128, "embedding": 32}),
    "large": changed(_LARGE, {"ngram": 0, "hidden": 240}),
}
"""Without counts, as most sweeps are older than them; `{"ngram": 7}` turns them on."""

PARTS: dict[Size, tuple[slice, slice]] = {
    "small": (slice(486_722), slice(486_722, 540_803)),
    "medium": (slice(130_000), slice(444_372, 493_747)),
    "large": (slice(100_000), slice(444_372, 469_372)),
}
"""Characters of Nietzsche, lowercased: to learn from, and to judge by."""


class Epochs(Reporter):
    """Keeps the metrics of each epoch, and the last one's model; a run that diverges is not a result."""

    def __init__(self) -> None:
        self.metrics: list[EpochMetrics] = []
        self.last: TextGenerator

    def epoch(self, metrics: EpochMetrics, generator: TextGenerator) -> None:
        self.metrics.append(metrics)
        self.last = generator

    def diverged(self, reason: str, progress: Progress, learning_rate: float) -> None:
        raise Diverged(reason)


def losses(config: TrainConfig, learned: str, judged: str) -> dict[str, float]:
    """Trains a model, and measures it.

    Returns:
      In nats per character: the last epoch's training loss, by each protocol the loss of its model on the text to judge
      by, and the best epoch's loss there, carried; then which epoch that was, and the seconds that all took.
    """
    began, epochs = time.monotonic(), Epochs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(learned + judged, encoding="utf-8")
        config = replace(config, corpus=(str(path),), validation=len(judged) / len(learned + judged))
        assert split_text(learned + judged, config.validation) == (learned, judged)
        jaxlm.train(config, run=Path(folder) / "run", reporter=epochs)
    last = epochs.last
    ids = last.vocab.encode(judged)
    held_out = {
        name: -score(last.model, last.params, ids, counts=last.counts).mean(dtype=float)
        for name, score in PROTOCOLS.items()
    }
    best = min(epochs.metrics, key=lambda metrics: metrics.validation_loss)
    found = {"training": epochs.metrics[-1].loss, **held_out, "best": best.validation_loss}
    rounded = {name: round(float(loss), 4) for name, loss in found.items()}
    return {**rounded, "best_epoch": best.epoch, "seconds": round(time.monotonic() - began)}


def main() -> None:
    """Trains one model after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=main.__doc__)
    parser.add_argument("size", choices=get_args(Size), help="whose settings to start from")
    parser.add_argument("changes", nargs="*", default=["{}"], help="what to set otherwise in each, as JSON objects")
    arguments = parser.parse_args()
    text = fetch("nietzsche").lower()
    learned, judged = (text[part] for part in PARTS[arguments.size])
    configs = {change: changed(BASES[arguments.size], json.loads(change)) for change in arguments.changes}
    for change, config in configs.items():
        print(json.dumps({"change": json.loads(change), **losses(config, learned, judged)}), flush=True)


if __name__ == "__main__":
    main()
