"use strict";
// Notes as a picture and as sound, which the browser's own synthesiser makes.

const GAP = 1; // Whole notes between two pieces, at least; each begins on a whole note, as in files that Python writes.
const AHEAD = 1.5; // Seconds of notes that are given to the synthesiser, which must last while a hidden page sleeps.
const TICK = 40; // Milliseconds.
const LOUDNESS = 0.2;
const HARMONICS = [0, 1, 0.45, 0.2, 0.12, 0.06]; // Of a tone, by number.
const DRUM = 0.12; // Seconds.
const LOW_DRUMS = [35, 36, 41, 43, 45, 47, 48, 50]; // Bass drums and toms of General MIDI.
const SECOND = 40, SEMITONE = 4; // Pixels of the picture.

/** Plays notes; one list of them at a time. */
class Player {
  /**
   * @param {{start: number, length: number, pitch: number}[]} notes - in order, times in seconds.
   * @param {number} from - where to begin.
   * @param {function(?number)} onTime - is told again and again where it is, and null at the end.
   */
  play(notes, from, onTime) {
    this.stop();
    this.context ??= new AudioContext();
    this.context.resume();
    const output = this.context.createDynamicsCompressor(); // Many notes at once stay below the limit.
    output.connect(this.context.destination);
    const zero = this.context.currentTime + 0.1 - from;
    const over = notes.reduce((latest, { start, length }) => Math.max(latest, start + length), 0);
    let next = notes.findIndex(({ start }) => start >= from);
    if (next < 0) next = notes.length;
    const tick = () => {
      const now = this.context.currentTime - zero;
      for (; next < notes.length && notes[next].start < now + AHEAD; next++) sound(output, notes[next], zero);
      if (now > over) this.stop();
      else onTime(Math.max(from, now));
    };
    this.playing = { output, onTime, timer: setInterval(tick, TICK) };
    tick();
  }

  stop() {
    if (!this.playing) return;
    const { output, onTime, timer } = this.playing;
    this.playing = null;
    clearInterval(timer);
    output.disconnect();
    onTime(null);
  }
}

const player = new Player();

/** Gives a note to the synthesiser. */
function sound(output, { start, length, pitch }, zero) {
  const { context } = output;
  const isDrum = pitch < 0;
  const time = Math.max(zero + start, context.currentTime);
  const end = time + (isDrum ? DRUM : length);
  const source = isDrum && !LOW_DRUMS.includes(-pitch) ? rustle(context) : context.createOscillator();
  const envelope = context.createGain();
  source.connect(envelope).connect(output);
  if (source.frequency) {
    source.setPeriodicWave(context.createPeriodicWave(new Float32Array(HARMONICS.length), new Float32Array(HARMONICS)));
    source.frequency.setValueAtTime(isDrum ? 60 - 2 * pitch : 440 * 2 ** ((pitch - 69) / 12), time);
    if (isDrum) source.frequency.exponentialRampToValueAtTime(40, end);
  }
  const { gain } = envelope;
  gain.setValueAtTime(0, time);
  gain.linearRampToValueAtTime(LOUDNESS, time + 0.008);
  gain.setTargetAtTime(isDrum ? 0 : LOUDNESS / 4, time + 0.008, isDrum ? DRUM / 4 : 0.5);
  gain.setTargetAtTime(0, end, 0.03);
  source.start(time);
  source.stop(end + 0.2);
}

/** Noise, as of a cymbal. */
function rustle(context) {
  const buffer = context.createBuffer(1, Math.ceil(context.sampleRate * (DRUM + 0.2)), context.sampleRate);
  const samples = buffer.getChannelData(0);
  for (let i = 0; i < samples.length; i++) samples[i] = Math.random() - 0.5;
  const source = context.createBufferSource();
  source.buffer = buffer;
  return source;
}

