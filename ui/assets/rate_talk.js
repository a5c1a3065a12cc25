// How a page on which people vote talks to the server: one action after the other, and looks in between.
// In scope: element (Gradio's).

const HIDDEN_MS = 400; // Between two glances at whether the page can be seen again.

/** Say how many lines of the answers lie below what can be seen, and scroll there when asked; → look again. */
function beyondSight(root) {
  const pill = root.querySelector(".beyond");
  const LINE = 24;
  function look() {
    const answers = root.querySelector(".answers");
    if (!root.isConnected || root.offsetParent === null || !answers) return;
    const below = answers.getBoundingClientRect().bottom - root.querySelector(".deck").getBoundingClientRect().top;
    const lines = Math.round(below / LINE);
    pill.hidden = lines < 1;
    if (lines >= 1) pill.textContent = `↓ ${lines} more line${lines > 1 ? "s" : ""}`;
  }
  pill.addEventListener("click", () => { pill.blur(); window.scrollBy({ top: window.innerHeight * 0.6, behavior: "smooth" }); });
  addEventListener("scroll", look, { passive: true });
  addEventListener("resize", look);
  new ResizeObserver(look).observe(root.querySelector(".answers"));
  return look;
}

/** Keep the last turn of a conversation in sight, whatever takes room from it. */
function keepLastTurn(node) {
  new ResizeObserver(() => { if (node.children.length > 1) node.scrollTop = node.scrollHeight; }).observe(node);
}

/** Talk through `reach`. `show` gets every reply, `looking` says what a look asks for, `pause` the ms until the next. */
function talk({ root, reach, show, looking, pause }) {
  let acting = false;
  let epoch = 0; // grows with every action: a look that was under way says nothing new then
  let timer = 0;
  const shown = () => root.offsetParent !== null && !document.hidden;

  async function ask(payload) {
    const lost = { said: "The app does not answer. Is it still running?", wrong: true };
    try {
      return (await reach(payload)) || lost;
    } catch {
      return lost;
    }
  }

  /** Do something and show what comes next. */
  async function act(payload) {
    while (acting) await new Promise((done) => setTimeout(done, 20));
    acting = true;
    epoch += 1;
    const reply = await ask(payload);
    acting = false;
    show(reply);
    return reply;
  }

  async function look() {
    clearTimeout(timer);
    if (!element.isConnected) return;
    if (shown()) measure();
    if (shown() && !acting) {
      const before = epoch;
      const reply = await ask({ do: "look", ...looking() });
      if (before === epoch && !acting) show(reply);
    }
    timer = setTimeout(look, shown() ? pause() : HIDDEN_MS);
  }

  /** Tell the style sheet how much of the window is left below the header. */
  function measure() {
    const top = `${Math.round(root.getBoundingClientRect().top + window.scrollY)}px`;
    if (root.style.getPropertyValue("--rate-top") !== top) root.style.setProperty("--rate-top", top);
  }

  /** Ask for everything, and look from then on. */
  function open() {
    document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
    measure();
    act({ do: "open" }).then(look);
  }

  return { ask, act, shown, open, busy: () => acting };
}

/** Let Enter send what stands in a form's text area; Shift Enter begins a line. */
function sendOnEnter(form) {
  form.querySelector("textarea").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
