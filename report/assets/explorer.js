// The latent explorer of the report page. Everything comes from this file: no request leaves it.
// A place u holds standard deviations along all principal axes; the sliders are its first entries; z is the code.
const $ = (id) => document.getElementById(id);
const unpacked = (id) => unlzma(bytesOf($(id).textContent));
const data = JSON.parse(new TextDecoder().decode(unpacked("explorer-data")));
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const [mean, axes, std, places] = [data.mean, data.axes, data.std, data.places].map(floats);
const d = mean.length, k = data.directions, side = 32;
const sliders = Array.from({ length: k }, (_, i) => $(`ex-${i}`));
const body = document.querySelector(".explorer-body"), state = document.querySelector(".explorer-state");
const say = (text) => { state.textContent = text; };
const picture = async (text) => {
  const image = new Image();
  image.src = `data:image/webp;base64,${text}`;
  await image.decode();
  return image;
};

// --- codes -------------------------------------------------------------------------------------------------------

const placeOf = (start) => places.slice(start * d, (start + 1) * d);
function codeOf(u, temperature = 1) {
  const z = Float32Array.from(mean);
  for (let i = 0; i < d; i++) {
    const length = temperature * u[i] * std[i];
    for (let j = 0; j < d; j++) z[j] += length * axes[i * d + j];
  }
  return z;
}
const norm = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
function slerp(a, b, t) { // the same arc as helpers.priors.slerp
  const [m, n] = [norm(a), norm(b)];
  const cosine = Math.min(1, Math.max(-1, a.reduce((sum, x, i) => sum + x * b[i], 0) / (m * n)));
  const angle = Math.acos(cosine);
  if (Math.sin(angle) < 1e-4) return a.map((x, i) => (1 - t) * x + t * b[i]);
  const length = ((1 - t) * m + t * n) / Math.sin(angle);
  const [p, q] = [length * Math.sin((1 - t) * angle) / m, length * Math.sin(t * angle) / n];
  return a.map((x, i) => p * x + q * b[i]);
}
function gaussian() { // Box and Muller
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

// --- the decoder -------------------------------------------------------------------------------------------------

async function decoder() {
  const source = new Blob([unpacked("explorer-engine")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(source));
  ort.env.wasm.numThreads = 1; // more need headers that a file does not have
  ort.env.wasm.wasmBinary = unpacked("explorer-wasm");
  const session = await ort.InferenceSession.create(unpacked("explorer-model"), { executionProviders: ["wasm"] });
  return async (z) => {
    const { image, belief, size, nearest } = await session.run({ z: new ort.Tensor("float32", z, [1, d]) });
    const shown = new ImageData(side, side), area = side * side;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) shown.data[4 * i + c] = Math.round(255 * image.data[c * area + i]);
      shown.data[4 * i + 3] = 255;
    }
    return { draw: (canvas) => canvas.getContext("2d").putImageData(shown, 0, 0), belief: belief.data,
      size: size.data[0], nearest: Number(nearest.data[0]) };
  };
}
function tile(canvas, sheet, at) {
  const [x, y] = [at % data.columns, Math.floor(at / data.columns)];
  canvas.getContext("2d").drawImage(sheet, x * side, y * side, side, side, 0, 0, side, side);
}

// --- what is seen ------------------------------------------------------------------------------------------------

