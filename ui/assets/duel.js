// Blind comparisons. Shows what the server says lies in front of the person, and sends what the person says about it.
// In scope: element and server (Gradio's), and what rate_text.js, rate_keys.js and rate_talk.js define. Who wrote what is
// not known here before the vote: the server tells it in its reply.

const LOOK_MS = { drawing: 200, idle: 1500 };
const KEYS = { ...VERDICT_KEYS, undo: ["u"], type: ["w"] };
const BY_KEY = Object.fromEntries(Object.entries(KEYS).flatMap(([name, keys]) => keys.map((key) => [key, name])));
const TOOLS = [["undo", "Undo", "U"], ["type", "Own prompt", "W"], ["next", "Draw again", ""]];

const root = element.querySelector(".duel");
const $ = (selector) => root.querySelector(selector);

let view = {};
let info = {};
let seen = "";
const guard = voteGuard();

const { act, shown, busy, open } = talk({
  root,
  reach: (payload) => server.duel_ask(payload),
  show,
  looking: () => ({ stamp: view.stamp, shelf: view.shelf, duel: view.duel }),
  pause: () => LOOK_MS[pace()],
});

function pace() {
  const drawing = (view.sheet && !view.sheet.whole) || (view.duel && !view.sheet) || (view.job?.by && !view.job.ended);
  return drawing ? "drawing" : "idle";
}

// -- showing ----------------------------------------------------------------------------------------------------

function show(reply) {
  const ended = view.job?.by && !view.job.ended;
  if ("sheet" in reply) view = reply;
  for (const name of ["board", "standing", "machines", "undoable", "choices", "names", "teaches", "last"]) if (name in reply) info[name] = reply[name];
  if (reply.said !== undefined) say(reply.said, reply.wrong);
  if ("last" in reply) drawLast();
  if ("choices" in reply) drawChoices();
  for (const name of ["board", "standing", "machines"]) if (name in reply) $(`.${name}`).innerHTML = reply[name];
  $(".board").hidden = !info.board;
  $(".standing").hidden = !info.standing;
  $(".setup").hidden = Boolean(view.duel);
  $(".arena").hidden = !view.duel;
  $(".said.alone").hidden = Boolean(view.duel);
  if (view.duel) {
    drawSheet();
    drawJudges();
  }
  drawButtons();
  if (ended && view.job?.ended) act({ do: "open" }); // the judge is done: what it said comes to the figures
}

function say(words, wrong = false) {
  for (const node of root.querySelectorAll(".said")) {
    node.querySelector(".words").textContent = words;
    node.classList.toggle("wrong", Boolean(wrong));
  }
}

/** Tell who wrote the answers that were voted on last. */
function drawLast() {
  const sources = info.last?.sources;
  if (!sources) return $(".last").replaceChildren();
  const parts = sources.flatMap((name, i) => [i ? ", " : "", `${LETTERS[i]} was `, make("b", {}, name)]);
  return $(".last").replaceChildren(...parts);
}

function drawChoices() {
  const { choices } = info;
  const before = [...root.querySelectorAll(".who :checked")].map((node) => node.value).filter((name) => [...choices.contestants, ...choices.checkpoints].includes(name));
  const chosen = before.length ? before : choices.usual;
  const tick = (name) => make("label", { className: "tick" },
    make("input", { type: "checkbox", value: name, checked: chosen.includes(name) }), name === "base" ? " the base model" : ` ${name}`);
  $(".who .adapters").replaceChildren(...choices.contestants.map(tick));
  $(".who .steps").replaceChildren(...choices.checkpoints.map(tick));
  $(".who details").hidden = !choices.checkpoints.length;
  if (choices.checkpoints.some((name) => chosen.includes(name))) $(".who details").open = true;
  $(".before").innerHTML = choices.earlier;
  $(".names").textContent = info.names.join(" against ");
  $(".kept").textContent = info.teaches ? "sides dealt at random, named after the vote" : "sides dealt at random, named after the vote; kept from training";
}

function drawSheet() {
  const sheet = view.sheet;
  const now = JSON.stringify([sheet, view.wait]);
  if (now === seen) return;
  const fresh = root.dataset.sheet !== (sheet ? sheet.id : "") || !root.querySelector(".answer");
  if (fresh) {
    $(".answers").replaceChildren(...[0, 1].map((place) => make("section", { className: "answer", "aria-label": `Answer ${LETTERS[place]}` },
      make("header", {}, LETTERS[place]), make("div", { className: "text", tabIndex: 0 }))));
    if (sheet) converse($(".prompt"), sheet.prompt);
    else $(".prompt").replaceChildren(make("span", { className: "faint" }, view.wait || "One moment …"));
  }
  root.querySelectorAll(".answer").forEach((box, place) => fill(box, sheet, place));
  if (sheet?.whole && root.dataset.whole !== sheet.id) arm(sheet);
  root.dataset.sheet = sheet ? sheet.id : "";
  seen = now;
}

function fill(box, sheet, place) {
  const body = box.querySelector(".text");
  box.setAttribute("aria-busy", String(Boolean(sheet && !sheet.whole && !sheet.problem)));
  if (sheet?.whole && sheet.answers[place].trim()) return write(body, sheet.answers[place], sheet.html[place]);
  let words = "Writing …";
  if (sheet?.whole) words = "(an empty answer)";
  else if (sheet?.problem) words = `${sheet.problem}. Draw again, or choose other adapters.`;
  else if (view.wait) words = view.wait;
  return body.replaceChildren(make("span", { className: "faint" }, place && !sheet?.whole ? "" : words));
}

