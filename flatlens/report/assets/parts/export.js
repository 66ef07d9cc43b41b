// What a figure shows, to take away: its numbers as a table and as CSV, the picture as SVG and PNG, a link to the view.

import { measured, numbers, place } from "../core/sample.js";
import { cell, num } from "../core/text.js";
import { $, download, make } from "../draw/dom.js";

/** @typedef {import("../pages/run.js").View} View */

/** The numbers of a figure: what is drawn, column by column. @param {any} node plotly's @returns {[string, ...unknown[]][]} */
export function tableOf(node) {
  /** @type {[string, ...unknown[]][]} */
  const out = [["curve", "x", "y", "low", "high", "n"]];
  for (const trace of node.calcdata ? node._fullData : []) {
    if (trace.hoverinfo === "skip" || trace.hoverinfo === "none") continue;
    const name = trace.name || (trace.meta && trace.meta.path) || trace.type;
    if (trace.type === "heatmap") {
      trace.z.forEach((/** @type {number[]} */ row, /** @type {number} */ k) => row.forEach((v, t) => out.push([String(trace.y[k]), t, v, "", "", ""])));
      continue;
    }
    for (let k = 0; k < trace.x.length; k++) {
      const more = Array.isArray(trace.customdata?.[k]) || ArrayBuffer.isView(trace.customdata?.[k]) ? [...trace.customdata[k]] : ["", "", trace.text?.[k] ?? ""];
      out.push([String(name), trace.x[k], trace.y[k], ...more]);
    }
  }
  return out;
}

/** All samples of the file at all steps, as the inspector says them. @param {View} view @param {number[]} of */
export function samplesOf(view, of) {
  const { run, state } = view, out = [["sample", "label", "step", "offset", state.measure, "loss", "margin", "confidence", "prediction"]];
  for (const i of of) {
    for (let t = 0; t <= run.steps; t++) {
      const n = numbers(run, state, i, t);
      out.push(/** @type {any} */ ([run.sample[i], run.truth[i], t, place(run, state, i, t), n.value, n.loss, n.margin, n.confidence, n.prediction]));
    }
  }
  return out;
}

/** @param {unknown[][]} rows */
const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";

/** @param {View} view */
export function listenExport(view) {
  $("link").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(location.href); $("link").textContent = "Copied"; } catch { $("link").textContent = location.hash; }
    setTimeout(() => { $("link").textContent = "Link"; }, 1500);
  });
  $("selection-csv").addEventListener("click", () => download("selection.csv", csv(samplesOf(view, view.state.brush ?? [])), "text/csv"));
  document.querySelectorAll("figure.watched").forEach((figure) => {
    const node = /** @type {any} */ (figure.querySelector(".plot"));
    const details = make("details", { class: "data" }, make("summary", {}, "Data"));
    details.addEventListener("toggle", () => { if (details.open) fill(view, node, details); });
    figure.append(details);
  });
}

/** @param {View} view @param {any} node @param {any} details */
function fill(view, node, details) {
  const rows = tableOf(node), name = `flatlens-${node.id}`, Plotly = /** @type {any} */ (globalThis).Plotly;
  const picture = (/** @type {string} */ format) => Plotly.downloadImage(node, { format, filename: name, scale: format === "png" ? 2 : 1, width: node.clientWidth, height: node.clientHeight });
  const shown = rows.slice(1, 401).map((row) => make("tr", {}, ...row.map((v) => make("td", { class: typeof v === "number" ? "num" : null }, typeof v === "number" ? num(v, 4) : String(v)))));
  const own = node.id === "valley" ? measured(view.run, view.state) && samplesOf(view, [view.state.sample]) : [];
  details.replaceChildren(details.firstElementChild,
    make("div", { class: "takeaway" },
      make("button", { type: "button", onclick: () => download(`${name}.csv`, csv(rows), "text/csv") }, "CSV"),
      own.length ? make("button", { type: "button", onclick: () => download(`${name}-sample.csv`, csv(own), "text/csv") }, "CSV of the sample") : null,
      make("button", { type: "button", onclick: () => picture("svg") }, "SVG"),
      make("button", { type: "button", onclick: () => picture("png") }, "PNG")),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Data of this figure" },
      make("table", {}, make("thead", {}, make("tr", {}, ...rows[0].map((h) => make("th", { scope: "col" }, String(h))))), make("tbody", {}, ...shown))),
    rows.length > 401 ? make("p", { class: "note" }, `The first 400 of ${rows.length - 1} rows; the CSV has all.`) : "");
}
