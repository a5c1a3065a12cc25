// A button may lead to a tab, and to a section of it; a narrow page keeps the last ones in a menu.
const lead = ({ go, section }) => {
  const press = (within, words) => document.querySelectorAll(`${within} :is([role=tab], .overflow-dropdown button)`)
    .forEach((tab) => tab.textContent.trim() === words && tab.click());
  press("#tabs", go);
  press(`#${(go || "").toLowerCase()}-sections`, section);
};
