// A curve as small as a word, on a logarithmic scale where it can be.

import { draw } from "./dom.js";

/** @param {ArrayLike<number>} of @param {string} colour @param {[number, number]} ends common to all that stand below each other */
export function spark(of, colour, ends) {
  const scale = (/** @type {number} */ v) => (ends[0] > 0 ? Math.log10(v) : v), [low, high] = ends.map(scale);
  return sparkline([...Array(of.length).keys()], Array.from(of, scale), colour, [low, high]);
}

/** The same of points that lie anywhere. @param {number[]} x from 0 up @param {ArrayLike<number>} y @param {string} colour @param {[number, number]} ends of y; what is lower lies on the edge */
export function sparkline(x, y, colour, [low, high]) {
  const width = 96, height = 22, n = Math.max(1, x[x.length - 1] ?? 1);
  let path = "";
  x.forEach((at, k) => {
    if (!Number.isFinite(y[k])) return;
    path += `${path ? "L" : "M"}${((at / n) * (width - 2) + 1).toFixed(1)} ${(height - 2 - ((Math.max(low, y[k]) - low) / (high - low || 1)) * (height - 4)).toFixed(1)}`;
  });
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    draw("path", { d: path || "M0 0", fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round" }));
}

/** @typedef {{ value: number | null, low: number | null, high: number | null }} Interval */

/** A share and its interval on a line from 0 to 1. @param {Interval} of @param {string} colour @param {boolean} few drawn hollow: it says little */
export const whisker = (of, colour, few) => whiskers([{ of, colour, hollow: few }]);

/** Several of them on one line, the last on top. @param {{ of: Interval, colour: string, hollow: boolean }[]} all */
export function whiskers(all, width = 120) {
  const X = (/** @type {number} */ v) => 5 + v * (width - 10), parts = [draw("path", { d: `M5 10H${width - 5}`, stroke: "var(--line)" })];
  for (const { of, colour, hollow } of all) {
    if (of.value === null || of.low === null || of.high === null) continue;
    parts.push(draw("path", { d: `M${X(of.low)} 10H${X(of.high)}`, stroke: colour, "stroke-width": 5, "stroke-linecap": "round", opacity: 0.35 }));
    parts.push(draw("circle", { cx: X(of.value), cy: 10, r: 4.5, fill: hollow ? "var(--card)" : colour, stroke: colour, "stroke-width": 1.6 }));
  }
  return draw("svg", { viewBox: `0 0 ${width} 20`, width, height: 20, "aria-hidden": "true" }, ...parts);
}
