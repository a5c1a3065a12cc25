// What can be said about two answers, and by which keys; for every page on which people vote.

const LETTERS = ["A", "B", "C", "D", "E", "F"];
const ARM_MS = 300; // A key pressed this soon after a pair appeared was meant for the one before.
const PHONE = matchMedia("(max-width: 700px)");

const VERDICTS = [
  ["a2", "A much better", "1"], ["a1", "A better", "2"], ["tie", "Tie", "3"], ["b1", "B better", "4"],
  ["b2", "B much better", "5"], ["both_bad", "Both bad", "B"], ["skip", "Skip", "S"],
];
const VERDICT_KEYS = { a2: ["Digit1", "S-ArrowLeft"], a1: ["Digit2", "ArrowLeft"], tie: ["Digit3", "t"], b1: ["Digit4", "ArrowRight"],
  b2: ["Digit5", "S-ArrowRight"], both_bad: ["b"], skip: ["s"] };

const isVerdict = (name) => VERDICTS.some(([own]) => own === name);

function isField(node) {
  return Boolean(node?.closest?.("textarea, select, [contenteditable=''], [contenteditable=true], input:not([type=checkbox]):not([type=radio])"));
}

/** Name a key: digits by their place, so that layouts with shifted digits work; letters by what they write. */
function nameOf(event) {
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  if (digit && !event.shiftKey) return `Digit${digit[1]}`;
  if (event.key === "?") return "?";
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.shiftKey && key !== "=" ? `S-${key}` : key;
}
