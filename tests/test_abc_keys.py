"""ABC in other keys: whatever a tune has, each of its notes sounds as many semitones higher."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlm import invocation
from jaxlm.cli import commands
from jaxlm.config import BOOK
from jaxlm.notations.abc_keys import transpose
from jaxlm.runs.data import split
from jaxlm.text.corpus import load_corpus

MAJORS = {name: sharps for sharps, name in enumerate(re.findall(r"\S+", "Cb Gb Db Ab Eb Bb F C G D A E B F# C#"), -7)}
"""The sharps of each major key; flats are less than none."""

RELATIVES = {
    "": "C",
    "maj": "C",
    "Lydian": "F",
    " mix": "G",
    "Dor": "D",
    "m": "A",
    " minor": "A",
    "phr": "E",
    "loc": "B",
}
"""The mode that begins on each note of the C major scale."""

SHARPS, FLATS = "FCGDAEB", "BEADGCF"

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

MARKS = {"__": -2, "_": -1, "=": 0, "^": 1, "^^": 2}


def keys():
    """Every key with a signature: its name, as far as a tonic with one sharp or flat has it."""
    found = {}
    for sharps in MAJORS.values():
        signature = dict.fromkeys("CDEFGAB", 0)
        signature |= dict.fromkeys(SHARPS[:sharps], 1) if sharps >= 0 else dict.fromkeys(FLATS[:-sharps], -1)
        # The major scale with this signature begins on the note a fifth higher per sharp.
        major = next(name for name, count in MAJORS.items() if count == sharps)
        for mode, degree in RELATIVES.items():
            letters = "CDEFGAB" * 2
            letter = letters[letters.index(major[0]) + "CDEFGAB".index(degree)]
            found[letter + {0: "", 1: "#", -1: "b"}[signature[letter]] + mode] = signature
    return {**found, "none": found["C"], "": found["C"]}


KEYS = keys()


def signature(value):
    """The accidental of each letter."""
    name, *accidentals = re.split(r"(?:\s+|(?<=[A-Za-z#]))(?=[\^_=]+[A-Ga-g])", value.replace("clef=bass", "").strip())
    found = dict(KEYS[name])
    for mark, letter in re.findall(r"([\^_=]+)([A-Ga-g])", " ".join(accidentals)):
        found[letter.upper()] = MARKS[mark]
    return found


def sounding(tune, octaves):
    """The pitches of a tune's notes, in semitones from middle C.

    Args:
      octaves: whether an accidental holds until the bar line in every octave, as the standard has it, or in its own.
    """
    pitches, key, bar = [], {}, {}
    music = r'"[^"]*"|![^! ]*!|\[K:([^]]*)\]|(\|)|([\^_=]*)([A-Ga-g])([,\']*)|%.*'
    for line in tune.split("\n"):
        if line.startswith("K:"):
            key = signature(line[2:].partition("%")[0])
        elif key and not re.match(r"[A-Za-z]:(?!\|)|%", line):
            for change, bar_line, mark, letter, octave in re.findall(music, line):
                if change:
                    key = signature(change)
                if bar_line:
                    bar = {}
                if letter:
                    height = letter.islower() + octave.count("'") - octave.count(",")
                    place = letter.upper(), None if octaves else height
                    if mark:
                        bar[place] = MARKS[mark]
                    pitches.append(12 * height + SEMITONES[place[0]] + bar.get(place, key[place[0]]))
    return pitches


LETTERS = st.tuples(st.sampled_from("CDEFGABcdefgab"), st.sampled_from(["", "", ",", "'", "''"])).map("".join)
NOTES = st.one_of(LETTERS, LETTERS, st.tuples(st.sampled_from("_=^"), LETTERS).map("".join))

KEY_ACCIDENTALS = st.sampled_from(["", "", "", " ^g", "=c", "_b ^f", " _e_a clef=bass", " % G, as if"])
MUSIC = st.lists(
    st.one_of(
        NOTES,
        st.sampled_from(
            ["|", " ", "2", "/", "(3", "[", "]", "{", "}", "z", "-", '"Am7"', '"Fine"', "!f!", "~", "|:", ":|\n"]
        ),
        st.sampled_from(["\nw:A bad egg\n", "% ABC\n", "\n%%ABC\n"]),
        st.sampled_from(sorted(set(KEYS) - {""})).map(lambda key: f"[K:{key}]"),
    )
)


@given(st.sampled_from(sorted(KEYS)), KEY_ACCIDENTALS, MUSIC, st.integers(-12, 12))
def test_every_note_sounds_as_many_semitones_higher(key, accidentals, music, semitones):
    tune = f"X:1\nT:A bad egg\nK:{key}{accidentals if key else ''}\n{''.join(music)}\n"
    moved = transpose(tune, semitones)
    for octaves in (True, False):
        before = sounding(tune, octaves)
        if moved is not None:
            assert sounding(moved, octaves) == [pitch + semitones for pitch in before]
    # What it may not reach: changes to keys that are far apart, or a third sharp.
    assert moved is not None or "[K:" in tune or re.search(r"[\^_]", tune)


@given(st.sampled_from(sorted(KEYS)), st.lists(LETTERS | st.just("|")), st.integers(-12, 12))
def test_notes_of_the_scale_are_written_without_accidentals_in_any_key(key, music, semitones):
    moved = transpose(f"K:{key}\n{''.join(music)}", semitones)
    assert not re.search(r"[\^_=]", moved)
    most = max(map(abs, signature(moved.partition("\n")[0][2:]).values()))
    assert most <= 1


@pytest.mark.parametrize(
    ("semitones", "tune", "expected"),
    [
        (2, "K:D\nDEFGABcd|", "K:E\nEFGABcde|"),
        (1, 'K:D\n"D"DFAd "A7/C#"^c=cBA|', 'K:Eb\n"Eb"EGBe "Bb7/D"=d_dcB|'),
        (2, 'K:C\n"C maj7"CEG "A m / G"z "m"z|', 'K:D\n"D maj7"DFA "B m / A"z "m"z|'),
        (3, "K:A minor\nA^GA =G,|", "K:C minor\nc=Bc _B,|"),
        (-2, "K:Emin\nE^DE|^cd|", "K:Dmin\nD^CD|=Bc|"),
        (5, "K:G dorian clef=bass\nG,A,B,|", "K:C dorian clef=bass\nCDE|"),
        (-1, "K:C\nC c' B,,|", "K:B\nB, b A,,|"),
        (6, "K:C\nCFc|", "K:Gb\nGcg|"),
        (7, "K:none\nC^F_B|", "K:G\nG^c=f|"),
        (12, "K:F#m\nF,A!f![ce]|", "K:F#m\nFa!f![c'e']|"),
        (2, 'K:Bb\n"^slow""Cm7b5(Bb) N.C.""Eb6/9 F""D.C."B|', 'K:C\n"^slow""Cm7b5(Bb) N.C.""F6/9 G""D.C."c|'),
        (2, "T:A\nK:D =c ^g\nc[K:Ador]cB:|\nw:a b\nA:|\nP:A\nG", "T:A\nK:E =d ^a\nd[K:Bdor]dc:|\nw:a b\nB:|\nP:A\nA"),
        (1, "K:F#\nF|", "K:G\nG|"),
        (2, 'K:C\nCEG|\ns:"C"*!f!|', 'K:D\nDFA|\ns:"D"*!f!|'),
    ],
)
def test_tunes_that_are_known_in_other_keys(semitones, tune, expected):
    assert transpose(tune, semitones) == expected


@pytest.mark.parametrize(
    "tune",
    [
        "CDE|",
        "K:HP\nGAB|",
        "K:AM\nABc|",
        "K:Q\nABc|",
        "K:clef=bass\nABc|",
        "K:C\n^/c|",
        "K:C\nC=|",
        'K:C\n"C|',
        "K:C\n+CEG+|",
        "K:C\nCDE!c>de!f|",
        "m:~G3=GAG\nK:C\n~G3|",
        "K:C\n[K:Hp]G|",
        "K:C perc\nG|",
        "K:D exp ^f\nG|",
        "K:D\n+:exp ^f\nG|",
        "V:1 clef=perc\nK:C\nG|",
        "K:C\n%%begintext\nA bad egg\n%%endtext\nG|",
        "K:Cb\n__c[K:C#]^^c|",
    ],
)
def test_what_cannot_be_read_is_not_transposed(tune):
    assert transpose(tune, 1) is None
    assert transpose(tune, 0) == tune


def test_no_tune_stays_none():
    assert transpose("", 3) == ""


# A run.

TUNE = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n"
PIPES = TUNE.replace("K:C", "K:HP")


@pytest.mark.parametrize("units", [None, "files"])
def test_a_run_learns_each_tune_in_other_keys_but_is_judged_in_its_own(tmp_path, units):
    for number in range(10):
        (tmp_path / f"{number}.abc").write_text(TUNE.replace("X:1", f"X:{number}") + ("\n" + PIPES) * (number < 2))
    corpus = load_corpus((str(tmp_path),))
    config = dataclasses.replace(
        BOOK, corpus=(str(tmp_path),), validation=0.2, units=units, notation="abc", lowercase=False, transpose=2
    )
    learned, held_out = split(config, corpus)
    once, same = split(dataclasses.replace(config, transpose=0), corpus)
    assert held_out == same
    assert learned.text.startswith(once.text)
    tunes = once.text.count("K:C\n")
    assert tunes > 5
    assert [learned.text.count(f"K:{key}\n") for key in ("C", "Db", "B", "D", "Bb")] == [tunes] * 5
    # Once, as they are.
    assert learned.text.count("K:HP") == once.text.count("K:HP") == learned.fixed
    assert learned.fixed > 0
    assert all(document.startswith("X:") for document in learned.documents())
    assert not re.search(r"[^\n]X:", learned.text[len(once.text) + 1 :])
    assert len(learned.documents()) == (1 if units is None else 5 * len(once.documents()))


def test_tunes_that_are_learned_in_one_key_are_told(tmp_path, capsys):
    beginning = "%abc-2.1\nM:4/4\nO:Ireland\n"
    (tmp_path / "tunes.abc").write_text("\n".join([beginning] + [TUNE] * 12 + [PIPES] + [TUNE] * 3))
    flags = ["--epochs", "1", "--batch", "8", "--hidden", "8", "--length", "16", "-l", "10", "-t", "0.5"]
    run = ["--run", str(tmp_path / "run")]
    with invocation.called_as("jaxlm"):
        assert commands.train([str(tmp_path / "tunes.abc"), *run, *flags, "--transpose", "2", "--stride", "9"]) == 0
    told = "1 tune of the training text could not be transposed, and is learned in one key."
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert told in said
    assert "Counts of a text" not in said
    assert commands.train(["--resume", *run, "--epochs", "2"]) == 0


def test_counts_of_a_text_in_several_keys_are_advised_against(tmp_path, capsys):
    (tmp_path / "tunes.abc").write_text("\n".join([TUNE] * 16))
    flags = ["--epochs", "1", "--batch", "8", "--hidden", "8", "--length", "16", "-l", "10", "-t", "0.5"]
    run = ["--run", str(tmp_path / "run"), "--recipe", "stream"]
    with invocation.called_as("jaxlm"):
        assert commands.train([str(tmp_path / "tunes.abc"), *run, *flags, "--transpose", "2"]) == 0
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "Counts of a text in 5 keys" in said
    assert "it learns more: --ngram 0." in said
