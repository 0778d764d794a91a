"use strict";
// The page's data -> a model, what is changed in it, and answers token by token with all that there is to see in them.

const DEFAULT_MOST = 256; // new tokens
const MOST_LOOKS = 2 ** 25; // attention weights that a run keeps, 128 MB; of later tokens none are shown
const OPTIONS = [
  "thinking", "maxNewTokens", "temperature", "topK", "topP", "seed", "k", "normTopkProb", "off", "force", "swap",
  "headsOff", "mistakes",
];

// ---- weights ---------------------------------------------------------------------------------

/** All bytes of the weights, from pieces in base64. */
function bytesOf(pieces) {
  const codes = new Uint8Array(128);
  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".split("").forEach((character, code) => {
    codes[character.charCodeAt(0)] = code;
  });
  const sizeOf = (text) => (text.length / 4) * 3 - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0);
  const bytes = new Uint8Array(pieces.reduce((sum, text) => sum + sizeOf(text), 0));
  let at = 0;
  for (const text of pieces) {
    const end = at + sizeOf(text);
    for (let i = 0; i < text.length; i += 4) {
      const first = (codes[text.charCodeAt(i)] << 6) | codes[text.charCodeAt(i + 1)];
      const second = (codes[text.charCodeAt(i + 2)] << 6) | codes[text.charCodeAt(i + 3)];
      const bits = (first << 12) | second;
      for (let shift = 16; shift >= 0 && at < end; shift -= 8) bytes[at++] = bits >> shift;
    }
  }
  return bytes;
}

/** What each of the 65,536 numbers of fp16 is. */
function halves() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
}

/** The tree of weights. A tensor of `bits` 32 and 16 lies there as floats, of 8 as a scale for each row, then numbers. */
function readWeights(tensors, bytes) {
  const half = halves();
  const tree = { layers: [] };
  for (const { name, layer, shape, bits, start } of tensors) {
    const columns = shape[shape.length - 1];
    const size = shape.reduce((a, b) => a * b, 1);
    const rows = size / columns;
    const from = (Kind, offset, count) => new Kind(bytes.slice(offset, offset + count * Kind.BYTES_PER_ELEMENT).buffer);
    let data = new Float32Array(bits === 32 ? 0 : size); // loops below: Float32Array.from would make a list first
    if (bits === 32) data = from(Float32Array, start, size);
    else if (bits === 16) {
      const numbers = from(Uint16Array, start, size);
      for (let i = 0; i < size; i++) data[i] = half[numbers[i]];
    } else {
      const [scale, numbers] = [from(Float32Array, start, rows), from(Int8Array, start + 4 * rows, size)];
      for (let row = 0, i = 0; row < rows; row++) for (let end = i + columns; i < end; i++) data[i] = numbers[i] * scale[row];
    }
    const owner = layer === null ? tree : (tree.layers[layer] ??= {});
    owner[name] = shape.length === 1 ? data : { data, rows, columns };
  }
  return tree;
}

/** Page data and the pieces of its weights -> {config, weights, tokenizer, chat, ends, sampling, longest}. */
function readModel(data, pieces) {
  const { config, chat, ends, sampling, longest } = data;
  const weights = readWeights(data.tensors, bytesOf(pieces));
  return { config, weights, tokenizer: new Tokenizer(data.tokenizer), chat, ends, sampling, longest };
}

// ---- what is changed -------------------------------------------------------------------------

const fail = (name, found, expected, advice = "mend it") => {
  throw new Error(`${name} is ${JSON.stringify(found)}, expected ${expected}: ${advice}`);
};
const whole = (value, least, most) => Number.isInteger(value) && value >= least && value <= most;
const sparse = (config, layer) => config.sparse[layer] === true;

