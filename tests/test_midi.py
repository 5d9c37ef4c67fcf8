"""MIDI files: what becomes of those of other programs, of damaged and hostile ones, and of any text."""

import dataclasses
import io
import re
import struct
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm import invocation
from jaxlm.cli import commands
from jaxlm.config import BOOK
from jaxlm.errors import InputError, Unreadable
from jaxlm.notations import midi
from jaxlm.notations.midi import DRUMS, GRID, QUARTER, Note
from jaxlm.runs.data import read_corpus, split
from jaxlm.runs.run import Run
from jaxlm.text import documents
from jaxlm.text.corpus import load_corpus
from jaxlm.text.documents import Documents

mido = pytest.importorskip("mido", reason="mido is not installed; it is in jaxlm[music] and jaxlm[test]")


@pytest.fixture(autouse=True)
def as_command():
    with invocation.called_as("jaxlm"):
        yield


def file(*tracks, type=1, quarter=480):
    """A MIDI file of tracks, each a list of (ticks since the last message, kind, key, and what else differs)."""
    made = mido.MidiFile(type=type, ticks_per_beat=quarter)
    for messages in tracks:
        track = made.add_track()
        for time, kind, note, *other in messages:
            values = {"velocity": 64, "channel": 0, **(other[0] if other else {})}
            track.append(mido.Message(kind, note=note, time=time, **values))
    content = io.BytesIO()
    made.save(file=content)
    return content.getvalue()


def notes(content):
    [line] = midi.read(content).splitlines()
    found, strays = midi.notes_of(line)
    assert strays == 0
    return [tuple(note) for note in found]


steps = st.builds(lambda quarters, place: quarters * QUARTER + place, st.integers(0, 40), st.sampled_from(GRID))
tones = st.tuples(steps, st.integers(midi.LOWEST, midi.HIGHEST), steps).map(
    lambda note: (note[0], note[1], max(note[2], note[0] + 12))
)
drums = st.tuples(steps, st.integers(-midi.LAST_DRUM, -midi.FIRST_DRUM), st.just(0))


@st.composite
def lines(draw):
    """A line of notes on the grid, as they are written."""
    drawn = draw(st.lists(st.one_of(tones, drums), min_size=1, max_size=30))
    found = [Note(start, key, min(end - start, midi.LONGEST) if end else 0) for start, key, end in drawn]
    return midi.text_of(list(midi._apart(found)))


@given(lines())
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_again(line):
    written = midi.write([line])
    assert (written.malformed, written.faults) == (0, {})
    assert midi.read(written.content) == f"{line}\n"


@given(st.lists(st.one_of(st.text(), st.text(alphabet=f"!AxÀÁğĠī{chr(0x17F)}{chr(0x410)}ю~ "))))
@settings(max_examples=300, deadline=None)
def test_any_text_is_written_as_far_as_it_goes(pieces):
    written = midi.write(pieces)
    assert written.malformed == sum(bool(midi.notes_of(piece)[1]) or not midi.count(piece) for piece in pieces)
    kept = mido.MidiFile(file=io.BytesIO(written.content))
    begun = sum(message.type == "note_on" for message in kept.tracks[0])
    assert begun == sum(len(list(midi._apart(midi.notes_of(piece)[0]))) for piece in pieces)
    assert sum(message.type == "note_off" for message in kept.tracks[0]) == begun


