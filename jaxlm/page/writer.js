"use strict";
// A text that grows token by token: what jaxlm/generator.py does, one token at a time.

const SLICE = 50; // Milliseconds of reading after which the page may answer.

/** Remembers all tokens in the network's state. */
class StateMemory {
  constructor(model, counts) {
    this.model = model;
    this.counts = counts;
    this.carry = model.start();
    this.state = ROOT;
  }

  append(token) {
    let prior = null;
    if (this.counts) {
      this.state = this.counts.advance(this.state, token);
      prior = this.counts.after(this.state);
    }
    this.prior = prior;
    this.model.read(this.carry, token, prior);
  }

  predict() {
    return { ...this.model.logits(this.carry, this.prior), prior: this.prior };
  }
}

/** Remembers the last `length` tokens, and reads them again for each prediction, as the book does. */
class WindowMemory {
  constructor(model, counts, length) {
    Object.assign(this, { model, counts, length });
    this.tokens = [];
  }

  append(token) {
    this.tokens.push(token);
    if (this.tokens.length > this.length) this.tokens.shift();
  }

  predict() {
    const memory = new StateMemory(this.model, this.counts);
    for (const token of this.tokens) memory.append(token);
    return memory.predict();
  }
}

/** A trained model: a network, its counts, if it takes any, and how texts become tokens. */
class TextGenerator {
  constructor(values, model, vocab, counts) {
    Object.assign(this, { values, model, vocab, counts });
  }

  /** The ids of a prompt; throws an InputError if it cannot be read. */
  encode(prompt) {
    const ids = this.vocab.encode(asRead(prompt, this.vocab, this.values));
    if (!ids.length) throw new InputError("prompt: found no text, expected at least one character");
    return ids;
  }

  memory(mode) {
    if (mode === "state") return new StateMemory(this.model, this.counts);
    return new WindowMemory(this.model, this.counts, this.values.length);
  }

  /** A text that continues a prompt's ids; the same seed and settings draw what Python draws. */
  async text(ids, seed, mode = this.values.mode) {
    const memory = this.memory(mode);
    let until = performance.now() + SLICE;
    for (const id of ids) {
      memory.append(id);
      if (performance.now() < until) continue;
      await pause();
      until = performance.now() + SLICE;
    }
    return new GrowingText(memory, seed, this.vocab.decoder());
  }

  /** The text of Python's `generate`, without the prompt. */
  async generate(prompt, length, draw, seed, mode) {
    const text = await this.text(this.encode(prompt), seed, mode);
    const characters = [];
    while (characters.length < length) characters.push(...text.next(draw).text);
    return characters.slice(0, length).join("");
  }
}

class GrowingText {
  /** What follows all that a memory has read; `decode` turns ids into text. */
  constructor(memory, seed, decode) {
    Object.assign(this, { memory, decode });
    this.key = textKey(seed);
    this.drawn = 0;
    this.prediction = memory.predict();
  }

  /**
   * Draws the next token.
   *
   * @returns {{id: number, text: string, prediction: object}} the text that it completes, and what was predicted there.
   */
  next(draw) {
    const { prediction } = this;
    const id = pickToken(foldIn(this.key, this.drawn), prediction.logits, draw);
    this.drawn = (this.drawn + 1) >>> 0;
    this.memory.append(id);
    this.prediction = this.memory.predict();
    return { id, text: this.decode(id), prediction };
  }
}
