"use strict";
// Notes from ABC (abcnotation.com, standard 2.1), of any text, as far as it is well formed. What is printed and not
// played, or played as players like (grace notes, decorations, chord names, lyrics), is passed over.

const SHARPS = "FCGDAEB"; // In the order in which keys take them.
const MODES = { maj: 0, ion: 0, mix: -1, dor: -2, m: -3, min: -3, aeo: -3, phr: -4, loc: -5, lyd: 1 };
const SEMITONES = { C: 0, D: 2, E: 4, F: 5, G: 7, A: 9, B: 11 };
const ACCIDENTALS = { "^": 1, "^^": 2, "=": 0, _: -1, __: -2 };
const TUPLETS = { 2: 3, 3: 2, 4: 3, 6: 2, 8: 3 }; // So many notes in the time of; of others, it depends on the meter.
const LONGEST = 8; // Whole notes of one note or rest.
const MOST = 20000; // Notes and rests of a voice, its repeats played.

const LENGTH = String.raw`(\d*)(\/*)(\d*)`;
const LENGTH_PARTS = new RegExp(LENGTH);
const NOTE = String.raw`(\^\^?|__?|=)?([A-Ga-g])([,']*)${LENGTH}( *-)?`;
const NOTE_PARTS = new RegExp(NOTE);
const NOTES = new RegExp(NOTE, "g");
const MUSIC = new RegExp(
  [
    String.raw`(?<aside>%.*|"[^"]*"?|![^!\s]*!|\+[^+\s]*\+|\{[^}]*\}?)`,
    String.raw`\[(?<field>[A-Za-z]):(?<value>[^\]]*)\]?`,
    String.raw`(?<bar>:*\[?\|+\]?:*|::+)(?:\[?(?<after>[1-9][\d,-]*))?`,
    String.raw`\[(?<ending>[1-9][\d,-]*)`,
    String.raw`\((?<tuplet>[2-9])(?::(?<time>\d?)(?::(?<notes>\d?))?)?`,
    String.raw`(?<broken><+|>+)`,
    String.raw`\[(?<chord>[^\][|]*)\](?<longer>${LENGTH.replace(/[()]/g, "")})(?<tie>(?: *-)?)`,
    `(?<note>${NOTE.replace(/\((?!\?)/g, "(?:")})`,
    `[zx](?<rest>${LENGTH.replace(/[()]/g, "")})`,
    String.raw`[ZX](?<bars>\d*)`,
  ].join("|"),
  "g",
);

/** A tune, as `Score` takes it. */
function readTune(text) {
  const tune = { meter: 1, isCompound: false, unit: null, tempo: null, key: {} };
  const voices = new Map();
  let voice = new Voice(tune);
  let isHeader = /^X:/m.test(text); // Else, it is a tune of which the beginning is missing.
  const field = (name, value) => {
    if (name === "M") {
      tune.meter = meterOf(value) ?? tune.meter;
      tune.isCompound = /^\s*(6|9|12)\s*\//.test(value);
    } else if (name === "L") tune.unit = fractionsOf(value) ?? tune.unit;
    else if (name === "Q") tune.tempo ??= value;
    else if (name === "K") {
      voice.key = keyOf(value) ?? voice.key;
      if (isHeader) tune.key = voice.key;
      isHeader = false;
    } else if (name === "V" && !isHeader) {
      const id = value.trim().split(/\s/)[0];
      if (!voices.has(id)) voices.set(id, new Voice(tune));
      voice = voices.get(id);
    }
  };
  voices.set("", voice);
  let from = 0;
  for (const line of text.split("\n")) {
    const found = /^([A-Za-z+]+):(.*)/.exec(line);
    if (found) field(found[1], found[2].replace(/%.*/, ""));
    else if (!isHeader) {
      for (const match of line.matchAll(MUSIC)) {
        if (match.groups.field) field(match.groups.field, match.groups.value);
        else voice.read(match.groups, from + match.index, match[0].length);
      }
    }
    from += line.length + 1;
  }
  const notes = [...voices.values()].flatMap((one) => one.notes());
  notes.sort((one, other) => one.start - other.start);
  return { whole: secondsOf(tune), notes };
}

