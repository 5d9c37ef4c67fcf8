"""Four fake devices, strict promotion, a small text, and a small run that the tests share."""

import dataclasses
import logging
import os
import signal
import tempfile
from pathlib import Path

import jax
import pytest
from helpers import TEXT

import jaxlm
from jaxlm.runs import trainer
from jaxlm.runs.trainer import train

pytest_plugins = ["rows"]

# Tests that compile the same share it. Not through the environment: JAX's cache is not safe for two processes.
COMPILED = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
# For processes that fixtures of a wider scope than a test start.
CACHE = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = CACHE.name
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A signal that is ignored stays ignored. Whoever starts the tests may ignore some, as `nohup` and `&` in a script do.
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

SMALL = dataclasses.replace(jaxlm.BOOK, epochs=2, length=10, stride=3, batch=32, model=jaxlm.ModelConfig(hidden=16))


FAST = {"batches", "config", "copying", "docs", "growing", "guard", "layout", "lstm", "options", "suffixes", "text"}
"""Files whose tests train no run: `python -m pytest -m fast`."""

ONCE = {
    *("abc_keys", "averages", "counted_runs", "curve", "docs", "documents", "drawing", "exchange", "export"),
    *("generate", "midi", "mixing", "notations", "notebook", "output", "page", "plots", "python", "samples", "scores"),
    *("start", "strokes", "teaching", "tensorboard", "terminal", "units", "write"),
}
"""Files that CI runs on one Python only. Their features use Python and JAX in the same ways as those of other files,
which CI runs on two; and they take more than half of the time."""


def pytest_configure():
    here = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    if missing := sorted((FAST | ONCE) - here):
        raise pytest.UsageError(f"FAST or ONCE in tests/conftest.py: there are no tests of {', '.join(missing)}")


def pytest_collection_modifyitems(items):
    """Marks the tests of FAST and ONCE, and those of the fault matrix."""
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.faults)
        if item.path.stem.removeprefix("test_") in FAST:
            item.add_marker(pytest.mark.fast)
        if item.path.stem.removeprefix("test_") in ONCE:
            item.add_marker(pytest.mark.once)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """The command line keeps warnings from the root logger, where pytest listens; every test starts without that."""
    monkeypatch.setattr(logging.getLogger("jaxlm"), "propagate", True)


@pytest.fixture
def corpus(tmp_path):
    """A text file of a thousand characters."""
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def small(corpus):
    """The config of a run on it that takes a second."""
    return dataclasses.replace(SMALL, corpus=(str(corpus),))


@pytest.fixture
def one_at_a_time(monkeypatch):
    """The devices are asked for one step at a time, so that a run stops after a known one."""
    monkeypatch.setattr(trainer, "CALL_SECONDS", 0.0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a run of two epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT)
    config = dataclasses.replace(SMALL, corpus=(str(folder / "fox.txt"),))
    train(config, run="fox", checkpoints=folder)
    return folder / "fox"


@pytest.fixture(scope="session")
def shared_corpora():
    """The folder of nietzsche.txt and tinyshakespeare.txt, where the environment names one."""
    folder = os.environ.get("JAXLM_CORPORA")
    if not folder:
        pytest.skip("JAXLM_CORPORA names no folder with nietzsche.txt and tinyshakespeare.txt")
    return Path(folder)
