"use strict";
// Texts to token ids and back: jaxlm/text/vocab.py, and how jaxlm/generator.py reads prompts.

/** A mistake of the user, whose message is shown. */
class InputError extends Error {}

class Vocab {
  /**
   * @param {{kind: string, tokens: string[], wordCharacters: string}} values - wordCharacters: those of its characters
   *   that Python's \w matches, since a browser may know other ones.
   */
  constructor({ kind, tokens, wordCharacters }) {
    this.kind = kind;
    this.tokens = tokens;
    this.ids = new Map(tokens.map((token, i) => [token, i]));
    this.wordCharacters = new Set(wordCharacters);
  }

  /** The distinct characters of a text that cannot be encoded, in order of appearance. */
  unknown(text) {
    const isUnknown = this.kind === "byte" ? isSurrogate : (character) => !this.ids.has(character);
    return [...new Set(text)].filter(isUnknown);
  }

  /** The ids of a text's tokens; throws an InputError that names unknown characters as Python does. */
  encode(text) {
    const unknown = this.unknown(text);
    if (unknown.length) {
      const shown = unknown.slice(0, 10).map((character) => `${repr(character)} (U+${codePoint(character)})`);
      const more = unknown.length > 10 ? ` and ${unknown.length - 10} more` : "";
      throw new InputError(`prompt: found characters that the model has never seen: ${shown.join(", ")}${more}`);
    }
    if (this.kind === "byte") return [...new TextEncoder().encode(text)];
    const pieces = this.kind === "word" ? this.pieces(text) : text;
    const ids = [];
    for (const piece of pieces) {
      if (this.ids.has(piece)) ids.push(this.ids.get(piece));
      else for (const character of piece) ids.push(this.ids.get(character));
    }
    return ids;
  }

  /** Words, and the single characters between them. */
  pieces(text) {
    const pieces = [];
    let word = "";
    for (const character of text) {
      if (this.wordCharacters.has(character)) {
        word += character;
        continue;
      }
      if (word) pieces.push(word);
      word = "";
      pieces.push(character);
    }
    if (word) pieces.push(word);
    return pieces;
  }

  /** A function from an id to the text that it completes: for most bytes of a character, that is none. */
  decoder() {
    if (this.kind !== "byte") return (id) => this.tokens[id];
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => decoder.decode(Uint8Array.of(id), { stream: true });
  }
}

/** A prompt as the model reads it; `reading` says whether its corpus was lowercased and normalized. */
function asRead(text, vocab, reading) {
  if (reading.lowercase) text = text.toLowerCase();
  if (reading.normalize) return text.normalize("NFC");
  if (vocab.unknown(text).length) {
    const forms = ["NFC", "NFD"].map((form) => text.normalize(form));
    return forms.find((form) => !vocab.unknown(form).length) ?? text;
  }
  return text;
}

const codePoint = (character) => character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

const isSurrogate = (character) => character.length === 1 && /[\ud800-\udfff]/.test(character);

/** A character as Python's repr shows it. */
function repr(character) {
  const escapes = { "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\" };
  if (escapes[character]) return `'${escapes[character]}'`;
  if (character === "'") return `"'"`;
  if (character === " " || !/[\p{C}\p{Z}]/u.test(character)) return `'${character}'`;
  const code = character.codePointAt(0);
  const digits = code.toString(16);
  if (code < 0x100) return `'\\x${digits.padStart(2, "0")}'`;
  return code < 0x10000 ? `'\\u${digits.padStart(4, "0")}'` : `'\\U${digits.padStart(8, "0")}'`;
}
