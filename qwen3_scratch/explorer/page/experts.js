"use strict";
// All experts by layer: how much each reads of this answer, what it reads, what it is for, and switches for it.

/** How many of a run's tokens each expert of a layer reads: [layer][expert]. */
function counts(run) {
  const found = run.config.sparse.map((isSparse) => (isSparse ? new Array(run.config.num_experts).fill(0) : null));
  for (const token of run.routes) token?.forEach((route, layer) => route?.experts.forEach((expert) => found[layer][expert]++));
  return found;
}

const has = (list, ...place) => list.some((each) => each.join() === place.join());
const toggled = (list, place) => (has(list, ...place) ? list.filter((each) => each.join() !== place.join()) : [...list, place]);

/** The board: a button for each expert, with a bar of how many tokens it read and a mark of what is changed in it. */
function showBoard(page, run) {
  const { label, state, model } = page;
  const read = run ? counts(run) : null;
  const most = read ? Math.max(1, ...read.flatMap((row) => row ?? [])) : 1;
  const rows = model.config.sparse.map((isSparse, layer) => isSparse && make("div", { class: "board-row" },
    make("span", { class: "row-name" }, `${label("layer")} ${layer}`),
    make("span", { class: "row-experts" }, ...Array.from({ length: model.config.num_experts }, (_, expert) => {
      const mark = expertMark(state, layer, expert);
      const times = read ? read[layer][expert] : 0;
      const chosen = state.expert && state.expert.join() === [layer, expert].join();
      const shown = mark ? `${expert}${MARKS[mark]}` : String(expert);
      const button = make("button", {
        type: "button", class: `expert ${mark ?? ""}`, tabindex: -1, "data-expert": `${layer}.${expert}`,
        "aria-pressed": String(Boolean(chosen)),
        "aria-label": `${shown}: ${label("layer")} ${layer}, ${label("expert")} ${expert}, ${times} ${label("tokensRead")}${mark ? `, ${label(mark)}` : ""}`,
        onclick: () => page.choose({ expert: [layer, expert] }),
      }, make("span", { class: "text" }, shown));
      button.style.setProperty("--share", `${(100 * times) / most}%`);
      return button;
    }))));
  byId("board").replaceChildren(...rows.filter(Boolean));
  const buttons = [...byId("board").querySelectorAll("button")];
  oneStop(buttons, buttons.find((button) => button.dataset.expert === state.expert?.join(".")) ?? buttons[0]);
}

const MARKS = { isOff: "×", isForced: "!", isSwapped: "⇄" };

function expertMark(state, layer, expert) {
  if (has(state.off, layer, expert)) return "isOff";
  if (has(state.force, layer, expert)) return "isForced";
  return state.swap.some(([at, a, b]) => at === layer && (a === expert || b === expert)) ? "isSwapped" : null;
}

/** One expert: what it read of this answer, its favourite words, what it costs to lose it, and what can be done to it. */
function showExpert(page, run) {
  const { label, state, data, model } = page;
  const box = byId("expert-panel");
  if (!state.expert) {
    box.replaceChildren(make("p", {}, label(model.config.sparse.some(Boolean) ? "chooseExpert" : "dense")));
    return;
  }
  const [layer, expert] = state.expert;
  const words = data.measured.favourites[layer]?.[expert];
  const costs = data.measured.costs?.[layer]?.[expert];
  const questions = data.measured.questions * data.measured.domains.length;
  box.replaceChildren(
    make("h3", {}, `${label("layer")} ${layer}, ${label("expert")} ${expert}`),
    expertSwitches(page, layer, expert),
    make("h4", {}, label("readHere")), readHere(page, run, layer, expert),
    make("h4", {}, label("favourites")),
    words ? make("ul", { class: "words" }, ...words.map(([word, times, of]) => make("li", {}, make("span", { class: "chip question" }, visible(word)),
      ` ${times}/${of}`))) : make("p", {}, label("notMeasured")),
    make("p", { class: "small" }, words ? label("favouritesHow").replace("{n}", questions) : ""),
    make("h4", {}, label("costs")),
    costs ? costBars(page, costs) : make("p", {}, label("notMeasured")),
    make("p", { class: "small" }, costs ? label("costsHow").replace("{n}", data.measured.questions) : ""),
  );
}

function readHere(page, run, layer, expert) {
  const { label } = page;
  const own = run ? run.routes.map((token, index) => ({ index, place: token?.[layer]?.experts.indexOf(expert) ?? -1 })).filter(({ place }) => place >= 0) : [];
  if (!own.length) return make("p", {}, label(run ? "readNothing" : "askFirst"));
  const list = make("ul", { class: "words" }, ...own.map(({ index, place }) => {
    const text = textAt(page, run, index);
    const button = make("button", {
      type: "button", class: "chip question", "data-read": index, "aria-label": `${text}: ${label("token")} ${index}`,
      onclick: () => page.choose({ token: index }),
    }, text);
    return make("li", {}, button, ` ${percent(run.routes[index][layer].weights[place])}`);
  }));
  roving(list);
  const buttons = [...list.querySelectorAll("button")];
  oneStop(buttons, buttons[0]);
  return list;
}

function costBars(page, costs) {
  const { label, data } = page;
  const most = Math.max(0.01, ...costs);
  return make("ul", { class: "bars" }, ...data.measured.domains.map((domain, i) =>
    bar(label(domain), costs[i] / most, `${costs[i] > 0.0005 ? "+" : costs[i] < -0.0005 ? "−" : ""}${Math.abs(costs[i]).toFixed(3)}`)));
}

/** Off, forced, or swapped with another of its layer. */
function expertSwitches(page, layer, expert) {
  const { label, state, model } = page;
  const toggle = (field) => () => {
    const list = field === "force" ? state.force.filter(([at, each]) => at !== layer || each === expert) : state[field]; // one alone reads all
    page.change({ [field]: toggled(list, [layer, expert]) });
  };
  const button = (field, name) => make("button", {
    type: "button", "data-do": field, "aria-pressed": String(has(state[field], layer, expert)), onclick: toggle(field),
  }, label(name));
  const partner = state.swap.find(([at, a, b]) => at === layer && (a === expert || b === expert));
  const other = partner ? (partner[1] === expert ? partner[2] : partner[1]) : "";
  const select = make("select", {
    id: "swap-with", onchange: (event) => {
      const rest = state.swap.filter(([at, a, b]) => at !== layer || (a !== expert && b !== expert));
      page.change({ swap: event.target.value === "" ? rest : [...rest, [layer, expert, Number(event.target.value)]] });
    },
  }, make("option", { value: "" }, label("nobody")),
  ...Array.from({ length: model.config.num_experts }, (_, each) => each).filter((each) => each !== expert)
    .map((each) => make("option", { value: each, selected: each === other }, `${label("expert")} ${each}`)));
  return make("div", { class: "switches" }, button("off", "switchOff"), button("force", "forceIt"),
    make("label", { for: "swap-with" }, `${label("swapWith")} `, select));
}
