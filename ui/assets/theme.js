// Light or dark by a button; chosen once, it stays. In scope: element (Gradio's).
const KEPT = "lorarlhf theme";
const dark = (on) => document.body.classList.toggle("dark", on);
if (!new URLSearchParams(location.search).has("__theme") && localStorage.getItem(KEPT)) dark(localStorage.getItem(KEPT) === "dark");
element.querySelector(".theme").addEventListener("click", () => {
  const on = !document.body.classList.contains("dark");
  localStorage.setItem(KEPT, on ? "dark" : "light");
  dark(on);
});
