"use strict";
// Drawings from their text: what jaxlm/notations/strokes.py reads and writes.

const GRID_STEPS = 48;
const POINT = /([a-zA-W])([\u3042-\u3072])/g;
const BLANKS = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/; // Python's, for str.split.

/**
 * The drawing that a line of text describes, as far as it does.
 *
 * @returns {{strokes: number[][][], strays: number}} the points of each stroke, across and down, in steps of the grid;
 *   and how many characters belong to no point.
 */
function drawingOf(line) {
  const strokes = [];
  let strays = 0;
  for (const letters of line.split(BLANKS)) {
    const stroke = Array.from(letters.matchAll(POINT), ([, x, y]) => [
      x.charCodeAt(0) - (x >= "a" ? 97 : 39), // After a to z, A to W.
      y.charCodeAt(0) - 0x3042,
    ]);
    strays += [...letters].length - 2 * stroke.length;
    if (stroke.length) strokes.push(stroke);
  }
  return { strokes, strays };
}

/** The data of an SVG path; a dot is a line of no length, which round ends make visible. */
function pathOf(strokes) {
  return strokes.map((stroke) => `M${stroke.map((point) => point.join(" ")).join(" ")}${stroke.length > 1 ? "" : "h0"}`).join("");
}

/** Draws text: a drawing for each line that has a point. */
class Sheet {
  constructor() {
    this.element = document.createElement("figure");
    this.element.className = "picture";
    this.grid = document.createElement("div");
    this.grid.className = "sheet";
    this.grid.setAttribute("role", "img");
    this.caption = document.createElement("figcaption");
    this.caption.className = "small";
    this.element.append(this.grid, this.caption);
    this.drawings = []; // Each with the place of its line in the text, and its elements.
  }

  show(text) {
    this.text = text;
    const found = [];
    let [from, astray] = [0, 0];
    for (const line of text.split("\n")) {
      const { strokes, strays } = drawingOf(line);
      const end = from + line.length;
      if (strokes.length) found.push({ from, end, path: pathOf(strokes) });
      if (strays && end < text.length) astray++; // Of the last line, more may follow.
      from = end + 1;
    }
    for (const drawing of this.drawings.splice(found.length)) drawing.cell.remove();
    for (const [i, { from, end, path }] of found.entries()) {
      const drawing = (this.drawings[i] ??= this.blank());
      Object.assign(drawing, { from, end });
      if (drawing.shown !== path) drawing.line.setAttribute("d", (drawing.shown = path));
    }
    const words = counted(found.length, "drawing") + (astray ? `, ${astray} with letters that make no point` : "");
    this.caption.textContent = words;
    this.grid.setAttribute("aria-label", words);
  }

  /** A cell for another drawing. */
  blank() {
    const cell = svg("svg", { viewBox: `0 0 ${GRID_STEPS} ${GRID_STEPS}` });
    const line = svg("path", {});
    cell.append(line);
    this.grid.append(cell);
    return { cell, line };
  }

  /** Marks the drawing at a place of the text, and the point there; null for none. */
  point(at) {
    this.grid.querySelector(".here")?.classList.remove("here");
    this.grid.querySelector("circle")?.remove();
    const drawing = at === null ? null : this.drawings.find(({ from, end }) => from <= at && at < end);
    if (!drawing) return;
    drawing.cell.classList.add("here");
    const [x, y] = drawingOf(this.text.slice(drawing.from, at + 1)).strokes.at(-1)?.at(-1) ?? [];
    if (x !== undefined) drawing.cell.append(svg("circle", { cx: x, cy: y, r: 2.5 }));
  }
}
