// Raise `tick` again and again while somebody can see the panel.
const timer = setInterval(() => {
  if (!element.isConnected) return clearInterval(timer);
  if (!document.hidden && element.offsetParent) trigger("tick");
}, 1000 * SECONDS);
