"use strict";
// Filters rows and cases; the page says all of it without this too.
const form = document.getElementById("filter");
const rows = [...document.querySelectorAll("#table tbody tr")];
const cases = [...document.querySelectorAll("details[data-verdict]")];
const words = rows.map((row) => `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase());
function apply() {
  const wanted = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, at) => {
    const show = form.elements[row.dataset.verdict].checked && wanted.every((word) => words[at].includes(word));
    row.hidden = cases[at].hidden = !show;
    shown += show;
  });
  form.querySelector("output").textContent = `${shown} of ${rows.length} cases`;
}
function open() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
form.hidden = false;
form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", open);
apply();
open();
