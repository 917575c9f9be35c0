// The map: test images by their codes, in the plane in which the classes lie farthest apart. Moving there changes what of
// the code lies in this plane and leaves the rest.
const plane = floats(data.plane), seenOnMap = floats(data.seen), deviations = floats(data.deviations), map = $("ex-map");
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const onMap = (place) => [0, 1].map((k) => place.reduce((sum, v, i) => sum + v * plane[k * d + i], 0));
const reach = 1.05 * Math.max(...seenOnMap.map(Math.abs));
const toPixel = ([a, b]) => [(1 + a / reach) * map.width / 2, (1 - b / reach) * map.height / 2];
const here = () => u.map((v) => temperatureNow() * v); // the place of the code that is seen
let posterior = null; // of the image that the code belongs to: its home

function ellipse() { // covariance of the posterior in the plane -> half axes of two deviations, and their angle
  const rows = [0, 1].map((k) => Float64Array.from({ length: d }, (_, j) => {
    let sum = 0;
    for (let i = 0; i < d; i++) sum += plane[k * d + i] / std[i] * axes[i * d + j];
    return sum * posterior.deviation[j];
  }));
  const [a, b, c] = [[0, 0], [0, 1], [1, 1]].map(([k, l]) => rows[k].reduce((sum, v, j) => sum + v * rows[l][j], 0));
  const root = Math.hypot((a - c) / 2, b);
  return { long: 2 * Math.sqrt((a + c) / 2 + root), short: 2 * Math.sqrt(Math.max(0, (a + c) / 2 - root)), angle: Math.atan2(2 * b, a - c) / 2 };
}
function drawMap() {
  const pen = map.getContext("2d"), dark = getComputedStyle(document.body).color;
  pen.clearRect(0, 0, map.width, map.height);
  data.labels.forEach((label, i) => {
    const [x, y] = toPixel(seenOnMap.subarray(2 * i, 2 * i + 2));
    pen.fillStyle = COLOURS[label % 10];
    pen.fillRect(x - 2.5, y - 2.5, 5, 5);
  });
  pen.font = "bold 22px system-ui, sans-serif";
  pen.textAlign = "center";
  data.classes.forEach((name, label) => {
    const points = data.labels.flatMap((l, i) => (l === label ? [seenOnMap.subarray(2 * i, 2 * i + 2)] : []));
    if (!points.length) return;
    const [x, y] = toPixel([0, 1].map((k) => points.reduce((sum, point) => sum + point[k], 0) / points.length));
    pen.lineWidth = 5;
    pen.strokeStyle = getComputedStyle(document.body).backgroundColor;
    pen.strokeText(name, x, y);
    pen.fillStyle = dark;
    pen.fillText(name, x, y);
  });
  pen.strokeStyle = dark;
  pen.lineWidth = 3;
  if (posterior) {
    const { long, short, angle } = ellipse(), scale = map.width / 2 / reach;
    pen.beginPath();
    pen.ellipse(...toPixel(onMap(posterior.place)), scale * long, scale * short, -angle, 0, 2 * Math.PI);
    pen.stroke();
  }
  const [x, y] = toPixel(onMap(here()));
  pen.beginPath();
  pen.arc(x, y, 9, 0, 2 * Math.PI);
  pen.moveTo(x - 16, y); pen.lineTo(x + 16, y);
  pen.moveTo(x, y - 16); pen.lineTo(x, y + 16);
  pen.stroke();
  $("ex-draw").disabled = !posterior;
}
function moveOnMap(anywhere) { // (2), kept inside the map
  const target = anywhere.map((v) => Math.min(reach, Math.max(-reach, v)));
  const from = here(), [a, b] = onMap(from), [da, db] = [target[0] - a, target[1] - b];
  cool(1);
  remember();
  return moveTo(from.map((v, i) => v + da * plane[i] + db * plane[d + i]));
}
function liveMap() {
  const follow = (event) => {
    const box = map.getBoundingClientRect();
    moveOnMap([(2 * (event.clientX - box.left) / box.width - 1) * reach, (1 - 2 * (event.clientY - box.top) / box.height) * reach]);
  };
  let before;
  map.addEventListener("pointerdown", (event) => {
    before = [u, temperatureNow()];
    map.setPointerCapture(event.pointerId);
    follow(event);
  });
  map.addEventListener("pointercancel", () => { // the touch became a scroll
    cool(before[1]);
    moveTo(before[0]);
    remember();
  });
  map.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  map.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    moveOnMap(onMap(here()).map((v, k) => v + reach / 40 * keys[event.key][k]));
  });
  $("ex-draw").addEventListener("click", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
}
function draw() { // a sample of the posterior, in all dimensions
  cool(1);
  remember();
  return moveTo(placeAt(codeOf(posterior.place).map((v, j) => v + posterior.deviation[j] * gaussian())));
}
