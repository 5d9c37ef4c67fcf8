"use strict";
// Notes from the text of MIDI files: what jaxlm/notations/midi.py reads.

const STEPS = 48; // Of a whole note.
const SHORTEST = 3; // Steps; so long is a drum in a file that Python writes.
const MIDI_NOTE = /([\u00c0-\u011f])(?:([\x21-\x78])([\u0120-\u017f])|([\u0410-\u043e])|~)/g;

/**
 * The notes in a line of text, in order.
 *
 * @returns {{start: number, pitch: number, steps: number, at: number, end: number}[]} each with its beginning and its
 *   duration in steps; a drum has the duration 0, and minus its number for its pitch. `at` and `end`: where it is
 *   written.
 */
function midiNotes(line) {
  const notes = [];
  let start = 0;
  for (const { 0: written, 1: wait, 2: key, 3: duration, 4: drum, index: at } of line.matchAll(MIDI_NOTE)) {
    const end = at + written.length;
    start += wait.charCodeAt(0) - 0xc0;
    if (key) notes.push({ start, pitch: key.charCodeAt(0) - 12, steps: duration.charCodeAt(0) - 0x11f, at, end });
    else if (drum) notes.push({ start, pitch: 0x410 - 35 - drum.charCodeAt(0), steps: 0, at, end });
  }
  return notes;
}

/** A piece, as `Score` takes it. */
function readPiece(line) {
  const timed = ({ start, steps, ...note }) => ({ ...note, start: start / STEPS, length: (steps || SHORTEST) / STEPS });
  return { whole: 2, notes: midiNotes(line).map(timed) };
}

const MIDI = { border: /(?<=\n)/, read: readPiece };
