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

  // The frontier over two quantities of the reader's choice: the same marks at other places. The first choice is the figure with its budget and names.
  function crossing(axes) {
    const own = figures.frontier;
    const of = new Map(axes.quantities.map((quantity) => [quantity.name, quantity]));
    const selects = ["x", "y"].map((side) => document.getElementById(`axis-${side}`));
    selects[0].closest(".axes").hidden = false;
    const change = () => {
      const [x, y] = selects.map((select) => of.get(select.value));
      figures.frontier = x.name === axes.x && y.name === axes.y ? own : crossed(own, x, y);
      draw();
    };
    for (const select of selects) select.addEventListener("change", change);
  }

  function crossed(own, x, y) {
    const marks = own.data.filter((trace) => trace.ids).map((trace) => moved(trace, x, y));
    const keys = Object.keys(x.values).filter((key) => key in y.values);
    const line = { ...own.data[0], ...best(keys, x, y) };
    const layout = { ...own.layout, shapes: [], annotations: [], xaxis: axis(own.layout.xaxis, x), yaxis: axis(own.layout.yaxis, y) };
    return { data: [line, ...marks.filter((trace) => trace.x.length)], layout };
  }

  function moved(trace, x, y) {
    const kept = trace.ids.map((key, place) => [key, place]).filter(([key]) => key in x.values && key in y.values);
    const bars = (quantity, error) => error && {
      ...error,
      array: kept.map(([key]) => quantity.values[key][2] - quantity.values[key][0]),
      arrayminus: kept.map(([key]) => quantity.values[key][0] - quantity.values[key][1]),
    };
    return {
      ...trace,
      x: kept.map(([key]) => x.values[key][0]), y: kept.map(([key]) => y.values[key][0]),
      ids: kept.map(([key]) => key), customdata: kept.map(([, place]) => trace.customdata[place]),
      marker: { ...trace.marker, size: trace.meta.size, symbol: trace.meta.symbol },
      error_x: bars(x, trace.error_x), error_y: bars(y, trace.error_y),
    };
  }

  // Those that no other beats in both, as steps.
  function best(keys, x, y) {
    const cost = (quantity, key) => (quantity.less ? 1 : -1) * quantity.values[key][0];
    const sorted = keys.toSorted((a, b) => cost(x, a) - cost(x, b) || cost(y, a) - cost(y, b));
    let least = Infinity;
    const on = sorted.filter((key) => cost(y, key) < least && ((least = cost(y, key)), true));
    return {
      x: on.map((key) => x.values[key][0]), y: on.map((key) => y.values[key][0]), line: { ...figures.frontier.data[0].line, shape: "hv" },
    };
  }

  function axis(own, quantity) {
    const values = Object.values(quantity.values).map(([value]) => value);
    const log = Math.min(...values) > 0 && Math.max(...values) > 4 * Math.min(...values);
    const title = { ...own.title, text: escaped(quantity.title) };
    const plain = Object.fromEntries(Object.entries(own).filter(([name]) => !["type", "range", "tickvals", "ticktext"].includes(name)));
    return { ...plain, title, ...(log ? { type: "log", dtick: "D2" } : {}) };
  }

  function escaped(text) {
    return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
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

  if (figures.axes) crossing(figures.axes);
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
