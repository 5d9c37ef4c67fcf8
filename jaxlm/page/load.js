"use strict";
// The model of a page, from the values that the page holds.

/** A base64 text as bytes. */
function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The weights by name; jaxlm/page/assemble.py says how they are stored. */
function weightsOf({ shapes, exact, rounded }) {
  // Little-endian, as every machine with a browser is.
  const floats = new Float32Array(bytesOf(exact).buffer);
  const integers = new Int16Array(bytesOf(rounded).buffer);
  const weights = {};
  let place = 0;
  let integerPlace = 0;
  for (const [name, rows, columns, isRounded] of shapes) {
    const first = place;
    place += isRounded ? columns : rows * columns;
    weights[name] = floats.subarray(first, place);
    if (!isRounded) continue;
    const scales = weights[name];
    const numbers = integers.subarray(integerPlace, (integerPlace += rows * columns));
    weights[name] = Float32Array.from(numbers, (number, i) => number * scales[i % columns]);
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
