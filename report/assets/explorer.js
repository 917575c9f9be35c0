// The latent explorer of the report page. Everything comes from this file: no request leaves it.
// A place u holds standard deviations along all principal axes; the sliders are its first entries; z is the code.
const $ = (id) => document.getElementById(id);
const unpacked = (id) => unlzma(bytesOf($(id).textContent));
const data = JSON.parse(new TextDecoder().decode(unpacked("explorer-data")));
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const [mean, axes, std, places] = [data.mean, data.axes, data.std, data.places].map(floats);
const d = mean.length, k = data.directions, side = 32, area = side * side;
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
function placeAt(z) { // the inverse of codeOf at the temperature 1
  return Float32Array.from({ length: d }, (_, i) => z.reduce((sum, v, j) => sum + (v - mean[j]) * axes[i * d + j], 0) / std[i]);
}
function gaussian() { // Box and Muller
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

// --- the networks ------------------------------------------------------------------------------------------------

async function startEngine() {
  const source = new Blob([unpacked("explorer-engine")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(source));
  ort.env.wasm.numThreads = 1; // more need headers that a file does not have
  ort.env.wasm.wasmBinary = unpacked("explorer-wasm");
  const weights = unpacked("explorer-decoder");
  const session = (graph, tensors) => { // the bytes of a graph and those of weights are one file, see rounded.py
    const head = bytes(data.graphs[graph]), whole = new Uint8Array(head.length + tensors.length);
    whole.set(head);
    whole.set(tensors, head.length);
    // Two graphs share the weights of the decoder, and without the last option each warns of those that the other needs.
    return ort.InferenceSession.create(whole, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  };
  return { session, weights, Tensor: ort.Tensor, reader: await session("read", weights) };
}
function drawer(image) { // image: red, green and blue planes of 0 to 1
  const shown = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = Math.round(255 * image.data[c * area + i]);
    shown.data[4 * i + 3] = 255;
  }
  return (canvas) => canvas.getContext("2d").putImageData(shown, 0, 0);
}
const readBy = (engine) => async (z) => {
  const { image, belief, size, nearest } = await engine.reader.run({ z: new engine.Tensor("float32", z, [1, d]) });
  return { draw: drawer(image), belief: belief.data, size: size.data[0], nearest: Number(nearest.data[0]) };
};
let paintSharp = async () => {}; // (z, canvas): the picture of the perceptual decoder, once that is unpacked
async function beginSharp(engine) {
  const decoder = await engine.session("sharp", unpacked("explorer-sharp"));
  paintSharp = async (z, canvas) => drawer((await decoder.run({ z: new engine.Tensor("float32", z, [1, d]) })).image)(canvas);
  await redraw();
}
function tile(canvas, sheet, at) {
  const [x, y] = [at % data.columns, Math.floor(at / data.columns)];
  canvas.getContext("2d").drawImage(sheet, x * side, y * side, side, side, 0, 0, side, side);
}

// --- what is seen ------------------------------------------------------------------------------------------------

let sheet, read, u = placeOf(0);
const temperatureNow = () => Number($("ex-temperature").value);
let home; // what *reset* goes back to: { place (d), deviation of its posterior (d) or null, start: its number or -1 }
function show(found) {
  for (const id of ["ex-image", "ex-map-image"]) found.draw($(id));
  $("ex-size").textContent = found.size.toFixed(1);
  tile($("ex-nearest"), sheet, found.nearest);
  let best = 0;
  document.querySelectorAll(".explorer-result tr").forEach((row, i) => {
    if (found.belief[i] > found.belief[best]) best = i;
    row.querySelector("meter").value = found.belief[i];
    row.querySelector(".explorer-percent").textContent = `${(100 * found.belief[i]).toFixed(0)} %`;
  });
  const words = `${data.classes[best]} with ${(100 * found.belief[best]).toFixed(0)} %`;
  $("ex-image").setAttribute("aria-label", `Decoded image; the classifier believes: ${words}`);
  $("ex-brief").textContent = `${words}, ${found.size.toFixed(1)} bytes`;
}
function latest(work) { // runs `work` once at a time; of the calls that come meanwhile only the last one counts
  let busy = false, again = false;
  return async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do { again = false; await work(); } while (again);
    } finally { busy = false; }
  };
}
const redraw = latest(async () => {
  const z = codeOf(u, temperatureNow());
  show(await read(z));
  await paintSharp(z, $("ex-sharp"));
});
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
  drawMap();
  return redraw();
}
function cool(temperature) {
  if (temperatureNow() === temperature) return;
  $("ex-temperature").value = temperature;
  label($("ex-temperature"));
  thumbnails(base);
}
function wander(place) { // to a code that no image has
  $("ex-start").value = "";
  $("ex-origin-figure").style.visibility = "hidden";
  posterior = null;
  thumbnails(place);
  return moveTo(place);
}
function setOut(from) { // a new home
  home = from;
  const image = home.start < 0 ? -1 : data.tiles[home.start];
  $("ex-start").value = home.start < 0 ? "" : String(home.start);
  $("ex-origin-figure").style.visibility = image < 0 ? "hidden" : "visible";
  if (image >= 0) tile($("ex-origin"), sheet, image);
  cool(1);
  posterior = home.deviation && home;
  thumbnails(home.place);
  return moveTo(home.place);
}
function startAt(index) {
  const deviation = data.tiles[index] < 0 ? null : deviations.subarray(index * d, (index + 1) * d);
  return setOut({ place: placeOf(index), deviation, start: index });
}
let asked = 0, base = u;
async function thumbnails(place) { // what each slider leads to at its ends, from here
  const mine = ++asked, temperature = temperatureNow();
  base = place;
  for (let i = 0; i < k; i++) {
    for (const end of ["min", "max"]) {
      const there = Float32Array.from(place);
      there[i] = Number(sliders[i][end]);
      const found = await read(codeOf(there, temperature));
      await new Promise((rest) => setTimeout(rest)); // a slider that moves meanwhile goes first
      if (mine !== asked) return;
      found.draw($(`ex-${i}-${end}`));
    }
  }
}

