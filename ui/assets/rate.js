// The Rate tab. Shows what the server says lies in front of the person, and sends what the person says about it.
// In scope: element and server (Gradio's), and what the other scripts named rate_… define.

const LOOK_MS = { drawing: 120, waiting: 300, idle: 2000 };

const root = element.querySelector(".rate");
const $ = (selector) => root.querySelector(selector);

let view = {};
let info = {};
let seen = null; // what the page shows now, so that only what changed is drawn
let editing = null;
const guard = voteGuard();

const TOOLS = [
  ["undo", "Undo", "U"], ["edit0", "Edit A", "E"], ["edit1", "Edit B", "⇧E"], ["again", "Regenerate", "R"],
  ["next", "New pair", "N"], ["legend", "All keys", "?"],
];
const LEGEND = [
  ["1 or ⇧←", "A much better"], ["2 or ←", "A better"], ["3 or T", "tie"], ["4 or →", "B better"], ["5 or ⇧→", "B much better"],
  ["B", "both bad"], ["S", "skip: no verdict"], ["U", "undo (repeatable)"], ["E", "write a better A"], ["⇧E", "write a better B"],
  ["R", "other answers, same prompt"], ["N", "another prompt (in a chat: a new one)"], ["V", "where the last answers were from"],
  ["W", "write a question"], ["M", "show Markdown as it was written"], ["J / K", "scroll the answers"], ["H", "earlier votes"],
  ["?", "show or hide these keys"],
  ["Alt 1 … 8", "a criterion: A, equal, B"], ["1 … 6", "rank next, or remove"], ["T or =", "ranking: the next one is tied"], ["⌫", "remove last"],
  ["Enter", "ranking: save"], ["Esc", "leave a field"], ["Ctrl Enter", "save what you wrote"],
];

const { ask, act, shown, busy, open } = talk({
  root,
  reach: (payload) => server.rate_ask(payload),
  show,
  looking: () => ({ stamp: view.stamp, shelf: view.shelf }),
  pause: () => LOOK_MS[pace()],
});
const rank = ranking($(".ranks"), (place) => firstWords(view.sheet?.answers[place]), drawRanking);
const past = pastVotes($(".history"), act);
const look = beyondSight(root);
keepLastTurn($(".prompt"));

/** What the page calls an answer: by a letter where two are compared, by the key that places it where they are ranked. */
const called = (place, count) => (count > 2 ? String(place + 1) : LETTERS[place]);
const firstWords = (text) => (text || "").trim().split(/\s+/).slice(0, 3).join(" ");
const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th"];

function pace() {
  if (view.sheet && !view.sheet.whole && !view.sheet.problem && !view.stuck) return "drawing";
  return view.sheet && view.sheet.whole ? "idle" : "waiting";
}

// -- showing ----------------------------------------------------------------------------------------------------

function show(reply) {
  const changed = reply.stamp !== undefined && reply.stamp !== view.stamp;
  if ("stamp" in reply && "sheet" in reply) view = reply;
  for (const name of ["progress", "welcome", "toy", "undoable", "revealable", "chosen", "choices"]) if (name in reply) info[name] = reply[name];
  if ("choices" in reply) drawChoices();
  if ("progress" in reply) drawProgress();
  if (reply.said !== undefined) say(reply.said, reply.wrong);
  if (reply.sources) say(reply.sources.map((name, i) => `${called(i, reply.sources.length)}: ${name}`).join(" · "));
  if (reply.profile) showSafe($(".profile"), reply.profile);
  if (reply.history) past.show(reply.history);
  else if (reply.progress && past.isOpen) ask({ do: "history", page: past.page }).then((more) => more.history && past.show(more.history));
  if (changed || !seen) drawSheet();
  drawButtons();
}

function say(words, wrong = false) {
  const node = $(".said .words");
  node.textContent = words;
  node.getAnimations().forEach((old) => old.cancel());
  if (PHONE.matches) toast(node, wrong ? 8000 : 3500);
  $(".said").classList.toggle("wrong", wrong);
  $("[data-do=reveal]").hidden = !info.revealable;
}

