// The interactive figures: plotly's, made by flatlens.report.figures, with the samples over them.

import { inBox } from "../core/select.js";
import { labelled, measured, numbers, place } from "../core/sample.js";
import { num } from "../core/text.js";
import { $ } from "../draw/dom.js";
import { CONFIG, chosen, curves, figureOf, thinLine, without } from "../draw/figure.js";
import { film } from "../draw/film.js";
import { fade } from "../core/colours.js";

/** @typedef {import("../pages/run.js").View} View */

/** @returns {any} */
const plotly = () => /** @type {any} */ (globalThis).Plotly;

const LINES = 120;
/** Where a dot is put that has no place: beyond what an axis shows. */
const AWAY = [-999, -999];
/** Of A4, in px, within a card over both columns and over one. */
const PAPER = { wide: 636, half: 296 };

/** What each figure shows of single samples, and which variant is drawn. */
export const PLOTS = {
  valley: { variant: (/** @type {View} */ v) => `${v.state.measure}|${v.state.layer}|${v.state.align}`, y: value, steps: true, thin: true },
  margin: { variant: (/** @type {View} */ v) => v.state.align, y: flow("margin"), steps: true, thin: false },
  loss: { variant: (/** @type {View} */ v) => v.state.align, y: flow("loss"), steps: true, thin: false },
  bending: { variant: (/** @type {View} */ v) => v.state.align, steps: true, thin: false },
  crossing: { variant: (/** @type {View} */ v) => `${v.state.measure}|${v.state.layer}`, x: flow("margin"), y: value, steps: false, thin: true },
  peak: { variant: (/** @type {View} */ v) => `${v.state.measure}|${v.state.layer}`, steps: false, thin: false },
  tau: { variant: (/** @type {View} */ v) => `${v.state.measure}|${v.state.layer}`, steps: false, thin: false },
  free: { variant: (/** @type {View} */ v) => `${v.state.layer}|${v.state.align}`, steps: true, thin: false },
  ledger: { variant: (/** @type {View} */ v) => `${v.state.layer}|${v.state.align}`, steps: true, thin: false },
  certificate: { variant: (/** @type {View} */ v) => `${v.state.layer}|${v.state.align}`, steps: true, thin: false },
  layers: { variant: (/** @type {View} */ v) => v.state.measure, steps: false, thin: false },
  spectrum: { variant: () => "", steps: false, thin: false },
};

/** @typedef {keyof typeof PLOTS} Name */

/** @param {View} v @param {number} i @param {number} t */
function value(v, i, t) {
  return measured(v.run, v.state).lines.row(i)[t];
}

/** @param {string} column */
function flow(column) {
  return (/** @type {View} */ v, /** @type {number} */ i, /** @type {number} */ t) => v.run.paths[v.state.path].flow[column].row(i)[t];
}

/** @param {View} view @param {Name} name */
const xOf = (view, name) => (/** @type {number} */ i, /** @type {number} */ t) => {
  const own = /** @type {any} */ (PLOTS[name]).x;
  return own ? own(view, i, t) : place(view.run, view.state, i, t);
};

/** Draw a figure anew. @param {View} view @param {Name} name */
export function drawPlot(view, name) {
  const node = $(name), plot = PLOTS[name], drawn = figureOf(view.data, view.run, name, plot.variant(view));
  node.closest("figure").hidden = !drawn;
  if (!drawn) return;
  without(drawn, view.state.off);
  const y = /** @type {any} */ (plot).y, length = view.run.steps + 1, x = xOf(view, name);
  const over = [], under = [];
  if (y && plot.thin) {
    const all = view.state.brush ?? spread(view.run.sample.length, LINES);
    under.push(curves(all, length, x, (i, t) => y(view, i, t), view.state.brush ? { color: fade(view.colours.attack, 0.5), width: 1.2 } : thinLine(view.colours)));
  }
  if (y) {
    const i = view.state.sample, steps = Array.from({ length }, (_, t) => t);
    over.push(...chosen(view.colours, steps.map((t) => x(i, t)), steps.map((t) => y(view, i, t)), view.state.step, i));
  }
  if (name === "peak") over.push(ring(view));
  const layout = { ...drawn.layout, uirevision: `${view.state.run}|${plot.variant(view)}`, dragmode: y ? "select" : "zoom", height: heightOf(name, node), selectdirection: "any", hoverdistance: 14, newselection: { line: { color: view.colours.ink, width: 1, dash: "dot" } } };
  if (view.paper) layout.width = name === "valley" ? PAPER.wide : PAPER.half;
  else if (window.innerWidth < 640) narrow(layout, name);
  const first = !node.data;
  plotly().react(node, [...under, ...drawn.data, ...over], layout, CONFIG);
  node.setAttribute("aria-label", describe(view, name));
  node.dot = over.length && y ? under.length + drawn.data.length + over.length - 1 : -1;
  if (first) listen(view, name, node);
  if (name === "valley") drawFilm(view);
}

