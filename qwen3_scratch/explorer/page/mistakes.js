"use strict";
// The steps of the model as they are wrongly written, by the names of inside/mistakes.py: each in the place of the right
// one. Those that need padding are left out, since a page reads one text.

const rounded16 = (value) => { // to bfloat16: the upper half of fp32, rounded to even
  const [whole] = new Uint32Array(Float32Array.of(value).buffer);
  return new Float32Array(Uint32Array.of((whole + 0x7fff + ((whole >>> 16) & 1)) & 0xffff0000).buffer)[0];
};

function layerNorm(x, weight, eps) {
  const width = weight.length;
  const out = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    const row = x.subarray(start, start + width);
    const mean = row.reduce((a, b) => a + b, 0) / width;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width;
    for (let i = 0; i < width; i++) out[start + i] = ((row[i] - mean) / Math.sqrt(variance + eps)) * weight[i];
  }
  return out;
}

function epsOutsideRoot(x, weight, eps) {
  const width = weight.length;
  const out = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    const row = x.subarray(start, start + width);
    const root = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / width);
    for (let i = 0; i < width; i++) out[start + i] = weight[i] * (row[i] / (root + eps));
  }
  return out;
}

const weightPlusOne = (x, weight, eps) => rmsNorm(x, weight.map((value) => value + 1), eps);

const withTheta = (config, theta) => ({ ...config, rope_parameters: { ...config.rope_parameters, rope_theta: theta } });

function frequenciesInBf16(config, positions) {
  const { each, scale } = ropeFrequencies(config, Math.max(...positions) + 1);
  return angleTable(each.map(rounded16), scale, positions);
}

/** Key heads in another order, `places` of them: which key head each query head reads. */
function withKeyHeads(x, places) {
  const tokens = x.data.length / (x.heads * x.dim);
  const data = new Float32Array(tokens * places.length * x.dim);
  for (let token = 0; token < tokens; token++) {
    places.forEach((place, head) => {
      const from = (token * x.heads + place) * x.dim;
      data.set(x.data.subarray(from, from + x.dim), (token * places.length + head) * x.dim);
    });
  }
  return { ...x, data, heads: places.length };
}

const readingHeads = (placeOf) => (q, k, v, mask, weigh) => {
  const places = Array.from({ length: q.heads }, (_, head) => placeOf(head, k.heads));
  return gqaAttention(q, withKeyHeads(k, places), withKeyHeads(v, places), mask, weigh);
};

function scaledByAllHeads(q, k, v, mask, weigh) {
  return gqaAttention({ ...q, data: q.data.map((value) => value / Math.sqrt(q.heads)) }, k, v, mask, weigh);
}

/** The best logits first, then a softmax over these alone. */
function softmaxOverTopK(x, router, topK) {
  const route = moeRoute(x, router, topK, false);
  for (let start = 0; start < route.experts.length; start += topK) {
    const token = start / topK;
    const best = Float32Array.from({ length: topK }, (_, i) => route.logits[token * router.rows + route.experts[start + i]]);
    softmax(best);
    route.weights.set(best, start);
  }
  return route;
}

const MISTAKES = {
  no_qk_norm: { headNorm: (x) => x },
  layer_norm: { norm: layerNorm, headNorm: layerNorm },
  eps_outside_root: { norm: epsOutsideRoot, headNorm: epsOutsideRoot },
  weight_plus_one: { norm: weightPlusOne, headNorm: weightPlusOne },
  interleaved_rope: { rope: (x, cos, sin) => turned(x, cos, sin, (pair) => [2 * pair, 2 * pair + 1]) },
  theta_of_qwen3: { table: (config, positions) => ropeTable(withTheta(config, 1e6), positions) },
  frequencies_in_bf16: { table: frequenciesInBf16 },
  positions_from_zero: {
    table: (config, positions) => ropeTable(config, positions.map((position) => position - positions[0])),
  },
  repeated_heads: { attention: readingHeads((head, keyHeads) => head % keyHeads) },
  groups_of_four: { attention: readingHeads((head, keyHeads) => Math.min(Math.floor(head / 4), keyHeads - 1)) },
  scaled_by_all_heads: { attention: scaledByAllHeads },
  softmax_in_bf16: { weigh: (q, k, mask) => attentionWeights(q, k, mask, rounded16) },
  no_causal_mask: { mask: (positions, keys) => new Uint8Array(positions.length * keys.length).fill(1) },
  window_off_by_one: {
    mask: (positions, keys, window = null) => attentionMask(positions, keys, window === null ? null : window + 1),
  },
  argmax_expert: { route: (x, router) => moeRoute(x, router, 1, false) },
  renormalisation_forgotten: { route: (x, router, topK) => moeRoute(x, router, topK, false) },
  renormalised_unasked: { route: (x, router, topK) => moeRoute(x, router, topK, true) },
  softmax_over_top_k: { route: softmaxOverTopK },
  gate_and_up_swapped: { expert: (x, gate, up, down) => expertFfn(x, up, gate, down) },
};
