"""The page of a run, in a real browser: it writes what Python writes, shows it, and lets nothing in or out."""

import dataclasses
import os
import re
import shlex
import shutil
import signal

import jax
import numpy as np
import pytest
from helpers import TEXT, SignalAt

import jaxlm
from jaxlm.cli.commands import main
from jaxlm.config import TrainConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import LanguageModel
from jaxlm.notations import midi, strokes
from jaxlm.page.assemble import Story, assemble, facts, rounded
from jaxlm.runs.command import training_command
from jaxlm.runs.trainer import train
from jaxlm.text.ngram import NGram
from jaxlm.text.vocab import Vocab

CHROMIUM = next(filter(None, map(shutil.which, ("google-chrome", "chromium", "chromium-browser"))), None)

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

    def open_page(html, before="", **settings):
        file = tmp_path / f"page-{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(before)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url == file.as_uri() or heard.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


def generator(text=TEXT, kind="char", mode="state", lowercase=False, normalize=False, words=0, lines=False, **network):
    """A model with random weights, large enough for distributions of all kinds."""
    config = jaxlm.ModelConfig(**{"hidden": 24, **network})
    vocab = Vocab.build(kind, text, words=words)
    model = LanguageModel(len(vocab), config, "fused", line_end=vocab.ids["\n"] if lines else None)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    shapes = model.abstract_params()
    params = jax.tree.map(lambda leaf: 0.6 * jax.random.normal(next(keys), leaf.shape), shapes)
    ids = vocab.encode(text).astype(np.uint8 if len(vocab) <= 256 else np.uint16)
    counts = NGram.count(ids, len(vocab), config.ngram) if config.ngram else None
    return TextGenerator(model, params, vocab, lowercase, text[:30], 12, mode, normalize, counts), ids


def with_rounded_weights(model):
    """The model with the weights that its page has."""

    def of_page(leaf):
        if min(np.shape(np.atleast_2d(leaf))) == 1:
            return leaf
        numbers, scales = rounded(np.asarray(leaf))
        return numbers * scales

    return dataclasses.replace(model, params=jax.tree.map(of_page, model.params))


STORY = Story(
    "fox", TrainConfig(corpus=("/home/me/fox.txt",)), "fox", 1032, "2026-01-02T03:04:05+00:00", "jaxlm train", 2, [], []
)


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
    "lines": {"text": TEXT.replace(". ", "\n"), "lines": True, "layers": 2},
    "lines in a window": {"text": TEXT.replace(". ", "\n"), "lines": True, "mode": "window", "ngram": 2},
    "hard gates": {"gates": "hard_sigmoid", "layers": 2},
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
def test_with_rounded_weights_the_page_writes_what_python_does(name, visit):
    exact, ids = generator(**MODELS[name])
    model = with_rounded_weights(exact)
    page = visit(assemble(exact, STORY, ids))
    prompt = model.seed_text
    found = page.evaluate(PREDICT, [prompt, draw(), "state"])
    tokens = model.vocab.tokens
    np.testing.assert_allclose(found, [model.next_token(prompt)[token] for token in tokens], atol=1e-6)
    [text] = page.evaluate(GENERATE, [prompt, 200, draw(0.8), [5], "state"])
    assert prompt + text == model.generate(prompt, 200, temperature=0.8, seed=5)


def test_rounding_changes_the_bundled_model_s_probabilities_little(visit, tmp_path):
    run = jaxlm.Run.open(jaxlm.runs.bundled.bundled())
    model = run.generator()[0]
    page = visit(run.page(tmp_path / "nietzsche.html").read_text())
    for prompt in ("the truth ", "the trut", "z", model.seed_text, "what is a woman? " * 20):
        found = page.evaluate(PREDICT, [prompt, draw(), "state"])
        expected = model.next_token(prompt)
        np.testing.assert_allclose(found, [expected.get(token, 0) for token in model.vocab.tokens], atol=2e-4)


def test_rounding_takes_each_column_by_its_own_size():
    matrix = np.float32([[1e-3, 0, 1e5], [-2e-3, 0, 3e4], [5e-4, 0, 7]])
    numbers, scales = rounded(matrix)
    assert numbers.dtype == np.int16
    np.testing.assert_allclose(numbers * scales, matrix, atol=np.abs(matrix).max() / 60000, rtol=0)
    assert np.all(np.abs(numbers * scales - matrix) <= np.abs(matrix).max(0) / (2 * 32766))


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


@pytest.fixture(scope="module")
def fox():
    """A small model and its page."""
    model, ids = generator(hidden=12, ngram=3)
    return model, assemble(model, STORY, ids, float32=True)


