// What can be said about two answers, and by which keys; for every page on which people vote.

const LETTERS = ["A", "B", "C", "D", "E", "F"];
const ARM_MS = 300; // What is pressed this soon after a pair appeared was meant for the one before.
const DOUBLE_MS = 500; // A click this soon after another is the second half of a double click.
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

/**
 * Name a key. Digits of the main block go by their place, so that layouts with shifted digits work; those of the number
 * pad only where it writes digits. Letters go by what they write, those of other alphabets by their place.
 */
function nameOf(event) {
  const digit = /^Digit([0-9])$/.exec(event.code);
  if (digit && !event.shiftKey) return `Digit${digit[1]}`;
  if (/^Numpad[0-9]$/.test(event.code) && /^[0-9]$/.test(event.key)) return `Digit${event.key}`;
  if (event.key === "?") return "?";
  const place = /^Key([A-Z])$/.exec(event.code);
  const foreign = place && /^\p{L}$/u.test(event.key) && !/^\p{Script=Latin}$/u.test(event.key);
  const key = foreign ? place[1].toLowerCase() : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.shiftKey && key !== "=" ? `S-${key}` : key;
}

/** Tell whether a key belongs to an input method that is composing a word; Safari says so only by its number. */
const composing = (event) => event.isComposing || event.keyCode === 229;

/** Guard what votes: tell whether a key or click can be meant for the pair shown, and leave no button in focus. */
function voteGuard() {
  let armedAt = 0;
  let clickedAt = -Infinity;
  return {
    /** A new pair has appeared. */
    arm() { armedAt = performance.now() + ARM_MS; },
    get waits() { return performance.now() < armedAt; },
    /** `event` is the click that asks for it, or nothing for a key. */
    allows(event) {
      const now = performance.now();
      const byMouse = event && event.detail > 0; // a button pressed by Enter or Space clicks with 0
      const second = byMouse && (event.detail > 1 || now - clickedAt < DOUBLE_MS);
      if (byMouse) {
        clickedAt = now;
        event.currentTarget.blur(); // or Space and Enter would vote again
      }
      return !second && now >= armedAt;
    },
    /** Keep a mouse from putting a button in focus, even where the page moves under it between press and release. */
    focusless(node) {
      node.addEventListener("mousedown", (event) => {
        event.preventDefault();
        document.activeElement?.blur?.();
      });
      return node;
    },
    /** Keep a key that is held down from pressing a button again and again. */
    held(event) {
      if (event.repeat && event.target.closest?.(".verdicts")) event.preventDefault();
      return event.repeat;
    },
  };
}