// --- the state as a link -----------------------------------------------------------------------------------------

const MARK = "#explorer?";
let waiting, written;
function remember() { // the address holds the code, so that a reload and a copy of the address find it again
  clearTimeout(waiting);
  waiting = setTimeout(() => { // not for every step of a slider: browsers allow so many changes in a minute
    const thousandths = new Uint8Array(Int16Array.from(u, (v) => Math.round(1000 * Math.min(32, Math.max(-32, v)))).buffer);
    const state = new URLSearchParams({ start: $("ex-start").value, temperature: $("ex-temperature").value, place: btoa(String.fromCharCode(...thousandths)) });
    written = MARK + state;
    history.replaceState(null, "", written);
  }, 100);
}
function placeIn(text) { // null where it is none
  try {
    const thousandths = new Int16Array(bytes(text).buffer);
    return thousandths.length === d ? Float32Array.from(thousandths, (v) => v / 1000) : null;
  } catch { return null; }
}
async function restore() { // the state of an address, or the usual beginning; what makes no sense in it is left out
  const marked = location.hash.startsWith(MARK), wanted = new URLSearchParams(marked ? location.hash.slice(MARK.length) : "");
  const known = wanted.get("start") && data.tiles[Number(wanted.get("start"))] !== undefined;
  await startAt(known ? Number(wanted.get("start")) : recognisable());
  const temperature = Number(wanted.get("temperature") ?? 1), place = placeIn(wanted.get("place") ?? "");
  if (Number.isFinite(temperature)) cool(temperature);
  await (place && !known ? wander(place) : moveTo(place ?? u));
  if (marked) body.scrollIntoView();
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
    drawMap();
    redraw();
    remember();
  }));
  $("ex-temperature").addEventListener("input", (event) => { label(event.target); drawMap(); redraw(); remember(); });
  $("ex-temperature").addEventListener("change", () => thumbnails(base));
  $("ex-class").addEventListener("change", (event) => { onlyClass(event.target.value); remember(); });
  $("ex-start").addEventListener("change", (event) => { startAt(Number(event.target.value)); remember(); });
  $("ex-random").addEventListener("click", () => { wander(u.map(gaussian)); remember(); });
  $("ex-reset").addEventListener("click", () => { setOut(home); remember(); });
  // Other links of the page, and the way back from them, leave the explorer as it is.
  addEventListener("hashchange", () => location.hash.startsWith(MARK) && location.hash !== written && restore());
  document.querySelectorAll(".explorer input[type=range]").forEach((input) => { // a touch that becomes a scroll changes nothing
    let before;
    input.addEventListener("pointerdown", () => { before = input.value; });
    input.addEventListener("pointercancel", () => { input.value = before; input.dispatchEvent(new Event("input")); });
  });
  liveMap();
  $("ex-morph").addEventListener("input", (event) => { label(event.target); redrawMorph(); });
  for (const id of ["ex-from", "ex-to"]) $(id).addEventListener("change", redrawMorph);
}

let begun = false;
async function begin() {
  if (begun) return;
  begun = true;
  sheet = await picture(data.sheet);
  try {
    if (!globalThis.WebAssembly) throw new Error("no WebAssembly in this browser");
    say("The decoder starts …");
    await new Promise((painted) => setTimeout(painted, 50)); // unpacking it takes a moment in which nothing is painted
    const engine = await startEngine();
    read = readBy(engine);
    live();
    $("ex-to").selectedIndex = $("ex-to").options.length - 1;
    await restore();
    await redrawMorph();
    say("Live: the networks run in this page, and nothing leaves it. The picture follows every slider at once; arrow keys work.");
    body.dataset.engine = "decoder";
    await new Promise((painted) => setTimeout(painted, 300)); // the first picture comes before the rest is unpacked
    if (data.graphs.sharp) await beginSharp(engine).catch(() => {
      paintSharp = async () => {};
      document.querySelectorAll(".explorer-second").forEach((part) => part.remove());
    });
    await beginOwn(engine).catch((error) => { $("ex-own").textContent = `The encoder cannot run here (${error.message}).`; });
  } catch (error) {
    asked++; // stops the thumbnails
    document.querySelectorAll(".explorer-panels, .explorer-box").forEach((part) => part.remove());
    say(`The decoder cannot run here (${error.message}); the figure below shows what the sliders do.`);
    body.dataset.engine = "none";
  }
}
body.hidden = false;
const near = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) { near.disconnect(); begin(); }
}, { rootMargin: "600px" });
location.hash.startsWith(MARK) ? begin() : near.observe(body);
