"use strict";
// The n-grams of a training text, smoothed by Kneser and Ney: jaxlm/text/ngram.py, with the same nodes and numbers.

const ROOT = 0;
const WHOLE_SHARE = 2;

/** Lets the page draw and answer between two parts of a long computation. */
const pause = () => new Promise((resolve) => setTimeout(resolve));

class NGram {
  /** Counts a text, uint[N], as `NGram.count` does; its attributes have the same names and meanings. */
  static async count(text, vocabulary, order) {
    const ngram = new NGram();
    ngram.vocabulary = vocabulary;
    ngram.order = order;
    const { levels, tokens, parents, shorter, occurrences, beginnings } = await strings(text, vocabulary, order + 1);
    const nodes = levels[order + 2];
    const contexts = levels[order + 1];
    // Below the highest order, an n-gram counts once for each token before it, and once if it begins the text.
    const counts = new Int32Array(nodes);
    for (const node of shorter) counts[node]++;
    for (const node of beginnings) counts[node]++;
    counts.set(occurrences, contexts);
    counts[ROOT] = 0;
    const taken = new Float64Array(nodes);
    for (let k = 0; k <= order; k++) {
      const discounts = discountsOf(counts.subarray(levels[k + 1], levels[k + 2]));
      for (let node = levels[k + 1]; node < levels[k + 2]; node++) taken[node] = discounts[Math.min(counts[node], 3)];
    }
    await pause();
    const totals = new Int32Array(contexts);
    const takenOf = new Float64Array(contexts);
    const children = new Int32Array(contexts + 1);
    for (let node = 1; node < nodes; node++) {
      totals[parents[node]] += counts[node];
      takenOf[parents[node]] += taken[node];
      children[parents[node] + 1]++;
    }
    children[0] = 1;
    for (let node = 0; node < contexts; node++) children[node + 1] += children[node];
    const probabilities = new Float32Array(nodes);
    for (let node = 1; node < nodes; node++) {
      probabilities[node] = (counts[node] - taken[node]) / Math.max(totals[parents[node]], 1);
    }
    const backoffs = new Float32Array(contexts);
    for (let node = 0; node < contexts; node++) backoffs[node] = totals[node] ? takenOf[node] / totals[node] : 1;
    Object.assign(ngram, { levels, tokens, children, shorter, totals, probabilities, backoffs });
    await pause();
    ngram.fillWhole(text.length, parents);
    return ngram;
  }

  /** The distributions after the shortest contexts, as a matrix. */
  fillWhole(characters, parents) {
    const { order, levels, vocabulary, backoffs, probabilities, tokens, shorter } = this;
    let wholeOrder = 0;
    while (wholeOrder < order && levels[wholeOrder + 2] * vocabulary <= WHOLE_SHARE * characters) wholeOrder++;
    const rows = levels[wholeOrder + 1];
    const whole = new Float32Array(rows * vocabulary);
    for (let node = 0; node < rows; node++) {
      const row = node * vocabulary;
      const below = shorter[node] * vocabulary;
      for (let i = 0; i < vocabulary; i++) {
        whole[row + i] = backoffs[node] * (node === ROOT ? Math.fround(1 / vocabulary) : whole[below + i]);
      }
      for (let child = this.children[node]; child < this.children[node + 1]; child++) {
        whole[parents[child] * vocabulary + tokens[child]] += probabilities[child];
      }
    }
    this.whole = whole;
    this.wholeRows = rows;
  }

  /** The context after one more token. */
  advance(state, token) {
    for (let node = state; ; node = this.shorter[node]) {
      let low = this.children[node];
      let high = this.children[node + 1];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.tokens[middle] < token) low = middle + 1;
        else high = middle;
      }
      if (low < this.children[node + 1] && this.tokens[low] === token) {
        return low < this.totals.length ? low : this.shorter[low];
      }
      if (node === ROOT) return ROOT;
    }
  }

  /** What follows a context: {probabilities: float32[V], totals: int32[K + 1]}. */
  after(state) {
    const { vocabulary, levels } = this;
    const totals = new Int32Array(this.order + 1);
    let length = 0;
    while (state >= levels[length + 1]) length++;
    for (let node = state, k = length; k >= 0; node = this.shorter[node], k--) totals[k] = this.totals[node];
    const path = [];
    let weight = 1;
    let node = state;
    for (; node >= this.wholeRows; node = this.shorter[node]) {
      path.push([node, weight]);
      weight = Math.fround(weight * this.backoffs[node]);
    }
    const probabilities = this.whole.slice(node * vocabulary, (node + 1) * vocabulary);
    for (let i = 0; i < vocabulary; i++) probabilities[i] *= weight;
    for (const [context, scale] of path) {
      for (let child = this.children[context]; child < this.children[context + 1]; child++) {
        probabilities[this.tokens[child]] += Math.fround(scale * this.probabilities[child]);
      }
    }
    for (let i = 0; i < vocabulary; i++) probabilities[i] = Math.max(probabilities[i], TINY);
    return { probabilities, totals };
  }
}

