"""Random command lines, settings and corpora: each works, or is refused in one line. A trial's number is its seed."""

import gzip
import random
import shlex

import pytest
from program import run, verdict, workplace
from rows import in_parts

TRIALS = range(300)

SMALL = {
    "--hidden": "8", "--batch": "16", "--length": "10", "--epochs": "1", "--temperature": "1", "--sample-length": "20",
}  # fmt: skip
"""Settings of a run that takes a moment."""

RESUME = "train.py --resume --epochs 3 --temperature"

PLACES = ["--run", "--checkpoints", "--resume", "--size", "--encoding"]
"""Flags that are no settings of a model."""

NUMBERS = ["0", "1", "2", "-1", "0.5", "1.5", "1e3", "nan", "inf", "1_0", "0x1", "9" * 50, "٣", ""]

WORDS = [
    "x", "-", "--", "-x", "--no-such", "fox.txt", "no.txt", "run", "checkpoints/run", "no/run", ".", "~", "é", "\udcff",
    "a b", "a=b", "'", '"', "$HOME", "*", "[v1]", "\x1b[2J", "\n", "\\n", "the ", "x" * 300,
]  # fmt: skip

CHOICES = {
    "train": {
        "--recipe": ["book", "stream"], "--size": ["small", "medium"], "--tokens": ["char", "byte", "word"],
        "--optimizer": ["rmsprop", "adam"], "--schedule": ["constant", "cosine"], "--impl": ["auto", "scan", "cudnn"],
        "--encoding": ["utf-8", "cp1252", "utf-16"], "--validation": ["0.1", "0.5"], "--hidden": ["1", "3"],
        "--layers": ["1", "2"], "--embedding": ["0", "5"], "--dropout": ["0.5"], "--output-dropout": ["0.1"],
        "--recurrent-dropout": ["0.1"], "--epochs": ["1", "2"], "--patience": ["1"], "--learning-rate": ["0.1", "30"],
        "--batch": ["1", "7"], "--length": ["1", "9"], "--stride": ["1", "5"], "--seed": ["1"], "--clip": ["0.1"],
        "--weight-decay": ["0.1"], "--average": ["0.9"], "--reset": ["0.5"], "--words": ["5"], "--temperature": ["0"],
        "--sample-length": ["0", "30"], "--run": ["new", "run"], "--checkpoints": ["other"], "--resume": [""],
        "--no-lowercase": [""], "--no-normalize": [""], "--units": ["lines", "files"], "--glob": ["*.txt"],
        "--skip-unreadable": [""], "--notation": ["text", "abc", "midi", "strokes"], "--transpose": ["1", "6"],
        "--ngram": ["0", "3"], "--gates": ["sigmoid", "hard_sigmoid"], "--start-from": ["run", "checkpoints/run"],
        "--precision": ["float32", "bfloat16"],
    },
    "sample": {
        "--prompt": ["the ", "quick"], "--length": ["0", "10"], "--temperature": ["0", "1 2"], "--count": ["1", "3"],
        "--seed": ["1"], "--mode": ["window", "state"], "--unknown": ["error", "skip"], "--impl": ["auto", "scan"],
        "--run": ["run", "checkpoints/run"], "--checkpoints": ["checkpoints"], "-p": ["fox"], "-n": ["2"],
        "--stop": ["o", "o e"], "--keep-stop": [""], "--lines": ["2"], "--mix-ngram": ["0", "3"], "--escapes": [""],
        "--prompt-file": ["fox.txt"], "--top-k": ["1", "5"], "--top-p": ["0.5", "1"], "--min-p": ["0", "0.1"],
        "--no-repeat": ["3"], "-o": ["out.txt"], "--json": [""], "--show-probabilities": [""], "--copied": [""],
        "--epoch": ["1", "best", "last"],
    },
    "write": {
        "--prompt": ["the "], "--prompt-file": ["fox.txt"], "--length": ["10"], "--no-sentences": [""], "--stop": ["o"],
        "--temperature": ["0", "1"], "--seed": ["1"], "--mode": ["window"], "--top-k": ["5"], "--run": ["run"],
    },
    "evaluate": {
        "--corpus": ["fox.txt"], "--encoding": ["utf-8"], "--protocol": ["carried", "cold-256", "window-60"],
        "--dynamic": [""], "--baseline": ["ngram"], "--unknown": ["skip"], "--impl": ["scan"], "--run": ["run"],
        "--mix-ngram": ["3"],
    },
    "plot": {
        "--run": ["run", "run run"], "--checkpoints": ["checkpoints"], "--by": ["epoch", "seconds", "temperature"],
        "-o": ["out.svg", "out.png", "out.txt"],
    },
    "page": {"--run": ["run"], "--checkpoints": ["checkpoints"], "-o": ["out.html"], "--float32": [""]},
    "export": {"--run": ["run"], "--destination": ["out", "out.safetensors", "out.keras", "run", "no/out"]},
    "import": {
        "--file": ["fox.txt", "no.keras", "run"], "--chars": ["fox.txt"], "--corpus": ["fox.txt"], "--run": ["new"],
        "--gates": ["hard_sigmoid"], "--length": ["5"],
    },
    "runs": {"--json": [""], "--checkpoints": ["checkpoints", "no"], "--help": [""]},
}  # fmt: skip
"""For each command, its flags and plausible values."""