/** One voice of a tune: reads what is written, and then plays it with its repeats. */
class Voice {
  constructor(tune) {
    Object.assign(this, { tune, key: tune.key, items: [], last: null, next: 1, tied: new Map(), tuplet: { left: 0 } });
    this.accidentals = {}; // Of this bar, by the name of the note; they hold in all octaves.
  }

  /** Reads one match of MUSIC, and where it is written. */
  read({ bar, after, ending, tuplet, time, notes, broken, chord, longer, tie, note, rest, bars }, at, size) {
    const end = at + size;
    if (bar) {
      this.accidentals = {};
      const isDouble = bar.includes("||") || /[\][]/.test(bar);
      this.items.push({ closes: bar[0] === ":", opens: bar.at(-1) === ":", isDouble });
    }
    if (after || ending) this.items.push({ passes: passesOf(after || ending) });
    else if (tuplet) {
      const usual = TUPLETS[tuplet] ?? (this.tune.isCompound ? 3 : 2);
      this.tuplet = { left: Number(notes) || Number(tuplet), factor: (Number(time) || usual) / Number(tuplet) };
    } else if (broken && this.last) {
      const share = 2 ** -Math.min(broken.length, 3);
      const [first, second] = broken[0] === ">" ? [2 - share, share] : [share, 2 - share];
      this.last.length *= first;
      this.next = second;
    } else if (note) this.sound([this.tone(note)], 1, at, end);
    else if (chord !== undefined) {
      const tones = (chord.match(NOTES) ?? []).map((one) => this.tone(one));
      if (tie) for (const tone of tones) tone.isTied = true;
      if (tones.length) this.sound(tones, lengthOf(longer), at, end);
    } else if (rest !== undefined) this.sound([], lengthOf(rest), at, end);
    else if (bars !== undefined) this.items.push({ tones: [], length: Math.min((Number(bars) || 1) * this.tune.meter, LONGEST) });
  }

  /** A note as it is written, without its duration: what it is, and whether the next one continues it. */
  tone(written) {
    const [, accidental, letter, octaves, whole, slashes, parts, tie] = NOTE_PARTS.exec(written);
    const name = letter.toUpperCase();
    const octave = (letter === name ? 0 : 1) + [...octaves].reduce((sum, mark) => sum + (mark === "'" ? 1 : -1), 0);
    if (accidental) this.accidentals[name] = ACCIDENTALS[accidental];
    const tied = this.tied.get(name + octave); // An accidental holds as long as its note is tied, across bars, too.
    const altered = (accidental ? this.accidentals[name] : tied) ?? this.accidentals[name] ?? this.key[name] ?? 0;
    const pitch = 60 + SEMITONES[name] + altered + 12 * Math.max(-5, Math.min(5, octave));
    return { place: name + octave, altered, pitch, length: lengthOf(whole + slashes + parts), isTied: Boolean(tie) };
  }

  /** Notes at once; none for a rest. Their duration is that of the first, times a factor. */
  sound(tones, factor, at, end) {
    this.tune.unit ??= this.tune.meter < 0.75 ? 1 / 16 : 1 / 8;
    let length = (tones[0]?.length ?? 1) * factor * this.tune.unit * this.next;
    if (this.tuplet.left-- > 0) length *= this.tuplet.factor;
    this.next = 1;
    this.tied = new Map(tones.filter(({ isTied }) => isTied).map(({ place, altered }) => [place, altered]));
    this.last = { tones, length: Math.min(length, LONGEST), at, end };
    this.items.push(this.last);
  }

  /** The notes as they are played, in whole notes from the beginning. */
  notes() {
    const notes = [];
    let now = 0;
    let tied = new Map(); // Notes that the next ones continue, by pitch.
    for (const { tones, length, at, end } of this.played()) {
      const next = new Map();
      for (const { pitch, isTied } of tones) {
        let note = tied.get(pitch);
        if (note) note.length += length;
        else notes.push((note = { start: now, length, pitch, at, end }));
        if (isTied) next.set(pitch, note);
      }
      tied = next;
      now += length;
    }
    return notes;
  }

