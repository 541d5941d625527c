"use strict";
// The page of rlaif_pl rate. Texts are put in as text, never as markup.

const find = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
const mustReveal = document.body.dataset.hide === "yes";
const asksAcceptable = document.body.dataset.acceptable === "yes";
const allowsTies = document.body.dataset.ties === "yes";
const state = {
  rater: "",
  task: null, // {id, prompt, texts}
  isHidden: false, // texts wait behind a click
  isBusy: false,
  submission: "", // names this rating, so that sending it twice counts once
  last: null, // submission that can be undone
  looked: 0, // milliseconds with the task in sight
  since: null,
};

function newSubmission() {
  // not randomUUID, which plain http on another machine's address does not have
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Rating-Token": token },
    body: JSON.stringify({ rater: state.rater, kind: "person", ...body }),
  });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(typeof said.detail === "string" ? said.detail : `the server said ${answer.status}`);
  }
  return answer.json();
}

// Ask the server once at a time; what is on the page stays there where it fails.
async function ask(path, body, failed) {
  if (state.isBusy) return;
  state.isBusy = true;
  drawActions();
  try {
    show(await post(path, body));
    find("problem").hidden = true;
  } catch (error) {
    const unreachable = error instanceof TypeError;
    find("problem").textContent = `${failed}: ${unreachable ? "the server cannot be reached" : error.message}. Try again.`;
    find("problem").hidden = false;
  } finally {
    state.isBusy = false;
    drawActions();
  }
}

const next = () => ask("api/next", {}, "No task came");

function send(ranks, acceptable) {
  if (state.task === null) return;
  const seconds = Math.min(lookedSoFar() / 1000, 86400);
  const body = { task: state.task.id, submission: state.submission, ranks, acceptable, seconds };
  ask("api/rating", body, "Not saved");
}

const skip = () => send(null, null);

function sendRanks() {
  if (!isComplete()) return;
  send(state.task.texts.map((_, place) => rankOf(place)), isSaid() ? marks.acceptable : null);
}

function undo() {
  if (state.last !== null) ask("api/undo", { submission: state.last }, "Not undone");
}

function show(answer) {
  const task = answer.task;
  state.task = task;
  state.last = answer.progress.last;
  state.submission = newSubmission();
  mark(task);
  state.isHidden = mustReveal && task !== null;
  const { mine, done, wanted } = answer.progress;
  find("count").textContent = `${mine} by you, ${done} of ${wanted} in all`;
  find("progress").max = Math.max(wanted, 1);
  find("progress").value = done;
  if (task === null) drawEnd(answer.state);
  else drawTask();
  drawSections();
}

function drawSections() {
  find("enter").hidden = state.rater !== "";
  find("task").hidden = state.task === null || state.isHidden;
  find("cover").hidden = !state.isHidden;
  find("end").hidden = state.rater === "" || state.task !== null;
  find("actions").hidden = state.rater === "";
  state.looked = 0;
  state.since = document.hidden || state.task === null || state.isHidden ? null : performance.now();
  if (state.isHidden) find("reveal").focus();
  drawActions();
}

function drawTask() {
  find("prompt").textContent = state.task.prompt;
  find("cards").replaceChildren(...state.task.texts.map((text, place) => {
    const card = document.createElement("button");
    card.type = "button";
    card.className = "card";
    const key = document.createElement("kbd");
    key.textContent = String(place + 1);
    const body = document.createElement("span");
    body.className = text ? "text" : "text empty";
    body.textContent = text || "(no text)";
    const rank = document.createElement("span");
    rank.className = "rank";
    card.append(key, body, rank);
    card.addEventListener("click", () => {
      if (String(getSelection()) === "") choose(place);
    });
    const item = document.createElement("li");
    item.append(card);
    if (asksAcceptable) item.append(verdictButton(place));
    return item;
  }));
  scrollTo(0, 0);
  drawRanks();
}

function verdictButton(place) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "verdict";
  button.addEventListener("click", () => turn(place));
  return button;
}

function drawEnd(kind) {
  const isDone = kind === "done";
  find("end-title").textContent = isDone ? "Nothing left to rank. Thank you." : "Others have the last ones in hand";
  find("end-text").textContent = isDone
    ? "Every prompt that you have not rated has as many rankings as are wanted."
    : "What they leave unfinished will be yours in some minutes.";
  find("again").hidden = isDone;
}

const isComplete = () => isSettled() && !state.isHidden;
const canMark = () => !state.isBusy && !state.isHidden && state.task !== null;

