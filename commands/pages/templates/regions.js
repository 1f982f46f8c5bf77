// Sorts the table, sets the opacity of heat maps, and marks the outlines of a row.

/* ---------- the heat maps ---------- */

for (const slider of document.querySelectorAll(".strength input")) {
  const show = () => {
    slider.closest(".region-card").style.setProperty("--heat", slider.value / 100);
    slider.setAttribute("aria-valuetext", `${slider.value}%`);
  };
  slider.addEventListener("input", show);
  show();
}

/* ---------- the table ---------- */

const table = document.getElementById("regions");
const headings = [...table.tHead.rows[0].cells];

function sortBy(place) {
  const heading = headings[place];
  const isNumber = heading.classList.contains("number");
  const first = isNumber ? "descending" : "ascending"; // the greatest number first
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const valueOf = (row) => row.cells[place].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values last, in either order
    return sign * (isNumber ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true }));
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  for (const one of headings) one.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
}

headings.forEach((heading, place) => {
  heading.querySelector(".sort").addEventListener("click", () => sortBy(place));
});

/* ---------- the outlines of a row ---------- */

function point(row) {
  for (const one of document.querySelectorAll(".pointed")) one.classList.remove("pointed");
  if (!row) return;
  for (const one of document.querySelectorAll(`.canvas [data-region="${row.dataset.region}"]`)) {
    one.classList.add("pointed");
  }
}

for (const kind of ["pointerover", "focusin", "click"]) {
  table.tBodies[0].addEventListener(kind, (event) => point(event.target.closest("tr")));
}

