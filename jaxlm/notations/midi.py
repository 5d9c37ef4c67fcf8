"""MIDI: notes as three characters each, a line a piece.

A note is its wait, its pitch and its duration. Times are counted in twelfths of a quarter note, where sixteenths and
triplets of eighths both fall; whatever begins or ends elsewhere is moved to the nearest of these. The wait is the time
since the note before it began, so the notes of a chord wait 0. Of notes that begin together, the highest comes first.
Drums have no duration, and letters of their own. The three kinds of characters have none in common, so that a reader
always knows where it is.

All tracks and channels become one voice, since a line of notes has no others; where two sound the same pitch at once,
the later one ends the earlier. Tempo, loudness, pedals and instruments are not kept.
"""

import collections
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxlm.errors import Unreadable
from jaxlm.notations.notation import Notation, Written

QUARTER = 12
"""Steps in a quarter note."""

GRID = (0, 3, 4, 6, 8, 9, QUARTER)
"""Where in a quarter notes begin and end."""

SHORTEST, LONGEST = 3, 96
"""Steps of a note: a sixteenth, and two whole notes."""

SILENCE = 4 * LONGEST
"""The most steps between the beginnings of two notes; a longer silence is shortened."""

LOWEST, HIGHEST = 21, 108
"""The keys of a piano. What is lower or higher moves by octaves."""

FIRST_DRUM, LAST_DRUM = 35, 81
"""The drums of General MIDI. Others are left out."""

DRUMS = 9
"""The channel that plays drums."""

_PITCH, _DRUM, _WAIT, _DURATION, _REST = 0x21, 0x410, 0xC0, 0x120, "~"
_WAITS = LONGEST

_NOTES = re.compile(
    f"([{chr(_WAIT)}-{chr(_WAIT + _WAITS - 1)}])(?:"
    f"([{chr(_PITCH)}-{chr(_PITCH + HIGHEST - LOWEST)}])([{chr(_DURATION)}-{chr(_DURATION + LONGEST - 1)}])"
    f"|([{chr(_DRUM)}-{chr(_DRUM + LAST_DRUM - FIRST_DRUM)}])|{_REST})"
)

_TICKS = 40
"""Ticks of a step in files that are written."""


class Note(NamedTuple):
    """A note.

    Attributes:
      start: steps since the piece began.
      pitch: MIDI's number of its key; of a drum, minus the drum's.
      steps: how long it sounds; 0 for a drum.
    """

    start: int
    pitch: int
    steps: int


def read(content: bytes) -> str:
    """The notes of a MIDI file: a line or, if its tracks are pieces of their own (format 2), a line each."""
    import mido

    file = mido.MidiFile(file=io.BytesIO(content), clip=True)
    if not 0 < file.ticks_per_beat < 0x8000:
        raise Unreadable("measures time in seconds, not in notes")
    pieces = [[track] for track in file.tracks] if file.type == 2 else [file.tracks]
    lines = (text_of(_tidy(_sounded(tracks), file.ticks_per_beat)) for tracks in pieces)
    return "".join(f"{line}\n" for line in lines if line)


def text_of(notes: Sequence[Note]) -> str:
    """A line of notes that are in order, without the quarters before the first."""
    parts, now = [], notes[0].start // QUARTER * QUARTER if notes else 0
    for start, pitch, steps in notes:
        wait = start - now
        if wait > SILENCE:  # Shortened by whole quarters, so that the beat goes on.
            wait = SILENCE - QUARTER + wait % QUARTER
        while wait >= _WAITS:
            parts.append(chr(_WAIT + _WAITS - 1) + _REST)
            wait -= _WAITS - 1
        key = chr(_DRUM - pitch - FIRST_DRUM) if steps == 0 else chr(_PITCH + pitch - LOWEST)
        parts.append(chr(_WAIT + wait) + key + (chr(_DURATION + steps - 1) if steps else ""))
        now = start
    return "".join(parts)


def notes_of(text: str) -> tuple[list[Note], int]:
    """The notes in any text, in order, and how many of its characters make none."""
    notes, now, used = [], 0, 0
    for found in _NOTES.finditer(text):
        wait, key, duration, drum = found.groups()
        used += len(found[0])
        now += ord(wait) - _WAIT
        if key:
            notes.append(Note(now, ord(key) - _PITCH + LOWEST, ord(duration) - _DURATION + 1))
        elif drum:
            notes.append(Note(now, _DRUM - ord(drum) - FIRST_DRUM, 0))
    return notes, len(text) - used


