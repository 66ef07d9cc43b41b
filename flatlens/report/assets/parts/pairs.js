// Two shares against each other: each attack's and its controls', and a defended model's and its standard twin's.

import { labelOf } from "../core/cells.js";
import { fade } from "../core/colours.js";
import { againstControls, robustPairs, shareWords } from "../core/rows.js";
import { brief, count, percent, plain } from "../core/text.js";
import { axis, errorBars, isNarrow, layoutOf, plot, shareAxis } from "../draw/chart.js";
import { $ } from "../draw/dom.js";

/** @typedef {import("../pages/sweep.js").View} View */
/** @typedef {import("../core/types.js").Told} Told */

const MOST_BARS = 150, MOST_MARKS = 2000, MOST_PAIRS = 30;
/** A control that flipped fewer has an interval as wide as the picture: it is told where the pointer is, not drawn over the others. */
const TOO_FEW = 10;
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x"];

/** @param {Told} share */
const told = (share) => `${percent(share.value)} [${(100 * share.low).toFixed(1)}–${(100 * share.high).toFixed(1)} %], ${count(share.count ?? 0)} of ${count(share.n)}`;
/** @param {Told} share */
const bare = (share) => ({ ...share, low: share.value, high: share.value });

/** @param {View} view */
export function drawAgainst(view) {
  const { book, asked, colours, colourOf } = view, { paths } = book.data, found = againstControls(book, asked, view.shown);
  $("against-card").hidden = !found.length;
  if (!found.length) return;
  const withBars = found.length <= MOST_BARS, stride = Math.max(1, found.length / MOST_MARKS);
  const drawn = stride === 1 ? found : Array.from({ length: MOST_MARKS }, (_, k) => found[Math.floor(k * stride)]);
  /** @type {any[]} */
  const traces = [{ x: [-3, 103], y: [-3, 103], mode: "lines", line: { color: colours.muted, width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false }];
  paths.forEach((name, path) => {
    const own = drawn.filter((f) => f.path === path), colour = colourOf(path), few = own.map((f) => f.control.n < TOO_FEW);
    if (!own.length) return;
    const bars = (/** @type {"control" | "attack"} */ side) => errorBars(own.map((f, k) => (few[k] ? bare(f[side]) : f[side])), colour, 0);
    traces.push({
      x: own.map((f) => 100 * f.control.value), y: own.map((f) => 100 * f.attack.value), name: plain(name), mode: "markers",
      marker: { color: few.map((is) => fade(colour, is ? 0.12 : 0.75)), size: 9, symbol: SYMBOLS[(path - 1) % SYMBOLS.length], line: { color: colour, width: 1.4 } },
      ...(withBars ? { error_x: bars("control"), error_y: bars("attack") } : {}),
      customdata: own.map((f) => [f.item.cell, plain(labelOf(book, asked, f.item)), told(f.attack), told(f.control)]),
      hovertemplate: `<b>%{customdata[1]}</b><br>attack %{customdata[2]}<br>${plain(name)} %{customdata[3]}<extra></extra>`,
    });
  });
  const note = { x: 100, y: 100, text: "as many on the control", textangle: 0, showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11, color: colours.muted } };
  plot("against", traces, layoutOf(colours, view.paper, {
    height: isNarrow() ? 420 : 480, showlegend: true, uirevision: asked.share, legend: { itemclick: "toggle", itemdoubleclick: "toggleothers" },
    xaxis: shareAxis(colours, "valleys on the control"), yaxis: shareAxis(colours, "valleys under attack"), annotations: [note],
  }), `${found.length} pairs of an attack and a control`, (mark) => openRun(view, mark?.[0]));
  const faint = found.filter((f) => f.control.n < TOO_FEW).length;
  $("against-note").textContent = [
    `Shares of valleys ${shareWords(asked)}, a mark for every run and control${withBars ? ", with 95 % intervals" : `; intervals are in the hover, for ${count(found.length)} marks would hide each other`}.${drawn.length < found.length ? ` Of the ${count(found.length)}, ${count(drawn.length)} evenly spaced ones are drawn; filter to see all of fewer runs.` : ""}`,
    "Any path that crosses a boundary confidently has a valley: on the dotted line the attack has no more of them than the control, and only what lies clearly above it speaks about the attack.",
    faint ? `Hollow, without intervals: the control flipped fewer than ${TOO_FEW} samples, which says next to nothing (${count(faint)} marks).` : "",
    "Noise seldom crosses a boundary at all; the line to another class is the control that does. Attack and control share their clean samples, but not those that they flip.",
  ].filter(Boolean).join(" ");
}