let sheet, read, u = placeOf(0), start = 0;
function show(found) {
  found.draw($("ex-image"));
  $("ex-size").textContent = found.size.toFixed(1);
  tile($("ex-nearest"), sheet, found.nearest);
  let best = 0;
  document.querySelectorAll(".explorer-belief tr").forEach((row, i) => {
    if (found.belief[i] > found.belief[best]) best = i;
    row.querySelector("meter").value = found.belief[i];
    row.querySelector(".explorer-percent").textContent = `${(100 * found.belief[i]).toFixed(0)} %`;
  });
  const words = `${data.classes[best]} with ${(100 * found.belief[best]).toFixed(0)} %`;
  $("ex-image").setAttribute("aria-label", `Decoded image; the classifier believes: ${words}`);
}
function latest(work) { // runs `work` once at a time; of the calls that come meanwhile only the last one counts
  let busy = false, again = false;
  return async () => {
    if (busy) { again = true; return; }
    busy = true;
    do { again = false; await work(); } while (again);
    busy = false;
  };
}
const redraw = latest(async () => show(await read(codeOf(u, Number($("ex-temperature").value)))));
const redrawMorph = latest(async () => {
  const [from, to] = [$("ex-from"), $("ex-to")].map((select) => Number(select.value));
  const found = await read(slerp(codeOf(placeOf(from)), codeOf(placeOf(to)), Number($("ex-morph").value)));
  found.draw($("ex-between"));
  tile($("ex-left"), sheet, data.tiles[from]);
  tile($("ex-right"), sheet, data.tiles[to]);
});
function label(input) {
  const digits = input.step.includes(".05") || input.step.includes(".02") ? 2 : 1;
  input.closest("p").querySelector("output").textContent = Number(input.value).toFixed(digits).replace("-", "−");
}
function moveTo(place) {
  u = Float32Array.from(place);
  sliders.forEach((slider, i) => { slider.value = u[i]; label(slider); });
  return redraw();
}
function startAt(index) {
  start = index;
  $("ex-start").value = String(index);
  const image = data.tiles[index];
  $("ex-origin-figure").style.visibility = image < 0 ? "hidden" : "visible";
  $("ex-temperature").value = 1;
  label($("ex-temperature"));
  if (image >= 0) tile($("ex-origin"), sheet, image);
  return moveTo(placeOf(index));
}
function recognisable() { // a test image, a horse where there is one: a mean code is a grey blur
  const horse = [...$("ex-start").options].findIndex((option) => option.text.startsWith("horse, test image"));
  return horse >= 0 ? horse : Math.max(0, data.tiles.findIndex((tile) => tile >= 0));
}
function onlyClass(name) {
  const options = [...$("ex-start").options];
  options.forEach((option) => { option.hidden = option.disabled = Boolean(name) && option.dataset.class !== name; });
  return startAt(Number(options.find((option) => !option.disabled).value));
}

function live() {
  sliders.forEach((slider, i) => slider.addEventListener("input", () => {
    u[i] = Number(slider.value);
    label(slider);
    redraw();
  }));
  $("ex-temperature").addEventListener("input", (event) => { label(event.target); redraw(); });
  $("ex-class").addEventListener("change", (event) => onlyClass(event.target.value));
  $("ex-start").addEventListener("change", (event) => startAt(Number(event.target.value)));
  $("ex-random").addEventListener("click", () => {
    $("ex-start").value = ""; // no starting point has this code
    $("ex-origin-figure").style.visibility = "hidden";
    moveTo(u.map(gaussian));
  });
  $("ex-reset").addEventListener("click", () => startAt(start));
  $("ex-morph").addEventListener("input", (event) => { label(event.target); redrawMorph(); });
  for (const id of ["ex-from", "ex-to"]) $(id).addEventListener("change", redrawMorph);
}

async function begin() {
  sheet = await picture(data.sheet);
  try {
    if (!globalThis.WebAssembly) throw new Error("no WebAssembly in this browser");
    say("The decoder starts …");
    await new Promise((painted) => setTimeout(painted, 50)); // unpacking it takes a moment in which nothing is painted
    read = await decoder();
    live();
    $("ex-to").selectedIndex = $("ex-to").options.length - 1;
    await startAt(recognisable());
    await redrawMorph();
    say("Live: the decoder runs in this page. Every slider moves at once; arrow keys work.");
    body.dataset.engine = "decoder";
  } catch (error) {
    document.querySelectorAll(".explorer-panels, .explorer-morph").forEach((part) => part.remove());
    say(`The decoder cannot run here (${error.message}); the figure below shows what the sliders do.`);
    body.dataset.engine = "none";
  }
}
// For tests and the curious: the code of a place, and what the engine makes of a code.
globalThis.latentExplorer = { codeOf, placeOf, slerp, read: (z) => read(z), place: () => u };

body.hidden = false;
const near = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) { near.disconnect(); begin(); }
}, { rootMargin: "600px" });
near.observe(body);
