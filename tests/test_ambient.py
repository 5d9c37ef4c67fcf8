"""The same seed gives the same numbers, whatever JAX's ambient settings are."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from helpers import assert_same_run

import jaxlm
from jaxlm.nn import training
from jaxlm.runs.trainer import train

ROOT = Path(__file__).parents[1]

SETTINGS = {
    "double precision": lambda: jax.enable_x64(True),
    "another generator": lambda: jax.default_prng_impl("rbg"),
    "another way to split": lambda: jax.threefry_partitionable(False),
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "transfer guard": lambda: jax.transfer_guard("disallow"),
}


@contextlib.contextmanager
def ambient(name):
    """One of these settings. All but the generator are in the key of what JAX keeps compiled; for that, it forgets."""
    if name == "another generator":
        jax.clear_caches()
        training._compiled_steps.cache_clear()
    with SETTINGS[name]():
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_and_scores_of_a_seed_are_the_same(trained, name):
    def results():
        generator = jaxlm.load(trained)
        texts = [generator.generate("the ", 60, seed=3, mode=mode, temperature=1.0) for mode in ("state", "window")]
        return texts, generator.score("the lazy dog").tolist()

    expected = results()
    with ambient(name):
        assert results() == expected


ALL = jaxlm.ModelConfig(hidden=8, layers=2, embedding=4, dropout=0.2, output_dropout=0.2, recurrent_dropout=0.2)


@pytest.fixture
def stream(corpus):
    """A config that uses all there is."""
    return dataclasses.replace(
        jaxlm.STREAM["small"], corpus=(str(corpus),), epochs=2, average=0.9, reset=0.3, model=ALL
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_and_weights_of_a_seed_are_the_same(stream, small, tmp_path, name):
    for config in (stream, small):
        path = tmp_path / config.recipe
        train(config, run="here", checkpoints=path)
        with ambient(name):
            train(config, run="there", checkpoints=path)
        assert_same_run(path / "here", path / "there")


def test_a_number_of_devices_chosen_by_xla_flags_is_heeded():
    code = "from jaxlm.nn import sharding; sharding.split_cpu(); import jax; print(len(jax.devices()))"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"
