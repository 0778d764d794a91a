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
  const page = {
    data, labels, model, state: startState(), runs: [], lane: 0, busy: 0,
    label: (key) => labels[page.state.lang][key] ?? key,
    /** Makes a new state of the one there is and writes its address, and shows nothing yet. */
    set: (values) => {
      page.state = { ...page.state, ...values };
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
    show: () => keepingFocus(() => showAll(page)),
    say: (text) => {
      byId("said").textContent = text;
      byId("said").hidden = !text;
    },
  };
  bind(page);
  openAddress(page);
  window.addEventListener("hashchange", () => {
    if (location.hash.slice(1) !== writeAddress(page.state)) openAddress(page);
  });
  document.documentElement.dataset.ready = "";
}

/** Shows what the address says in the place of all that is there, and what of it cannot be. */
function openAddress(page) {
  const { state, problems } = readAddress(location.hash, page.model.config);
  if (state.tour) state.tour = Math.min(state.tour, tourSteps(page).length);
  page.busy++;
  page.goOn?.();
  Object.assign(page, { state, runs: [], asked: false });
  showWords(page);
  page.show();
  page.say("");
  const framed = () => page.state === state && mark(state.tour && tourSteps(page)[state.tour - 1]?.focus);
  if (state.prompt) page.run().then(framed);
  else framed();
  const said = problems.map(([key, found = ""]) => page.label(key).replace("{found}", () => found));
  if (said.length) page.say([byId("said").textContent, ...said].filter(Boolean).join(" ")); // after what the run may say
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
    const draw = () => keepingFocus(() => showLanes(page));
    draw();
    let open = lanes;
    let shown = performance.now();
    while (open.length && own === page.busy) {
      if (page.state.pace === "reading") await pause(1000 / TOKENS_A_SECOND);
      else if (page.stepping) await new Promise((go) => (page.goOn = go));
      else if (performance.now() - shown > 30) {
        await nextFrame();
        shown = performance.now();
      }
      if (own !== page.busy) return;
      const growing = page.runs.filter((run) => !run.finished);
      open = open.filter((lane) => !lane.next().done);
      if (page.state.pace !== "once") draw();
      if (page.stepping) setText("spoken", growing.map((run) => newest(page, run)).join(" — "));
    }
    if (own !== page.busy) return;
    draw();
    announce(page);
  } catch (error) {
    if (own !== page.busy) return;
    page.runs = [];
    page.say(error.message);
  }
  page.show();
}

/** Says the finished answers to whoever does not see them. */
function announce(page) {
  byId("spoken").textContent = [...page.runs.map((run) => written(page, run)), byId("verdict").textContent].join(" — ");
}

/** A finished answer, and whether it was cut. */
function written({ model: { tokenizer }, label }, run) {
  const { text } = tokenizer.parted(run.tokenIds, opensThinking(tokenizer, run.promptIds));
  return `${text || "∅"}${run.finished === "length" ? ` ${label("cut")}` : ""}`;
}

const newest = (page, run) => textAt(page, run, run.promptIds.length + run.tokenIds.length - 1);

// ---- showing ---------------------------------------------------------------------------------

/** The token that is looked at: the chosen one, else the last before the answers part, else the last that was read. */
function tokenOf(page) {
  const run = page.runs[page.lane];
  if (!run) return -1;
  const all = run.promptIds.length + run.tokenIds.length;
  if (page.state.token !== null) return Math.min(page.state.token, all - 1);
  const parts = page.runs.length > 1 ? partsAt(...page.runs) : -1;
  return parts >= 0 && parts <= run.tokenIds.length ? run.promptIds.length + parts - 1 : run.hidden.length - 1;
}

function showLanes(page) {
  const { runs, label, state, model } = page;
  const box = byId("lanes");
  const parts = runs.length > 1 ? partsAt(...runs) : -1;
  const isSame = runs.length > 1 && parts < 0 && runs.every((run) => run.finished);
  byId("verdict").textContent = parts >= 0 ? label("partAt").replace("{n}", parts + 1) : isSame ? label("sameAnswer") : "";
  if (!runs.length) box.replaceChildren(make("p", { class: "empty" }, label("askFirst")));
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
    lane.querySelector(".written").textContent = run.finished ? `${label("says")}: ${written(page, run)}` : "";
    const all = partsOf(model, run, page.place);
    const shown = (part) => chips.children[part.index]?.dataset.id === String(part.id);
    for (const part of all) {
      const differs = parts >= 0 && part.index === run.promptIds.length + parts;
      const went = run.routes[part.index]?.[state.layer]?.experts.slice(0, 2).join("·") ?? "";
      const old = chips.children[part.index];
      if (shown(part) && old.classList.contains("differs") === differs && (old.querySelector(".went")?.textContent ?? "") === went) continue;
      const fresh = chip(label, part, {
        text: textOfId(page, part.id), differs, experts: went,
        onchoose: () => page.choose({ token: part.index, lane: number }),
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
  byId("go-on").hidden = byId("rest").hidden = !(state.pace === "step" && runs.some((run) => !run.finished));
}

function showAll(page) {
  const { state } = page;
  page.lane = laneOf(page);
  const run = page.runs[page.lane];
  document.documentElement.dataset.theme = state.theme;
  showControls(page);
  showChanges(page);
  showLanes(page);
  const token = tokenOf(page);
  showToken(page, run, token);
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
}

const laneOf = ({ state, runs }) => Math.min(state.lane, Math.max(0, runs.length - 1));

/** The panels of one token: chosen, or pointed at. */
function showToken(page, run, token) {
  const { label } = page;
  byId("token-name").textContent = run ? `${label("token")} ${token}: ${textAt(page, run, token)}` : label("tokenTitle");
  showNext(page, run, token);
  showLooks(page, run, token);
  showRoute(page, run, token);
}

function showControls(page) {
  const { state, model, label } = page;
  if (document.activeElement !== byId("prompt")) byId("prompt").value = state.prompt;
  byId("thinking").checked = state.thinking;
  byId("thinking-row").hidden = model.chat.thinking.after === model.chat.direct.after;
  for (const [id, field] of [["temperature", "temperature"], ["top-k", "topK"], ["top-p", "topP"], ["seed", "seed"], ["most", "most"]]) {
    if (document.activeElement !== byId(id)) byId(id).value = state[field] ?? "";
    byId(id).placeholder = model.sampling[field] ?? byId(id).placeholder;
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
  byId("about").textContent = label(data.bits === 16 ? "about16" : "about8").replace("{name}", () => data.name)
    .replace("{all}", numbers(data.parameters)).replace("{active}", numbers(data.active)).replace("{mb}", (data.bytes / 1e6).toFixed(1));
  const leftOut = Object.entries(data.leftOut).map((each) => each.join(" ")).join(", ");
  if (leftOut) byId("about").append(` ${label("leftOut").replace("{found}", leftOut)}`);
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
    page.lane = Number(element.closest(".lane").dataset.lane);
    showToken(page, page.runs[page.lane], Number(element.dataset.token));
  });
  on("lanes", "pointerleave", () => {
    page.lane = laneOf(page);
    showToken(page, page.runs[page.lane], tokenOf(page));
  });
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
