// The state `view` determines sorting and filtering; cards and rows are drawn from it.
// File names may contain any character: they are only set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const { metrics, scored, rows, pictures } = data;
const CARDS_AT_ONCE = matchMedia("(max-width: 46rem)").matches ? 8 : 24; // a phone shows cards in one column
const ROWS_AT_ONCE = 50;
const CHANGE = "change"; // value of `view.by`: the score of the first minus that of the second
const MINUS = "\u2212";

const pictureOfRow = new Map(pictures.map((picture) => [picture.row, picture]));

const view = {
  first: data.pair[0],
  second: data.pair[1],
  by: scored.length > 1 ? CHANGE : 0,
  metric: 0,
  order: scored.length > 1 ? "changed" : "best",
  low: null,
  high: null,
  name: "",
  cards: CARDS_AT_ONCE,
  page: 0,
};
let selection = []; // indices of rows, filtered and sorted

/* ---------- small helpers ---------- */

/** Return a score rounded for display, never -0. */
function rounded(value, metric) {
  return Number(value.toFixed(metrics[metric].digits)) + 0;
}

function text(value, metric, signed = false) {
  if (value === null) return DASH;
  const shown = rounded(value, metric);
  const plain = shown.toFixed(metrics[metric].digits);
  return (signed && shown > 0 ? "+" : "") + plain.replace("-", MINUS);
}

/* ---------- sort and filter ---------- */

function change(row, metric) {
  const a = rows[row].scores[view.first][metric];
  const b = rows[row].scores[view.second][metric];
  return a === null || b === null ? null : a - b;
}

function valueOf(row) {
  return view.by === CHANGE ? change(row, view.metric) : rows[row].scores[view.by][view.metric];
}

function select() {
  const wanted = view.name.toLowerCase();
  const values = rows.map((_, row) => valueOf(row));
  const passes = (row) => {
    if (!rows[row].name.toLowerCase().includes(wanted)) return false;
    if (view.low === null && view.high === null) return true;
    const value = values[row];
    return value !== null && value >= (view.low ?? -Infinity) && value <= (view.high ?? Infinity);
  };
  const up = metrics[view.metric].higher ? 1 : -1;
  const rank = {
    best: (row) => -up * values[row],
    worst: (row) => up * values[row],
    changed: (row) => -Math.abs(values[row]),
    name: () => 0,
  }[view.order];
  const byName = (a, b) => rows[a].name.localeCompare(rows[b].name, undefined, { numeric: true });
  selection = [...rows.keys()].filter(passes).sort((a, b) => {
    // pictures without the score come last, whatever the order
    const missing = (values[a] === null) - (values[b] === null);
    if (view.order !== "name" && missing) return missing;
    if (view.order !== "name" && values[a] !== null && rank(a) !== rank(b)) return rank(a) - rank(b);
    return byName(a, b);
  });
}

function update({ keepPlace = false } = {}) {
  if (!keepPlace) {
    view.cards = CARDS_AT_ONCE;
    view.page = 0;
  }
  select();
  showControls();
  showCards();
  showRows();
}

function showControls() {
  $("first").value = view.first;
  $("second").value = view.second;
  $("by").value = view.by;
  $("metric").value = view.metric;
  $("order").value = view.order;
  const changed = $("by").querySelector(`option[value=${CHANGE}]`);
  if (changed) changed.textContent = `change: ${scored[view.first].name} ${MINUS} ${scored[view.second].name}`;
  const words = view.by === CHANGE ? ["most improved first", "most worsened first"] : ["best first", "worst first"];
  ["best", "worst"].forEach((order, i) => {
    $("order").querySelector(`option[value=${order}]`).textContent = words[i];
  });
  const withPicture = selection.filter((row) => pictureOfRow.has(row)).length;
  const unseen = selection.length - withPicture;
  $("count").textContent =
    selection.length === 0
      ? "No picture matches the filter."
      : `${selection.length} of ${rows.length} pictures` +
        (unseen && pictures.length ? `, ${unseen} of them only as a row below` : "");
}

/* ---------- cards ---------- */

function showCards() {
  const shown = selection.filter((row) => pictureOfRow.has(row));
  $("gallery").replaceChildren(...shown.slice(0, view.cards).map(card));
  const left = shown.length - view.cards;
  $("more").hidden = left <= 0;
  $("more").textContent = `Show ${Math.min(left, CARDS_AT_ONCE)} more of ${left}`;
}

