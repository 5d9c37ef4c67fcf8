"""The benchmark for accelerators, in miniature: it must not rot before there is a GPU to run it on."""

import json

import jax
import numpy as np
import pytest

import jaxlm
from benchmarks import accelerator, contenders

NOTES = f"# Results\n\nby hand\n\n{accelerator.BEGIN}\n\nolder\n{accelerator.END}\n\nmore by hand\n"


def test_every_part_runs_and_what_it_finds_is_written(tmp_path, capsys):
    (tmp_path / "RESULTS.md").write_text(NOTES)
    accelerator.main(["--dry", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "accelerator.json").read_text())
    assert results["implementations"][-2:] == ["fused", "scan"]
    parts = list(results["parts"].values())
    assert len(parts) == len(accelerator.PARTS)
    figures = {name: figures for part in parts for name, figures in part.items()}
    skipped = [name for name, found in figures.items() if "skipped" in found]
    assert all("PyTorch" in name for name in skipped)
    resumed = 2
    assert sum(found.get("ok") is True for found in figures.values()) == len(results["implementations"]) + resumed
    assert list(results["parts"]) == [part.__doc__ for part in accelerator.PARTS]
    printed, written = capsys.readouterr().out, (tmp_path / "RESULTS.md").read_text()
    for name, found in figures.items():
        assert f"  {name}: {accelerator.line(found)}\n" in printed
        assert f"| {name} | {accelerator.line(found)} |\n" in written
    assert written.startswith("# Results\n\nby hand\n")
    assert written.endswith(f"{accelerator.END}\n\nmore by hand\n")
    assert "older" not in written


def test_what_is_wrong_is_said_and_what_was_found_is_kept(tmp_path, monkeypatch):
    (tmp_path / "RESULTS.md").write_text(NOTES)
    monkeypatch.setattr(accelerator.lstm, "fused", accelerator.lstm.scan)
    monkeypatch.setitem(
        accelerator.lstm.IMPLS, "fused", lambda params, carry, *rest: accelerator.lstm.scan(params, carry[::-1], *rest)
    )
    monkeypatch.setattr(accelerator.lstm, "_check_float32", lambda *_: None)
    with pytest.raises(SystemExit, match=r"not as it should be: fused$"):
        accelerator.main(["--dry", "--only", "parity", "--out", str(tmp_path)])
    [found] = json.loads((tmp_path / "accelerator.json").read_text())["parts"].values()
    assert (found["fused"]["ok"], found["scan"]["ok"]) == (False, True)


def test_a_number_that_is_none_is_no_parity():
    ones, nan = np.ones(3), np.array([1.0, np.nan, 1.0])
    assert accelerator.error((ones, ones), (ones, ones)) == 0
    assert not accelerator.error((ones, nan), (ones, ones)) < accelerator.TOLERANCE


def test_what_fails_does_not_stop_the_rest(capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no cuDNN today\nat all")

    monkeypatch.setitem(accelerator.lstm.IMPLS, "fused", fail)
    with pytest.raises(SystemExit, match=r"not as it should be: fused$"):
        accelerator.main(["--dry", "--only", "parity"])
    printed = capsys.readouterr().out
    assert "  fused: ok False; failed ValueError: no cuDNN today\n" in printed
    assert "  scan: " in printed


def test_without_a_place_to_write_nothing_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"RESULTS.md: found no lines .* to write between"):
        accelerator.main(["--dry", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_without_time_parts_are_skipped(capsys):
    accelerator.main(["--dry", "--seconds", "1"])
    printed = capsys.readouterr().out
    assert printed.count("  the rest: skipped no time left\n") == len(accelerator.PARTS) == printed.count("  ")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="has a GPU")
def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(SystemExit, match=r"found no GPU .* install '\.\[cuda\]', or add --dry"):
        accelerator.main([])


def test_its_text_is_the_same_everywhere():
    made = contenders.made_up_text(60_000)
    assert len(made) == 60_000
    assert made[:40] == contenders.made_up_text(100)[:40]
    assert jaxlm.config.BOOK.length < len(set(made.split())) < 2000
