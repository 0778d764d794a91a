"use strict";
// A Qwen3 mixture-of-experts language model as pure functions: model.py once more, in its order and by its names.
//
// One text at a time, so nothing here has a batch dimension. The shapes stand in comments:
//   vectors   Float32Array, row after row: [tokens, hidden]
//   matrix    {data: Float32Array, rows, columns}; a stack of experts is one matrix with their rows below each other
//   heads     {data: Float32Array, heads, dim}: [tokens, heads, dim]
// Sums run in doubles, as all numbers of JavaScript do, and what a step gives is rounded to fp32. Weights bear the names
// of model.py, and config those of config.json. Nothing has state but the key/value cache that a caller hands in.

// ---- from a token to its vector, and what a layer needs --------------------------------------

/** The row of the embedding table that each token id names: [tokens] -> [tokens, hidden]. */
function embed(tokenIds, embedTokens) {
  const width = embedTokens.columns;
  const x = new Float32Array(tokenIds.length * width);
  tokenIds.forEach((id, token) => x.set(embedTokens.data.subarray(id * width, (id + 1) * width), token * width));
  return x;
}

/** x / sqrt(mean(x^2) + eps) * weight, along vectors as long as the weight. */
function rmsNorm(x, weight, eps) {
  const width = weight.length;
  const out = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += x[start + i] * x[start + i];
    const scale = 1 / Math.sqrt(squares / width + eps);
    for (let i = 0; i < width; i++) out[start + i] = weight[i] * Math.fround(x[start + i] * scale);
  }
  return out;
}

/** Radians per position of each pair of a head, and the factor on cos and sin, for every rope_type: {each, scale}. */
function ropeFrequencies(config, longest) {
  const rope = config.rope_parameters;
  const { rope_type: kind, factor = 1 } = rope;
  const dim = config.head_dim;
  let theta = rope.rope_theta;
  if (kind === "dynamic") {
    const trained = config.max_position_embeddings;
    theta *= ((factor * Math.max(longest, trained)) / trained - (factor - 1)) ** (dim / (dim - 2));
  }
  // fp32 at the places where model.py has it: a far position makes much of a last digit.
  let each = Float32Array.from({ length: dim / 2 }, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / dim)));
  let scale = 1;
  if (kind === "linear" || kind === "proportional") {
    const turning = Math.floor(((rope.partial_rotary_factor ?? 1) * dim) / 2);
    each = each.map((frequency, i) => (i < turning ? frequency / factor : 0));
  } else if (kind === "yarn") {
    const keep = yarnRamp(config);
    each = each.map((frequency, i) => (frequency / factor) * (1 - keep[i]) + frequency * keep[i]);
    scale = yarnAttentionFactor(rope);
  } else if (kind === "llama3") {
    const low = rope.low_freq_factor;
    const trained = rope.original_max_position_embeddings;
    each = each.map((frequency) => {
      const turns = (trained * frequency) / (2 * Math.PI);
      const keep = Math.min(1, Math.max(0, (turns - low) / (rope.high_freq_factor - low)));
      return (frequency / factor) * (1 - keep) + frequency * keep;
    });
  } else if (kind === "longrope") {
    const trained = rope.original_max_position_embeddings;
    const slower = longest > trained ? rope.long_factor : rope.short_factor;
    each = each.map((frequency, i) => frequency / slower[i]);
    scale = rope.attention_factor || Math.sqrt(1 + Math.log(Math.max(factor, 1)) / Math.log(trained));
  }
  return { each, scale };
}

/** 1 for pairs that turn often within the trained length and are kept, 0 for slow ones, which are stretched. */
function yarnRamp(config) {
  const rope = config.rope_parameters;
  const dim = config.head_dim;
  const pairWith = (turns) => {
    const wavelength = rope.original_max_position_embeddings / (turns * 2 * Math.PI);
    return (dim * Math.log(wavelength)) / (2 * Math.log(rope.rope_theta));
  };
  let [first, last] = [pairWith(rope.beta_fast || 32), pairWith(rope.beta_slow || 1)];
  if (rope.truncate ?? true) [first, last] = [Math.floor(first), Math.ceil(last)];
  [first, last] = [Math.max(first, 0), Math.min(last, dim - 1)];
  const ramp = (pair) => 1 - Math.min(1, Math.max(0, (pair - first) / (last - first || 0.001)));
  return Float32Array.from({ length: dim / 2 }, (_, pair) => ramp(pair));
}

/** How much yarn sharpens attention over the longer context: 0.1 ln(factor) + 1 unless the config says. */
function yarnAttentionFactor(rope) {
  const magnitude = (scale) => (rope.factor > 1 ? 0.1 * scale * Math.log(rope.factor) + 1 : 1);
  if (rope.attention_factor != null) return rope.attention_factor;
  if (rope.mscale && rope.mscale_all_dim) return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim);
  return magnitude(1);
}

