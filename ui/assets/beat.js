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
// A look that fails, because the app is just ending, is simply repeated.
const timer = setInterval(() => beat().catch(() => {}), 1000 * SECONDS);
