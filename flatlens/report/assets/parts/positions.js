// Two figures of language models alone: numbers by step and target position, and sharpness against the target's loss.

import { COPIES, LAYERS_OF_HEAT, against, heatOf, positionsOf, visible } from "../core/tokens.js";
import { num, plain } from "../core/text.js";
import { fade } from "../core/colours.js";
import { axis, layoutOf } from "../draw/chart.js";
import { $, segments } from "../draw/dom.js";
import { CONFIG } from "../draw/figure.js";
import { put } from "./plots.js";

/** @typedef {import("../pages/run.js").View} View */

const HEIGHT = { heat: 250, against: 300 };
/** Controls of one text, or of a few: points, where the others are lines. */
const POINTS = ["ask", "planted", "copies"];
const LINES_AGAINST = 60, POINTS_OF_LINE = 100;
let heated = "nll";

/** @returns {any} */
const plotter = () => /** @type {any} */ (globalThis).Plotly;

/** What a figure depends on beside the step: where it is the same, only a mark is moved. @param {View} view @param {any} node @param {string} own */
const drawnFor = ({ state, colours, paper }, node, own) => [own, state.run, state.sample, state.path, state.measure, state.layer, state.off, colours.card, paper, node.clientWidth].join("|");

/** @param {number} step */
const stepMark = (step) => ({ x0: step - 0.5, x1: step + 0.5 });

/** @param {View} view */
export function drawHeat(view) {
  const { run, state, colours } = view, node = $("heat"), key = drawnFor(view, node, heated);
  if (node.data && node.key === key) {
    plotter().relayout(node, { "shapes[0].x0": stepMark(state.step).x0, "shapes[0].x1": stepMark(state.step).x1 });
    return nameHeat(view);
  }
  const z = heatOf(run, state, /** @type {any} */ (heated));
  node.closest("figure").hidden = !z;
  if (!z) return;
  segments($("heat-of"), LAYERS_OF_HEAT, heated, (value) => { heated = value; drawHeat(view); });
  const target = positionsOf(run, state) ?? [], log = z.map((row) => row.map((v) => (v > 0 ? Math.log10(v) : null))), name = LAYERS_OF_HEAT.find(([key]) => key === heated)?.[1] ?? "";
  const words = target.map((at, k) => `${k + 1} ${plain(visible(at.piece).slice(0, 14))}`);
  const traces = [{
    type: "heatmap", z: log, y: words, customdata: z, hoverongaps: false, hovertemplate: `step %{x}<br>%{y}<br>${plain(name)} %{customdata:.3~g}<extra></extra>`,
    colorscale: [[0, colours.soft], [0.5, colours.attack], [1, colours.hot]], xgap: z[0].length > 120 ? 0 : 1, ygap: 1,
    colorbar: { thickness: 9, outlinewidth: 0, tickfont: { size: 11, color: colours.muted }, title: { text: `log₁₀ ${name}`, side: "right", font: { size: 11, color: colours.muted } } },
  }];
  const mark = { type: "rect", ...stepMark(state.step), yref: "paper", y0: 0, y1: 1, line: { color: colours.chosen, width: 1.4 } };
  const layout = layoutOf(colours, view.paper, {
    height: Math.max(HEIGHT.heat, Math.min(560, 70 + 15 * words.length)), shapes: [mark], dragmode: "zoom",
    xaxis: axis(colours, "step", { showgrid: false, range: [-0.5, z[0].length - 0.5] }), yaxis: axis(colours, "", { autorange: "reversed", showgrid: false, type: "category", nticks: Math.min(words.length, 30) }),
  });
  const first = !node.data;
  plotter().react(node, traces, layout, CONFIG);
  node.key = key;
  nameHeat(view);
  if (first) node.on("plotly_click", (/** @type {any} */ event) => view.change({ step: Number(event.points[0].x) }));
}

/** @param {View} view */
function nameHeat(view) {
  const { run, state } = view, target = positionsOf(run, state) ?? [], name = LAYERS_OF_HEAT.find(([key]) => key === heated)?.[1] ?? "";
  $("heat").setAttribute("aria-label", `${name} by step and target position of prompt ${run.sample[state.sample]}; at step ${state.step}: ${target.map((at) => `${visible(at.piece)} ${num(/** @type {number} */ (at[/** @type {"nll"} */ (heated)]))}`).slice(0, 12).join(", ")}. Arrow keys walk its steps.`);
}

/** A line of as many points as a picture shows. @template T @param {T[]} at @returns {T[]} */
const thinned = (at) => (at.length <= POINTS_OF_LINE ? at : Array.from({ length: POINTS_OF_LINE }, (_, k) => at[Math.round((k * (at.length - 1)) / (POINTS_OF_LINE - 1))]));

