"""Settles in one command whether jaxlm is right and fast on an NVIDIA GPU.

python -m benchmarks.accelerator                 # at most 8 minutes, the most telling parts first
python -m benchmarks.accelerator --seconds 240   # enough for parity, and for the steps of the book and the streams
python -m benchmarks.accelerator --dry           # the same code in miniature, on any device, in less than a minute

Every figure is printed at once, and written to accelerator.json and a section of RESULTS.md, so that a run that is cut
short leaves what it had. It needs no network, and nothing but jaxlm; PyTorch is compared with where it
is installed.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

# As in the commands: a CPU's cached programs are loaded with pages of warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# This process and those it starts share the device's memory. The CPU is the reference.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if platforms := os.environ.get("JAX_PLATFORMS"):
    os.environ["JAX_PLATFORMS"] = platforms if "cpu" in platforms else f"{platforms},cpu"

import flax.linen as nn
import jax
import numpy as np

import jaxlm
from benchmarks.__main__ import FIRST_STEP, HERE, ROOT, machine
from benchmarks.contenders import made_up_text
from jaxlm.config import ModelConfig, Precision, TrainConfig, changed
from jaxlm.errors import InputError, RunError, first_line
from jaxlm.generator import TextGenerator
from jaxlm.nn import lstm, sharding
from jaxlm.nn.compilation import keep_compiled
from jaxlm.nn.model import LanguageModel
from jaxlm.nn.sampling import CHUNK
from jaxlm.nn.training import BLOCK, compiled_steps, initial_state, send_batches, to_devices
from jaxlm.runs.reporter import Reporter
from jaxlm.text.vocab import Vocab

V = 57
"""Distinct characters."""

TOLERANCE = 1e-4
"""The largest difference of an implementation, as a share of the reference's largest value."""

CALL_SECONDS, CALLS = 0.2, 5
"""About how long a timed call takes, and how many there are."""

DRY = ModelConfig(hidden=8, layers=1)

NO_TIME = {"skipped": "no time left"}

Figures = Iterator[tuple[str, dict]]
"""What a part finds, one by one: a title, and figures by name."""


@dataclasses.dataclass
class Bench:
    """The circumstances.

    Attributes:
      dry: whether everything is tiny.
      deadline: when to stop, by `time.monotonic`.
      folder: for runs.
    """

    dry: bool
    deadline: float
    folder: Path

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def figures(self, work: Callable[[], dict], seconds: float = 20) -> dict:
        """What `work` finds; or that there is too little time for it, or how it failed: the rest goes on."""
        if self.left() < seconds:
            return NO_TIME
        try:
            return work()
        except subprocess.TimeoutExpired:
            return NO_TIME
        except Exception as error:
            traceback.print_exc()
            return {"ok": False, "failed": f"{type(error).__name__}: {first_line(error)[:200]}"}


def implementations() -> list[str]:
    """Those that run here, the likely fastest first."""
    found = []
    for impl in ("cudnn", "fused", "scan"):
        with contextlib.suppress(InputError):
            found.append(lstm.choose(impl))
    return found


# Is it right?


def unpinned(params, carry, inputs, precision):
    """Flax's own recurrence, whose products are as JAX's defaults have them."""
    layer = nn.RNN(nn.LSTMCell(carry[0].shape[-1]), return_carry=True)
    return layer.apply({"params": {"cell": params}}, inputs, initial_carry=carry)


