"""What a run prints while it trains, on a terminal and in a file."""

import dataclasses
import io
import re
import signal

import numpy as np
import pytest
from rich.console import Console

import jaxlm
from jaxlm import invocation
from jaxlm.cli import terminal as terminal_room
from jaxlm.cli import words
from jaxlm.cli.words import duration
from jaxlm.runs.reporter import EpochMetrics, Plan
from jaxlm.runs.run import Progress


class Tty(io.StringIO):
    """A terminal's stream."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """A terminal like any other, and no wish for colours."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def watch(config, folder, output, *, width=60, **watched):
    reporter = jaxlm.Terminal(jaxlm.WatchConfig(**watched), Console(file=output, width=width))
    jaxlm.train(config, checkpoints=folder, reporter=reporter)
    return output.getvalue()


def test_a_file_gets_plain_lines(small, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal_room, "SHORT_SECONDS", 0.0)
    text = watch(small, tmp_path, io.StringIO(), temperature=(0.2, 1.0), sample_length=90)
    assert "\x1b" not in text
    assert "fox, 1,032 characters" in text
    assert "341 of 10 at stride 3" in text
    assert re.search(r"Distinct characters: +29$", text, re.MULTILINE)
    assert re.search(r"Parameters: +3,437$", text, re.MULTILINE)
    assert re.search(r"Device: +CPU, 2 cores$", text, re.MULTILINE)
    assert re.search(r"The run will take about .+\. Ctrl-C loses nothing", text)
    seed_text = jaxlm.Run.open(tmp_path / "fox-book").record.seed_text
    for epoch in (1, 2):
        lines = text.split(f"Epoch {epoch}/2  loss ")[1].split("Epoch")[0].split("Done.")[0].splitlines()
        loss, bits = re.fullmatch(r"([\d.]+) nats, ([\d.]+) bits per character, in [\d.]+ s", lines[0]).groups()
        assert float(bits) == pytest.approx(float(loss) / 0.6931, abs=2e-3)
        assert [line for line in lines if line.startswith("---")] == ["--- temperature 0.2", "--- temperature 1"]
        samples = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("---")]
        # Whole lines, however narrow the console is.
        assert all(sample.startswith(seed_text) and len(sample) == 100 for sample in samples)


BAR = r"Epoch 1/2 .*\d+/11 .*steps/s  loss \d\.\d{4}  .* left"
MOVEMENTS = r"\x1b\[[0-9?]*[A-KST]|\x1b\[\?25|\r"


def test_a_terminal_gets_a_bar(small, tmp_path):
    text = watch(small, tmp_path, Tty(), temperature=(), width=80)
    assert re.search(BAR, text)
    assert re.search(MOVEMENTS, text)
    assert "---" not in text


@pytest.mark.parametrize(
    ("variables", "output", "colours"),
    [
        ({"FORCE_COLOR": "1"}, io.StringIO, True),  # As notebooks have it, too.
        ({"TERM": "dumb"}, Tty, False),
        ({}, io.StringIO, False),
    ],
)
def test_where_nothing_can_be_drawn_there_are_lines(small, tmp_path, monkeypatch, variables, output, colours):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jaxlm.cli.terminal.PLAIN_SECONDS", 0.0)
    text = watch(small, tmp_path, output(), temperature=())
    assert re.search(MOVEMENTS, text) is None
    assert ("\x1b" in text) == colours
    assert re.search(r"^Epoch 2/2  \d+/11  \d+ steps/s  loss \d\.\d{4}  [^\n]* left$", text, re.MULTILINE)


def test_twenty_columns_are_enough(small, tmp_path):
    text = watch(small, tmp_path, Tty(), temperature=(), width=20)
    frames = re.findall(r"\x1b\[2K(Epo[^\r\n]*)", re.sub(r"\x1b\[[0-9;]*m", "", text))
    bars = [frame for frame in frames if "nats" not in frame]
    assert bars
    assert all(re.search(r"\d+/11 ", bar) and len(bar) <= 20 for bar in bars)


def test_a_terminal_shows_what_would_control_it_and_a_file_has_it_raw(small, tmp_path):
    name = "f\x1b[2Jx.txt"
    (tmp_path / name).write_text("\x1b[31mred\r\n" * 100, newline="")
    config = dataclasses.replace(small, corpus=(str(tmp_path / name),))
    shown = watch(config, tmp_path, Tty(), temperature=(0.0,), sample_length=40, width=200)
    assert "f␛[2Jx, 1,000 characters" in shown
    assert {"␛", "␍"} <= set(shown.split("--- temperature 0")[1])
    assert re.search(r"\x1b\[(31m|2J)|\r\n", shown) is None
    raw = watch(config, tmp_path, io.StringIO(), temperature=(0.0,), sample_length=40)
    assert {"\x1b", "\r"} <= set(raw.split("--- temperature 0")[1])
    assert "␛" not in raw


