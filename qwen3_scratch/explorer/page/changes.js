"use strict";
// What can be changed in the model beside single experts: top-k, renormalising, heads, and the classic mistakes.

/** The controls as the state has them. */
function showChanges(page) {
  const { label, state, model } = page;
  const { config } = model;
  const experts = config.sparse.some(Boolean);
  byId("k-row").hidden = !experts;
  if (experts) {
    const own = state.k ?? config.num_experts_per_tok;
    Object.assign(byId("k"), { max: config.num_experts, value: own });
    byId("k-says").textContent = `${own} ${label("of")} ${config.num_experts}`;
    byId("norm").value = state.normTopkProb === null ? "" : state.normTopkProb ? "1" : "0";
  }
  byId("heads").replaceChildren(...config.sparse.map((_, layer) => make("div", { class: "board-row" },
    make("span", { class: "row-name" }, `${label("layer")} ${layer}`),
    make("span", { class: "row-experts" }, ...Array.from({ length: config.num_attention_heads }, (_, head) => {
      const off = has(state.headsOff, layer, head);
      return make("button", {
        type: "button", class: `expert ${off ? "isOff" : ""}`, "data-head": `${layer}.${head}`, tabindex: layer + head ? -1 : 0,
        "aria-pressed": String(off), "aria-label": `${head}${off ? "×" : ""}: ${label("layer")} ${layer}, ${label("head")} ${head}, ${label(off ? "isOff" : "isOn")}`,
        onclick: () => page.change({ headsOff: toggled(state.headsOff, [layer, head]) }),
      }, off ? `${head}×` : String(head));
    })))));
  byId("mistakes").replaceChildren(...Object.keys(MISTAKES).map((name) => {
    const box = make("input", { type: "checkbox", id: `wrong-${name}`, checked: state.mistakes.includes(name), onchange: (event) => mistaken(page, name, event.target.checked) });
    return make("li", {}, box, make("label", { for: `wrong-${name}` }, label(`mistake.${name}`), make("code", {}, name)));
  }));
  showActive(page);
}

/** A mistake takes the place of a step; of those that take the same place one alone is made. */
function mistaken(page, name, made) {
  const steps = Object.keys(MISTAKES[name]);
  const others = page.state.mistakes.filter((each) => each !== name && !Object.keys(MISTAKES[each]).some((step) => steps.includes(step)));
  page.change({ mistakes: made ? [...others, name] : others });
}

/** Everything that is changed, each with a button that undoes it. */
function showActive(page) {
  const { label, state } = page;
  const place = ([layer, expert]) => `${label("layer")} ${layer}, ${label("expert")} ${expert}`;
  const without = (field, index) => ({ [field]: state[field].filter((_, i) => i !== index) });
  const found = [
    ...(state.k === null ? [] : [[`k = ${state.k}`, { k: null }]]),
    ...(state.normTopkProb === null ? [] : [[label(state.normTopkProb ? "normOn" : "normOff"), { normTopkProb: null }]]),
    ...state.off.map((each, i) => [`${place(each)}: ${label("isOff")}`, without("off", i)]),
    ...state.force.map((each, i) => [`${place(each)}: ${label("isForced")}`, without("force", i)]),
    ...state.swap.map(([layer, a, b], i) => [`${place([layer, a])} ⇄ ${b}`, without("swap", i)]),
    ...state.headsOff.map(([layer, head], i) => [`${label("layer")} ${layer}, ${label("head")} ${head}: ${label("isOff")}`, without("headsOff", i)]),
    ...state.mistakes.map((name, i) => [label(`mistake.${name}`), without("mistakes", i)]),
  ];
  byId("active").replaceChildren(...found.map(([said, undo]) => make("li", {}, make("button", {
    type: "button", class: "undo", "aria-label": `${said}: ${label("undo")}`, onclick: () => page.change(undo),
  }, said))));
  byId("undo-all").hidden = !found.length;
  byId("unchanged").hidden = found.length > 0;
}