def write(pieces: Sequence[str]) -> Written:
    """A MIDI file of pieces, one after the other, with a mark before each; at least a whole note lies between two."""
    import mido

    faults: collections.Counter[str] = collections.Counter()
    malformed, events, begin, whole = 0, [(0, 0, mido.MetaMessage("set_tempo", tempo=500_000))], 0, 4 * QUARTER
    for number, piece in enumerate(pieces, 1):
        notes, strays = notes_of(piece)
        found = [*["characters that make no note"][: bool(strays)], *["without notes"][: not notes]]
        faults.update(found)
        malformed += bool(found)
        events.append((begin, 1, mido.MetaMessage("marker", text=str(number))))
        ends = [begin]
        for start, pitch, steps in _apart(notes):
            channel, key = (DRUMS, -pitch) if steps == 0 else (0, pitch)
            start, end = begin + start, begin + start + (steps or SHORTEST)
            events.append((start, 3, mido.Message("note_on", channel=channel, note=key, velocity=80)))
            events.append((end, 2, mido.Message("note_off", channel=channel, note=key, velocity=0)))
            ends.append(end)
        begin = (-(-max(ends) // whole) + 1) * whole
    track, now = mido.MidiTrack(), 0
    # At one moment, notes end before others begin.
    for step, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=(step - now) * _TICKS))
        now = step
    content = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=QUARTER * _TICKS, tracks=[track]).save(file=content)
    return Written(content.getvalue(), faults, malformed)


def count(text: str) -> int:
    """The number of notes in a text, drums included."""
    return len(notes_of(text)[0])


def transpose(text: str, semitones: int) -> str:
    """A text with its notes, but not its drums, so many semitones higher; what leaves the range moves by an octave."""
    keys = range(LOWEST, HIGHEST + 1)
    return text.translate({_PITCH + key - LOWEST: _PITCH + _folded(key + semitones) - LOWEST for key in keys})


def _sounded(tracks: Iterable[Any]) -> Iterator[Note]:
    """Yields the notes of tracks, each in the order in which they end; times are in ticks."""
    for track in tracks:
        now, sounding = 0, dict[tuple[int, int], int]()
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off"):
                continue
            key = message.channel, message.note
            if (start := sounding.pop(key, None)) is not None:
                yield _note(*key, start, now)
            if message.type == "note_on" and message.velocity:
                sounding[key] = now
        for key, start in sounding.items():
            yield _note(*key, start, now)


def _note(channel: int, key: int, start: int, end: int) -> Note:
    return Note(start, -key, 0) if channel == DRUMS else Note(start, _folded(key), end - start)


def _folded(key: int) -> int:
    """A key, moved by octaves to a piano's."""
    while key < LOWEST:
        key += 12
    while key > HIGHEST:
        key -= 12
    return key


def _tidy(notes: Iterable[Note], quarter: int) -> list[Note]:
    """Notes in order and on the grid; times are in ticks, of which a quarter note has so many."""
    longest: dict[tuple[int, int], int] = {}
    for start, pitch, ticks in notes:
        if pitch < 0:
            if FIRST_DRUM <= -pitch <= LAST_DRUM:
                longest[_nearest(start, quarter), pitch] = 0
            continue
        begin = _nearest(start, quarter)
        end = max(_nearest(start + ticks, quarter), _up(begin + SHORTEST))
        longest[begin, pitch] = max(min(end - begin, LONGEST), longest.get((begin, pitch), 0))
    return list(_apart(Note(start, pitch, steps) for (start, pitch), steps in longest.items()))


def _apart(notes: Iterable[Note]) -> Iterator[Note]:
    """Yields notes in order, each ended at the latest where its pitch is played again; one of equal beginnings."""
    order = sorted(notes, key=lambda note: (note.start, -note.pitch, note.steps))
    again: dict[int, int] = {}
    kept = []
    for start, pitch, steps in reversed(order):
        if (limit := again.get(pitch, start + steps + 1) - start) > 0:
            kept.append(Note(start, pitch, min(steps, limit)))
        again[pitch] = start
    return reversed(kept)


def _nearest(ticks: int, quarter: int) -> int:
    """The step of the grid nearest to a time; of two, the earlier one."""
    quarters, rest = divmod(ticks, quarter)
    return quarters * QUARTER + min(GRID, key=lambda step: abs(rest * QUARTER - step * quarter))


def _up(step: int) -> int:
    """The first step of the grid from a step on."""
    quarters, rest = divmod(step, QUARTER)
    return quarters * QUARTER + next(place for place in GRID if place >= rest)


MIDI = Notation(
    name="midi",
    files="MIDI files",
    piece="piece",
    unit="note",
    count=count,
    separator="\n",
    readers={".mid": read, ".midi": read},
    writers={".mid": write, ".midi": write},
    extra="music",
    transpose=transpose,
)