function card(row) {
  const picture = pictureOfRow.get(row);
  const { name } = rows[row];
  const image = element("img", {
    src: picture.image, alt: "", width: picture.width, height: picture.height,
  });
  const open = element("button", { type: "button", className: "open", "aria-label": `Look at ${name}` }, image);
  open.addEventListener("click", () => openDetail(row));
  const strip = element("div", { className: "strip" });
  const layers = ["truth", view.first, view.second]
    .filter((x, i, all) => all.indexOf(x) === i && (x === "truth" || picture.maps[x])); // a reference has no map
  for (const layer of layers) {
    const canvas = element("canvas", { role: "img", "aria-label": `${labelOf(layer)}, map` });
    canvas.width = 120;
    canvas.height = Math.max(1, Math.round((120 * picture.height) / picture.width));
    paint(canvas, picture, layer, false);
    strip.append(element("div", {}, canvas, element("span", { className: "caption" }, labelOf(layer))));
  }
  const metric = view.metric;
  const scores = element("p", { className: "card-scores" });
  for (const which of new Set([view.first, view.second])) {
    scores.append(
      element("span", {}, `${scored[which].name} `, element("b", {}, text(rows[row].scores[which][metric], metric))),
    );
  }
  const { people } = metrics[metric];
  if (people !== null && people !== view.first && people !== view.second) {
    scores.append(element("span", { title: scored[people].name }, "people ", element("b", {}, text(rows[row].scores[people][metric], metric))));
  }
  const heading = element("p", { className: "card-metric" }, metrics[metric].name);
  if (view.first !== view.second) {
    heading.append(changeElement("span", row, metric));
  }
  const link = element("a", { href: `#row-${row}` }, "row", element("span", { className: "hidden" }, ` of ${name}`));
  return element(
    "li",
    { id: `card-${row}`, className: "card", tabIndex: -1 },
    open,
    strip,
    element("div", { className: "card-text" },
      element("p", { className: "card-name" }, element("span", {}, name), link),
      heading,
      scores),
  );
}

function goodness(difference, metric) {
  if (difference === null || rounded(difference, metric) === 0) return "same";
  return difference > 0 === metrics[metric].higher ? "up" : "down";
}

/** Return an element with the difference of first and second, marked as better or worse. */
function changeElement(tag, row, metric) {
  const difference = change(row, metric);
  const good = goodness(difference, metric);
  const spoken = { up: " better", down: " worse", same: "" }[good];
  return element(tag, { className: `change ${good}` }, text(difference, metric, true),
    element("span", { className: "hidden" }, spoken));
}

/* ---------- rows ---------- */

function showRows() {
  const start = view.page * ROWS_AT_ONCE;
  const shown = selection.slice(start, start + ROWS_AT_ONCE);
  $("rows").replaceChildren(rowsHead(), element("tbody", {}, ...shown.map(tableRow)));
  $("pager").hidden = selection.length <= ROWS_AT_ONCE;
  $("rows-back").disabled = view.page === 0;
  $("rows-on").disabled = start + ROWS_AT_ONCE >= selection.length;
  $("rows-place").textContent = `${start + 1} to ${start + shown.length} of ${selection.length}`;
}

function rowsHead() {
  const top = element("tr", {}, element("td", { className: "name" }));
  const second = element("tr", {});
  const names = heading("Picture", view.order === "name" ? "ascending" : "none", () =>
    Object.assign(view, { order: "name" }));
  names.className = "name";
  second.append(names);
  scored.forEach((entry, index) => {
    top.append(element("th", { scope: "colgroup", colSpan: metrics.length, className: "group-start" }, entry.name));
    metrics.forEach((metric, m) => {
      const active = view.by === index && view.metric === m && ["best", "worst"].includes(view.order);
      const descending = (view.order === "best") === metric.higher;
      const sorted = active ? (descending ? "descending" : "ascending") : "none";
      const cell = heading(metric.name, sorted, () =>
        Object.assign(view, { by: index, metric: m, order: active && view.order === "best" ? "worst" : "best" }));
      if (m === 0) cell.className = "group-start";
      cell.firstChild.dataset.column = `${index}-${m}`;
      second.append(cell);
    });
  });
  return element("thead", {}, top, second);
}

