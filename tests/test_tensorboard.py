"""What a run writes for TensorBoard, read back from its files."""

import dataclasses
import os
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_same_run

import jaxlm
from jaxlm.cli import commands
from jaxlm.cli.tensorboard import TensorBoard
from jaxlm.runs.reporter import Several
from jaxlm.runs.storage import Progress

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
record_writer = pytest.importorskip("tensorboardX.record_writer")

WATCH = {"temperature": (0.5, 1.0), "sample_length": 20}


@pytest.fixture
def config(small):
    return dataclasses.replace(small, validation=0.25)


def events(file):
    """The events of a file: each is its length, a checksum, itself and a checksum."""
    content = file.read_bytes()
    while content:
        [length] = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def shown(folder):
    """What TensorBoard shows of a folder: figures by name and step, texts by temperature and step."""
    figures, texts = {}, {}
    for file in sorted(folder.iterdir()):
        for event in events(file):
            if event.session_log.status == event_pb2.SessionLog.START:
                for found in (*figures.values(), *texts.values()):
                    for step in [step for step in found if step >= event.step]:
                        del found[step]
            for value in event.summary.value:
                is_text = value.metadata.plugin_data.plugin_name == "text"
                found = (texts if is_text else figures).setdefault(value.tag, {})
                assert event.step not in found, "shown twice"
                found[event.step] = value.tensor.string_val[0].decode() if is_text else value.simple_value
    return figures, texts


def assert_shows(folder, run):
    figures, texts = shown(folder)
    lines = run.metrics()
    assert set(figures) == set(lines[0]) - {"epoch", "step", "device"}
    for name, found in figures.items():
        assert found == {line["step"]: np.float32(line[name]) for line in lines}
    assert set(texts) == {"temperature 0.5/text_summary", "temperature 1/text_summary"}
    for sample in run.samples():
        lines = texts[f"temperature {sample['temperature']:g}/text_summary"][sample["step"]].splitlines()
        assert all(line.startswith("    ") for line in lines)  # Markdown's code, which it shows as it is.
        assert "\n".join(line[4:] for line in lines) == sample["text"].removesuffix("\n")


def test_the_figures_and_samples_are_those_of_the_run_and_nothing_else_changes(config, tmp_path, capsys):
    jaxlm.train(config, run="fox", checkpoints=tmp_path / "a", tensorboard=tmp_path / "logs", **WATCH)
    printed = capsys.readouterr().out
    jaxlm.train(config, run="fox", checkpoints=tmp_path / "b", **WATCH)
    assert len(capsys.readouterr().out.splitlines()) == len(printed.splitlines())
    assert_same_run(tmp_path / "a" / "fox", tmp_path / "b" / "fox")
    assert_shows(tmp_path / "logs" / "fox", jaxlm.Run.open(tmp_path / "a" / "fox"))


def test_a_resumed_run_goes_on_in_the_same_curves_which_are_whole(config, tmp_path):
    for epochs, folder in ((1, None), (2, "logs"), (3, None), (4, "logs"), (4, "other")):
        folder = None if folder is None else tmp_path / folder
        config = dataclasses.replace(config, epochs=epochs)
        jaxlm.train(config, run="fox", checkpoints=tmp_path, tensorboard=folder, **WATCH)
    assert len(list((tmp_path / "logs" / "fox").iterdir())) == 2
    for folder in ("logs", "other"):
        assert_shows(tmp_path / folder / "fox", jaxlm.Run.open(tmp_path / "fox"))


def test_what_is_written_again_has_the_times_of_training(config, tmp_path):
    jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=None)
    jaxlm.resume("fox", checkpoints=tmp_path, reporter=None, tensorboard=tmp_path / "logs")
    [file] = (tmp_path / "logs" / "fox").iterdir()
    times = [event.wall_time for event in events(file) if event.summary.value]
    first, second = sorted(set(times))
    assert second - first == pytest.approx(jaxlm.Run.open(tmp_path / "fox").metrics()[1]["seconds"], abs=1e-3)


