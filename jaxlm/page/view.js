"use strict";
// How what is written is shown. `VIEWS` has a view for each notation of a run; whatever it draws, it is told of one piece
// after the other, and says at which one the reader points.

const SURPRISES = [0.7, 1.4, 2.3, 3.2, 4.6, 6.9]; // In nats: a probability of 1/2, 1/4, 1/10, 1/25, 1/100, 1/1000.

/** A piece of text as it is shown: characters that would be invisible, or turn others around, become visible. */
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cs}\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/gu, (character) => {
    if (character === "\n" || character === "\t") return character;
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${codePoint(character)}\u27e9`;
  });
}

/** A token's name: spaces and line ends get a sign. */
function named(token) {
  return visible(token).replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
}

/** Shows text as text, each piece tinted by how much it surprised the model. */
class TextView {
  /**
   * @param {HTMLElement} element
   * @param {function(number, boolean)} onPoint - is told which piece the reader points at, and whether to hold it.
   */
  constructor(element, onPoint) {
    this.element = element;
    this.pieces = [];
    this.here = null;
    const place = (event) => this.pieces.indexOf(event.target);
    element.addEventListener("pointerover", (event) => place(event) >= 0 && onPoint(place(event), false));
    element.addEventListener("click", (event) => place(event) >= 0 && onPoint(place(event), true));
  }

  /** Shows a prompt alone. */
  begin(prompt) {
    this.pieces = [];
    const given = document.createElement("span");
    given.className = "given";
    given.textContent = visible(prompt);
    this.element.replaceChildren(given);
  }

  append({ text, surprise }) {
    const piece = document.createElement("b");
    const level = SURPRISES.filter((least) => surprise >= least).length;
    if (level) piece.className = `s${level}`;
    piece.textContent = visible(text);
    this.pieces.push(piece);
    this.element.append(piece);
  }

  /** Shows only some characters of the last piece, or all of them. */
  cut(text) {
    this.pieces.at(-1).textContent = visible(text);
  }

  /** Keeps the first pieces. */
  keep(count) {
    for (const piece of this.pieces.splice(count)) piece.remove();
  }

  /** Marks a piece; null for none. */
  mark(place) {
    this.here?.classList.remove("here");
    this.here = place === null ? null : this.pieces[place];
    this.here?.classList.add("here");
  }
}

const VIEWS = { text: TextView };
