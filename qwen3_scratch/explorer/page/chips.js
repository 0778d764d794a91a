"use strict";
// Small makers of elements, and the chips: every token a button, thinking apart, and what a token looks at drawn on them.

/** An element: make("button", {class: "x", onclick, "aria-label": ...}, child, "text", ...). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const byId = (id) => document.getElementById(id);
const percent = (share) => (share >= 0.995 ? "100" : share >= 0.1 ? (100 * share).toFixed(0) : (100 * share).toFixed(1)) + " %";

/** A text with what cannot be seen drawn: line breaks, spaces at its ends, control characters. */
function visible(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣").replace(/[\p{Cc}\p{Cf}]/gu, "�") || "∅";
}

const textOfId = ({ model }, id) => visible(model.tokenizer.decode([id]));
const idAt = (run, index) => run.promptIds[index] ?? run.tokenIds[index - run.promptIds.length];
const textAt = (page, run, index) => textOfId(page, idAt(run, index));

/** Puts a text into an element unless it is there: what is written anew is read out anew. */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

const KNOWN_BY = ["expert", "head", "do", "token", "cell", "read"]; // of data-..., within the next box around that has a name

/** Draws, and gives the focus to what then stands where it was, or if nothing does, to the section that it was in. */
function keepingFocus(draw) {
  const had = document.activeElement ?? document.body;
  const box = had.parentElement?.closest("[id], [data-lane]");
  const name = KNOWN_BY.find((each) => each in had.dataset);
  const section = had.closest("section[id]");
  const places = [
    had.id && `#${had.id}`,
    name && `${box.id ? `#${box.id}` : `[data-lane="${box.dataset.lane}"]`} [data-${name}="${had.dataset[name]}"]`,
    had.matches(".lane .chip") && `#lanes [data-token="${had.dataset.token}"]`, // of the lane that is left
    had.matches(".undo") && "#undo-all",
    section && `#${section.id}`,
  ];
  draw();
  const isThere = (element) => element?.isConnected && !element.closest("[hidden]");
  if (isThere(had)) return;
  places.filter(Boolean).map((place) => document.querySelector(place)).find(isThere)?.focus({ preventScroll: true });
}

/** Arrow keys move among the buttons of a box, of which one alone is reached by Tab. */
function roving(box, rowLength = () => 0) {
  box.addEventListener("focusin", (event) => {
    if (event.target.matches("button")) oneStop([...box.querySelectorAll("button")], event.target);
  });
  box.addEventListener("keydown", (event) => {
    const buttons = [...box.querySelectorAll("button:not([disabled])")];
    const place = buttons.indexOf(document.activeElement);
    const row = rowLength();
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row || 1, ArrowUp: -(row || 1), Home: -place, End: buttons.length - 1 - place };
    if (place < 0 || !(event.key in moves)) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, place + moves[event.key]))].focus();
  });
}

function oneStop(buttons, chosen) {
  for (const button of buttons) button.tabIndex = button === chosen ? 0 : -1;
}

/** What becomes of a run's tokens: a list of {index, id, part}; part is template, question, thinking or answer. */
function partsOf(model, run, question) {
  const { tokenizer } = model;
  let thinking = opensThinking(tokenizer, run.promptIds);
  const last = run.promptIds.length - question.after;
  const asked = run.promptIds.map((id, index) => ({
    index, id, part: index >= question.before && index < last ? "question" : "template",
  }));
  const written = run.tokenIds.map((id, i) => {
    const tag = id === tokenizer.open || id === tokenizer.close;
    if (tag) thinking = id === tokenizer.open;
    const special = tag || tokenizer.added.get(id)?.special;
    return { index: run.promptIds.length + i, id, part: special ? "template" : thinking ? "thinking" : "answer" };
  });
  return [...asked, ...written];
}

/** How many of a prompt's tokens the template writes before the question and after it. */
function questionPlace(model, thinking) {
  const { before, after } = model.chat[thinking ? "thinking" : "direct"];
  return { before: model.tokenizer.encode(before).length, after: model.tokenizer.encode(after).length };
}

/** One token as a button. Its number, text and part are said; a mark says that here the answers part. */
function chip(label, { index, id, part }, { text, differs, experts, onchoose }) {
  const shown = experts ? `${text} ${experts}` : text; // what is seen begins what is said, so that voices can call it
  const said = `${shown}: ${label("token")} ${index}, ${label(part)}${differs ? `, ${label("partsHere")}` : ""}`;
  const element = make("button", {
    type: "button", class: `chip ${part}${differs ? " differs" : ""}`, "data-token": index, "data-id": id, tabindex: -1,
    "aria-label": said, "aria-pressed": "false", onclick: onchoose,
  }, make("span", { class: "text" }, text));
  if (experts) element.append(" ", make("span", { class: "went" }, experts));
  return element;
}

/** Draws on a lane's chips how much the chosen token looks at each: a bar from below, as high as its share of the
 * strongest, and the strongest in per cent. */
function drawLooks(lane, looks, chosen) {
  const strongest = looks ? [...looks.keys()].sort((a, b) => looks[b] - looks[a]).slice(0, 4) : [];
  const most = strongest.length ? looks[strongest[0]] : 1;
  for (const element of lane.querySelectorAll(".chip")) {
    const index = Number(element.dataset.token);
    const weight = looks && index < looks.length ? looks[index] : 0;
    element.style.setProperty("--height", `${Math.round((100 * weight) / most)}%`);
    element.classList.toggle("looked", weight >= 0.02);
    element.setAttribute("aria-pressed", String(index === chosen));
    if (strongest.includes(index) && weight >= 0.04) element.dataset.look = String(Math.round(100 * weight));
    else delete element.dataset.look;
  }
}
