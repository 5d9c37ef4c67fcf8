"""Scores: an array of numbers, and in a notebook the text that they are of."""

import copy
import html.parser
import pickle
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlm.config import ModelConfig
from jaxlm.generator import TextGenerator
from jaxlm.nn.model import LanguageModel
from jaxlm.text.scores import SURPRISES, TINTED, Scores
from jaxlm.text.vocab import Vocab

PAGE = Path(__file__).parents[1] / "jaxlm" / "page"
NATS = np.log([0.9, 0.5, 0.3, 0.2, 0.05, 0.02, 0.0005]).astype(np.float32)
TEXT = "Abcdefgh"


@pytest.fixture
def scores():
    return Scores.of(NATS.copy(), TEXT, np.ones(8, int))


def shown(scores):
    """Of what a notebook shows: the caption, and each span of the text with its attributes; and all the tags."""
    spans, tags, depth = [], set(), 0

    def begin(tag, attributes):
        nonlocal depth
        tags.add(tag)
        depth += 1
        spans.append(["", dict(attributes)])

    def end(tag):
        nonlocal depth
        depth -= 1
        spans.append(["", {}])

    parser = html.parser.HTMLParser()
    parser.handle_starttag, parser.handle_endtag = begin, end
    parser.handle_data = lambda data: spans[-1].__setitem__(0, spans[-1][0] + data)
    parser.feed(scores._repr_html_())
    parser.close()
    assert depth == 0
    _, caption, _, *text = spans
    return caption[0], [span for span in text if span[0]], tags


def test_scores_are_an_array_like_any_other(scores):
    assert isinstance(scores, np.ndarray)
    assert (scores.dtype, scores.shape) == (np.float32, (7,))
    np.testing.assert_array_equal(scores, NATS)
    assert scores.mean() == NATS.mean()
    assert np.mean(scores, dtype=float) == NATS.mean(dtype=float)
    assert type(scores.sum()) is type(scores[1]) is np.float32
    assert type(-scores) is type(scores * 2 + 1) is type(np.exp(scores)) is type(scores < -1) is np.ndarray
    assert scores[2:4].tolist() == NATS[2:4].tolist()
    assert [*scores] == [*NATS]
    np.testing.assert_array_equal(jax.numpy.asarray(scores) + 1, NATS + np.float32(1))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scores)), NATS)


def test_a_notebook_shows_the_text_each_character_tinted_by_its_surprise(scores):
    caption, spans, _ = shown(scores)
    assert caption.startswith(f"7 tokens scored, {-NATS.mean(dtype=float):.4f} nats each on average; ")
    assert "".join(text for text, _ in spans) == TEXT
    titles = [attributes.get("title") for _, attributes in spans]
    assert titles == ["probability " + share if share else None for share in (
        None, "0.9", "0.5", "0.3", "0.2", "0.05", "0.02", "0.0005")]  # fmt: skip
    tints = [re.findall(r"background:rgba\(234,88,12,(.*)\)", attributes.get("style", "")) for _, attributes in spans]
    assert tints == [[], [], [], ["0.10"], ["0.19"], ["0.28"], ["0.37"], ["0.55"]]


def test_the_tints_are_those_of_a_run_s_page():
    [levels] = re.findall(r"SURPRISES = \[(.*?)\]", (PAGE / "view.js").read_text())
    assert tuple(map(float, levels.split(","))) == SURPRISES
    style = (PAGE / "page.css").read_text()
    assert re.findall(r"--surprise: (.*?);", style)[0] == "234, 88, 12"
    page = re.findall(r"\.s(\d) \{ background: rgba\(var\(--surprise\), (.*?)\)", style)
    assert [(int(level), float(strength)) for level, strength in page] == [
        (level, round(0.01 + 0.09 * level, 2)) for level in range(1, 7)
    ]


@pytest.mark.parametrize(
    "other",
    [
        lambda scores: scores[1:],
        lambda scores: scores[::-1],
        lambda scores: scores.reshape(7, 1),
        lambda scores: scores.copy(),
        lambda scores: np.sort(scores),
        lambda scores: scores.astype(float),
        copy.deepcopy,
        lambda scores: pickle.loads(pickle.dumps(scores)),
        lambda scores: np.concatenate([scores, scores]),
    ],
)
def test_other_numbers_are_shown_without_the_text(scores, other):
    found = other(scores)
    assert not isinstance(found, Scores) or (found._repr_html_() is None and found.surprises() == [])
    assert scores._repr_html_() is not None


def test_numbers_that_are_changed_change_the_tints(scores):
    scores[0] = np.log(0.001)
    scores[1] = 1e6
    _, spans, _ = shown(scores)
    assert [attributes["title"] for _, attributes in spans[1:3]] == ["probability 0.001", "probability 1"]


@pytest.mark.parametrize("whole", [False, True], ids=["in characters", "as a word"])
def test_no_text_is_markup_and_nothing_in_it_acts(whole):
    text = "<script>alert(1)</script>&'\"\x1b[31m\u202e\ud800</div><img onerror=x>\n"
    widths = np.array([1, len(text) - 1] if whole else [1] * len(text))
    scores = Scores.of(np.full(len(widths) - 1, -3, np.float32), text, widths)
    _, spans, tags = shown(scores)
    assert tags == {"div", "span"}
    assert {name for _, attributes in spans for name in attributes} == {"dir", "title", "style"}
    words = "".join(characters for characters, _ in spans)
    assert words == text.replace("\x1b", "␛").replace("\u202e", "\\u202e").replace("\ud800", "?")
    scores._repr_html_().encode()


def test_a_long_text_is_shown_up_to_a_bounded_length():
    text = "ab" * TINTED
    caption, spans, _ = shown(Scores.of(np.zeros(len(text) - 1, np.float32), text, np.ones(len(text), int)))
    assert caption.startswith("5,000 of 10,000 characters, 9,999 tokens scored, ")
    assert "".join(characters for characters, _ in spans) == text[:TINTED]


@pytest.mark.parametrize(("kind", "pieces"), [
    ("char", list("ein könig")), ("byte", list("ein könig")), ("word", ["ein", " ", "könig"]),
])  # fmt: skip
def test_a_generator_s_scores_know_their_text_in_tokens_or_whole_characters(kind, pieces):
    vocab = Vocab.build(kind, "" if kind == "byte" else "ein könig ein könig und", words=2)
    model = LanguageModel(len(vocab), ModelConfig(8))
    params = jax.jit(model.init_params)(jax.random.key(1))
    generator = TextGenerator(model, params, vocab, True, "ein", 7, "state")
    scores = generator.score("Ein KÖNIG")
    found = scores.surprises()
    assert [characters for characters, _ in found] == pieces
    assert np.isnan(found[0][1])
    assert sum(surprise for _, surprise in found[1:]) == pytest.approx(-scores.sum(dtype=float), rel=1e-6)
    expected = generator.surprises(pieces[0], "".join(pieces[1:]))
    np.testing.assert_allclose(*([surprise for _, surprise in one] for one in (found[1:], expected)), rtol=1e-6)
