"""Copies, real words and variety against their definitions in plain Python, on adversarial texts too."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxlm.text.copying import longest_copies, share_of_words, variety

# Few characters make long copies, and the others need 21 bits; one is no character at all.
texts = st.text("ab", max_size=80) | st.text("ab\0é가\U0010ffff\ud800", max_size=30)


def longest(text, source):
    """The same by trying every span."""
    return [
        max(end - begin for end in range(begin, len(text) + 1) if text[begin:end] in source)
        for begin in range(len(text))
    ]


@settings(deadline=None)
@given(text=texts, source=texts, copied=st.booleans())
@example("", "abc", False)
@example("abc", "", False)
@example("a", "a", False)
@example("b", "a", False)
@example("ba", "ab", False)  # Neither wraps around, nor reads from the source on into the text.
@example("aab", "aa", False)
@example("a" * 70, "a" * 69, False)
@example("ab" * 40, "ab" * 30 + "ba" * 30, False)
@example("abcabcabcab" * 4, "abcabcabcab" * 4, False)
def test_copies_are_found_as_by_trying_every_span(text, source, copied):
    text = text + source[len(source) // 3 :] + text if copied else text
    found = longest_copies(text, source)
    assert found.dtype == np.int64
    assert found.tolist() == longest(text, source)


def test_a_text_is_a_copy_of_itself_to_its_end():
    text = "".join(np.random.default_rng(0).choice(list("the cat"), 3000))
    assert longest_copies(text, text).tolist() == list(range(3000, 0, -1))
    assert longest_copies(text[1000:2000], text).tolist() == list(range(1000, 0, -1))


def test_a_span_of_a_long_text_is_found_where_it_was_put(shared_corpora):
    source = (shared_corpora / "tinyshakespeare.txt").read_text()
    text = "\N{SNOWMAN}" * 5000 + source[700_000:700_137] + "\N{SNOWMAN}" * 4000
    found = longest_copies(text, source)
    assert found[5000:5137].tolist() == list(range(137, 0, -1))
    assert found.sum() == 137 * 138 / 2


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("x the cat sat x", 1),
        ("x the dag sat x", 2 / 3),
        ("x The CAT x", 1),  # Whatever the case.
        ("dag the dag the dag", 2 / 3),  # Each time that it occurs; those at the ends may be cut off.
        (" dag the dag ", 1 / 3),  # These are not.
        ("x catsat x", 0),  # A part of a word is no word.
        ("x don't 'the cat' x", 1),
        ("x don x", 0),
        ("x the-cat...sat_the2cat\nsat x", 1),
        ("x हिन्दी हिन्द x", 1 / 2),  # Its vowels are marks, no letters.
        ("x ÉTÉ été x", 1),
        ("x 123 ... ' x", None),
        ("the cat", None),
        ("the", None),
        ("", None),
    ],
)
def test_words_are_real_where_the_source_has_them_whole(text, share):
    found = share_of_words(text, "The cat don't; sat 'zat', हिन्दी. Été")
    assert math.isnan(found) if share is None else found == share


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("x a b c d e x", 1),
        ("x a b a b a x", 2 / 4),
        ("x a a a a a x", 1 / 4),
        ("x A. b, a\nB x", 2 / 3),
        ("x a b x", 1),
        ("x a x", None),
        ("", None),
        ("一二三", None),
    ],
)
def test_variety_is_the_share_of_distinct_pairs_of_words(text, share):
    found = variety(text)
    assert math.isnan(found) if share is None else found == share
