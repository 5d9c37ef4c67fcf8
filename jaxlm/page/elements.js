"use strict";
// What several parts of the page use to show something.

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

/** A number of things: 1 note, 2,000 notes. */
function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** An element of a drawing. */
function svg(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** A line that says what a page does not have. */
function missing(text) {
  const line = document.createElement("p");
  line.className = "missing";
  line.textContent = text;
  return line;
}
