"use strict";
// What the rater has said of the task on the page: an order, ties in it, and what is acceptable.

const marks = {
  count: 0, // texts
  chosen: [], // places on the page, from best to worst
  tied: new Set(), // those as good as the one before them
  isTying: false, // the next one will be
  isAutomatic: false, // the last of them followed from the others
  acceptable: [], // by place: true, false, or null where nothing was said
};

// Start anew, or with what the rater had said where an undo brought the task back.
function mark(task) {
  const places = task ? task.texts.map((_, place) => place) : [];
  const ranks = task && task.ranks;
  marks.count = places.length;
  marks.chosen = ranks ? [...places].sort((a, b) => ranks[a] - ranks[b]) : [];
  marks.tied = new Set(marks.chosen.filter((place, n) => n && ranks[place] === ranks[marks.chosen[n - 1]]));
  marks.isTying = false;
  marks.isAutomatic = false;
  marks.acceptable = (task && task.acceptable) || places.map(() => null);
}

const isRanked = () => marks.count > 0 && marks.chosen.length === marks.count;
const isSaid = () => marks.acceptable.some((said) => said !== null);
const unsaid = () => (isSaid() ? marks.acceptable.flatMap((said, place) => (said === null ? [place + 1] : [])) : []);
const isSettled = () => isRanked() && unsaid().length === 0;

// One more than the number of better ones: two that are best are both 1, and the next is 3.
function rankOf(place) {
  let at = marks.chosen.indexOf(place);
  while (at > 0 && marks.tied.has(marks.chosen[at])) at -= 1;
  return at + 1;
}

function rankName(rank) {
  if (rank === 1) return "best";
  if (marks.chosen.length === marks.count && rank === rankOf(marks.chosen[marks.count - 1])) return "worst";
  return rank === marks.count ? "worst" : { 2: "2nd", 3: "3rd" }[rank] || `${rank}th`;
}

function rankText(place) {
  const rank = rankOf(place);
  const others = marks.chosen.filter((other) => rankOf(other) === rank).length - 1;
  return rank ? `${others ? "= " : ""}${rankName(rank)}` : "";
}

// Put a text next in the order, or take it out; the last follows by itself.
function toggleRank(place) {
  if (marks.chosen.includes(place)) {
    dropAutomatic();
    drop(place);
    return;
  }
  append(place);
  if (marks.chosen.length === marks.count - 1) {
    append(marks.acceptable.findIndex((_, other) => !marks.chosen.includes(other)));
    marks.isAutomatic = true;
  }
}

function append(place) {
  marks.chosen.push(place);
  if (marks.isTying) marks.tied.add(place);
  marks.isTying = false;
}

// Take one out of the order; what was tied with it stays tied with the others.
function drop(place) {
  const after = marks.chosen[marks.chosen.indexOf(place) + 1];
  if (!marks.tied.has(place)) marks.tied.delete(after);
  marks.tied.delete(place);
  marks.chosen = marks.chosen.filter((other) => other !== place);
  marks.isTying = marks.isTying && marks.chosen.length > 0;
}

function dropAutomatic() {
  if (marks.isAutomatic) drop(marks.chosen[marks.count - 1]);
  marks.isAutomatic = false;
}

// Tie the next choice with the one before; once all are ranked, the last with the one before it.
function toggleTie() {
  if (!marks.chosen.length) return;
  const last = marks.chosen[marks.count - 1];
  if (last === undefined) marks.isTying = !marks.isTying;
  else if (!marks.tied.delete(last)) marks.tied.add(last);
}

const isTied = () => marks.isTying || marks.tied.has(marks.chosen[marks.count - 1]);

// Acceptable, not acceptable, nothing said.
function toggleAcceptable(place) {
  marks.acceptable[place] = { null: true, true: false, false: null }[String(marks.acceptable[place])];
}

function takeBackLast() {
  if (marks.isTying) {
    marks.isTying = false;
    return;
  }
  dropAutomatic();
  if (marks.chosen.length) drop(marks.chosen[marks.chosen.length - 1]);
}
