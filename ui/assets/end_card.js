// The card at the end of a run: a slider over the steps, buttons that lead on, and a picture to keep.
// In scope: element (Gradio's), and lead.js.
const show = (slider) => {
  const at = Number(slider.value);
  const step = slider.dataset.steps.split(",")[at];
  slider.nextElementSibling.textContent = slider.dataset.names.split("|")[at];
  element.querySelectorAll(".pair").forEach((pair) => { pair.hidden = pair.dataset.step !== step; });
};
element.addEventListener("input", (event) => event.target.matches("input[type=range]") && show(event.target));

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("picture")) return save();
  lead(button.dataset);
});

// -- the picture: words laid out by hand, so that nothing but a canvas is needed --------------------------------
const WIDTH = 1200, EDGE = 48, GAP = 32, LINE = 28;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

// Words of an element with the colour each stands on, "" for none.
const wordsOf = (node, tint = "") => [...node.childNodes].flatMap((child) => {
  if (child.nodeType === Node.TEXT_NODE) return child.textContent.split(/\s+/).filter(Boolean).map((word) => [word, tint]);
  if (child.matches(".cut, .place, .score")) return [];
  return wordsOf(child, child.tagName === "DEL" ? "#fde2e2" : child.tagName === "INS" ? "#d1f5e4" : tint);
});

// Draw words into a column from y on; returns where the next line would stand. Without `draw` it only measures.
const lay = (pen, words, x, y, width, draw, most = 14) => {
  let at = x, lines = 1;
  for (const [word, tint] of words) {
    const long = pen.measureText(`${word} `).width;
    if (at > x && at + long > x + width) {
      if (lines === most) { if (draw) pen.fillText("…", at, y); break; }
      at = x; y += LINE; lines += 1;
    }
    if (draw) {
      const ink = pen.fillStyle;
      if (tint) { pen.fillStyle = tint; pen.fillRect(at - 2, y - 20, long, 26); pen.fillStyle = ink; }
      pen.fillText(word, at, y, width);
    }
    at += long;
  }
  return y + LINE;
};

const paint = (pen, card, draw) => {
  const column = (WIDTH - 2 * EDGE - GAP) / 2;
  const ink = (color, font) => { pen.fillStyle = color; pen.font = `${font} ${FONT}`; };
  ink("#0f172a", "600 30px");
  if (draw) pen.fillText(`${card.dataset.run}: before and after`, EDGE, 72);
  ink("#475569", "400 20px");
  let y = lay(pen, wordsOf(card.querySelector(".figures")), EDGE, 112, WIDTH - 2 * EDGE, draw);
  for (const example of card.querySelectorAll("article")) {
    const pair = [...example.querySelectorAll(".pair")].find((one) => !one.hidden);
    ink("#0f172a", "600 20px");
    y = lay(pen, wordsOf(example.querySelector(".asked")), EDGE, y + 28, WIDTH - 2 * EDGE, draw, 3) + 6;
    ink("#334155", "400 19px");
    const ends = [".before", ".after"].map((side, i) => {
      const x = EDGE + i * (column + GAP);
      if (draw) { pen.fillStyle = i ? "#0f766e" : "#94a3b8"; pen.fillRect(x - 14, y - 20, 4, LINE); pen.fillStyle = "#334155"; }
      return lay(pen, wordsOf(pair.querySelector(`${side} p`)), x, y, column, draw);
    });
    y = Math.max(...ends);
  }
  ink("#64748b", "400 16px");
  if (draw) pen.fillText("Left before, right after training on one person's votes. Made with lorarlhf.", EDGE, y + 24);
  return y + 56;
};

const save = () => {
  const card = element.querySelector(".end-card"), canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = paint(canvas.getContext("2d"), card, false);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  paint(pen, card, true);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${card.dataset.run}-before-after.png`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
};
