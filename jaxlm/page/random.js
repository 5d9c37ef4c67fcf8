"use strict";
// JAX's random numbers: threefry2x32 as `jax.random` uses it by default (partitionable), and Gumbel noise from it.

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];
const PARITY = 0x1bd11bda;
const SAMPLING_TAG = 0x7e87; // As in jaxlm/nn/sampling.py.
const TINY = 2 ** -126; // The smallest normal float32.

/** Encrypts two words with two; leaves the result, uint32[2], in `out`. Salmon et al. 2011, 20 rounds. */
function threefry2x32(key0, key1, word0, word1, out) {
  const key2 = key0 ^ key1 ^ PARITY;
  let a = (word0 + key0) | 0;
  let b = (word1 + key1) | 0;
  for (let group = 0; group < 5; group++) {
    const first = group & 1 ? 4 : 0;
    for (let i = first; i < first + 4; i++) {
      a = (a + b) | 0;
      b = ((b << ROTATIONS[i]) | (b >>> (32 - ROTATIONS[i]))) ^ a;
    }
    const next = group % 3;
    a = (a + (next === 0 ? key1 : next === 1 ? key2 : key0)) | 0;
    b = (b + (next === 0 ? key2 : next === 1 ? key0 : key1) + group + 1) | 0;
  }
  out[0] = a;
  out[1] = b;
}

/** `jax.random.fold_in` of a key, uint32[2]. */
function foldIn(key, number) {
  const folded = new Uint32Array(2);
  threefry2x32(key[0], key[1], 0, number, folded);
  return folded;
}

/** The key from which the keys of a text's tokens are folded: `jax.random.key(seed)`, apart from that of training. */
function textKey(seed) {
  return foldIn(new Uint32Array([0, seed]), SAMPLING_TAG);
}

/** `jax.random.gumbel(key, (size,))` in float32; logarithms may differ from XLA's in the last bit. */
function gumbel(key, size) {
  const noise = new Float32Array(size);
  const words = new Uint32Array(2);
  const bits = new Uint32Array(1);
  const float = new Float32Array(bits.buffer);
  for (let i = 0; i < size; i++) {
    threefry2x32(key[0], key[1], 0, i, words);
    bits[0] = ((words[0] ^ words[1]) >>> 9) | 0x3f800000; // From 1 to 2, then from 0 to 1.
    const uniform = Math.max(TINY, float[0] - 1);
    noise[i] = -Math.log(-Math.fround(Math.log(uniform)));
  }
  return noise;
}