def test_a_stranger_s_figures_without_seconds_are_written_too(tmp_path):
    epochs = [{"epoch": 1, "step": 3, "loss": 3.0}, {"epoch": 2, "step": 6, "loss": 2.0, "seconds": None}]
    run = SimpleNamespace(path=tmp_path / "fox", metrics=lambda: epochs, samples=list)
    board = TensorBoard(str(tmp_path / "logs"))
    board.start(SimpleNamespace(run=run))
    board.close()
    assert shown(tmp_path / "logs" / "fox") == ({"loss": {3: 3.0, 6: 2.0}}, {})


def test_what_a_divergence_undid_is_forgotten(config, tmp_path):
    class Trouble(TensorBoard):
        def end(self, run, progress, best):
            self.diverged("step 16: found a loss of nan", Progress(step=progress.step // 2), 0.0025)

    reporter = Several(jaxlm.Reporter(), Trouble(str(tmp_path / "logs")))
    jaxlm.train(config, run="fox", checkpoints=tmp_path, reporter=reporter)
    figures, _ = shown(tmp_path / "logs" / "fox")
    first, _ = jaxlm.Run.open(tmp_path / "fox").metrics()
    assert figures["loss"] == {first["step"]: np.float32(first["loss"])}


def test_a_reporter_of_one_s_own_hears_all_that_it_would_alone(small, tmp_path):
    def recorder(heard):
        names = [name for name in vars(jaxlm.Reporter) if callable(getattr(jaxlm.Reporter, name)) and name[0] != "_"]

        def record(name):
            return lambda self, *details: heard.append((name, len(details)))

        return type("Recorder", (jaxlm.Reporter,), {name: record(name) for name in names})()

    alone, beside = [], []
    jaxlm.train(small, run="a", checkpoints=tmp_path, reporter=recorder(alone))
    jaxlm.train(small, run="b", checkpoints=tmp_path, reporter=recorder(beside), tensorboard=tmp_path / "logs")
    assert alone == beside
    assert {name for name, _ in alone} == {"start", "step", "epoch", "end", "close"}


def command(corpus, tmp_path):
    return ["train", str(corpus), "--epochs", "1", "--checkpoints", str(tmp_path / "c"), "--tensorboard"]


def test_the_command_has_it_too_also_to_resume(corpus, tmp_path, capsys):
    small = ["--hidden", "8", "--length", "10", "-t", "0.5", "1", "-l", "20", "--run", "fox", "--validation", "0.25"]
    assert commands.main([*command(corpus, tmp_path), str(tmp_path / "logs"), *small]) == 0
    assert_shows(tmp_path / "logs" / "fox", jaxlm.Run.open(tmp_path / "c" / "fox"))
    again = ["train", "--resume", "--checkpoints", str(tmp_path / "c"), "--epochs", "2", "-t", "0.5", "1", "-l", "20"]
    assert commands.main([*again, "--tensorboard", str(tmp_path / "logs")]) == 0
    assert len(jaxlm.Run.open(tmp_path / "c" / "fox").metrics()) == 2
    assert_shows(tmp_path / "logs" / "fox", jaxlm.Run.open(tmp_path / "c" / "fox"))


def test_without_the_library_one_line_names_the_extra(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert commands.main([*command(corpus, tmp_path), str(tmp_path / "logs")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tensorboardX is not installed, which tensorboard needs; install it: ")
    assert "python -m pip install 'jaxlm[tensorboard]'" in line
    assert [*tmp_path.iterdir()] == [corpus]


@pytest.mark.parametrize("place", ["fox.txt", "fox.txt/logs"])
def test_where_no_folder_can_be_nothing_is_trained(corpus, tmp_path, capsys, place):
    assert commands.main([*command(corpus, tmp_path), str(tmp_path / place)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: tensorboard {tmp_path / place}: found {corpus}, expected a folder to write into")
    assert [*tmp_path.iterdir()] == [corpus]


@pytest.mark.parametrize("method", ["__init__", "write", "flush"])
def test_a_log_that_cannot_be_written_stops_no_run(small, tmp_path, monkeypatch, caplog, method):
    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(record_writer.RecordWriter, method, fail)
    jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=None, tensorboard=tmp_path / "logs")
    assert len(jaxlm.Run.open(tmp_path / "fox").metrics()) == 2
    [warning] = caplog.messages
    assert warning.startswith(f"tensorboard {tmp_path / 'logs'}: cannot be written (No space left on device); the run")
