"""Measures jaxlm and its peers in turns, prints the table, and writes results.json and RESULTS.md beside this file.

python -m benchmarks                    # everything; about a quarter of an hour
python -m benchmarks --only book state  # some rows, printed only
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import CHARACTERS, LARGE, STREAMS, B, H, T, random_text

HERE = Path(__file__).parent
ROOT = HERE.parent


def gflop(hidden: int, layers: int, length: int, batch: int) -> float:
    """Of a step's matrix products: three with each recurrent kernel, and with each input kernel but the first."""
    return (2 * layers - 1) * 3 * 2 * length * batch * hidden * 4 * hidden / 1e9


WORK = {"book": gflop(H, 1, T, B), "2x512": gflop(**LARGE)} | {
    size: gflop(config.model.hidden, config.model.layers, config.length, config.batch)
    for size, config in STREAMS.items()
}
FLOORS = {f"{library}floor_{name}": work for name, work in WORK.items() for library in ("", "torch_")}
"""The products alone, by two libraries: the floor is the quicker one's time."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender in a row.

    Attributes:
      name: in contenders.py.
      label: what it is called.
      units: of work in a round.
      needs: the package that it is about.
    """

    name: str
    label: str
    units: int
    needs: str = "jax"

    def missing(self) -> bool:
        return importlib.util.find_spec(self.needs) is None or (
            self.name.startswith("keras") and importlib.util.find_spec("keras") is None
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """A comparison; ratios are the first entry's advantage.

    Attributes:
      title: what is done.
      unit: of the figure.
      figure: from seconds and units.
      entries: jaxlm's first.
      goals: by name of an entry, the ratio to reach.
      goal: the figure to reach.
      one_core: whether each process is kept to one.
      shares: whether the others do what the first does and more: goals are the shares of its speed to keep.
    """

    title: str
    unit: str
    figure: Callable[[float, int], float]
    entries: tuple[Entry, ...]
    goals: dict[str, float] = dataclasses.field(default_factory=dict)
    goal: float | None = None
    one_core: bool = False
    shares: bool = False


def milliseconds(seconds: float, units: int) -> float:
    return seconds / units * 1e3


def per_second(seconds: float, units: int) -> float:
    return units / seconds


def stream_row(size: str, units: int) -> Row:
    """The step of the stream recipe without counts against its floor and PyTorch; and with counts."""
    config = STREAMS[size]
    sizes, tokens = config.model, config.batch * config.length
    return Row(
        f"Training, stream's {size}: {sizes.layers} x LSTM({sizes.hidden}), batch {config.batch}, {config.length} "
        "characters",
        "tokens/s",
        lambda seconds, units: tokens * units / seconds,
        (
            Entry(f"jaxlm_{size}", "jaxlm, `--ngram 0`", units),
            Entry(f"jaxlm_{size}_counts", "jaxlm", units),
            Entry(f"floor_{size}", "its matrix products alone, by XLA", units),
            Entry(f"torch_floor_{size}", "its matrix products alone, by PyTorch", units, "torch"),
            Entry(f"torch_{size}", "PyTorch nn.LSTM", units, "torch"),
        ),
        {f"floor_{size}": 0.65, f"torch_floor_{size}": 0.65},
    )


ROWS = {
    "book": Row(
        f"Training step, the book's: LSTM({H}), batch {B}, windows of {T}",
        "ms",
        milliseconds,
        (
            Entry("jaxlm_book", "jaxlm", 40),
            Entry("jaxlm_book_reference", "jaxlm, --impl scan", 40),
            Entry("floor_book", "its matrix products alone, by XLA", 30),
            Entry("torch_floor_book", "its matrix products alone, by PyTorch", 30, "torch"),
            Entry("keras_tensorflow_book", "Keras on TensorFlow", 60, "tensorflow"),
            Entry("keras_jax_book", "Keras on JAX", 60, "keras"),
            Entry("torch_book", "PyTorch nn.LSTM", 20, "torch"),
        ),
        {"keras_tensorflow_book": 5.0, "torch_book": 2.5, "floor_book": 0.65, "torch_floor_book": 0.65},
    ),
    "2x512": Row(
        "Training step, 2 x LSTM(512), batch 64, 128 characters, every position",
        "ms",
        milliseconds,
        (
            Entry("jaxlm_2x512", "jaxlm", 2),
            Entry("floor_2x512", "its matrix products alone, by XLA", 2),
            Entry("torch_floor_2x512", "its matrix products alone, by PyTorch", 2, "torch"),
            Entry("torch_2x512", "PyTorch nn.LSTM", 2, "torch"),
        ),
        {"torch_2x512": 1.3},
    ),
    **{size: stream_row(size, units) for size, units in (("small", 100), ("1x256", 40), ("medium", 8), ("large", 2))},
    "state": Row(
        f"Generation, batch 1, `state`, LSTM({H}), one core",
        "characters/s",
        per_second,
        (
            Entry("jaxlm_state", "jaxlm", 40_000),
            Entry("jaxlm_state_reference", "jaxlm, --impl scan", 20_000),
            Entry("torch_state", "PyTorch, its state carried in a Python loop", 1000, "torch"),
            Entry("keras_tensorflow_write", "Keras on TensorFlow, the book's loop", 10, "tensorflow"),
            Entry("keras_jax_write", "Keras on JAX, the book's loop", 200, "keras"),
        ),
        {"torch_state": 50.0, "keras_tensorflow_write": 10_000.0},
        # jax 0.12, which Python 3.12 and later have, runs small loops faster.
        150_000 if sys.version_info >= (3, 12) else 100_000,
        one_core=True,
    ),
    "draw": Row(
        f"Generation, batch 1, `state`, LSTM({H}), one core, with filters",
        "characters/s",
        per_second,
        (
            Entry("jaxlm_state", "none", 40_000),
            Entry("jaxlm_top_k", "top_k 20", 40_000),
            Entry("jaxlm_top_p", "top_p 0.9", 40_000),
            Entry("jaxlm_min_p", "min_p 0.05", 40_000),
            Entry("jaxlm_filters", "these three together", 40_000),
            Entry("jaxlm_no_repeat", "no_repeat 12", 40_000),
            Entry("jaxlm_no_repeat_3", "no_repeat 3", 40_000),
            Entry("jaxlm_everything", "the three and no_repeat 12", 40_000),
        ),
        {"jaxlm_filters": 0.7, "jaxlm_no_repeat": 0.5},
        one_core=True,
        shares=True,
    ),
    "window": Row(
        f"Generation, batch 1, `window` of {T}, one core",
        "characters/s",
        per_second,
        (
            Entry("jaxlm_window", "jaxlm", 2560),
            Entry("keras_tensorflow_write", "Keras on TensorFlow, the book's loop", 10, "tensorflow"),
            Entry("keras_jax_write", "Keras on JAX, the book's loop", 200, "keras"),
        ),
        goal=2500,
        one_core=True,
    ),
    "streams": Row(
        "Generating 64 texts at once, `state`",
        "characters/s in total",
        per_second,
        (
            Entry("jaxlm_streams", "jaxlm", 64 * 1024),
            Entry("torch_streams", "PyTorch, its state carried in a Python loop", 64 * 200, "torch"),
        ),
        goal=300_000,
    ),
}


class Worker:
    """A contender's process."""

    def __init__(self, entry: Entry, one_core: bool) -> None:
        self.entry = entry
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", entry.name, *["one-core"] * one_core],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def round(self) -> float:
        """The seconds that a round took."""
        assert self.process.stdin
        assert self.process.stdout
        time.sleep(0.2)  # Until the previous worker's threads have gone to sleep.
        try:
            self.process.stdin.write(f"{self.entry.units}\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.log.seek(0)
            sys.exit(f"{self.entry.name} failed:\n{self.log.read()[-3000:]}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(row: Row, rounds: int) -> list[dict]:
    """Every entry's figures: medians over rounds in turns, and the median of the ratios within a round."""
    workers = [Worker(entry, row.one_core) for entry in row.entries if not entry.missing()]
    try:
        for worker in workers:
            worker.round()  # Compiles, and warms up.
            worker.round()
        seconds: dict[str, list[float]] = {worker.entry.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                seconds[worker.entry.name].append(worker.round() / worker.entry.units)
    finally:
        for worker in workers:
            worker.close()
    results = []
    first = seconds.get(row.entries[0].name)
    for entry in row.entries:
        mine = seconds.get(entry.name)
        if mine is None or first is None:
            results.append({"name": entry.name, "label": entry.label, "installed": False})
            continue
        figures = [row.figure(one, 1) for one in mine]
        results.append(
            {
                "name": entry.name,
                "label": entry.label,
                "installed": True,
                "median": statistics.median(figures),
                "seconds": statistics.median(mine),
                "low": min(figures),
                "high": max(figures),
                "ratio": statistics.median(other / own for own, other in zip(first, mine, strict=True)),
                "goal_ratio": row.goals.get(entry.name),
                "goal": row.goal if entry is row.entries[0] else None,
            }
        )
    return results


# What a process does from its start is measured from outside.

FIRST_STEP = """
import os, sys, time
from jaxlm.cli import programs
from jaxlm.cli.terminal import Terminal

def step(self, step, loss):
    print("first step", time.time(), flush=True)
    os._exit(0)

Terminal.step = step
sys.argv[0] = "train.py"
programs.train()
"""

NO_OP = "import jax; jax.jit(lambda x: x + 1)(1.0).block_until_ready()"


def peak_mb(command: list[str], stop_after: float | None = None) -> float:
    """The most memory that a command had, in MB."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if stop_after is not None:
        time.sleep(stop_after)
        process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (0 if stop_after is None else 128 + signal.SIGTERM):
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def start_up(rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of each command, second run onwards, and the memory that training takes."""
    found: dict[str, list[float]] = {"first character": [], "400 characters": [], "first step": [], "memory": []}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text(random_text())
        train = ["--corpus", str(corpus), "--checkpoints", f"{folder}/runs"]
        # A run to generate with: half a minute of training.
        subprocess.run(
            [sys.executable, "train.py", *train, "--run", "run", "--epochs", "1", "--stride", "30"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        for number in range(rounds + 1):
            began = time.time()
            process = subprocess.Popen(
                [sys.executable, "sample.py", "--checkpoints", f"{folder}/runs", "--run", "run"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdout
            process.stdout.read(T + 1)  # The seed text, and the first character after it.
            first = time.time() - began
            process.stdout.read()
            process.wait()
            total = time.time() - began
            began = time.time()
            done = subprocess.run(
                [sys.executable, "-c", FIRST_STEP, *train], cwd=ROOT, check=True, capture_output=True, text=True
            )
            step = float(done.stdout.split()[-1]) - began
            used = peak_mb([sys.executable, "train.py", *train], 12) - peak_mb([sys.executable, "-c", NO_OP])
            if number:  # The first run compiles.
                for name, value in zip(found, (first, total, step, used), strict=True):
                    found[name].append(value)
    return found


START_UP = {
    "first character": ("`python sample.py`, process start to first character", "s", 2.5),
    "400 characters": ("`python sample.py`, process start to end, 400 characters", "s", 3.0),
    "first step": ("`python train.py`, process start to first step done", "s", 5.0),
    "memory": ("Peak memory of training, above `import jax` and a jitted no-op", "MB", 150.0),
}


def machine() -> dict[str, str]:
    """The machine and the versions that were measured."""
    import jax

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        wide = "AVX-512" if "avx512f" in facts.get("flags", "") else "AVX2" if "avx2" in facts.get("flags", "") else ""
        family = f"family {facts.get('cpu family')} model {facts.get('model')}"
        model = f"{facts.get('model name', model)} ({family}{', ' * bool(wide)}{wide})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = [
        "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "keras", "tensorflow", "torch",
    ]  # fmt: skip
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "processor": f"{cores} cores of {model}, {platform.system()}",
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        **versions,
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def met(value: float, goal: float, *, at_most: bool) -> str:
    return "met" if (value <= goal if at_most else value >= goal) else "not met"


def lines(results: dict) -> list[tuple[str, str, str, str, str]]:
    """The table: what, who, figure, jaxlm's advantage, goal."""
    table = []
    for key, entries in results["rows"].items():
        row = ROWS[key]
        for entry in entries:
            what = row.title if entry is entries[0] else ""
            if not entry["installed"]:
                table.append((what, entry["label"], "not installed", "", ""))
                continue
            figure = f"{entry['median']:,.{1 if entry['median'] < 1000 else 0}f} {row.unit}"
            figure += f" ({entry['low']:,.0f} - {entry['high']:,.0f})"
            ratio, goal = "", ""
            if work := FLOORS.get(entry["name"]):
                rate = work / entry["seconds"]
                ratio = f"{entry['ratio']:.0%} of jaxlm's step ({rate:.0f} GFLOP/s)"
                if wanted := entry["goal_ratio"]:
                    goal = f"{wanted:.0%}: {met(entry['ratio'], wanted, at_most=False)}"
            elif row.shares and entry is not entries[0]:
                share = 1 / entry["ratio"]
                ratio = f"{share:.0%} of the speed with {entries[0]['label']}"
                if wanted := entry["goal_ratio"]:
                    goal = f"{wanted:.0%}: {met(share, wanted, at_most=False)}"
            elif entry is not entries[0]:
                ratio = f"{entry['ratio']:,.{2 if entry['ratio'] < 100 else 0}f}x"
                if wanted := entry["goal_ratio"]:
                    goal = f"{wanted:,g}x: {met(entry['ratio'], wanted, at_most=False)}"
            elif entry["goal"]:
                goal = f"{entry['goal']:,}: {met(entry['median'], entry['goal'], at_most=False)}"
            table.append((what, entry["label"], figure, ratio, goal))
    for name, values in results["start_up"].items():
        title, unit, wanted = START_UP[name]
        middle = statistics.median(values)
        figure = f"{middle:,.{2 if unit == 's' else 0}f} {unit} ({min(values):,.2f} - {max(values):,.2f})"
        table.append((title, "jaxlm", figure, "", f"{wanted:g} {unit}: {met(middle, wanted, at_most=True)}"))
    return table


HEADER = ("What", "Who", "Median (lowest - highest)", "jaxlm is faster by", "Goal")


def show(results: dict) -> None:
    table = Table(*HEADER)
    for line in lines(results):
        table.add_row(*line)
    Console(width=170).print(table)


def markdown(results: dict) -> str:
    facts = results["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in list(facts.items())[2:-2])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in (HEADER, ("---",) * len(HEADER), *lines(results)))
    return (
        f"Measured on {facts['date']} at commit `{facts['commit']}` with `python -m benchmarks`: {facts['processor']}; "
        f"JAX's device {facts['device']}; {versions}.\n\n{rows}\n"
    )


def main() -> None:
    """Measures jaxlm and its peers in turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    rows = [*ROWS, "start"]
    parser.add_argument(
        "--only", nargs="+", choices=rows, metavar="ROW", help=f"measure and only print some of {', '.join(rows)}"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default: %(default)s)")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    results = {"machine": machine(), "characters": CHARACTERS, "rows": {}, "start_up": {}}
    for key in arguments.only or rows:
        print(f"... {key}", file=sys.stderr, flush=True)
        if key == "start":
            results["start_up"] = start_up(max(3, rounds // 2))
        else:
            results["rows"][key] = measure(ROWS[key], rounds)
    show(results)
    if arguments.only:
        return
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    path = HERE / "RESULTS.md"
    notes = path.read_text().partition(MARK)[2] if path.exists() else "\n"
    path.write_text(f"# Results\n\n{markdown(results)}\n{MARK}{notes}")


MARK = "<!-- What follows is written by hand. -->"


if __name__ == "__main__":
    main()
