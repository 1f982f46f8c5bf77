// A picture becomes the network's input as in salience/pictures/letterbox.py, and its output a map as there.
// A resampling is two lists of taps, one for rows and one for columns: [first source index, weights].

const about = JSON.parse($("data").textContent);
const STRIP = 256; // rows of a picture that are read at once, to bound memory
const SHARP = 8; // pixels; a map is reduced before a wider blur
const MOST_THREADS = 8;
const MOST_WAIT = 3000; // milliseconds for the service worker
const MOST_START = 120_000; // milliseconds for the runtime

let session = null; // promise of the network
let shown = null; // the picture: name, width, height, and its map once it is there
let tickets = 0; // counts the pictures; only the newest is shown
let running = Promise.resolve(); // the network runs one picture at a time

/** An error whose message is a sentence for the user. */
class Told extends Error {}

/* ---------- resampling ---------- */

/** Return taps that average each of `to` equal parts of `from` pixels. */
function areaTaps(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const [low, high] = [(i * from) / to, Math.min(from, ((i + 1) * from) / to)];
    const first = Math.floor(low + 1e-9);
    const end = Math.min(from, Math.max(first + 1, Math.ceil(high - 1e-9)));
    return [first, Array.from({ length: end - first }, (_, k) =>
      (Math.min(high, first + k + 1) - Math.max(low, first + k)) / (high - low))];
  });
}

/** Return taps that read cells linearly at places, in cells from the edge; beyond it, its cell is repeated. */
function linearTaps(places, cells) {
  return places.map((place) => {
    const position = Math.min(Math.max(place - 0.5, 0), cells - 1);
    const low = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    return cells === 1 ? [0, [1]] : [low, [1 - (position - low), position - low]];
  });
}

/** Return the centres of `count` equal pixels that span 0 to `length`. */
function pixelCentres(count, length) {
  return Array.from({ length: count }, (_, i) => ((i + 0.5) * length) / count);
}

function resizeTaps(from, to) {
  return to < from ? areaTaps(from, to) : linearTaps(pixelCentres(to, from), from);
}

/** Return taps of a Gaussian that ends at 4 sigma; beyond the edge there is 0, or with `mirror` its reflection. */
function gaussianTaps(length, sigma, mirror = false) {
  const reach = Math.trunc(4 * sigma + 0.5);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-0.5 * ((k - reach) / sigma) ** 2));
  const total = kernel.reduce((a, b) => a + b, 0);
  const inside = (at) => {
    const around = ((at % (2 * length)) + 2 * length) % (2 * length);
    return around < length ? around : 2 * length - 1 - around;
  };
  return Array.from({ length }, (_, i) => {
    const first = mirror ? 0 : Math.max(0, i - reach);
    const end = mirror ? length : Math.min(length, i + reach + 1);
    const weights = new Array(end - first).fill(0);
    kernel.forEach((value, k) => {
      const at = i + k - reach;
      if (mirror) weights[inside(at)] += value / total;
      else if (at >= 0 && at < length) weights[at - first] += value / total;
    });
    return [first, weights];
  });
}

/** Return a map, {width, height, values}, resampled by taps of its rows and of its columns. */
function resampled({ width, height, values }, down, across) {
  const middle = new Float32Array(height * across.length);
  across.forEach(([first, weights], x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let k = 0, at = y * width + first; k < weights.length; k++) sum += weights[k] * values[at + k];
      middle[y * across.length + x] = sum;
    }
  });
  const made = new Float32Array(down.length * across.length);
  down.forEach(([first, weights], y) => {
    const row = made.subarray(y * across.length, (y + 1) * across.length);
    weights.forEach((weight, k) => {
      const from = (first + k) * across.length;
      for (let x = 0; x < row.length; x++) row[x] += weight * middle[from + x];
    });
  });
  return { width: across.length, height: down.length, values: made };
}

function resized(map, height, width) {
  return resampled(map, resizeTaps(map.height, height), resizeTaps(map.width, width));
}

