// A panel whose buttons lead to a tab. In scope: element (Gradio's), and lead.js.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-go]");
  if (button) lead(button.dataset);
});
