"use strict";
// How what is written is shown: as text, and, if it is in a notation, as what that text stands for.

const SURPRISES = [0.7, 1.4, 2.3, 3.2, 4.6, 6.9]; // In nats: a probability of 1/2, 1/4, 1/10, 1/25, 1/100, 1/1000.

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
    given.hidden = /^\n*$/.test(prompt); // It is there for the model.
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

  /** Marks a piece; null for none. */
  mark(place) {
    this.here?.classList.remove("here");
    this.here = place === null ? null : this.pieces[place];
    this.here?.classList.add("here");
  }
}

/**
 * What shows the text of each notation, in an `element` of its own: it can `show` a text, and go to the `point` where
 * something is written in it.
 */
const PICTURES = {
  abc: () => new Score(ABC),
  midi: () => new Score(MIDI),
  strokes: () => new Sheet(),
};

/** Shows text, and above it its picture. */
class NotationView extends TextView {
  constructor(element, onPoint, picture) {
    super(element, onPoint);
    this.picture = picture;
    this.sounding = [];
    picture.onSound = (notes) => this.sound(notes);
    element.before(picture.element);
    element.classList.add("notation");
  }

  begin(prompt) {
    super.begin(prompt);
    this.starts = []; // Of the pieces, in the text.
    this.change(prompt);
  }

  append(piece) {
    super.append(piece);
    this.starts.push(this.text.length);
    this.change(this.text + piece.text);
  }

  cut(text) {
    super.cut(text);
    this.change(this.text.slice(0, this.starts.at(-1)) + text);
  }

  mark(place) {
    super.mark(place);
    this.picture.point(place === null ? null : this.starts[place]);
    this.reveal(this.here);
  }

  /** Shows another text, once in a frame. */
  change(text) {
    this.text = text;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.picture.show(this.text);
    });
  }

  /** Marks where the notes that sound are written. */
  sound(notes) {
    const isIn = ({ at, end }, i) => this.starts[i] < end && (this.starts[i + 1] ?? this.text.length) > at;
    for (const piece of this.sounding) piece.classList.remove("sounding");
    this.sounding = this.pieces.filter((_, i) => notes.some((note) => isIn(note, i)));
    for (const piece of this.sounding) piece.classList.add("sounding");
    this.reveal(this.sounding[0]);
  }

  /** Scrolls to a piece of the text, if there is one. */
  reveal(piece) {
    if (!piece) return;
    const { scrollTop, clientHeight } = this.element;
    if (piece.offsetTop < scrollTop || piece.offsetTop > scrollTop + clientHeight - 40) this.element.scrollTop = piece.offsetTop - 40;
  }
}
