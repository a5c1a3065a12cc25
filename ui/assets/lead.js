// A button may lead to a tab, and to a section of it; a narrow page keeps the last ones in a menu.
// What a tab holds comes a moment after the tab is opened for the first time: `soon` tries for five seconds.
const soon = (act, tries = 50) => { if (!act() && tries) setTimeout(() => soon(act, tries - 1), 100); };
const pressTab = (within, words) => {
  const tabs = [...document.querySelectorAll(`${within} :is([role=tab], .overflow-dropdown button)`)]
    .filter((tab) => tab.textContent.trim() === words);
  tabs.forEach((tab) => tab.click());
  return tabs.length > 0;
};
// Under Models, open the panel of an adapter; tells whether it is there by now.
const chooseAdapter = (name) => {
  const button = document.querySelector(`#adapters [data-name="${CSS.escape(name)}"]`);
  button?.click();
  return button;
};
const lead = ({ go, section, adapter }) => {
  pressTab("#tabs", go);
  if (section) soon(() => pressTab(`#${go.toLowerCase()}-sections`, section));
  if (adapter) soon(() => chooseAdapter(adapter));
};
