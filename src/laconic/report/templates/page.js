"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures-data").textContent);
  const phone = window.matchMedia("(max-width: 560px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // "var(--name)" under a key that ends in "color" becomes the page's value for the current scheme.
  function colored(value, key, style) {
    if (Array.isArray(value)) return value.map((item) => colored(item, key, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, colored(item, name, style)]));
    }
    const token = typeof value === "string" && key.toLowerCase().endsWith("color") && /^var\((--[\w-]+)\)$/.exec(value);
    return token ? style.getPropertyValue(token[1]).trim() : value;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = colored(figures[place.dataset.figure], "", style);
      figure.layout.font.family = getComputedStyle(document.body).fontFamily;
      if (phone.matches) figure.layout.hoverlabel.font.size = 11;
      Plotly.react(place, figure.data, figure.layout, { displayModeBar: false, responsive: true, doubleClick: false });
    }
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    for (const button of table.tHead.querySelectorAll("button[data-column]")) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const numeric = head.classList.contains("number");
        const next = { none: numeric ? "descending" : "ascending", ascending: numeric ? "none" : "descending", descending: numeric ? "ascending" : "none" };
        const order = next[head.getAttribute("aria-sort")];
        for (const other of table.tHead.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        body.append(...(order === "none" ? original : sorted(original, button.dataset.column, numeric, order === "ascending" ? 1 : -1)));
      });
    }
  }

  // Rows without a value come last, whichever way the column is sorted.
  function sorted(rows, column, numeric, sign) {
    const read = (row) => [...row.cells].find((cell) => cell.dataset.column === column)?.dataset.sort;
    const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b);
    const known = rows.filter((row) => read(row) !== undefined);
    known.sort((a, b) => sign * compare(read(a), read(b)));
    return [...known, ...rows.filter((row) => read(row) === undefined)];
  }

  // Rows whose words hold every word that was typed stay; the live region says how many.
  function filtering(table, field) {
    const rows = [...table.tBodies[0].rows];
    const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const place = document.getElementById("shown");
    field.closest(".filter").hidden = false;
    field.addEventListener("input", () => {
      const asked = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !asked.every((word) => words.get(row).includes(word));
      const left = rows.filter((row) => !row.hidden).length;
      place.textContent = asked.length ? `${left} of ${rows.length} shown` : "";
    });
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copies);
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    const words = done ? "Copied" : "Press Ctrl+C";
    button.textContent = words;
    document.getElementById("said").textContent = words;
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }

  // The page of a run that goes on is written anew; it reads itself again, but not while somebody types, selects, or looks elsewhere.
  function again(seconds) {
    setInterval(() => {
      const busy = document.hidden || document.activeElement.matches("input, select") || String(getSelection());
      if (!busy) location.reload();
    }, 1000 * seconds);
  }

  const main = document.querySelector("main");
  if (main.dataset.again) again(Number(main.dataset.again));
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  const field = document.getElementById("filter");
  if (field) filtering(document.getElementById("candidates"), field);
  for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
  dark.addEventListener("change", draw);
  phone.addEventListener("change", draw);
  draw();
})();
