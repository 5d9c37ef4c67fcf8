"""The page of a run, in a real browser: it writes what Python writes, shows it, and lets nothing in or out."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest
from helpers import TEXT

import jaxlm
from jaxlm.config import TrainConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import LanguageModel
from jaxlm.page.assemble import Story, assemble
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

KOREAN = "나랏말싸미 듕귁에 달아 문자와로 서르 사맛디 아니할쎄 이런 전차로 어린 백셩이 니르고져 홇배 이셔도 😀 " * 20

GENERATE = """([prompt, length, draw, seeds, mode]) => ready.then((generator) =>
  Promise.all(seeds.map((seed) => generator.generate(prompt, length, draw, seed, mode))))"""

PREDICT = """([prompt, draw, mode]) => ready.then((generator) => generator.text(generator.encode(prompt), 0, mode))
  .then((text) => [...distribution(text.prediction.logits, draw)])"""


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, from the system's packages."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or the like")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root.
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page, HTML, from a file; fails if it writes to the console, or asks for anything but itself."""
    contexts, heard = [], []

    def open_page(html, **settings):
        file = tmp_path / f"page-{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url == file.as_uri() or heard.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


def generator(text=TEXT, kind="char", mode="state", lowercase=False, normalize=False, words=0, **network):
    """A model with random weights, large enough for distributions of all kinds."""
    config = jaxlm.ModelConfig(**{"hidden": 24, **network})
    vocab = Vocab.build(kind, text, words=words)
    model = LanguageModel(len(vocab), config, "fused")
    keys = iter(jax.random.split(jax.random.key(0), 100))
    shapes = model.abstract_params()
    params = jax.tree.map(lambda leaf: 0.6 * jax.random.normal(next(keys), leaf.shape), shapes)
    ids = vocab.encode(text).astype(np.uint8 if len(vocab) <= 256 else np.uint16)
    counts = NGram.count(ids, len(vocab), config.ngram) if config.ngram else None
    return TextGenerator(model, params, vocab, lowercase, text[:30], 12, mode, normalize, counts), ids


