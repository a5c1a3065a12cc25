// The charts of a run and of those it is compared with. `props.value` is what the server read of their rows, as JSON;
// smoothing, scale and zoom are the page's own. In scope: element, props, trigger, watch and server (Gradio's), and
// what charts_draw.js defines.

const board = element.querySelector(".board");
const find = (name) => board.querySelector(name);
const view = { smooth: 0.6, log: false, zoom: null, at: null };
let data = { runs: [], others: [], charts: [], all: false };
let figures = [];

function take() {
  const before = data.runs.map((run) => run.id).join();
  data = props.value ? JSON.parse(props.value) : { runs: [], others: [], charts: [], all: false };
  board.hidden = !data.runs.length;
  if (before.split(",")[0] !== (data.runs[0]?.id ?? "")) view.zoom = null;
  find(".all").checked = data.all;
  board.classList.toggle("several", data.runs.length > 1);
  chips();
  draw();
}

/** The runs in the charts, each in its colour, and those that can join them. */
function chips() {
  const chip = (run, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = index < 0 ? "" : `run${index}`;
    button.dataset.run = run.id;
    button.setAttribute("aria-pressed", index >= 0);
    button.disabled = index === 0;
    button.innerHTML = `<i aria-hidden="true"></i>${safe(run.name)}`;
    button.title = index === 0 ? "The run shown above" : `${index < 0 ? "Compare with" : "Leave out"} ${run.name}`;
    return button;
  };
  const held = document.activeElement?.closest?.(".compare") && document.activeElement.dataset.run;
  const label = Object.assign(document.createElement("span"), { textContent: data.others.length || data.runs.length > 1 ? "Compare" : "" });
  find(".compare").replaceChildren(label, ...data.runs.map(chip), ...data.others.map((run) => chip(run, -1)));
  if (held) [...find(".compare").children].find((button) => button.dataset.run === held)?.focus();
}

function draw() {
  const box = find(".charts");
  while (figures.length > data.charts.length) figures.pop().remove();
  while (figures.length < data.charts.length) {
    const figure = document.createElement("figure");
    figure.className = "chart";
    figure.innerHTML = `<figcaption></figcaption><svg viewBox="0 0 ${BOX.wide} ${BOX.high}" role="img"></svg>`;
    figures.push(figure);
    box.append(figure);
  }
  data.charts.forEach((chart, i) => show(figures[i], chart));
  const last = Math.max(1, ...data.charts.map((chart) => chart.last));
  for (const [name, step] of [["from", view.zoom?.[0] ?? 0], ["to", view.zoom?.[1] ?? last]]) {
    if (document.activeElement !== find(`.${name}`)) find(`.${name}`).value = step;
  }
  find(".whole").disabled = !view.zoom;
}

function show(figure, chart) {
  const plan = layout(chart, view);
  figure.plan = plan;
  const linear = view.log && !plan.log && plan.marks.length ? "<span class='note'>linear: values below 0</span>" : "";
  figure.title = chart.help || "";
  figure.querySelector("figcaption").innerHTML = `<b>${safe(chart.title)}</b>${linear}${legend(chart, view)}`;
  const svg = figure.querySelector("svg");
  svg.setAttribute("aria-label", words(chart));
  svg.innerHTML = body(chart, view, plan);
}

// -- looking closer -----------------------------------------------------------------------------------------------

function zoom(from, to) {
  const last = Math.max(1, ...data.charts.map((chart) => chart.last));
  [from, to] = [Math.max(0, Math.min(from, to)), Math.min(last, Math.max(from, to))];
  view.zoom = to - from < 1 || (from <= 0 && to >= last) ? null : [from, to];
  draw();
}

let drag = null;
const stepAt = (event, svg) => {
  const { from, to } = svg.closest("figure").plan, frame = svg.getBoundingClientRect();
  const x = ((event.clientX - frame.left) / frame.width) * BOX.wide;
  const share = (x - BOX.left) / (BOX.wide - BOX.left - BOX.right);
  return Math.round(from + Math.max(0, Math.min(1, share)) * (to - from));
};

find(".charts").addEventListener("pointerdown", (event) => {
  const svg = event.target.closest("svg");
  if (!svg || event.button) return;
  drag = { svg, from: stepAt(event, svg), x: event.clientX };
  svg.setPointerCapture(event.pointerId);
});
find(".charts").addEventListener("pointermove", (event) => {
  const svg = event.target.closest("svg");
  const step = svg ? stepAt(event, svg) : null;
  if (step === view.at) return;
  view.at = step;
  draw();
  if (!drag || step === null) return;
  const { X } = drag.svg.closest("figure").plan;
  const [left, right] = [X(drag.from), X(step)].sort((a, b) => a - b);
  if (X) drag.svg.insertAdjacentHTML("beforeend", `<rect class="chosen" x="${left}" width="${right - left}" y="${BOX.top}" height="${BOX.high - BOX.top - BOX.bottom}"/>`);
});
find(".charts").addEventListener("pointerup", (event) => {
  const began = drag;
  drag = null;
  if (began && Math.abs(event.clientX - began.x) > 8) zoom(began.from, stepAt(event, began.svg));
});
find(".charts").addEventListener("pointercancel", () => (drag = null));
find(".charts").addEventListener("pointerleave", () => {
  if (view.at === null || drag) return;
  view.at = null;
  draw();
});
find(".charts").addEventListener("dblclick", () => zoom(0, Infinity));
find(".whole").addEventListener("click", () => zoom(0, Infinity));
find(".zoom").addEventListener("change", () => zoom(Number(find(".from").value) || 0, Number(find(".to").value) || Infinity));