/** Every option of its kind and within its range; Error says which is not. */
function checkOptions(config, options) {
  for (const name of Object.keys(options)) {
    if (!OPTIONS.includes(name)) throw new Error(`${name}: no such option, expected one of ${OPTIONS.join(", ")}`);
  }
  const { maxNewTokens, temperature, topK, topP, seed, k } = options;
  const [layers, experts, heads] = [config.num_hidden_layers, config.num_experts, config.num_attention_heads];
  const given = (value) => value !== undefined && value !== null;
  if (given(maxNewTokens) && !whole(maxNewTokens, 1, 1e6)) fail("maxNewTokens", maxNewTokens, "a whole number, at least 1");
  if (given(temperature) && !(temperature >= 0 && temperature < 1e6)) fail("temperature", temperature, "0 (greedy) or more");
  if (given(topK) && !whole(topK, 0, 1e9)) fail("topK", topK, "a whole number, 0 (off) or more");
  if (given(topP) && !(topP > 0 && topP <= 1)) fail("topP", topP, "a number above 0 and at most 1");
  if (given(seed) && !whole(seed, 0, 2 ** 32 - 1)) fail("seed", seed, "a whole number from 0 to 4294967295");
  if (given(k) && !whole(k, 1, experts)) fail("k", k, experts ? `1 to ${experts}, the number of experts` : "none: this model is dense");
  const places = (name, most, isExpert) => {
    for (const place of options[name] ?? []) {
      const [layer, ...numbers] = Array.isArray(place) ? place : [];
      const fits = whole(layer, 0, layers - 1) && (!isExpert || sparse(config, layer));
      const length = name === "swap" ? 2 : 1;
      if (!fits || numbers.length !== length || !numbers.every((number) => whole(number, 0, most - 1))) {
        const what = isExpert ? "expert" : "head";
        fail(`${name}: ${what}`, place, `a layer from 0 to ${layers - 1} with ${what}s, and ${what}s from 0 to ${most - 1}`);
      }
    }
  };
  for (const name of ["off", "force", "swap"]) places(name, experts, true);
  places("headsOff", heads, false);
  for (const name of options.mistakes ?? []) {
    if (!Object.hasOwn(MISTAKES, name)) fail("mistakes", name, `one of ${Object.keys(MISTAKES).join(", ")}`);
  }
}

/** The config and the steps by which a run computes: what `options` change, and nothing else. */
function changed(config, options) {
  checkOptions(config, options);
  const { k, normTopkProb, off = [], force = [], swap = [], headsOff = [], mistakes = [] } = options;
  const own = { ...config };
  if (k != null) own.num_experts_per_tok = k;
  if (normTopkProb != null) own.norm_topk_prob = normTopkProb;
  const base = { ...OPS };
  for (const name of mistakes) {
    for (const [step, wrong] of Object.entries(MISTAKES[name])) {
      if (base[step] !== OPS[step]) throw new Error(`mistakes: two of them replace the step ${step}, expected one: choose`);
      base[step] = wrong;
    }
  }
  const at = (layer) => {
    const numbers = (places) => places.filter(([place]) => place === layer).map(([, ...rest]) => rest);
    const gone = new Set(numbers(off).flat());
    const forced = [...new Set(numbers(force).flat())];
    const silent = numbers(headsOff).flat();
    const ops = { ...base, at: null };
    if (gone.size) ops.route = without(ops.route, gone, layer);
    mustBeOn("force", forced, gone, layer);
    if (forced.length > 1) {
      throw new Error(`force: experts ${forced.join(" and ")} of layer ${layer} are to read every token, expected one: choose`);
    }
    if (forced.length) ops.route = alwaysTo(forced[0]);
    for (const [a, b] of numbers(swap)) {
      mustBeOn("swap", [a, b], gone, layer);
      ops.route = swapped(ops.route, a, b);
    }
    if (silent.length) ops.attention = withoutHeads(ops.attention, silent);
    return ops;
  };
  const all = config.sparse.map((_, layer) => at(layer));
  return { config: own, ops: { ...base, at: (layer) => all[layer] } };
}

function mustBeOn(name, experts, gone, layer) {
  const off = experts.find((expert) => gone.has(expert));
  if (off !== undefined) throw new Error(`${name}: expert ${off} of layer ${layer} is off, expected one that is on: choose`);
}