/** Say to who comes here for the first time what this is, and show nothing else until the first vote. */
function welcome(words) {
  document.body.dataset.first = words ? "yes" : "";
  $(".welcome").hidden = !words;
  const shown = `${words}${info.toy ? " My own model" : ""}`;
  if (!words || $(".welcome").textContent === shown) return;
  if (!info.toy) return $(".welcome").replaceChildren(words);
  const own = make("button", { type: "button" }, "My own model");
  own.addEventListener("click", () => lead({ go: "Models" }));
  $(".welcome").replaceChildren(`${words} `, own);
}

/** Show a line above the buttons for a moment; a vote can be taken back there. */
function toast(node, ms) {
  if (node.textContent.startsWith("Saved")) {
    const back = make("button", { type: "button" }, "Undo");
    back.addEventListener("click", () => { back.remove(); press("undo"); });
    setTimeout(() => back.remove(), ms * 0.7); // gone before it cannot be seen any more
    node.append(back);
  }
  node.animate({ opacity: [1, 1, 0] }, { duration: ms, fill: "forwards" });
}

function drawProgress() {
  const now = info.progress;
  const parts = [make("b", {}, String(now.today)), " today · ", make("b", {}, String(now.total)), " in all"];
  if (now.pace) parts.push(` · ${now.pace} a minute`);
  parts.push(` · ${now.next}`);
  $(".progress").replaceChildren(...parts);
  welcome(info.welcome || "");
  if (now.agreement) $(".progress").append(make("br", {}), now.agreement);
}

function drawSheet() {
  const sheet = view.sheet;
  const fresh = !seen || !sheet || seen.id !== sheet.id || seen.answers.length !== sheet.answers.length;
  if (fresh) {
    stopEditing();
    buildAnswers(sheet ? sheet.answers.length : info.chosen.answers);
    rank.start(sheet && sheet.answers.length > 2 ? sheet.answers.length : 0);
    drawExtras();
  }
  const turns = sheet ? sheet.prompt : view.turns;
  if (fresh || seen.turns !== turns.length) converse($(".prompt"), turns);
  if (!turns.length) $(".prompt").replaceChildren(make("span", { className: "faint" }, "No prompt yet"));
  root.querySelectorAll(".answer").forEach((box, place) => fill(box, sheet, place));
  if (sheet && (sheet.whole || sheet.readable) && (fresh || !seen.votable)) arm();
  compose(sheet);
  look();
  seen = sheet ? { id: sheet.id, answers: sheet.answers, votable: sheet.whole || sheet.readable, turns: turns.length } : { answers: [], turns: turns.length };
  root.dataset.sheet = sheet ? sheet.id : "";
}

function arm() {
  guard.arm();
  setTimeout(drawButtons, ARM_MS + 5);
}

function buildAnswers(count) {
  const box = $(".answers");
  box.className = `answers${count > 2 ? " many" : ""}${count === 3 || count > 4 ? " three" : ""}`;
  box.replaceChildren(...Array.from({ length: count }, (_, place) => {
    const name = called(place, count);
    const header = make("header", {}, make("span", { className: "name" }, name));
    const node = make("section", { className: "answer", "aria-label": `Answer ${name}` }, header,
      make("div", { className: "text", tabIndex: 0 }), make("span", { className: "wait", hidden: true }));
    if (count > 2) {
      const button = make("button", { type: "button", className: "quiet" });
      button.addEventListener("click", () => rank.pick(place));
      header.append(button);
      node.draggable = true;
      rank.drag(place, node);
    }
    return node;
  }));
}

