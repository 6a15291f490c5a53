// Sorts tables by a click on a column, filters their rows by typed words, and opens what a link leads to. No requests.
"use strict";
const number = (text) => { const found = text.replace(/,/g, "").match(/-?\d+(\.\d+)?(e-?\d+)?/); return found ? Number(found[0]) : null; };
function compare(a, b, numeric, down) {
  if (numeric) {
    const x = number(a), y = number(b);
    if (x === null || y === null) return (x === null) - (y === null); // what is empty stays below
    return down ? y - x : x - y;
  }
  return down ? b.localeCompare(a) : a.localeCompare(b);
}
function sort(table, column, button) {
  const head = button.closest("th"), down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.querySelectorAll("tbody > tr")], body = table.tBodies[0];
  const text = (row) => row.cells[column].firstChild ? row.cells[column].textContent.trim() : "";
  const numeric = !head.classList.contains("names");
  rows.sort((a, b) => compare(text(a), text(b), numeric, down));
  body.append(...rows);
  for (const empty of [...table.tBodies].slice(1)) empty.remove();
}
function filter(table, words, said) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.querySelectorAll("tbody > tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  said.textContent = wanted.length ? `${shown} rows` : "";
}
for (const table of document.querySelectorAll("table.data")) {
  [...table.querySelectorAll("thead th")].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, column, button));
  });
  if (table.querySelectorAll("tbody > tr").length < 6) continue;
  const box = document.createElement("label"), input = document.createElement("input"), said = document.createElement("span");
  box.className = "filter";
  input.type = "search";
  input.placeholder = "rows with these words";
  box.append("Filter ", input, said);
  table.closest(".wide").before(box);
  input.addEventListener("input", () => filter(table, input.value, said));
}
function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", open);
open();
