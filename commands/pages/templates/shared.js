"use strict";
// Small helpers, maps on canvases, the dialog of one picture, and labels of outlines: shared by the pages.

const DASH = "\u2013";
const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/* ---------- tables ---------- */

/** Say above each table that is wider than its box that there is more to see. */
for (const box of document.querySelectorAll("main .wide")) {
  const hint = element("p", { className: "scroll-hint", hidden: true }, "More columns: scroll sideways \u2192");
  box.before(hint);
  const watch = new ResizeObserver(() => {
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
  });
  for (const one of [box, ...box.children]) watch.observe(one);
}

function listenToMore(view, cardsAtOnce, show) {
  $("more").addEventListener("click", () => {
    const before = view.cards;
    view.cards += cardsAtOnce;
    show();
    $("gallery").children[before]?.querySelector("button").focus();
  });
}

/* ---------- maps ---------- */

const [COLD, WARM] = [[0x3b, 0x8b, 0xd9], [0xe8, 0x79, 0x2b]]; // of differences; the strength is in the alpha

function ramp(colours, place) {
  const at = Math.min(0.9999, Math.max(0, place)) * (colours.length - 1);
  const [from, to] = [colours[Math.floor(at)], colours[Math.floor(at) + 1]];
  return [1, 3, 5].map((i) => {
    const [a, b] = [parseInt(from.slice(i, i + 2), 16), parseInt(to.slice(i, i + 2), 16)];
    return a + (b - a) * (at % 1);
  });
}

function rampTable(colours) {
  return Array.from({ length: 256 }, (_, i) => ramp(colours, i / 255));
}

function loadImage(uri) {
  const image = new Image();
  image.src = uri;
  return image.decode().then(() => image);
}

/** Return the grey values of an image on a grid of this size, scaled to a maximum of 1. */
function mapOf(image, width, height) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const values = Float32Array.from({ length: pixels.length / 4 }, (_, i) => pixels[4 * i] / 255);
  const peak = values.reduce((a, b) => Math.max(a, b), 0) || 1;
  return { width, height, values: values.map((value) => value / peak) };
}

function minus(a, b) {
  return { ...a, values: a.values.map((value, i) => value - b.values[i]) };
}

/** Return colour and strength of differences on a symmetrical scale, as functions for `coloured`. */
function differenceColours(limit = 1) {
  return [
    (value) => (value < 0 ? COLD : WARM),
    (value) => Math.min(1, 1.3 * Math.abs(value / limit) ** 0.7),
  ];
}

/** Return a canvas of a map; `colourOf` a value is [r, g, b], `strengthOf` it is 0 to 1. */
function coloured(map, colourOf, strengthOf) {
  const canvas = element("canvas", { width: map.width, height: map.height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.width, map.height);
  map.values.forEach((value, i) => image.data.set([...colourOf(value), 255 * strengthOf(value)], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

/* ---------- the dialog of one picture ---------- */

/** Listen to the buttons and the arrow keys of the dialog; `step` goes on by a number of pictures. */
function listenToDetail(step) {
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("click", (event) => {
    if (event.target === $("detail")) $("detail").close(); // the backdrop
  });
  $("detail").addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, .wide")) return; // these elements use the arrow keys themselves
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}

function showPlace(place, count) {
  $("detail-place").textContent = `${place + 1} of ${count}`;
  $("previous").disabled = place <= 0;
  $("next").disabled = place >= count - 1;
  if (document.activeElement.disabled) $("close").focus(); // otherwise the arrow keys would have no effect
}

/* ---------- the labels of the outlines ---------- */

const PLACES = ["over-box", "", "under-box", "at-bottom"]; // of a label at its region, the best first

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** Move labels that would hide another label to the next free place at their region. */
function placeLabels() {
  for (const canvas of document.querySelectorAll(".canvas")) {
    const frame = canvas.getBoundingClientRect();
    const taken = [];
    for (const label of canvas.querySelectorAll(".label")) {
      const boxOf = (place) => {
        label.classList.remove(...PLACES.filter(Boolean));
        if (place) label.classList.add(place);
        return label.getBoundingClientRect();
      };
      const isFree = (place) => {
        const box = boxOf(place);
        return box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1 && !taken.some((other) => overlap(box, other));
      };
      taken.push(boxOf(PLACES.find(isFree) ?? ""));
    }
  }
}

addEventListener("resize", placeLabels);
placeLabels();
