"""Makes the page of a run: one file with the network's weights and the code that runs it, in need of nothing else.

The page's own policy lets it load nothing, and run no script but those that are put in here, by their SHA-256. What
comes from a run (texts, names) is JSON that no browser reads as markup, and is shown as text only.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxlm
from jaxlm.config import TrainConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn.ambient import device_get
from jaxlm.nn.lstm import GATES
from jaxlm.nn.model import count_parameters
from jaxlm.notations.notation import Notation
from jaxlm.notations.registry import NOTATIONS, PROSE

CODE = (
    *("random", "sampling", "model", "counts", "text", "writer", "load"),
    *("elements", "strokes", "midi", "abc", "music", "view", "learning", "app"),
)
"""The page's scripts, each after those that it uses."""

BEGINNING = "<!doctype html>\n<!-- Written by jaxlm,"
"""By which a page is known."""

STEPS = 2**15 - 1
"""The magnitudes that a rounded weight can have, besides 0."""


@dataclasses.dataclass(frozen=True)
class Story:
    """What a run says of itself, as its page tells it.

    Attributes:
      name: of its directory.
      config: all settings.
      corpus: the corpus's name.
      characters: its length.
      created: when the run started, ISO 8601.
      command: that trains such a run; empty if jaxlm did not train it.
      epoch: the epoch whose weights these are.
      metrics: a record for each epoch.
      samples: a record for each text that was generated after an epoch.
    """

    name: str
    config: TrainConfig
    corpus: str
    characters: int
    created: str
    command: str
    epoch: int
    metrics: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]

    @property
    def notation(self) -> Notation:
        """What the texts are written in; of older runs, prose."""
        return NOTATIONS[self.config.notation or PROSE.name]


def assemble(generator: TextGenerator, story: Story, text: np.ndarray, float32: bool = False) -> str:
    """The page of a trained model.

    Args:
      generator: the model; not an average of several.
      story: where it comes from.
      text: the training text, unsigned int[N], which the page counts; of no use to a network without n-grams.
      float32: whether to keep the weights as they are; by default matrices are `rounded`.

    Returns:
      HTML, in ASCII.
    """
    notation = story.notation
    weights = pack(device_get(generator.params))
    model = generator.model.config
    values = {
        "version": jaxlm.__version__,
        "name": story.name,
        "notation": notation.name,
        "piece": notation.piece,
        "vocab": {
            **generator.vocab.to_json(),
            "wordCharacters": "".join(re.findall(r"\w", "".join(generator.vocab.tokens))),
        },
        "lowercase": generator.lowercase,
        "normalize": generator.normalize,
        "seedText": generator.seed_text,
        "length": generator.length,
        "mode": generator.mode,
        "model": {
            "vocabulary": generator.model.vocabulary,
            "hidden": model.hidden,
            "layers": model.layers,
            "embedding": model.embedding,
            "ngram": model.ngram,
            "gates": model.gates,
            "lineEnd": generator.model.line_end,
        },
        "weights": _stored(weights, float32),
        "text": {"itemSize": text.itemsize, "base64": _base64(zlib.compress(text.tobytes(), 9))}
        if model.ngram
        else None,
        "epoch": story.epoch,
        "metrics": [_plain(line) for line in story.metrics],
        "samples": [_plain(line) for line in story.samples],
        "precision": "32 bits, as they are" if float32 else "16 bits, to which they are rounded",
        "facts": facts(story, count_parameters(generator.params), len(generator.vocab)),
        "command": story.command,
    }
    return _fill(values)