/** Return a map blurred by a Gaussian, in a time that does not grow with its width. */
function blurred(map, sigma) {
  const times = Math.trunc(sigma / SHARP);
  if (times < 2) return resampled(map, gaussianTaps(map.height, sigma), gaussianTaps(map.width, sigma));
  const small = resized(map, Math.ceil(map.height / times), Math.ceil(map.width / times));
  return resized(blurred(small, (sigma * small.width) / map.width), map.height, map.width);
}

/* ---------- a picture, and its place in the network's input ---------- */

/** Round halves to even, as Python does. */
function rounded(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

function letterbox(height, width) {
  const { rows, cols } = about.input;
  const scale = Math.min(rows / height, cols / width);
  const scaledHeight = Math.min(rows, Math.max(1, rounded(height * scale)));
  const scaledWidth = Math.min(cols, Math.max(1, rounded(width * scale)));
  return { scaledHeight, scaledWidth, top: Math.floor((rows - scaledHeight) / 2), left: Math.floor((cols - scaledWidth) / 2) };
}

async function decoded(blob) {
  // the numbers of the file, as `test` reads them: turned by EXIF, without a colour profile
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(blob, options).catch(() => createImageBitmap(blob));
  } catch {
    throw new Told("This file cannot be read as a picture: choose a JPEG, PNG, WebP, GIF, BMP or AVIF.");
  }
}

/** Return a picture as the network's input: BGR, 0 to 255, float32 [rows, cols, 3]. */
function networkInput(bitmap) {
  const { width, height } = bitmap;
  const { rows, cols } = about.input;
  const box = letterbox(height, width);
  const [down, across] = [resizeTaps(height, box.scaledHeight), resizeTaps(width, box.scaledWidth)];
  const sums = new Float32Array(box.scaledHeight * box.scaledWidth * 3);
  const strip = element("canvas", { width, height: Math.min(STRIP, height) });
  const context = strip.getContext("2d", { willReadFrequently: true });
  const line = new Float32Array(box.scaledWidth * 3);
  // which rows of the input a row of the picture adds to
  const uses = Array.from({ length: height }, () => []);
  down.forEach(([first, weights], y) => weights.forEach((weight, k) => uses[first + k].push([y, weight])));
  for (let top = 0; top < height; top += STRIP) {
    const count = Math.min(STRIP, height - top);
    context.clearRect(0, 0, width, strip.height);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const pixels = context.getImageData(0, 0, width, count).data;
    for (let y = 0; y < count; y++) {
      if (!uses[top + y].length) continue;
      line.fill(0);
      across.forEach(([first, weights], x) => {
        for (let k = 0, at = 4 * (y * width + first); k < weights.length; k++, at += 4) {
          line[3 * x] += weights[k] * pixels[at + 2];
          line[3 * x + 1] += weights[k] * pixels[at + 1];
          line[3 * x + 2] += weights[k] * pixels[at];
        }
      });
      for (const [to, weight] of uses[top + y]) {
        for (let i = 0, at = to * line.length; i < line.length; i++) sums[at + i] += weight * line[i];
      }
    }
  }
  const input = new Float32Array(rows * cols * 3);
  for (let y = 0; y < box.scaledHeight; y++) {
    for (let i = 0; i < line.length; i++) {
      input[((box.top + y) * cols + box.left) * 3 + i] = Math.round(sums[y * line.length + i]);
    }
  }
  return input;
}

/* ---------- the network's output becomes a map ---------- */

function scaledToOne(map) {
  let peak = 0;
  for (const value of map.values) peak = Math.max(peak, value);
  for (let i = 0; i < map.values.length; i++) map.values[i] = peak > 0 ? Math.max(0, map.values[i]) / peak : 0;
  return map;
}

