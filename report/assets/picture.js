// Your own picture: a look of the encoder, descent on the picture, and the bytes of the codec, as helpers/codec.py has
// them: the code alone, or the code and the frequencies of what it lacks. Their last step, arithmetic coding, is left out:
// what is shown is the ideal code length, which files written by Python exceed by a few bytes.
const { codec } = data, own = {};
const widthsOf = (text, n) => { // classes of widths, n in each
  const all = Float64Array.from(bytes(text), (b) => 2 ** (b / codec.octaves - 8));
  return Array.from({ length: all.length / n }, (_, i) => all.subarray(i * n, (i + 1) * n));
};
const codeWidths = widthsOf(codec.code, d), detailWidths = widthsOf(codec.detail, 3 * area), colours = floats(codec.colours);
const meanSquare = (widths) => widths[0].map((_, i) => widths.reduce((sum, w) => sum + w[i] ** 2, 0) / widths.length);

// --- trellis and code length, see helpers/trellis.py -------------------------------------------------------------

const FLIP = [0, 1, 2, 3, 4, 5, 6, 7].map((s) => (s >> 1 ^ s >> 2) & 1), SHIFTS = [0, 1, 0.5, 1.5];
const BEFORE = FLIP.map((_, s) => [s >> 1, (s >> 1) + 4]);
const SUBSET = BEFORE.map((pair, s) => pair.map((b) => 2 * (b & 1) + ((s & 1) ^ FLIP[b])));
function quantise(row, joint, weight) {
  const path = row.map(Math.round), seen = [];
  let cost = FLIP.map((_, s) => (s ? Infinity : 0));
  row.forEach((x, axis) => {
    if (!joint[axis]) return;
    const points = SHIFTS.map((shift) => 2 * Math.round((x - shift) / 2) + shift);
    const reached = SUBSET.map((subsets, s) => subsets.map((k, way) => cost[BEFORE[s][way]] + weight[axis] * (points[k] - x) ** 2));
    const ways = reached.map(([a, b]) => (b < a ? 1 : 0));
    cost = reached.map((both) => Math.min(...both));
    seen.push({ axis, points, ways });
  });
  let state = cost.indexOf(Math.min(...cost));
  for (const { axis, points, ways } of seen.reverse()) {
    path[axis] = points[SUBSET[state][ways[state]]];
    state = BEFORE[state][ways[state]];
  }
  return path;
}
function tail(x) { // the probability left of x of a standard normal; for x < 0 within 1.2e-7 of itself [Press et al., Numerical Recipes, erfcc]
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + z / 2);
  const series = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223];
  const half = t * Math.exp(-z * z + series.reduce((sum, term) => sum * t + term)) / 2;
  return x < 0 ? half : 1 - half;
}
function coded(row, widths, step) { // -> the row as it is decoded, and its ideal code length in bits
  const score = (w) => row.reduce((sum, x, i) => sum + x * x / (w[i] ** 2 + step * step * codec.noise) + Math.log(w[i] ** 2 + step * step * codec.noise), 0);
  const scores = widths.map(score), scale = widths[scores.indexOf(Math.min(...scores))].map((w) => w / step);
  const joint = meanSquare(widths).map((square) => Math.sqrt(square) > codec.thinnest * step);
  const price = scale.map((s) => codec.noise / s ** 2);
  const path = quantise(row.map((x, i) => x / step / (1 + price[i])), joint, price.map((p) => 1 + p));
  const bits = path.reduce((sum, p, i) => {
    const [low, high] = [-0.5, 0.5].map((edge) => tail((edge - Math.abs(p)) / scale[i]));
    return sum - Math.log2(Math.max(high - low, 2 ** -24));
  }, Math.log2(widths.length));
  return { row: path.map((p) => p * step), bits };
}

// --- frequencies, see helpers/detail.py --------------------------------------------------------------------------

const waves = Array.from({ length: side }, (_, k) => Float64Array.from({ length: side },
  (_, at) => Math.cos(Math.PI * k * (2 * at + 1) / (2 * side)) * Math.sqrt((k ? 2 : 1) / side)));
