// Filters and sorts the table of the catalogue; without it the table is there all the same.
"use strict";

function catalogue(table) {
  const data = JSON.parse(document.getElementById("catalogue-data").textContent);
  const body = table.tBodies[0];
  const row = new Map([...body.rows].map((tr) => [tr.dataset.name, tr]));
  const filters = document.querySelector(".filters");
  const heads = [...table.tHead.rows[0].cells];
  const order = { key: "name", down: false };
  filters.hidden = false;

  const text = (entry) => Object.values(entry).flat().join(" ").toLowerCase();
  const fits = (entry, name, wanted) =>
    Array.isArray(entry[name]) ? entry[name].includes(wanted) : String(entry[name]) === wanted;
  const value = (entry, key) => (Array.isArray(entry[key]) ? entry[key].join(", ") : entry[key]);

  function filter() {
    const words = filters.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...filters.querySelectorAll("select")].filter((select) => select.value);
    let shown = 0;
    for (const entry of data) {
      const said = text(entry);
      const fitting =
        words.every((word) => said.includes(word)) &&
        chosen.every((select) => fits(entry, select.name, select.value));
      row.get(entry.name).hidden = !fitting;
      shown += fitting;
    }
    filters.querySelector("output").textContent = `${shown} of ${data.length}`;
    const query = new URLSearchParams(chosen.map((select) => [select.name, select.value]));
    if (words.length) query.set("words", words.join(" "));
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  }

  function sort(head) {
    const key = head.dataset.key;
    order.down = order.key === key && !order.down;
    order.key = key;
    const number = "number" in head.dataset;
    const compared = (a, b) =>
      number
        ? parseFloat(value(a, key)) - parseFloat(value(b, key))
        : String(value(a, key)).localeCompare(String(value(b, key)));
    data.sort((a, b) => (order.down ? -1 : 1) * compared(a, b));
    body.append(...data.map((entry) => row.get(entry.name)));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
  }

  for (const [name, wanted] of new URLSearchParams(location.search)) {
    const field = filters.querySelector(`[name="${CSS.escape(name)}"]`);
    if (field) field.value = wanted;
  }
  filters.addEventListener("input", filter);
  for (const head of heads) head.addEventListener("click", () => sort(head));
  heads[0].setAttribute("aria-sort", "ascending");
  filter();
}

for (const table of document.querySelectorAll("table[data-catalogue]")) catalogue(table);