def parity(bench: Bench) -> Figures:
    """Each implementation against `scan` on the CPU"""
    batch, length, width, hidden = (3, 5, 4, 6) if bench.dry else (128, 60, V, 128)
    rng = np.random.default_rng(0)
    params = lstm.init_params(jax.random.key(0), width, hidden)
    carry = tuple(rng.normal(size=(batch, hidden)).astype(np.float32) for _ in range(2))
    inputs = rng.normal(size=(batch, length, width)).astype(np.float32)
    weights = rng.normal(size=(batch, length, hidden)).astype(np.float32)

    def loss(recurrence, precision, params, carry, inputs):
        (c, h), outputs = recurrence(params, carry, inputs, precision)
        return (weights * outputs).sum() + (c * c).sum() + (h * h * h).sum(), ((c, h), outputs)

    def everything(recurrence, precision):
        gradient = jax.grad(functools.partial(loss, recurrence, precision), (0, 1, 2), has_aux=True)
        grads, (after, outputs) = jax.jit(gradient)(params, carry, inputs)
        return jax.device_get({"outputs": outputs, "carry": after, "gradients": grads})

    with jax.default_device(jax.devices("cpu")[0]):
        reference = everything(lstm.scan, "float32")
    cases = [(impl, lstm.IMPLS[impl], "float32", TOLERANCE) for impl in implementations()]
    cases += [
        ("fused, bfloat16", lstm.fused, "bfloat16", None),
        ("Flax's at JAX's default precision", unpinned, "float32", None),
    ]

    def compared(recurrence, precision, tolerance) -> dict:
        found = everything(recurrence, precision)
        errors = {part: error(found[part], reference[part]) for part in reference}
        return errors if tolerance is None else errors | {"ok": all(value < tolerance for value in errors.values())}

    for name, *case in cases:
        yield name, bench.figures(functools.partial(compared, *case))


def error(found, expected) -> float:
    """The largest difference of any array, as a share of the largest value expected in it; NaN if there is one."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([np.abs(one - other).max() / np.abs(other).max() for one, other in pairs]))


def names(dry: bool) -> tuple[str, ...]:
    """Of the runs, which are also those of the recipe and the sizes."""
    return ("book", "small") if dry else ("book", "small", "medium", "large")


def recipe(name: str) -> TrainConfig:
    return jaxlm.BOOK if name == "book" else jaxlm.SIZES[name]


def train_all(folder: Path, dry: bool) -> None:
    """Trains two epochs of each recipe and size, in runs of these names."""
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        corpus.write_text(made_up_text(3000 if dry else 60_000))
    for name in names(dry):
        config = dataclasses.replace(recipe(name), corpus=(str(corpus),), epochs=2)
        if dry:
            config = dataclasses.replace(config, batch=16, length=16, model=DRY)
        jaxlm.train(config, run=name, checkpoints=folder, reporter=None)


def resume_all(folder: Path, dry: bool) -> None:
    """Resumes the runs that were stopped."""
    for path in sorted(folder.glob("*-stopped")):
        jaxlm.resume(path, reporter=None)


def greedy(folder: Path, dry: bool) -> dict[str, str]:
    """What each run writes without chance."""
    return {name: jaxlm.load(folder / name).generate("the ", 200, temperature=0) for name in names(dry)}


def process(bench: Bench, work: str, folder: Path, **environment: str) -> subprocess.Popen:
    """A process that works, then prints the result."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.accelerator", "--work", work, str(folder), *["--dry"] * bench.dry],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def result(bench: Bench, process: subprocess.Popen):
    """What a process has printed.

    Raises:
      subprocess.TimeoutExpired: there is no time left.
      RuntimeError: it failed.
    """
    try:
        printed, _ = process.communicate(timeout=max(1.0, bench.left()))
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode}: {process.args}")
    return json.loads(printed)


class StopAt(Reporter):
    """Stops a run soon after a step."""

    def __init__(self, step: int) -> None:
        self.at, self.event = step, threading.Event()

    def step(self, step: int, loss: float) -> None:
        if step == self.at:
            self.event.set()


