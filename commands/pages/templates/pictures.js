// The state `view` determines what is shown; cards and the dialog are drawn from it.
// File names may contain any character: they are only set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const { pictures, columns, labels, limit } = data;
const HEAT_TABLE = rampTable(data.colours);
const CARDS_AT_ONCE = matchMedia("(max-width: 46rem)").matches ? 8 : 24; // a phone shows cards in one column
const STRONGEST = 5; // points of a list; more scroll

const view = { look: "overlay", opacity: 80, by: "name", order: "up", name: "", cards: CARDS_AT_ONCE };
let selection = []; // indices of pictures, filtered and sorted
let current = null; // the picture that the dialog shows

/* ---------- one picture with its map ---------- */

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function mapOfSide(side, grid = side) {
  const [image, other] = await Promise.all([loadImage(side.map), loadImage(grid.map)]);
  return mapOf(image, other.naturalWidth, other.naturalHeight);
}

/** Draw a side's map, or its difference to another side, on a canvas of the map's own size. */
async function paint(canvas, side, other) {
  const ticket = (canvas.ticket = (canvas.ticket ?? 0) + 1);
  let drawn;
  if (other) {
    const [a, b] = await Promise.all([mapOfSide(side), mapOfSide(other, side)]);
    drawn = coloured(minus(a, b), ...differenceColours(limit));
  } else {
    const over = view.look !== "map";
    const strength = (value) => (over ? value ** 0.6 : 1);
    drawn = coloured(await mapOfSide(side), (value) => HEAT_TABLE[Math.round(255 * value)], strength);
  }
  if (canvas.ticket !== ticket) return; // a newer drawing has started on this canvas
  [canvas.width, canvas.height] = [drawn.width, drawn.height];
  canvas.getContext("2d").drawImage(drawn, 0, 0);
  canvas.dataset.painted = other ? "difference" : view.look;
}

function contourLines(side) {
  const group = svg("g", { class: "levels" });
  side.levels.forEach((lines, i) => {
    // the smallest share is on top
    const all = lines.map((points) => svg("polygon", { class: "under", points }));
    all.push(...lines.map((points) => svg("polygon", { class: `line line-${i + 1}`, points })));
    group.prepend(...all);
  });
  return group;
}

function outlines(side) {
  const lines = side.regions.flatMap((region) => region.polygons.flatMap((points) => [
    svg("polygon", { class: "halo", points, "vector-effect": "non-scaling-stroke" }),
    svg("polygon", { class: "outline", points, "vector-effect": "non-scaling-stroke" }),
  ]));
  return svg("g", { class: "outlines" }, ...lines);
}

/** Return a ring on each point, and a line to its number; the strongest is on top. */
function numberedPoints(side) {
  const r = side.radius;
  const group = svg("g", { class: "points" });
  for (const point of [...side.points].reverse()) {
    const [x, y] = [point.x + 0.5, point.y + 0.5];
    const [left, top] = [point.left + 0.5, point.top + 0.5];
    const apart = Math.hypot(left - x, top - y) || 1;
    const ring = 0.6 * r;
    const line = { x1: x + ((left - x) * ring) / apart, y1: y + ((top - y) * ring) / apart, x2: left, y2: top };
    for (const [kind, width] of [["under", 3], ["over", 1]]) {
      group.append(
        svg("circle", { class: kind, cx: x, cy: y, r: ring, "stroke-width": (width * r) / 8 }),
        svg("line", { class: kind, ...line, "stroke-width": (width * r) / 8 }));
    }
    const disc = svg("circle", { class: "disc", cx: left, cy: top, r: 0.94 * r, "stroke-width": r / 8 });
    const text = svg("text", { x: left, y: top, "font-size": String(point.rank).length > 1 ? r : 1.25 * r });
    text.textContent = point.rank;
    group.append(disc, text);
  }
  return group;
}

function regionLabel(region) {
  const label = element("span", { className: `label${region.left > 55 ? " from-right" : ""}` },
    element("span", { className: "label-name" }, region.name), " ", element("b", {}, region.text));
  for (const edge of ["left", "top", "right", "bottom"]) label.style.setProperty(`--${edge}`, `${region[edge]}%`);
  return label;
}