def pack(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A network's parameters as the page's script takes them: the four gates of a layer side by side."""

    def gates(layer: Mapping[str, Any], side: str, leaf: str) -> np.ndarray:
        return np.concatenate([layer[side + gate][leaf] for gate in GATES], axis=-1)

    packed = {}
    for name, leaves in params.items():
        if name.startswith("lstm_"):
            packed[f"{name}.input"] = gates(leaves, "i", "kernel")
            packed[f"{name}.recurrent"] = gates(leaves, "h", "kernel")
            packed[f"{name}.bias"] = gates(leaves, "h", "bias")
        elif name == "embed":
            packed[name] = leaves["embedding"]
        elif isinstance(leaves, Mapping):
            packed |= {f"{name}.{leaf}": value for leaf, value in leaves.items()}
        else:
            packed[name] = leaves
    return packed


def rounded(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix in 16 bits a number: whole numbers times a scale for each column.

    Probabilities change a tenth as much as with float16, which spends bits on a range that weights do not have.

    Args:
      matrix: float32[M, N].

    Returns:
      (int16[M, N], float32[N]).
    """
    largest = np.abs(matrix).max(0)
    scales = np.where(largest > 0, largest / STEPS, 1).astype(np.float32)
    return np.round(matrix / scales).clip(-STEPS, STEPS).astype(np.int16), scales


def _stored(weights: Mapping[str, np.ndarray], float32: bool) -> dict[str, Any]:
    """Weights as the page's script reads them: name, shape and kind of each, and all numbers of a kind in a row."""
    exact, whole, shapes = [], [], []
    for name, leaf in weights.items():
        matrix = leaf.reshape(-1, leaf.shape[-1])
        is_rounded = not float32 and min(matrix.shape) > 1
        if is_rounded:
            numbers, scales = rounded(matrix)
            whole.append(numbers)
            exact.append(scales)
        else:
            exact.append(matrix)
        shapes.append([name, *matrix.shape, is_rounded])
    return {"shapes": shapes, "exact": _joined(exact, "<f4"), "rounded": _joined(whole, "<i2")}


def _joined(arrays: Sequence[np.ndarray], kind: str) -> str:
    return _base64(b"".join(array.astype(kind).tobytes() for array in arrays))


def facts(story: Story, parameters: int, vocabulary: int) -> list[tuple[str, str]]:
    """What the page says of a run, named; what the run did not keep is said to be missing."""
    config, model = story.config, story.config.model
    is_early = bool(story.command) and not story.epoch
    missing = "not known before an epoch is complete" if is_early else "not kept by this run"
    network = f"{model.layers} x LSTM({model.hidden})"
    network += f", embedding of {model.embedding}" if model.embedding else ", one-hot tokens"
    network += f", counts of n-grams of up to {model.ngram + 1} tokens" if model.ngram else ""
    own = next((line for line in story.metrics if line.get("epoch") == story.epoch), {})
    last = story.metrics[-1].get("epoch", story.epoch) if story.metrics else story.epoch
    seconds = sum(_number(line, "seconds") or 0.0 for line in story.metrics)

    def loss(name: str) -> str:
        return missing if (value := _number(own, name)) is None else f"{value:.4f} nats a token"

    weights = f"epoch {story.epoch} of {last}" if story.epoch else "before the end of the first epoch"
    # A run may go on on another machine.
    devices = dict.fromkeys(line["device"] for line in story.metrics if line.get("device"))
    held_out_part = f"of its {config.units}" if config.units else "of it, the end"
    return [
        ("Trained on", f"{story.corpus}, {story.characters:,} characters" if story.characters else "an unknown text"),
        *([] if story.notation is PROSE else [("Notation", f"{story.notation.files} ({story.notation.name})")]),
        ("Held out", f"{100 * config.validation:.3g} % {held_out_part}" if config.validation else "nothing"),
        ("Network", network),
        ("Parameters", f"{parameters:,}"),
        ("Tokens", f"{vocabulary:,} ({config.tokens})"),
        ("Recipe", config.recipe),
        ("Weights of", weights if story.command else "a model that was imported"),
        ("Training loss", loss("loss")),
        ("Held-out loss", loss("validation_loss") if config.validation else "none: nothing was held out"),
        ("Time", (f"{seconds / 60:,.0f} min" if seconds > 100 else f"{seconds:.0f} s") if seconds else missing),
        ("Device", "; ".join(devices) or missing),
        ("Started", story.created[:10]),
        ("Page by", f"jaxlm {jaxlm.__version__}"),
    ]


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without numbers that JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }


def _number(record: Mapping[str, Any], name: str) -> float | None:
    """A number of a record, which may come from a stranger; None if it is none."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _fill(values: Mapping[str, Any]) -> str:
    """The page that holds some values."""
    style, scripts = _part("page.css"), [_part(f"{name}.js") for name in CODE]
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_source, scripts))}",
        f"style-src {_source(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    # Nothing in it ends the element or opens another; ASCII, so that no character is a line end to JavaScript alone.
    text = json.dumps(values, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    parts = {
        "policy": "; ".join(policy),
        "style": f"<style>{style}</style>",
        "values": f'<script type="application/json" id="values">{text}</script>',
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _source(content: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(content.encode()).digest())}'"