def runs(bench: Bench) -> Figures:
    """Two epochs here and on the CPU, resumed, and exchanged"""
    if bench.left() < (10 if bench.dry else 90):
        yield "all of them", NO_TIME
        return
    here, there = bench.folder / "here", bench.folder / "cpu"
    here.mkdir()
    there.mkdir()
    with contextlib.ExitStack() as stack:
        other = process(bench, "train", there, JAX_PLATFORMS="cpu")
        stack.callback(other.kill)
        began = time.monotonic()
        train_all(here, bench.dry)
        yield "all of them, here", {"seconds": time.monotonic() - began}
        for name in names(bench.dry)[:2]:
            whole = jaxlm.Run.open(here / name)
            stop = StopAt(whole.restore()[1].step // 2 - 3)
            with contextlib.suppress(jaxlm.Stopped):
                config = whole.record.config
                jaxlm.train(config, run=f"{name}-stopped", checkpoints=here, reporter=stop, stop=stop.event)
        result(bench, process(bench, "resume", here))
        for name in names(bench.dry)[:2]:
            stopped, whole = (jaxlm.Run.open(here / run).restore()[0] for run in (f"{name}-stopped", name))
            same = all(map(np.array_equal, *map(jax.tree.leaves, (stopped, whole))))
            yield f"{name}, stopped, and resumed by another process, is the same bit for bit", {"ok": same}
        result(bench, other)
        for name in names(bench.dry):
            losses = [
                [line["loss"] for line in jaxlm.Run.open(folder / name).storage.metrics()] for folder in (here, there)
            ]
            yield f"{name}, losses of two epochs", {"here": losses[0], "on the CPU": losses[1]}
        for owner, folder in (("here", here), ("on the CPU", there)):
            other = process(bench, "greedy", folder, JAX_PLATFORMS="cpu")
            stack.callback(other.kill)
            ours, theirs = greedy(folder, bench.dry), result(bench, other)
            for name, one in ours.items():
                pairs = enumerate(zip(one, theirs[name], strict=True))
                differs = next((i for i, (mine, other) in pairs if mine != other), None)
                yield f"{name}, trained {owner}: its greedy text here and on the CPU", {"first difference": differs}


# Is it fast?


def without_counts(size: str) -> TrainConfig:
    """A size's settings, but for its n-grams, which are not PyTorch's."""
    return changed(jaxlm.SIZES[size], {"ngram": 0})


STEPS = {
    "the book's: LSTM(128), batch 128, windows of 60": jaxlm.BOOK,
    "stream small: LSTM(128), batch 32, 32 characters": without_counts("small"),
    "stream medium: 2 x LSTM(256), batch 32, 64 characters": without_counts("medium"),
    "stream large: 2 x LSTM(640), batch 32, 64 characters": without_counts("large"),
}

LARGER = {
    "2 x LSTM(512), batch 64, 128 characters": dataclasses.replace(
        jaxlm.SIZES["small"], batch=64, length=128, model=ModelConfig(512, layers=2)
    ),
    "3 x LSTM(1024), batch 64, 256 characters": dataclasses.replace(
        jaxlm.SIZES["small"], batch=64, length=256, model=ModelConfig(1024, layers=3)
    ),
}


def steps(bench: Bench, configs: dict[str, TrainConfig] = STEPS) -> Figures:
    """Milliseconds per step; megabytes of the program's arguments and temporaries"""
    yield from each_step(bench, configs, [(impl, impl, "float32") for impl in implementations() if impl != "scan"])
    # In a process of its own: it may bring another cuDNN.
    work = "torch" if configs is STEPS else "larger torch"
    found = bench.figures(lambda: result(bench, process(bench, work, bench.folder)), 30)
    yield from [("PyTorch", found)] if found.keys() & {"skipped", "failed"} else found.items()


def larger_steps(bench: Bench) -> Figures:
    """Milliseconds per step of larger models"""
    return steps(bench, LARGER)


def other_steps(bench: Bench) -> Figures:
    """Milliseconds per step of the reference, and in bfloat16"""
    return each_step(bench, STEPS, [("scan", "scan", "float32"), ("fused, bfloat16", "fused", "bfloat16")])


def each_step(bench: Bench, configs: dict[str, TrainConfig], cases: list[tuple[str, str, Precision]]) -> Figures:
    """The steps of these configs in these cases, which are a name, an implementation and a precision."""
    for title, config in list(configs.items())[: 1 if bench.dry else None]:
        if bench.dry:
            config = dataclasses.replace(config, batch=16, length=8, model=DRY)
        for name, impl, precision in cases:
            model = LanguageModel(V, config.model, impl, precision)
            yield f"{title}; {name}", bench.figures(functools.partial(time_steps, model, config))


def timed(call: Callable[[int], None], most: int) -> dict:
    """The median, lowest and highest milliseconds per step of a call that does so many steps and waits for them."""
    call(1)
    began = time.perf_counter()
    call(1)
    count = int(np.clip(CALL_SECONDS / (time.perf_counter() - began), 1, most))
    found = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call(count)
        found.append((time.perf_counter() - began) / count * 1e3)
    return {"ms": statistics.median(found), "low": min(found), "high": max(found), "steps per call": count}


def time_steps(model: LanguageModel, config: TrainConfig) -> dict:
    mesh, rng = sharding.make_mesh(config.batch), np.random.default_rng(0)
    ids = sharding.replicate(rng.integers(0, V, 100_000).astype(np.uint8), mesh)
    batches = send_batches(rng.integers(0, len(ids), (BLOCK, config.batch)).astype(np.int32), None, mesh)
    state = to_devices(initial_state(model, config), mesh)
    first = np.int32(0)
    began = time.perf_counter()
    lowered = compiled_steps(model, config, 1000, 1.0, mesh).__wrapped__.lower(state, ids, batches, first, first)
    program = lowered.compile()
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()

    def call(count: int) -> None:
        nonlocal state
        state, nats, _ = program(state, ids, batches, first, np.int32(count))
        nats.block_until_ready()

    found = timed(call, BLOCK)
    peak = (sharding.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e6
    used = memory and (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6
    return found | {"compiled in s": seconds, "MB": used} | ({"peak MB of the process": peak} if peak else {})


def time_all_torch(configs: dict[str, TrainConfig], folder: Path, dry: bool) -> dict:
    """The same networks and batches in PyTorch, in float32 and in TF32."""
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "PyTorch is not installed"}
    import torch

    if not torch.cuda.is_available() and not dry:
        return {"skipped": "PyTorch has no GPU"}
    found = {}
    for title, config in list(configs.items())[: 1 if dry else None]:
        if dry:
            config = dataclasses.replace(config, batch=16, length=8, model=DRY)
        for precision in ("float32", "TF32"):
            figures = time_torch(config, precision == "float32")
            found[f"{title}; PyTorch's nn.LSTM, {precision}"] = figures | {"cuDNN": torch.backends.cudnn.version()}
    return found


def time_torch(config: TrainConfig, exact: bool) -> dict:
    """A step as PyTorch's users write it, without dropout, clipping and average, and without fetching each loss."""
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.manual_seed(0)
    stream = config.recipe == "stream"
    recurrent = torch.nn.LSTM(V, config.model.hidden, config.model.layers, batch_first=True).to(place)
    dense = torch.nn.Linear(config.model.hidden, V).to(place)
    parameters = [*recurrent.parameters(), *dense.parameters()]
    optimizer = torch.optim.Adam(parameters) if stream else torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-7)
    windows = torch.randint(0, V, (config.batch, config.length + 1), device=place)
    inputs = torch.nn.functional.one_hot(windows[:, :-1], V).float()
    targets = windows[:, 1:] if stream else windows[:, -1:]
    carry = None

    def call(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            states, after = recurrent(inputs, carry)
            carry = tuple(part.detach() for part in after) if stream else None
            logits = dense(states if stream else states[:, -1:])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return timed(call, 1000)


def generation(bench: Bench) -> Figures:
    """Characters per second in total, generating with LSTM(128)"""
    vocab = Vocab.build("char", "".join(chr(ord("!") + i) for i in range(V)))
    for impl in implementations():
        model = LanguageModel(V, ModelConfig(8 if bench.dry else 128), impl)
        params = jax.jit(model.init_params)(jax.random.key(0))
        generator = TextGenerator(model, params, vocab, False, "!" * 60, 60, "state")
        for count in (1, 3) if bench.dry else (1, 64, 1024):
            yield f"{impl}, {count} texts at once", bench.figures(functools.partial(time_texts, generator, count), 10)


def time_texts(generator: TextGenerator, count: int) -> dict:
    def call(chunks: int) -> None:
        generator.generate_batch(count, length=CHUNK * chunks, seed=0)

    return {"characters/s": CHUNK * count * 1e3 / timed(call, 100)["ms"]}


def start_up(bench: Bench) -> Figures:
    """From process start, with a warm cache of compiled programs"""
    corpus = bench.folder / "start.txt"
    corpus.write_text(made_up_text(3000 if bench.dry else 600_000))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def first_step(number: int) -> float:
        command = [sys.executable, "-c", FIRST_STEP, "--corpus", str(corpus), "--run", str(bench.folder / f"{number}")]
        began = time.time()
        limit = max(1.0, bench.left())
        printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True, timeout=limit)
        return float(printed.split()[-1]) - began

    def first_character(number: int) -> float:
        command = [sys.executable, "-m", "jaxlm", "sample", "--run", "nietzsche", "-p", "the ", "-l", "10"]
        began = time.time()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as sample:
            assert sample.stdout
            first = sample.stdout.read(len("the ") + 1)
            found = time.time() - began
            sample.stdout.read()
        if len(first) <= len("the ") or sample.returncode:
            raise RuntimeError(f"{command}: ended with {sample.returncode}")
        return found

    for name, measure in (("first step", first_step), ("first character", first_character)):

        def median(measure: Callable[[int], float] = measure) -> dict:
            measure(0)  # Compiles.
            return {"s": statistics.median(measure(number) for number in ((1,) if bench.dry else (1, 2, 3)))}

        yield name, bench.figures(median)


def host(bench: Bench) -> Figures:
    """The training thread's own time per step, in a run whose steps are tiny; on a GPU, with its waiting"""
    corpus = bench.folder / "host.txt"
    corpus.write_text(made_up_text(20_000 if bench.dry else 200_000))
    config = dataclasses.replace(jaxlm.BOOK, corpus=(str(corpus),), epochs=2, batch=16, length=4, model=DRY)

    class Clock(jaxlm.Terminal):
        """The terminal's own reporter, with the time of the thread that trains; the first epoch compiles."""

        def __init__(self) -> None:
            super().__init__(jaxlm.WatchConfig(temperature=()))
            self.times: list[tuple[int, float, float]] = []
            self.epochs = 0

        def step(self, step: int, loss: float) -> None:
            super().step(step, loss)
            if self.epochs == 1:
                self.times.append((step, time.thread_time(), time.perf_counter()))

        def epoch(self, *arguments) -> None:
            super().epoch(*arguments)
            self.epochs += 1

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        clock = Clock()
        jaxlm.train(config, run="host", checkpoints=bench.folder, reporter=clock)
    (first, busy, wall), (last, busy_then, wall_then) = clock.times[0], clock.times[-1]
    count = last - first
    yield f"{count:,} steps", {"thread's us": (busy_then - busy) / count * 1e6, "us": (wall_then - wall) / count * 1e6}


WORK: dict[str, Callable[[Path, bool], dict | None]] = {
    "train": train_all,
    "resume": resume_all,
    "greedy": greedy,
    "torch": functools.partial(time_all_torch, STEPS),
    "larger torch": functools.partial(time_all_torch, LARGER),
}
"""What is done in processes of their own."""

PARTS: tuple[Callable[[Bench], Figures], ...] = (
    parity,
    steps,
    runs,
    generation,
    start_up,
    other_steps,
    larger_steps,
    host,
)
"""The most telling first."""


def shown(value) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-2 else f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return ", ".join(map(shown, value)) if isinstance(value, list) else str(value)


def line(figures: dict) -> str:
    return "; ".join(f"{name} {shown(value)}" for name, value in figures.items())


def section(results: dict) -> str:
    """The part of RESULTS.md."""
    facts = results["machine"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", "jax", "jaxlib", "flax", "optax", "torch"))
    made = [
        f"Measured on {facts['date']} at commit `{facts['commit']}` with `python -m benchmarks.accelerator`, in "
        f"{results['seconds']:.0f} s: {facts['device']}; {versions}. Parity is the largest difference of any array, as "
        f"a share of its largest value; `ok` means less than {TOLERANCE:g}.\n"
    ]
    for part, found in results["parts"].items():
        made.append(f"| {part} | |\n| --- | --- |")
        made += [f"| {name} | {line(figures)} |" for name, figures in found.items()]
        made.append("")
    return "\n".join(made)


BEGIN, END = "<!-- benchmarks.accelerator writes this: -->", "<!-- up to here. -->"


def write(results: dict, folder: Path) -> None:
    (folder / "accelerator.json").write_text(json.dumps(results, indent=1) + "\n")
    before, after = around_section(folder)
    (folder / "RESULTS.md").write_text(f"{before}{BEGIN}\n\n{section(results)}\n{END}{after}")


def around_section(folder: Path) -> tuple[str, str]:
    """What is before and after the section in RESULTS.md."""
    path = folder / "RESULTS.md"
    before, begin, rest = (path.read_text() if path.exists() else "").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: found no lines {BEGIN!r} and {END!r} to write between")
    return before, after


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=480, help="the most it may take (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="in miniature, on any device; only printed")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS], help="only these parts")
    parser.add_argument(
        "--out", type=Path, help=f"the folder of accelerator.json and RESULTS.md (default: {HERE.name})"
    )
    parser.add_argument("--work", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        what, folder = asked.work
        keep_compiled()
        with contextlib.redirect_stdout(sys.stderr):
            done = WORK[what](Path(folder), asked.dry)
        print(json.dumps(done))
        return
    out = asked.out or (None if asked.dry or asked.only else HERE)
    try:
        device = sharding.devices()[0]
    except RunError as error:
        raise SystemExit(str(error)) from error
    if device.platform != "gpu" and not asked.dry:
        raise SystemExit("found no GPU that JAX can use; install '.[cuda]', or add --dry for a run in miniature")
    if asked.seconds < 60 and not asked.dry:
        raise SystemExit(f"--seconds: found {asked.seconds:g}, expected 60 or more")
    if out:
        around_section(out)  # Before anything is measured.
    began = time.monotonic()
    facts = machine()
    facts["device"] += f" ({device.client.platform_version.splitlines()[0]})"
    results = {
        "machine": facts,
        "dry": asked.dry,
        "implementations": implementations(),
        "seconds": 0.0,
        "parts": {},
    }
    print(f"{results['machine']['device']}; implementations: {', '.join(implementations())}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        keep_compiled()  # As the commands do; shared with the processes.
        bench = Bench(asked.dry, began + asked.seconds - 5, Path(folder))
        for part in PARTS:
            if asked.only and part.__name__ not in asked.only:
                continue
            title = (part.__doc__ or "").strip()
            print(f"\n{title}", flush=True)
            found = results["parts"].setdefault(title, {})

            def work(part=part, found=found) -> dict:
                for name, figures in part(bench):
                    found[name] = figures
                    print(f"  {name}: {line(figures)}", flush=True)
                    results["seconds"] = time.monotonic() - began
                    if out:
                        write(results, out)
                return {}

            # Whatever of it was not caught case by case.
            if rest := bench.figures(work, 10):
                found["the rest"] = rest
                print(f"  the rest: {line(rest)}", flush=True)
            if out:
                write(results, out)
    failed = [
        name for found in results["parts"].values() for name, figures in found.items() if not figures.get("ok", True)
    ]
    if failed:
        raise SystemExit(f"not as it should be: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
