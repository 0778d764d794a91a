"use strict";
// What the page shows, as one plain object, and the address that says it: #q=...&off=3.5_1.2&...&end

const PACES = ["reading", "once", "step"];
const LANGUAGES = ["en", "zh"];
const THEMES = ["auto", "light", "dark"];

/** The model as it was trained: no field is changed. */
const UNCHANGED = { k: null, normTopkProb: null, off: [], force: [], swap: [], headsOff: [], mistakes: [] };
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** The page as it opens. What is null is what the checkpoint says. */
function startState() {
  return {
    prompt: "", thinking: true, pace: matchMedia("(prefers-reduced-motion: reduce)").matches ? "once" : "reading",
    temperature: null, topK: null, topP: null, seed: null, most: null,
    ...UNCHANGED,
    lane: 0, token: null, layer: 0, head: null, expert: null, tour: null,
    lang: navigator.language.startsWith("zh") ? "zh" : "en", theme: "auto",
  };
}

// Name in the address -> field, how it is written, and how it is read; reading gives undefined for what it cannot be.
const number = (least, most, wholeOnly = true) => ({
  write: String,
  read: (text) => {
    const value = Number(text);
    return text.trim() && value >= least && value <= most && (!wholeOnly || Number.isInteger(value)) ? value : undefined;
  },
});
const oneOf = (values) => ({ write: String, read: (text) => (values.includes(text) ? text : undefined) });
const flag = { write: (value) => (value ? "1" : "0"), read: (text) => ({ 0: false, 1: true })[text] };
const places = (length) => ({
  write: (list) => list.map((place) => place.join(".")).join("_"),
  read: (text) => {
    const found = text.split("_").map((place) => place.split(".").map((part) => (/^\d{1,6}$/.test(part) ? Number(part) : -1)));
    return found.every((place) => place.length === length && place.every((part) => part >= 0)) ? found : undefined;
  },
});
const ADDRESS = {
  q: ["prompt", { write: String, read: String }],
  t: ["thinking", flag], pace: ["pace", oneOf(PACES)],
  temp: ["temperature", number(0, 1000, false)], topk: ["topK", number(0, 1e9)], topp: ["topP", number(1e-6, 1, false)],
  seed: ["seed", number(0, 2 ** 32 - 1)], most: ["most", number(1, 1e6)],
  k: ["k", number(1, 1e4)], norm: ["normTopkProb", flag],
  off: ["off", places(2)], force: ["force", places(2)], swap: ["swap", places(3)], heads: ["headsOff", places(2)],
  wrong: ["mistakes", { write: (list) => list.join("."), read: (text) => text.split(".") }],
  lane: ["lane", number(0, 1)], at: ["token", number(0, 1e6)], layer: ["layer", number(0, 1e4)], head: ["head", number(0, 1e4)],
  expert: ["expert", { write: (place) => place.join("."), read: (text) => places(2).read(text)?.[0] }],
  tour: ["tour", number(1, 10)], lang: ["lang", oneOf(LANGUAGES)], theme: ["theme", oneOf(THEMES)],
};
const END = "end"; // stands last, so that an address that was cut is noticed

/** The address's part after #: of every field that is not as the page opens. */
function writeAddress(state) {
  const start = startState();
  const parts = Object.entries(ADDRESS)
    .filter(([, [field]]) => !same(state[field], start[field]))
    .map(([name, [field, kind]]) => `${name}=${encodeURIComponent(kind.write(state[field]))}`);
  return parts.length ? [...parts, END].join("&") : "";
}

/** {state, problems}: what an address says, and the fields it names that cannot be, which stay as the page opens. */
function readAddress(hash, config) {
  const state = startState();
  const problems = [];
  const parts = hash.replace(/^#/, "").split("&").filter(Boolean);
  if (parts.length && parts[parts.length - 1] !== END) problems.push(["addressCut"]);
  for (const part of parts) {
    if (part === END) continue;
    const [name, ...rest] = part.split("=");
    const [field, kind] = Object.hasOwn(ADDRESS, name) ? ADDRESS[name] : [];
    let value;
    try {
      value = kind?.read(decodeURIComponent(rest.join("=")));
    } catch {
      value = undefined; // half a character
    }
    if (value === undefined) problems.push(["addressOdd", part.slice(0, 60)]);
    else state[field] = value;
  }
  return { state, problems: [...problems, ...impossible(state, config)] };
}

/** What a state names that this checkpoint has not; it is taken out of the state. */
function impossible(state, config) {
  const problems = [];
  const drop = (field, start, label, found) => {
    problems.push([label, String(found)]);
    state[field] = start;
  };
  const hasExpert = ([layer, ...experts]) => config.sparse[layer] && experts.every((each) => each < config.num_experts);
  for (const field of ["off", "force", "swap"]) {
    const odd = state[field].find((place) => !hasExpert(place));
    if (odd) drop(field, state[field].filter(hasExpert), "noExpert", odd.join("."));
  }
  const { num_hidden_layers: layers, num_attention_heads: heads } = config;
  const hasHead = ([layer, head]) => layer < layers && head < heads;
  const oddHead = state.headsOff.find((place) => !hasHead(place));
  if (oddHead) drop("headsOff", state.headsOff.filter(hasHead), "noHead", oddHead.join("."));
  const unknown = state.mistakes.find((name) => !Object.hasOwn(MISTAKES, name));
  if (unknown !== undefined) {
    drop("mistakes", state.mistakes.filter((name) => Object.hasOwn(MISTAKES, name)), "noMistake", unknown);
  }
  if (state.expert && !hasExpert(state.expert)) drop("expert", null, "noExpert", state.expert.join("."));
  if (state.layer >= layers) drop("layer", 0, "noLayer", state.layer);
  if (state.head !== null && state.head >= heads) drop("head", null, "noHead", state.head);
  if (state.k !== null && state.k > config.num_experts) drop("k", null, "noK", state.k);
  return problems;
}

/** The options of generation.js that a state stands for: with what is changed, or without. */
function optionsOf(state, asChanged) {
  const { thinking, temperature, topK, topP, seed, most: maxNewTokens } = state;
  const given = { thinking, temperature, topK, topP, seed: seed ?? 0, maxNewTokens };
  return asChanged ? { ...given, ...changesOf(state) } : given;
}

function changesOf(state) {
  return Object.fromEntries(Object.keys(UNCHANGED).map((field) => [field, state[field]]));
}

/** Whether anything is changed in the model. */
function isChanged(state) {
  return !same(changesOf(state), UNCHANGED);
}