/** Return the output's cells, [height, width], as a map of a picture's size, with maximum 1. */
function mapOfCells(cells, height, width) {
  const { stride, crop, blur } = about.grid;
  const { rows, cols } = about.input;
  const own = blur ? resampled(cells, gaussianTaps(cells.height, blur, true), gaussianTaps(cells.width, blur, true)) : cells;
  const box = letterbox(height, width);
  const taps = (length, scaled, offset, size, count) =>
    linearTaps(pixelCentres(length, scaled).map((place) => ((place + offset - crop) * count) / (size - 2 * crop)), count);
  const made = resampled(own, taps(height, box.scaledHeight, box.top, rows, cells.height),
    taps(width, box.scaledWidth, box.left, cols, cells.width));
  return finished(scaledToOne(made));
}

/** Return a map as `test` writes it: adapted and blurred as the card of the weights says. */
function finished(map) {
  if (!map.values.some((value) => value > 0)) return map;
  const diagonal = Math.hypot(map.width, map.height);
  const own = about.adaptation ? scaledToOne(adapted(map, about.adaptation, diagonal)) : map;
  return about.mapBlur ? scaledToOne(blurred(own, about.mapBlur * diagonal)) : own;
}

/** Return a map as the density that salience/measures/adaptation.py makes of it. */
function adapted(map, how, diagonal) {
  const { width, height } = map;
  const made = scaledToOne(how.blur ? blurred(map, how.blur * diagonal) : map);
  const gaussian = (count, middle, spread) => {
    const exponents = pixelCentres(count, 1).map((place) => -0.5 * ((place - middle) / spread) ** 2);
    return (power) => {
      const own = exponents.map((exponent) => power * exponent);
      const most = own.reduce((a, b) => Math.max(a, b));
      return own.map((exponent) => Math.exp(exponent - most));
    };
  };
  const [down, across] = [gaussian(height, how.centre_y, how.centre_height), gaussian(width, how.centre_x, how.centre_width)];
  const [byRow, byColumn] = [down(how.centre_power), across(how.centre_power)];
  const values = made.values.map((value, i) => value ** how.contrast * byRow[Math.floor(i / width)] * byColumn[i % width]);
  const sum = (all) => all.reduce((a, b) => a + b, 0);
  const total = sum(values);
  const [rows, columns] = [down(1), across(1)];
  const centre = how.centre_share / (sum(rows) * sum(columns));
  const rest = 1 - how.centre_share;
  const own = total > 0 ? (rest * (1 - how.uniform_share)) / total : 0;
  const even = (rest * how.uniform_share) / (width * height);
  return { width, height, values: values.map((value, i) =>
    own * value + even + centre * rows[Math.floor(i / width)] * columns[i % width]) };
}

/* ---------- the runtime and the network ---------- */

/** Return why the network cannot run here, as a sentence, or "". */
function obstacle() {
  if (location.protocol === "file:") {
    return `Browsers do not load a network from a file:// address. Run "python -m http.server ${about.port}" in the folder of this page, and open http://localhost:${about.port}.`;
  }
  if (typeof WebAssembly !== "object") {
    return "This browser has no WebAssembly, or it is turned off, so the network cannot run. Use a current Firefox, Chrome, Edge or Safari.";
  }
  // a function with an instruction on 128 bits
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11];
  if (!WebAssembly.validate(new Uint8Array(simd))) {
    return "This browser's WebAssembly is too old for the network (it has no SIMD). Use a current Firefox, Chrome, Edge or Safari.";
  }
  return "";
}

/** Return an error's sentence for the user. */
function sentenceOf(error) {
  if (error instanceof Told) return error.message;
  const text = String(error?.message ?? error);
  if (error instanceof RangeError || /memory|alloc|out of bounds|std::bad/i.test(text)) {
    return "There is not enough memory for the network. Close other tabs or programs and load this page again, or use a computer with more memory.";
  }
  return `The network did not run (${text.slice(0, 200)}). Load this page again, or use a current Firefox, Chrome, Edge or Safari.`;
}

