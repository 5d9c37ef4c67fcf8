"""Damage to compiled programs in the cache: none is run, and all are replaced, however JAX compresses them."""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.faults

PROGRAM = """
import json, os, sys

if sys.argv[1] == "zlib":  # JAX prefers zstd, whose frames have no checksum here.
    sys.modules["compression.zstd"] = sys.modules["zstandard"] = None
import jax
from jax import numpy as jnp
from jaxlm.nn.compilation import keep_compiled

found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.endswith("/cache_hits")))
keep_compiled()
# A program each, with constants and loops of its own.
results = []
for number in range(1, 31):
    table = [[number / (row + column + 1) for column in range(8)] for row in range(8)]

    def run(x):
        step = lambda carry, row: (jnp.tanh(jnp.array(table) @ carry + row), carry.sum())
        return jax.lax.scan(step, x[0], x)

    results.append(jax.tree.map(lambda leaf: leaf.tolist(), jax.jit(run)(jnp.array(table) / 9)))
print(json.dumps([jax.config.jax_compilation_cache_dir, sum(found), results]))
"""

TRIALS = 4
"""Runs of each test, each with damage to half of its programs, some 15 or more."""

COMPRESSIONS = ["zlib"]
if importlib.util.find_spec("zstandard") or sys.version_info >= (3, 14):
    COMPRESSIONS.append("zstd")


def run(compression, cache):
    """The folder of the programs, the number found in it, and what they compute."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM, compression]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=COMPRESSIONS)
def kept(request, tmp_path_factory):
    """A compression, a cache directory filled by one run, and what the programs compute; not to be changed."""
    cache = tmp_path_factory.mktemp("kept")
    _, hits, results = run(request.param, cache)
    assert hits == 0
    return request.param, cache, results


def flip(program, others, chance):
    content = bytearray(program.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    program.write_bytes(content)


def flip_late(program, others, chance):
    """In the second half, where the machine's code is."""
    content = bytearray(program.read_bytes())
    content[chance.randrange(len(content) // 2, len(content))] ^= 1 << chance.randrange(8)
    program.write_bytes(content)


def flip_digest(program, others, chance):
    flip(program.with_name(program.name.removesuffix("-cache") + "-sha256"), others, chance)


def cut(program, others, chance):
    os.truncate(program, chance.randrange(program.stat().st_size))


def lengthen(program, others, chance):
    program.write_bytes(program.read_bytes() + chance.randbytes(chance.randrange(1, 9)))


def blank(program, others, chance):
    """A block of zeros, as a power cut leaves."""
    content = bytearray(program.read_bytes())
    start = chance.randrange(0, len(content), 512)
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    program.write_bytes(content)


def garble(program, others, chance):
    program.write_bytes(chance.randbytes(program.stat().st_size))


def swap(program, others, chance):
    """Another program, with its digest."""
    other = chance.choice(others)
    for kind in ("cache", "sha256"):
        source, target = (path.name.removesuffix("cache") + kind for path in (other, program))
        shutil.copy(other.with_name(source), program.with_name(target))


@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize(
    "damage", [flip, flip_late, flip_digest, cut, lengthen, blank, garble, swap], ids=lambda damage: damage.__name__
)
def test_no_damaged_program_is_run_and_every_one_is_replaced(kept, tmp_path, damage, trial, request):
    if trial and request.config.getoption("every") > 1:
        pytest.skip("the first trial is enough for a sample")
    compression, cache, results = kept
    copy = shutil.copytree(cache, tmp_path / "cache")
    programs = sorted(copy.glob("jaxlm/compiled/*/*-cache"))
    assert len(programs) >= 30
    chance = random.Random(f"{damage.__name__} {trial}")
    chance.shuffle(programs)
    damaged, good = programs[: len(programs) // 2], programs[len(programs) // 2 :]
    before = {program: program.read_bytes() for program in good}
    for program in damaged:
        damage(program, good, chance)
    assert run(compression, copy)[1:] == [len(good), results]
    assert {program: program.read_bytes() for program in good} == before
    assert run(compression, copy)[1:] == [len(programs), results]
