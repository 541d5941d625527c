"use strict";
// The page of rlaif_pl rate. Texts are put in as text, never as markup.

const find = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
const mustReveal = document.body.dataset.hide === "yes";
const state = {
  rater: "",
  task: null, // {id, prompt, texts}
  chosen: [], // places on the page, from best to worst
  isAutomatic: false, // the last of them followed from the others
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
    body: JSON.stringify({ rater: state.rater, ...body }),
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

function send(ranks, reason) {
  if (state.task === null) return;
  const seconds = Math.min(lookedSoFar() / 1000, 86400);
  const body = { task: state.task.id, submission: state.submission, ranks, reason, seconds };
  ask("api/rating", body, "Not saved");
}

function sendRanks() {
  if (!isComplete()) return;
  send(state.task.texts.map((_, place) => state.chosen.indexOf(place) + 1), null);
}

function undo() {
  if (state.last !== null) ask("api/undo", { submission: state.last }, "Not undone");
}

function show(answer) {
  const task = answer.task;
  state.task = task;
  state.last = answer.progress.last;
  state.submission = newSubmission();
  state.isAutomatic = false;
  state.chosen = task && task.ranks
    ? task.texts.map((_, place) => place).sort((a, b) => task.ranks[a] - task.ranks[b])
    : [];
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
    return item;
  }));
  scrollTo(0, 0);
  drawRanks();
}

function drawEnd(kind) {
  const isDone = kind === "done";
  find("end-title").textContent = isDone ? "Nothing left to rank. Thank you." : "Others have the last ones in hand";
  find("end-text").textContent = isDone
    ? "Every prompt that you have not rated has as many rankings as are wanted."
    : "What they leave unfinished will be yours in some minutes.";
  find("again").hidden = isDone;
}

const count = () => (state.task === null ? 0 : state.task.texts.length);
const isComplete = () => count() > 0 && state.chosen.length === count() && !state.isHidden;

function rankName(rank) {
  if (rank === 1) return "best";
  if (rank === count()) return "worst";
  return { 2: "2nd", 3: "3rd" }[rank] || `${rank}th`;
}

function choose(place) {
  if (state.isBusy || state.isHidden || place >= count()) return;
  if (state.chosen.includes(place)) {
    if (state.isAutomatic) state.chosen.pop();
    state.isAutomatic = false;
    state.chosen = state.chosen.filter((other) => other !== place);
  } else {
    state.chosen.push(place);
    if (state.chosen.length === count() - 1) {
      const all = state.task.texts.map((_, other) => other);
      state.chosen.push(all.find((other) => !state.chosen.includes(other)));
      state.isAutomatic = true;
    }
  }
  drawRanks();
}

function takeBack() {
  if (state.isBusy) return;
  if (state.isAutomatic) state.chosen.pop();
  state.isAutomatic = false;
  state.chosen.pop();
  drawRanks();
}

function clear() {
  if (state.isBusy) return;
  state.chosen = [];
  state.isAutomatic = false;
  drawRanks();
}

function drawRanks() {
  document.querySelectorAll(".card").forEach((card, place) => {
    const rank = state.chosen.indexOf(place) + 1;
    card.setAttribute("aria-pressed", String(rank > 0));
    card.querySelector(".rank").textContent = rank ? rankName(rank) : "";
  });
  find("status").textContent = state.chosen.length
    ? `Best to worst: ${state.chosen.map((place) => place + 1).join(", ")}`
    : `Keys 1 to ${count()}, or a tap on each.`;
  drawActions();
}

function drawActions() {
  find("send").disabled = state.isBusy || !isComplete();
  find("skip").disabled = state.isBusy || state.task === null;
  find("clear").disabled = state.isBusy || state.chosen.length === 0;
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
  const isOnAction = event.target.tagName === "BUTTON" && !event.target.classList.contains("card");
  const actions = { u: undo, s: () => send(null, null), Escape: clear, Backspace: takeBack };
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (event.key === "Enter" && isComplete() && !isOnAction) sendRanks();
  else if (event.key in actions) actions[event.key]();
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
  Object.assign(state, { rater: "", task: null, last: null, isHidden: false, chosen: [] });
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
find("skip").addEventListener("click", () => send(null, null));
find("clear").addEventListener("click", clear);
find("send").addEventListener("click", sendRanks);

const known = localStorage.getItem("rater");
if (known) begin(known);
else {
  find("enter").hidden = false;
  find("name").focus();
}
