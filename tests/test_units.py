"""Lines or files as documents of their own: what is held out, and what is forgotten between them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxlm
from jaxlm.errors import InputError
from jaxlm.nn import lstm, scoring, sharding, training
from jaxlm.nn.model import LanguageModel
from jaxlm.runs.data import Data, Part, resets, split
from jaxlm.runs.evaluation import evaluate
from jaxlm.runs.run import Run
from jaxlm.runs.trainer import train
from jaxlm.text.batches import split_units
from jaxlm.text.corpus import Corpus, load_corpus
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

NAMES = "".join(f"{first}{vowel}{last}\n" for first in "bdgkm" for vowel in "aeiou" for last in ("n", "ra", "", "lo"))

LINES = dataclasses.replace(
    jaxlm.SIZES["small"],
    units="lines",
    validation=0.2,
    epochs=2,
    length=10,
    batch=4,
    model=jaxlm.ModelConfig(8, 2, 5, ngram=3),
)
FILES = dataclasses.replace(LINES, units="files")


def corpus_of(text, starts=(0,)):
    return Corpus("x", ("x",), text, starts=starts)


# What is held out.


@given(
    sizes=st.lists(st.integers(1, 50), min_size=2, max_size=30),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_about_the_share_of_documents_is_held_out(sizes, share, seed):
    sizes = np.array(sizes)
    held_out = split_units(sizes, share, seed)
    assert 0 < held_out.sum() < len(sizes)
    most = np.ceil(sizes.sum() * share)
    assert sizes[held_out].sum() <= most or held_out.sum() == 1
    # No other would have fitted.
    rest = sizes[~held_out]
    assert sizes[held_out].sum() + rest.min() > most or len(rest) == 1
    assert split_units(sizes, share, seed).tolist() == held_out.tolist()


def test_another_seed_holds_out_other_documents():
    assert len({split_units(np.ones(50, int), 0.2, seed).tobytes() for seed in range(9)}) == 9
    assert not split_units(np.ones(50, int), 0.0, 0).any()


@given(st.text("ab\n", min_size=1), st.floats(0.1, 0.5), st.integers(0, 9))
def test_lines_are_learned_or_held_out_whole(text, share, seed):
    config = dataclasses.replace(LINES, validation=share, seed=seed)
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        with pytest.raises(InputError, match=f"units: found {len(lines)} in the corpus, expected at least 2 lines"):
            split(config, corpus_of(text))
        return
    learned, held_out = split(config, corpus_of(text))
    assert sorted([*learned.documents(), *held_out.documents()]) == sorted(lines)
    assert learned.text
    assert held_out.text
    # In their order.
    rest = iter(lines)
    assert all(any(line == other for other in rest) for line in learned.documents())


def test_files_are_learned_or_held_out_whole(tmp_path):
    contents = [f"file {i}\nits text{'.' * i}" for i in range(10)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.txt").write_text(content)
    learned, held_out = split(FILES, load_corpus((str(tmp_path),)))
    documents = [*learned.documents(), *held_out.documents()]
    assert sorted(document.rstrip("\n") for document in documents) == contents
    assert 1 <= len(held_out.documents()) <= 2
    with pytest.raises(InputError, match="units: found 1 in the corpus, expected at least 2 files; leave it out"):
        split(FILES, load_corpus((str(tmp_path / "0.txt"),)))


def test_without_units_the_end_is_held_out():
    learned, held_out = split(dataclasses.replace(LINES, units=None), corpus_of("abcdefghij"))
    assert (learned, held_out) == (Part("abcdefgh", (0,)), Part("ij", (0,)))


# Where the memory is reset.


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
def test_the_memory_is_reset_at_the_line_end_before_a_document(kind):
    text, starts = "日本 x\nein Wort\n\nété", (0, 5, 15)
    vocab = Vocab.build(kind, text, words=2)
    ids = vocab.encode(text)
    found = resets(FILES, Part(text, starts), ids, vocab)
    whole = vocab.decode(ids)
    assert whole == text
    # The last document has no line end, so the first one, which follows it in the circle, is reset at its beginning.
    expected = [0, len(vocab.encode("日本 x")), len(vocab.encode("日本 x\nein Wort\n"))]
    assert np.flatnonzero(found).tolist() == expected
    circle = resets(FILES, Part(text + "\n", starts), vocab.encode(text + "\n"), vocab)
    assert np.flatnonzero(circle).tolist() == [*expected[1:], len(ids)]
    assert resets(LINES, Part(text, starts), ids, vocab) is None


def test_batches_know_where_the_memory_is_reset_around_the_circle():
    text = "abc\nde\nfgh\n"
    config = dataclasses.replace(FILES, validation=0.0)
    data = Data.of(config, corpus_of(text, (0, 4, 7)), Vocab.build("char", text), mixed=True)
    assert np.flatnonzero(data.begun).tolist() == [3, 6, 10]
    found = data.resets(np.array([[0, 9], [3, 6]]), 5)
    expected = [[[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]], [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]]
    assert found.astype(int).tolist() == expected


MODEL = LanguageModel(5, jaxlm.ModelConfig(8, 2, 3), "fused", line_end=0)
PARAMS = MODEL.init_params(jax.random.key(0))
IDS = np.array([3, 1, 2, 0, 2, 2, 4, 0, 0, 1, 3, 2, 1, 0, 4, 4, 1, 2], np.int32)


@pytest.mark.parametrize("impl", ["scan", "fused"])
def test_lines_are_read_as_if_each_were_alone(impl):
    model = MODEL.clone(impl=impl)
    plain = model.clone(line_end=None)
    scores = scoring.score_carried(model, PARAMS, IDS)
    begins = [0, *np.flatnonzero(IDS == 0).tolist()]
    for start, end in zip(begins, [*begins[1:], len(IDS) - 1], strict=True):
        alone = scoring.score_carried(plain, PARAMS, IDS[start : end + 1])
        np.testing.assert_allclose(scores[start:end], alone, atol=1e-6)
    # What the network knows by itself is what it can be told.
    told = scoring.score_carried(plain, PARAMS, IDS, resets=IDS == 0)
    np.testing.assert_array_equal(told, scores)
    assert np.abs(scoring.score_carried(plain, PARAMS, IDS) - scores).max() > 1e-3


def test_resets_are_carried_across_chunks(monkeypatch):
    whole = scoring.score_carried(MODEL.clone(line_end=None), PARAMS, IDS, resets=IDS == 0)
    monkeypatch.setattr(scoring, "CARRIED_TOKENS", 5)
    parts = scoring.score_carried(MODEL.clone(line_end=None), PARAMS, IDS, resets=IDS == 0)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("recipe", ["stream", "book"])
def test_a_step_learns_the_same_from_borders_that_it_is_told_and_from_those_it_knows(recipe):
    small = {"length": 6, "batch": 4, "lowercase": False, "optimizer": "adam"}
    config = jaxlm.TrainConfig(recipe=recipe, stride=None if recipe == "stream" else 1, model=MODEL.config, **small)
    mesh = sharding.make_mesh(4)
    starts = np.array([[0, 3, 8, 12], [6, 9, 14, 0]], np.int32)
    begun = (IDS == 0)[(starts[..., None] + np.arange(6)) % len(IDS)]
    found = []
    for model, told in ((MODEL, None), (MODEL.clone(line_end=None), begun), (MODEL.clone(line_end=None), None)):
        steps = training.compiled_steps(model, config, 9, 1.0, mesh)
        state = training.to_devices(training.initial_state(model, config), mesh)
        batches = training.send_batches(starts, None, mesh, told)
        ids = sharding.replicate(IDS.astype(np.uint8), mesh)
        state, nats, _ = steps(state, ids, batches, np.int32(0), np.int32(2))
        found.append((np.asarray(nats)[:2], np.asarray(state.params["dense"]["kernel"])))
    (known, known_weights), (told, told_weights), (without, _) = found
    np.testing.assert_allclose(told, known, rtol=1e-6)
    np.testing.assert_allclose(told_weights, known_weights, atol=1e-6)
    assert np.abs(without - known).max() > 1e-3


# Runs.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of a run of lines and of one of files; not to be changed."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "names.txt").write_text(NAMES)
    (folder / "poems").mkdir()
    for i in range(6):
        (folder / "poems" / f"{i}.txt").write_text(NAMES[i * 60 : i * 60 + 100])
    (folder / "poems" / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    train(dataclasses.replace(LINES, corpus=(str(folder / "names.txt"),)), run="lines", checkpoints=folder)
    train(dataclasses.replace(FILES, corpus=(str(folder / "poems"),)), run="files", checkpoints=folder)
    return folder


@pytest.mark.parametrize("name", ["lines", "files"])
def test_a_run_is_judged_on_the_documents_that_it_did_not_learn(runs, name):
    run = Run.open(runs / name)
    found = evaluate(run)
    assert found.static.loss == pytest.approx(run.metrics()[found.progress[0].epoch - 1]["validation_loss"], rel=1e-6)
    assert found.text == f"{name} of {run.record.corpus}, held out from training"
    corpus = load_corpus(run.record.config.corpus)
    learned, held_out = split(run.record.config, corpus)
    assert found.characters == len(held_out.text)
    # The n-grams are those of the documents that were learned.
    vocab = run.vocab
    assert run.ids().tolist() == vocab.encode(learned.text).tolist()
    assert len(run.counts()) == len(NGram.count(vocab.encode(learned.text), len(vocab), 3))


def test_a_text_of_lines_begins_with_a_line_end_and_each_line_anew(runs):
    generator = jaxlm.load(runs / "lines")
    assert generator.seed_text == "\n"
    line_end = generator.vocab.encode("\n")[0]
    assert generator.model.line_end == line_end
    assert Run.open(runs / "files").model().line_end is None
    # Whatever came before: the memory after a line end is the same.
    for impl in ("scan", "fused"):
        model = generator.model.clone(impl=impl)
        ids = [generator.vocab.encode(text)[None] for text in ("ban\n", "molo\nge\n")]
        priors = [scoring.prior_within(generator.counts, one) for one in ids]
        states = [
            model.apply({"params": generator.params}, one, model.initial_carry(1), False, prior, method=model.states)[0]
            for one, prior in zip(ids, priors, strict=True)
        ]
        # What n-grams say enters with the line end; without them, nothing could differ.
        plain = LanguageModel(model.vocabulary, jaxlm.ModelConfig(8), impl, line_end=int(line_end))
        params = plain.init_params(jax.random.key(1))
        after = [plain.apply({"params": params}, one, plain.initial_carry(1), method=plain.states)[0] for one in ids]
        np.testing.assert_allclose(after[0][:, -1], after[1][:, -1], atol=1e-7)
        assert all(np.isfinite(state).all() for state in states)


def test_a_run_keeps_what_was_read_and_what_was_left_out(runs):
    record = Run.open(runs / "files").record
    folder = runs / "poems"
    assert record.reading == {
        "files": [[str(folder / f"{i}.txt"), 100] for i in range(6)],
        "left_out": [[str(folder / "cover.jpg"), "ending .jpg"]],
    }
    values = json.loads((runs / "files" / "config.json").read_text())
    assert values["reading"] == record.reading


def test_without_units_no_step_knows_of_resets():
    config = jaxlm.TrainConfig(recipe="stream", stride=None, lowercase=False, length=6, batch=4, model=MODEL.config)
    mesh = sharding.make_mesh(4)
    assert training.send_batches(np.zeros((1, 4), np.int32), None, mesh).resets is None
    data = Data.of(config, corpus_of("abcabcabc"), Vocab.build("char", "abc"), mixed=True)
    assert data.begun is None
    assert data.resets(np.zeros((1, 4), np.int32), 6) is None
    assert lstm.fused(*_layer())[1].shape == (1, 2, 3)


def _layer():
    return lstm.init_params(jax.random.key(0), 2, 3), lstm.initial_carry(1, 3), jnp.ones((1, 2, 2))
