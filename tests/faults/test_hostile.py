"""Runs that a stranger has made, with every seal right: each command answers in bounded time and memory, and changes
nothing outside the run.
"""

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import tensorstore
from program import RESUME, RUN, SAMPLE, TRAININGS, run, verdict, workplace
from rows import in_parts

from jaxlm.runs.files import digest

COMMANDS = {
    "sample": f"{SAMPLE} run",
    "evaluate": "jaxlm evaluate --run run --corpus fox.txt",
    "resume": f"{RESUME} --epochs 4",
    "runs": "jaxlm runs",
}

LIMITS = {"timeout": 25, "memory": 8 * 2**30, "file_size": 2**30}
"""What a command may take: seconds, and bytes of address space and of a file that it writes."""

NESTED = "[" * 100_000 + "]" * 100_000


class Hostile:
    """A copy of a run with one checkpoint, to be changed; what is changed is sealed anew.

    Attributes:
      outside: a folder with files that are nobody's business.
      path: the run's directory.
      step: its checkpoint's.
    """

    def __init__(self, place):
        self.outside, self.path = place / "outside", place / RUN
        [self.step] = self.path.glob("[0-9]*")
        (self.outside / "folder" / "inner").mkdir(parents=True)
        for name in ("file", "folder/file", "folder/inner/metrics.jsonl", "folder/inner/.progress.json.tmp"):
            (self.outside / name).write_text("precious")

    def config(self, *, model=None, settings=None, **values):
        """Changes values of config.json, of its settings, and of those of the model."""
        path = self.path / "config.json"
        found = json.loads(path.read_text())
        found.update(values)
        if settings:
            found["config"].update(settings)
        if model:
            found["config"]["model"].update(model)
        found.pop("seal")
        vocab = self.path / "vocab.json"
        if "vocab" not in values and vocab.is_file():
            found["vocab"] = digest(json.loads(vocab.read_text()))
        path.write_text(json.dumps({**found, "seal": digest(found)}))

    def vocab(self, values):
        """Replaces the vocabulary."""
        (self.path / "vocab.json").write_text(json.dumps(values))
        self.config()

    def progress(self, drop=(), **values):
        """Changes values of progress.json."""
        path = self.step / "progress.json"
        found = json.loads(path.read_text())
        found.pop("sha256")
        found.update(values)
        for name in drop:
            del found[name]
        path.write_text(json.dumps({**found, "sha256": digest(found)}))

    def seal(self):
        """Takes the digests of the checkpoint's files anew."""
        files = [file for file in self.step.rglob("*") if file.is_file() and file.name != "progress.json"]
        sha256 = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.stat().st_size < 2**28}
        self.progress(files={file.relative_to(self.step).as_posix(): sha256.get(file, "0") for file in files})

    def listed(self, name, sha256="0"):
        """Adds a name to the checkpoint's files."""
        files = json.loads((self.step / "progress.json").read_text())["files"]
        self.progress(files={**files, name: sha256})

    def array(self, name, item="params", **values):
        """Changes what the checkpoint says of an array."""
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{self.step}/{item}/"}).result()
        key = f"{name}/.zarray".encode()
        found = json.loads(store.read(key).result().value)
        store.write(key, json.dumps({**found, **values}).encode()).result()
        self.seal()

    def instead(self, name, make):
        """Puts something else in the place of a file of the run, or of its checkpoint if the name begins with STEP."""
        path = self.file(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    def file(self, name):
        """A file of the run; STEP stands for its checkpoint, DATA for its largest file of arrays."""
        if name == "DATA":
            return max(self.step.glob("params/d/*"), key=lambda path: path.stat().st_size)
        return self.path / name.replace("STEP", self.step.name)

    def edit(self, name, old, new):
        """Replaces part of a file."""
        text = self.file(name).read_text()
        assert old in text
        self.text(name, text.replace(old, new))

    def text(self, name, text):
        """Writes a file, and seals what can be sealed."""
        self.file(name).write_text(text)
        if name.startswith("STEP/") and not name.endswith("progress.json"):
            self.seal()


FILES = [
    "config.json", "vocab.json", "metrics.jsonl", ".lock", "STEP/progress.json", "STEP/metrics.jsonl",
    "STEP/_CHECKPOINT_METADATA", "STEP/params/_METADATA", "STEP/params/manifest.ocdbt", "DATA",
    "STEP/training/_METADATA", "samples.jsonl", "STEP/samples.jsonl",
]  # fmt: skip

TEXTS = [name for name in FILES if name not in (".lock", "STEP/params/manifest.ocdbt", "DATA")]


def pipe(path):
    os.mkfifo(path)


def bound(path):
    """Makes a socket."""
    here = os.getcwd()
    os.chdir(path.parent)  # The name of a socket is short.
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(3 * 2**30)


def link(target):
    return lambda path: path.symlink_to(target)


def planted(name, target):
    """A link to a file or a folder outside, at a name that jaxlm may use."""

    def make(hostile):
        path = hostile.file(name)
        if os.path.lexists(path):
            path.unlink()
        path.symlink_to(hostile.outside / target)

    return make


def moved(item):
    """A folder of the checkpoint that is a link to a good copy of it outside."""

    def make(hostile):
        target = shutil.move(hostile.step / item, hostile.outside / "folder")
        (hostile.step / item).symlink_to(target)

    return make


def unmerged(make):
    """As a version before 0.1.0 left checkpoints, with something in a folder that need not be read."""

    def change(hostile):
        hostile.file("STEP/params/manifest.ocdbt").unlink()
        make(hostile.step / "training" / "planted")
        hostile.seal()

    return change


def many(count, name):
    def make(hostile):
        for number in range(count):
            (hostile.path / name.format(number)).mkdir()

    return make


KINDS = {
    **{f"{name}: a pipe": lambda run, name=name: run.instead(name, pipe) for name in FILES},
    **{f"{name}: /dev/zero": lambda run, name=name: run.instead(name, link("/dev/zero")) for name in FILES},
    **{f"{name}: 3 GB": lambda run, name=name: run.instead(name, sparse) for name in FILES},
    **{f"{name}: nested": lambda run, name=name: run.text(name, NESTED) for name in TEXTS},
    ".lock: a folder": lambda run: run.instead(".lock", os.mkdir),
    "config.json: a socket": lambda run: run.instead("config.json", bound),
    "STEP/progress.json: a socket": lambda run: run.instead("STEP/progress.json", bound),
    # Names that progress.json lists.
    **{
        f"listed: {name[:30]!r}": lambda run, name=name: run.listed(name)
        for name in (
            "/dev/zero", "/etc/passwd", "../config.json", "../../../outside/file", "params/../../../outside/file",
            "params//d", "./params/d", "", ".", "..", "a\0b", "C:\\x", "params", "\ud800", "x" * 300,
            "params/" + "x/" * 5000,
        )
    },
    "listed: no digest": lambda run: run.listed("params/_METADATA", None),
    "listed: a list": lambda run: run.listed("params/_METADATA", ["0"]),
    "listed: a nested digest": lambda run: run.progress(files={"params/_METADATA": json.loads("[" * 400 + "]" * 400)}),
    "listed: a million": lambda run: run.progress(files={f"params/{number}": "0" for number in range(10**6)}),
    "files: none": lambda run: run.progress(files={}),
    "files: null": lambda run: run.progress(files=None),
    # Values of progress.json.
    **{
        f"progress: {name} {str(value)[:20]!r}": lambda run, name=name, value=value: run.progress(**{name: value})
        for name, values in {
            "step": ("abc", -5, 2.0**70, True, None, [], 8.0),
            "epoch": (-5, 2**63, "2", 1.5, None, 10**400),
            "nats": ("x", float("nan"), float("inf"), -1e308, None, 10**400),
            "count": (-1, 0, "x", 10**30),
            "loss": ("abc", float("nan"), -float("inf"), [], 10**400),
            "validation": ({}, float("nan"), "x"),
            "cuts": (-1000, 10**9, 99, "x", float("nan")),
            "run": (None, 5, [], "2000"),
            "stranger": (1,),
        }.items()
        for value in values
    },
    **{
        f"progress: no {name}": lambda run, name=name: run.progress(drop=[name])
        for name in ("step", "run", "files", "cuts")
    },
    # Values of config.json.
    **{
        f"config: {name} {str(value)[:20]!r}": lambda run, name=name, value=value: run.config(**{name: value})
        for name, values in {
            "format": (0, 1, 3, "2", True, None, 2.0, 10**400),
            "jaxlm": (None, "\x1b[2J"),
            "corpus": (None, "\x1b]0;title\a"),
            "characters": (-1, "x", 10**400, None),
            "sha256": ("0", None, []),
            "seed_text": (None, "", "never \0 seen \ud800"),
            "created": ("", None, "\ud800"),
            "vocab": (None, "0"),
            "config": (None, [], {}, "x"),
        }.items()
        for value in values
    },
    **{
        f"settings: {name} {str(value)[:20]!r}": lambda run, name=name, value=value: run.config(settings={name: value})
        for name, values in {
            "corpus": ([], ["/"], ["/dev/zero"], ["/proc/self/mem"], ["/proc"], ["/etc/passwd"], ["\0"], None),
            "encoding": ("idna", "rot13", "undefined", "\0", 5),
            "recipe": ("evil", None, "book"),
            "batch": (2**20, 0, -1, 1.5, None),
            "length": (2**20, 2**14, 0, 10**400),
            "stride": (2**60, 1),
            "epochs": (2**60, 1, 0, float("nan")),
            "learning_rate": (float("nan"), 1e308, 0.0, "x"),
            "validation": (0.999999, 1.0, float("nan")),
            "words": (2**60, 0),
            "tokens": ("byte", "word", None),
            "seed": (-1, 2**64, 0.5),
            "optimizer": ("evil", None),
            "average": (1.0, 0.5, float("nan")),
            "clip": (1e-300, float("inf")),
            "impl": ("cudnn", "evil"),
            "model": (None, [], {}),
            "stranger": (1,),
        }.items()
        for value in values
    },
    **{
        f"model: {values}": lambda run, values=values: run.config(model=values)
        for values in (
            {"layers": 1024}, {"layers": 64}, {"layers": 0}, {"hidden": 2**30}, {"hidden": 2**16}, {"hidden": 9},
            {"hidden": 2**16, "layers": 64}, {"embedding": 2**16}, {"embedding": 0}, {"embedding": -1},
            {"dropout": float("nan")}, {"dropout": 0.999999}, {"recurrent_dropout": 1.0},
        )
    },
    "config: 12 MB of seed text": lambda run: run.config(seed_text="the " * 3_000_000),
    "config: 12 MB of a name": lambda run: run.config(corpus="a" * 12_000_000),
    "config: 12 MB of a corpus": lambda run: run.config(settings={"corpus": ["a" * 12_000_000]}),
    "config: 12 MB of a date": lambda run: run.config(created="9" * 12_000_000),
    # The vocabulary.
    "vocab: 2**17 letters": lambda run: run.vocab({"kind": "char", "tokens": [chr(32 + i) for i in range(2**16)] * 2}),
    "vocab: 60 MB of them": lambda run: run.vocab({"kind": "char", "tokens": ["a"] * 12_000_000}),
    **{
        f"vocab: {str(values)[:40]}": lambda run, values=values: run.vocab(values)
        for values in (
            None, [], {}, 5, "abc", {"kind": "evil", "tokens": ["a"]}, {"kind": "char", "tokens": []},
            {"kind": "char", "tokens": ["a", "a"]}, {"kind": "char", "tokens": [1, 2]},
            {"kind": "char", "tokens": [[]]},
            {"kind": "char", "tokens": ["\ud800", "a"]}, {"kind": "char", "tokens": ["ab", ""]},
            {"kind": "char", "tokens": "abc"}, {"kind": "byte", "tokens": list(range(256))},
            {"kind": "word", "tokens": [None]},
        )
    },
    # What the checkpoint says of its arrays.
    **{
        f"array: {str(values)[:50]}": lambda run, values=values: run.array("dense.kernel", **values)
        for values in (
            {"shape": [2**40, 31]}, {"shape": [2**20, 2**20], "chunks": [2**20, 2**20]}, {"chunks": [2**40, 2**20]},
            {"chunks": [2**15, 2**14]}, {"chunks": [1, 1]}, {"chunks": [0, 1]}, {"shape": [-1, 31]}, {"shape": []},
            {"shape": [8, 31, 1]}, {"dtype": "<f8"}, {"dtype": "|O"}, {"dtype": "<U4"}, {"dtype": [["a", "<f4"]]},
            {"compressor": None}, {"compressor": {"id": "evil"}}, {"compressor": {"id": "zlib", "level": 1}},
            {"fill_value": "NaN"}, {"fill_value": 1e400}, {"order": "F"}, {"filters": [{"id": "evil"}]},
            {"zarr_format": 3}, {"dimension_separator": "/"},
        )
    },
    "array: a giant key": lambda run: run.array("key", "training", shape=[2**40], chunks=[2**40]),
    "array: a wide key": lambda run: run.array("key", "training", shape=[4], chunks=[4]),
    "array: a giant state": lambda run: run.array("opt_state.1.0.mu.dense.kernel", "training", shape=[2**40, 2**20]),
    "arrays: elsewhere": lambda run: run.edit("STEP/params/_METADATA", "dense", "../../../../outside/file"),
    "arrays: no OCDBT": lambda run: run.edit("STEP/params/_METADATA", '"use_ocdbt": true', '"use_ocdbt": false'),
    "arrays: zarr 3": lambda run: run.edit("STEP/params/_METADATA", '"use_zarr3": false', '"use_zarr3": true'),
    # What links to a folder or a file outside, where jaxlm writes, renames or deletes.
    **{
        f"planted: {name} -> {target}": planted(name, target)
        for name in (
            ".config.json.tmp", ".metrics.jsonl.tmp", ".vocab.json.tmp", "STEP/.progress.json.tmp", ".lock",
            "metrics.jsonl", "samples.jsonl", "config.json", "damaged-metrics.jsonl", ".saving-12", ".saving-16",
            ".deleted-8", ".deleted-4", "damaged-12", "12", "16", "12.orbax-checkpoint-tmp", ".new-0",
        )
        for target in ("file", "folder", "new")
    },
    **{f"moved: {item}": moved(item) for item in ("params", "training", "params/d", "params/ocdbt.process_0")},
    "before 0.1.0, with /dev/zero": unmerged(link("/dev/zero")),
    "before 0.1.0, with a pipe": unmerged(pipe),
    "before 0.1.0, with 3 GB": unmerged(sparse),
    # Many.
    "20,000 steps": many(20_000, "{}0000"),
    "20,000 set aside": many(20_000, "damaged-{}"),
    "20,000 strays": many(20_000, ".deleted-{}"),
    "a step of 400 digits": many(1, "9" * 200),
    "steps in other digits": many(1, "\u0661\u0662"),
    "200 MB of metrics": lambda run: run.text("metrics.jsonl", '{"step": 1}\n' * (200 * 2**20 // 12)),
    "200 MB of a line": lambda run: run.text("metrics.jsonl", "1" * 200 * 2**20),
    "a line without an end": lambda run: run.text("metrics.jsonl", '{"step": 1e999}\n{"step": 1'),
    "a line of numbers": lambda run: run.text("metrics.jsonl", '{"step": ' + "9" * 5000 + "}\n"),
    "a file that Orbax knows": lambda run: run.text("STEP/params/checkpoint", "x"),
}  # fmt: skip


@pytest.fixture(scope="session")
def benign(tmp_path_factory):
    """The directory of a run with one checkpoint."""
    path = tmp_path_factory.mktemp("benign") / "run"
    with workplace() as place:
        assert verdict(run(TRAININGS["stream"], cwd=place)) == "right"
        shutil.copytree(place / RUN, path)
    shutil.rmtree(min(path.glob("[0-9]*"), key=lambda step: int(step.name)))
    return path


def contents(folder):
    """What is in a folder, in detail; links are not followed."""
    paths = [Path(place) / name for place, folders, files in os.walk(folder) for name in folders + files]
    return {path: (status.st_mode, status.st_size, status.st_mtime_ns) for path in paths for status in [path.lstat()]}


@pytest.mark.parametrize("command", COMMANDS)
@in_parts
def test_a_strangers_run(row, benign, command):
    """A stranger's run, then sample, evaluate, --resume or runs"""

    row.run(KINDS, lambda kind: survives(benign, kind, command))


def survives(benign, kind, command):
    """The verdict of a command on a copy of a run that a stranger has changed."""
    with workplace() as place:
        shutil.copytree(benign, place / RUN)
        hostile = Hostile(place)
        KINDS[kind](hostile)
        before = contents(place)
        found = verdict(run(COMMANDS[command], cwd=place, **LIMITS))
        changed = {path for path, _ in contents(place).items() ^ before.items()}
        if command == "resume":
            changed = {path for path in changed if not path.is_relative_to(hostile.path)}
        assert not changed, f"changed: {sorted(map(str, changed))[:5]}"
        assert found != "right" or command != "resume" or not kind.startswith("moved"), "followed a link"
        return found
