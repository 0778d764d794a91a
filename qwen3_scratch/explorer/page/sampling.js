"use strict";
// Logits -> the next token: temperature, top-k, top-p, and a draw that one number decides. As sampling.py.

/** The distribution that is drawn from: temperature first, then top-k and top-p, each on what is left. */
function probabilities(logits, { temperature = 1, topK = 0, topP = 1 } = {}) {
  const found = Float64Array.from(logits);
  if (temperature === 0) {
    const best = likeliest(logits);
    return found.map((_, token) => (token === best ? 1 : 0));
  }
  const largest = found.reduce((a, b) => Math.max(a, b), -Infinity);
  for (let i = 0; i < found.length; i++) found[i] = (found[i] - largest) / Math.max(temperature, 1e-30);
  if (topK > 0 && topK < found.length) {
    const least = Float64Array.from(found).sort()[found.length - topK];
    for (let i = 0; i < found.length; i++) if (found[i] < least) found[i] = -Infinity;
  }
  softmax(found, null, Number);
  if (topP < 1) {
    const order = Array.from(found.keys()).sort((a, b) => found[b] - found[a] || a - b);
    let before = 0;
    for (const token of order) {
      const own = found[token];
      if (before >= topP) found[token] = 0; // the sum before it already suffices
      before += own;
    }
    const sum = found.reduce((a, b) => a + b, 0);
    for (let i = 0; i < found.length; i++) found[i] /= sum;
  }
  return found;
}

function likeliest(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

/** The token in whose stretch of the cumulative distribution a number between 0 and 1 falls. */
function draw(probability, uniform) {
  let [reached, last] = [0, 0];
  const target = uniform * probability.reduce((a, b) => a + b, 0);
  for (let token = 0; token < probability.length; token++) {
    if (probability[token] > 0) last = token;
    reached += probability[token];
    if (reached > target) return token;
  }
  return last;
}

/** Numbers between 0 and 1 from a seed: number `count` is a function of both, so that nothing has state. */
function uniformOf(seed, count) {
  let bits = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(count + 1, 0x85ebca77)) >>> 0;
  for (let round = 0; round < 3; round++) {
    bits = Math.imul(bits ^ (bits >>> 15), 0x2c1b3c6d) >>> 0;
    bits = Math.imul(bits ^ (bits >>> 12), 0x297a2d39) >>> 0;
  }
  return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32;
}

/** The next token, never one from `vocabulary` on: rows after it stand for none. */
function choose(logits, sampling, vocabulary, uniform) {
  const own = logits.subarray(0, vocabulary);
  if (!own.every(Number.isFinite)) throw new Error("the logits are not finite, expected numbers: undo what was changed");
  return sampling.temperature === 0 ? likeliest(own) : draw(probabilities(own, sampling), uniform);
}