  /** What sounds, or rests, in the order in which it does so: parts that are repeated come twice. */
  played() {
    const { items } = this;
    const found = [];
    let [start, pass, isOpen, inEnding] = [0, 1, false, false];
    for (let i = 0; i < items.length && found.length < MOST; i++) {
      const { tones, passes, closes, opens, isDouble } = items[i];
      const following = items[i + 1]?.passes;
      if (tones) found.push(items[i]);
      else if (passes) {
        inEnding = passes.includes(pass);
        if (inEnding) continue;
        // On to the ending of this pass, or else to where this one ends.
        let ending = i + 1;
        while (items[ending] && !items[ending].opens && !items[ending].passes?.includes(pass)) ending++;
        if (!items[ending]?.passes) {
          ending = i + 1;
          while (items[ending] && !items[ending].closes && !items[ending].opens && !items[ending].isDouble) ending++;
        }
        i = ending - 1;
      } else if (closes && (pass < 2 || following?.includes(pass + 1))) {
        pass++;
        inEnding = false;
        i = start - 1;
      } else if (closes && following?.includes(pass)) continue;
      else if (closes || opens || (isDouble && (!isOpen || inEnding))) {
        [start, pass, isOpen, inEnding] = [i + 1, 1, opens, false];
      }
    }
    return found;
  }
}

/** A duration in units: 3, /2, 3/4, //; at most LONGEST whole notes of them. */
function lengthOf(written) {
  const [, whole, slashes, parts] = LENGTH_PARTS.exec(written);
  const length = Number(whole || 1) / (slashes ? Number(parts) || 2 ** slashes.length : 1);
  return length > 0 ? Math.min(length, 64 * LONGEST) : 1;
}

/** The sum of fractions, such as 3/8 or 1/4 1/8; null if there are none. */
function fractionsOf(written) {
  const found = Array.from(written.matchAll(/(\d+)\s*\/\s*(\d+)/g), ([, one, other]) => one / other);
  const sum = found.reduce((all, one) => all + one, 0);
  return sum > 0 && sum <= LONGEST ? sum : null;
}

function meterOf(written) {
  if (/^\s*C/.test(written)) return 1;
  const [, beats, part] = /([\d+\s]+)\)?\/\s*(\d+)/.exec(written) ?? [];
  const meter = beats && beats.split("+").reduce((sum, one) => sum + Number(one), 0) / part;
  return meter > 0 && meter <= LONGEST ? meter : null;
}

/** The numbers of an ending: 1, 1,3 or 1-3. */
function passesOf(written) {
  const passes = [];
  for (const part of written.split(",")) {
    const [first, last = first] = part.split("-").filter(Boolean).map(Number);
    for (let pass = first; pass <= Math.min(last, 9); pass++) passes.push(pass);
  }
  return passes;
}

/** By how many semitones a key alters each note; null if it names no key. */
function keyOf(written) {
  const key = {};
  const found = /^\s*(?:([A-G])([#b]?)\s*([A-Za-z]*)|H[Pp]|none)?(.*)/.exec(written);
  const [, tonic, sign, mode, rest] = found;
  if (tonic && mode !== "exp") {
    const fifths = SHARPS.indexOf(tonic) - 1 + { "#": 7, b: -7, "": 0 }[sign] + (MODES[mode.toLowerCase().slice(0, 3)] ?? 0);
    for (let i = 0; i < Math.abs(fifths); i++) {
      const name = SHARPS[(fifths > 0 ? i : 6 - (i % 7)) % 7];
      key[name] = (key[name] ?? 0) + Math.sign(fifths);
    }
  } else if (/^\s*H/.test(written)) Object.assign(key, { F: 1, C: 1 });
  else if (!tonic && !/^\s*(none|$)/.test(written)) return null;
  for (const [, accidental, letter] of rest.matchAll(/(\^\^?|__?|=)([A-Ga-g])/g)) key[letter.toUpperCase()] = ACCIDENTALS[accidental];
  return key;
}

/** The seconds of a whole note: 120 quarters a minute, if the tune does not say anything that can be played. */
function secondsOf({ tempo, unit }) {
  const [, beat = "", number] = /^(?:(.*)=)?\s*(\d+)\s*$/.exec((tempo ?? "").replace(/"[^"]*"/g, "")) ?? [];
  const quarters = 4 * number * (fractionsOf(beat) ?? unit ?? 1 / 8);
  return quarters >= 20 && quarters <= 500 ? 240 / quarters : 2;
}

const ABC = { border: /(?<=\n\s*\n)|(?<=\n)(?=X:)/, read: readTune };