/** Return a picture with its map, contours, outlines and points; with `other`, the difference. */
function stage(name, side, other = null) {
  const box = element("div", { className: `canvas${other ? " grey" : ""}` });
  box.style.aspectRatio = `${side.width} / ${side.height}`;
  box.style.setProperty("--shape", side.width / side.height);
  const heat = element("canvas", { className: `heat${other ? " difference" : ""}`, role: "img",
    "aria-label": other ? `Difference of the two maps of ${name}` : `Map of ${name}` });
  box.append(element("img", { src: side.image, alt: name }), heat);
  paint(heat, side, other);
  if (other) return box;
  heat.repaint = () => paint(heat, side, null);
  const marks = svg("svg", { viewBox: `0 0 ${side.width} ${side.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  marks.append(contourLines(side), outlines(side), numberedPoints(side));
  box.append(marks, ...side.regions.map(regionLabel));
  return box;
}

/* ---------- the gallery ---------- */

function select() {
  const wanted = view.name.toLowerCase();
  const value = (i) => (view.by === "name" ? pictures[i].name : pictures[i].figures[view.by][0]);
  const sign = view.order === "up" ? 1 : -1;
  const byName = (a, b) => pictures[a].name.localeCompare(pictures[b].name, undefined, { numeric: true });
  selection = [...pictures.keys()].filter((i) => pictures[i].name.toLowerCase().includes(wanted)).sort((a, b) => {
    if (view.by === "name") return sign * byName(a, b);
    const missing = (value(a) === null) - (value(b) === null); // missing values last, in either order
    return missing || sign * (value(a) - value(b)) || byName(a, b);
  });
}

function card(i) {
  const { name, sides, figures } = pictures[i];
  const framed = (made) => element("div", { className: "frame" }, made);
  const open = element("button", { type: "button", className: "open", "aria-label": `Look at ${name}` },
    framed(stage(name, sides[0])));
  open.addEventListener("click", () => openDetail(i));
  const text = element("div", { className: "card-text" }, element("p", { className: "card-name" }, element("span", {}, name)));
  const shown = view.by === "name" ? 0 : view.by;
  text.append(element("p", { className: "card-scores" },
    element("span", {}, `${columns[shown].name} `, element("b", {}, figures[shown][1]))));
  const strip = element("div", { className: "strip" });
  if (sides[1]) {
    strip.append(
      element("div", {}, framed(stage(name, sides[1])), element("span", { className: "caption" }, labels[1])),
      element("div", {}, framed(stage(name, ...sides)), element("span", { className: "caption" }, "difference")));
  }
  return element("li", { className: "card" }, open, ...(sides[1] ? [strip] : []), text);
}

function showCards() {
  $("gallery").replaceChildren(...selection.slice(0, view.cards).map(card));
  const left = selection.length - view.cards;
  $("more").hidden = left <= 0;
  $("more").textContent = `Show ${Math.min(left, CARDS_AT_ONCE)} more of ${left}`;
  $("count").textContent = selection.length ? `${selection.length} of ${pictures.length} pictures` : "No picture matches the filter.";
}

function update() {
  view.cards = CARDS_AT_ONCE;
  select();
  showCards();
}

/* ---------- one picture, large ---------- */

function openDetail(i) {
  current = i;
  const { name, sides } = pictures[i];
  $("detail-title").textContent = name;
  showPlace(selection.indexOf(i), selection.length);
  const version = (made, text) => element("div", { className: "version" }, made, ...(text ? [element("p", { className: "caption" }, text)] : []));
  const all = sides[1]
    ? [version(stage(name, sides[0]), labels[0]), version(stage(name, sides[1]), labels[1]), version(stage(name, ...sides), "difference")]
    : [version(stage(name, sides[0]), "")];
  $("stages").classList.toggle("one", all.length === 1);
  $("stages").replaceChildren(...all);
  fillFacts(pictures[i]);
  if (!$("detail").open) $("detail").showModal();
  $("detail").scrollTop = 0;
  placeLabels();
}

function tableOf(heads, lines) {
  const head = element("tr", {}, ...heads.map((text, i) => element("th", { scope: "col", className: i ? "" : "name" }, text)));
  const body = lines.map(([name, ...cells]) => element("tr", {},
    element("th", { scope: "row", className: "name" }, ...[name].flat()), ...cells.map((text) => element("td", {}, text))));
  return [element("thead", {}, head), element("tbody", {}, ...body)];
}

function fillFacts({ figures, sides }) {
  const own = columns.map((column, i) => [column, figures[i][1]]).filter(([column]) => !column.name.startsWith("Region: "));
  $("detail-figures").replaceChildren(...tableOf(["Figure", "Value"], own.map(([column, text]) =>
    [[column.name, element("span", { className: "way" }, column.about)], text])));
  const { regions, points } = sides[0];
  const other = new Map((sides[1]?.regions ?? []).map((region) => [region.name, region.text]));
  $("detail-regions").hidden = !regions.length;
  $("detail-regions").replaceChildren(element("table", {}, ...tableOf(
    ["Region", other.size ? labels[0] : "Share", ...(other.size ? [labels[1]] : [])],
    regions.map((region) => [region.name, region.text, ...(other.size ? [other.get(region.name) ?? DASH] : [])]))));
  $("detail-points").hidden = !points.length;
  $("detail-points").classList.toggle("tall", points.length > STRONGEST);
  $("detail-points").replaceChildren(element("table", {}, ...tableOf(["Point", "x, y", "Strength"],
    points.map((point) => [String(point.rank), `${point.x}, ${point.y}`, point.strength.toFixed(2)]))));
}

function step(by) {
  const next = selection[selection.indexOf(current) + by];
  if (next !== undefined) openDetail(next);
}

/* ---------- the controls ---------- */

function showLook() {
  document.body.dataset.view = view.look;
  document.body.style.setProperty("--heat", view.opacity / 100);
  for (const looks of document.querySelectorAll(".looks")) {
    looks.dataset.view = view.look;
    for (const button of looks.querySelectorAll("[data-look]")) {
      button.setAttribute("aria-pressed", String(button.dataset.look === view.look));
    }
    for (const key of looks.querySelectorAll("[data-for]")) key.hidden = !key.dataset.for.includes(view.look);
    const slider = looks.querySelector(".opacity input");
    slider.value = view.opacity;
    slider.disabled = view.look !== "overlay";
    slider.setAttribute("aria-valuetext", `${view.opacity}%`);
  }
}

function look(kind) {
  view.look = kind;
  showLook();
  for (const heat of document.querySelectorAll(".heat")) heat.repaint?.();
}

for (const looks of document.querySelectorAll(".looks")) {
  looks.addEventListener("click", (event) => {
    const button = event.target.closest("[data-look]");
    if (button) look(button.dataset.look);
  });
  looks.querySelector(".opacity input").addEventListener("input", (event) => {
    view.opacity = Number(event.target.value);
    showLook();
  });
  for (const box of looks.querySelectorAll("[data-mark]")) {
    box.addEventListener("input", () => {
      document.body.classList.toggle(`no-${box.dataset.mark}`, !box.checked);
      for (const twin of document.querySelectorAll(`[data-mark="${box.dataset.mark}"]`)) twin.checked = box.checked;
      placeLabels();
    });
  }
}
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("controls").addEventListener("input", (event) => {
  if (event.target.id === "by" && $("by").value === "name") $("order").value = "up";
  const by = $("by").value;
  Object.assign(view, { by: by === "name" ? by : Number(by), order: $("order").value, name: $("name").value });
  update();
});
listenToMore(view, CARDS_AT_ONCE, showCards);
$("gallery").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const all = [...$("gallery").querySelectorAll(".open")];
  if (by) all[all.indexOf(document.activeElement) + by]?.focus();
});
listenToDetail(step);
$("controls").hidden = false;
showLook();
update();
