// The bar at the bottom of a phone. In scope: element (Gradio's), and lead.js.
const more = element.querySelector(".more"), rest = element.querySelector(".rest");
const open = (on) => { rest.hidden = !on; more.setAttribute("aria-expanded", String(on)); };
document.body.dataset.tab ||= location.hash.slice(1) || "rate";
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button === more) return open(rest.hidden);
  open(false);
  lead(button.dataset);
  scrollTo({ top: 0 });
});
// The name of the model, in the header, leads to where another one is loaded.
document.addEventListener("click", (event) => {
  const name = event.target.closest("#status [data-go]");
  if (name) lead(name.dataset);
});
document.addEventListener("click", (event) => { if (!element.contains(event.target)) open(false); });