/** The distinct strings of up to `longest` tokens of a text, numbered by length, then by their tokens. */
async function strings(text, vocabulary, longest) {
  const count = text.length;
  const starts = await sortedStarts(text, vocabulary, longest);
  const begins = new Uint8Array(count); // Whether a string differs from the one before it, in sorted order.
  begins[0] = 1;
  const nodes = new Int32Array(count + 1); // The string of the present length that starts at each position.
  const levels = [0, 1];
  const tokens = [Int32Array.of(0)];
  const parents = [Int32Array.of(0)];
  const shorter = [Int32Array.of(0)];
  const beginnings = []; // The strings that begin the text, but the longest.
  for (let length = 1; length <= longest; length++) {
    const last = count - length; // Where the last string of this length starts.
    let distinct = 0;
    for (let i = 0; i < count; i++) {
      if (i && !begins[i]) begins[i] = tokenAt(text, starts[i] + length - 1) !== tokenAt(text, starts[i - 1] + length - 1);
      if (begins[i] && starts[i] <= last) distinct++;
    }
    const own = new Int32Array(distinct);
    const before = new Int32Array(distinct);
    const rest = new Int32Array(distinct);
    const first = levels[length];
    const after = new Int32Array(count + 1);
    let node = -1;
    for (let i = 0; i < count; i++) {
      const start = starts[i];
      if (start > last) continue;
      if (begins[i]) {
        node++;
        own[node] = text[start + length - 1];
        before[node] = nodes[start];
        rest[node] = nodes[start + 1];
      }
      after[start] = first + node;
    }
    nodes.set(after);
    tokens.push(own);
    parents.push(before);
    shorter.push(rest);
    levels.push(first + distinct);
    if (length < longest && length <= count) beginnings.push(nodes[0]);
    await pause();
  }
  const occurrences = new Int32Array(levels[longest + 1] - levels[longest]);
  for (let start = 0; start <= count - longest; start++) occurrences[nodes[start] - levels[longest]]++;
  return {
    levels,
    tokens: joined(tokens),
    parents: joined(parents),
    shorter: joined(shorter),
    occurrences,
    beginnings,
  };
}

const tokenAt = (text, place) => (place < text.length ? text[place] : -1);

/** The positions of a text in the order of the tokens from each on; the text's end precedes any token. */
async function sortedStarts(text, vocabulary, length) {
  const count = text.length;
  let starts = Uint32Array.from({ length: count }, (_, i) => i);
  let sorted = new Uint32Array(count);
  for (let offset = length - 1; offset >= 0; offset--) {
    const places = new Uint32Array(vocabulary + 2);
    for (let i = 0; i < count; i++) places[tokenAt(text, starts[i] + offset) + 2]++;
    for (let token = 1; token < places.length; token++) places[token] += places[token - 1];
    for (let i = 0; i < count; i++) sorted[places[tokenAt(text, starts[i] + offset) + 1]++] = starts[i];
    [starts, sorted] = [sorted, starts];
    await pause();
  }
  return starts;
}

/** What is taken from counts of 0 (nothing), 1, 2, and more. */
function discountsOf(counts) {
  const numbers = [0, 0, 0, 0, 0, 0];
  for (const count of counts) numbers[Math.min(count, 5)]++;
  const share = numbers[1] ? numbers[1] / (numbers[1] + 2 * numbers[2]) : 0;
  const taken = [0];
  for (let count = 1; count <= 3; count++) {
    const these = numbers[count];
    const formula = these ? count - ((count + 1) * share * numbers[count + 1]) / these : 0;
    taken.push(formula > 0 && formula < count ? formula : count / 2);
  }
  return taken;
}

function joined(arrays) {
  const whole = new Int32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let place = 0;
  for (const array of arrays) {
    whole.set(array, place);
    place += array.length;
  }
  return whole;
}