function fill(box, sheet, place) {
  const body = box.querySelector(".text");
  const wait = box.querySelector(".wait");
  const text = sheet ? sheet.answers[place] : "";
  if (body.dataset.full !== text || !body.childNodes.length) {
    body.dataset.full = text;
    writeRaw(body, text);
  }
  const shownAs = sheet?.whole ? `${sheet.id} ${rawText.on}` : "";
  if (shownAs && body.dataset.shown !== shownAs && text.trim()) write(body, text, sheet.html[place]);
  body.dataset.shown = shownAs;
  cutNote(box, sheet, place);
  let words = "";
  if (!sheet) words = view.wait || "One moment …";
  else if (sheet.problem) words = `${sheet.problem}. R tries again, N goes on.`;
  else if (!sheet.whole && view.wait) words = view.wait;
  else if (!sheet.whole && !text) words = sheet.tries > 1 ? "All came out the same; drawing again …" : "Writing …";
  else if (sheet.whole && !text.trim()) words = "(an empty answer)";
  if (words && !text.trim()) body.replaceChildren(make("span", { className: "faint" }, place && !sheet?.whole ? "" : words));
  wait.hidden = !sheet || sheet.whole || !text;
  wait.textContent = howFar(sheet?.pace);
  box.setAttribute("aria-busy", String(Boolean(sheet && !sheet.whole)));
}

