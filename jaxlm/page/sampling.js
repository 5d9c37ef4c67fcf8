"use strict";
// How a token is drawn from its logits: jaxlm/nn/sampling.py, in the same order and with the same ties.

/**
 * Log-probabilities at a temperature, up to a constant that a draw ignores; -Infinity for tokens that are left out.
 *
 * @param {Float32Array} logits
 * @param {{temperature: number, topK: ?number, topP: ?number, minP: ?number}} draw - null turns a filter off.
 * @returns {Float32Array}
 */
function logWeights(logits, draw) {
  const size = logits.length;
  const scores = new Float32Array(size);
  const largest = max(logits);
  const divisor = draw.temperature < TINY ? 1 : Math.fround(draw.temperature);
  for (let i = 0; i < size; i++) scores[i] = Math.fround(logits[i] - largest) / divisor;
  if (draw.topK === null && draw.topP === null && draw.minP === null) return scores;
  const kept = new Uint8Array(size).fill(1);
  // Of equal scores, the token with the lower id comes first.
  const order = Uint32Array.from(scores.keys()).sort((one, other) => scores[other] - scores[one] || one - other);
  if (draw.topK !== null) for (let place = draw.topK; place < size; place++) kept[order[place]] = 0;
  if (draw.topP !== null && draw.topP < 1) {
    const weights = scores.map((score, i) => (kept[i] ? Math.exp(score) : 0));
    const limit = Math.max(Math.fround(draw.topP), TINY) * weights.reduce((sum, weight) => sum + weight, 0);
    let before = 0;
    for (const i of order) {
      if (before >= limit) kept[i] = 0;
      before += weights[i];
    }
  }
  if (draw.minP !== null) {
    const least = Math.fround(Math.log(Math.fround(draw.minP)));
    for (let i = 0; i < size; i++) if (scores[i] < least) kept[i] = 0;
  }
  return scores.map((score, i) => (kept[i] ? score : -Infinity));
}

/** Draws a token: the largest of log-probabilities plus Gumbel noise, or, at temperature 0, the most probable. */
function pickToken(key, logits, draw) {
  if (draw.temperature < TINY) return argmax(logits);
  const scores = logWeights(logits, draw);
  const noise = gumbel(key, scores.length);
  for (let i = 0; i < noise.length; i++) scores[i] += noise[i];
  return argmax(scores);
}

/** The probabilities with which `pickToken` draws. */
function distribution(logits, draw) {
  if (draw.temperature < TINY) {
    const certain = new Float32Array(logits.length);
    certain[argmax(logits)] = 1;
    return certain;
  }
  return softmax(logWeights(logits, draw));
}

function softmax(logits) {
  const largest = max(logits);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  return Float32Array.from(logits, (logit) => Math.exp(logit - largest) / sum);
}

function max(values) {
  let largest = -Infinity;
  for (const value of values) if (value > largest) largest = value;
  return largest;
}

/** The first place of the largest value. */
function argmax(values) {
  let place = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[place]) place = i;
  return place;
}
