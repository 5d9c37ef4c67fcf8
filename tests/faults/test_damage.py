"""Any file of a run, damaged in any way: what is generated, measured and trained is right, or the damage is told."""

import contextlib
import logging
import os
import random
import shutil

import pytest
from helpers import assert_same, contents
from program import RESUME, RUN, SAMPLE, TRAININGS, run, state, verdict, workplace
from rows import in_parts

from jaxlm.errors import InputError
from jaxlm.runs.run import Run

COMMANDS = {
    "sample": f"{SAMPLE} run",
    "evaluate": "jaxlm evaluate --run run --corpus fox.txt",
    "resume": f"{RESUME} --epochs 4",
}

LIMITS = {"timeout": 25, "memory": 8 * 2**30}
"""What a command may take: seconds, and bytes of address space."""


class Original:
    """An undamaged run, and what the commands answer for it.

    Attributes:
      path: its directory.
      other: that of a run with other weights; only the names of data files differ, which are random.
      last: its last step, which is also its best.
      answers: what each command answers with each checkpoint, the last one first.
    """

    def __init__(self, name, folder):
        self.path, self.other = folder / "run", folder / "other"
        for path, seed in ((self.path, 0), (self.other, 1)):
            with workplace() as place:
                assert verdict(run(f"{TRAININGS[name]} --seed {seed}", cwd=place)) == "right"
                (place / RUN / ".lock").unlink()
                shutil.copytree(place / RUN, path)
        steps = sorted((int(step.name) for step in self.path.glob("[0-9]*")), reverse=True)
        self.last = steps[0]
        self.answers = {command: [] for command in COMMANDS}
        for step in steps:
            for command, answers in self.answers.items():
                with self.copied() as place:
                    for other in set(steps) - {step}:
                        shutil.rmtree(place / RUN / str(other))
                    answers.append(answer(command, run(COMMANDS[command], cwd=place), place))
        # The stream recipe's schedule depends on the number of epochs, which the command changes.
        assert name == "stream" or self.answers["resume"][0] == self.answers["resume"][-1]

    @contextlib.contextmanager
    def copied(self):
        """A workplace with a copy of the run."""
        with workplace() as place:
            shutil.copytree(self.path, place / RUN)
            yield place

    def files(self):
        """The names of its files."""
        return [path.relative_to(self.path) for path in files(self.path)]

    def twin(self, file, *, run):
        """The file that has the place of `file` in the other run, or in another step of this one."""
        if run:
            return corresponding(self.path, self.other, file)
        step = self.path / file.parts[0]
        other = next(path for path in self.path.glob("[0-9]*") if path != step)
        return corresponding(step, other, file.relative_to(step.name))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def corresponding(folder, other, file):
    """The file of this name in another folder, or of its rank, if its name is random; there may be fewer."""
    if (other / file).exists():
        return other / file
    others = files(other)
    return others[min(files(folder).index(folder / file), len(others) - 1)]


def answer(command, result, place):
    """The state that a command leaves, or what it prints, but for its speed."""
    assert verdict(result) in ("right", "warned"), result.err
    if command == "resume":
        return state(place / RUN)
    return [line for line in result.out.splitlines() if not line.startswith("Tokens per second")]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def instead(make):
    """Puts something else in the place of a file, which is moved to `spare`."""

    def damage(path, spare):
        path.rename(spare)
        make(path, spare)

    return damage


WAYS = {
    "emptied": lambda path, spare: path.write_bytes(b""),
    "halved": lambda path, spare: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte less": lambda path, spare: path.write_bytes(path.read_bytes()[:-1]),
    "garbage added": lambda path, spare: path.write_bytes(path.read_bytes() + b"\0garbage\n"),
    "a bit flipped": lambda path, spare: flip(path, random.Random(path.name).randrange(8 * path.stat().st_size)),
    "deleted": instead(lambda path, spare: None),
    "a folder": instead(lambda path, spare: path.mkdir()),
    "a pipe": instead(lambda path, spare: os.mkfifo(path)),
    "a link to it": instead(lambda path, spare: path.symlink_to(spare)),
    "a link to /dev/zero": instead(lambda path, spare: path.symlink_to("/dev/zero")),
    "a link to nothing": instead(lambda path, spare: path.symlink_to("nothing")),
}
"""What happens to a file."""

SWAPS = {"of another run": True, "of another step": False}