/** A router that has to do without some experts. */
function without(route, gone, layer) {
  return (x, router, topK, normTopkProb) => {
    const kept = Array.from({ length: router.rows }, (_, expert) => expert).filter((expert) => !gone.has(expert));
    if (!kept.length) throw new Error(`off: layer ${layer} has no expert left, expected one at least: switch one on`);
    const data = new Float32Array(kept.length * router.columns);
    kept.forEach((expert, row) => data.set(rowsOf(router, expert, 1).data, row * router.columns));
    const fewer = { data, rows: kept.length, columns: router.columns };
    const found = route(x, fewer, Math.min(topK, kept.length), normTopkProb);
    const logits = new Float32Array((found.logits.length / kept.length) * router.rows).fill(-Infinity);
    found.logits.forEach((value, i) => {
      logits[Math.floor(i / kept.length) * router.rows + kept[i % kept.length]] = value;
    });
    return { ...found, logits, experts: found.experts.map((row) => kept[row]) };
  };
}

/** Every token goes to one expert, with weight 1. */
function alwaysTo(expert) {
  return (x, router) => {
    const logits = linear(x, router);
    const tokens = logits.length / router.rows;
    return { weights: new Float32Array(tokens).fill(1), experts: new Int32Array(tokens).fill(expert), logits, topK: 1 };
  };
}

/** What goes to one of two experts is computed by the other. */
function swapped(route, a, b) {
  return (...given) => {
    const found = route(...given);
    return { ...found, experts: found.experts.map((expert) => (expert === a ? b : expert === b ? a : expert)) };
  };
}

function withoutHeads(attention, silent) {
  return (...given) => {
    const out = attention(...given);
    const width = out.heads * out.dim;
    for (let start = 0; start < out.data.length; start += width) {
      for (const head of silent) out.data.fill(0, start + head * out.dim, start + (head + 1) * out.dim);
    }
    return out;
  };
}

// ---- answers ---------------------------------------------------------------------------------

/** A prompt's ids: a text as one turn of a chat, token ids as they are. Error for an empty one or one too long. */
function promptIds(model, prompt, thinking = true) {
  const rows = model.config.vocab_size;
  let ids = prompt;
  if (typeof prompt === "string") {
    if (!prompt.trim()) throw new Error("prompt is empty, expected at least one word: write something");
    const most = model.longest * model.tokenizer.longest;
    if (prompt.length > most) tooLong(`${prompt.length} characters`, model);
    const { before, after } = model.chat[thinking ? "thinking" : "direct"];
    ids = model.tokenizer.encode(before + prompt + after);
  }
  if (!Array.isArray(ids) || !ids.length) fail("prompt", prompt, "a text or a list of token ids");
  const wrong = ids.find((id) => !whole(id, 0, rows - 1));
  if (wrong !== undefined) fail("token id", wrong, `0 to ${rows - 1}`);
  if (ids.length >= model.longest) tooLong(`${ids.length} tokens`, model);
  return ids;
}

function tooLong(found, model) {
  throw new Error(`prompt has ${found}, expected fewer than ${model.longest} tokens: shorten it`);
}

/** Watches the steps of every layer: their routes and what they look at come to `run`, token by token. */
function watched(ops, run) {
  return (layer) => {
    const own = ops.at(layer);
    const start = run.hidden.length;
    return {
      ...own,
      route: (...given) => {
        const found = own.route(...given);
        const [topK, count] = [found.topK, given[1].rows];
        for (let i = 0; i * topK < found.experts.length; i++) {
          (run.routes[start + i] ??= [])[layer] = {
            experts: Array.from(found.experts.subarray(i * topK, (i + 1) * topK)),
            weights: Array.from(found.weights.subarray(i * topK, (i + 1) * topK)),
            logits: found.logits.slice(i * count, (i + 1) * count),
          };
        }
        return found;
      },
      weigh: (q, k, mask) => {
        const weights = own.weigh(q, k, mask);
        const [queries, keys] = [q.data.length / (q.heads * q.dim), k.data.length / (k.heads * k.dim)];
        run.held += weights.length;
        for (let query = 0; query < queries && run.held < MOST_LOOKS; query++) {
          (run.looks[start + query] ??= [])[layer] = { weights, query, queries, keys };
        }
        return weights;
      },
    };
  };
}

/** How tokens are drawn: what is asked for, and for what is null the checkpoint's own. */
function samplingOf(model, options) {
  const found = { ...model.sampling };
  for (const name of ["temperature", "topK", "topP"]) if (options[name] != null) found[name] = options[name];
  return found;
}

