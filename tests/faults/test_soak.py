"""Thousands of calls in one process: memory, threads, files and compiled programs do not grow."""

import contextlib
import dataclasses
import gc
import os
import random
import threading
from pathlib import Path

import jax
import pytest

import jaxlm
from jaxlm.runs import trainer

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **details: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@dataclasses.dataclass(frozen=True)
class Held:
    """What this process holds.

    Attributes:
      megabytes: of memory.
      threads: of the system.
      rest: Python's own threads, open files, and the programs compiled so far.
    """

    megabytes: float
    threads: int
    rest: tuple[int, int, int]

    @classmethod
    def now(cls):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
        rest = threading.active_count(), files, len(COMPILED)
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, rest)


POOLS = 16
"""Threads by which the pools of JAX and TensorStore may differ: they end some that idle, and start others."""

KEPT = 0.1
"""MB that a save and a restore may leave: TensorStore 0.1.86 never frees what a spec's `to_json` returned, and Orbax
calls that for each array; it is 0.4 kB each time."""


@contextlib.contextmanager
def steady(megabytes):
    """Requires that no more than so many MB are held afterwards, and nothing else that was not held before."""
    before = Held.now()
    yield
    after = Held.now()
    print(f"\n{after.megabytes - before.megabytes:+.1f} MB; {before} -> {after}")
    assert after.megabytes - before.megabytes < megabytes
    assert after.threads <= before.threads + POOLS
    assert after.rest == before.rest


@pytest.fixture
def every(request):
    """Only each so many-th of the calls is made."""
    return request.config.getoption("every")


def test_generating_holds_nothing(trained, every):
    generator = jaxlm.load(trained)
    choice = random.Random(0).choice

    def call():
        prompt = choice([None, "the ", "T", "the quick brown fox " * 20, "Ünknown"])
        temperature, mode = choice([0.0, 0.2, 0.5, 1.0, 1e9]), choice([None, "state", "window"])
        settings = {"temperature": temperature, "mode": mode, "seed": choice([None, 1, 2**32 - 1])}
        length = choice([0, 1, 7, 64, 300])
        if choice(range(20)) == 0:
            generator.generate_batch(3, prompt, length, unknown="skip", **settings)
        else:
            generator.generate(prompt, length, unknown="skip", **settings)

    for _ in range(500):
        call()
    with steady(megabytes=4):
        for _ in range(10_000 // every):
            call()


@pytest.mark.parametrize("mode", ["state", "window"])
def test_a_text_in_pieces_holds_none_of_them(trained, mode, every):
    length = max({"state": 1_000_000, "window": 100_000}[mode] // every, 30_000)
    pieces = jaxlm.load(trained).pieces("the ", length, mode=mode, seed=1)
    for _ in range(20):
        next(pieces)
    with steady(megabytes=4):
        rest = sum(map(len, pieces))
    assert rest > 0.9 * length


def test_training_holds_nothing(small, tmp_path, every):
    config = dataclasses.replace(small, epochs=1)

    def train(number):
        trainer.train(config, run=f"run-{number}", checkpoints=tmp_path)

    for number in range(30):
        train(number)
    count = 300 // every
    with steady(megabytes=2 + KEPT * count):
        for number in range(30, 30 + count):
            train(number)
