"use strict";
// The page at work: reads the model, runs the answers, and shows the state after every change.

const TOKENS_A_SECOND = 7; // reading speed
const EXAMPLES = {
  stories: STORY, arithmetic: SUM, python: "Can you write a function named same that tells whether two values are the same?",
  facts: FACT, spanish: "traduce al español: The woman has the small apple.", chat: "What topics do you know?",
};

function start() {
  const data = JSON.parse(byId("data").textContent);
  const labels = JSON.parse(byId("labels").textContent);
  const pieces = [...document.querySelectorAll("script[data-weights]")].map((element) => element.textContent.trim());
  const model = readModel(data, pieces);
  window.qwen3 = api(model);
  const { state, problems } = readAddress(location.hash, model.config);
  const page = {
    data, labels, model, state, runs: [], lane: 0, busy: 0, problems,
    label: (key) => labels[page.state.lang][key] ?? key,
    /** Puts values into the state and the address, and shows nothing yet. */
    set: (values) => {
      Object.assign(page.state, values);
      writeHash(page);
    },
    /** A look at something else: the runs stay. */
    choose: (values) => {
      page.set(values);
      page.show();
    },
    /** Another model or question: the runs begin anew once anything was asked, also where that ended in an error. */
    change: (values) => {
      page.set(values);
      page.show();
      if (page.asked) page.run();
    },
    run: () => runAll(page),
    show: () => showAll(page),
    say: (text) => {
      byId("said").textContent = text;
      byId("said").hidden = !text;
    },
  };
  bind(page);
  showWords(page);
  page.show();
  page.say(problems.map(([key, found = ""]) => page.label(key).replace("{found}", found)).join(" "));
  if (page.state.prompt) page.run().then(() => mark(page.state.tour ? tourSteps(page)[page.state.tour - 1]?.focus : null));
  window.addEventListener("hashchange", () => {
    if (location.hash.slice(1) === writeAddress(page.state)) return;
    const found = readAddress(location.hash, model.config);
    page.state = found.state;
    showWords(page);
    page.show();
    page.say(found.problems.map(([key, value = ""]) => page.label(key).replace("{found}", value)).join(" "));
    if (page.state.prompt) page.run();
  });
  document.documentElement.dataset.ready = "";
}

function writeHash(page) {
  const address = writeAddress(page.state);
  const url = `${location.pathname}${location.search}${address ? `#${address}` : ""}`;
  try {
    history.replaceState(null, "", url);
  } catch {
    // a browser that lets no file change its address: the page goes on without
  }
}

// ---- runs ------------------------------------------------------------------------------------

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const nextFrame = () => new Promise((done) => setTimeout(done, 0));

/** The answer as trained, and beside it the changed one where anything is changed; token by token for both. */
async function runAll(page) {
  const own = ++page.busy; // a later run ends this one
  const { state, model } = page;
  page.asked = true;
  page.say("");
  page.goOn?.();
  try {
    const lanes = [false, ...(isChanged(state) ? [true] : [])].map((asChanged) => steps(model, state.prompt, optionsOf(state, asChanged)));
    const first = lanes.map((lane) => lane.next().value);
    page.runs = first;
    page.place = questionPlace(model, state.thinking);
    page.lane = Math.min(state.lane, lanes.length - 1);
    page.stepping = state.pace === "step";
    showLanes(page);
    let open = lanes;
    let shown = performance.now();
    while (open.length && own === page.busy) {
      if (state.pace === "reading") await pause(1000 / TOKENS_A_SECOND);
      else if (page.stepping && state.pace === "step") await new Promise((go) => (page.goOn = go));
      else if (performance.now() - shown > 30) {
        await nextFrame();
        shown = performance.now();
      }
      if (own !== page.busy) return;
      open = open.filter((lane) => !lane.next().done);
      if (state.pace !== "once") showLanes(page);
    }
    if (own !== page.busy) return;
    showLanes(page);
    announce(page);
  } catch (error) {
    if (own !== page.busy) return;
    page.runs = [];
    showLanes(page);
    page.say(error.message);
  }
  page.show();
}

/** Says the finished answers to whoever does not see them. */
function announce(page) {
  const { label, runs } = page;
  const texts = runs.map((run) => textOf(page, run));
  const parts = runs.length > 1 ? partsAt(runs[0], runs[1]) : -1;
  const difference = runs.length < 2 ? "" : parts < 0 ? label("sameAnswer") : label("partAt").replace("{n}", parts + 1);
  byId("verdict").textContent = difference;
  byId("spoken").textContent = [...texts, difference].join(" — ");
}

function textOf({ model: { tokenizer } }, run) {
  return tokenizer.parted(run.tokenIds, opensThinking(tokenizer, run.promptIds)).text;
}

// ---- showing ---------------------------------------------------------------------------------

/** The token that is looked at: the chosen one, else the first at which the answers part, else the last that was read. */
function tokenOf(page) {
  const run = page.runs[page.lane];
  if (!run) return -1;
  const all = run.promptIds.length + run.tokenIds.length;
  if (page.state.token !== null) return Math.min(page.state.token, all - 1);
  const parts = page.runs.length > 1 ? partsAt(...page.runs) : -1;
  return parts >= 0 && parts <= run.tokenIds.length ? run.promptIds.length + parts - 1 : run.hidden.length - 1;
}

