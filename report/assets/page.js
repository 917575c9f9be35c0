// A click (or Enter) on a figure shows it twice as large; it then scrolls sideways.
for (const button of document.querySelectorAll(".picture")) {
  const image = button.querySelector("img");
  button.addEventListener("click", () => {
    button.style.setProperty("--width", `${image.naturalWidth / 2}px`);
    button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
  });
}
// Where the contents do not stand beside the text (page.css: 84rem), they start folded.
if (innerWidth < 1344) document.querySelector("nav details")?.removeAttribute("open");