/** Return the bytes of a file beside the page; `count` is told how many have come. */
async function loaded(name, count) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) {
    throw new Told(`${name} could not be loaded${answer ? ` (${answer.status})` : ""}. All files of the folder must lie beside this page, and its server must run.`);
  }
  const parts = [];
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    count(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function open() {
  const { files, sizes } = about;
  const total = sizes.network + sizes.wasm;
  let come = 0;
  const count = (bytes) => {
    come += bytes;
    say(`Loading the network: ${Math.round(come / 1e6)} of ${Math.round(total / 1e6)} MB.`, come / total);
  };
  const [ort, wasm, network] = await Promise.all([
    import(`./${files.script}`).catch(() => { throw new Told(`${files.script} could not be loaded. All files of the folder must lie beside this page.`); }),
    loaded(files.wasm, count), loaded(files.network, count)]);
  say("Starting the network.", null);
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = threads();
  ort.env.wasm.proxy = typeof Worker === "function"; // so that the page answers meanwhile
  ort.env.wasm.initTimeout = MOST_START;
  const made = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  unregister();
  say("Ready: choose a picture.");
  return async (input) => {
    const { rows, cols } = about.input;
    const [name, output] = [made.inputNames[0], made.outputNames[0]];
    const found = (await made.run({ [name]: new ort.Tensor("float32", input, [1, rows, cols, 3]) }))[output];
    return { height: found.dims[1], width: found.dims[2], values: found.data };
  };
}

/** Several threads need memory that they share, which browsers give only to isolated pages. */
function threads() {
  return self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
}

/** Have the page isolated by the service worker beside it, once; return true if the page is loaded again for that. */
async function isolates() {
  const container = navigator.serviceWorker;
  try {
    const tried = sessionStorage.getItem("isolates");
    sessionStorage.removeItem("isolates");
    if (self.crossOriginIsolated || tried || !container) return false;
    await container.register(about.files.threads);
    await Promise.race([container.ready, new Promise((resolve, reject) => { setTimeout(reject, MOST_WAIT); })]);
    if (tickets) return false; // a picture has been chosen meanwhile
    sessionStorage.setItem("isolates", "tried");
    location.reload();
    return true;
  } catch {
    return false; // one thread, then
  }
}

/** Unregister the service worker of this page. It must serve the scripts of threads before, and serves nothing after. */
async function unregister() {
  const own = await navigator.serviceWorker?.getRegistration().catch(() => null);
  if (own?.active?.scriptURL.endsWith(`/${about.files.threads}`)) await own.unregister();
}

/* ---------- what the page says ---------- */

/** Say a sentence; `share` of a bar from 0 to 1, null for one without an end, undefined for none. */
function say(text, share) {
  $("status").textContent = text;
  $("progress").hidden = share === undefined;
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share ?? 0;
}

function fail(error) {
  $("problem").textContent = sentenceOf(error);
  $("problem").hidden = false;
  say("");
}

/* ---------- one picture ---------- */

async function show(blob, name) {
  const ticket = ++tickets;
  const isNewest = () => ticket === tickets;
  $("problem").hidden = true;
  $("problem").textContent = "";
  try {
    const bitmap = await decoded(blob);
    if (!isNewest()) return;
    const scale = Math.min(1, about.longest / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(length * scale)));
    shown = { name, width, height, map: null };
    drawPicture(bitmap);
    const stopped = obstacle();
    if (stopped) throw new Told(stopped);
    const input = networkInput(bitmap);
    bitmap.close();
    session ??= open();
    const predict = await session;
    const before = running;
    let release;
    running = new Promise((resolve) => { release = resolve; });
    try {
      await before;
      if (!isNewest()) return;
      say(`Computing the map of ${name}.`, null);
      const began = performance.now();
      const cells = await predict(input);
      if (!isNewest()) return;
      shown.map = mapOfCells(cells, height, width);
      drawMap();
      const used = threads();
      say(`${name}: ${((performance.now() - began) / 1000).toFixed(1)} s on ${used === 1 ? "one thread" : `${used} threads`}.`);
    } finally {
      release();
    }
  } catch (error) {
    if (!(error instanceof Told)) session = null; // a network that failed is opened again
    if (isNewest()) fail(error);
  } finally {
    if (isNewest()) $("shown").classList.remove("working");
  }
}