/** cos and sin of every pair's angle at every position, each [tokens, dim/2]; both halves of a head share them. */
function ropeTable(config, positions) {
  const { each, scale } = ropeFrequencies(config, Math.max(...positions) + 1);
  return angleTable(each, scale, positions);
}

function angleTable(frequencies, scale, positions) {
  const pairs = frequencies.length;
  const cos = new Float32Array(positions.length * pairs);
  const sin = new Float32Array(positions.length * pairs);
  for (let i = 0; i < cos.length; i++) {
    const angle = Math.fround(positions[Math.floor(i / pairs)] * frequencies[i % pairs]);
    [cos[i], sin[i]] = [Math.fround(Math.cos(angle)) * scale, Math.fround(Math.sin(angle)) * scale];
  }
  return { cos, sin };
}

/** Turns each pair of a head by its angle. Pair i is (x[i], x[i + dim/2]): halves, not neighbours. */
function rope(x, cos, sin) {
  return turned(x, cos, sin, (pair, half) => [pair, pair + half]);
}

function turned(x, cos, sin, placesOf) {
  const half = x.dim / 2;
  const data = new Float32Array(x.data.length);
  for (let start = 0; start < data.length; start += x.dim) {
    const angles = Math.floor(start / (x.heads * x.dim)) * half;
    for (let pair = 0; pair < half; pair++) {
      const [a, b] = placesOf(pair, half);
      const [first, second] = [x.data[start + a], x.data[start + b]];
      const [c, s] = [cos[angles + pair], sin[angles + pair]];
      data[start + a] = first * c - second * s;
      data[start + b] = second * c + first * s;
    }
  }
  return { ...x, data };
}

/** 1 where a query may look, [queries, keys]: at keys no later than itself and fewer than `window` tokens back. */
function attentionMask(positions, keyPositions, window = null) {
  const mask = new Uint8Array(positions.length * keyPositions.length);
  for (let query = 0, i = 0; query < positions.length; query++) {
    for (let key = 0; key < keyPositions.length; key++, i++) {
      const distance = positions[query] - keyPositions[key];
      mask[i] = distance >= 0 && (window === null || distance < window) ? 1 : 0;
    }
  }
  return mask;
}

/** softmax(q k^T / sqrt(dim)) of what the mask lets be seen: [heads, queries, keys]. */
function attentionWeights(q, k, mask, precision = Math.fround) {
  const width = q.heads * q.dim;
  const keyWidth = k.heads * k.dim;
  const [queries, keys, group] = [q.data.length / width, k.data.length / keyWidth, q.heads / k.heads];
  const weights = new Float32Array(q.heads * queries * keys);
  const scale = 1 / Math.sqrt(q.dim);
  for (let head = 0; head < q.heads; head++) {
    const keyHead = Math.floor(head / group) * k.dim; // neighbouring query heads share one key head
    for (let query = 0; query < queries; query++) {
      const row = weights.subarray((head * queries + query) * keys, (head * queries + query + 1) * keys);
      const seen = mask.subarray(query * keys, (query + 1) * keys);
      const from = query * width + head * q.dim;
      for (let key = 0; key < keys; key++) {
        if (!seen[key]) continue;
        const at = key * keyWidth + keyHead;
        let sum = 0;
        for (let i = 0; i < q.dim; i++) sum += q.data[from + i] * k.data[at + i];
        row[key] = precision(sum * scale);
      }
      softmax(row, seen, precision);
    }
  }
  return weights;
}

/** In place, over the entries that `seen` marks (all without it); the others become 0. */
function softmax(row, seen = null, precision = Math.fround) {
  let [largest, sum] = [-Infinity, 0];
  for (let i = 0; i < row.length; i++) if ((!seen || seen[i]) && row[i] > largest) largest = row[i];
  for (let i = 0; i < row.length; i++) {
    row[i] = !seen || seen[i] ? Math.exp(row[i] - largest) : 0;
    sum += row[i];
  }
  for (let i = 0; i < row.length; i++) row[i] = precision(row[i] / sum);
}

/** The values, weighed by attentionWeights(q, k, mask): heads of the shape of q. `weigh` gives the weights. */
function gqaAttention(q, k, v, mask, weigh = attentionWeights) {
  const weights = weigh(q, k, mask);
  const width = q.heads * q.dim;
  const valueWidth = v.heads * v.dim;
  const [queries, keys, group] = [q.data.length / width, v.data.length / valueWidth, q.heads / v.heads];
  const data = new Float32Array(q.data.length);
  const sum = new Float64Array(q.dim);
  for (let head = 0; head < q.heads; head++) {
    const valueHead = Math.floor(head / group) * v.dim;
    for (let query = 0; query < queries; query++) {
      sum.fill(0);
      for (let key = 0; key < keys; key++) {
        const weight = weights[(head * queries + query) * keys + key];
        if (weight === 0) continue;
        const at = key * valueWidth + valueHead;
        for (let i = 0; i < v.dim; i++) sum[i] += weight * v.data[at + i];
      }
      data.set(sum, query * width + head * q.dim);
    }
  }
  return { ...q, data };
}

