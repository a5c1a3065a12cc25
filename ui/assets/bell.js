// Tell through the browser that a run ended, once the person asked for that with the button. Works without: the page
// says it anyway. It asks the server by itself, and wherever the person is: nothing else looks for runs out of sight.
// In scope: element, props, server and watch (Gradio's).
const button = () => element.querySelector(".bell button");
const known = () => element.querySelector(".bell")?.dataset ?? {};
let last = known().ended;

function show() {
  if (!button()) return;
  const state = "Notification" in window ? Notification.permission : "absent";
  button().hidden = state !== "default";
  const words = { granted: "This browser notifies you when a run ends", denied: "This browser blocks notifications of this page" };
  element.querySelector(".bell [role=status]").textContent = words[state] ?? "";
}

function look() {
  const { ended, words, about } = known();
  show();
  if (last === undefined || last === ended) return (last = ended);
  last = ended;
  if (!ended || !("Notification" in window) || Notification.permission !== "granted") return;
  try {
    new Notification(words, { body: about, tag: ended }).onclick = () => window.focus();
  } catch {
    // Phones only let a service worker notify; the page itself says it.
  }
}

element.addEventListener("click", async (event) => {
  if (!event.target.closest(".bell button")) return;
  await Notification.requestPermission();
  show();
});
watch("value", () => setTimeout(look));
look();

const timer = setInterval(async () => {
  if (!element.isConnected) return clearInterval(timer);
  if (!("Notification" in window) || Notification.permission !== "granted") return;
  const now = await server.ended({}).catch(() => props.value);  // the app is just ending
  if (now !== props.value) props.value = now;
}, 2000);