function showLanes(page) {
  const { runs, label, model, state } = page;
  const box = byId("lanes");
  const parts = runs.length > 1 ? partsAt(...runs) : -1;
  byId("verdict").textContent = "";
  if (!runs.length) box.replaceChildren(make("p", { class: "empty" }, label("askFirst")));
  const had = box.contains(document.activeElement) ? document.activeElement.dataset.token : null;
  runs.forEach((run, number) => {
    let lane = box.querySelector(`[data-lane="${number}"]`);
    const name = label(number ? "changed" : "asTrained");
    const key = JSON.stringify([run.promptIds, state.layer, state.lang, number]);
    if (!lane || lane.run !== run || lane.key !== key) { // else it only grows
      const fresh = make("div", { class: "lane", "data-lane": number, role: "group", "aria-label": name },
        ...(runs.length > 1 ? [make("h3", {}, name)] : []), make("div", { class: "chips" }), make("p", { class: "written" }));
      if (lane) lane.replaceWith(fresh);
      else {
        if (!number) box.replaceChildren();
        box.append(fresh);
      }
      lane = Object.assign(fresh, { run, key });
      roving(lane);
    }
    const chips = lane.querySelector(".chips");
    lane.querySelector(".written").textContent = run.finished ? `${label("says")}: ${textOf(page, run) || "∅"}` : "";
    const all = partsOf(model, run, page.place);
    const shown = (part) => chips.children[part.index]?.dataset.id === String(part.id);
    for (const part of all) {
      const differs = parts >= 0 && part.index === run.promptIds.length + parts;
      const went = run.routes[part.index]?.[state.layer]?.experts.slice(0, 2).join("·") ?? "";
      const old = chips.children[part.index];
      if (shown(part) && old.classList.contains("differs") === differs && (old.querySelector(".went")?.textContent ?? "") === went) continue;
      const fresh = chip(label, part, {
        text: model.tokenizer.decode([part.id]), differs, experts: went,
        onchoose: () => {
          page.lane = number;
          page.choose({ token: part.index, lane: number });
        },
      });
      if (old) old.replaceWith(fresh);
      else chips.append(fresh);
    }
  });
  while (box.children.length > Math.max(1, runs.length)) box.lastElementChild.remove();
  for (const lane of box.querySelectorAll(".lane")) {
    const buttons = [...lane.querySelectorAll(".chip")];
    const chosen = buttons[Number(lane.dataset.lane) === page.lane ? tokenOf(page) : 0] ?? buttons[0];
    if (chosen) oneStop(buttons, chosen);
  }
  if (had !== null) box.querySelector(`[data-lane="${page.lane}"] [data-token="${had}"]`)?.focus();
  byId("go-on").hidden = byId("rest").hidden = !(state.pace === "step" && runs.some((run) => !run.finished));
}

function showAll(page) {
  const { state, runs, label } = page;
  page.lane = Math.min(state.lane, Math.max(0, runs.length - 1));
  const run = runs[page.lane];
  document.documentElement.dataset.theme = state.theme;
  showControls(page);
  showChanges(page);
  if (runs.length) showLanes(page);
  const token = tokenOf(page);
  const text = run && token >= 0 ? visible(page.model.tokenizer.decode([[...run.promptIds, ...run.tokenIds][token]])) : "";
  byId("token-name").textContent = run ? `${label("token")} ${token}: ${text}` : label("tokenTitle");
  showNext(page, run, token);
  showLooks(page, run, token);
  showRoute(page, run, token);
  showBoard(page, run);
  showExpert(page, run);
  const grid = byId("grid-rows");
  const sparse = page.model.config.sparse.some(Boolean);
  byId("grid").hidden = !sparse || !run;
  const shown = [run, run?.hidden.length, state.lang];
  if (sparse && run && shown.some((each, i) => each !== page.gridShown?.[i])) {
    byId("grid-head").replaceChildren(gridHead(page));
    grid.replaceChildren(...partsOf(page.model, run, page.place).slice(0, run.hidden.length).map((part) => gridRow(page, run, part)));
    page.gridShown = shown;
    const first = grid.querySelector("button");
    if (first) first.tabIndex = 0;
  }
  grid.querySelectorAll("tr").forEach((row) => row.classList.toggle("chosen", Number(row.dataset.token) === token));
  showTour(page);
  if (runs.length > 1 && runs.every((each) => each.finished)) announce(page);
}