def test_output_that_fails_costs_nothing(small, tmp_path):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    class Ascii(io.TextIOWrapper):
        def isatty(self):
            return True

    (tmp_path / "fox.txt").write_text("Größe ☃ " * 100, encoding="utf-8")
    narrow = Ascii(io.BytesIO(), encoding="ascii", errors="strict")
    for name, output in (("full", Full()), ("ascii", narrow)):
        reporter = jaxlm.Terminal(jaxlm.WatchConfig(temperature=(1.0,), sample_length=30), Console(file=output))
        jaxlm.train(small, run=name, checkpoints=tmp_path, reporter=reporter)
        assert jaxlm.Run.open(tmp_path / name).restore()[1].epoch == 2
    assert b"gr??e ?" in narrow.buffer.getvalue()


def test_a_stream_tells_how_it_reads_and_its_validation_loss(small, tmp_path):
    stream = {"recipe": "stream", "stride": None, "validation": 0.25, "average": 0.9}
    text = watch(dataclasses.replace(small, **stream), tmp_path, io.StringIO(), temperature=())
    assert "Streams:             32, reading 10 characters per step\n" in text
    assert "Validation:          the last 258 characters\n" in text
    lines = re.findall(
        r"Epoch ./2  loss .*; validation loss ([\d.]+) nats, ([\d.]+) bits per character, perplexity ([\d.]+), in ",
        text,
    )
    assert len(lines) == 2
    for nats, bits, perplexity in np.array(lines, float):
        np.testing.assert_allclose([bits, perplexity], [nats / np.log(2), np.exp(nats)], rtol=1e-3)


def told(trained, events, *, epochs=12, patience=None, best=None):
    """The lines that events print, in a run of this many epochs of 10 steps."""
    run = jaxlm.Run.open(trained)
    run.record = dataclasses.replace(
        run.record, config=dataclasses.replace(run.record.config, epochs=epochs, validation=0.1, patience=patience)
    )
    output = io.StringIO()
    terminal = jaxlm.Terminal(jaxlm.WatchConfig(temperature=()), Console(file=output, width=60))
    terminal._plan = plan = Plan(
        run=run,
        corpus=None,
        held_out=0,
        order=None,
        steps=10,
        parameters=0,
        counts=0,
        devices="",
        start=0,
        best=best,
        finished=False,
    )
    terminal._meter, terminal._standing = words.Meter(plan), words.Standing(best)
    events(terminal, plan.run)
    return output.getvalue().splitlines()


def epoch(number, validation, loss=2.0):
    return EpochMetrics(
        epoch=number,
        step=10 * number,
        loss=loss,
        bits_per_character=0.0,
        perplexity=1.0,
        validation_loss=validation,
        validation_bits_per_character=None if validation is None else 0.0,
        validation_perplexity=None if validation is None else 1.0,
        seconds=1.0,
        device="CPU, 1 core",
    )


def progress(epoch, validation=None, loss=2.0):
    return Progress(step=10 * epoch, epoch=epoch, nats=0.0, count=0, loss=loss, validation=validation)


def test_each_epoch_says_which_is_the_best_and_patience_is_hinted_at_once(trained):
    losses = [2.0, 1.9, 1.9, 1.95, 2.0, 2.1, 1.8]

    def events(terminal, run):
        for number, loss in enumerate(losses, 1):
            terminal.epoch(epoch(number, loss), None)

    lines = told(trained, events)
    standings = [re.search(r"\((.*)\)$", line)[1] for line in lines if line.startswith("Epoch")]
    assert standings == ["best so far"] * 2 + ["best: epoch 2"] * 4 + ["best so far"]
    hints = [line for line in lines if not line.startswith("Epoch")]
    assert len(hints) == 1
    assert "not improved for 3 epochs" in hints[0]
    assert "patience=3" in hints[0]
    assert lines[5] == hints[0]  # After epoch 5, a quarter of all epochs after the best.
    assert len(told(trained, events, epochs=40)) == len(losses)  # A quarter of all epochs never passes.
    assert len(told(trained, events, patience=9)) == len(losses)


def test_a_resumed_run_knows_its_best_epoch_and_a_divergence_what_is_left_of_it(trained):
    def events(terminal, run):
        terminal.epoch(epoch(6, 1.6), None)
        terminal.diverged("step 61: found a loss of nan", progress(4, 1.5), 0.0025)
        terminal.epoch(epoch(5, 1.55), None)
        terminal.diverged("step 61: found a loss of nan", progress(0, loss=None), 0.0025)
        terminal.epoch(epoch(1, 1.7), None)

    lines = [line for line in told(trained, events, best=progress(4, 1.5)) if line.startswith("Epoch")]
    assert [re.search(r"\((.*)\)$", line)[1] for line in lines] == ["best: epoch 4"] * 2 + ["best so far"]


def test_without_a_validation_text_only_an_epoch_that_is_worse_names_the_best(trained):
    def events(terminal, run):
        for number, loss in enumerate([2.0, 1.9, 2.1, 2.2, 2.3, 2.4], 1):
            terminal.epoch(epoch(number, None, loss), None)

    lines = told(trained, events)
    assert [line.endswith("(best: epoch 2)") for line in lines] == [False] * 2 + [True] * 4


