// Ranking three to six answers: levels of places, best first; places on one level are tied. Knows no server.

/** Keep a ranking in `node` and call `changed` whenever it changes. */
function ranking(node, words, changed) {
  let levels = [];
  let count = 0;
  let tieNext = false;
  let dragged = null;

  const without = (place) => levels.map((level) => level.filter((p) => p !== place)).filter((level) => level.length);
  const set = (next) => { levels = next; draw(); changed(); };

  /** Put a place on a level of its own in front of the `at`-th level; `at` counts levels as they are shown. */
  function insert(place, at) {
    const marked = levels.map((level) => level.filter((p) => p !== place));
    marked.splice(at, 0, [place]);
    set(marked.filter((level) => level.length));
  }
  /** Tie a place with those of a level. */
  function tie(place, at) {
    const next = levels.map((level, i) => (i === at ? [...level.filter((p) => p !== place), place] : level.filter((p) => p !== place)));
    set(next.filter((level) => level.length));
  }

  const self = {
    start(answers) { count = answers; levels = []; tieNext = false; draw(); },
    /** The next best, or out again where it stands already. */
    pick(place) {
      if (place >= count) return;
      if (levels.flat().includes(place)) { tieNext = false; return set(without(place)); }
      const tied = tieNext && levels.length;
      tieNext = false;
      if (tied) tie(place, levels.length - 1);
      else insert(place, levels.length);
    },
    tieNext() { if (levels.length && levels.flat().length < count) { tieNext = true; draw(); changed(); } },
    takeBack() {
      if (tieNext) { tieNext = false; return set(levels); }
      const last = levels.at(-1);
      if (last) set(without(last.at(-1)));
    },
    isPlaced: (place) => levels.flat().includes(place),
    get left() { return count - levels.flat().length; },
    get tying() { return tieNext; },
    /** Ranks by place; those not placed share the last one. */
    ranks() {
      return Array.from({ length: count }, (_, place) => {
        const at = levels.findIndex((level) => level.includes(place));
        return (at < 0 ? levels.length : at) + 1;
      });
    },
    drag(place, element) {
      element.addEventListener("dragstart", (event) => {
        dragged = place;
        event.dataTransfer.effectAllowed = "move";
        event.dataTransfer.setData("text/plain", String(place + 1));
      });
      element.addEventListener("dragend", () => { dragged = null; });
    },
  };

  function target(element, drop) {
    element.addEventListener("dragover", (event) => {
      if (dragged === null) return;
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      if (dragged !== null) drop(dragged);
      dragged = null;
    });
    return element;
  }

  function chip(place, at) {
    const button = make("button", { type: "button", className: "chip", draggable: true, "data-place": place,
      "aria-label": `Answer ${place + 1}, rank ${at + 1}; arrow keys move it, equals ties it with the one before` },
      make("b", {}, String(place + 1)), make("span", { className: "first" }, words(place)));
    button.addEventListener("click", () => self.pick(place));
    button.addEventListener("keydown", (event) => {
      const alone = levels[at].length === 1;
      if (event.key === "ArrowLeft") alone ? at && insert(place, at - 1) : insert(place, at);
      else if (event.key === "ArrowRight") insert(place, alone ? at + 2 : at + 1);
      else if (event.key === "=" && at && alone) tie(place, at - 1);
      else return;
      event.preventDefault();
      event.stopPropagation();
      node.querySelector(`[data-place="${place}"]`)?.focus();
    });
    self.drag(place, button);
    return button;
  }

  function draw() {
    const gap = (at) => target(make("li", { className: "gap", "aria-hidden": "true" }, at && at < levels.length ? ">" : ""), (place) => insert(place, at));
    const items = [gap(0)];
    levels.forEach((level, at) => {
      const boxes = level.flatMap((place, i) => (i ? ["=", chip(place, at)] : [chip(place, at)]));
      items.push(target(make("li", { className: "level" }, ...boxes), (place) => tie(place, at)), gap(at + 1));
    });
    if (!levels.length) {
      items[0].style.flex = "none";
      items.push(target(make("li", { className: "faint", style: "flex:1" }, PHONE.matches ? "Tap “press 1” … on the answers, best first" : "Press 1, 2, 3 … or drag the answers here, best first"), (place) => insert(place, 0)));
    } else if (tieNext) items.at(-1).textContent = "= …";
    node.replaceChildren(...items);
  }
  draw();
  return self;
}