def unlocked(path):
    """The contents of a run, but for the lock of its last trainer."""
    return {file: data for file, data in contents(path).items() if file.name != ".lock"}


@pytest.fixture(scope="session", params=["book", "stream"])
def original(request, tmp_path_factory):
    return Original(request.param, tmp_path_factory.mktemp("original"))


@pytest.mark.parametrize("command", COMMANDS)
@in_parts
def test_a_damaged_file(row, original, command):
    """A file of a run damaged, then sample, evaluate or --resume"""

    def trial(file, way):
        with original.copied() as place:
            path = place / RUN
            if way in WAYS:
                WAYS[way](path / file, place / "spare")
            else:
                shutil.copyfile(original.twin(file, run=SWAPS[way]), path / file)
            before = unlocked(path)
            result = run(COMMANDS[command], cwd=place, **LIMITS)
            found = verdict(result)
            if found == "line":
                # With another checkpoint there, no damage to one is a reason to refuse.
                assert (file.name in result.err, result.status) == (True, 2), result.err
                assert len(file.parts) == 1, result.err
                assert unlocked(path) == before
                return found
            answers = original.answers[command]
            assert answer(command, result, place) in (answers[:1] if found == "right" else answers)
            if command != "resume":
                assert unlocked(path) == before
                return found
            # What is damaged is kept, and nothing else is set aside.
            aside = any(entry.name.startswith("damaged-") for entry in path.iterdir())
            from_last = f"Resuming from step {original.last}," in result.out
            assert (from_last, aside) == (True, False) if found == "right" else from_last or aside
            return found

    trials = [
        (file, way)
        for file in original.files()
        for way in (*WAYS, *SWAPS)
        if way != "of another step" or len(file.parts) > 1
    ]
    row.run(trials, trial)


SEALED = ["config.json", "vocab.json", "text.ids", "progress.json", "metrics.jsonl", "samples.jsonl"]


@pytest.mark.parametrize("name", SEALED)
def test_every_bit(row, original, name, heard):
    """Each bit of config.json, vocab.json, text.ids, progress.json, metrics.jsonl, samples.jsonl flipped"""
    with original.copied() as place:
        path = place / RUN
        file = path / (f"{original.last}/{name}" if name == "progress.json" else name)
        if not file.exists():
            pytest.skip("this run takes no n-grams")
        good = file.read_bytes()
        wanted = figures(path)

        def trial(bit):
            flip(file, bit)
            try:
                found = figures(path)
            except InputError as error:
                return "line" if name in str(error) else f"blames another file: {error}"
            finally:
                file.write_bytes(good)
            if name == "progress.json" and original.last not in found[1]:
                del (without := dict(wanted[1]))[original.last]
                assert found == (wanted[0], without, wanted[2])
                return "warned"  # By whatever reads a checkpoint.
            assert found == wanted
            return "warned" if heard.pop() else "right"

        row.run(range(8 * len(good)), trial)


def figures(path):
    """What a run says of itself."""
    run = Run.open(path)
    return (run.record, run.vocab, run.format, run.ids().tolist()), run.storage.good(), (run.metrics(), run.samples())


@in_parts
def test_a_bit_of_a_checkpoint(row, original, heard):
    """Some hundred bits of a checkpoint's files flipped"""
    with original.copied() as place:
        path = place / RUN
        wanted = {}
        for earlier in (False, True):
            state, progress = Run.open(path).restore()
            wanted[progress.step] = state, progress
            if not earlier:
                shutil.move(path / str(original.last), place / "aside")
        shutil.move(place / "aside", path / str(original.last))

        def trial(file, bit):
            good = file.read_bytes()
            flip(file, bit)
            try:
                state, progress = Run.open(path).restore()
            finally:
                file.write_bytes(good)
            assert progress == wanted[progress.step][1]
            assert_same(state, wanted[progress.step][0])
            told = heard.pop()
            assert bool(told) == (progress.step != original.last), told
            return "warned" if told else "right"

        draw = random.Random(0).randrange
        every = files(path / str(original.last))
        row.run([(file, draw(8 * file.stat().st_size)) for file in every for _ in range(20)], trial)


@pytest.fixture
def heard():
    """The warnings of this process; `pop` returns them, and forgets them."""

    class Heard(logging.Handler):
        def emit(self, record):
            self.messages.append(record.getMessage())

        def pop(self):
            messages, self.messages = self.messages, []
            return messages

    handler, logger = Heard(), logging.getLogger("jaxlm")
    handler.messages = []
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