/** x W^T + bias: [tokens, columns] -> [tokens, rows]. */
function linear(x, { data, rows, columns }, bias = null) {
  const tokens = x.length / columns;
  const out = new Float32Array(tokens * rows);
  for (let row = 0; row < rows; row++) {
    const at = row * columns;
    for (let token = 0; token < tokens; token++) {
      const from = token * columns;
      let a = 0, b = 0, c = 0, d = 0, i = 0; // four sums, so that none has to wait for the one before
      for (; i + 3 < columns; i += 4) {
        a += x[from + i] * data[at + i];
        b += x[from + i + 1] * data[at + i + 1];
        c += x[from + i + 2] * data[at + i + 2];
        d += x[from + i + 3] * data[at + i + 3];
      }
      for (; i < columns; i++) a += x[from + i] * data[at + i];
      out[token * rows + row] = a + b + c + d + (bias ? bias[row] : 0);
    }
  }
  return out;
}

/** So many rows of a matrix from one on, without a copy. */
function rowsOf({ data, columns }, first, rows) {
  return { data: data.subarray(first * columns, (first + rows) * columns), rows, columns };
}

/** Where each token goes: weights and experts, each [tokens, topK], the strongest first, and logits [tokens, experts].
 *
 * Softmax over all experts, the topK largest, made to sum to one if normTopkProb. Of equal ones the first is taken. */
function moeRoute(x, router, topK, normTopkProb) {
  const count = router.rows;
  if (!(topK >= 1 && topK <= count)) {
    throw new Error(`moeRoute: topK is ${topK}, expected 1 to ${count}, the number of experts: mend it`);
  }
  const logits = linear(x, router);
  const tokens = logits.length / count;
  const route = { weights: new Float32Array(tokens * topK), experts: new Int32Array(tokens * topK), logits, topK };
  for (let token = 0; token < tokens; token++) {
    const probabilities = logits.slice(token * count, (token + 1) * count);
    softmax(probabilities);
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    const best = order.slice(0, topK);
    const sum = normTopkProb ? best.reduce((sum, expert) => sum + probabilities[expert], 0) : 1;
    best.forEach((expert, rank) => {
      route.weights[token * topK + rank] = probabilities[expert] / sum;
      route.experts[token * topK + rank] = expert;
    });
  }
  return route;
}

/** SwiGLU: (silu(x gate^T) * (x up^T)) down^T. */
function expertFfn(x, gateProj, upProj, downProj) {
  const gate = linear(x, gateProj);
  const up = linear(x, upProj);
  return linear(gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]), downProj);
}

/** Each token's sum of its experts' answers, weighted by its route: every expert sees its tokens in one product. */
function moe(x, route, gateUpProj, downProj, expert = expertFfn) {
  const hidden = gateUpProj.columns;
  const intermediate = downProj.columns;
  const chosenBy = new Map(); // expert -> its places in the route
  route.experts.forEach((number, place) => {
    if (!chosenBy.has(number)) chosenBy.set(number, []);
    chosenBy.get(number).push(place);
  });
  const out = new Float32Array(x.length);
  for (const [number, places] of [...chosenBy].sort(([a], [b]) => a - b)) {
    const own = new Float32Array(places.length * hidden);
    const tokens = places.map((place) => Math.floor(place / route.topK));
    tokens.forEach((token, i) => own.set(x.subarray(token * hidden, (token + 1) * hidden), i * hidden));
    const gate = rowsOf(gateUpProj, 2 * number * intermediate, intermediate);
    const up = rowsOf(gateUpProj, (2 * number + 1) * intermediate, intermediate);
    const answer = expert(own, gate, up, rowsOf(downProj, number * hidden, hidden));
    tokens.forEach((token, i) => {
      const weight = route.weights[places[i]];
      for (let j = 0; j < hidden; j++) out[token * hidden + j] += weight * answer[i * hidden + j];
    });
  }
  return out;
}

// The steps of a layer, each replaceable: to watch them, to leave something out, or wrongly on purpose. Where `at` is
// given, at(layer) gives the steps of one layer. `headNorm` is rmsNorm on the heads of q and k, `weigh` within attention.
const OPS = {
  embed, norm: rmsNorm, headNorm: rmsNorm, table: ropeTable, rope, mask: attentionMask, weigh: attentionWeights,
  attention: gqaAttention, route: moeRoute, expert: expertFfn, moe, linear, head: linear, at: null,
};

