"""jaxlm: character-level LSTM language models in JAX. Train one on any text, watch it learn, write with it.

>>> import jaxlm
>>> jaxlm.load("checkpoints/nietzsche").generate("the truth ", 400, temperature=0.5)
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Each name is imported when it is first used, so that `--help` need not wait for JAX.
_HOMES = {
    "BOOK": "config",
    "InputError": "errors",
    "ModelConfig": "config",
    "RunError": "errors",
    "STREAM": "config",
    "TrainConfig": "config",
    "WatchConfig": "config",
    "LanguageModel": "nn.model",
    "TextGenerator": "generator",
    "reweight": "nn.sampling",
    "load": "runs.run",
    "Run": "runs.run",
    "train": "runs.trainer",
    "resume": "runs.trainer",
    "Terminal": "cli.terminal",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxlm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
