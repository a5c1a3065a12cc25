// Keep a panel up to date while it can be seen, and tell which of its rows is chosen.
// The server escapes whatever it writes; nothing changes on the page unless it changed there.
// In scope: element, props, server (Gradio's), and lead.js.
let seen = "";
const mark = () => element.querySelectorAll("[data-name]").forEach((button) => {
  const chosen = button.dataset.name === props.chosen;
  if (button.hasAttribute("aria-pressed")) button.setAttribute("aria-pressed", chosen);
  button.closest("tr, li")?.classList.toggle("chosen", chosen);
});
const look = async () => {
  if (!element.isConnected) return clearInterval(timer);
  if (document.hidden || !element.offsetParent) return;
  const now = await server.look({ seen });
  if (!now) return;
  seen = now.seen;
  props.value = now.html;
  setTimeout(mark);
};
// A look that fails, because the app is just ending, is simply repeated.
const timer = server.look && setInterval(() => look().catch(() => {}), 1000);
element.addEventListener("click", (event) => {
  const name = event.target.closest("[data-name]")?.dataset.name;
  if (name === undefined) return;
  lead(event.target.closest("[data-name]").dataset);
  props.chosen = name;
  setTimeout(mark);
  trigger("pick", { name });
  const opened = () => document.getElementById(props.opens)?.scrollIntoView({ block: "nearest" });
  setTimeout(opened, 400);
});
watch(["value", "chosen"], () => setTimeout(mark));
mark();