def test_no_loss_is_minus_zero(trained):
    def events(terminal, run):
        terminal.epoch(epoch(1, -0.0, loss=-1e-9), None)
        terminal.end(run, progress(12, -0.0), progress(1, -0.0))

    assert "-0.0" not in "".join(told(trained, events))


def test_a_divergence_and_lost_patience_are_told_in_a_line_each(trained):
    def events(terminal, run):
        terminal.diverged("step 15: found a loss of nan", progress(1), 0.0025)
        terminal.diverged("step 3: found a loss of inf", progress(0), 0.000625)
        terminal.end(run, progress(5, 1.7), progress(3, 1.5))

    with invocation.called_as("jaxlm"):
        assert told(trained, events) == [
            "Diverged at step 15: found a loss of nan. Rolling back to epoch 1, the best so far, and cutting the "
            "learning rate to 0.0025.",
            "Diverged at step 3: found a loss of inf. Rolling back to the beginning, and cutting the learning rate to "
            "0.000625.",
            "Stopped after epoch 5 of 12: the validation loss has not improved for 2 epochs. To train longer: jaxlm "
            f"train --resume --run {trained} --patience 4",
            "Done. The best epoch is 3, with a validation loss of 1.5000. To generate text: jaxlm sample --run "
            f"{trained}",
        ]


def test_text_is_never_taken_for_markup(small, tmp_path):
    small_text = "[bold]all[/bold]\t:smile: [red]\r\n[/] {x} %s \\n [/nothing] " * 20
    (tmp_path / "fox.txt").write_text(small_text, newline="")
    text = watch(small, tmp_path, io.StringIO(), temperature=(0.0,), sample_length=5)
    assert jaxlm.Run.open(tmp_path / "fox-book").record.seed_text in text.split("--- temperature 0")[1]


def test_a_stopped_run_says_how_to_go_on_and_that_it_does(small, tmp_path, one_at_a_time):
    output = io.StringIO()

    class Impatient(jaxlm.Terminal):
        def step(self, step, loss):
            super().step(step, loss)
            if step == 13:
                signal.raise_signal(signal.SIGINT)

    def terminal(kind):
        return kind(jaxlm.WatchConfig(temperature=()), Console(file=output, width=60))

    with pytest.raises(KeyboardInterrupt):
        jaxlm.train(small, run="my fox", checkpoints=tmp_path, reporter=terminal(Impatient))
    path = str(tmp_path / "my fox")
    assert output.getvalue().endswith(f"Stopped and saved at step 14. To resume: jaxlm.resume({path!r})\n")
    jaxlm.resume(path, reporter=terminal(jaxlm.Terminal))
    assert "Resuming from step 14, in epoch 2 of 2.\n" in output.getvalue()
    assert output.getvalue().endswith(f"To generate text: jaxlm.load({path!r}).generate()\n")
    with invocation.called_as(invocation.SCRIPTS):
        jaxlm.resume(path, reporter=terminal(jaxlm.Terminal))
    assert f"To train longer: python train.py --resume --run '{path}' --epochs 4\n" in output.getvalue()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGHUP], [signal.SIGTERM] * 2])
@pytest.mark.parametrize("pieces", [1, 4])
def test_samples_of_any_length_are_not_waited_for(small, tmp_path, monkeypatch, signals, pieces):
    output, draw = io.StringIO(), jaxlm.TextGenerator.pieces

    def interrupted(*arguments, **settings):
        for number, piece in enumerate(draw(*arguments, **settings)):
            if number == pieces:
                for each in signals:
                    signal.raise_signal(each)
            yield piece

    monkeypatch.setattr(jaxlm.TextGenerator, "pieces", interrupted)
    watched = jaxlm.WatchConfig(temperature=(1.0,), sample_length=10**8)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        jaxlm.train(small, run="fox", checkpoints=tmp_path, reporter=jaxlm.Terminal(watched, Console(file=output)))
    if signals[0] == signal.SIGINT:
        assert stopped.type is KeyboardInterrupt
    else:
        assert stopped.value.code == 128 + signals[0]
    assert jaxlm.Run.open(tmp_path / "fox").restore()[1].epoch == 1
    assert len(output.getvalue()) < 5000


def test_a_download_is_a_line_where_no_bar_can_be_drawn():
    output = io.StringIO()
    reporter = jaxlm.Terminal(console=Console(file=output, width=80))
    for done in (0, 500_000, 1_000_000):
        reporter.download(done, 1_000_000)
    assert output.getvalue() == "Downloading the corpus (1.0 MB)...\n"


def test_a_download_is_a_bar_that_goes_away():
    output = Tty()
    reporter = jaxlm.Terminal(console=Console(file=output, width=80))
    for done in (0, 500_000, 1_000_000):
        reporter.download(done, 1_000_000)
    assert "Downloading the corpus" in output.getvalue()
    assert "1.0/1.0 MB" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.56, "4.6 s"), (45.4, "45 s"), (99, "99 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