/** @param {View} view */
export function drawRobust(view) {
  const { book, asked, colours, colourOf } = view, found = robustPairs(book, asked, view.shown), drawn = found.slice(0, MOST_PAIRS);
  $("robust").hidden = !found.length;
  if (!found.length) {
    $("robust-note").textContent = book.data.pairs.length
      ? `None of the sweep’s ${count(book.data.pairs.length)} pairs is whole among the runs shown, with numbers in both.`
      : "There are no pairs: no two runs differ in a training’s defence alone (train.defence or its axes, or a model’s name ending in ‑robust).";
    return;
  }
  const joins = {
    x: drawn.flatMap((p) => [100 * p.a.value, 100 * p.b.value, null]), y: drawn.flatMap((_, i) => [i - 0.16, i + 0.16, null]),
    mode: "lines", line: { color: colours.line, width: 5 }, hoverinfo: "skip", showlegend: false,
  };
  const sides = [
    { name: "standard", items: drawn.map((p) => p.standard), shares: drawn.map((p) => p.a), symbol: "circle-open", shift: -0.16, colour: colourOf(0) },
    { name: "with a defence", items: drawn.map((p) => p.robust), shares: drawn.map((p) => p.b), symbol: "diamond", shift: 0.16, colour: colours.cross },
  ];
  const traces = [joins, ...sides.map(({ name, items, shares, symbol, shift, colour }) => ({
    x: shares.map((share) => 100 * share.value), y: shares.map((_, i) => i + shift), name, mode: "markers",
    marker: { color: colour, size: 10, symbol, line: { width: 2, color: colour } }, error_x: errorBars(shares, colour),
    customdata: items.map((item, i) => [item.cell, plain(labelOf(book, asked, item)), told(shares[i])]), hovertemplate: `<b>%{customdata[1]}</b><br>${name} %{customdata[2]}<extra></extra>`,
  }))];
  // Where there is one defence, which one goes without saying.
  const said = (book.data.varying.find(({ key }) => key === "train.adversarial")?.values.filter((v) => v !== "–").length ?? 0) > 2 ? ["train"] : ["train.adversarial", "train"];
  const names = drawn.map((p) => plain(brief(labelOf(book, asked, p.robust, said), isNarrow() ? 22 : 34)));
  plot("robust", traces, layoutOf(colours, view.paper, {
    height: Math.max(isNarrow() ? 260 : 300, 110 + 46 * drawn.length), showlegend: true, uirevision: asked.share, xaxis: shareAxis(colours, `valleys, ${shareWords(asked)}`),
    yaxis: axis(colours, "", { tickvals: names.map((_, i) => i), ticktext: names, range: [drawn.length - 0.5, -0.5], showgrid: false, fixedrange: true }),
  }), `${found.length} pairs`, (mark) => openRun(view, mark?.[0]));
  $("robust-note").textContent = [
    "Two runs that differ in nothing but the defence of their training (or whose models’ names differ by ‑robust alone), with 95 % intervals over samples.",
    found.length > drawn.length ? `The first ${drawn.length} of ${count(found.length)} pairs of the runs shown.` : "",
    asked.share === "valley_of_flipped" ? "Two models’ flipped samples are not the same ones, nor as many; switch to all that were right for a base that differs less." : "",
    "A defended model may have fewer valleys because its paths stop at the boundary under the same eps, not because its loss is flatter. Each side is one training: the interval does not cover another seed.",
  ].filter(Boolean).join(" ");
}

/** @param {View} view @param {number} cell */
function openRun({ book }, cell) {
  const link = book.data.cells.page[cell];
  if (link) window.open(link, "_blank", "noopener");
}