// Change what the rater said, and show it.
function change(isAsked, how) {
  if (!isAsked || !canMark()) return;
  how();
  drawRanks();
}

const choose = (place) => change(place < marks.count, () => toggleRank(place));
const turn = (place) => change(asksAcceptable && place < marks.count, () => toggleAcceptable(place));
const tie = () => change(allowsTies, toggleTie);
const acceptRest = () => change(asksAcceptable, () => {
  marks.acceptable = marks.acceptable.map((said) => said ?? true);
});
const takeBack = () => change(true, takeBackLast);
const clear = () => change(true, () => mark({ texts: state.task.texts }));

function drawRanks() {
  document.querySelectorAll(".card").forEach((card, place) => {
    const rank = rankOf(place);
    card.setAttribute("aria-pressed", String(rank > 0));
    card.querySelector(".rank").textContent = rankText(place);
  });
  document.querySelectorAll(".verdict").forEach((button, place) => {
    const said = { null: "", true: "yes", false: "no" }[String(marks.acceptable[place])];
    button.dataset.said = said;
    button.textContent = { "": "Acceptable?", yes: "✓ Acceptable", no: "✗ Not acceptable" }[said];
    button.setAttribute("aria-label", `${place + 1}: ${button.textContent}`);
  });
  find("status").textContent = statusText();
  drawActions();
}

function statusText() {
  const keys = asksAcceptable ? ` Shift and a number: acceptable or not.` : "";
  if (isRanked() && unsaid().length) return `Say also whether ${unsaid().join(", ")} ${unsaid().length > 1 ? "are" : "is"} acceptable.`;
  if (!marks.chosen.length) return `Keys 1 to ${marks.count}, or a tap on each.${keys}`;
  const order = marks.chosen.map((place, n) => `${n ? (marks.tied.has(place) ? " = " : ", ") : ""}${place + 1}`);
  return `Best to worst: ${order.join("")}${marks.isTying ? " =" : ""}`;
}

function drawActions() {
  find("send").disabled = state.isBusy || !isComplete();
  find("skip").disabled = state.isBusy || state.task === null;
  find("clear").disabled = state.isBusy || (marks.chosen.length === 0 && !isSaid());
  if (allowsTies) {
    find("equal").disabled = state.isBusy || marks.chosen.length === 0;
    find("equal").setAttribute("aria-pressed", String(isTied()));
  }
  if (asksAcceptable) find("rest").disabled = state.isBusy || state.task === null || !marks.acceptable.includes(null);
  find("undo").disabled = state.isBusy || state.last === null;
}

const lookedSoFar = () => state.looked + (state.since === null ? 0 : performance.now() - state.since);

document.addEventListener("visibilitychange", () => {
  state.looked = lookedSoFar();
  const isSeen = !document.hidden && state.task !== null && !state.isHidden;
  state.since = isSeen ? performance.now() : null;
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (state.rater === "" || event.target.tagName === "INPUT") return;
  const isOnAction = event.target.tagName === "BUTTON" && !event.target.matches(".card, .verdict");
  const actions = { u: undo, s: skip, Escape: clear, Backspace: takeBack };
  if (allowsTies) actions["="] = tie;
  if (asksAcceptable) actions.a = acceptRest;
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (event.key === "Enter" && isComplete() && !isOnAction) sendRanks();
  else if (event.key in actions) actions[event.key]();
  else if (digit) turn(Number(digit[1]) - 1); // the key's other sign: with Shift, or without on AZERTY
  else return;
  event.preventDefault();
});

function begin(name) {
  state.rater = name;
  localStorage.setItem("rater", name);
  find("rename").textContent = name;
  find("rename").hidden = false;
  drawSections();
  next();
}

find("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("name").value.trim();
  if (name) begin(name);
});
find("rename").addEventListener("click", () => {
  Object.assign(state, { rater: "", task: null, last: null, isHidden: false });
  mark(null);
  find("rename").hidden = true;
  find("count").textContent = "";
  drawSections();
  find("name").focus();
});
find("reveal").addEventListener("click", () => {
  state.isHidden = false;
  drawSections();
});
find("again").addEventListener("click", next);
find("undo").addEventListener("click", undo);
find("skip").addEventListener("click", skip);
if (allowsTies) find("equal").addEventListener("click", tie);
if (asksAcceptable) find("rest").addEventListener("click", acceptRest);
find("clear").addEventListener("click", clear);
find("send").addEventListener("click", sendRanks);

const known = localStorage.getItem("rater");
if (known) begin(known);
else {
  find("enter").hidden = false;
  find("name").focus();
}
