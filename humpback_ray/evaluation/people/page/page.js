"use strict";
// One page for two ways: from a server, which stores each vote, or as a file with the texts inside,
// whose votes stay in the browser until they are downloaded. Texts only ever become textContent.

const KINDS = {
  pair: {
    title: "Which answer is better?",
    question: "Which answer is better?",
    intro: [
      "You see an instruction and two answers. Say which answer you would rather get, all in all: does it do what was asked, is it right, complete and easy to read?",
      "Longer is not better by itself. If neither is better, both good or both bad, it is a tie. A few items have a known answer, and a few come twice.",
    ],
    choices: [["left", "A is better", "←", "1"], ["tie", "Tie", "↓", "2"], ["right", "B is better", "→", "3"]],
  },
  label: {
    title: "Is this a good answer?",
    question: "Is this answer good?",
    intro: [
      "You see an instruction and an answer. Good means: a helpful assistant could have written it as it stands. It does what was asked, is complete and clear, and holds nothing that does not belong there.",
      "Bad means: off the topic, incomplete, somebody's personal view, advertising, navigation, or a web page rather than an answer. A few items have a known answer, and a few come twice.",
    ],
    choices: [["good", "Good", "←", "1"], ["unsure", "Unsure", "↓", "2"], ["bad", "Bad", "→", "3"]],
  },
};
const REASONS = ["I do not know the subject", "I do not understand the text", "I would rather not read this", "The text is shown wrongly", "Another reason"];
const CONTROLS = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
const PIECE = 30000; // characters that a text shows at once
const WAIT = 3000; // milliseconds for the server before the page goes on without it

const $ = (id) => document.getElementById(id);
const embedded = $("data");
const rater = decodeURIComponent(location.pathname.split("/")[2] || "");
let sheet, kind, current; // what the rater gets; the words of its kind; the item in view
const votes = new Map(); // standing votes by item, in the order in which they were given
const unstored = new Map(); // records that the browser refuses to keep
let stamp = 0, refused = 0, offline = false, busy = false, sending = null, retry = 0, downloaded = true;
let seen = 0, since = null, opened = 0; // milliseconds in view; since when; when the item appeared

// --- text as text ---------------------------------------------------------------------------------

function visible(text) {
  const escape = (c) => {
    const code = c.codePointAt(0);
    return code < 256 ? "\\x" + code.toString(16).padStart(2, "0")
      : code < 65536 ? "\\u" + code.toString(16).padStart(4, "0") : "\\U" + code.toString(16).padStart(8, "0");
  };
  return text.replaceAll("\r\n", "\n").replace(CONTROLS, escape);
}

function fill(element, text) {
  const shown = visible(text);
  element.textContent = shown.slice(0, PIECE) || "(no text)";
  element.classList.toggle("empty", !shown);
  element.scrollTop = 0;
  if (shown.length > PIECE) addRest(element, shown, PIECE);
}

function addRest(element, text, start) {
  const button = document.createElement("button");
  button.className = "rest";
  button.textContent = "Show more of this text";
  button.onclick = () => {
    button.replaceWith(text.slice(start, start + PIECE));
    if (text.length > start + PIECE) addRest(element, text, start + PIECE);
  };
  element.append(button);
}

// --- records in this browser ----------------------------------------------------------------------

const prefix = () => `humpback:${sheet.study}:${sheet.rater}:`;

function records() {
  const found = new Map(unstored);
  try {
    for (const key of Object.keys(localStorage)) if (key.startsWith(prefix())) found.set(key, localStorage[key]);
  } catch { /* the browser keeps nothing */ }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
}

function keep(record) {
  // A key of its own for each record, so that two tabs do not overwrite each other's.
  stamp = Math.max(Date.now(), stamp + 1); // later records sort later, even if the clock goes back
  const key = prefix() + String(stamp).padStart(15, "0") + (record.undone ? ":u:" : ":v:") + record.vote_id;
  try {
    localStorage.setItem(key, JSON.stringify(record));
  } catch {
    unstored.set(key, JSON.stringify(record));
  }
}

function forget(key) {
  unstored.delete(key);
  try { localStorage.removeItem(key); } catch { /* it was never there */ }
}

function apply(record) {
  votes.delete(record.item);
  if (!record.undone) votes.set(record.item, record);
}

// --- the server -----------------------------------------------------------------------------------

