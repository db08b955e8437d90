// Tables: <table class="sortable"> is sorted by a click or Enter on a heading; <input data-filters="TABLE"> hides rows.
"use strict";
(() => {
  const shown = (cell) => cell?.dataset.value ?? cell?.textContent.trim() ?? "";

  function compare(one, other) {
    if ((one === "") !== (other === "")) return one === "" ? 1 : -1; // rows without a value come last, either way
    const numbers = [parseFloat(one), parseFloat(other)];
    return numbers.some(Number.isNaN) ? one.localeCompare(other, undefined, { numeric: true }) : numbers[0] - numbers[1];
  }

  function sort(table, heading) {
    const place = [...heading.parentNode.children].indexOf(heading), body = table.tBodies[0];
    const falls = heading.ariaSort ? heading.ariaSort === "ascending" : heading.classList.contains("number");
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.ariaSort = falls ? "descending" : "ascending";
    const rows = [...body.rows].map((row) => [shown(row.cells[place]), row]);
    rows.sort(([one], [other]) => one === "" || other === "" || !falls ? compare(one, other) : -compare(one, other));
    body.append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable"))
    for (const heading of table.tHead.rows[0].cells) {
      heading.tabIndex = 0;
      heading.title = "sort by " + heading.textContent.trim();
      heading.addEventListener("click", () => sort(table, heading));
      heading.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sort(table, heading);
      });
    }

  for (const input of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(input.dataset.filters);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
})();