function heading(label, sorted, sort) {
  const button = element("button", { type: "button", className: "sort" }, label);
  button.addEventListener("click", () => {
    const { column } = button.dataset;
    sort();
    // limits on one score have no meaning for another
    Object.assign(view, { low: null, high: null });
    $("low").value = $("high").value = "";
    update();
    // the heading was drawn again: restore the keyboard focus
    $("rows").querySelector(column ? `[data-column="${column}"]` : ".sort").focus();
  });
  return element("th", { scope: "col", "aria-sort": sorted }, button);
}

function tableRow(row) {
  const { name, scores } = rows[row];
  const label = pictureOfRow.has(row) ? element("a", { href: `#card-${row}` }, name) : name;
  const cells = scores.flatMap((values) =>
    values.map((value, m) => element("td", { className: m === 0 ? "group-start" : "" }, text(value, m))));
  return element("tr", { id: `row-${row}`, tabIndex: -1 }, element("th", { scope: "row", className: "name" }, label), ...cells);
}

/* ---------- from a card to its row and back ---------- */

function reveal(kind, row) {
  if (!rows[row]) return;
  $("detail").close();
  if (!selection.includes(row)) $("controls").reset();
  const order = kind === "card" ? selection.filter((r) => pictureOfRow.has(r)) : selection;
  const place = order.indexOf(row);
  if (place < 0) return;
  if (kind === "card") view.cards = Math.max(view.cards, Math.ceil((place + 1) / CARDS_AT_ONCE) * CARDS_AT_ONCE);
  else view.page = Math.floor(place / ROWS_AT_ONCE);
  update({ keepPlace: true });
  const target = $(`${kind}-${row}`);
  target.scrollIntoView({ block: "center" });
  target.focus({ preventScroll: true });
  target.classList.add("found");
}

function follow(hash) {
  const match = /^#(card|row)-(\d+)$/.exec(hash);
  if (match) reveal(match[1], Number(match[2]));
  return match !== null;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#card-'], a[href^='#row-']");
  if (!link) return;
  event.preventDefault();
  history.pushState(null, "", link.hash);
  follow(link.hash);
});
window.addEventListener("popstate", () => follow(location.hash));

/* ---------- maps on canvases ---------- */

const HEAT = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"];
const HEAT_TABLE = rampTable(HEAT);

/** Return a map scaled to a maximum of 1, on the grid of the truth so that maps can be subtracted. */
async function loadMap(picture, layer) {
  picture.cache ??= new Map();
  if (picture.cache.has(layer)) return picture.cache.get(layer);
  const uri = layer === "truth" ? picture.truth : picture.maps[layer];
  if (!uri) return null;
  const [image, grid] = await Promise.all([loadImage(uri), loadImage(picture.truth ?? uri)]);
  const map = mapOf(image, grid.naturalWidth, grid.naturalHeight);
  picture.cache.set(layer, map);
  return map;
}

async function differenceMap(picture) {
  const [a, b] = await Promise.all([loadMap(picture, view.first), loadMap(picture, view.second)]);
  return a && b && minus(a, b);
}

function colour(map, over, isDifference) {
  if (isDifference) return coloured(map, ...differenceColours());
  return coloured(map, (value) => HEAT_TABLE[Math.round(255 * value)], (value) => (over ? 0.85 * value ** 0.6 : 1));
}

function drawFixations(context, picture, width, height) {
  const radius = Math.max(2, width / 130);
  context.lineWidth = radius / 1.6;
  context.strokeStyle = "#000a";
  context.fillStyle = "#ffe066";
  for (let i = 0; i < picture.fixations.length; i += 2) {
    const x = ((picture.fixations[i] + 0.5) / picture.width) * width;
    const y = ((picture.fixations[i + 1] + 0.5) / picture.height) * height;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
    context.fill();
  }
}