def set_to(page, name, value):
    page.evaluate(
        """([name, value]) => {
          const input = document.getElementById(name);
          input.value = value;
          input.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        [name, value],
    )


def write(page, **settings):
    for name, value in settings.items():
        set_to(page, name.replace("_", "-"), value)
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    finished(page)


def finished(page):
    page.wait_for_selector("#stop:disabled")
    page.wait_for_selector("#more:enabled")


def shown(page):
    """The text, without the prompt."""
    return page.evaluate("[...document.querySelectorAll('#text b')].map((piece) => piece.textContent).join('')")


def bars(page, kind):
    """The widths of the likeliest tokens' bars of a kind, in percent."""
    return page.evaluate(f"[...document.querySelectorAll('#likely .{kind}')].map((bar) => parseFloat(bar.style.width))")


def test_what_is_shown_is_what_python_generates(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, prompt="The quick ", temperature=0.9, length=150, seed=7)
    assert "The quick " + shown(page) == model.generate("The quick ", 150, temperature=0.9, seed=7)
    write(page, top_k=3, min_p=0.05)
    expected = model.generate("The quick ", 150, temperature=0.9, seed=7, top_k=3, min_p=0.05)
    assert "The quick " + shown(page) == expected
    assert page.text_content("#command") == (
        "jaxlm sample --run fox -p 'The quick ' -t 0.9 -l 150 --seed 7 --top-k 3 --min-p 0.05"
    )


def test_a_word_at_the_end_is_cut_and_comes_back(visit):
    model, ids = generator(hidden=8, kind="word", words=20)
    page = visit(assemble(model, STORY, ids, float32=True))
    write(page, prompt="quick", temperature=1, length=100, seed=2)
    assert "quick" + shown(page) == model.generate("quick", 100, temperature=1, seed=2)
    page.click("#more")
    finished(page)
    assert "quick" + shown(page) == model.generate("quick", 200, temperature=1, seed=2)


def test_writing_stops_and_goes_on_as_if_it_had_not_stopped(visit, fox):
    model, html = fox
    page = visit(html)
    set_to(page, "pace", "slow")
    set_to(page, "length", 1000)
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    page.wait_for_selector("#text b:nth-of-type(4)")
    page.click("#stop")
    finished(page)
    before = len(shown(page))
    assert before < 1000
    set_to(page, "pace", "fast")
    page.click("#more")
    finished(page)
    assert model.seed_text + shown(page) == model.generate(length=before + 1000, temperature=0.5, seed=1)


def test_another_text_has_the_next_seed(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, length=50)
    page.click("#another")
    finished(page)
    assert page.input_value("#seed") == "2"
    assert model.seed_text + shown(page) == model.generate(length=50, temperature=0.5, seed=2)


def test_another_token_is_chosen_and_written_on_from(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, prompt="The quick ", temperature=1, length=50, seed=3)
    before = shown(page)
    page.locator("#text b").nth(9).click()
    row = page.locator("#likely button:not(.written)").first
    token = row.locator(".token").text_content().replace("␣", " ")
    assert token != before[9]
    row.click()
    finished(page)
    prompt = "The quick " + before[:9] + token
    assert page.input_value("#prompt") == prompt
    assert "The quick " + shown(page) == model.generate(prompt, 50, temperature=1, seed=3)


def test_the_text_goes_on_from_a_place_that_is_held(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, prompt="The quick ", temperature=1, length=50, seed=3)
    before = shown(page)
    page.locator("#text b").nth(9).click()
    page.click("#more")
    finished(page)
    prompt = "The quick " + before[:10]
    assert "The quick " + shown(page) == model.generate(prompt, 50, temperature=1, seed=3)


def test_the_likeliest_tokens_are_those_of_python_and_move_with_the_sliders(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, prompt="The quick ", temperature=1, length=50)
    page.locator("#text b").nth(0).click()
    learned, likely = bars(page, "learned"), model.next_token("The quick ")
    np.testing.assert_allclose(learned[:10], [100 * share for share in list(likely.values())[:10]], atol=1e-3)
    assert bars(page, "drawn") == learned
    set_to(page, "temperature", 0.5)
    assert bars(page, "learned") == learned
    cooler = model.next_token("The quick ", temperature=0.5)
    np.testing.assert_allclose(
        bars(page, "drawn")[:10], [100 * cooler[token] for token in list(likely)[:10]], atol=1e-3
    )
    set_to(page, "temperature", 0)
    assert bars(page, "drawn")[:10] == [100] + [0] * 9
    set_to(page, "temperature", 1)
    set_to(page, "top-k", 2)
    assert bars(page, "drawn")[1] > 0
    assert bars(page, "drawn")[2:10] == [0] * 8


def test_the_page_shows_what_the_counts_and_what_the_network_say(visit, fox):
    model, html = fox
    page = visit(html)
    page.wait_for_selector("#likely button")
    ids = model.vocab.encode(model.seed_text)
    counted = model.counts.after(model.counts.states(ids)[-1:]).rows()[0]
    first = [model.vocab.ids[token] for token in list(model.next_token(model.seed_text))[:10]]
    np.testing.assert_allclose(bars(page, "counts"), 100 * counted[first], atol=1e-3)
    assert max(abs(np.array(bars(page, "lstm")) - bars(page, "counts"))) > 1
    assert "the whole training text" in page.text_content("#contents")


def test_surprise_is_what_python_computes(visit, fox):
    model, html = fox
    page = visit(html)
    write(page, prompt="The quick ", temperature=1.5, length=200, seed=5)
    surprises = [surprise for _, surprise in model.surprises("The quick ", shown(page))]
    levels = [sum(surprise >= least for least in (0.7, 1.4, 2.3, 3.2, 4.6, 6.9)) for surprise in surprises]
    classes = page.evaluate("[...document.querySelectorAll('#text b')].map((piece) => piece.className)")
    assert classes == [f"s{level}" if level else "" for level in levels]
    assert len(set(classes)) > 4


def test_everything_works_by_keyboard(visit, fox):
    page = visit(fox[1])
    page.wait_for_selector("#start:enabled")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    finished(page)
    page.focus("#text")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    here = "[...document.querySelectorAll('#text b')].findIndex((piece) => piece.classList.contains('here'))"
    assert page.evaluate(here) == 1
    page.keyboard.press("Escape")
    assert page.evaluate(here) == -1
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(here) == page.locator("#text b").count() - 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#likely') !== null")
    page.focus("#tab-write")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#learn")
    assert not page.is_visible("#write")
    assert page.evaluate("document.activeElement.id") == "tab-learn"


def test_a_browser_that_cannot_run_the_model_is_told_so(visit, fox):
    page = visit(fox[1], before="delete globalThis.DecompressionStream")
    page.wait_for_selector("#error:not(:empty)")
    assert "DecompressionStream is not defined" in page.text_content("#error")
    assert page.text_content("#status") == ""
    assert page.is_disabled("#start")


@pytest.mark.parametrize("notation", [None, "strokes", "midi", "abc"])
def test_every_control_has_a_name(notation, visit, fox):
    page = visit(fox[1] if notation is None else notated(notation, samples=SAMPLES))
    page.wait_for_selector("#likely button")
    nameless = """[...document.querySelectorAll("input, select, textarea, button")]
      .filter((control) => !control.labels?.length && !control.ariaLabel && !control.textContent.trim())
      .map((control) => control.outerHTML)"""
    assert page.evaluate(nameless) == []


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_what_is_behind_it(scheme, visit, fox):
    page = visit(fox[1], color_scheme=scheme)
    value = "(name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()"
    names = ("ink", "quiet", "accent", "accent-ink", "paper", "panel", "held", "drawn")
    colours = {name: page.evaluate(value, name) for name in names}
    colours = {name: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for name, v in colours.items()}
    tint = [int(channel) for channel in page.evaluate(value, "surprise").split(",")]
    panel = [int(colours["panel"][i : i + 2], 16) for i in (1, 3, 5)]
    colours["tinted"] = "#" + "".join(
        f"{round(0.55 * one + 0.45 * other):02x}" for one, other in zip(tint, panel, strict=True)
    )
    pairs = [(text, back) for text in ("ink", "quiet", "accent") for back in ("paper", "panel")]
    pairs += [("accent-ink", "accent"), ("ink", "tinted"), ("held", "paper"), ("drawn", "paper")]
    for text, back in pairs:
        dark, light = sorted((luminance(colours[text]), luminance(colours[back])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, back)


METRICS = [
    {"epoch": 1, "loss": 2.5, "validation_loss": 2.6, "seconds": 3.0},
    {"epoch": 2, "loss": 2.0, "validation_loss": 2.3, "seconds": 2.0},
    {"epoch": 3, "loss": 1.5, "validation_loss": 2.4, "seconds": 2.0},
]

SAMPLES = [
    {
        "epoch": epoch,
        "temperature": temperature,
        "seed": 4,
        "prompt": "😀 of ",
        "text": f"😀 of epoch {epoch} at {temperature}, copied",
        "surprise": 1.25,
        "copied": 5,
        "copied_at": 17,
        "copied_from": 5,
    }
    for epoch in (1, 2, 3)
    for temperature in (0.2, 1.0)
]


def test_the_slider_over_epochs_moves_through_samples_and_curves(visit, fox):
    model, _ = fox
    _, ids = generator(hidden=12, ngram=3)
    page = visit(assemble(model, dataclasses.replace(STORY, metrics=METRICS, samples=SAMPLES), ids))
    page.click("#tab-learn")
    cards = "[...document.querySelectorAll('#samples .text')].map((card) => card.textContent)"
    assert page.evaluate(cards) == ["😀 of epoch 2 at 0.2, copied", "😀 of epoch 2 at 1.0, copied"]
    assert "held-out loss 2.3000 · the best epoch" in page.text_content("#losses")
    marked = page.evaluate("[...document.querySelectorAll('#samples mark')].map((mark) => mark.textContent)")
    assert marked == ["epoch"] * 2
    assert page.locator("#samples .given").all_text_contents() == ["😀 of "] * 2
    places = []
    for place, epoch in enumerate((1, 2, 3)):
        set_to(page, "epoch", place)
        assert page.evaluate(cards)[0] == f"😀 of epoch {epoch} at 0.2, copied"
        assert page.text_content("output[for=epoch]") == str(epoch)
        places.append(float(page.get_attribute("#curves .cursor", "x1")))
    assert places == sorted(set(places))
    assert page.locator("#curves path").count() == 2
    circle = page.locator("#curves circle")
    assert float(circle.get_attribute("cx")) == places[1]
    assert "underlined: 5 characters" in page.text_content("#samples")


def test_a_run_without_samples_or_a_held_out_part_makes_a_page_that_says_so(visit, fox):
    model, html = fox
    page = visit(html)
    page.click("#tab-learn")
    assert "kept no losses" in page.text_content("#curves")
    assert "kept no samples" in page.text_content("#samples")
    assert not page.is_visible("#epoch")
    _, ids = generator(hidden=12, ngram=3)
    metrics = [{name: line[name] for name in ("epoch", "loss")} for line in METRICS]
    page = visit(assemble(model, dataclasses.replace(STORY, metrics=metrics, samples=SAMPLES[:2]), ids))
    page.click("#tab-learn")
    assert "Nothing was held out" in page.text_content("#curves")
    assert page.locator("#curves path").count() == 1
    assert "no samples of epoch 2" in page.text_content("#samples")
    page.click("#tab-facts")
    device = page.locator("dt", has_text="Device").evaluate("(term) => term.nextSibling.textContent")
    assert device == "not kept by this run"
    odd = [{"epoch": 2, "loss": "<b>", "validation_loss": None, "seconds": True}, {"epoch": 3, "loss": float("nan")}]
    page = visit(assemble(model, dataclasses.replace(STORY, metrics=odd, command=""), ids))
    assert "kept no losses" in page.text_content("#curves")
    assert "jaxlm did not train it" in page.text_content("#again")


def test_a_run_that_was_stopped_before_its_first_epoch_ended_makes_a_page_that_says_so(visit, small, tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT)
    with pytest.raises(KeyboardInterrupt):
        train(small, run="fox", checkpoints=tmp_path, reporter=SignalAt(3, signal.SIGINT))
    page = visit(jaxlm.Run.open(tmp_path / "fox").page(tmp_path / "fox.html").read_text())
    write(page, length=50)
    page.click("#tab-learn")
    assert page.text_content("#learn").count("No epoch of this run was complete") == 2
    page.click("#tab-facts")
    assert page.text_content("#about").count("not known before an epoch is complete") == 3
    assert "before the end of the first epoch" in page.text_content("#about")


def test_the_page_names_the_device_and_what_was_never_there(trained):
    def told(**changes):
        return dict(facts(dataclasses.replace(STORY, **changes), 100, 5))

    [device] = {line["device"] for line in jaxlm.Run.open(trained).metrics()}
    assert re.fullmatch("CPU, [0-9]+ cores?", device)
    metrics = [{**line, "device": name} for line, name in zip(METRICS, [device, device, "GPU, H100"], strict=True)]
    assert told(metrics=metrics)["Device"] == f"{device}; GPU, H100"
    assert told()["Device"] == told()["Time"] == told()["Training loss"] == "not kept by this run"
    assert told(config=dataclasses.replace(STORY.config, validation=0))["Held-out loss"] == "none: nothing was held out"
    assert told(command="", epoch=0)["Weights of"] == "a model that was imported"
    assert told(command="", epoch=0, characters=0)["Trained on"] == "an unknown text"
    assert "Notation" not in told()


def test_the_command_makes_the_same_run_again():
    from jaxlm.cli.options import TRAIN
    from jaxlm.cli.parser import read
    from jaxlm.config import changed, settings

    configs = [
        TrainConfig(corpus=("/home/me/fox.txt",)),
        settings("book", corpus=("fox.txt",), lowercase=False, epochs=3, hidden=32, stride=2),
        settings("stream", "medium", corpus=("a b.txt", "c.txt"), tokens="word", validation=0.2),
        settings(
            "stream", "small", corpus=("-x.txt", "-"), glob=("*.py", "-a"), patience=3, ngram=0, normalize=False, seed=5
        ),
    ]
    for config in configs:
        line = training_command(config)
        assert "/home" not in line
        given = read(TRAIN, shlex.split(line)[2:])
        found = changed(TRAIN.defaults(given), given).config
        names = tuple(os.path.basename(source) for source in config.corpus)
        assert found == dataclasses.replace(config, corpus=names)


def test_the_command_of_a_run_that_started_from_another_makes_the_same_run_again():
    from jaxlm.cli.options import TRAIN
    from jaxlm.cli.parser import read
    from jaxlm.config import settings, started

    parent = settings("stream", "medium", corpus=("a.txt",), epochs=20, batch=64, notation="text")
    child = started(parent, None, None, {"corpus": ("b.txt",), "epochs": 5, "batch": 32})
    given = read(TRAIN, shlex.split(training_command(child, "par"))[2:])
    assert given.pop("start_from") == "par"
    recipe = given.pop("recipe")
    assert started(parent, recipe, given.pop("size", None), given) == child


HOSTILE = (
    "</script><script>hacked=1</script><img src=x onerror=hacked=1>&lt;\u2028\u2029\x00\x07\ud800\u202e\u2066<!--]]>"
)


@pytest.mark.parametrize("notation", [None, "strokes", "midi", "abc"])
def test_hostile_texts_stay_texts(notation, visit):
    text = (HOSTILE + " ") * 9
    model, ids = generator(text, hidden=8, ngram=2)
    model = dataclasses.replace(model, seed_text=HOSTILE)
    sample = {**SAMPLES[2], "text": HOSTILE, "seed": HOSTILE}
    config = TrainConfig(corpus=(HOSTILE,), notation=notation)
    story = Story(HOSTILE, config, HOSTILE, 9, HOSTILE, HOSTILE, 2, METRICS, [sample])
    page = visit(assemble(model, story, ids, float32=True))
    assert page.evaluate("() => ready.then(({ values }) => values.seedText === values.name)")
    write(page, temperature=1, length=200)
    page.locator("#text b").nth(5).click()
    page.locator("#likely button").first.click()
    finished(page)
    for tab in ("learn", "facts"):
        page.click(f"#tab-{tab}")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == assemble(model, STORY, ids).count("<script")
    seen = page.inner_text("body") + page.evaluate("document.getElementById('text').textContent")
    assert "␀" in seen
    assert "⟨U+202E⟩" in seen
    assert "⟨U+D800⟩" in seen
    assert not set("\u202e\u2066\x00\u2028") & set(seen)


def test_a_page_lets_nothing_in_or_out(browser, fox, tmp_path):
    file = tmp_path / "page.html"
    strange = "<script>hacked = 1</script><img src='https://example.org/x.png' onerror='hacked = 1'>"
    file.write_text(fox[1].replace("<main>", f"<main>{strange}"))
    context = browser.new_context()
    page = context.new_page()
    refused, sent = [], []
    page.on("requestfailed", lambda request: refused.append((request.url, request.failure)))
    page.on("requestfinished", lambda request: sent.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')") == "refused"
    assert page.evaluate("() => ready.then((generator) => generator.values.name)") == "fox"
    assert page.evaluate("typeof hacked") == "undefined"
    context.close()
    assert sent == [file.as_uri()]
    assert ("https://example.org/x.png", "csp") in refused


@pytest.mark.parametrize("text", [TEXT, KOREAN, "الكلب البني السريع يقفز فوق الثعلب الكسول " * 20])
def test_a_phone_s_width_is_enough(text, visit):
    model, ids = generator(text, hidden=8, ngram=2)
    page = visit(
        assemble(model, dataclasses.replace(STORY, name="x" * 90, metrics=METRICS, samples=SAMPLES), ids),
        viewport={"width": 360, "height": 740},
        is_mobile=True,
        has_touch=True,
    )
    write(page, temperature=1, length=200)
    for tab in ("write", "learn", "facts"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert shown(page)


def test_jaxlm_page_writes_the_page_of_a_run(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["page", str(trained)]) == 0
    page = (tmp_path / "fox.html").read_text("ascii")
    assert page.startswith("<!doctype html>")
    assert "16 bits, to which they are rounded" in page
    assert "fox, as a page of" in capsys.readouterr().err
    assert main(["page", str(trained)]) == 0  # Again.
    (tmp_path / "fox.html").write_text("mine")
    assert main(["page", str(trained)]) == 2
    assert "output fox.html: found a file there that jaxlm has not written" in capsys.readouterr().err
    assert (tmp_path / "fox.html").read_text() == "mine"
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert main(["page", str(trained), "-o", "fox.html", "--open", "--float32"]) == 0
    assert opened == [(tmp_path / "fox.html").as_uri()]
    assert "32 bits, as they are" in (tmp_path / "fox.html").read_text()


def test_a_page_that_cannot_be_written_leaves_nothing(trained, tmp_path):
    with pytest.raises(
        jaxlm.RunError, match=r"output .*: cannot be written \(No such file or directory\); nothing was"
    ):
        jaxlm.Run.open(trained).page(tmp_path / "missing" / "fox.html")
    for nowhere in (3, "", "a\0"):
        with pytest.raises(jaxlm.InputError, match=r"output: found .*; name the file to write"):
            jaxlm.Run.open(trained).page(nowhere)
    with pytest.raises(jaxlm.RunError, match="output /: cannot be written"):
        jaxlm.Run.open(trained).page("/")
    assert list(tmp_path.iterdir()) == []


def drawn_lines():
    """Lines that are drawings, lines that almost are, and lines of anything."""
    random = np.random.default_rng(7)
    letters = strokes.ACROSS + strokes.DOWN
    odd = [*letters, *" \t\x1c\x85\u00a0\u2028\ufeff", *"XYZz0<ぁふ한😀\u0301", "\ud800"]
    for _ in range(150):
        points = random.integers(0, 49, (random.integers(1, 30), 2)).tolist()
        yield strokes.to_text([points[at : at + 4] for at in range(0, len(points), 4)])
        yield "".join(random.choice([*letters, " "], random.integers(0, 40)))
        yield "".join(random.choice(odd, random.integers(0, 40)))


def test_drawings_are_those_of_python(visit, fox):
    page, lines = visit(fox[1]), list(drawn_lines())
    units = [np.frombuffer(line.encode("utf-16-le", "surrogatepass"), np.uint16).tolist() for line in lines]
    found = page.evaluate("(lines) => lines.map((units) => drawingOf(String.fromCharCode(...units)))", units)
    expected = [strokes.from_text(line) for line in lines]
    assert [one["strokes"] for one in found] == [
        [list(map(list, stroke)) for stroke in drawing] for drawing, _ in expected
    ]
    assert [one["strays"] for one in found] == [strays for _, strays in expected]
    sheet = strokes.write(lines).content.decode()
    paths = [path for path in page.evaluate("(all) => all.map(({ strokes }) => pathOf(strokes))", found) if path]
    assert paths == re.findall('<path d="(.*?)"/>', sheet)
    assert len(paths) > 300


def noted_lines():
    """Lines that are pieces, lines that almost are, and lines of anything."""
    random = np.random.default_rng(8)
    waits, keys, lengths, drums = (
        [chr(first + i) for i in range(count)] for first, count in ((0xC0, 96), (0x21, 88), (0x120, 96), (0x410, 47))
    )
    for _ in range(150):
        notes = [
            random.choice(waits)
            + random.choice([random.choice(keys) + random.choice(lengths), random.choice(drums), "~"])
            for _ in range(random.integers(1, 30))
        ]
        yield "".join(notes)
        yield "".join(random.choice([*waits, *keys, *lengths, *drums, *"~\x7f y\u00bf\u0180\u043f😀"], 40))


def test_notes_of_midi_are_those_of_python(visit, fox):
    page, lines = visit(fox[1]), list(noted_lines())
    found = page.evaluate("(lines) => lines.map(midiNotes)", lines)
    expected = [midi.notes_of(line)[0] for line in lines]
    assert [[(one["start"], one["pitch"], one["steps"]) for one in notes] for notes in found] == expected
    written = [
        [line.encode("utf-16-le")[2 * n["at"] : 2 * n["end"]].decode("utf-16-le") for n in notes]
        for line, notes in zip(lines, found, strict=True)
    ]
    assert [[midi.notes_of(one)[0][0][1:] for one in notes] for notes in written] == [
        [note[1:] for note in notes] for notes in expected
    ]
    assert min(pitch for notes in expected for _, pitch, _ in notes) == -81
    assert sum(map(len, expected)) > 1500


READ = "(text) => text.split(ABC.border).map(ABC.read).filter(({ notes }) => notes.length)"
"""The tunes in a text."""

TUNES = {
    # What it shows: the tune, and what is played, by MIDI's numbers and in whole notes.
    "a scale": ("X:1\nK:C\nC D E F|G A B c|", "60 62 64 65 67 69 71 72", [1 / 8] * 8),
    "octaves": ("X:1\nL:1/4\nK:C\nC,, C, C c c' c''|", "36 48 60 72 84 96", [1 / 4] * 6),
    "a key, and accidentals to the bar's end": (
        "X:1\nL:1/4\nK:D\nF C =F F | F ^^G _B B b|",
        "66 61 65 65 66 69 70 70 82",
        [1 / 4] * 9,
    ),
    "minor and modes": (
        "X:1\nL:1/4\nK:Gm\nB E[K:Ador]F C[K:E mix]G D[K:Hp]C G[K:F#]E [K:Gb]C",
        "70 63 66 60 68 62 61 67 65 59",
        [1 / 4] * 10,
    ),
    "durations": (
        "X:1\nL:1/8\nK:C\nC2 C/ C// C3/2 C/4 C3 C z2 C",
        "60 " * 8,
        np.array([2, 1 / 2, 1 / 4, 3 / 2, 1 / 4, 3, 1, 1]) / 8,
    ),
    "a short meter has short notes": ("X:1\nM:2/4\nK:C\nCD", "60 62", [1 / 16] * 2),
    "dotted pairs": ("X:1\nK:C\nC>D E<F G>>A", "60 62 64 65 67 69", np.array([1.5, 0.5, 0.5, 1.5, 1.75, 0.25]) / 8),
    "triplets": (
        "X:1\nK:C\n(3CDE F (3:2:4CDEF G",
        "60 62 64 65 60 62 64 65 67",
        np.array([2 / 3] * 3 + [1] + [2 / 3] * 4 + [1]) / 8,
    ),
    "chords and ties": (
        "X:1\nL:1/4\nK:C\n[CEG]2 [C-E]|[CF] ^F-|F F|",
        "60 64 67 60 64 65 66 65",
        [0.5] * 4 + [0.25] * 2 + [0.5, 0.25],
    ),
    "what is only printed": (
        'X:1\nT:A b c\nK:C\n"Am"C {fg}D !trill!E ~F .G (A B) % c d e\nw:a b c\nc y d|',
        "60 62 64 65 67 69 71 72 74",
        [1 / 8] * 9,
    ),
    "a repeat": ("X:1\nK:C\nC|:D:|E", "60 62 62 64", [1 / 8] * 4),
    "a repeat from the beginning, and from a double bar": (
        "X:1\nK:C\nC D:|E||F:|G",
        "60 62 60 62 64 65 65 67",
        [1 / 8] * 8,
    ),
    "endings": ("X:1\nK:C\n|:C|1D:|2E||F|[1,2 G:|[3 A|]B", "60 62 60 64 65 67 65 67 65 69 71", [1 / 8] * 11),
    "two repeats": ("X:1\nK:C\n|:C::D:|", "60 60 62 62", [1 / 8] * 4),
    "the middle of a tune": ("D|E2\n", "62 64", [1 / 8, 1 / 4]),
}


@pytest.mark.parametrize("name", TUNES)
def test_notes_of_abc_are_those_that_are_written(name, visit, fox):
    text, pitches, lengths = TUNES[name]
    [tune] = visit(fox[1]).evaluate(READ, text)
    notes = tune["notes"]
    assert [note["pitch"] for note in notes] == [int(pitch) for pitch in pitches.split()]
    np.testing.assert_allclose([note["length"] for note in notes], lengths)
    if "[" not in text and "z" not in text:
        np.testing.assert_allclose([note["start"] for note in notes], np.cumsum([0, *lengths[:-1]]))


def test_a_tune_is_read_with_its_rests_its_voices_and_its_time(visit, fox):
    page = visit(fox[1])
    text = "X:1\nM:6/8\nQ:3/8=90\nK:C\nV:1\nC z D Z|E\nV:2\nc3 d\n\n\nX:2\nQ:120\nL:1/4\nK:C\nC\n"
    first, second = page.evaluate(READ, text)
    assert first["whole"] == pytest.approx(60 / 90 / (3 / 8))
    assert second["whole"] == pytest.approx(2)
    found = {(note["pitch"], note["start"], text[note["at"] : note["end"]]) for note in first["notes"]}
    assert found == {(60, 0, "C"), (72, 0, "c3"), (62, 1 / 4, "D"), (74, 3 / 8, "d"), (64, 9 / 8, "E")}
    for tempo in ("0", "1/4=999999999", "Allegro", "1/0=5"):
        [tune] = page.evaluate(READ, f"X:1\nQ:{tempo}\nK:C\nC999999999 C/0 [C c,,,,,,,,,,,,,,")
        assert tune["whole"] == 2
        assert [note["length"] for note in tune["notes"]] == [8, 1 / 16, 1 / 8, 1 / 8]
        assert all(0 <= note["pitch"] <= 127 for note in tune["notes"])


def test_any_text_is_read_as_tunes(visit, fox):
    random = np.random.default_rng(9)
    page = visit(fox[1])
    signs = list("CDEFGABcdefgabzxZX^_=,'/0123456789|:[]()<>-\"!{}~%\\\n KLMQVX")
    texts = ["X:1\nK:C\n" + "".join(random.choice(signs, 400)) for _ in range(300)] + ["X:1\nK:C\n" + "[2||" * 3000]
    assert len(page.evaluate(f"(texts) => texts.map({READ})", texts)) == len(texts)


NOTATED = {
    "strokes": "\n" + "aあWひ cうdえeお\nmおmなEな Iな\n" * 9,
    "midi": "\n" + "ÌTīÀPīÀHīÀ0ī\nÌTīÆ\u0410À0ł\n" * 9,
    "abc": "\n\n" + "X:1\nQ:1/4=60\nK:C\nCDE|FG2\n\n" * 6,
}
"""By notation, a training text."""


def notated(name, kind="char", **story):
    """The page of a run in a notation."""
    text = NOTATED[name]
    model, ids = generator(text, hidden=8, kind=kind, words=9)
    model = dataclasses.replace(model, seed_text=text[: len(text) - len(text.lstrip())])
    config = TrainConfig(corpus=("pieces",), notation=name)
    return assemble(model, dataclasses.replace(STORY, config=config, **story), ids)


def next_frame(page):
    page.evaluate("() => new Promise(requestAnimationFrame)")


def test_the_page_draws_what_it_writes_as_it_comes(visit):
    page = visit(notated("strokes"))
    paths = "[...document.querySelectorAll('#write .sheet path')].map((path) => path.getAttribute('d'))"
    write(page, prompt="mおmなEな Iな\naあ", temperature=1, length=400, seed=3)
    next_frame(page)
    text = "mおmなEな Iな\naあ" + shown(page)
    assert page.evaluate(paths) == re.findall('<path d="(.*?)"/>', strokes.write(text.split("\n")).content.decode())
    assert len(page.evaluate(paths)) > 5
    *complete, _ = text.split("\n")
    astray = sum(strokes.from_text(line)[1] > 0 for line in complete)
    assert page.text_content("#write figcaption") == (
        f"{len(page.evaluate(paths))} drawings, {astray} with letters that make no point"
    )
    set_to(page, "pace", "slow")
    page.click("#start")
    page.wait_for_selector("#write .sheet svg:nth-of-type(3)")
    page.click("#stop")
    assert len(shown(page)) < 200
    next_frame(page)
    text = "mおmなEな Iな\naあ" + shown(page)
    assert page.evaluate(paths) == re.findall('<path d="(.*?)"/>', strokes.write(text.split("\n")).content.decode())


def test_a_drawing_ends_where_its_text_is_cut(visit):
    page = visit(notated("strokes", kind="word"))
    write(page, prompt="\n", temperature=1, length=50, seed=1)
    for _ in range(6):
        page.click("#more")
        finished(page)
        next_frame(page)
        drawn = page.evaluate(
            "[...document.querySelectorAll('#write .sheet path')].map((path) => path.getAttribute('d'))"
        )
        assert drawn == re.findall('<path d="(.*?)"/>', strokes.write(shown(page).split("\n")).content.decode())


def test_the_drawing_and_the_point_of_a_place_that_is_held_are_marked(visit):
    page = visit(notated("strokes"))
    write(page, prompt="\n", temperature=1, length=200, seed=3)
    next_frame(page)
    text = "\n" + shown(page)
    found = re.search("[a-zA-W][あ-ひ]", text[60:])
    place = 60 + found.start() + 1
    page.locator("#text b").nth(place - 1).click()  # The prompt is a character.
    circle = page.locator("#write .sheet .here circle")
    point = [int(circle.get_attribute(side)) for side in ("cx", "cy")]
    assert point == [strokes.ACROSS.index(text[place - 1]), strokes.DOWN.index(text[place])]
    page.keyboard.press("Escape")
    assert page.locator("#write .sheet .here").count() == 0


def test_an_empty_prompt_begins_something_new(visit):
    page = visit(notated("strokes"))
    page.wait_for_selector("#more:enabled")
    assert page.input_value("#prompt") == ""
    assert page.get_attribute("#prompt", "placeholder") == "Nothing: a new drawing begins"
    assert "-p '\\n' --escapes" in page.text_content("#command")
    assert page.locator("#text .given").get_attribute("hidden") is not None
    page.click("#start")
    finished(page)
    [expected] = page.evaluate(GENERATE, ["\n", 1000, draw(0.5), [1], "state"])
    assert shown(page) == expected


def test_each_piece_begins_on_a_whole_note_after_a_pause_and_drums_are_drawn_apart(visit, fox):
    tone, drum = "ÌTī", "ÆА"  # After 12 steps, of 12; after 6.
    [notes, tones, drums] = visit(fox[1]).evaluate(
        """(text) => {
          const score = new Score(MIDI);
          score.show(text);
          return [score.notes, ...score.lines.map((line) => line.getAttribute("d").split("M").length - 1)];
        }""",
        f"{tone}\n\n{tone}{drum}\n{'Ĕ' + tone[1:]}\n{drum}\n\u00f0{drum[1]}\n{drum}",  # The last but one after 48.
    )
    found = [(note["start"] / 2, note["pitch"]) for note in notes]  # In whole notes, of two seconds.
    assert found == [
        (1 / 4, 72),
        (2 + 1 / 4, 72),
        (2 + 3 / 8, -35),
        (4 + 84 / 48, 72),
        (7 + 1 / 8, -35),
        (10, -35),
        (12 + 1 / 8, -35),
    ]
    assert (tones, drums) == (3, 4)


LISTEN = """globalThis.heard = [];
const { setValueAtTime } = AudioParam.prototype;
AudioParam.prototype.setValueAtTime = function (value, time) {
  if (value) heard.push([value, time]);
  return setValueAtTime.call(this, value, time);
};"""
"""Keeps the frequencies that are played, and when; the loudness begins at 0."""


@pytest.mark.parametrize(
    ("notation", "prompt", "keys", "starts"),
    [
        ("midi", "ÌTīÀPīÆ0īÀ0ī\n", [72, 68, 36, 36], [0.5, 0.5, 0.75, 0.75]),
        ("abc", "X:1\nQ:1/4=60\nK:C\nCDE|FG2\n\n", [60, 62, 64], [0, 0.5, 1]),
    ],
)
def test_the_page_plays_what_is_written(notation, prompt, keys, starts, visit):
    page = visit(notated(notation), before=LISTEN)
    write(page, prompt=prompt, length=50)
    next_frame(page)
    assert page.locator("#write .roll .tones").get_attribute("d").count("M") >= len(keys)
    button = page.locator("#write figure button")
    button.focus()
    page.keyboard.press("Enter")
    assert button.text_content() == "Stop playing"
    heard = page.evaluate("heard")[: len(keys)]
    np.testing.assert_allclose([value for value, _ in heard], [440 * 2 ** ((key - 69) / 12) for key in keys], rtol=1e-6)
    np.testing.assert_allclose(
        [time - heard[0][1] for _, time in heard], [start - starts[0] for start in starts], atol=1e-6
    )
    page.wait_for_selector("#write .cursor:not([x1='0'])", state="attached")
    page.keyboard.press("Enter")
    assert button.text_content() == "Play"
    silent = page.evaluate("heard.length")
    page.wait_for_timeout(200)
    assert page.evaluate("heard.length") == silent
    assert page.get_attribute("#write .cursor", "x1") == "0"
    page.evaluate("heard.length = 0")
    page.locator("#write .roll svg").click(position={"x": 40 * starts[-1] - 3, "y": 1})  # Just before the last one.
    assert page.evaluate("heard[0][0]") == pytest.approx(440 * 2 ** ((keys[-1] - 69) / 12))


def test_a_tune_is_played_from_the_place_that_is_held_and_stops_where_another_begins(visit):
    page = visit(notated("midi"), before=LISTEN)
    write(page, prompt="ÌTīÀPī", temperature=1, length=400, seed=2)
    next_frame(page)
    text = "ÌTīÀPī" + shown(page)
    *_, last = re.finditer("[Á-ğ][!-x][Ġ-\u017f]", text)
    assert last.start() > 50
    page.locator("#text b").nth(last.start() - 6).click()
    page.click("#write figure button")
    page.wait_for_selector("#text .sounding")
    sounding = page.evaluate("[...document.querySelectorAll('#text .sounding')].map((one) => one.textContent).join('')")
    assert sounding.startswith(last[0])
    inside = "(one) => one.offsetTop - one.parentNode.scrollTop < one.parentNode.clientHeight"
    assert page.locator("#text .here").evaluate(inside)
    [note] = midi.notes_of(last[0])[0]
    assert page.evaluate("heard[0][0]") == pytest.approx(440 * 2 ** ((note.pitch - 69) / 12))
    page.click("#another")
    finished(page)
    next_frame(page)
    assert page.text_content("#write figure button") == "Play"
    assert page.locator("#text .sounding").count() == 0


def test_a_note_sounds_as_it_should(visit, fox):
    rendered = """async (notes) => {
      const context = new OfflineAudioContext(1, 3 * 22050, 22050);
      const output = context.createDynamicsCompressor();
      output.connect(context.destination);
      for (const note of notes) sound(output, note, 0);
      return [...(await context.startRendering()).getChannelData(0)];
    }"""
    page = visit(fox[1])
    samples = np.array(page.evaluate(rendered, [{"start": 0.5, "length": 1, "pitch": 57}]))
    spectrum = np.abs(np.fft.rfft(samples[11025:33075]))
    assert np.argmax(spectrum) == pytest.approx(220, abs=1)
    assert np.abs(samples[:11025]).max() < 1e-6
    assert np.abs(samples[40000:]).max() < 1e-3
    chord = [{"start": 0, "length": 2, "pitch": pitch} for pitch in (36, 48, 55, 60, 64, 67, 72, 76)]
    drums = [{"start": 0, "length": 0, "pitch": -pitch} for pitch in (35, 38, 42, 49)]
    together = np.abs(page.evaluate(rendered, chord + drums))
    assert 0.1 < together.max() < 1
    assert 0.01 < np.abs(page.evaluate(rendered, drums[1:])).max() < 1


@pytest.mark.parametrize("notation", NOTATED)
def test_samples_are_drawn_and_played_too(notation, visit):
    begun = re.match("\n*", NOTATED[notation])[0]
    sample = {**SAMPLES[2], "prompt": begun, "text": NOTATED[notation][:60]}
    page = visit(notated(notation, metrics=METRICS, samples=[sample]), viewport={"width": 360, "height": 740})
    page.click("#tab-learn")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#samples .given").get_attribute("hidden") is not None
    if notation == "strokes":
        drawn = [path.get_attribute("d") for path in page.locator("#samples .sheet path").all()]
        assert drawn == re.findall('<path d="(.*?)"/>', strokes.write(sample["text"].split("\n")).content.decode())
    else:
        page.click("#samples figure button")
        assert page.text_content("#samples figure button") == "Stop playing"
        set_to(page, "epoch", 0)
        assert page.evaluate("player.playing") is None
    page.click("#tab-facts")
    assert f"({notation})" in page.text_content("#about")