/** Only the chosen sample has moved along its path. @param {View} view @param {Name} name */
export function moveDot(view, name) {
  const node = $(name), own = /** @type {any} */ (PLOTS[name]).y;
  if (!node.data || !own || node.dot < 0) return;
  const i = view.state.sample, t = view.state.step, x = [xOf(view, name)(i, t)], y = [own(view, i, t)];
  if (!put(node, i, node.dot, ".point", x, y)) plotly().restyle(node, { x: [x], y: [y] }, [node.dot]);
}

/** Another sample is chosen: its curve and its dot, or its ring. @param {View} view @param {Name} name */
export function moveSample(view, name) {
  const node = $(name), last = node.data?.length - 1, i = view.state.sample, t = view.state.step;
  const own = /** @type {any} */ (PLOTS[name]).y, at = xOf(view, name);
  let done = Boolean(node.data);
  if (done && name === "peak") {
    const { x, y } = ring(view);
    done = put(node, i, last, ".point", x, y);
  } else if (done) {
    const steps = Array.from({ length: view.run.steps + 1 }, (_, k) => k), x = steps.map((k) => at(i, k)), y = steps.map((k) => own(view, i, k));
    done = put(node, i, last - 2, ".js-line", x, y) && put(node, i, last - 1, ".js-line", x, y) && put(node, i, last, ".point", [x[t]], [y[t]]);
  }
  if (!done) return drawPlot(view, name);
  node.setAttribute("aria-label", describe(view, name));
}

/**
 * Move what is drawn of one trace, of as many points as before; plotly would work all curves out anew.
 * @param {any} node @param {number} i the sample @param {number} index of the trace @param {string} part @param {number[]} x @param {number[]} y
 * @returns {boolean} false, and nothing done, where plotly has drawn it otherwise, or would choose other axes
 */
export function put(node, i, index, part, x, y) {
  const { xaxis, yaxis } = node._fullLayout, held = node.calcdata?.[index], trace = node.data[index];
  const marks = [...node.querySelectorAll(".scatterlayer .trace")].at(index - node.data.length)?.querySelectorAll(part);
  if (marks?.length !== 1 || held?.length !== x.length) return false;
  const at = x.map((value, k) => [xaxis.d2p(value), yaxis.d2p(y[k])]), there = at.map((point) => point.every(Number.isFinite));
  const auto = xaxis.autorange || yaxis.autorange, within = (/** @type {number[]} */ [left, top]) => left >= 0 && left <= xaxis._length && top >= 0 && top <= yaxis._length;
  if (auto && !at.every((point, k) => !there[k] || within(point))) return false;
  x.forEach((value, k) => Object.assign(held[k], { x: there[k] ? value : undefined, y: there[k] ? y[k] : undefined }));
  Object.assign(trace, { x, y, customdata: x.map(() => i) });
  if (part === ".point") marks[0].setAttribute("transform", `translate(${there[0] ? at[0] : AWAY})`);
  else marks[0].setAttribute("d", at.map((point, k) => (there[k] ? `${k && there[k - 1] ? "L" : "M"}${point}` : "")).join(""));
  return true;
}

/** @param {View} view */
function ring(view) {
  const i = view.state.sample, flip = view.run.paths[view.state.path].flip.values[i], peak = measured(view.run, view.state).peak.values[i];
  const there = flip >= 0 && peak >= 0;
  return { type: "scatter", mode: "markers", x: [there ? flip : NaN], y: [there ? peak : NaN], hoverinfo: "skip", showlegend: false, marker: { size: 17, color: "rgba(0,0,0,0)", line: { color: view.colours.chosen, width: 2.4 } } };
}

/** @param {Name} name @param {any} node */
function heightOf(name, node) {
  if (name === "valley") return window.innerWidth < 640 ? 300 : Math.round(Math.min(540, Math.max(360, window.innerHeight * 0.46)));
  if (name === "layers") return node.data ? node.clientHeight : undefined;
  return 214;
}

/** On a telephone names at the lines' ends have no room. @param {any} layout @param {Name} name */
function narrow(layout, name) {
  if (name !== "valley") return;
  layout.margin = { ...layout.margin, l: 40, r: 8 };
  layout.yaxis = { ...layout.yaxis, title: { text: "" } };
  layout.annotations = (layout.annotations ?? []).filter((/** @type {any} */ note) => !note.name && note.yref === "paper").map((/** @type {any} */ note) => ({ ...note, text: note.text.replace("prediction ", "") }));
}

/** @param {number} n @param {number} most */
export const spread = (n, most) => Array.from({ length: Math.min(n, most) }, (_, k) => (n <= most ? k : Math.floor(((k + 0.5) * n) / most)));