/** Draw a layer: "picture", "fixations", "truth", "difference" or the index of a model or reference. */
async function paint(canvas, picture, layer, over) {
  const ticket = (canvas.ticket = (canvas.ticket ?? 0) + 1);
  const isDifference = layer === "difference";
  const isMap = layer !== "picture" && layer !== "fixations";
  const map = isDifference ? await differenceMap(picture) : isMap ? await loadMap(picture, layer) : null;
  const image = !isMap || over ? await loadImage(picture.image) : null;
  if (canvas.ticket !== ticket) return; // a newer drawing has started on this canvas
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.globalAlpha = 1;
  context.fillStyle = isMap && !over ? "#000004" : "#fff";
  context.fillRect(0, 0, width, height);
  if (isMap && !map) return drawAbsence(context, width, height);
  if (image) {
    context.filter = isMap ? "grayscale(1) brightness(0.62)" : "none";
    context.drawImage(image, 0, 0, width, height);
    context.filter = "none";
  }
  if (layer === "fixations") drawFixations(context, picture, width, height);
  if (map) context.drawImage(colour(map, over, isDifference), 0, 0, width, height);
  canvas.dataset.painted = String(layer);
}

function drawAbsence(context, width, height) {
  context.fillStyle = "#3a3d44";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#f2f2f2";
  context.font = `${Math.max(12, Math.round(width / 12))}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText("no map", width / 2, height / 2);
}

function labelOf(layer) {
  const fixed = { picture: "picture", fixations: "fixations", truth: "people", difference: "difference" };
  return fixed[layer] ?? scored[layer].name;
}

/* ---------- one picture, large ---------- */

let current = null; // the row that the dialog shows
const sides = { left: "fixations", right: null };

function layersOf(picture) {
  const models = [...scored.keys()].filter((index) => picture.maps[index]);
  const both = view.first !== view.second && picture.maps[view.first] && picture.maps[view.second];
  return ["picture", "fixations", ...(picture.truth ? ["truth"] : []), ...models, ...(both ? ["difference"] : [])];
}

function openDetail(row) {
  current = row;
  if (!$("detail").open) {
    Object.assign(sides, { left: String(view.second), right: String(view.first) });
    $("wipe").value = 50;
  }
  showDetail();
  if (!$("detail").open) $("detail").showModal();
  $("detail").scrollTop = 0;
}

function showDetail() {
  const picture = pictureOfRow.get(current);
  const layers = layersOf(picture);
  $("detail-title").textContent = rows[current].name;
  $("detail-row").href = `#row-${current}`;
  const shown = selection.filter((row) => pictureOfRow.has(row));
  showPlace(shown.indexOf(current), shown.length);
  for (const [side, fallback] of [["left", "fixations"], ["right", "truth"]]) {
    const options = layers.map((layer) => element("option", { value: layer }, labelOf(layer)));
    $(side).replaceChildren(...options);
    if (!layers.map(String).includes(sides[side])) sides[side] = layers.includes(fallback) ? fallback : "picture";
    $(side).value = sides[side];
  }
  showSides();
  $("layers").replaceChildren(...layers.map((layer) => layerButton(picture, layer)));
  markShown();
  $("detail-scores").replaceChildren(...detailScores());
  $("detail").querySelector(".warm").textContent = `${scored[view.first].name} higher`;
  $("detail").querySelector(".cold").textContent = `${scored[view.second].name} higher`;
}

/** Return a thumbnail of a layer; a click shows it on the right of the wipe. */
function layerButton(picture, layer) {
  const label = layer === "difference"
    ? `${scored[view.first].name} ${MINUS} ${scored[view.second].name}`
    : labelOf(layer);
  const canvas = element("canvas", { "aria-hidden": "true" });
  size(canvas, picture, 320);
  paint(canvas, picture, layer, false);
  const button = element("button", { type: "button", className: "layer", title: `Show ${label} on the right` },
    canvas, element("span", { className: "caption" }, labelOf(layer)));
  button.dataset.layer = layer;
  button.addEventListener("click", () => {
    sides.right = $("right").value = String(layer);
    showSides();
  });
  return element("li", {}, button);
}

function markShown() {
  for (const button of $("layers").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.layer === sides.right));
  }
}

function size(canvas, picture, width) {
  canvas.width = width;
  canvas.height = Math.max(1, Math.round((width * picture.height) / picture.width));
}

function layerOf(value) {
  return /^\d+$/.test(value) ? Number(value) : value;
}

function showSides() {
  const picture = pictureOfRow.get(current);
  for (const side of ["left", "right"]) {
    const canvas = $(`${side}-canvas`);
    const layer = layerOf(sides[side]);
    size(canvas, picture, 800);
    canvas.setAttribute("aria-label", `${side} of the wipe: ${labelOf(layer)} of ${rows[current].name}`);
    paint(canvas, picture, layer, $("over").checked);
    $(`${side}-name`).textContent = labelOf(layer);
  }
  $("stage").style.aspectRatio = `${picture.width} / ${picture.height}`;
  $("detail").style.setProperty("--shape", picture.width / picture.height);
  markShown();
  wipe();
}

