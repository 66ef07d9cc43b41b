// What a figure shows, to take away: its numbers as a table and as CSV, the picture as SVG and PNG, a link to the view.

import { measured, numbers, place } from "../core/sample.js";
import { $, download } from "../draw/dom.js";
import { csvOf, takeaway } from "../draw/takeaway.js";

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
  const { run, state } = view, own = run.truth ? ["label", "prediction"] : ["prompt", "target_tokens_said"];
  const out = [["sample", own[0], "step", "offset", state.measure, "loss", "margin", "confidence", own[1]]];
  for (const i of of) {
    for (let t = 0; t <= run.steps; t++) {
      const n = numbers(run, state, i, t);
      out.push(/** @type {any} */ ([run.sample[i], run.truth ? run.truth[i] : run.text?.prompts[i].id ?? "", t, place(run, state, i, t), n.value, n.loss, n.margin, n.confidence, n.prediction]));
    }
  }
  return out;
}

/** @param {View} view */
export function listenExport(view) {
  $("link").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(location.href); $("link").textContent = "Copied"; } catch { $("link").textContent = location.hash; }
    setTimeout(() => { $("link").textContent = "Link"; }, 1500);
  });
  $("selection-csv").addEventListener("click", () => download("selection.csv", csvOf(samplesOf(view, view.state.brush ?? [])), "text/csv"));
  document.querySelectorAll("figure.watched").forEach((figure) => {
    const node = /** @type {any} */ (figure.querySelector(".plot")), name = `flatlens-${node.id}`;
    takeaway(figure, name, () => {
      const own = node.id === "valley" && measured(view.run, view.state) ? samplesOf(view, [view.state.sample]) : null;
      return { rows: tableOf(node), more: own ? { said: "CSV of the sample", name: `${name}-sample`, rows: own } : undefined };
    }, node);
  });
}
