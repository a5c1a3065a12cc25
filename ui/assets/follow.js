// Keep a box that grows at its end in view of the end, unless the person scrolled away from it.
const left = new WeakSet();
const away = (box) => box.scrollTop + box.clientHeight < box.scrollHeight - 40;
element.addEventListener("scroll", ({ target }) => (away(target) ? left.add(target) : left.delete(target)), true);
new MutationObserver(() => {
  for (const box of element.querySelectorAll(".follow")) if (!left.has(box)) box.scrollTop = box.scrollHeight;
}).observe(element, { childList: true, subtree: true, characterData: true });
