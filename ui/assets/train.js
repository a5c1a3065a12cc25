// The list of runs: one listener for all its buttons, and the focus stays on the one that was pressed.
let pressed = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  pressed = button.dataset;
  trigger("click", { do: pressed.do, run: pressed.run });
});
watch("value", () => {
  if (!pressed || document.activeElement !== document.body) return;
  element.querySelector(`button[data-do="show"][data-run="${pressed.run}"]`)?.focus();
  pressed = null;
});
