// A figure is a button that shows it in a dialog, as wide as the window. Esc, a click or a button closes it; the browser
// gives the focus back. Made here, so that without JavaScript there is a figure and no button.
const dialog = document.createElement("dialog");
dialog.className = "enlarged";
dialog.setAttribute("aria-label", "Enlarged figure");
dialog.innerHTML = `<p><button type="button" aria-pressed="false">Full size</button>
<button type="button" autofocus>Close</button></p><figure></figure>`;
document.body.append(dialog);
const size = dialog.querySelector("button"); // on a phone the window is narrower than the picture: then it scrolls
const setSize = (full) => size.setAttribute("aria-pressed", String(full));
dialog.addEventListener("click", (event) => {
  if (event.target === size) setSize(size.getAttribute("aria-pressed") !== "true");
  else dialog.close();
});
for (const image of document.querySelectorAll("figure:not(.explorer *) > img")) {
  const figure = image.parentElement, button = document.createElement("button");
  Object.assign(button, { type: "button", className: "picture", title: "Enlarge" });
  button.setAttribute("aria-haspopup", "dialog");
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    dialog.querySelector("figure").replaceChildren(image.cloneNode(), figure.querySelector("figcaption").cloneNode(true));
    dialog.style.setProperty("--natural", `${image.naturalWidth}px`);
    setSize(false);
    dialog.showModal();
    dialog.scrollTo(0, 0);
    size.hidden = image.naturalWidth <= dialog.clientWidth;
  });
}
// Where the contents do not stand beside the text (page.css: 84rem), they start folded.
const contents = document.querySelector("nav");
if (innerWidth < 1344) contents?.querySelector("details").removeAttribute("open");
// The contents mark the section being read: the last one whose heading is above the upper quarter of the window.
const links = [...(contents?.querySelectorAll("a") ?? [])];
const headings = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
let current;
function mark() {
  const end = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2; // a short last section
  const last = end ? links.length - 1 : headings.findLastIndex((heading) => heading.getBoundingClientRect().top < innerHeight / 4);
  if (links[last] === current) return;
  current?.removeAttribute("aria-current");
  current = links[last];
  if (!current) return; // above the first heading
  current.setAttribute("aria-current", "true");
  const box = contents.getBoundingClientRect(), link = current.getBoundingClientRect();
  if (link.top < box.top || link.bottom > box.bottom) contents.scrollTop += link.top - box.top - box.height / 2;
}
addEventListener("scroll", mark, { passive: true });
mark();