function wipe() {
  $("stage").style.setProperty("--wipe", `${$("wipe").value}%`);
  const [left, right] = [sides.left, sides.right].map((side) => labelOf(layerOf(side)));
  $("wipe").setAttribute("aria-valuetext", `${$("wipe").value}% ${left}, the rest ${right}`);
}

/** Return a table with a row per metric: the two compared, their difference, then the others. */
function detailScores() {
  const { scores } = rows[current];
  const two = view.first !== view.second;
  const others = [...scored.keys()].filter((index) => index !== view.first && index !== view.second);
  const column = (label) => element("th", { scope: "col" }, label);
  const head = element("tr", {}, element("th", { scope: "col", className: "name" }, "Metric"),
    column(scored[view.first].name),
    ...(two ? [column(scored[view.second].name), column("difference")] : []),
    ...others.map((index) => column(scored[index].name)));
  const body = metrics.map((metric, m) => {
    const score = (index) => element("td", {}, text(scores[index][m], m));
    const cells = [score(view.first)];
    if (two) cells.push(score(view.second), changeElement("td", current, m));
    return element("tr", {}, element("th", { scope: "row", className: "name" }, metric.name), ...cells, ...others.map(score));
  });
  return [element("thead", {}, head), element("tbody", {}, ...body)];
}

function step(by) {
  const shown = selection.filter((row) => pictureOfRow.has(row));
  const next = shown[shown.indexOf(current) + by];
  if (next !== undefined) openDetail(next);
}

/* ---------- the controls ---------- */

function fillControls() {
  const options = () => scored.map((entry, index) => element("option", { value: index }, entry.name));
  $("first").append(...options());
  $("second").append(...options());
  $("by").append(...options());
  if (scored.length > 1) $("by").prepend(element("option", { value: CHANGE }));
  else $("order").querySelector("option[value=changed]").remove();
  $("metric").append(...metrics.map((metric, index) => element("option", { value: index }, metric.name)));
}

function readControls(changedId) {
  const limit = (id) => ($(id).value === "" || Number.isNaN($(id).valueAsNumber) ? null : $(id).valueAsNumber);
  const by = $("by").value === CHANGE ? CHANGE : Number($("by").value);
  Object.assign(view, {
    first: Number($("first").value),
    second: Number($("second").value),
    by,
    metric: Number($("metric").value),
    order: $("order").value,
    low: limit("low"),
    high: limit("high"),
    name: $("name").value,
  });
  // "most changed" needs the change as value
  if (changedId === "order" && view.order === "changed") view.by = CHANGE;
  if (changedId === "by" && view.order === "changed" && by !== CHANGE) view.order = "best";
}

function listen() {
  $("controls").addEventListener("input", (event) => {
    readControls(event.target.id);
    update();
  });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("reset", (event) => {
    event.preventDefault(); // clears the filter, keeps the order
    Object.assign(view, { low: null, high: null, name: "" });
    for (const id of ["low", "high", "name"]) $(id).value = "";
    update();
  });
  listenToMore(view, CARDS_AT_ONCE, showCards);
  for (const [id, by] of [["rows-back", -1], ["rows-on", 1]]) {
    $(id).addEventListener("click", () => {
      view.page += by;
      showRows();
    });
  }
  listenToDetail(step);
  for (const side of ["left", "right"]) {
    $(side).addEventListener("input", () => {
      sides[side] = $(side).value;
      showSides();
    });
  }
  $("over").addEventListener("input", showSides);
  $("wipe").addEventListener("input", wipe);
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = $("stage").getBoundingClientRect();
    $("wipe").value = Math.round((100 * (event.clientX - box.left)) / box.width);
    wipe();
  };
  $("stage").addEventListener("pointerdown", drag);
  $("stage").addEventListener("pointermove", drag);
}

$("only-differing")?.addEventListener("input", (event) => {
  $("settings").classList.toggle("only-differing", event.target.checked);
});
if (rows.length && scored.length && metrics.length) {
  fillControls();
  listen();
  $("controls").hidden = false;
  update();
  follow(location.hash);
}