function drawPicture(bitmap) {
  const { name, width, height } = shown;
  for (const id of ["base", "heat"]) Object.assign($(id), { width, height });
  const context = $("base").getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  $("base").setAttribute("aria-label", name);
  $("heat").setAttribute("aria-label", `Map of ${name}`);
  $("stage").style.setProperty("--shape", width / height);
  $("result").hidden = false;
  $("shown").classList.add("working");
  document.body.classList.add("has-picture");
  $("choose-text").textContent = "Choose another picture";
  for (const id of ["save-overlay", "save-map"]) $(id).disabled = true;
}

/** Fill a canvas of the map's size; `paint` sets four bytes at a place from a value of 0 to 1. */
function painted(canvas, paint) {
  const { width, height, map } = shown;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  for (let top = 0; top < height; top += STRIP) {
    const image = context.createImageData(width, Math.min(STRIP, height - top));
    for (let i = 0; i < image.data.length / 4; i++) paint(image.data, 4 * i, map.values[top * width + i]);
    context.putImageData(image, 0, top);
  }
  return canvas;
}

/** Draw the heat map: its opacity grows with the square root of saliency, as in overlays of `test`. */
function paintHeat(canvas, alone) {
  return painted(canvas, (bytes, at, value) => {
    const colour = 3 * Math.round(255 * value);
    bytes[at] = about.colours[colour];
    bytes[at + 1] = about.colours[colour + 1];
    bytes[at + 2] = about.colours[colour + 2];
    bytes[at + 3] = alone ? 255 : 255 * Math.sqrt(value);
  });
}

function drawMap() {
  paintHeat($("heat"), $("shown").dataset.view === "map");
  for (const id of ["save-overlay", "save-map"]) $(id).disabled = false;
}

function save(canvas, ending) {
  canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: `${shown.name.replace(/\.[^.]*$/, "")}${ending}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, "image/png");
}

$("save-overlay").addEventListener("click", () => {
  const made = element("canvas", { width: shown.width, height: shown.height });
  const context = made.getContext("2d");
  context.drawImage($("base"), 0, 0);
  context.globalAlpha = $("opacity").value / 100;
  context.drawImage(paintHeat(element("canvas"), false), 0, 0);
  save(made, "_overlay");
});
$("save-map").addEventListener("click", () => {
  save(painted(element("canvas"), (bytes, at, value) => {
    bytes[at] = bytes[at + 1] = bytes[at + 2] = Math.round(255 * value);
    bytes[at + 3] = 255;
  }), "_map");
});

/* ---------- the controls ---------- */

function look(kind) {
  $("shown").dataset.view = kind;
  document.querySelector(".looks").dataset.view = kind;
  for (const button of document.querySelectorAll("[data-look]")) {
    button.setAttribute("aria-pressed", String(button.dataset.look === kind));
  }
  $("opacity").disabled = kind !== "overlay";
  if (shown?.map) drawMap();
}

for (const button of document.querySelectorAll("[data-look]")) {
  button.addEventListener("click", () => look(button.dataset.look));
}
$("opacity").addEventListener("input", () => {
  $("stage").style.setProperty("--heat", $("opacity").value / 100);
  $("opacity").setAttribute("aria-valuetext", `${$("opacity").value}%`);
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) show(file, file.name);
  $("file").value = ""; // so that the same picture can be chosen again
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) show(file, file.name || "pasted.png");
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging"); // left the window
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer.files;
  if (file) show(file, file.name);
});

look("overlay");
if (obstacle()) {
  fail(new Told(obstacle()));
} else {
  session = isolates().then((again) => (again ? new Promise(() => {}) : open()));
  session.catch((error) => {
    session = null;
    fail(error);
  });
}
