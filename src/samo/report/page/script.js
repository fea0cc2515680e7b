"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  // Pages opened from a file may have no storage.
  const stored = {
    get() { try { return localStorage.getItem("samo-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("samo-theme", value); } catch { /* for this page only */ } },
  };
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => theme.setAttribute("aria-pressed", String(dark()));
  if (["dark", "light"].includes(stored.get())) root.dataset.theme = stored.get();
  system.addEventListener("change", show);
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    show();
  });
  show();

  const words = new Intl.Collator("en", { numeric: true });
  const order = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? words.compare(a, b) : x - y;
  };
  // Empty cells come last in both directions.
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [row.cells[column].dataset.key, row]);
    keyed.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : direction * order(a, b)));
    body.append(...keyed.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down ? -1 : 1);
    }));
  }
  for (const input of document.querySelectorAll("[data-filters]")) {
    const rows = [...document.querySelector(`#${input.dataset.filters} tbody`).rows];
    const output = input.closest("p").querySelector("output");
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      output.value = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    });
  }
})();
