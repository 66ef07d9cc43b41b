// What a figure shows, to take away: its numbers as a table and as CSV, the picture as SVG and PNG.

import { cell, num } from "../core/text.js";
import { download, make } from "./dom.js";

/** @typedef {unknown[][]} Rows the first one names the columns */
/** @typedef {{ rows: Rows, more?: { said: string, name: string, rows: Rows } }} Contents `more`: another file of numbers, under a name of its own */

const AT_ONCE = 400;

/** @param {Rows} rows */
export const csvOf = (rows) => rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";

/**
 * A line under a figure that opens to its numbers; what it returns fills it anew, if it is open.
 * @param {any} figure @param {string} name of the files @param {() => Contents} contents @param {any} [plot] plotly's node, where the picture is plotly's
 */
export function takeaway(figure, name, contents, plot) {
  const details = make("details", { class: "data" }, make("summary", {}, "Data"));
  const again = () => { if (details.open) fill(details, name, contents(), plot); };
  details.addEventListener("toggle", again);
  figure.append(details);
  return again;
}

/** What the card around it is called, without what is said of it in small letters. @param {any} details */
const headingOf = (details) => details.parentNode.querySelector("h2").firstChild.textContent.trim();

/** @param {any} details @param {string} name @param {Contents} contents @param {any} plot */
function fill(details, name, { rows, more }, plot) {
  const [head, ...all] = rows;
  const picture = (/** @type {string} */ format) => /** @type {any} */ (globalThis).Plotly.downloadImage(plot, { format, filename: name, scale: format === "png" ? 2 : 1, width: plot.clientWidth, height: plot.clientHeight });
  const button = (/** @type {string} */ said, /** @type {() => void} */ press) => make("button", { type: "button", onclick: press }, said);
  const file = (/** @type {string} */ said, /** @type {string} */ of, /** @type {Rows} */ numbers) => button(said, () => download(`${of}.csv`, csvOf(numbers), "text/csv"));
  const shown = all.slice(0, AT_ONCE).map((row) => make("tr", {}, ...row.map((v) => make("td", { class: typeof v === "number" ? "num" : null }, typeof v === "number" ? num(v, 4) : String(v ?? "")))));
  details.replaceChildren(details.firstElementChild,
    make("div", { class: "takeaway" }, file("CSV", name, rows), more ? file(more.said, more.name, more.rows) : null,
      ...(plot ? [button("SVG", () => picture("svg")), button("PNG", () => picture("png"))] : [])),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Data: ${headingOf(details)}` },
      make("table", {}, make("thead", {}, make("tr", {}, ...head.map((title) => make("th", { scope: "col" }, String(title))))), make("tbody", {}, ...shown))),
    all.length > AT_ONCE ? make("p", { class: "note" }, `The first ${AT_ONCE} of ${all.length} rows; the CSV has all.`) : "");
}