/** @param {View} view @param {Name} name */
function describe(view, name) {
  const title = $(name).closest("figure").querySelector("h2").textContent.trim().replace(/\s+/g, " ");
  const run = view.run, n = numbers(run, view.state), of = run.results[view.state.layer][view.state.measure][0].summary;
  const median = of.flip_step.value === null ? "" : ` Half of the flipped flip by step ${of.flip_step.value} and are sharpest by step ${of.peak_step.value}.`;
  return `${title}.${name === "valley" ? median : ""} Sample ${run.sample[view.state.sample]} at step ${view.state.step}: ${view.data.symbols[view.state.measure]} ${num(n.value)}, margin ${num(n.margin)}, loss ${num(n.loss)}. Arrow keys walk its steps, Shift and arrow keys the samples.`;
}

/** @param {View} view @param {Name} name @param {any} node */
function listen(view, name, node) {
  const y = /** @type {any} */ (PLOTS[name]).y;
  node.on("plotly_hover", (/** @type {any} */ event) => {
    const i = sampleAt(event);
    if (i === null) return;
    const t = nearestStep(view, name, i, event.points[0].x), n = numbers(view.run, view.state, i, t);
    view.tell(event.event, `sample ${view.run.sample[i]} · ${labelled(view.run, i)} · step ${t} · ${view.data.symbols[view.state.measure]} ${num(n.value)}`);
  });
  node.on("plotly_unhover", () => view.tell(null, ""));
  node.on("plotly_click", (/** @type {any} */ event) => {
    if (name === "layers") return view.change({ layer: view.run.layers.findIndex((l) => l.name === node.data[0].y[event.points[0].pointIndex[0]]) });
    const i = sampleAt(event);
    if (i !== null) return view.change({ sample: i, step: nearestStep(view, name, i, event.points[0].x) });
    if (name === "peak") {
      const { x, y: peak } = event.points[0], flips = view.run.paths[0].flip.values, peaks = measured(view.run, view.state).peak.values;
      const of = view.run.sample.map((_, k) => k).filter((k) => flips[k] === x && peaks[k] === peak);
      if (of.length) view.change({ sample: of[0], step: x, brush: of.length > 1 ? of : null });
    }
  });
  if (!y) return;
  node.on("plotly_selected", (/** @type {any} */ event) => {
    if (!event || !event.range) return;
    const axes = node._fullLayout, log = axes.yaxis.type === "log";
    const [x, heights] = [event.range.x, event.range.y];
    const height = (/** @type {number} */ i, /** @type {number} */ t) => y(view, i, t);
    const box = /** @type {any} */ (PLOTS[name]).x
      ? view.run.sample.map((_, i) => i).filter((i) => Array.from({ length: view.run.steps + 1 }, (_, t) => t).some((t) => between(xOf(view, name)(i, t), x) && between(height(i, t), heights)))
      : inBox(view.run, view.state, height, x, heights);
    view.change({ brush: box.length ? box : null, ...(box.length && !box.includes(view.state.sample) ? { sample: box[0], step: -1 } : {}) });
    plotly().relayout(node, { selections: [] });
    return log;
  });
  node.on("plotly_relayout", (/** @type {any} */ event) => {
    if (name === "valley") drawFilm(view);
    const range = [event["xaxis.range[0]"], event["xaxis.range[1]"]];
    if (!/** @type {any} */ (PLOTS[name]).steps || range[0] === undefined || node.linked) return;
    // Figures on the path's own axis show the same steps.
    for (const other of /** @type {Name[]} */ (Object.keys(PLOTS))) {
      const twin = $(other);
      if (other === name || !PLOTS[other].steps || !twin.data) continue;
      twin.linked = true;
      plotly().relayout(twin, { "xaxis.range": range }).then(() => { twin.linked = false; });
    }
  });
}

/** @param {number} v @param {[number, number]} ends */
const between = (v, ends) => v >= Math.min(...ends) && v <= Math.max(...ends);

/** @param {any} event @returns {number | null} */
function sampleAt(event) {
  const own = event.points.map((/** @type {any} */ p) => p.customdata).find((/** @type {any} */ c) => typeof c === "number");
  return own === undefined ? null : own;
}

/** @param {View} view @param {Name} name @param {number} i @param {number} x */
function nearestStep(view, name, i, x) {
  let best = 0;
  for (let t = 1; t <= view.run.steps; t++) if (Math.abs(xOf(view, name)(i, t) - x) < Math.abs(xOf(view, name)(i, best) - x)) best = t;
  return best;
}

/** @param {View} view */
export function drawFilm(view) {
  const node = $("valley"), axis = node._fullLayout && node._fullLayout.xaxis;
  if (!axis) return;
  film($("film"), view.run, view.state, { left: axis._offset, width: axis._length, range: [Number(axis.range[0]), Number(axis.range[1])] }, (step) => view.change({ step }));
}