/** @param {View} view */
export function drawAgainst(view) {
  const { run, state, colours, data } = view, node = $("against");
  node.closest("figure").hidden = !run.text;
  if (!run.text) return;
  const here = against(run, state, state.path).filter((v) => v.step === state.step), key = drawnFor(view, node, "");
  if (node.data && node.key === key) {
    const x = here.map((v) => v.x), y = here.map((v) => v.y), last = node.data.length - 1;
    if (!put(node, state.sample, last, ".point", x, y)) plotter().restyle(node, { x: [x], y: [y] }, [last]);
    return;
  }
  const symbol = plain(data.symbols[state.measure]), traces = [];
  const line = (/** @type {number} */ p, /** @type {number} */ i, /** @type {any} */ look) => {
    const at = against(run, state, p, i), path = run.paths[p];
    return { type: "scatter", x: at.map((v) => v.x), y: at.map((v) => v.y), customdata: at.map((v) => v.step), meta: { path: path.name }, name: plain(path.words), showlegend: false,
      hovertemplate: `${plain(path.words)}, prompt ${run.sample[i]}, step %{customdata}<br>loss %{x:.3g}, ${symbol} %{y:.4g}<extra></extra>`, mode: "lines", ...look };
  };
  const shown = run.paths.map((_, p) => p).filter((p) => !state.off.includes(run.paths[p].name));
  const others = run.sample.slice(0, LINES_AGAINST).flatMap((_, i) => (i === state.sample ? [] : [...thinned(against(run, state, 0, i)), { x: null, y: null }]));
  traces.push({ type: "scatter", x: others.map((v) => v.x), y: others.map((v) => v.y), mode: "lines", line: { color: fade(colours.attack, 0.25), width: 1 }, hoverinfo: "skip", showlegend: false });
  for (const p of shown) {
    const path = run.paths[p], kind = POINTS.indexOf(path.name), colour = colours[path.role];
    if (p === 0) continue;
    if (kind < 0) traces.push(line(p, state.sample, { line: { color: colour, width: 1.3, dash: path.dash } }));
    else {
      const at = against(run, state, p), said = at.map((v) => (path.name === "copies" ? `${COPIES[v.step] ?? v.step}×` : path.name));
      traces.push(line(p, state.sample, {
        mode: at.length > 1 ? "lines+markers+text" : "markers+text", text: said, textposition: "top right", textfont: { size: 11, color: colours["cross-ink"] }, cliponaxis: false,
        line: { color: fade(colours.cross, 0.5), width: 1, dash: "dot" }, marker: { color: colours.cross, size: 8, symbol: ["square", "diamond", "circle"][kind], line: { color: colours.card, width: 1 } },
      }));
    }
  }
  const own = against(run, state, 0);
  traces.push(line(0, state.sample, { mode: own.length > POINTS_OF_LINE ? "lines" : "lines+markers", line: { color: colours.attack, width: 2.2 }, marker: { color: colours.attack, size: 4 } }));
  traces.push({ type: "scatter", mode: "markers", x: here.map((v) => v.x), y: here.map((v) => v.y), hoverinfo: "skip", showlegend: false, marker: { color: colours.chosen, size: 11, line: { color: colours.card, width: 2.2 } } });
  const decades = { type: "log", nticks: 6, exponentformat: "power" };
  const layout = layoutOf(colours, view.paper, { height: HEIGHT.against, xaxis: axis(colours, "← loss of the target, nats", { ...decades, autorange: "reversed" }), yaxis: axis(colours, `${symbol}, sharp ↑`, decades), margin: { l: 56, r: 20, t: 14, b: 40 } });
  const first = !node.data;
  plotter().react(node, traces, layout, CONFIG);
  node.key = key;
  const ends = own.length ? `from loss ${num(own[0].x)} and ${data.symbols[state.measure]} ${num(own[0].y)} to ${num(own[own.length - 1].x)} and ${num(own[own.length - 1].y)}` : "without numbers above 0";
  node.setAttribute("aria-label", `Sharpness against the target’s loss, prompt ${run.sample[state.sample]}: the attack goes ${ends}. Points: ${shown.map((p) => run.paths[p].words).filter((w) => POINTS.includes(w)).join(", ") || "none"}.`);
  if (first) node.on("plotly_click", (/** @type {any} */ event) => {
    const { customdata: step, data: of } = event.points[0], path = run.paths.findIndex((p) => p.name === of.meta?.path);
    if (typeof step === "number" && path >= 0) view.change({ path, step });
  });
}

/** What is drawn of language models alone, by the name of its figure. @type {Record<string, (view: View) => void>} */
export const LANGUAGE = { heat: drawHeat, against: drawAgainst };
