"""The bundled model: it generates text right after cloning, and is as good as its README says."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.cli import commands
from jaxlm.text.batches import split_text

PATH = Path(__file__).parents[1] / "checkpoints" / "nietzsche"


@pytest.fixture
def stated():
    """Held-out nats and bits per character, as its README states them."""
    text = (PATH / "README.md").read_text(encoding="utf-8")
    return [
        float(figure) for figure in re.search(r"\*\*([\d.]+) nats\*\* .*?\*\*([\d.]+) bits\*\*", text, re.S).groups()
    ]


def test_a_fresh_clone_writes_with_it(tmp_path, monkeypatch, capsys):
    shutil.copytree(PATH, tmp_path / "checkpoints" / "nietzsche")
    monkeypatch.chdir(tmp_path)
    assert commands.sample(["--length", "300", "--seed", "1", "--prompt", "the truth "]) == 0
    written = capsys.readouterr().out
    assert written.startswith("the truth ")
    assert len(written) == 311
    # Most of the words that it generates are in its corpus.
    words = re.findall("[a-z]+", written)
    common = {"the", "of", "and", "to", "in", "is", "a", "that", "it", "as", "which", "not", "for", "be", "with"}
    assert sum(word in common for word in words) > len(words) / 5


def test_its_figures_agree(stated):
    run = jaxlm.Run.open(PATH)
    generator, progress = run.generator()
    np.testing.assert_allclose(stated, [progress.validation, progress.validation / np.log(2)], atol=6e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(generator.params)) < 1_000_000
    assert sum(file.stat().st_size for file in PATH.rglob("*")) < 5_000_000
    assert run.record.config.corpus == ("nietzsche",)


def test_its_figures_are_what_the_code_measures(stated, shared_corpora):
    text = (shared_corpora / "nietzsche.txt").read_text(encoding="utf-8").lower()
    run = jaxlm.Run.open(PATH)
    assert len(text) == run.record.characters
    _, held_out = split_text(text, run.record.config.validation)
    scores = jaxlm.load(PATH).score(held_out)
    assert len(scores) == len(held_out) - 1
    assert -scores.mean(dtype=float) == pytest.approx(stated[0], abs=1e-3)