function arm(sheet) {
  root.dataset.whole = sheet.id;
  guard.arm();
  setTimeout(drawButtons, ARM_MS + 5);
}

const look = beyondSight(root);
keepLastTurn($(".prompt"));

function drawButtons() {
  look();
  const sheet = view.sheet;
  const ready = Boolean(sheet?.whole);
  root.querySelectorAll(".verdicts button").forEach((node) => { node.disabled = !ready; });
  $("[data-do=undo]").disabled = !info.undoable;
  $("[data-do=next]").hidden = !sheet?.problem;
  let hint = view.ahead ? `${view.ahead} more ready` : "";
  if (ready && view.stuck) hint = view.wait;
  if (ready && sheet.equal) hint = "Both answers are the same: 3 calls it a tie.";
  $(".hint").textContent = hint;
  root.dataset.state = !view.duel ? "setup" : ready ? (guard.waits ? "shown" : "ready") : "drawing";
}

function drawJudges() {
  const job = view.job || {};
  const working = Boolean(job.by && !job.ended);
  const now = JSON.stringify([job, info.choices?.judges]);
  if ($(".judges").dataset.now === now) return;
  $(".judges").dataset.now = now;
  const called = (name) => (name === "script" ? "the scripted judge" : name);
  const parts = (info.choices?.judges || []).map((name) => {
    const node = make("button", { type: "button", disabled: working, "data-judge": name }, `Let ${called(name)} vote`);
    node.addEventListener("click", () => act({ do: "judge", by: name }));
    return node;
  });
  if (working) {
    const stop = make("button", { type: "button" }, "Stop");
    stop.addEventListener("click", () => act({ do: "stop" }));
    const bar = make("progress", { max: job.total || 1, value: job.done, "aria-label": "Answers written" });
    parts.push(stop, bar, make("span", { role: "status" }, job.total ? `${called(job.by)}: ${job.done} of ${job.total} answers` : "waits for the engine …"));
  }
  if (job.problem) parts.push(make("span", { className: "bad", role: "alert" }, job.problem));
  if (!parts.length) parts.push(make("span", { className: "faint" }, "No reward model on this base yet."));
  $(".judges").replaceChildren(...parts);
}

// -- what keys and buttons do -----------------------------------------------------------------------------------

function button(name, label, key) {
  const node = make("button", { type: "button", "data-do": name }, label, " ", key ? make("kbd", { "aria-hidden": "true" }, key) : null);
  node.addEventListener("click", (event) => press(name, event));
  return guard.focusless(node);
}

/** Do what a button says, if it can be done now: what is pressed while another is at work was meant for what is gone, but
 * for leaving. */
function press(name, click = null) {
  const node = root.querySelector(`[data-do="${name}"]`);
  const allowed = !isVerdict(name) || guard.allows(click);
  if ((busy() && name !== "leave") || !allowed || !node || node.disabled || node.hidden) return;
  if (isVerdict(name)) act({ do: "vote", sheet: view.sheet.id, verdict: name });
  else if (name === "undo" || name === "leave") act({ do: name });
  else if (name === "next") act({ do: name, sheet: view.sheet.id });
  else if (name === "begin") {
    const names = [...root.querySelectorAll(".who :checked")].map((box) => box.value);
    act({ do: "begin", names: names.reverse(), teaches: $(".teaches").checked }); // the newest stands on the left of the bar
  }
  else if (name === "type") {
    $(".composer").hidden = !$(".composer").hidden;
    if (!$(".composer").hidden) $(".composer textarea").focus();
  }
}

function onKey(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onKey);
  if (!view.duel || !shown() || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || composing(event) || guard.held(event)) return;
  if (isField(event.target)) {
    if (event.key === "Escape" && root.contains(event.target)) event.target.blur();
    return;
  }
  const name = nameOf(event);
  // Arrows belong to what moves by them: tabs.
  if (name.includes("Arrow") && event.target.closest("[role=tab], input[type=radio]")) return;
  if (!BY_KEY[name]) return;
  press(BY_KEY[name]);
  event.preventDefault();
}

// -- the page ---------------------------------------------------------------------------------------------------

$(".verdicts").append(...VERDICTS.map(([name, label, key]) => button(name, label, key)));
$(".under .tools").append(...TOOLS.map(([name, label, key]) => button(name, label, key)), make("span", { className: "hint", role: "note" }));
for (const name of ["begin", "leave"]) $(`[data-do=${name}]`).addEventListener("click", () => press(name));
$(".before").addEventListener("click", (event) => {
  const node = event.target.closest("[data-duel]");
  if (node) act({ do: "go_on", duel: Number(node.dataset.duel) });
});
$(".standing").addEventListener("click", (event) => {
  const pressed = event.target.closest("button")?.dataset || {};
  if (pressed.keep) act({ do: "keep", name: pressed.keep });
  if (pressed.adopt) act({ do: "adopt", name: pressed.adopt });
  if (pressed.go) lead(pressed);
});
$(".composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const area = $(".composer textarea");
  const reply = await act({ do: "type", text: area.value });
  if (!reply.wrong) area.value = "";
});
sendOnEnter($(".composer"));
document.addEventListener("keydown", onKey);
open();