function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${location.hash.slice(1)}`, "Content-Type": "application/json" };
  return fetch(`/api/${encodeURIComponent(rater)}${path}`, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(2 * WAIT) });
}

function deliver() {
  sending ??= deliverAll().finally(() => { sending = null; showState(); });
  return sending;
}

async function deliverAll() {
  clearTimeout(retry);
  for (let list = records(); list.length && !embedded; list = records()) {
    const waiting = list.find(([key]) => !key.endsWith(":refused"));
    if (!waiting) break;
    const [key, record] = waiting;
    const answer = await ask("/votes", { method: "POST", body: record }).catch(() => null);
    if (answer?.ok) { offline = false; forget(key); continue; }
    if (answer?.status === 404 || answer?.status === 422) {
      forget(key); // the server will never take it; the browser keeps it under another name
      try { localStorage.setItem(`${key}:refused`, record); } catch { unstored.set(`${key}:refused`, record); }
      continue;
    }
    offline = true;
    retry = setTimeout(deliver, 2000);
    break;
  }
}

const waiting = () => (embedded ? 0 : records().filter(([key]) => !key.endsWith(":refused")).length);

function showState() {
  const number = waiting();
  refused = embedded ? 0 : records().length - number;
  const votesOf = (n) => `${n} vote${n === 1 ? "" : "s"}`;
  let text = embedded ? "" : "Saved";
  if (number) text = offline ? `${votesOf(number)} not sent yet. This browser keeps them until the server answers; go on.` : "Saving …";
  if (refused) text = `The server refuses ${votesOf(refused)}; they stay in this browser. Please tell whoever sent you the link.`;
  if (unstored.size && (embedded || number)) text = embedded ? "This browser keeps nothing: download before you close the page." : `${votesOf(number)} not sent yet, and this browser keeps nothing: leave the page open.`;
  $("state").textContent = text;
  $("state").classList.toggle("waiting", Boolean((number && offline) || refused || unstored.size));
  const stored = number ? `${votesOf(number)} wait for the server: leave this page open.` : "Your votes are stored. You can close this page.";
  if (!current) $("end-text").textContent = embedded ? "One last step: download your votes and send the file back to whoever gave you this page." : stored;
}

// --- voting ---------------------------------------------------------------------------------------

function newId() { // randomUUID is missing where the page comes over plain http
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

async function vote(choice, reason = "") {
  if (busy || !current || performance.now() - opened < 150) return;
  const seconds = Math.round((seen + (since === null ? 0 : performance.now() - since)) / 100) / 10;
  const press = document.querySelector(`[data-choice="${choice}"]`);
  press?.setAttribute("aria-pressed", "true");
  await store({ vote_id: newId(), item: current.id, choice, seconds, reason, note: $("note").value.replace(CONTROLS, ""), undone: false });
  next();
}

async function undo() {
  const last = [...votes.values()].at(-1);
  if (busy || !last) return;
  await store({ vote_id: last.vote_id, item: last.item, choice: last.choice, seconds: last.seconds ?? 0, reason: last.reason, note: last.note, undone: true });
  show(sheet.items.find((item) => item.id === last.item), last);
}

async function store(record) {
  busy = true;
  keep(record);
  apply(record);
  downloaded = false;
  const wasOffline = offline;
  const done = deliver();
  showState();
  // The page goes on once the server has the vote, or once it is plain that it does not answer.
  if (!embedded && !wasOffline) await Promise.race([done, new Promise((go) => setTimeout(go, WAIT))]);
  if (waiting() && !sending) offline = true;
  busy = false;
  showState();
}

// --- what is in view ------------------------------------------------------------------------------

function next() { show(sheet.items.find((item) => !votes.has(item.id))); }

function show(item, before) {
  current = item;
  const done = votes.size, total = sheet.items.length;
  $("bar").setAttribute("aria-valuemax", total);
  $("bar").setAttribute("aria-valuenow", done);
  $("bar").firstElementChild.style.width = `${(100 * done) / total}%`;
  $("count").textContent = item ? `${done + 1} of ${total}` : `${total} of ${total}`;
  $("undo").disabled = !done;
  document.querySelector("main").hidden = !item;
  for (const id of ["choices", "question", "skip", "note-button"]) $(id).hidden = !item;
  $("end").hidden = Boolean(item);
  $("note").value = before?.note ?? "";
  toggleNote(Boolean($("note").value));
  if (!item) return showEnd();
  fill($("instruction"), item.instruction);
  fill($("left"), item.left);
  if ("right" in item) fill($("right"), item.right);
  for (const button of $("choices").children) button.setAttribute("aria-pressed", String(button.dataset.choice === before?.choice));
  $("instruction").focus({ preventScroll: true });
  scrollTo(0, 0);
  opened = performance.now();
  seen = 0;
  since = document.hidden ? null : opened;
}

function showEnd() {
  $("end-title").textContent = "All done. Thank you!";
  showState();
  $("end-button").textContent = "Download votes";
  $("end-button").hidden = !embedded;
  $("end-title").focus();
}

function fail(text) {
  $("end").hidden = false;
  $("end-title").textContent = "This page cannot start";
  $("end-text").textContent = text;
  $("end-button").textContent = "Try again";
  $("end-button").onclick = () => location.reload();
}

function download() {
  const lines = records().map(([, record]) => JSON.stringify({ study: sheet.study, rater: sheet.rater, ...JSON.parse(record) }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
  link.download = `votes-${sheet.study}-${sheet.rater}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  downloaded = true;
}

