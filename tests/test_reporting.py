"""What is printed while a run learns: everything that was promised, on a terminal and in a file."""

import dataclasses
import io
import re
import signal

import numpy as np
import pytest
from rich.console import Console

import jaxlm
from jaxlm.cli.terminal import duration
from jaxlm.runs.run import Progress


def watch(config, folder, terminal, **watched):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=60, highlight=False, markup=False, emoji=False)
    jaxlm.train(config, checkpoints=folder, reporter=jaxlm.Terminal(jaxlm.WatchConfig(**watched), console))
    return output.getvalue()


def test_a_file_gets_plain_lines(small, tmp_path):
    text = watch(small, tmp_path, terminal=False, temperature=(0.2, 1.0), sample_length=90)
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


def test_a_terminal_gets_a_bar(small, tmp_path):
    text = watch(small, tmp_path, terminal=True, temperature=())
    assert re.search(r"Epoch 1/2.*\d+/11 .*steps/s  loss \d\.\d{4}  .* left", text)
    assert "---" not in text


def test_a_stream_tells_how_it_reads_and_what_it_makes_of_the_held_out_text(small, tmp_path):
    stream = {"recipe": "stream", "stride": None, "validation": 0.25, "average": 0.9}
    text = watch(dataclasses.replace(small, **stream), tmp_path, terminal=False, temperature=())
    assert "Streams:             32, reading 10 characters a step\n" in text
    assert "Held out:            the last 258 characters\n" in text
    lines = re.findall(
        r"Epoch ./2  loss .*; held out ([\d.]+) nats, ([\d.]+) bits per character, perplexity ([\d.]+), in ", text
    )
    assert len(lines) == 2
    for nats, bits, perplexity in np.array(lines, float):
        np.testing.assert_allclose([bits, perplexity], [nats / np.log(2), np.exp(nats)], rtol=1e-3)


def test_a_divergence_and_lost_patience_are_told_in_a_line_each(trained):
    run = jaxlm.Run.open(trained)
    output = io.StringIO()
    terminal = jaxlm.Terminal(console=Console(file=output, width=60))
    best = Progress(step=0, epoch=0, nats=0.0, count=0, loss=2.0, validation=1.5, cuts=1)
    progress = dataclasses.replace(best, step=11, epoch=1)
    terminal.diverged("step 15: found a loss of nan, expected a finite one", progress, 0.0025)
    terminal.diverged("step 3: found a loss of inf, expected a finite one", best, 0.000625)
    terminal.end(run, progress, best)
    assert output.getvalue().splitlines() == [
        "Diverged at step 15: found a loss of nan, expected a finite one. Going back to epoch 1, the best, with the "
        "learning rate cut to 0.0025.",
        "Diverged at step 3: found a loss of inf, expected a finite one. Going back to the beginning with the learning "
        "rate cut to 0.000625.",
        "Stopped after epoch 1 of 2: epoch 0 is still the best, with a held-out loss of 1.5000. "
        f"To train on: python train.py --resume --run {trained} --patience 2",
        f"Done. Write with: python sample.py --run {trained}",
    ]


def test_text_is_never_taken_for_markup(small, tmp_path):
    small_text = "[bold]all[/bold]\t:smile: [red]\r\n[/] {x} %s \\n [/nothing] " * 20
    (tmp_path / "fox.txt").write_text(small_text, newline="")
    text = watch(small, tmp_path, terminal=False, temperature=(0.0,), sample_length=5)
    assert jaxlm.Run.open(tmp_path / "fox-book").record.seed_text in text.split("--- temperature 0")[1]


def test_a_stopped_run_says_how_to_go_on_and_that_it_does(small, tmp_path):
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
    command = f"python train.py --resume --run '{tmp_path / 'my fox'}'"
    assert output.getvalue().endswith(f"Stopped and saved at step 14. Go on with: {command}\n")
    jaxlm.resume(tmp_path / "my fox", reporter=terminal(jaxlm.Terminal))
    assert "Going on from step 14, in epoch 2 of 2.\n" in output.getvalue()
    assert output.getvalue().endswith(f"Done. Write with: python sample.py --run '{tmp_path / 'my fox'}'\n")
    jaxlm.resume(tmp_path / "my fox", reporter=terminal(jaxlm.Terminal))
    assert f"All 2 epochs are trained already. To train on: {command} --epochs 4\n" in output.getvalue()


def test_a_download_is_a_bar_that_goes_away():
    output = io.StringIO()
    reporter = jaxlm.Terminal(console=Console(file=output, force_terminal=True, width=80))
    for done in (0, 500_000, 1_000_000):
        reporter.download(done, 1_000_000)
    assert "Downloading the corpus" in output.getvalue()
    assert "1.0/1.0 MB" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.56, "4.6 s"), (45.4, "45 s"), (99, "99 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
