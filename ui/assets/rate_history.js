// Earlier votes: a table to look at them and to change them. Knows only how to ask: `act({ do, … })`.

/** Keep the table in `node`, a <details>; it is read when it is opened. */
function pastVotes(node, act) {
  const LETTERS = ["A", "B", "C", "D", "E", "F"];
  const WORDS = [["a2", "A much better"], ["a1", "A better"], ["tie", "Tie"], ["b1", "B better"], ["b2", "B much better"], ["both_bad", "Both bad"], ["skip", "Skipped"]];
  let page = 0;
  let coming = false; // opened by a key: what it shows is brought into sight
  const open = new Set();

  node.addEventListener("toggle", () => { if (node.open) act({ do: "history", page }); });

  const change = (row, verdict) => act({ do: "change", kind: row.kind, id: row.id, verdict, page });

  function verdictOf(row) {
    if (row.verdict) {
      const select = make("select", { "aria-label": "Verdict" }, ...WORDS.map(([value, label]) => make("option", { value }, label)));
      select.value = row.verdict;
      select.addEventListener("change", () => change(row, select.value));
      return select;
    }
    const fields = row.ranks.map((value, i) => make("label", {}, `${row.labels[i]} `,
      make("input", { type: "number", min: "1", max: String(row.ranks.length), value: String(value), style: "width:52px" })));
    fields.forEach((field) => field.addEventListener("change", () => {
      const ranks = fields.map((own) => Math.max(1, Number(own.querySelector("input").value) || row.ranks.length));
      change(row, ranks);
    }));
    return make("span", { className: "controls" }, ...fields);
  }

  function detail(row) {
    const boxes = row.answers.map((answer, i) => {
      const text = make("div", { className: "text", dir: "auto", tabIndex: 0 });
      write(text, answer, row.html[i]);
      return make("div", {}, make("b", {}, row.labels[i]), make("span", { className: "faint" }, ` from ${row.sources[i]}`), text);
    });
    const whole = make("div", { className: "prompt" });
    converse(whole, row.prompt);
    const more = [row.words, row.again ? "asked again" : "", row.reasons.join(", "), row.note].filter(Boolean).join(" · ");
    const cell = make("td", { colSpan: 4 }, whole, make("div", { className: "detail" }, ...boxes), make("p", { className: "faint" }, more));
    return make("tr", { hidden: !open.has(`${row.kind}${row.id}`) }, cell);
  }

  function line(row) {
    const below = detail(row);
    const key = `${row.kind}${row.id}`;
    const look = make("button", { type: "button", className: "quiet", "aria-expanded": String(!below.hidden) }, "View");
    look.addEventListener("click", () => {
      below.hidden = !below.hidden;
      look.setAttribute("aria-expanded", String(!below.hidden));
      if (below.hidden) open.delete(key);
      else open.add(key);
    });
    const back = make("button", { type: "button", className: "quiet" }, "Undo");
    back.addEventListener("click", () => act({ do: "take_back", kind: row.kind, id: row.id, page }));
    const asked = make("div", { className: "short", dir: "auto", title: row.prompt.at(-1).content }, row.prompt.at(-1).content);
    const when = new Date(row.when);
    const time = make("time", { dateTime: row.when, title: when.toLocaleString() },
      clock(when, when.toDateString() !== new Date().toDateString()));
    return [make("tr", {}, make("td", {}, time), make("td", {}, asked), make("td", {}, verdictOf(row)), make("td", {}, make("span", { className: "controls" }, look, back))), below];
  }

  return {
    get isOpen() { return node.open; },
    get page() { return page; },
    toggle() { node.open = !node.open; coming = node.open; },
    show(history) {
      page = history.page;
      const head = make("tr", {}, ...["When", "Prompt", "Verdict", ""].map((name) => make("th", { scope: "col" }, name)));
      const turn = (by, label) => {
        const button = make("button", { type: "button", className: "quiet", disabled: page + by < 0 || page + by >= history.pages }, label);
        button.addEventListener("click", () => act({ do: "history", page: page + by }));
        return button;
      };
      const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...history.rows.flatMap(line)));
      const paging = make("div", { className: "paging" }, turn(-1, "Newer"), `page ${page + 1} of ${history.pages}, ${history.count} in all`, turn(1, "Older"));
      if (coming) requestAnimationFrame(() => node.scrollIntoView({ block: "start", behavior: "smooth" }));
      coming = false;
      node.querySelector(".pages").replaceChildren(...(history.count ? [table, paging] : [make("p", { className: "faint" }, "Nothing was rated in this workspace yet.")]));
    },
  };
}
