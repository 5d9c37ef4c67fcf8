"""The samples that a run keeps: what was shown, bit for bit, and as safe as its figures."""

import dataclasses
import json
import shutil
import signal

import pytest

import jaxlm
from jaxlm.runs import trainer
from jaxlm.runs.reporter import Reporter
from jaxlm.runs.samples import draw_samples


class Watching(Reporter):
    """Asks for two short samples, and remembers what it is told."""

    def __init__(self, *temperature):
        self.watch = jaxlm.WatchConfig(temperature=temperature, sample_length=30)
        self.told = []

    def samples(self, samples):
        self.told += samples


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of three epochs with samples, and what its reporter was told; not to be changed."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "fox.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    model = jaxlm.ModelConfig(hidden=16)
    config = dataclasses.replace(
        jaxlm.BOOK, corpus=(str(folder / "fox.txt"),), epochs=3, length=10, batch=32, model=model
    )
    reporter = Watching(0.0, 1.0)
    trainer.train(config, run="fox", checkpoints=folder, reporter=reporter)
    return folder / "fox", reporter.told


@pytest.fixture
def copied(watched, tmp_path):
    return shutil.copytree(watched[0], tmp_path / "fox")


def test_each_sample_is_what_the_epoch_s_model_writes_and_says_how_it_knows_it(watched):
    path, told = watched
    run = jaxlm.Run.open(path)
    assert run.samples() == told
    assert [(one["epoch"], one["temperature"]) for one in told] == [(n, t) for n in (1, 2, 3) for t in (0.0, 1.0)]
    assert [one["step"] for one in told[::2]] == [epoch["step"] for epoch in run.metrics()]
    text = "the quick brown fox jumps over the lazy dog. " * 20
    generator, _ = run.generator(epoch="last")
    for sample in told[-2:]:
        prompt, whole = sample["prompt"], sample["text"]
        expected = generator.generate(length=30, temperature=sample["temperature"], seed=run.record.config.seed)
        assert (prompt, whole, sample["seed"]) == (run.record.seed_text, expected, 0)
        assert sample["surprise"] == pytest.approx(-generator.score(whole)[-30:].mean(dtype=float), abs=1e-5)
    for sample in told:
        start, length = sample["copied_from"], sample["copied"]
        assert start >= len(sample["prompt"])
        assert sample["text"][start : start + length] == text[sample["copied_at"] :][:length]
        longer = [
            sample["text"][i : i + length + 1] for i in range(len(sample["prompt"]), len(sample["text"]) - length)
        ]
        assert not [span for span in longer if span in text]


def test_the_copies_are_measured_without_the_prompt_which_is_one(watched):
    generator, _ = jaxlm.Run.open(watched[0]).generator()
    [sample] = draw_samples(
        generator, jaxlm.WatchConfig(temperature=(1.0,), sample_length=0), 0, "the quick brown fox "
    )
    assert (sample["copied"], sample["surprise"]) == (0, None)


def test_who_watches_nothing_keeps_nothing_and_older_runs_have_none(trained):
    assert not (trained / "samples.jsonl").exists()
    assert list(trained.glob("*/samples.jsonl")) == []
    assert jaxlm.Run.open(trained).samples() == []


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "another letter in the last sample": lambda path: path.write_text(
        path.read_text()[:-20] + "7" + path.read_text()[-19:]
    ),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_samples_that_are_damaged_are_taken_from_the_last_checkpoint(copied, watched, caplog, damage):
    DAMAGES[damage](copied / "samples.jsonl")
    assert jaxlm.Run.open(copied).samples() == watched[1]
    [told] = [record.getMessage() for record in caplog.records]
    assert "samples.jsonl has changed since it was saved; its 3 epochs are taken from the last checkpoint" in told
    caplog.clear()
    trainer.resume(copied, reporter=Watching(0.0, 1.0))
    [told] = [record.getMessage() for record in caplog.records]
    assert "samples.jsonl is rebuilt from checkpoint" in told
    assert (copied / "samples.jsonl").read_bytes() == (watched[0] / "samples.jsonl").read_bytes()


@pytest.mark.parametrize("kept", [0, 200])
def test_samples_that_a_kill_kept_from_the_disk_are_made_again(copied, watched, caplog, kept):
    """As after a kill between the last checkpoint and its samples, or within the write of them."""
    whole = (copied / "samples.jsonl").read_text()
    last = max(jaxlm.Run.open(copied).checkpoints())
    earlier = "".join(line for line in whole.splitlines(True) if json.loads(line)["step"] < last)
    (copied / "samples.jsonl").write_text(whole[: len(earlier) + kept])
    run = jaxlm.Run.open(copied)
    progress, files = run.storage._read_progress(last)
    (copied / str(last) / "samples.jsonl").unlink()
    del files["samples.jsonl"]
    run.storage._write_seal(copied / str(last), progress, files)
    reporter = Watching(0.0, 1.0)
    trainer.resume(copied, reporter=reporter)
    assert (copied / "samples.jsonl").read_text() == whole
    assert (copied / str(last) / "samples.jsonl").read_text() == whole
    assert reporter.told == watched[1][-2:]
    assert caplog.records == []


def test_a_run_that_is_rolled_back_forgets_later_samples(copied, watched):
    run = jaxlm.Run.open(copied)
    step = sorted(run.checkpoints())[-2]
    run.storage.roll_back(step)
    assert run.samples() == watched[1][:-2]


def test_a_run_that_was_stopped_has_the_samples_of_one_that_was_not(watched, tmp_path):
    class Stopping(Watching):
        def epoch(self, metrics, generator):
            if metrics.epoch == 2:
                signal.raise_signal(signal.SIGINT)

    config = jaxlm.Run.open(watched[0]).record.config
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, run="fox", checkpoints=tmp_path, reporter=Stopping(0.0, 1.0))
    assert len(jaxlm.Run.open(tmp_path / "fox").samples()) == 2
    trainer.resume(tmp_path / "fox", reporter=Watching(0.0, 1.0))
    assert (tmp_path / "fox" / "samples.jsonl").read_bytes() == (watched[0] / "samples.jsonl").read_bytes()


def test_lines_that_no_reader_could_use_are_passed_over(trained, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "fox")
    good = {"epoch": 1, "step": 11, "temperature": 0.5, "seed": 0, "prompt": "a", "text": "ab", "surprise": None}
    good |= {"copied": 1, "copied_at": 0, "copied_from": 1}
    odd = [{"text": 7}, {"text": None}, {"temperature": "hot"}, {"copied": -1}, {"epoch": 1.5}, {"surprise": "none"}]
    lines = [good, *({**good, **one} for one in odd), {"step": 11}]
    (copied / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert jaxlm.Run.open(copied).samples() == [good]


def test_an_export_has_the_samples_too(watched, tmp_path):
    assert jaxlm.Run.open(watched[0]).export(tmp_path / "shared").samples() == watched[1]