def rounded(model):
    """The model with its weights in half precision."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), model.params)
    return dataclasses.replace(model, params=params)


STORY = Story("fox", TrainConfig(corpus=("/home/me/fox.txt",)), "fox", 1032, "2026-01-02T03:04:05+00:00", 2, [], [])


def draw(temperature=1.0, top_k=None, top_p=None, min_p=None):
    return {"temperature": temperature, "topK": top_k, "topP": top_p, "minP": min_p}


MODELS = {
    "one-hot": {},
    "embedding": {"embedding": 10},
    "two layers": {"layers": 2, "hidden": 20},
    "two layers and an embedding": {"layers": 2, "embedding": 7, "hidden": 9},
    "window": {"mode": "window"},
    "bytes": {"kind": "byte", "text": KOREAN},
    "words": {"kind": "word", "words": 20, "embedding": 6},
    "Korean": {"text": KOREAN, "embedding": 8},
    "lowercase": {"text": TEXT.lower(), "lowercase": True, "normalize": True},
    "counts": {"ngram": 4},
    "counts, an embedding and two layers": {"ngram": 7, "embedding": 9, "layers": 2},
    "counts of words": {"ngram": 2, "kind": "word", "words": 20},
    "counts in a window": {"ngram": 3, "mode": "window"},
    "counts of a short text": {"ngram": 7, "text": "abcab"},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_page_writes_what_python_writes(name, visit):
    model, ids = generator(**MODELS[name])
    page = visit(assemble(model, STORY, ids, float32=True))
    prompt = model.seed_text.upper() if model.lowercase else model.seed_text
    for temperature, seed in ((0.8, 3), (0, 0), (1.5, 2**32 - 1)):
        assert_same_text(page, model, prompt, seed, draw(temperature))


@pytest.mark.parametrize("filters", [(5, None, None), (None, 0.8, None), (None, None, 0.02), (9, 0.9, 0.01)])
def test_the_page_filters_what_python_filters(filters, visit):
    model, ids = generator()
    assert_same_text(visit(assemble(model, STORY, ids, float32=True)), model, model.seed_text, 4, draw(1.2, *filters))


def assert_same_text(page, model, prompt, seed, draw):
    settings = {"temperature": draw["temperature"], "top_k": draw["topK"], "top_p": draw["topP"], "min_p": draw["minP"]}
    expected = model.next_token(prompt, **settings)
    found = page.evaluate(PREDICT, [prompt, draw, model.mode])
    np.testing.assert_allclose(found, [expected.get(token, 0) for token in model.vocab.tokens], atol=1e-6)
    [text] = page.evaluate(GENERATE, [prompt, 150, draw, [seed], model.mode])
    assert model.as_read(prompt, "error") + text == model.generate(prompt, 150, seed=seed, **settings)


def test_two_hundred_texts_of_a_trained_run_are_those_of_python(visit, trained, tmp_path):
    run = jaxlm.Run.open(trained)
    page = visit(run.page(tmp_path / "fox.html", float32=True).read_text())
    model = run.generator()[0]
    prompt = model.seed_text
    found = page.evaluate(GENERATE, [prompt, 400, draw(0.7), list(range(200)), "state"])
    expected = model.generate_batch(200, prompt, 400, temperature=0.7, seed=0, mode="state")
    differences = [seed for seed in range(200) if prompt + found[seed] != expected[seed]]
    assert [seed for seed in differences if margin(page, prompt, found[seed], expected[seed], seed) > 1e-5] == []
    assert len(differences) < 5


def margin(page, prompt, found, expected, seed):
    """How far apart were the two tokens between which two texts of characters differ first, when one was drawn."""
    expected = expected.removeprefix(prompt)
    place = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    return page.evaluate(
        """([prompt, text, place, other, draw, seed]) => ready.then(async (generator) => {
          const ids = generator.encode(prompt + text.slice(0, place));
          const scores = logWeights((await generator.text(ids, seed)).prediction.logits, draw);
          const noise = gumbel(foldIn(textKey(seed), place), scores.length);
          const [one, two] = [text[place], other].map((token) => generator.vocab.ids.get(token));
          return Math.abs(scores[one] + noise[one] - scores[two] - noise[two]);
        })""",
        [prompt, found, place, expected[place], draw(0.7), seed],
    )


@pytest.mark.parametrize("name", ["one-hot", "counts, an embedding and two layers"])
def test_in_half_precision_the_page_writes_what_python_does_with_rounded_weights(name, visit):
    exact, ids = generator(**MODELS[name])
    model = rounded(exact)
    page = visit(assemble(exact, STORY, ids))
    prompt = model.seed_text
    found = page.evaluate(PREDICT, [prompt, draw(), "state"])
    tokens = model.vocab.tokens
    np.testing.assert_allclose(found, [model.next_token(prompt)[token] for token in tokens], atol=1e-6)
    [text] = page.evaluate(GENERATE, [prompt, 200, draw(0.8), [5], "state"])
    assert prompt + text == model.generate(prompt, 200, temperature=0.8, seed=5)


def test_the_bundled_model_is_as_sure_in_half_precision_as_in_python(visit, tmp_path):
    run = jaxlm.Run.open(jaxlm.runs.bundled.bundled())
    model = run.generator()[0]
    prompt = "the truth "
    found = visit(run.page(tmp_path / "nietzsche.html").read_text()).evaluate(PREDICT, [prompt, draw(), "state"])
    expected = model.next_token(prompt)
    np.testing.assert_allclose(found, [expected.get(token, 0) for token in model.vocab.tokens], atol=2e-4)


def test_a_weight_that_half_precision_lacks_is_refused():
    model, ids = generator()
    model.params["dense"]["bias"] = model.params["dense"]["bias"].at[0].set(1e5)
    with pytest.raises(jaxlm.InputError, match=r"weights: found 100000 in dense.bias, which float16 cannot hold"):
        assemble(model, STORY, ids)
    assert "float32" in assemble(model, STORY, ids, float32=True)


def test_random_numbers_are_those_of_jax(visit):
    model, ids = generator()
    page = visit(assemble(model, STORY, ids))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(np.uint32(2**32 - 5)), 7), np.uint32(2**31 + 3))
    found = page.evaluate(f"() => [...gumbel(foldIn(foldIn(new Uint32Array([0, {2**32 - 5}]), 7), {2**31 + 3}), 3000)]")
    np.testing.assert_allclose(found, jax.random.gumbel(key, (3000,)), rtol=2e-6, atol=2.5e-7)


def test_filters_break_ties_as_python_does(visit):
    from jaxlm.nn.sampling import Draw, distribution

    model, ids = generator()
    page = visit(assemble(model, STORY, ids))
    logits = np.float32([[1, 2, 2, 0, 2, -1, 1, -np.inf], [0] * 8, [3, 3, 1, 1, 1, 1, 1, 1], [9, 0, 0, 0, 0, 0, 0, 8]])
    for settings in (
        (0, None, None, None),
        (1, 2, None, None),
        (1, None, 0.5, None),
        (2, 4, 0.6, 0.3),
        (1e-40, 1, 1, 1),
    ):
        expected = distribution(logits, Draw.of(*settings))
        found = page.evaluate(
            """([rows, draw]) => rows.map((row) =>
              [...distribution(Float32Array.from(row, (x) => x ?? -Infinity), draw)])""",
            [[[float(x) if np.isfinite(x) else None for x in row] for row in logits], draw(*settings)],
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_unknown_characters_are_named_as_python_names_them(visit):
    model, ids = generator()
    page = visit(assemble(model, STORY, ids))
    strange = "'\\é\n\t\x00\x7f\u2028\u202e뷁😀\u00a0\ue000"
    for prompt in (strange[:6], strange[6:], strange, "a\ud800"):
        with pytest.raises(jaxlm.InputError) as error:
            model.generate(prompt)
        found = page.evaluate(
            """(units) => ready.then((generator) => {
              try { generator.encode(String.fromCharCode(...units)); } catch (error) { return error.message; }
            })""",
            list(np.frombuffer(prompt.encode("utf-16-le", "surrogatepass"), np.uint16).tolist()),
        )
        assert found == str(error.value).split("; expected")[0]