/** Reads a prompt and writes an answer; yields the run, which grows, after the prompt and after every new token. */
function* steps(model, prompt, options = {}) {
  const { config, ops } = changed(model.config, options);
  const ids = promptIds(model, prompt, options.thinking ?? true);
  const room = model.longest - ids.length;
  const most = options.maxNewTokens ?? Math.min(DEFAULT_MOST, room);
  if (most > room) fail("maxNewTokens", most, `at most ${room} after a prompt of ${ids.length} tokens`, "lower it");
  const sampling = samplingOf(model, options);
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
  const run = { config, ops, promptIds: ids, tokenIds: [], hidden: [], routes: [], looks: [], held: 0, finished: null };
  const cache = new KVCache(config.num_hidden_layers);
  const vocabulary = Math.min(model.tokenizer.size, config.vocab_size);
  const read = (tokens) => {
    const x = ops.embed(tokens, model.weights.embed_tokens);
    const out = hiddenStates(model.weights, x, config, cache, { ...ops, at: watched(ops, run) });
    tokens.forEach((_, i) => run.hidden.push(out.subarray(i * config.hidden_size, (i + 1) * config.hidden_size)));
  };
  read(ids);
  yield run;
  for (let count = 0; count < most; count++) {
    const token = choose(nextLogits(model, run, run.hidden.length - 1), sampling, vocabulary, uniformOf(seed, count));
    run.tokenIds.push(token);
    run.finished = model.ends.includes(token) ? "stop" : count + 1 === most ? "length" : null;
    yield run;
    if (run.finished) return;
    read([token]);
  }
}

/** The logits of the token after token number `token`, of those that the run has read. */
function nextLogits(model, run, token) {
  return run.ops.head(run.hidden[token], model.weights.lm_head ?? model.weights.embed_tokens);
}

/** What a head looked at from a token: a weight for each token it could see; null where none was kept. */
function looksOf(run, token, layer, head) {
  const found = run.looks[token]?.[layer];
  if (!found) return null;
  const { weights, query, queries, keys } = found;
  return weights.subarray((head * queries + query) * keys, (head * queries + query + 1) * keys);
}

/** The first new token at which two runs part, or -1. */
function partsAt(one, other) {
  const length = Math.max(one.tokenIds.length, other.tokenIds.length);
  for (let i = 0; i < length; i++) if (one.tokenIds[i] !== other.tokenIds[i]) return i;
  return -1;
}

/** Whether a prompt ends within thinking: some templates open it themselves. */
function opensThinking(tokenizer, ids) {
  const [open, close] = [tokenizer.open, tokenizer.close].map((tag) => ids.lastIndexOf(tag));
  const turn = ids.reduce((last, id, i) => (tokenizer.added.get(id)?.special ? i : last), -1);
  return open > Math.max(close, turn);
}

/** The whole answer: {tokenIds, text, thinking, routes}; routes[token][layer] = {experts, weights} of all tokens read. */
function generate(model, prompt, options = {}) {
  let run;
  for (run of steps(model, prompt, options));
  const read = run.hidden.length;
  const plain = (route) => route && { experts: route.experts, weights: route.weights };
  const routes = Array.from({ length: read }, (_, token) =>
    run.config.sparse.map((_, layer) => plain(run.routes[token]?.[layer]) ?? null));
  const parts = model.tokenizer.parted(run.tokenIds, opensThinking(model.tokenizer, run.promptIds));
  return { tokenIds: [...run.tokenIds], ...parts, routes };
}

/** What tests and teachers call: window.qwen3. */
function api(model) {
  return {
    config: model.config,
    mistakes: Object.keys(MISTAKES),
    encode: (text) => model.tokenizer.encode(String(text)),
    decode: (ids) => model.tokenizer.decode(ids),
    promptIds: (prompt, { thinking = true } = {}) => promptIds(model, prompt, thinking),
    forward: (ids) => Array.from(forward(model.weights, promptIds(model, ids), model.config, { logitsToKeep: 1 })),
    generate: (prompt, options = {}) => generate(model, prompt, options),
  };
}