function showControls(page) {
  const { state, model, label } = page;
  if (document.activeElement !== byId("prompt")) byId("prompt").value = state.prompt;
  byId("thinking").checked = state.thinking;
  byId("thinking-row").hidden = model.chat.thinking.after === model.chat.direct.after;
  for (const [id, field] of [["temperature", "temperature"], ["top-k", "topK"], ["top-p", "topP"], ["seed", "seed"], ["most", "most"]]) {
    if (document.activeElement !== byId(id)) byId(id).value = state[field] ?? "";
  }
  for (const id of ["pace", "lang", "theme"]) byId(id).value = state[id];
  const option = (value, text, chosen) => make("option", { value, selected: chosen }, text);
  const { num_hidden_layers: layers, num_attention_heads: heads } = model.config;
  byId("layer").replaceChildren(...Array.from({ length: layers }, (_, i) => option(i, `${label("layer")} ${i}`, i === state.layer)));
  byId("head").replaceChildren(option("", label("allHeads"), state.head === null),
    ...Array.from({ length: heads }, (_, i) => option(i, `${label("head")} ${i}`, i === state.head)));
}

/** All that stands still, in the language of the page. */
function showWords(page) {
  const { state, label, data } = page;
  document.documentElement.lang = state.lang === "zh" ? "zh-Hans" : "en";
  const numbers = (count) => count.toLocaleString("en");
  for (const element of document.querySelectorAll("[data-label]")) element.textContent = label(element.dataset.label);
  for (const element of document.querySelectorAll("[data-name]")) element.setAttribute("aria-label", label(element.dataset.name));
  byId("about").textContent = label(data.bits === 16 ? "about16" : "about8").replace("{name}", data.name)
    .replace("{all}", numbers(data.parameters)).replace("{active}", numbers(data.active)).replace("{mb}", (data.bytes / 1e6).toFixed(1));
  byId("examples").replaceChildren(...Object.entries(EXAMPLES).map(([domain, prompt]) => make("button", {
    type: "button", "data-domain": domain, onclick: () => {
      page.set({ prompt, token: null });
      byId("prompt").value = prompt;
      page.run();
    },
  }, label(domain))));
}

// ---- what is pressed -------------------------------------------------------------------------

function bind(page) {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("ask-form", "submit", (event) => {
    event.preventDefault();
    page.set({ prompt: byId("prompt").value, token: null });
    page.run();
  });
  on("prompt", "keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("ask-form").requestSubmit();
  });
  on("thinking", "change", (event) => page.change({ thinking: event.target.checked, token: null }));
  on("go-on", "click", () => page.goOn?.());
  on("rest", "click", () => {
    page.stepping = false;
    page.goOn?.();
  });
  on("pace", "change", (event) => {
    page.set({ pace: event.target.value });
    page.stepping = page.state.pace === "step";
    page.goOn?.();
    page.show();
  });
  const numbers = { temperature: "temperature", "top-k": "topK", "top-p": "topP", seed: "seed", most: "most" };
  for (const [id, field] of Object.entries(numbers)) {
    on(id, "change", (event) => page.change({ [field]: event.target.value.trim() === "" ? null : Number(event.target.value), token: null }));
  }
  on("k", "change", (event) => {
    const k = Number(event.target.value);
    page.change({ k: k === page.model.config.num_experts_per_tok ? null : k });
  });
  on("norm", "change", (event) => page.change({ normTopkProb: { "": null, 1: true, 0: false }[event.target.value] }));
  on("undo-all", "click", () => page.change({ ...UNCHANGED }));
  on("layer", "change", (event) => page.choose({ layer: Number(event.target.value) }));
  on("head", "change", (event) => page.choose({ head: event.target.value === "" ? null : Number(event.target.value) }));
  for (const name of ["lang", "theme"]) {
    on(name, "change", (event) => {
      page.set({ [name]: event.target.value });
      showWords(page);
      page.show();
    });
  }
  on("start-tour", "click", () => goTo(page, 1));
  on("tour-next", "click", () => goTo(page, page.state.tour === tourSteps(page).length ? null : page.state.tour + 1));
  on("tour-back", "click", () => goTo(page, page.state.tour - 1));
  on("tour-close", "click", () => goTo(page, null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && page.state.tour !== null) goTo(page, null);
  });
  // The pointer looks without choosing: what it leaves is as it was.
  on("lanes", "pointerover", (event) => {
    const element = event.target.closest?.(".chip");
    if (!element) return;
    const lane = Number(element.closest(".lane").dataset.lane);
    page.lane = lane;
    const token = Number(element.dataset.token);
    const run = page.runs[lane];
    byId("token-name").textContent = `${page.label("token")} ${token}: ${element.querySelector(".text").textContent}`;
    showNext(page, run, token);
    showLooks(page, run, token);
    showRoute(page, run, token);
  });
  on("lanes", "pointerleave", () => page.show());
  on("lanes", "focusin", (event) => {
    const element = event.target.closest?.(".chip");
    if (!element || Number(element.dataset.token) === tokenOf(page) || !element.matches(":focus-visible")) return;
    page.choose({ token: Number(element.dataset.token), lane: Number(element.closest(".lane").dataset.lane) });
  });
  for (const id of ["board", "heads", "grid-rows"]) {
    roving(byId(id), () => {
      const { config } = page.model;
      return { board: config.num_experts, heads: config.num_attention_heads, "grid-rows": config.sparse.filter(Boolean).length }[id];
    });
  }
}

start();
