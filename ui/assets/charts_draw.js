// Draw series as SVG: pure functions of numbers. Colours are classes of train.css, so both themes follow.

// A chart shows at least this share of its largest value: less would make a drama of nothing.
const MEANINGFUL = 0.04;
const BOX = { wide: 340, high: 170, left: 40, right: 10, top: 8, bottom: 22 };
const DIGIT = 6.3; // Width of a figure of the axis, at its size of 11 px; signs and dots are narrower.

/** Room to the left of a chart: as much as its widest label takes. */
const roomFor = (labels) => Math.max(BOX.left, Math.ceil(9 + DIGIT * Math.max(...labels.map((text) => text.length))));

/** Average each point with those before it, older ones counting ever less; the weights of the first few add up to 1. */
function smoothed(points, inertia) {
  let total = 0, weight = 0;
  return points.map(([x, y]) => {
    total = inertia * total + y;
    weight = inertia * weight + 1;
    return [x, total / weight];
  });
}

/** List round numbers from at or below `low` to at or above `high`; two at least. */
function ticks(low, high, most = 5) {
  if (high - low < 1e-9 * Math.max(1, Math.abs(low))) {
    const spread = Math.abs(low) * 0.1 || 1;
    [low, high] = [low - spread, high + spread];
  }
  const rough = (high - low) / (most - 1), unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 2.5, 5, 10].find((factor) => unit * factor >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** The same on a log scale: powers of ten, thinned where they are many; 1, 2 and 5 times them where they are few. */
function logTicks(low, high) {
  const first = Math.floor(Math.log10(low) + 1e-9), last = Math.max(first + 1, Math.ceil(Math.log10(high) - 1e-9));
  const every = Math.ceil((last - first) / 5), found = [];
  for (let power = first; power <= last; power += every) {
    found.push(10 ** power);
    if (last - first <= 2 && power < last) found.push(2 * 10 ** power, 5 * 10 ** power);
  }
  if (found[found.length - 1] < high) found.push(10 ** (last + every - ((last - first) % every || every)));
  while (found.length > 2 && found[1] <= low) found.shift();
  while (found.length > 2 && found[found.length - 2] >= high) found.pop();
  return found;
}

/** Write a number as shortly as a reader needs it. */
function shown(value, percent = false) {
  if (percent) return `${(100 * value).toFixed(Math.abs(value) >= 0.1 ? 0 : 1).replace(/\.0$/, "")} %`.replace(/^-0 /, "0 ").replace("-", "−");
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replaceAll("-", "−");
  const text = value.toFixed(Math.min(5, value ? Math.max(0, 2 - Math.floor(Math.log10(size))) : 0));
  return (text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace("-", "−");
}

/** Label the marks of an axis, all in one way, with as many digits as tell them apart. */
function labels(marks, percent = false, log = false) {
  const largest = Math.max(...marks.map(Math.abs)), unit = percent ? 100 : 1;
  if (log) return marks.map((mark) => shown(mark, percent));
  if (percent || (largest >= 0.01 && largest < 1e5)) {
    const near = 0.01 * unit * Math.abs(marks[1] - marks[0]);
    const exact = (digits) => marks.every((mark) => Math.abs(Number((mark * unit).toFixed(digits)) - mark * unit) < near);
    const digits = [0, 1, 2, 3, 4, 5, 6].find(exact) ?? 6;
    return marks.map((mark) => `${(mark * unit).toFixed(digits).replace("-", "−")}${percent ? " %" : ""}`);
  }
  return marks.map((mark) => (mark ? Number(mark.toPrecision(3)).toExponential().replace("+", "").replaceAll("-", "−") : "0"));
}

const safe = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** Find what a line says at a step: its point there, else the one before. */
function at(points, step) {
  let low = 0, high = points.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    points[mid][0] <= step ? (low = mid + 1) : (high = mid);
  }
  return points[low - 1];
}

/** What is drawn of a chart: its lines in the steps from..to, and how numbers become places. */
function layout(chart, view) {
  const [from, to] = view.zoom || [0, Math.max(1, chart.last)];
  const inside = ([x]) => x >= from && x <= to;
  const all = chart.lines.flatMap((line) => line.points.filter(inside).map(([, y]) => y));
  const log = view.log && all.filter((y) => y > 0).length >= all.length / 2 && all.some((y) => y > 0);
  const lines = chart.lines.map((line) => {
    const points = log ? line.points.filter(([, y]) => y > 0) : line.points;
    const soft = line.style === "main" && line.smooth && view.smooth > 0 && points.length > 2;
    const near = (some) => {
      // One point beyond each edge, so that a line leaves the box instead of ending in it.
      const first = some.findIndex(inside), last = some.findLastIndex(inside);
      return first < 0 ? [] : some.slice(Math.max(0, first - 1), last + 2);
    };
    return { ...line, raw: near(points), soft: soft ? near(smoothed(points, view.smooth)) : null };
  });
  const seen = lines.flatMap((line) => line.raw.filter(inside).map(([, y]) => y));
  if (!seen.length) return { from, to, lines, log, marks: [] };
  let low = Math.min(...seen), high = Math.max(...seen);
  const least = MEANINGFUL * Math.max(Math.abs(low), Math.abs(high));
  if (!log && high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
  if (!log) {
    if (chart.low !== null && chart.low !== undefined) low = Math.min(low, chart.low);
    if (chart.high !== null && chart.high !== undefined) high = Math.max(high, chart.high);
  }
  const marks = log ? logTicks(low, high) : ticks(low, high);
  const place = log ? Math.log10 : (y) => y;
  const bottom = place(marks[0]), top = place(marks[marks.length - 1]);
  const said = labels(marks, chart.percent, log), left = roomFor(said);
  const X = (x) => left + ((x - from) / (to - from)) * (BOX.wide - left - BOX.right);
  const Y = (y) => BOX.high - BOX.bottom - ((place(y) - bottom) / (top - bottom)) * (BOX.high - BOX.top - BOX.bottom);
  return { from, to, lines, log, marks, said, left, X, Y };
}

const path = ({ X, Y }, points) => "M" + points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join("L");

function strokes(plan, line) {
  if (!line.raw.length) return "";
  const kind = `${line.style} run${line.run}`;
  if (line.style === "heldout") { // measured now and then: the measurements are what counts
    const dots = line.raw.map(([x, y]) => `<circle r="2.6" cx="${plan.X(x).toFixed(1)}" cy="${plan.Y(y).toFixed(1)}"/>`);
    return `<g class="${kind}"><path d="${path(plan, line.raw)}"/>${dots.join("")}</g>`;
  }
  if (line.raw.length === 1) {
    const [[x, y]] = line.raw;
    return `<circle class="${kind}" r="2.5" cx="${plan.X(x).toFixed(1)}" cy="${plan.Y(y).toFixed(1)}"/>`;
  }
  if (!line.soft) return `<path class="${kind}" d="${path(plan, line.raw)}"/>`;
  return `<path class="${kind} faint" d="${path(plan, line.raw)}"/><path class="${kind}" d="${path(plan, line.soft)}"/>`;
}

let boxes = 0;

/** Write the inside of a chart's SVG. */
function body(chart, view, plan = layout(chart, view)) {
  if (!plan.marks.length) {
    const words = chart.lines.some((line) => line.points.length) ? "nothing measured in these steps" : "nothing measured yet";
    return `<text class="empty" x="${BOX.wide / 2}" y="${BOX.high / 2}">${words}</text>`;
  }
  const right = BOX.wide - BOX.right, floor = BOX.high - BOX.bottom, clip = `box-${(boxes += 1)}`;
  const { said, left } = plan;
  const grid = plan.marks.map((mark, i) => {
    const y = plan.Y(mark);
    return `<path class="grid" d="M${left},${y.toFixed(1)}H${right}"/>`
      + `<text class="y" x="${left - 5}" y="${(y + 3.5).toFixed(1)}">${said[i]}</text>`;
  });
  const ends = `<text class="x first" x="${left}" y="${BOX.high - 6}">${shown(plan.from)}</text>`
    + `<text class="x" x="${right}" y="${BOX.high - 6}">step ${plan.to.toLocaleString("en")}</text>`;
  const frame = `<clipPath id="${clip}"><rect x="${left - 4}" y="${BOX.top - 4}" width="${right - left + 8}" height="${floor - BOX.top + 8}"/></clipPath>`;
  const lines = plan.lines.map((line) => strokes(plan, line)).join("");
  const cursor = view.at !== null && view.at >= plan.from && view.at <= plan.to
    ? `<path class="cursor" d="M${plan.X(view.at).toFixed(1)},${BOX.top}V${floor}"/>` : "";
  return `${frame}${grid.join("")}${ends}<g clip-path="url(#${clip})">${lines}</g>${cursor}`;
}

/** Say what each line is, and its newest number, or the one at the step pointed at. */
function legend(chart, view) {
  return chart.lines.filter((line) => line.points.length).map((line) => {
    const point = view.at === null ? line.points[line.points.length - 1] : at(line.points, view.at);
    const value = point ? shown(point[1], chart.percent) : "–";
    return `<span class="${line.style} run${line.run}"><i aria-hidden="true"></i>${safe(line.label)} <b>${value}</b></span>`;
  }).join("");
}

/** The chart in words, for who does not see it. */
function words(chart) {
  const newest = chart.lines.filter((line) => line.points.length).map((line) => {
    const [step, value] = line.points[line.points.length - 1];
    return `${line.label} ${shown(value, chart.percent)}${line.style === "limit" ? "" : ` at step ${step}`}`;
  });
  return `${chart.title}: ${newest.join(", ") || "nothing measured yet"}. ${chart.help || ""}`.trim();
}