function transformed(plane, inverse) { // a plane (side * side) of places into frequencies, or back
  const wave = inverse ? (k, at) => waves[at][k] : (k, at) => waves[k][at];
  const half = new Float64Array(area), out = new Float64Array(area);
  for (let k = 0; k < side; k++) for (let x = 0; x < side; x++) for (let y = 0; y < side; y++) half[k * side + x] += wave(k, y) * plane[y * side + x];
  for (let k = 0; k < side; k++) for (let l = 0; l < side; l++) for (let x = 0; x < side; x++) out[k * side + l] += half[k * side + x] * wave(l, x);
  return out;
}
function detailOf(residual, step) { // residual: planes in the order of coding -> planes as they are decoded, and bits
  const turned = [0, 1, 2].map((c) => transformed(residual[0].map((_, i) => residual.reduce((sum, plane, k) => sum + plane[i] * colours[3 * k + c], 0))));
  const rows = Float64Array.from({ length: 3 * area }, (_, i) => turned[Math.floor(i / area)][i % area]);
  const strength = meanSquare(detailWidths).map(Math.sqrt), order = [...strength.keys()].sort((a, b) => strength[b] - strength[a]);
  const sent = order.slice(0, Math.max(1, strength.filter((s) => s > codec.faintest * step).length));
  const pick = (values) => Float64Array.from(sent, (i) => values[i]), found = coded(pick(rows), detailWidths.map(pick), step);
  const kept = new Float64Array(3 * area);
  sent.forEach((i, at) => { kept[i] = found.row[at]; });
  const back = [0, 1, 2].map((c) => transformed(kept.subarray(c * area, (c + 1) * area), true));
  return { planes: [0, 1, 2].map((k) => back[0].map((_, i) => back.reduce((sum, plane, c) => sum + plane[i] * colours[3 * k + c], 0))), bits: found.bits };
}

// --- one picture -------------------------------------------------------------------------------------------------

