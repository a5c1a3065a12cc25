// A list with buttons, of runs or of what waits: one listener for all of them, and the focus stays on the one pressed.
let pressed = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  pressed = button.dataset;
  trigger("click", { do: pressed.do, run: pressed.run });
});
watch("value", () => {
  if (!pressed || document.activeElement !== document.body) return;
  const again = `button[data-do="${pressed.do === "unqueue" ? "unqueue" : "show"}"][data-run="${pressed.run}"]`;
  element.querySelector(again)?.focus();
  pressed = null;
});