@pytest.fixture(scope="module")
def place():
    """A workplace with a run."""
    with workplace() as place:
        assert verdict(run(["train.py", "fox.txt", "--run", "run", *spelled(SMALL)], cwd=place)) == "right"
        yield place


def shown(argv, result):
    """The verdict; where it is wrong, the error names the command."""
    try:
        return verdict(result)
    except AssertionError as error:
        raise AssertionError(f"{shlex.join(argv)}: {error}") from None


def goes_on(argv, place):
    """Trains; returns the verdict. What was trained must work with the other commands."""
    found = shown(argv, run(argv, cwd=place))
    if found != "line":
        for command in (f"jaxlm evaluate --corpus {argv[1]}", "sample.py --length 20", RESUME):
            result = run(command, cwd=place)
            assert shown(argv, result) != "line", f"{shlex.join(argv)}, then {command}: {result.err}"
    return found


@in_parts
def test_command_lines(row, place):
    """A random command line"""

    def trial(seed):
        source = random.Random(seed)
        choice = source.choice
        command = choice(list(CHOICES))
        known = CHOICES[command if choice(range(8)) else choice(list(CHOICES))]
        flags = {flag: choice(known[flag]) for flag in source.sample(list(known), choice(range(5)) % len(known))}
        if flags and choice(range(2)):
            flags[choice(list(flags))] = choice([*NUMBERS, *WORDS])
        if command == "train":
            flags = {**SMALL, **flags}
        argv = ["jaxlm", command, *["fox.txt"] * (command == "train" and "--resume" not in flags)]
        for flag, value in flags.items():
            argv += choice([[flag, *value.split()], [flag, value] if value else [flag], [f"{flag}={value}"]])
        if choice(range(5)) == 0:
            argv.insert(choice(range(len(argv))) + 1, choice([*NUMBERS, *WORDS]))
        return shown(argv, run(argv, cwd=place))

    row.run(TRIALS, trial)


@in_parts
def test_settings(row):
    """Random settings: trained, evaluated, sampled, resumed"""

    def trial(seed):
        source = random.Random(seed)
        known = {flag: values for flag, values in CHOICES["train"].items() if flag not in PLACES}
        chosen = {flag: source.choice(known[flag]) for flag in source.sample(list(known), source.randrange(1, 5))}
        with workplace() as place:
            return goes_on(["train.py", "fox.txt", *spelled({**SMALL, **chosen})], place)

    row.run(TRIALS, trial)


PIECES = [
    "the quick brown fox ", "Pack my box! ", "0123456789 ", "\n", "\r\n", "\r", "\t", " ", "\0", "\x1b[2J", "\x07\x08",
    "\u00e9\u00fc\u00df ", "e\u0301 ", "\u4e66\u9053\u5bb6", "\ud55c\uad6d\uc5b4 ", "\u0627\u0644\u0639 ",
    "\u202e", "\u200b", "\U0001f600\U0001f468\u200d\U0001f469", "\ufeff", "\ufffd", "\x85\u2028", "<html>",
    '{"a": [1]}', "a" * 500,
]  # fmt: skip
"""What corpora consist of."""

ENCODINGS = ["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "gb18030", "cp949", "shift_jis"]


@in_parts
def test_corpora(row):
    """An odd corpus: trained on, evaluated, sampled, resumed"""

    def trial(seed):
        source = random.Random(seed)
        choice = source.choice
        pieces = source.sample(PIECES, choice([1, 2, 5, 10]))
        text = "".join(choice(pieces) for _ in range(choice([0, 1, 3, 30, 300, 3000])))
        data = source.randbytes(len(text)) if choice(range(8)) == 0 else text.encode(choice(ENCODINGS), "replace")
        data = gzip.compress(data) if choice(range(20)) == 0 else data[: len(data) - choice([0, 0, 0, 1])]
        flags = choice([{}, {"--stride": "1"}, {"--recipe": "stream"}, {"--validation": "0.2"}, {"--no-lowercase": ""}])
        flags |= {"--tokens": choice(CHOICES["train"]["--tokens"])}
        with workplace() as place:
            (place / "odd.txt").write_bytes(data)
            return goes_on(["train.py", "odd.txt", *spelled({**SMALL, **flags})], place)

    row.run(TRIALS, trial)


def spelled(flags):
    return [word for flag, value in flags.items() for word in (flag, *value.split())]