function planFor(quality) { // see helpers/quality.py
  const [alone, pixels] = codec.qualities, [fine, rough] = codec.steps, share = (pixels - quality) / (pixels - alone);
  if (quality > alone) return { fineness: codec.fineness, step: Math.round(fine ** (1 - share) * rough ** share) };
  return { fineness: codec.fineness * 5 ** (quality / alone - 1), step: 0 };
}
async function improved(y, x, gradient, turns = 8) { // as in helpers/codec.py, twice its steps: one look is missing
  const spread = meanSquare(codeWidths), variance = codec.sigma ** 2;
  let best = y, least = Infinity, velocity = y.map(() => 0);
  for (let turn = 0; turn <= turns; turn++) {
    const found = await gradient(y, x);
    const loss = found.error / (2 * variance) + y.reduce((sum, v, i) => sum + v * v / spread[i], 0) / 2;
    if (loss < least) [best, least] = [y, loss];
    velocity = velocity.map((v, i) => 0.5 * (v - found.gradient[i] / variance - y[i] / spread[i]));
    y = y.map((v, i) => v + velocity[i]);
  }
  return best;
}
function canvasOf(size) {
  return Object.assign(document.createElement("canvas"), { width: size, height: size });
}
function levelsOf(from, width, height) { // the middle square of a picture as 32x32; halving it step by step averages all pixels
  let size = Math.min(width, height);
  for (;;) {
    const next = Math.max(side, Math.ceil(size / 2)), canvas = canvasOf(next), context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // behind what is transparent
    context.fillRect(0, 0, next, next);
    context.imageSmoothingQuality = "high";
    const scale = next / size; // the whole picture is drawn, for of an SVG without a size no part can be
    context.drawImage(from, (size - width) / 2 * scale, (size - height) / 2 * scale, width * scale, height * scale);
    [from, size, width, height] = [canvas, next, next, next];
    if (next > side) continue;
    const { data: shown } = context.getImageData(0, 0, side, side);
    return Uint8Array.from({ length: 3 * area }, (_, i) => shown[4 * (i % area) + Math.floor(i / area)]);
  }
}
function paint(id, levels) { // levels: red, green, blue planes of 0 to 255
  const shown = new ImageData(side, side);
  for (let i = 0; i < area; i++) shown.data.set([0, 1, 2].map((c) => levels[c * area + i]).concat(255), 4 * i);
  $(id).getContext("2d").putImageData(shown, 0, 0);
}
const comma = (value, digits = 1) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
async function showOwn() { // decode at the chosen quality and say what it costs
  const plan = planFor(Number($("ex-quality").value)), y = coded(own.y, codeWidths, codec.step / plan.fineness);
  const { z } = await own.gradient(Float32Array.from(y.row), own.x), { image } = await own.read(z);
  let levels = Float64Array.from(image, (v) => Math.floor(255 * v + 0.5)), bits = 0;
  if (plan.step) {
    const channel = (values, c) => values.slice(c * area, (c + 1) * area), order = codec.channels;
    const mean = order.map((c) => channel(levels, c));
    const change = detailOf(order.map((c, at) => Float64Array.from(channel(own.levels, c), (v, i) => v - mean[at][i])), plan.step);
    order.forEach((c, at) => mean[at].forEach((v, i) => { levels[c * area + i] = Math.min(255, Math.max(0, Math.floor(v + change.planes[at][i] + 0.5))); }));
    bits = change.bits;
  }
  const error = levels.map((v, i) => v - own.levels[i]), square = error.reduce((sum, e) => sum + e * e, 0) / error.length;
  paint("ex-own-decoded", levels);
  paint("ex-own-error", error.map((e) => 4 * Math.abs(e)));
  Object.assign(own, { z, size: (y.bits + bits) / 8, psnr: 10 * Math.log10(255 ** 2 / square) });
  const words = (length) => 4 * Math.ceil(length / 8 / 4); // the coder writes words of 32 bits
  own.file = codec.header[0] + words(y.bits) + (plan.step ? codec.header[1] + words(bits) : 0);
  const parts = plan.step ? ` (${comma(y.bits / 8)} for the code, ${comma(bits / 8)} for detail)` : ", all of them for the code";
  $("ex-own-size").textContent = comma(own.size);
  $("ex-own-words").textContent = ` bytes${parts}, where the pixels have ${comma(3 * area, 0)}; as a file of its own about ${own.file}. `
    + `The decoded picture reaches ${comma(own.psnr, 2)} dB.`;
  await paintSharp(z, $("ex-own-sharp"));
}
const redrawOwn = latest(showOwn);
let newest = 0;
async function take(levels, name, ticket) {
  const mine = { name, levels, x: Float32Array.from(levels, (v) => v / 255) }, seen = await own.look(mine.x);
  Object.assign(mine, { y: await improved(seen.y, mine.x, own.gradient), deviation: seen.deviation });
  if (ticket < newest) return; // another picture was chosen meanwhile
  Object.assign(own, mine);
  paint("ex-own-original", levels);
  const beliefs = [seen.features, seen.code], best = beliefs.map((belief) => belief.indexOf(Math.max(...belief)));
  document.querySelectorAll(".explorer-verdict tbody tr").forEach((row, i) => beliefs.forEach((belief, k) => {
    row.querySelectorAll("meter")[k].value = belief[i];
    row.querySelectorAll(".explorer-percent")[k].textContent = `${(100 * belief[i]).toFixed(0)} %`;
  }));
  const [features, code] = beliefs.map((belief, k) => `${data.classes[best[k]]} (${(100 * belief[best[k]]).toFixed(0)} %)`);
  $("ex-own-class").textContent = `${name}: ${features} from the features, ${code} from the code.`;
  await redrawOwn();
}
let kept; // what was given before the encoder ran
async function takeFile(file) {
  if (!file || !$("ex-own-class")) return;
  if (!own.look) {
    kept = file;
    $("ex-own-class").textContent = `${file.name || "The pasted picture"} is read as soon as the encoder runs …`;
    return begin();
  }
  kept = null;
  const image = new Image(), ticket = ++newest;
  image.src = URL.createObjectURL(file);
  const readable = await image.decode().then(() => image.naturalWidth > 0 && image.naturalHeight > 0, () => false);
  if (readable) await take(levelsOf(image, image.naturalWidth, image.naturalHeight), file.name || "The pasted picture", ticket);
  else $("ex-own-class").textContent = `${file.name || "What was pasted"} is no picture that this browser can read; try a PNG or JPEG file. `
    + (own.name ? `Below is still: ${own.name}.` : "");
  URL.revokeObjectURL(image.src);
}
async function moveToOwn() { // the sliders go to the code of the picture
  const { z } = await own.gradient(own.y, own.x);
  setOut({ place: placeAt(z), deviation: own.deviation, start: -1 });
  paint("ex-origin", own.levels);
  $("ex-origin-figure").style.visibility = "visible";
  remember();
  body.scrollIntoView();
}
async function beginOwn(engine) {
  const image = (x) => new engine.Tensor("float32", x, [1, 3, side, side]), point = (y) => new engine.Tensor("float32", y, [1, d]);
  const descent = await engine.session("gradient", engine.weights), look = await engine.session("look", unpacked("explorer-encoder"));
  own.read = async (z) => ({ image: (await engine.reader.run({ z: point(z) })).image.data });
  own.gradient = async (y, x) => {
    const found = await descent.run({ y: point(y), x: image(x) });
    return { z: found.z.data, error: found.error.data[0], gradient: found.gradient.data };
  };
  own.look = async (x) => Object.fromEntries(Object.entries(await look.run({ x: image(x) })).map(([name, value]) => [name, value.data]));
  $("ex-quality").addEventListener("input", (event) => { event.target.closest("p").querySelector("output").textContent = event.target.value; redrawOwn(); });
  $("ex-own-explore").addEventListener("click", moveToOwn);
  const shown = canvasOf(side);
  tile(shown, sheet, Math.max(0, data.tiles[recognisable()]));
  await take(levelsOf(shown, side, side), "A test image to begin with", newest);
  await takeFile(kept);
  $("ex-own").dataset.ready = "true";
}
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault()); // or the browser leaves the page
function given(files) {
  if (!files.length) return;
  $("ex-own").scrollIntoView({ block: "nearest" }); // it may be given anywhere on the page
  takeFile(files[0]);
}
document.addEventListener("drop", (event) => given(event.dataTransfer.files));
document.addEventListener("paste", (event) => given(event.clipboardData.files));
$("ex-file").addEventListener("change", (event) => takeFile(event.target.files[0]));
// For tests and the curious: what this page computes with.
globalThis.latentExplorer = { codeOf, placeOf, onMap, ellipse, own, place: () => u };
