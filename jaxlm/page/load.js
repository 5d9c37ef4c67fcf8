"use strict";
// The model of a page, from the values that the page holds.

/** A base64 text as bytes. */
function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** float16 numbers, given by their bits, as float32 ones. */
function floatsOf(halves) {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i];
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    floats[i] = half & 0x8000 ? -size : size;
  }
  return floats;
}

/** The weights by name; all lie in a row, in the order of `sizes`. */
function weightsOf({ type, base64, sizes }) {
  const { buffer } = bytesOf(base64); // Little-endian, as every browser's machine is.
  const numbers = type === "float16" ? floatsOf(new Uint16Array(buffer)) : new Float32Array(buffer);
  const weights = {};
  let place = 0;
  for (const [name, size] of sizes) {
    weights[name] = numbers.subarray(place, place + size);
    place += size;
  }
  return weights;
}

/** The training text, as token ids. */
async function trainingText({ base64, itemSize }) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return new { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[itemSize](buffer);
}

/** The model of a page. */
async function loadGenerator(values) {
  const model = new LanguageModel(values.model, weightsOf(values.weights));
  const { ngram, vocabulary } = values.model;
  const counts = ngram ? await NGram.count(await trainingText(values.text), vocabulary, ngram) : null;
  return new TextGenerator(values, model, new Vocab(values.vocab), counts);
}
