// Raise `tick` again and again while somebody can see the panel; where the server tells a stamp, only as it comes into
// sight and whenever that stamp has changed.
let seen;
const beat = async () => {
  if (!element.isConnected) return clearInterval(timer);
  if (document.hidden || !element.offsetParent) return (seen = undefined);
  if (server.stamp) {
    const now = await server.stamp({});
    if (now === seen) return;
    seen = now;
  }
  trigger("tick");
};
// A look that fails, because the app has ended, is repeated; the page says meanwhile that nobody answers.
const answered = (yes) => document.documentElement.classList.toggle("app-gone", !yes);
const timer = setInterval(() => beat().then(() => answered(true), () => answered(false)), 1000 * SECONDS);
