"""The time of a save, as training calls it, for each size of the stream recipe.

python benchmarks/saving.py                  # this tree
python benchmarks/saving.py --against PATH   # and another, in turns
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

EPOCH_SECONDS = 10.0
"""Of which a save may take a twentieth."""


def work(size: str, folder: str) -> None:
    """Trains a run of one step per epoch, and does one save for each line of its input.

    It first answers with the number of parameters, then with the seconds of each save. It uses only what trees before
    0.1.0 have, too.
    """
    import jax

    import jaxlm

    try:
        from jaxlm.runs.storage import Saver
    except ModuleNotFoundError:
        from jaxlm.checkpoint import Writer as Saver

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    save = Saver.save

    def timed(self, state, progress) -> None:
        if progress.epoch == 1:
            items = state if isinstance(state, dict) else {"params": state.weights}
            print(sum(leaf.size for leaf in jax.tree.leaves(items["params"])), file=answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        began = time.perf_counter()
        save(self, state, progress)
        print(time.perf_counter() - began, file=answers, flush=True)

    Saver.save = timed
    config = jaxlm.STREAM[size]
    corpus = Path(folder) / "corpus.txt"
    corpus.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    length = len(corpus.read_text()) // config.batch
    # Steps are short, but what is saved is as large as ever.
    short = {"length": length, "learning_rate": 1e-9, "epochs": 10**6, "validation": 0.0, "patience": None}
    jaxlm.train(dataclasses.replace(config, corpus=(str(corpus),), **short), run="run", checkpoints=folder)


class Worker:
    """A tree's process, which saves when asked."""

    def __init__(self, tree: Path, size: str, folder: str) -> None:
        self.tree = tree
        self.folder = tempfile.TemporaryDirectory(dir=folder)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", size, self.folder.name],
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.parameters = int(self._read())

    def save(self) -> float:
        """The seconds of the next save."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def _read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.tree}: the run ended")
        return line


def measure(size: str, trees: list[Path], rounds: int, folder: str) -> tuple[int, list[list[float]]]:
    """The number of parameters, and the seconds of each tree's saves, taken in turns."""
    workers = [Worker(tree, size, folder) for tree in trees]
    try:
        for worker in workers * 3:  # From the third on, a save deletes an earlier checkpoint.
            worker.save()
        seconds = [[worker.save() for worker in workers] for _ in range(rounds)]
        return workers[0].parameters, [list(tree) for tree in zip(*seconds, strict=True)]
    finally:
        for worker in workers:
            worker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="PATH", help="another tree of jaxlm, to compare with")
    parser.add_argument("--rounds", type=int, default=21, help="saves of each (default: %(default)s)")
    parser.add_argument("--folder", default=".", help="where to save, on the disk to measure (default: this folder)")
    parser.add_argument("--work", nargs=2, metavar=("SIZE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    trees = [ROOT] if arguments.against is None else [ROOT, arguments.against.resolve()]
    print(f"{'Size':8}{'Parameters':>12}{'Median':>11}{'of 10 s':>9}{'Before':>11}{'Ratio':>8}   (lowest - highest)")
    for size in ("small", "medium", "large"):
        parameters, (ours, *others) = measure(size, trees, arguments.rounds, arguments.folder)
        middle = statistics.median(ours)
        line = f"{size:8}{parameters:>12,}{middle * 1e3:>8.0f} ms{middle / EPOCH_SECONDS:>9.1%}"
        for other in others:
            ratio = statistics.median(one / two for one, two in zip(ours, other, strict=True))
            line += f"{statistics.median(other) * 1e3:>8.0f} ms{ratio:>8.2f}"
        spans = [f"{min(some) * 1e3:.0f} - {max(some) * 1e3:.0f} ms" for some in (ours, *others)]
        print(f"{line:59}   ({'; '.join(spans)})", flush=True)


if __name__ == "__main__":
    main()
