"""jaxlm: character-level LSTM language models in JAX. Train one on any text, watch it learn, generate with it.

>>> import jaxlm
>>> jaxlm.load("nietzsche").generate("the truth ", 400, temperature=0.5)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # `as`, since only that exports a name to strict type checkers.
    from jaxlm.cli.notebook import Notebook as Notebook
    from jaxlm.cli.python import resume as resume
    from jaxlm.cli.python import train as train
    from jaxlm.cli.terminal import Terminal as Terminal
    from jaxlm.config import BOOK as BOOK
    from jaxlm.config import SIZES as SIZES
    from jaxlm.config import STREAM as STREAM
    from jaxlm.config import EvaluateConfig as EvaluateConfig
    from jaxlm.config import ModelConfig as ModelConfig
    from jaxlm.config import SampleConfig as SampleConfig
    from jaxlm.config import TrainConfig as TrainConfig
    from jaxlm.config import WatchConfig as WatchConfig
    from jaxlm.errors import InputError as InputError
    from jaxlm.errors import RunError as RunError
    from jaxlm.errors import Stopped as Stopped
    from jaxlm.generator import TextGenerator as TextGenerator
    from jaxlm.nn.model import LanguageModel as LanguageModel
    from jaxlm.nn.sampling import reweight as reweight
    from jaxlm.runs.copies import copied as copied
    from jaxlm.runs.evaluation import Evaluation as Evaluation
    from jaxlm.runs.evaluation import evaluate as evaluate
    from jaxlm.runs.exchange import export as export
    from jaxlm.runs.exchange import import_keras as import_keras
    from jaxlm.runs.mixing import load as load
    from jaxlm.runs.plots import plot as plot
    from jaxlm.runs.reporter import EpochMetrics as EpochMetrics
    from jaxlm.runs.reporter import Plan as Plan
    from jaxlm.runs.reporter import Reporter as Reporter
    from jaxlm.runs.run import Run as Run

# Each name is imported when it is first used, so that `--help` need not wait for JAX.
_HOMES = {
    "BOOK": "config",
    "EpochMetrics": "runs.reporter",
    "EvaluateConfig": "config",
    "Evaluation": "runs.evaluation",
    "InputError": "errors",
    "LanguageModel": "nn.model",
    "ModelConfig": "config",
    "Notebook": "cli.notebook",
    "Plan": "runs.reporter",
    "Reporter": "runs.reporter",
    "Run": "runs.run",
    "RunError": "errors",
    "SIZES": "config",
    "STREAM": "config",
    "Stopped": "errors",
    "SampleConfig": "config",
    "Terminal": "cli.terminal",
    "TextGenerator": "generator",
    "TrainConfig": "config",
    "WatchConfig": "config",
    "copied": "runs.copies",
    "evaluate": "runs.evaluation",
    "export": "runs.exchange",
    "import_keras": "runs.exchange",
    "load": "runs.mixing",
    "plot": "runs.plots",
    "resume": "cli.python",
    "reweight": "nn.sampling",
    "train": "cli.python",
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
