// Tables that stand without a script, and can be sorted with one.

import { orderOf } from "../core/defences.js";
import { $, make } from "./dom.js";

/** A table whose cells carry their numbers is sorted by a press on a column's name. @param {string} id */
export function listenSort(id) {
  const table = $(id);
  if (!table) return;
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const press = () => {
      const down = head.getAttribute("aria-sort") !== "descending" && (column > 0 || head.getAttribute("aria-sort") === "ascending");
      const lines = [...table.querySelectorAll("tbody tr")], told = (/** @type {any} */ cell) => (column ? (cell.dataset.value === undefined ? null : Number(cell.dataset.value)) : cell.textContent);
      table.querySelector("tbody").append(...orderOf(lines.map((line) => told(line.children[column])), down).map((i) => lines[i]));
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? (down ? "descending" : "ascending") : "none"));
      heads.forEach((other) => { other.querySelector("span").textContent = other === head ? (down ? " ↓" : " ↑") : ""; });
    };
    head.setAttribute("aria-sort", "none");
    head.replaceChildren(make("button", { type: "button", class: "sort", onclick: press }, head.textContent, make("span", { "aria-hidden": "true" })));
  });
}
