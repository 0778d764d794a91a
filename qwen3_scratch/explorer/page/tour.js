"use strict";
// The tour: ten steps for one who has read nothing, each a state of the page and what to look at in it.

const STORY = "Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?";
const SUM = "please calculate modulo 10: (3 * 3 + 6) * 7 + 6 - 8 + 7";
const FACT = "What is the capital of France?";

/** The steps that a checkpoint can show: {key, state, focus, after}; `after` looks for something in the finished run. */
function tourSteps(page) {
  const { model, data } = page;
  const { config } = model;
  const experts = config.sparse.includes(true);
  const needed = dearest(data.measured, "arithmetic");
  const fact = { prompt: FACT, thinking: true };
  const sum = { prompt: SUM, thinking: true };
  const story = { prompt: STORY, thinking: true };
  const steps = [
    { key: "token", state: { ...fact, thinking: false, token: -1 }, focus: "answer" },
    { key: "next", state: { ...fact, thinking: false, token: -1 }, focus: "next" },
    { key: "write", state: { ...fact }, focus: "answer" },
    { key: "thinking", state: { ...story }, focus: "answer" },
    { key: "attention", state: { ...story }, focus: "answer", after: sharpest },
    { key: "router", state: { ...story, token: -1 }, focus: "route", shown: experts },
    { key: "experts", state: { ...sum, expert: needed }, focus: "experts", shown: needed !== null },
    { key: "without", state: { ...sum, off: [needed], expert: needed }, focus: "answer", shown: needed !== null },
    { key: "k", state: { ...sum, k: 1 }, focus: "answer", shown: experts && config.num_experts_per_tok > 1 },
    { key: "mistake", state: { ...story, mistakes: ["interleaved_rope"] }, focus: "answer" },
  ];
  return steps.filter(({ shown = true }) => shown);
}

/** The expert whose loss costs a domain most: [layer, expert], or null where that was not measured. */
function dearest(measured, domain) {
  const place = measured.domains.indexOf(domain);
  let [best, most] = [null, 0];
  measured.costs?.forEach((row, layer) => row?.forEach((costs, expert) => {
    if (costs[place] > most) [best, most] = [[layer, expert], costs[place]];
  }));
  return best;
}

/**
 * The head that looks most firmly from a written token at one before: at what followed the same word before and is
 * written next, if any does so; else at any but the first and the six last ones.
 */
function sharpest(run) {
  let [best, most] = [{}, 0];
  for (let token = run.promptIds.length; token < run.hidden.length; token++) {
    for (let layer = 0; layer < run.config.num_hidden_layers; layer++) {
      for (let head = 0; head < run.config.num_attention_heads; head++) {
        const found = looksOf(run, token, layer, head);
        for (let key = 1; found && key < token - 6; key++) {
          const follows = idAt(run, key - 1) === idAt(run, token) && idAt(run, key) === idAt(run, token + 1);
          const score = found[key] + (follows ? 1 : 0);
          if (score > most) [best, most] = [{ token, layer, head }, score];
        }
      }
    }
  }
  return best;
}

/** Shows a step of the tour, counted from 1; null ends it. */
async function goTo(page, number) {
  const steps = tourSteps(page);
  const box = byId("tour");
  if (number === null) {
    box.hidden = true;
    page.set({ tour: null });
    mark(null);
    byId("start-tour").focus();
    return;
  }
  const step = steps[number - 1];
  const { lang, theme } = page.state;
  page.set({ ...startState(), lang, theme, ...step.state, pace: "once", token: null, tour: number });
  const own = page.state;
  showTour(page);
  if (!box.contains(document.activeElement) || byId("tour-back").disabled) byId("tour-next").focus();
  await page.run();
  if (page.state !== own) return; // another step, or what the reader chose, has taken its place
  const run = page.runs[page.lane];
  if (step.state.token === -1 && run) page.set({ token: run.promptIds.length - 1 });
  if (step.after && run) page.set(step.after(run));
  page.show();
  mark(step.focus);
}

function showTour(page) {
  const { label, state } = page;
  const steps = tourSteps(page);
  byId("tour").hidden = state.tour === null;
  if (state.tour === null) return;
  const { key } = steps[state.tour - 1];
  setText("tour-title", `${state.tour}/${steps.length} · ${label(`tour.${key}.title`)}`);
  setText("tour-text", label(`tour.${key}`));
  byId("tour-back").disabled = state.tour === 1;
  byId("tour-next").textContent = label(state.tour === steps.length ? "tourEnd" : "tourNext");
}

/** Frames the part of the page that a step speaks of, and brings it into sight. */
function mark(id) {
  document.querySelectorAll(".marked").forEach((element) => element.classList.remove("marked"));
  const element = id && byId(id);
  if (!element) return;
  element.classList.add("marked");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}
