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

/** Fill an element with an answer; what stands between ``` fences is shown as code. */
function write(node, text) {
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
    write(text, turn.content);
    const who = turns.length > 1 ? make("div", { className: "who" }, names[turn.role] || turn.role) : null;
    return make("div", { className: "turn" }, who, text);
  }));
  node.scrollTop = turns.length > 1 ? node.scrollHeight : 0;
}