@given(st.binary(max_size=300), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_damage_is_an_exception_and_never_a_hang(content, cut):
    whole = file([(0, "note_on", 60), (480, "note_off", 60)])
    for damaged in (content, whole[:cut], whole[:cut] + content, b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk" + content):
        try:
            text = midi.read(damaged)
        except Exception:
            continue
        assert not text or midi.notes_of(text.splitlines()[0])[1] == 0


def test_the_characters_of_notes_are_printable_and_normalized_and_of_one_kind_each():
    waits, drums = map(chr, range(0xC0, 0x120)), map(chr, range(0x410, 0x43F))
    keys, durations = map(chr, range(0x21, 0x79)), map(chr, range(0x120, 0x180))
    every = "".join([*waits, *keys, *durations, *drums, "~"])
    assert len(set(every)) == 96 + 88 + 96 + 47 + 1
    assert every.isprintable()
    assert " " not in every
    assert unicodedata.normalize("NFC", every) == every


def test_a_scale_is_three_characters_a_note():
    content = file([(0, "note_on", 60), (480, "note_off", 60), (0, "note_on", 62), (240, "note_off", 62)])
    assert midi.read(content) == "ÀHīÌJĥ\n"
    assert notes(content) == [(0, 60, 12), (12, 62, 6)]


def test_tracks_and_channels_become_one_voice_highest_first():
    content = file(
        [(0, "note_on", 48), (960, "note_off", 48)],
        [(480, "note_on", 72, {"channel": 3}), (480, "note_off", 72, {"channel": 3})],
        [(0, "note_on", 55), (480, "note_off", 55)],
    )
    assert notes(content) == [(0, 55, 12), (0, 48, 24), (12, 72, 12)]


def test_drums_are_letters_of_their_own_and_others_are_left_out():
    drums = [(0, "note_on", 36, {"channel": DRUMS}), (480, "note_on", 38, {"channel": DRUMS})]
    content = file([*drums, (0, "note_on", 99, {"channel": DRUMS})])
    assert midi.read(content) == "ÀБÌГ\n"
    written = mido.MidiFile(file=io.BytesIO(midi.write(["ÀБÌГ"]).content))
    assert {message.channel for message in written.tracks[0] if not message.is_meta} == {DRUMS}


def test_times_move_to_sixteenths_and_triplets():
    # 160 of 480 is a triplet, 130 is nearest to a sixteenth, 4 to nothing at all.
    content = file([(4, "note_on", 60), (160, "note_on", 62), (130, "note_on", 64), (1, "note_off", 64)])
    assert [note[0] for note in notes(content)] == [0, 4, 8]
    assert notes(content)[2] == (8, 64, 4)


def test_the_same_pitch_again_ends_the_note_that_sounds():
    again = [(0, "note_on", 60), (480, "note_on", 60), (480, "note_off", 60)]
    assert notes(file(again)) == [(0, 60, 12), (12, 60, 12)]
    two = file([(0, "note_on", 60), (1920, "note_off", 60)], [(480, "note_on", 60), (480, "note_off", 60)])
    assert notes(two) == [(0, 60, 12), (12, 60, 12)]
    equal = file([(0, "note_on", 60), (480, "note_off", 60)], [(0, "note_on", 60), (960, "note_off", 60)])
    assert notes(equal) == [(0, 60, 24)]


def test_velocity_zero_ends_a_note_and_one_that_never_ends_ends_with_its_track():
    content = file(
        [(0, "note_on", 60), (480, "note_on", 60, {"velocity": 0}), (0, "note_on", 62), (960, "note_on", 64)]
    )
    assert notes(content) == [(0, 60, 12), (12, 62, 24), (36, 64, 3)]


def test_pitches_beyond_a_piano_move_by_octaves_and_silences_are_shortened():
    on_and_off = [
        (0, "note_on", 5),
        (48, "note_off", 5),
        (480 * 1000 - 48, "note_on", 120),
        (480 * 100, "note_off", 120),
    ]
    first, second = notes(file(on_and_off))
    assert first == (0, 29, 3)
    assert second == (midi.SILENCE - 12, 108, midi.LONGEST)


def test_the_tracks_of_format_2_are_pieces_of_their_own():
    one, two = [(0, "note_on", 60), (480, "note_off", 60)], [(0, "note_on", 62), (480, "note_off", 62)]
    assert midi.read(file(one, two, type=2)).splitlines() == ["ÀHī", "ÀJī"]
    assert midi.read(file([], type=0)) == ""


def test_pieces_are_written_one_after_another_with_a_mark_before_each():
    written = mido.MidiFile(file=io.BytesIO(midi.write(["ÀHī", "ÀJī"]).content))
    now, begun = 0, []
    for message in written.tracks[0]:
        now += message.time
        if message.type in ("marker", "note_on"):
            begun.append((now / written.ticks_per_beat, message.type))
    assert begun == [(0, "marker"), (0, "note_on"), (8, "marker"), (8, "note_on")]


def test_a_text_is_transposed_without_its_drums():
    assert midi.transpose("ÀHīÀБ", 2) == "ÀJīÀБ"
    assert midi.notes_of(midi.transpose("ÀxīÀ!ī", 1))[0] == [Note(0, 97, 12), Note(0, 22, 12)]
    assert midi.transpose(midi.transpose("ÀHīÌJĥ", 5), -5) == "ÀHīÌJĥ"


@pytest.mark.parametrize("source", ["bach/bwv66.6", "bach/bwv846", "ryansMammoth/AlhambraReel"])
def test_pieces_that_another_program_wrote_are_read_as_they_sound(source):
    music21 = pytest.importorskip("music21", reason="music21 is not installed; it is in no extra, but in .ci/run")
    piece = music21.corpus.parse(source)
    content = bytes(music21.midi.translate.music21ObjectToMidiFile(piece).writestr())
    found = midi.notes_of(midi.read(content).strip())[0]
    elements = piece.stripTies().flatten().notes
    sounding = {(element.offset, pitch.midi) for element in elements for pitch in element.pitches}
    begin = min(offset for offset, _ in sounding) // 1
    expected = {(round((offset - begin) * QUARTER), pitch) for offset, pitch in sounding}
    assert len(found) > 40
    assert {(note.start, note.pitch) for note in found} == expected


# Files that are damaged or hostile.


def chunk(name, content, length=None):
    return name + struct.pack(">L", len(content) if length is None else length) + content


HEAD = chunk(b"MThd", b"\0\1\0\1\1\xe0")

HOSTILE = {
    "a header that is cut": (b"MThd\0\0", r"is damaged \(EOFError\)"),
    "truncated": (file([(0, "note_on", 60), (480, "note_off", 60)])[:-6], "is damaged"),
    "absurd length": (HEAD + chunk(b"MTrk", b"\0\x90\x3c\x40", 2**32 - 1), "is damaged"),
    "absurd message": (HEAD + chunk(b"MTrk", b"\0\xf0\xff\xff\xff\x7f\0"), "is damaged"),
    "no track": (HEAD + b"JUNK", "is damaged"),
    "no header": (b"RIFF" + HEAD, "is damaged"),
    "frames": (chunk(b"MThd", b"\0\1\0\1\xe7\x28") + chunk(b"MTrk", b"\0\xff\x2f\0"), "measures time in seconds"),
    "no time": (chunk(b"MThd", b"\0\1\0\1\0\0") + chunk(b"MTrk", b"\0\xff\x2f\0"), "measures time in seconds"),
    "empty": (b"", "is damaged"),
}


@pytest.fixture(scope="module")
def reader():
    with Documents() as reader:
        yield reader


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_each(reader, name, tmp_path):
    content, reason = HOSTILE[name]
    with pytest.raises(Unreadable, match=reason):
        reader.read(".mid", content)
    (tmp_path / "a.mid").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_corpus((str(tmp_path / "a.mid"),))
    line = str(caught.value)
    assert re.fullmatch(
        rf"corpus {tmp_path}/a.mid: found a .mid file that {reason}.*; repair it, or choose others", line
    )


def test_times_without_end_cost_no_memory(reader):
    late = b"\xff\xff\xff\x7f"
    events = (b"\0\x90\x3c\x40" + late + b"\x80\x3c\0" + late + b"\x90\x3e\x40") * 1000
    text = reader.read(".mid", HEAD + chunk(b"MTrk", events))
    assert midi.count(text) == 2000
    assert len(text) < 20 * 2000


def test_a_time_that_takes_forever_to_read_is_given_up(monkeypatch):
    monkeypatch.setattr(documents, "SECONDS", 0.5)
    with Documents() as reader, pytest.raises(Unreadable, match=r"takes more than 0\.5 seconds"):
        reader.read(".mid", HEAD + chunk(b"MTrk", b"\xff" * 2_000_000))


def test_a_missing_library_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mido.py").write_text("raise ModuleNotFoundError(\"No module named 'mido'\", name='mido')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.mid").write_bytes(file([(0, "note_on", 60)]))
    with pytest.raises(InputError, match=r"which needs mido; install what reads it: pip install 'jaxlm\[music\]'"):
        load_corpus((str(tmp_path / "a.mid"),))


# Runs.


@pytest.fixture
def tunes(tmp_path):
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(8):
        keys = [60 + number, 62, 64, 67, 64, 62] * 4
        content = file([event for key in keys for event in ((0, "note_on", key), (480, "note_off", key))])
        (folder / f"{number}.mid").write_bytes(content)
    return folder


FLAGS = [
    "--epochs",
    "1",
    "--batch",
    "8",
    "--hidden",
    "8",
    "--length",
    "16",
    "--validation",
    "0.2",
    "-l",
    "9",
    "-t",
    "1",
]


@pytest.mark.parametrize("recipe", [["--stride", "5"], ["--recipe", "stream", "--ngram", "2"]])
def test_a_run_of_midi_files_writes_one(tunes, tmp_path, capsys, recipe):
    run = str(tmp_path / "run")
    options = ["--units", "lines", "--transpose", "2", *recipe]
    assert commands.train([str(tunes), "--run", run, *FLAGS, *options]) == 0
    assert "Notation:            MIDI files: 8 pieces, 192 notes\n" in capsys.readouterr().out
    assert commands.train(["--resume", "--run", run, "--epochs", "2"]) == 0
    assert commands.evaluate(["--run", run]) == 0
    assert "(24 notes)" in capsys.readouterr().out
    out = tmp_path / "out.midi"
    assert commands.sample(["--run", run, "-n", "3", "-l", "30", "-o", str(out)]) == 0
    assert re.search(r"\n3 pieces, .*well formed", capsys.readouterr().err)
    mido.MidiFile(out)


def test_a_run_continues_the_tune_in_a_file(tunes, tmp_path, capsys):
    run, theme, out = str(tmp_path / "run"), tmp_path / "theme.mid", tmp_path / "out.mid"
    assert commands.train([str(tunes), "--run", run, "--stride", "5", *FLAGS]) == 0
    theme.write_bytes(file([event for key in (62, 64) for event in ((0, "note_on", key), (480, "note_off", key))]))
    sample = ["--run", run, "--prompt-file", str(theme), "-l", "30", "-o", str(out)]
    assert commands.sample(sample) == 0
    assert notes(out.read_bytes())[:2] == [(0, 62, 12), (12, 64, 12)]
    theme.write_bytes(b"MThd")
    capsys.readouterr()
    assert commands.sample(sample) == 2
    assert f"prompt_file {theme}: found a .mid file that is damaged" in capsys.readouterr().err


def test_a_run_learns_each_piece_in_other_keys_but_is_judged_in_its_own(tunes, tmp_path):
    for units in (None, "lines", "files"):
        kept = {"corpus": (str(tunes),), "validation": 0.2, "units": units, "notation": "midi"}
        config = dataclasses.replace(BOOK, **kept, transpose=2)
        corpus = read_corpus(config)
        learned, held_out = split(config, corpus)
        once, same = split(dataclasses.replace(config, transpose=0), corpus)
        assert held_out == same
        assert learned.text.startswith(once.text)
        whole = once.text[: once.text.rfind("\n") + 1]  # Without the piece that is cut off.
        assert len(learned.text) == len(once.text.rstrip("\n")) + 1 + 4 * len(whole)
        assert midi.transpose(whole, 2) in learned.text
        assert len(learned.starts) == (1 if units is None else 5 * len(once.starts))


def test_what_a_notation_cannot_do_is_one_line(tunes, tmp_path, capsys):
    tune, drawing = tmp_path / "a.abc", tmp_path / "a.ndjson"
    tune.write_text("X:1\nK:C\n" + "CDEFGAB" * 30)
    drawing.write_text('{"drawing": [[[0, 48], [0, 48]]]}\n' * 40)
    train = [*FLAGS, "--transpose", "2", "--checkpoints", str(tmp_path)]
    assert commands.train([str(drawing), *train]) == 2
    assert "transpose: 2 has no effect on drawings" in capsys.readouterr().err
    assert commands.train([str(tune), *train, "--units", "lines"]) == 2
    assert "transpose: 2 has no effect on lines of ABC tunes, which are several each" in capsys.readouterr().err
    assert commands.train([str(tune), "--run", str(tmp_path / "abc"), *FLAGS]) == 0
    capsys.readouterr()
    assert commands.sample(["--run", str(tmp_path / "abc"), "-o", str(tmp_path / "a.mid")]) == 2
    assert "found the ending .mid, but run" in (told := capsys.readouterr().err)
    assert "writes ABC tunes (.abc), or their text (.txt); convert them with another program, such as abc2midi" in told
    assert not (tmp_path / "a.mid").exists()


def test_letters_go_into_no_file_that_looks_like_something_else(tunes, tmp_path, capsys, monkeypatch):
    run, out = str(tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    assert commands.train([str(tunes), "--run", run, *FLAGS]) == 0

    def refused(name, status=2):
        capsys.readouterr()
        assert commands.sample(["--run", run, "-l", "9", "-o", str(out / name)]) == status
        assert not list(out.iterdir())
        return capsys.readouterr().err

    for name in ("a.abc", "a.svg", "a.wav"):
        assert "writes MIDI files (.mid, .midi), or their text (.txt); choose another ending" in refused(name)
    (tmp_path / "mido.py").write_text("raise ModuleNotFoundError(\"No module named 'mido'\", name='mido')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mido", raising=False)
    assert refused("a.mid", 1) == (
        "error: mido is not installed, which .mid files need; install it: python -m pip install 'jaxlm[music]'\n"
    )
    assert commands.sample(["--run", run, "-l", "9", "--json", "-o", str(out / "a.jsonl")]) == 0


def test_a_text_run_writes_no_midi_file(trained, tmp_path, capsys):
    assert commands.sample(["--run", str(trained), "-o", str(tmp_path / "a.mid")]) == 2
    assert "found the ending .mid" in capsys.readouterr().err
    assert Run.open(trained).record.config.notation == "text"