function toggleNote(open) {
  $("note").hidden = !open;
  $("note-button").setAttribute("aria-expanded", String(open));
}

function writeNote() {
  toggleNote(true);
  $("note").focus();
}

// --- keys -----------------------------------------------------------------------------------------

const scrollBoth = (pages) => { for (const id of ["left", "right"]) $(id).scrollBy(0, pages * $(id).clientHeight); };
const scrolls = { " ": 0.85, PageDown: 0.85, PageUp: -0.85, j: 0.15, k: -0.15 };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (document.querySelector("dialog[open]")) {
    const reason = $("reasons").open && REASONS[Number(key) - 1];
    if (reason && !event.repeat) skip(reason);
    return;
  }
  if (event.target === $("note")) {
    if (key === "Escape") { $("note").blur(); if (!$("note").value) toggleNote(false); $("instruction").focus({ preventScroll: true }); }
    return;
  }
  const onButton = event.target instanceof HTMLButtonElement && (key === " " || key === "Enter");
  if (onButton || !sheet) return;
  const arrow = { ArrowLeft: "←", ArrowDown: "↓", ArrowRight: "→" }[key];
  const choice = kind.choices.find(([, , sign, digit]) => arrow === sign || key === digit);
  const act = choice ? () => vote(choice[0])
    : { u: undo, s: () => current && $("reasons").showModal(), n: () => current && writeNote(), "?": () => $("intro").showModal() }[key];
  if (act && !event.repeat) act();
  if (key in scrolls) scrollBoth(event.shiftKey && key === " " ? -scrolls[key] : scrolls[key]);
  if (act || key in scrolls) event.preventDefault();
}

function skip(reason) {
  $("reasons").close();
  vote("skip", reason);
}

// --- start ----------------------------------------------------------------------------------------

function button(parent, label, ...keys) {
  const made = parent.appendChild(document.createElement("button"));
  made.type = "button";
  made.append(label, ...keys.map(keyCap));
  return made;
}

function keyCap(key) {
  const cap = document.createElement("kbd");
  cap.textContent = key;
  return cap;
}

function build() {
  kind = KINDS[sheet.kind];
  document.body.classList.add(sheet.kind);
  $("right-side").hidden = sheet.kind === "label";
  if (sheet.kind === "label") $("left-title").textContent = "Answer";
  document.title = $("intro-title").textContent = kind.title;
  $("question").textContent = kind.question;
  for (const text of kind.intro) $("intro-text").appendChild(document.createElement("p")).textContent = text;
  for (const [choice, label, sign, digit] of kind.choices) {
    const made = button($("choices"), label, sign, digit);
    made.dataset.choice = choice;
    made.onclick = () => vote(choice);
    explain(label, sign, digit);
  }
  explain("Undo, back to the item before", "U");
  explain("Skip, with a reason", "S");
  explain("Write a note", "N");
  explain("Scroll the texts", "Space", "J", "K");
  REASONS.forEach((reason, n) => { button($("reason-list"), reason, String(n + 1)).onclick = () => skip(reason); });
  $("download").hidden = !embedded;
  document.querySelector("footer").hidden = false;
}

function explain(text, ...keys) {
  $("keys").appendChild(document.createElement("dt")).append(...keys.map(keyCap));
  $("keys").appendChild(document.createElement("dd")).textContent = text;
}

async function load() {
  if (embedded) return JSON.parse(embedded.textContent);
  const answer = await ask("").catch(() => null);
  if (answer?.ok) return answer.json();
  fail(answer ? "The link is incomplete or no longer valid. Please open it exactly as you got it." : "The server does not answer. Votes that this browser keeps are sent once it does.");
  return null;
}

async function main() {
  sheet = await load();
  if (!sheet) return;
  for (const record of sheet.votes ?? []) apply(record);
  for (const [key, record] of records()) if (!key.endsWith(":refused")) apply(JSON.parse(record));
  build();
  if (!votes.size) $("intro").showModal();
  next();
  showState();
  deliver();
}

document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden && since !== null) { seen += performance.now() - since; since = null; }
  else if (!document.hidden && since === null) since = performance.now();
});
addEventListener("online", () => sheet && deliver());
addEventListener("beforeunload", (event) => {
  if (sheet && (waiting() || unstored.size || (embedded && !downloaded && !current))) event.preventDefault();
});
$("start").onclick = () => { $("intro").close(); $("instruction").focus({ preventScroll: true }); opened = since = performance.now(); seen = 0; };
$("help").onclick = () => $("intro").showModal();
$("undo").onclick = undo;
$("skip").onclick = () => $("reasons").showModal();
$("no-skip").onclick = () => $("reasons").close();
$("note-button").onclick = () => ($("note").hidden ? writeNote() : toggleNote(false));
$("download").onclick = $("end-button").onclick = download;
main();
