"use strict";
// What there is to see of one token: what may come next, what a head looks at, and its route; and the grid of all routes.

const BARS = 8;

/** The likeliest next tokens with their probabilities: [{id, probability}], as the run draws them or before that. */
function nextTokens(model, run, token, sampling) {
  const vocabulary = Math.min(model.tokenizer.size, run.config.vocab_size);
  const logits = nextLogits(model, run, token).subarray(0, vocabulary);
  const found = probabilities(logits, sampling);
  return [...found.keys()].sort((a, b) => found[b] - found[a]).slice(0, BARS).map((id) => ({ id, probability: found[id] }));
}

/** A bar: what it stands for, its length, and the number in words. */
function bar(name, share, said, kind = "") {
  const fill = make("span", { class: "fill" });
  fill.style.setProperty("--share", `${Math.max(0, Math.min(100, 100 * share))}%`);
  return make("li", { class: `bar ${kind}` }, make("span", { class: "name" }, name), make("span", { class: "track" }, fill),
    make("span", { class: "number" }, said));
}

/** Next-token bars of a token; the one that came is marked. */
function showNext(page, run, token) {
  const { model, label, state } = page;
  const list = byId("next-bars");
  if (!run || token >= run.hidden.length) {
    list.replaceChildren(make("li", {}, run ? label("notRead") : label("askFirst")));
    return;
  }
  const sampling = samplingOf(model, state);
  sampling.temperature ||= 1; // greedy takes the largest of what temperature 1 would draw from
  const came = idAt(run, token + 1);
  list.replaceChildren(...nextTokens(model, run, token, sampling).map(({ id, probability }) =>
    bar(textOfId(page, id), probability, percent(probability) + (id === came ? ` ${label("came")}` : ""), id === came ? "came" : "")));
}

/** The weights of the chosen head, or of all heads of the layer on average; null where none were kept. */
function looks(run, token, layer, head) {
  const heads = head === null ? [...Array(run.config.num_attention_heads).keys()] : [head];
  const each = heads.map((number) => looksOf(run, token, layer, number));
  if (!each[0]) return null;
  return Float32Array.from(each[0], (_, i) => each.reduce((sum, weights) => sum + weights[i], 0) / heads.length);
}

function showLooks(page, run, token) {
  const { label, state } = page;
  const list = byId("look-bars");
  const found = run && token < run.hidden.length ? looks(run, token, state.layer, state.head) : null;
  document.querySelectorAll(".lane").forEach((lane, number) => drawLooks(lane, number === page.lane ? found : null, number === page.lane ? token : -1));
  if (!found) {
    list.replaceChildren(make("li", {}, run ? label("notKept") : label("askFirst")));
    return;
  }
  const best = [...found.keys()].sort((a, b) => found[b] - found[a]).slice(0, 5);
  list.replaceChildren(...best.map((index) => bar(`${index} ${textAt(page, run, index)}`, found[index], percent(found[index]))));
}

/** The route of a token: in each layer the router's probabilities, and who was chosen with which weight. */
function showRoute(page, run, token) {
  const { label } = page;
  const box = byId("route-rows");
  if (!run || !run.routes[token]) {
    box.replaceChildren(make("p", {}, !run ? label("askFirst") : run.config.sparse.some(Boolean) ? label("notRead") : label("dense")));
    return;
  }
  const rows = run.routes[token].map((route, layer) => route && make("li", { class: "route" },
    make("span", { class: "name" }, `${label("layer")} ${layer}`),
    strip(route, run.config.num_experts),
    make("span", { class: "number" }, route.experts.map((expert, i) => `${expert} · ${percent(route.weights[i])}`).join(", "))));
  box.replaceChildren(make("ul", { class: "bars" }, ...rows.filter(Boolean)));
}

/** A strip with a place for each expert, filled as high as its weight. One element, however many experts there are. */
function strip(route, count) {
  const element = make("span", { class: "strip", "aria-hidden": "true" });
  const width = 100 / count;
  const at = (expert) => (count > 1 ? (100 * expert) / (count - 1) : 0);
  element.style.backgroundImage = route.experts.map(() => "linear-gradient(var(--fill), var(--fill))").join(", ");
  element.style.backgroundPosition = route.experts.map((expert) => `${at(expert)}% 100%`).join(", ");
  element.style.backgroundSize = route.experts.map((_, i) => `${width}% ${Math.max(12, 100 * route.weights[i])}%`).join(", ");
  element.style.setProperty("--places", String(count));
  return element;
}

/** One row of the grid: a token, and for each layer its strip and the experts' numbers, the strongest first. */
function gridRow(page, run, part) {
  const { label } = page;
  const cells = run.config.sparse.map((isSparse, layer) => {
    const route = run.routes[part.index]?.[layer];
    if (!isSparse || !route) return make("td", {}, isSparse ? "" : "–");
    const names = route.experts.slice(0, 4).join(" ");
    const said = route.experts.map((expert, i) => `${label("expert")} ${expert} ${percent(route.weights[i])}`).join(", ");
    return make("td", {}, make("button", {
      type: "button", tabindex: -1, class: "cell", "data-cell": `${part.index}.${layer}`, "aria-label": `${names}: ${label("layer")} ${layer}, ${said}`,
      onclick: () => page.choose({ token: part.index, layer, expert: [layer, route.experts[0]] }),
    }, strip(route, run.config.num_experts), make("span", { class: "number" }, names)));
  });
  return make("tr", { "data-token": part.index },
    make("th", { scope: "row", class: part.part }, `${part.index} ${textOfId(page, part.id)}`), ...cells);
}

/** The head of the grid, for a config with experts. */
function gridHead(page) {
  const { label, model } = page;
  const layers = model.config.sparse.map((_, layer) => make("th", { scope: "col" }, `${label("layer")} ${layer}`));
  return make("tr", {}, make("th", { scope: "col" }, label("token")), ...layers);
}
