// Tell the app when a reward model's figures are in front of somebody: only then have they been looked at.
let told = "";
const look = () => {
  if (!element.isConnected) return clearInterval(timer);
  if (document.hidden || !element.offsetParent) return;
  const name = element.querySelector(".health[data-adapter]")?.dataset.adapter || "";
  if (name && name !== told) server.seen({ adapter: name }).then(() => { told = name; }, () => {});
};
const timer = setInterval(look, 700);