/** Say how far an answer is and how long it may take yet. */
function howFar(now) {
  if (!now?.limit) return "writing …";
  const rate = now.rate ? ` · ${now.rate < 10 ? now.rate : Math.round(now.rate)} a second · up to ${inWords(now.left)} left` : "";
  return `${now.tokens} of ${now.limit} tokens${rate}`;
}
const inWords = (seconds) => (seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`);

/** Say where the limit of tokens ended an answer, and offer a longer one. */
function cutNote(box, sheet, place) {
  box.querySelector(".cut")?.remove();
  if (!sheet?.whole || !sheet.cut[place]) return;
  const limit = info.chosen.max_new_tokens ?? info.choices.max_new_tokens;
  const longer = make("button", { type: "button" }, `Allow ${2 * limit}`);
  longer.addEventListener("click", () => prefer({ max_new_tokens: 2 * limit })); // draws everything again
  box.append(make("p", { className: "cut" }, `cut at ${limit} tokens`, longer));
}

function compose(sheet) {
  const form = $(".composer");
  form.hidden = !view.compose;
  if (form.hidden) return;
  const area = form.querySelector("textarea");
  const chat = view.compose === "chat";
  area.placeholder = chat ? (view.turns.length ? "Your next turn" : "Say something") : "Type a prompt; several may wait in line";
  area.disabled = form.querySelector("button").disabled = chat && Boolean(sheet);
  // The person types next: there is nothing to rate, and no other field they are in.
  if (!sheet && !area.disabled && (seen === null || seen.id) && !isField(document.activeElement)) area.focus({ preventScroll: true });
}

function drawRanking() {
  root.querySelectorAll(".answer").forEach((box, place) => {
    box.classList.toggle("placed", rank.isPlaced(place));
    const button = box.querySelector("header button");
    if (!button) return;
    const at = rank.isPlaced(place) ? rank.ranks()[place] : 0;
    button.textContent = at ? ORDINALS[at - 1] : `press ${place + 1}`;
    button.classList.toggle("medal", at > 0);
  });
  drawButtons();
}

function drawButtons() {
  const sheet = view.sheet;
  const ready = Boolean(sheet && sheet.whole && editing === null);
  const votable = ready || Boolean(sheet?.readable && editing === null);
  const can_skip = Boolean(sheet && !sheet.whole && editing === null && !view.stuck);
  const many = Boolean(sheet && sheet.answers.length > 2);
  $(".strip").hidden = !many;
  const row = $(".verdicts");
  if (row.dataset.many !== String(many)) {
    row.dataset.many = String(many);
    row.className = `verdicts${many ? " ranking" : ""}`;
    row.replaceChildren(...(many
      ? [button("rank", "Save the ranking", "Enter"), button("clear", "Clear", "Esc"), button("skip", "Skip", "S")]
      : VERDICTS.map(([name, label, key]) => button(name, label, key))));
    root.querySelectorAll(".answer header button").forEach(() => drawRanking());
  }
  // A pair can be skipped before it is whole: that needs no answer.
  row.querySelectorAll("button").forEach((node) => { node.disabled = !(votable || (node.dataset.do === "skip" && can_skip)); });
  if (many) row.firstChild.disabled = !ready || rank.left === sheet.answers.length;
  // While the engine cannot write, only what was written before can be gone on to.
  const can = { undo: info.undoable > 0 && editing === null, edit0: ready && !many, edit1: ready && !many,
    again: Boolean(sheet) && editing === null && !view.stuck,
    next: Boolean(sheet || view.turns?.length) && editing === null && !(view.stuck && !view.ahead), legend: true };
  $(".tools").querySelectorAll("button").forEach((node) => { node.disabled = !can[node.dataset.do]; });
  $("[data-do=reveal]").hidden = !info.revealable;
  $("[data-do=prepare]").textContent = view.preparing ? "Stop preparing" : "Prepare 30 pairs";
  root.dataset.state = ready ? (guard.waits ? "shown" : "ready") : sheet && editing === null ? "drawing" : editing === null ? "waiting" : "editing";
  note(sheet, many);
}

/** Say below the buttons what the person should know about this pair, where nothing else is being said. */
function note(sheet, many) {
  const words = $(".hint");
  let text = view.ahead ? `${view.ahead} more ready` : "";
  if (view.preparing) text = `Preparing: ${view.ahead} of ${view.preparing} ready`;
  else if (view.seconds && !sheet?.whole) text = `about ${inWords(view.seconds)} a pair here`;
  if (sheet?.readable) text = "Clear already? Vote now: the rest is not written.";
  if (sheet?.whole && view.stuck) text = `${view.wait} ${view.ahead ? `${view.ahead} more are ready to be rated.` : "This is the last pair for now."}`;
  if (sheet?.whole && sheet.equal) text = "All answers came out the same, also after drawing again.";
  if (many && sheet.whole && rank.left && rank.left < sheet.answers.length) text = `${rank.left} not placed: they share the last rank`;
  words.textContent = text;
}

function button(name, label, key) {
  const node = make("button", { type: "button", "data-do": name }, label, " ", make("kbd", { "aria-hidden": "true" }, key));
  node.addEventListener("click", (event) => press(name, event));
  return guard.focusless(node);
}

// -- choices ----------------------------------------------------------------------------------------------------

function drawChoices() {
  const { chosen, choices } = info;
  const fillSelect = (name, options) => $(`[data-choice=${name}]`).replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
  fillSelect("first", choices.adapters);
  fillSelect("second", [["", "itself"], ...choices.adapters.slice(1)]);
  for (const node of root.querySelectorAll("[data-choice]")) {
    const value = chosen[node.dataset.choice];
    if (node.type === "checkbox") node.checked = value;
    else node.value = value ?? "";
  }
  drawMode();
  $("[data-choice=temperature]").placeholder = choices.temperature;
  $("[data-choice=max_new_tokens]").placeholder = choices.max_new_tokens;
  $(".criteria").replaceChildren(...choices.criteria.map((name) => {
    const box = make("input", { type: "checkbox", value: name, checked: chosen.criteria.includes(name) });
    box.addEventListener("change", () => prefer({ criteria: [...root.querySelectorAll(".criteria :checked")].map((node) => node.value) }));
    const label = make("label", { className: "tick" }, box, ` ${name}`);
    if (!chosen.own.includes(name)) return label;
    const away = make("button", { type: "button", className: "quiet away", "aria-label": `Remove ${name}` }, "×");
    const without = (names) => names.filter((other) => other !== name);
    away.addEventListener("click", () => prefer({ own: without(chosen.own), criteria: without(chosen.criteria) }));
    return make("span", {}, label, away);
  }));
  drawExtras();
}

const modeOf = ({ source, answers }) => (source === "chat" ? "chat" : answers > 2 ? "rank" : "compare");

/** Show which mode is on, and sum up what was chosen in the sheet behind the pill. */
function drawMode() {
  const { chosen, choices } = info;
  const mode = modeOf(chosen);
  root.querySelectorAll("[name=mode]").forEach((node) => { node.checked = node.value === mode; });
  $(".more .many").hidden = mode !== "rank";
  const option = (name) => $(`[data-choice=${name}]`).selectedOptions[0]?.textContent || "";
  const by = option("first") + (chosen.second && chosen.second !== chosen.first ? ` vs ${option("second")}` : "");
  const asked = mode === "chat" ? "Your conversation" : option("source");
  $(".pill .sum").textContent = `${asked} · ${chosen.answers} answers by ${by}`;
}

/** Go over to another mode; questions come from where they came from before a chat. */
function changeMode(mode) {
  const { chosen } = info;
  if (chosen.source !== "chat") info.before = chosen.source;
  const source = info.before ?? "";
  if (mode === "chat") prefer({ source: "chat", answers: 2 });
  else prefer({ source, answers: mode === "rank" ? Math.max(4, chosen.answers) : 2 });
}

async function prefer(values) {
  await act({ do: "prefer", values });
  drawSheet();
}

root.addEventListener("change", (event) => {
  const node = event.target;
  if (node.name === "mode") {
    node.blur(); // keys vote
    changeMode(node.value);
  } else if (node.matches(".own")) {
    const { own, criteria } = info.chosen;
    const name = node.value.trim();
    node.value = "";
    if (name) prefer({ own: [...own, name], criteria: [...criteria, name] });
  } else if (node.dataset.choice) {
    const number = node.type === "number" || node.dataset.choice === "answers";
    prefer({ [node.dataset.choice]: node.type === "checkbox" ? node.checked : number ? (node.value === "" ? null : Number(node.value)) : node.value });
    if (node.matches("select") && !node.matches(":focus-visible")) node.blur(); // chosen by mouse: keys vote again
  }
});

/** The optional questions about the pair: criteria, reasons, a note. */
function drawExtras() {
  const { chosen, choices } = info;
  const parts = [];
  const two = !view.sheet || view.sheet.answers.length === 2;
  for (const [i, name] of (two ? chosen.criteria : []).entries()) {
    const options = [["a", "A"], ["tie", "="], ["b", "B"]].map(([value, label]) =>
      make("label", {}, make("input", { type: "radio", name: `criterion-${name}`, value, "data-criterion": name }), label));
    parts.push(make("span", { className: "criterion", role: "radiogroup", "aria-label": name }, make("b", {}, name), make("kbd", { "aria-hidden": "true" }, `Alt ${i + 1}`), ...options));
  }
  if (chosen.reasons && two) parts.push(make("b", {}, "The better one is …"));
  if (chosen.reasons && two) for (const reason of choices.reasons) {
    parts.push(make("label", { className: "tick" }, make("input", { type: "checkbox", "data-reason": reason }), reason));
  }
  if (chosen.note) parts.push(make("input", { className: "note", type: "text", dir: "auto", placeholder: "Note", "aria-label": "Note", maxLength: 2000 }));
  $(".extras").replaceChildren(...parts);
  $(".extras").hidden = !parts.length;
}

/** Turn a criterion on: A, equal, B, nothing said, and round again. */
function turnCriterion(number) {
  const boxes = [...root.querySelectorAll(".extras .criterion")[number]?.querySelectorAll("input") || []];
  const at = boxes.findIndex((box) => box.checked);
  boxes.forEach((box, i) => { box.checked = i === at + 1; });
  return boxes.length > 0;
}

function extras() {
  const criteria = Object.fromEntries([...root.querySelectorAll("[data-criterion]:checked")].map((n) => [n.dataset.criterion, n.value]));
  const reasons = [...root.querySelectorAll("[data-reason]:checked")].map((n) => n.dataset.reason);
  return { criteria, reasons, note: $(".note")?.value || "" };
}

// -- writing a better one ---------------------------------------------------------------------------------------

function edit(place) {
  const box = root.querySelectorAll(".answer")[place];
  const body = box.querySelector(".text");
  editing = place;
  const area = make("textarea", { value: view.sheet.answers[place], dir: "auto", "aria-label": `A better answer than ${LETTERS[place]}` });
  const better = make("select", {}, ...[["a", "A was better"], ["b", "B was better"], ["tie", "neither was better"]].map(([value, label]) => make("option", { value }, label)));
  better.value = place ? "b" : "a";
  const save = make("button", { type: "button", className: "go" }, "Save ", make("kbd", {}, "Ctrl Enter"));
  const cancel = make("button", { type: "button" }, "Cancel ", make("kbd", {}, "Esc"));
  const send = () => act({ do: "edit", sheet: view.sheet.id, place, text: area.value, better: better.value, ...extras() });
  save.addEventListener("click", send);
  cancel.addEventListener("click", () => { stopEditing(); drawButtons(); });
  const footer = make("div", { className: "foot" }, save, cancel, make("label", {}, "Before your edit, which was better?", better));
  const onKey = (event) => {
    if (composing(event)) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    else if (event.key === "Escape") cancel.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  area.addEventListener("keydown", onKey);
  footer.addEventListener("keydown", onKey);
  body.hidden = true;
  box.append(area, footer);
  area.focus({ preventScroll: true });
  drawButtons();
}

function stopEditing() {
  if (editing === null) return;
  editing = null;
  root.querySelectorAll(".answer textarea, .answer .foot").forEach((node) => node.remove());
  root.querySelectorAll(".answer .text").forEach((node) => { node.hidden = false; });
}

// -- what keys and buttons do -----------------------------------------------------------------------------------

/** Do what a button says, if it can be done now: what is pressed while another is at work was meant for what is gone. */
function press(name, click = null) {
  const sheet = view.sheet;
  const node = root.querySelector(`[data-do="${name}"]`);
  const allowed = !(isVerdict(name) || name === "rank") || guard.allows(click);
  if (busy() || !allowed || !node || node.disabled) return;
  const many = sheet && sheet.answers.length > 2;
  if (name === "skip" && (many || !sheet.whole)) act({ do: "next", sheet: sheet.id });
  else if (isVerdict(name)) act({ do: "vote", sheet: sheet.id, verdict: name, ...extras() });
  else if (name === "rank") act({ do: "rank", sheet: sheet.id, ranks: rank.ranks(), ...extras() });
  else if (name === "clear") { rank.start(sheet.answers.length); drawRanking(); }
  else if (name === "edit0" || name === "edit1") edit(Number(name.at(-1)));
  else if (name === "again" || name === "next") act({ do: name, sheet: sheet?.id });
  else if (name === "undo") act({ do: "undo" });
  else if (name === "prepare") act({ do: "prepare", number: view.preparing ? 0 : 30 });
  else if (name === "reveal") act({ do: "reveal" });
  else if (name === "legend") showLegend($(".legend").hidden);
  else if (name === "more") {
    const box = $("div.more");
    box.hidden = !box.hidden;
    node.setAttribute("aria-expanded", String(!box.hidden));
  }
}

const KEYS = { ...VERDICT_KEYS, undo: ["u"], edit0: ["e"], edit1: ["S-e"], again: ["r"], next: ["n"], reveal: ["v"], legend: ["?"] };
const BY_KEY = Object.fromEntries(Object.entries(KEYS).flatMap(([name, keys]) => keys.map((key) => [key, name])));

/** Go to the field for a question; where questions come from elsewhere, they are typed from now on. */
async function writeQuestion() {
  if (!view.compose) await prefer({ source: "typed" });
  $(".composer textarea").focus();
}

function showLegend(on) {
  $(".legend").hidden = !on;
  if (on) $(".legend").scrollIntoView({ block: "nearest" });
}

function rankKey(name, event) {
  const digit = /^Digit([1-6])$/.exec(name);
  if (digit) rank.pick(Number(digit[1]) - 1);
  else if (name === "t" || name === "=") rank.tieNext();
  else if (name === "Backspace") rank.takeBack();
  else if (name === "Escape") press("clear");
  else if (name === "Enter" && !event.target.closest("button, summary, [role=tab]")) press("rank");
  else return false;
  return true;
}

function onKey(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onKey);
  const criterion = event.altKey && /^Digit([1-8])$/.exec(event.code);
  if (criterion && shown() && !isField(event.target) && turnCriterion(criterion[1] - 1)) return event.preventDefault();
  if (!shown() || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || composing(event)) return;
  if (isField(event.target)) {
    if (event.key === "Escape" && root.contains(event.target)) event.target.blur();
    return;
  }
  const name = nameOf(event);
  // Arrows belong to what moves by them: tabs, and choices of one out of several.
  if (name.includes("Arrow") && event.target.closest("[role=tab], input[type=radio]")) return;
  const many = view.sheet && view.sheet.answers.length > 2;
  let used = true;
  if (guard.held(event)) return;
  if (name === "Escape" && !$(".legend").hidden) showLegend(false);
  else if (name === "w") writeQuestion();
  else if (name === "m") { rawText.toggle(); drawSheet(); converse($(".prompt"), view.sheet ? view.sheet.prompt : view.turns); }
  else if (name === "j" || name === "k") window.scrollBy({ top: (name === "j" ? 0.4 : -0.4) * window.innerHeight, behavior: "smooth" });
  else if (name === "h") past.toggle();
  else if (many && view.sheet.whole && rankKey(name, event)) used = true;
  else if (many && ["a2", "a1", "tie", "b1", "b2", "both_bad"].includes(BY_KEY[name])) used = false;
  else if (BY_KEY[name]) press(BY_KEY[name]);
  else used = false;
  if (used) event.preventDefault();
}

// -- swiping: to the left A, to the right B, as the arrow keys do; what it would say is shown before it is said ---------

const SWIPE = { shows: 50, votes: 120, slant: 0.5 };
let swipe = null;

function swiped(touch) {
  const x = touch.clientX - swipe.x, y = touch.clientY - swipe.y;
  return Math.abs(y) > SWIPE.slant * Math.abs(x) ? 0 : x;
}

$(".answers").addEventListener("touchstart", (event) => {
  const one = event.touches.length === 1 && view.sheet?.answers.length === 2 && !isField(event.target) && !event.target.closest("pre, table");
  swipe = one ? { x: event.touches[0].clientX, y: event.touches[0].clientY, sheet: view.sheet.id } : null;
}, { passive: true });
$(".answers").addEventListener("touchmove", (event) => {
  const x = swipe ? swiped(event.touches[0]) : 0;
  const far = Math.abs(x) > SWIPE.shows;
  $(".swipe").hidden = !far;
  $(".swipe").textContent = x < 0 ? "← A better" : "B better →";
  $(".swipe").classList.toggle("sure", Math.abs(x) > SWIPE.votes);
}, { passive: true });
for (const name of ["touchend", "touchcancel"]) $(".answers").addEventListener(name, (event) => {
  $(".swipe").hidden = true;
  const x = swipe && name === "touchend" && swipe.sheet === view.sheet?.id ? swiped(event.changedTouches[0]) : 0;
  swipe = null;
  if (Math.abs(x) > SWIPE.votes) press(x < 0 ? "a1" : "b1");
}, { passive: true });

// -- the page ---------------------------------------------------------------------------------------------------

$(".tools").append(...TOOLS.map(([name, label, key]) => button(name, label, key)), make("span", { className: "hint", role: "note" }));
$(".legend").append(...LEGEND.map(([key, meaning]) => make("div", {}, make("dt", {}, make("kbd", {}, key)), make("dd", {}, meaning))));
for (const name of ["more", "reveal", "prepare"]) $(`[data-do=${name}]`).addEventListener("click", () => press(name));
$(".composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const area = $(".composer textarea");
  const reply = await act({ do: "type", text: area.value });
  if (!reply.wrong) {
    area.value = "";
    // Whoever types several keeps typing: a letter must never become a vote. In a chat the answers come next.
    if (view.compose === "chat") area.blur();
    else say("Queued. Press Esc to vote with keys again.");
  }
});
$(".rater").addEventListener("toggle", () => { if ($(".rater").open) act({ do: "profile" }); });
sendOnEnter($(".composer"));
document.addEventListener("keydown", onKey);
open();
