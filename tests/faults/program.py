"""The commands as processes, and what may become of them under a fault.

`run("train.py fox.txt --run r")` is what the shell would do, in about half a second; see `zygote`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import jaxlm

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs! " * 8


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens at a file operation below a folder, counted from 1.

    Attributes:
      mode: `kill`: the process is killed before it; `torn`: after the first half of it, if it is a write; `fail`: it
        fails; `fail from`: so do all after it; `record`: nothing, but the log has copies of what is flushed.
      at: which operation.
      number: the errno of one that fails; operations that cannot fail so do not.
    """

    mode: str
    at: int = 0
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of a log: a file operation, or a line of output (`told`), that succeeded.

    Attributes:
      number: counts the operations, `told` ones not included.
      kind: its name in C, without a 64 or an `at`.
      inode: the file's, or that of the new entry.
      paths: its paths, absolute; the text of `told`.
      content: the file's content, at its fsync, if that was to be recorded.
    """

    number: int
    kind: str
    inode: int
    paths: tuple[str, ...]
    content: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
      status: the exit status; negative if a signal killed it.
      out: what it printed on stdout.
      err: what it printed on stderr.
      seconds: how long it took.
      timed_out: whether it had to be killed.
      operations: the file operations that succeeded, if there was a fault.
    """

    status: int
    out: str
    err: str
    seconds: float
    timed_out: bool
    operations: list[Operation]


class Process:
    """A command that was started.

    Attributes:
      pid: its process; also its process group.
      log: the folder with the log of its file operations, and the copies of what was flushed.
    """

    def __init__(self, request, folder):
        self._began = time.monotonic()
        self._folder, self._out, self._err = folder, Path(request["out"]), Path(request["err"])
        self.log = Path(folder.name)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(zygote().address)
        self._socket.sendall(f"{json.dumps(request)}\n".encode())
        self.pid = self._number()

    def _number(self):
        """The next number that the zygote sends, on a line; what follows it, of a command that ended at once, stays."""
        sent = b""
        while not sent.endswith(b"\n"):
            byte = self._socket.recv(1)
            assert byte, "the zygote has ended"
            sent += byte
        return int(sent)

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def out(self):
        return _text(self._out)

    @property
    def err(self):
        return _text(self._err)

    def until(self, text, timeout=30):
        """Waits until it has printed a text."""
        end = time.monotonic() + timeout
        while text not in self.out + self.err:
            assert time.monotonic() < end, f"{text!r} was not printed, but: {self.out}{self.err}"
            time.sleep(0.005)

    def wait(self, timeout=60):
        """Waits for its end; kills it after so many seconds."""
        timed_out = False
        self._socket.settimeout(timeout)
        try:
            status = self._number()
        except TimeoutError:
            timed_out = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._socket.settimeout(10)
            status = self._number()
        seconds = time.monotonic() - self._began
        self._socket.close()
        result = Result(status, self.out, self.err, seconds, timed_out, operations(self.log))
        self._folder.cleanup()
        return result


def start(
    argv,
    *,
    cwd=None,
    env=None,
    fault=None,
    root=None,
    memory=None,
    file_size=None,
    descriptors=None,
    ignored=(),
    out=None,
    err=None,
):
    """Starts a command.

    Args:
      argv: the command: a list, or a line as in a shell; its program is `train.py`, `sample.py`, `jaxlm`, or `python`
        with `-c`.
      cwd: its working directory.
      env: changes of its environment: a dictionary; None removes a variable. JAX's own were read before.
      fault: what happens at its file operations.
      root: the folder below which they count; the working directory if left out.
      memory: its address space at most, in bytes.
      file_size: the size of a file at most, in bytes.
      descriptors: its file descriptors at most.
      ignored: signals that it ignores from the start, as under `nohup`.
      out: the file for stdout, such as /dev/full.
      err: the file for stderr.
    """
    # A TemporaryDirectory, so that a process that nobody waits for leaves nothing either.
    folder = tempfile.TemporaryDirectory(prefix="fault-")
    cwd = os.path.realpath(cwd or os.getcwd())
    wanted = {**zygote().env, **(env or {})}
    limits = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": file_size, "RLIMIT_NOFILE": descriptors}
    request = {
        "argv": shlex.split(argv) if isinstance(argv, str) else [str(argument) for argument in argv],
        "cwd": cwd,
        "env": {name: str(value) for name, value in wanted.items() if value is not None},
        "out": str(out or Path(folder.name) / "out"),
        "err": str(err or Path(folder.name) / "err"),
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "ignored": [int(number) for number in ignored],
        "fault": None,
    }
    if fault:
        place = {"root": os.path.realpath(root or cwd), "log": str(Path(folder.name) / "log")}
        request["fault"] = {**dataclasses.asdict(fault), **place}
    return Process(request, folder)


def run(argv, *, timeout=60, **settings):
    """Starts a command, as `start` does, and waits for its end."""
    return start(argv, **settings).wait(timeout)


