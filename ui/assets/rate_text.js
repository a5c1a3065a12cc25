// Text of models and people, put on the page as text: nothing in it is ever read as HTML.

/** Make an element; strings among the children become text. */
function make(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Write a time as the whole app does: "23:05", with its day "25 Nov 23:05". */
function clock(when, day) {
  const time = when.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return day ? `${when.toLocaleDateString("en-GB", { day: "2-digit", month: "short" })} ${time}` : time;
}

/** Whether texts are shown as the model wrote them, Markdown and all. */
const rawText = {
  get on() { return localStorage.getItem("lorarlhf raw text") === "yes"; },
  toggle() { localStorage.setItem("lorarlhf raw text", this.on ? "no" : "yes"); },
};

/** Fill an element with HTML that the server has made safe; the only place that reads any. */
function showSafe(node, html) {
  node.innerHTML = html;
}

/** Fill an element with an answer: as HTML that the server has made safe, or as it was written. */
function write(node, text, html) {
  if (html && !rawText.on) {
    showSafe(node, `<div class="md">${html}</div>`);
    node.querySelectorAll("pre").forEach((code) => code.append(copier(code.textContent)));
    return;
  }
  writeRaw(node, text);
}

/** Make the button that copies a piece of code. */
function copier(text) {
  const button = make("button", { type: "button", className: "copy", tabIndex: -1, "aria-label": "Copy the code" }, "Copy");
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    button.blur();
    await navigator.clipboard?.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

/** Fill an element with a text as it is; what stands between ``` fences is shown as code. */
function writeRaw(node, text) {
  const parts = [];
  let lines = [];
  let code = false;
  const flush = (fenced) => {
    if (lines.length) parts.push(make(fenced ? "pre" : "div", { dir: fenced ? "ltr" : "auto" }, lines.join("\n")));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (line.trimStart().startsWith("```")) {
      flush(code);
      code = !code;
    } else lines.push(line);
  }
  flush(code);
  node.replaceChildren(...parts);
}

/** Fill an element with a conversation; names stand beside the turns only where there are several. */
function converse(node, turns) {
  const names = { user: "You", assistant: "Answer", system: "Instruction" };
  node.replaceChildren(...turns.map((turn) => {
    const text = make("div", { className: "text", dir: "auto" });
    write(text, turn.content, turn.html);
    const who = turns.length > 1 ? make("div", { className: "who" }, names[turn.role] || turn.role) : null;
    return make("div", { className: "turn" }, who, text);
  }));
  node.scrollTop = turns.length > 1 ? node.scrollHeight : 0;
}