find(".smooth").addEventListener("input", ({ target }) => {
  view.smooth = Number(target.value);
  find("output").textContent = view.smooth.toFixed(2);
  draw();
});
find(".log").addEventListener("change", ({ target }) => {
  view.log = target.checked;
  draw();
});

// -- choosing what is in the charts: the server reads it ------------------------------------------------------------

const ask = (runs, all) => trigger("click", { do: "compare", runs, all });
const compared = () => data.runs.slice(1).map((run) => run.id);
find(".all").addEventListener("change", ({ target }) => ask(compared(), target.checked));
find(".compare").addEventListener("click", (event) => {
  const id = event.target.closest("button")?.dataset.run;
  if (!id) return;
  const now = compared();
  ask(now.includes(id) ? now.filter((other) => other !== id) : [...now, id], data.all);
});

// -- saving ---------------------------------------------------------------------------------------------------------

const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-family", "text-anchor"];
const SCALE = 2, GAP = 12, TITLE = 34, ROW = 15;

/** A chart as it stands, with its colours written into it, as an image. */
async function picture(svg) {
  const copy = svg.cloneNode(true), own = [...svg.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((element, i) => {
    const looks = getComputedStyle(own[i]);
    element.setAttribute("style", STYLES.map((name) => `${name}:${looks.getPropertyValue(name)}`).join(";"));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", BOX.wide * SCALE);
  copy.setAttribute("height", BOX.high * SCALE);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  return image;
}

/** Lay a chart's name and legend out in rows that are no wider than the chart. */
function inRows(pen, family, figure, title) {
  const wide = (text, font) => Object.assign(pen, { font: `${font} ${family}` }).measureText(text).width;
  const found = [{ text: title, font: "600 11px", along: 0, row: 0 }];
  let along = wide(title, "600 11px") + 10, row = 0;
  for (const span of figure.querySelectorAll("figcaption > span")) {
    const mark = span.querySelector("i"), text = span.textContent, dot = mark ? wide("● ", "10px") : 0;
    const whole = dot + wide(text, "10px") + 8;
    if (along + whole > BOX.wide) [along, row] = [0, row + 1];
    if (mark) found.push({ text: "● ", font: "10px", colour: getComputedStyle(mark).backgroundColor, along, row });
    found.push({ text, font: "10px", along: along + dot, row });
    along += whole;
  }
  return found;
}

/** All charts on one sheet, with their names and legends. */
async function sheet() {
  const columns = figures.length > 1 ? 2 : 1, rows = Math.ceil(figures.length / columns);
  const looks = getComputedStyle(figures[0]), ink = getComputedStyle(figures[0].querySelector("figcaption"));
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const entries = figures.map((figure, i) => inRows(pen, ink.fontFamily, figure, data.charts[i].title));
  const head = ROW * Math.max(...entries.map((some) => some[some.length - 1].row + 1)) + 8;
  const wide = columns * (BOX.wide + GAP) + GAP, high = TITLE + rows * (head + BOX.high + GAP) + GAP;
  Object.assign(canvas, { width: wide * SCALE, height: high * SCALE });
  pen.scale(SCALE, SCALE);
  pen.fillStyle = looks.backgroundColor;
  pen.fillRect(0, 0, wide, high);
  const write = (text, x, y, font, colour) => {
    Object.assign(pen, { font: `${font} ${ink.fontFamily}`, fillStyle: colour });
    pen.fillText(text, x, y);
  };
  write(data.runs.map((run) => run.name).join(", "), GAP, 22, "600 14px", ink.color);
  for (const [i, figure] of figures.entries()) {
    const x = GAP + (i % columns) * (BOX.wide + GAP), y = TITLE + Math.floor(i / columns) * (head + BOX.high + GAP);
    for (const { text, font, colour, along, row } of entries[i]) write(text, x + along, y + ROW * (row + 1), font, colour || ink.color);
    pen.drawImage(await picture(figure.querySelector("svg")), x, y + head, BOX.wide, BOX.high);
  }
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function save(blob, ending) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${data.runs.map((run) => run.id).join("-")}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  find(".said").textContent = `Saved ${link.download}`;
}

find(".save").addEventListener("click", async (event) => {
  const kind = event.target.closest("button")?.dataset.save;
  if (!kind) return;
  find(".said").textContent = "";
  try {
    if (kind === "png") save(await sheet(), "png");
    else save(new Blob([await server.numbers_csv({ runs: data.runs.map((run) => run.id) })], { type: "text/csv" }), "csv");
  } catch {
    find(".said").textContent = "That could not be saved. Is the app still running?";
  }
});

watch("value", take);
take();
