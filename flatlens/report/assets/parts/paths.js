// The table of paths: legend, switch, sparkline and statistics at once.

import { count, num, percent, span } from "../core/text.js";
import { $, draw, make } from "../draw/dom.js";
import { spark, whisker } from "../draw/spark.js";

/** @typedef {import("../pages/run.js").View} View */

const FEW = 20;
const DASH = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "10 4" };

/** @param {View} view */
export function drawPaths(view) {
  const { run, state, colours } = view, found = run.results[state.layer][state.measure];
  const all = found.flatMap((m) => [...m.median.values]).filter((v) => Number.isFinite(v));
  const ends = /** @type {[number, number]} */ (all.length ? [Math.min(...all), Math.max(...all)] : [1, 10]);
  const rows = run.paths.map((path, k) => {
    const { summary: of, kinds, median } = found[k], off = state.off.includes(path.name), colour = colours[path.role];
    const few = of.valley_of_flipped.n < FEW;
    const swatch = draw("svg", { viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" },
      draw("path", { d: "M1 5H25", stroke: colour, "stroke-width": path.role === "attack" ? 3.2 : 2.4, "stroke-dasharray": DASH[/** @type {"dash"} */ (path.dash)] || "none" }));
    const name = make("button", {
      type: "button", "aria-pressed": String(!off), disabled: k === 0, title: k === 0 ? null : off ? "show this path" : "hide this path",
      onclick: () => view.change({ off: off ? state.off.filter((n) => n !== path.name) : [...state.off, path.name] }),
    }, swatch, path.words);
    const quiet = (/** @type {import("../core/types.js").Median} */ of, /** @type {(v: number) => string} */ say) => (few && of.n ? "too few" : of.value === null ? "–" : say(of.value));
    return make("tr", { class: off ? "off" : null },
      make("th", { scope: "row" }, name),
      make("td", { class: "opt" }, spark(median.values, colour, ends)),
      make("td", { class: "opt" }, whisker(of.valley_of_flipped, colour, few)),
      make("td", { class: "num" }, make("b", {}, percent(of.valley_of_flipped.value)), " ", make("small", {}, span(of.valley_of_flipped))),
      make("td", { class: "num opt" }, `${count(of.flipped.count)} of ${count(of.flipped.n)}`),
      make("td", { class: "num opt opt2" }, of.valley_of_flipped.n ? `${count(kinds.flatter)}` : "–"),
      make("td", { class: "num opt" }, quiet(of.rise, (v) => `×${num(v)}`)),
      make("td", { class: "num opt" }, quiet(of.depth, (v) => (Number.isFinite(v) ? v.toFixed(2) : "∞"))),
      make("td", { class: "num opt opt2" }, quiet(of.lag, (v) => String(v).replace("-", "−"))));
  });
  const heads = [["path", ""], ["median", "opt"], ["valleys of the flipped", "opt"], ["share, 95 %", "num"], ["flipped", "num opt"], ["flatter than clean", "num opt opt2"], ["rise", "num opt"], ["depth", "num opt"], ["lag", "num opt opt2"]];
  $("paths").replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map(([text, kind]) => make("th", { scope: "col", class: kind || null }, text)))),
    make("tbody", {}, ...rows));
}

const COLUMNS = [
  ["settled", "flipped at the end"], ["flat_end", "ends at τ × the peak or below"], ["flatter_than_clean", "ends flatter than its own clean input"],
  ["flips_back", "flips back"], ["interior_peak", "peak inside the path"],
];
const MEDIANS = [["flip_step", "flip step"], ["peak_step", "peak step"], ["settled_step", "settled at"], ["end_vs_clean", "end ÷ clean"], ["clean_percentile", "end, in the law of clean inputs"]];

/** All statistics, for who opens them. @param {View} view */
export function drawStatistics(view) {
  const { run, state } = view, found = run.results[state.layer][state.measure];
  const row = (/** @type {string} */ title, /** @type {(of: any) => string} */ say) => make("tr", {}, make("th", { scope: "row" }, title), ...found.map((m) => make("td", { class: "num" }, say(m.summary))));
  const share = (/** @type {any} */ of) => (of && of.n ? `${percent(of.value)} [${span(of)}]` : "–");
  const middle = (/** @type {any} */ of) => (of && of.n && of.value !== null ? `${num(of.value)}${of.low === null ? "" : ` [${num(of.low)}, ${num(of.high)}]`}` : "–");
  $("statistics").replaceChildren(
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "of the flipped"), ...run.paths.map((p) => make("th", { scope: "col", class: "num" }, p.words)))),
    make("tbody", {}, ...COLUMNS.map(([key, title]) => row(title, (of) => share(of[key]))), ...MEDIANS.map(([key, title]) => row(`median ${title}`, (of) => middle(of[key])))));
}