class Zygote:
    """The process that commands are forked from.

    Attributes:
      address: where it listens.
      env: the environment of commands, with a cache of compiled programs of their own.
    """

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="faults-")
        folder = Path(self.folder.name)
        self.address = str(folder / "socket")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        preload = shim(folder)
        # XLA reads its level of logging when it is loaded: `guard.quiet` would be too late.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        env = {**self.env, **quiet, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        if preload:
            env["LD_PRELOAD"] = str(preload)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen(64)
            self.process = subprocess.Popen(
                [sys.executable, HERE / "zygote.py", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env=env,
                cwd=folder,
            )

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


@functools.cache
def zygote():
    """This worker's; conftest.py closes it."""
    return Zygote()


COMPILER = shutil.which(os.environ.get("CC", "cc"))


def has_shim():
    """Whether file operations are caught below Python; otherwise only Python's own are, and no writes."""
    return sys.platform == "linux" and COMPILER is not None


def shim(folder):
    """The compiled shim.c, if there is a compiler."""
    if not has_shim():
        return None
    library = folder / "shim.so"
    subprocess.run([COMPILER, "-O1", "-w", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def operations(log):
    """The operations in a log."""
    path = log / "log"
    lines = path.read_text(errors="surrogateescape").split("\n")[:-1] if path.exists() else []
    found = []
    for line in lines:
        number, kind, inode, *paths = line.split("\t")
        copy = log / f"log.{number}"
        content = copy.read_bytes() if kind == "fsync" and copy.exists() else None
        found.append(Operation(int(number), kind, int(inode), tuple(paths), content))
    return found


NOTE = re.compile(
    r".+, (step \d+|epoch \d+ \(best: (validation )?loss [\d.]+\)), seed \d+"
    r"|--- longest span .+|Written: .+|.+, as a page of [\d.]+ MB: .+"
)
"""What a command says of its work on stderr."""


def verdict(result):
    """What a command's end was: `right`; right, but `warned`; or one `line` that says what is wrong.

    Raises:
      AssertionError: it was none of these.
    """
    shown = f"status {result.status}: {(result.err or result.out)[-1500:]}"
    assert not result.timed_out, f"hung for {result.seconds:.0f} s: {shown}"
    lines = [line for line in result.err.splitlines() if not NOTE.fullmatch(line)]
    errors = [line for line in lines if line.startswith("error: ")]
    warned = [line for line in lines if line.startswith("warning: ")]
    assert len(errors) + len(warned) == len(lines), shown
    assert "Traceback" not in result.out, shown
    if result.status == 0:
        assert not errors, shown
        return "warned" if warned else "right"
    # A signal needs no line: whoever sent it knows.
    least = 1 if result.status in (1, 2) else 0
    assert result.status in (1, 2, 129, 130, 138, 140, 141, 143, 152), shown
    assert least <= len(errors) <= 1, shown
    return "line"


WATCHED = "--temperature 0.5 --sample-length 6"

SMALL = f"train.py fox.txt --hidden 8 --batch 16 {WATCHED} --run run"

TRAININGS = {
    "book": f"{SMALL} --epochs 3 --length 10",
    "stream": f"{SMALL} --recipe stream --epochs 2 --length 10 --validation 0.2 --ngram 3",
    # The weights grow by 7.3 times their size in a step, then by 1.08 times; then they shrink. So epoch 1 diverges at
    # once; after a cut, epoch 2 is worse than 1, and 3 diverges; after another, all is well.
    "started": f"{SMALL} --start-from ./old --epochs 2 --learning-rate 0.001",
    "diverging": f"{SMALL} --epochs 3 --length 10 --optimizer adam --learning-rate 0.05 --weight-decay 166",
}
"""Commands that train the run RUN in about a second."""

RUN = "checkpoints/run"

RESUME = f"train.py --resume {WATCHED} --run run"

SAMPLE = "sample.py --length 20 --seed 1 --run"
"""Generates text with the run whose name follows."""


@contextlib.contextmanager
def workplace():
    """A new folder with the text that the trainings read."""
    with tempfile.TemporaryDirectory(prefix="work-") as name:
        folder = Path(os.path.realpath(name))
        (folder / "fox.txt").write_text(TEXT)
        shutil.copytree(_old(), folder / "old")
        yield folder


_OLD = tempfile.TemporaryDirectory(prefix="old-")


@functools.cache
def _old():
    """A run of weights alone, which a training may start from."""
    folder = Path(os.path.realpath(_OLD.name))
    (folder / "old.txt").write_text("The lazy dog jumps over the quick brown fox. " * 9)
    model = jaxlm.ModelConfig(hidden=8)
    config = dataclasses.replace(jaxlm.BOOK, corpus=(str(folder / "old.txt"),), epochs=1, length=10, model=model)
    jaxlm.train(config, run="old", checkpoints=folder, reporter=None)
    return jaxlm.Run.open(folder / "old").export(folder / "weights").path


@functools.cache
def undisturbed(name):
    """The state and the file operations of a training that nothing happens to."""
    with workplace() as folder:
        result = run(TRAININGS[name], cwd=folder, fault=Fault("record"))
        assert verdict(result) == "right"
        return state(folder / RUN), result.operations


def state(run):
    """What must be the same, bit for bit, of two runs: digests and figures by name."""
    opened = jaxlm.Run.open(run)
    found = {}
    for name, best in (("last", False), ("best", True)):
        values, progress = opened.restore(best=best)
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            leaf = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
        found[name] = digest.hexdigest()[:16]
        found[f"{name} progress"] = dataclasses.asdict(progress)
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    found["samples"] = opened.samples()
    return found


def _text(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""