/** Draws notes as on the roll of a player piano, and plays them. */
class Score {
  /**
   * @param {{border: RegExp, read: function(string): {whole: number, notes: object[]}}} notation - what matches between
   *   the pieces of a text; and what reads a piece: the seconds of a whole note, and the notes, each with `start` and
   *   `length` in whole notes, `pitch`, and `at` and `end`, where in the piece it is written.
   */
  constructor(notation) {
    this.notation = notation;
    this.pieces = new Map(); // Those of the text that is shown: while it grows, only the last one is read again.
    this.text = "";
    this.notes = [];
    this.from = 0;
    this.element = document.createElement("figure");
    this.element.className = "picture";
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.textContent = "Play";
    this.button.title = "From the place in the text that is held, if one is";
    this.button.addEventListener("click", () => (this.isPlaying ? player.stop() : this.play(this.from)));
    this.caption = document.createElement("figcaption");
    this.caption.className = "small";
    this.roll = document.createElement("div");
    this.roll.className = "roll";
    this.roll.tabIndex = 0; // It scrolls.
    this.roll.setAttribute("role", "group");
    this.roll.setAttribute("aria-label", "The notes");
    this.picture = svg("svg", { role: "img" });
    this.lines = ["tones", "drums"].map((name) => svg("path", { class: name }));
    this.cursor = svg("line", { class: "cursor", y1: 0 });
    this.picture.append(...this.lines, this.cursor);
    this.picture.addEventListener("click", ({ clientX }) => this.play((clientX - this.picture.getBoundingClientRect().left) / SECOND));
    this.roll.append(this.picture);
    const head = document.createElement("div");
    head.className = "buttons";
    head.append(this.button, this.caption);
    this.element.append(head, this.roll);
  }

  show(text) {
    if (this.isPlaying && !text.startsWith(this.text)) player.stop();
    this.text = text;
    this.notes = [];
    const known = this.pieces;
    this.pieces = new Map();
    let [from, begin] = [0, 0];
    for (const part of text.split(this.notation.border)) {
      const piece = known.get(part) ?? this.notation.read(part);
      this.pieces.set(part, piece);
      const { whole, notes } = piece;
      let over = 0;
      for (const { start, length, pitch, at, end } of notes) {
        this.notes.push({ start: begin + start * whole, length: length * whole, pitch, at: from + at, end: from + end });
        over = Math.max(over, start + length);
      }
      if (notes.length) begin += (Math.ceil(over - 1e-9) + GAP) * whole;
      from += part.length;
    }
    this.draw();
  }

  draw() {
    const { notes } = this;
    const over = notes.reduce((latest, { start, length }) => Math.max(latest, start + length), 0);
    const keys = notes.map(({ pitch }) => Math.abs(pitch));
    const [low, high] = keys.reduce(([least, most], key) => [Math.min(least, key), Math.max(most, key)], [60, 72]);
    const [width, height] = [Math.ceil(over * SECOND) + 8, (high - low + 3) * SEMITONE];
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) this.picture.setAttribute(name, value);
    const bars = [[], []];
    for (const { start, length, pitch } of notes) {
      const y = (high - Math.abs(pitch) + 1.5) * SEMITONE;
      bars[Number(pitch < 0)].push(`M${(start * SECOND).toFixed(1)} ${y}h${Math.max(2, length * SECOND - 1.5).toFixed(1)}`);
    }
    this.lines.forEach((line, i) => line.setAttribute("d", bars[i].join("")));
    this.cursor.setAttribute("y2", height);
    const minutes = Math.floor(over / 60);
    const words = `${counted(notes.length, "note")}, ${minutes}:${String(Math.floor(over % 60)).padStart(2, "0")}`;
    this.caption.textContent = words;
    this.picture.setAttribute("aria-label", words);
    this.button.disabled = !this.isPlaying && !notes.length;
    this.go(this.time ?? this.from);
  }

  /** Begins to play at the first note from a place of the text on; null for the beginning. */
  point(at) {
    const note = at === null ? null : this.notes.find(({ end }) => end > at);
    this.from = note?.start ?? 0;
    if (!this.isPlaying) this.go(this.from);
  }

  play(from) {
    const { notes } = this;
    player.play(notes, from, (time) => {
      this.isPlaying = time !== null;
      this.time = time;
      this.button.textContent = this.isPlaying ? "Stop playing" : "Play";
      this.go(time ?? this.from);
      this.onSound?.(this.isPlaying ? notes.filter(({ start, length }) => start <= time && time < start + length) : []);
    });
  }

  /** Shows where it is. */
  go(time) {
    const x = time * SECOND;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const { scrollLeft, clientWidth } = this.roll;
    if (x < scrollLeft || x > scrollLeft + 0.9 * clientWidth) this.roll.scrollLeft = x - 0.1 * clientWidth;
  }
}
