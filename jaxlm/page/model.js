"use strict";
// The network of jaxlm/nn/model.py: one-hot or embedded tokens, LSTM layers, a softmax layer, and counts beside them.

const LANES = 8;

/** A matrix, float[rows, columns], laid out for the product of a vector with it. */
class Matrix {
  constructor(values, rows, columns) {
    this.rows = rows;
    this.columns = columns;
    // Eight columns side by side, row by row, so that a product runs through memory once and keeps eight sums.
    this.blocks = Math.ceil(columns / LANES);
    this.packed = new Float32Array(this.blocks * rows * LANES);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const block = Math.floor(column / LANES);
        this.packed[(block * rows + row) * LANES + (column % LANES)] = values[row * columns + column];
      }
    }
  }

  /** A vector of zeros, with room for the padding of the last block. */
  output() {
    return new Float32Array(this.blocks * LANES);
  }

  /** Adds the product of a vector, float[rows], to `sums`, an `output`. */
  addProduct(vector, sums) {
    const { packed, rows } = this;
    let place = 0;
    for (let column = 0; column < sums.length; column += LANES) {
      let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
      for (let row = 0; row < rows; row++, place += LANES) {
        const value = vector[row];
        a += value * packed[place];
        b += value * packed[place + 1];
        c += value * packed[place + 2];
        d += value * packed[place + 3];
        e += value * packed[place + 4];
        f += value * packed[place + 5];
        g += value * packed[place + 6];
        h += value * packed[place + 7];
      }
      sums[column] += a;
      sums[column + 1] += b;
      sums[column + 2] += c;
      sums[column + 3] += d;
      sums[column + 4] += e;
      sums[column + 5] += f;
      sums[column + 6] += g;
      sums[column + 7] += h;
    }
  }

  /** Adds a row to `sums`: the product of a one-hot vector. */
  addRow(row, sums) {
    let place = row * LANES;
    for (let column = 0; column < sums.length; column += LANES, place += this.rows * LANES) {
      for (let lane = 0; lane < LANES; lane++) sums[column + lane] += this.packed[place + lane];
    }
  }
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const hardSigmoid = (x) => Math.min(1, Math.max(0, 0.2 * x + 0.5)); // As in Keras 2.
const GATES = { sigmoid, hard_sigmoid: hardSigmoid };

class Layer {
  /**
   * @param {Float32Array} input - float[D, 4H], the gates side by side: input, forget, candidate, output.
   * @param {Float32Array} recurrent - float[H, 4H].
   * @param {Float32Array} bias - float[4H].
   */
  constructor(input, recurrent, bias, hidden, gates) {
    this.hidden = hidden;
    this.input = new Matrix(input, input.length / (4 * hidden), 4 * hidden);
    this.recurrent = new Matrix(recurrent, hidden, 4 * hidden);
    this.bias = this.input.output();
    this.bias.set(bias);
    this.sums = this.input.output();
    this.gate = GATES[gates];
  }

  /** One step: changes the carry, {c, h}, float[H] each. `addInput` adds what comes in to the gates' sums. */
  step(carry, addInput) {
    const { sums, hidden, gate } = this;
    sums.set(this.bias);
    addInput(sums);
    this.recurrent.addProduct(carry.h, sums);
    for (let i = 0; i < hidden; i++) {
      const candidate = Math.tanh(sums[2 * hidden + i]);
      const c = gate(sums[hidden + i]) * carry.c[i] + gate(sums[i]) * candidate;
      carry.c[i] = c;
      carry.h[i] = gate(sums[3 * hidden + i]) * Math.tanh(c);
    }
  }
}

class LanguageModel {
  /**
   * @param {{vocabulary: number, hidden: number, layers: number, embedding: number, ngram: number, gates: string,
   *   lineEnd: ?number}} config
   * @param {Object<string, Float32Array>} weights - by name, as jaxlm/page/assemble.py packs them.
   */
  constructor(config, weights) {
    this.config = config;
    const { vocabulary, hidden, layers, embedding } = config;
    this.layers = [];
    for (let i = 0; i < layers; i++) {
      const [input, recurrent, bias] = ["input", "recurrent", "bias"].map((name) => weights[`lstm_${i}.${name}`]);
      this.layers.push(new Layer(input, recurrent, bias, hidden, config.gates));
    }
    this.embedding = weights["embed"];
    this.dense = new Matrix(weights["dense.kernel"], hidden, vocabulary);
    this.bias = this.dense.output();
    this.bias.set(weights["dense.bias"]);
    const width = embedding || vocabulary;
    this.priorInput = weights["ngram_input"] && new Matrix(weights["ngram_input"], vocabulary, width);
    this.gate = weights["ngram_gate.state"] && {
      bias: weights["ngram_gate.bias"][0],
      state: weights["ngram_gate.state"],
      totals: weights["ngram_gate.totals"],
    };
    this.inputs = new Float32Array(Math.ceil(width / LANES) * LANES);
  }

  /** The carry at the start of a text. */
  start() {
    const { hidden } = this.config;
    return this.layers.map(() => ({ c: new Float32Array(hidden), h: new Float32Array(hidden) }));
  }

  /**
   * Reads a token: changes the carry, which is reset first where the token begins a line that is a document of its own.
   *
   * @param {?{probabilities: Float32Array, totals: Int32Array}} prior - what the counts say of the token after it.
   */
  read(carry, token, prior) {
    if (token === this.config.lineEnd) Object.assign(carry, this.start());
    const [first, ...others] = this.layers;
    first.step(carry[0], (sums) => this.addToken(first.input, token, prior, sums));
    others.forEach((layer, i) => layer.step(carry[i + 1], (sums) => layer.input.addProduct(carry[i].h, sums)));
  }

  addToken(matrix, token, prior, sums) {
    const { embedding } = this.config;
    if (!embedding && !this.priorInput) {
      matrix.addRow(token, sums);
      return;
    }
    const { inputs } = this;
    inputs.fill(0);
    if (embedding) inputs.set(this.embedding.subarray(token * embedding, (token + 1) * embedding));
    else inputs[token] = 1;
    if (this.priorInput) this.priorInput.addProduct(prior.probabilities, inputs);
    matrix.addProduct(inputs, sums);
  }

  /**
   * The logits of the next token, and the network's own part in them.
   *
   * @returns {{logits: Float32Array, own: Float32Array}} the same array twice without counts.
   */
  logits(carry, prior) {
    const { h } = carry[carry.length - 1];
    const sums = this.bias.slice();
    this.dense.addProduct(h, sums);
    const own = sums.subarray(0, this.config.vocabulary);
    if (!this.gate) return { logits: own, own };
    let weight = this.gate.bias;
    for (let i = 0; i < h.length; i++) weight += h[i] * this.gate.state[i];
    for (let k = 0; k < prior.totals.length; k++) weight += Math.log1p(prior.totals[k]) * this.gate.totals[k];
    return { logits: own.map((logit, i) => logit + weight * Math.log(prior.probabilities[i])), own };
  }
}
