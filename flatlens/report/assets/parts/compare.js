// Several runs: each one's picture on one scale, what differs from the first, and the same sample in all of them.

import { says } from "../core/sample.js";
import { count, num, percent, span } from "../core/text.js";
import { $, make } from "../draw/dom.js";
import { CONFIG, figureOf } from "../draw/figure.js";

/** @typedef {import("../pages/run.js").View} View */
/** @typedef {import("../core/types.js").Run} Run */

const MOST = 24;

/** The layer of the same name, else the first. @param {Run} run @param {string} name */
const layerOf = (run, name) => Math.max(0, run.layers.findIndex((l) => l.name === name));

/** Ticks of the range that all share: a figure's own are for its own. @param {number[]} range @param {boolean} log */
export const ticksOf = ([low, high], log) => ({ dtick: log ? (high - low < 1 ? undefined : high - low < 2 ? "D2" : Math.ceil((high - low) / 5)) : high - low < 8 ? 1 : undefined, nticks: 6 });

/** @param {View} view */
export function drawCompare(view) {
  const { data, run, state } = view, card = $("compare-card");
  card.hidden = data.runs.length < 2;
  if (card.hidden) return;
  const shown = data.runs.slice(0, MOST), name = run.layers[state.layer].name;
  const drawn = shown.map((r) => figureOf(data, r, "valley", `${state.measure}|${layerOf(r, name)}|${state.align}`));
  const of = (/** @type {string} */ axis) => drawn.filter((d) => d).map((d) => d?.layout[axis].range);
  const ends = (/** @type {number[][]} */ all) => [Math.min(...all.map((r) => r[0])), Math.max(...all.map((r) => r[1]))];
  const x = ends(of("xaxis")), y = ends(of("yaxis")), box = $("multiples");
  if (box.childElementCount !== shown.length) {
    box.replaceChildren(...shown.map((r, k) => make("div", {},
      make("button", { type: "button", class: "plain", onclick: () => view.change({ run: k }) }, r.name), make("div", { class: "plot multiple", role: "img" }))));
  }
  shown.forEach((r, k) => {
    const node = box.children[k].lastElementChild, own = drawn[k];
    box.children[k].firstElementChild.setAttribute("aria-current", String(k === state.run));
    node.setAttribute("aria-label", `${r.name}: ${data.symbols[state.measure]} along the path`);
    if (!own) return node.replaceChildren("not measured");
    const cross = r.paths.find((p) => p.role === "cross"), kept = [r.paths[0].name, cross && cross.name];
    const traces = own.data.filter((t) => !t.meta || kept.includes(t.meta.path));
    const layout = { ...own.layout, height: 200, margin: { l: 44, r: 8, t: 8, b: 36 }, annotations: [], xaxis: { ...own.layout.xaxis, range: x, ...ticksOf(x, false) }, yaxis: { ...own.layout.yaxis, range: y, ...ticksOf(y, own.layout.yaxis.type === "log"), title: { text: "" } } };
    /** @type {any} */ (globalThis).Plotly.react(node, traces, layout, CONFIG);
  });
  drawDifferences(view, shown);
}

/** @param {View} view @param {Run[]} shown */
function drawDifferences(view, shown) {
  const { data, state } = view, apart = data.compared[state.measure];
  const interval = (/** @type {any} */ [value, low, high], /** @type {(v: number) => string} */ say) => (value === null ? "–" : `${say(value)} [${say(low)}, ${say(high)}]`);
  const points = (/** @type {number} */ v) => `${v > 0 ? "+" : v < 0 ? "−" : ""}${Math.abs(100 * v).toFixed(1)}`;
  const rows = shown.map((r, k) => {
    const found = r.results[0][state.measure]?.[0].summary, d = k && apart ? apart[k - 1] : null;
    return make("tr", {}, make("th", { scope: "row" }, r.name),
      make("td", { class: "num" }, found ? `${percent(found.valley_of_flipped.value)} [${span(found.valley_of_flipped)}]` : "–"),
      make("td", { class: "num" }, found ? num(found.depth.value) : "–"),
      make("td", { class: "num" }, d ? interval(d.share, points) : k ? "–" : "the first"),
      make("td", { class: "num" }, d && d.paired && d.depth.value !== null ? `${num(d.depth.value)}${d.depth.low === null ? "" : ` [${num(d.depth.low)}, ${num(d.depth.high)}]`}` : "–"),
      make("td", {}, d ? (d.paired ? `${count(d.n)} that flip in both` : "other samples: not paired") : ""));
  });
  const heads = ["run", "valleys of the flipped", "depth", "more valleys, points", "deeper, decades", "over"];
  $("differences").replaceChildren(make("thead", {}, make("tr", {}, ...heads.map((h, k) => make("th", { scope: "col", class: k && k < 5 ? "num" : null }, h)))), make("tbody", {}, ...rows));
}

/** The chosen sample in every run that has it. @param {View} view */
export function drawSame(view) {
  const { data, run, state } = view, box = $("same"), id = run.sample[state.sample];
  box.hidden = data.runs.length < 2;
  if (box.hidden) return;
  const rows = data.runs.map((r) => {
    const i = r.sample.indexOf(id), layer = layerOf(r, run.layers[state.layer].name), of = r.results[layer][state.measure]?.[0];
    if (i < 0 || !of) return make("tr", {}, make("th", { scope: "row" }, r.name), make("td", { colspan: 3 }, "not in this file"));
    const t = Math.min(state.step, r.steps), flip = r.paths[0].flip.values[i];
    return make("tr", {}, make("th", { scope: "row" }, r.name), make("td", { class: "num" }, num(of.lines.row(i)[t])),
      make("td", { class: "num" }, flip < 0 ? "–" : String(flip)), make("td", {}, says(r, 0, i, t)));
  });
  box.replaceChildren(make("caption", {}, `sample ${id} in all runs, step ${state.step}`), make("thead", {}, make("tr", {}, ...["run", data.symbols[state.measure], "flips at", "says"].map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows));
}