/** Project to heads, normalise q and k per head (QK-norm), turn them by position, attend, project back. */
function selfAttention(x, layer, config, table, mask, remember = null, ops = OPS) {
  const [heads, kvHeads, dim] = [config.num_attention_heads, config.num_key_value_heads, config.head_dim];
  let q = { data: ops.linear(x, layer.q_proj, layer.q_bias), heads, dim };
  let k = { data: ops.linear(x, layer.k_proj, layer.k_bias), heads: kvHeads, dim };
  let v = { data: ops.linear(x, layer.v_proj, layer.v_bias), heads: kvHeads, dim };
  q = { ...q, data: ops.headNorm(q.data, layer.q_norm, config.rms_norm_eps) };
  k = { ...k, data: ops.headNorm(k.data, layer.k_norm, config.rms_norm_eps) };
  [q, k] = [ops.rope(q, table.cos, table.sin), ops.rope(k, table.cos, table.sin)];
  if (remember) [k, v] = remember(k, v);
  return ops.linear(ops.attention(q, k, v, mask, ops.weigh).data, layer.o_proj, layer.o_bias);
}

/** The experts of a sparse layer, or the one feed-forward of a dense layer; tokens do not see each other here. */
function feedForward(x, layer, config, ops = OPS) {
  if (!layer.router) {
    const half = layer.gate_up_proj.rows / 2;
    const [gate, up] = [rowsOf(layer.gate_up_proj, 0, half), rowsOf(layer.gate_up_proj, half, half)];
    return ops.expert(x, gate, up, layer.down_proj);
  }
  const route = ops.route(x, layer.router, config.num_experts_per_tok, config.norm_topk_prob);
  return ops.moe(x, route, layer.gate_up_proj, layer.down_proj, ops.expert);
}

/** x + attention(norm(x)), then x + feedForward(norm(x)): each step adds to the residual stream. */
function decoderLayer(x, layer, config, table, mask, remember = null, ops = OPS) {
  const add = (a, b) => a.map((value, i) => value + b[i]);
  const attended = ops.norm(x, layer.input_layernorm, config.rms_norm_eps);
  x = add(x, selfAttention(attended, layer, config, table, mask, remember, ops));
  return add(x, feedForward(ops.norm(x, layer.post_attention_layernorm, config.rms_norm_eps), layer, config, ops));
}

/** Embedded tokens through all layers and the last norm; new keys and values are written into `cache`. */
function hiddenStates(weights, x, config, cache = null, ops = OPS) {
  const before = cache ? cache.length : 0;
  const order = Array.from({ length: x.length / config.hidden_size }, (_, token) => before + token);
  const keyOrder = Array.from({ length: before + order.length }, (_, token) => token);
  const table = ops.table(config, order);
  const masks = new Map(); // one for each kind of layer
  weights.layers.forEach((layer, number) => {
    const window = config.windows[number];
    if (!masks.has(window)) masks.set(window, ops.mask(order, keyOrder, window));
    const remember = cache && ((k, v) => cache.write(number, k, v));
    x = decoderLayer(x, layer, config, table, masks.get(window), remember, ops.at ? ops.at(number) : ops);
  });
  if (cache) cache.length += order.length;
  return ops.norm(x, weights.norm, config.rms_norm_eps);
}

/** Token ids -> logits of the next token, [kept, vocab], at every position or at the last `logitsToKeep` (0: all). */
function forward(weights, tokenIds, config, { cache = null, logitsToKeep = 0, ops = OPS } = {}) {
  const x = hiddenStates(weights, ops.embed(tokenIds, weights.embed_tokens), config, cache, ops);
  const kept = logitsToKeep ? x.subarray(-logitsToKeep * config.hidden_size) : x;
  return ops.head(kept, weights.lm_head ?? weights.embed_tokens);
}

// ---- what has been read ----------------------------------------------------------------------

/** Keys and values of each layer, [tokens, kv_heads, dim], so that a new token alone has to be computed. */
class KVCache {
  constructor(layers) {
    this.length = 0; // tokens that all layers have read
    this.held = Array.from({ length: layers }, () => ({ k: new Float32Array(0), v: new Float32Array(0) }));
  }

  /** All keys and values of a layer, the new ones after those it holds. */
  write(layer, k, v) {
    const start = this.length * k.heads * k.dim;
    const append = (name, { data }) => {
      let room = this.held[layer][name];
      if (room.length < start + data.length) {
        room = new Float32Array(2 * (start + data.length)); // twice, so that growing stays rare
        room.set(this.held[layer][name].subarray(0, start));
        this.held[layer][name] = room;
      }
      room.set(data, start);
      return room.subarray(0, start + data.length);
    };
    return [{ ...k, data: append("k", k) }, { ...v, data: append("v", v) }];
  }
}
