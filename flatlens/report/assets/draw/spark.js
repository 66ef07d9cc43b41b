// A curve as small as a word, on a logarithmic scale where it can be.

import { draw } from "./dom.js";

/** @param {ArrayLike<number>} of @param {string} colour @param {[number, number]} ends common to all that stand below each other */
export function spark(of, colour, ends) {
  const width = 96, height = 22, scale = (/** @type {number} */ v) => (ends[0] > 0 ? Math.log10(v) : v);
  const [low, high] = ends.map(scale), n = Math.max(1, of.length - 1);
  let path = "";
  for (let k = 0; k < of.length; k++) {
    const v = scale(of[k]);
    if (!Number.isFinite(v)) continue;
    path += `${path ? "L" : "M"}${((k / n) * (width - 2) + 1).toFixed(1)} ${(height - 2 - ((v - low) / (high - low || 1)) * (height - 4)).toFixed(1)}`;
  }
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    draw("path", { d: path || "M0 0", fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round" }));
}

/** A share and its interval on a line from 0 to 1. @param {{ value: number | null, low: number | null, high: number | null }} of @param {string} colour @param {boolean} few */
export function whisker(of, colour, few) {
  const width = 120, X = (/** @type {number} */ v) => 5 + v * (width - 10), parts = [draw("path", { d: `M5 10H${width - 5}`, stroke: "var(--line)" })];
  if (of.value !== null && of.low !== null && of.high !== null) {
    parts.push(draw("path", { d: `M${X(of.low)} 10H${X(of.high)}`, stroke: colour, "stroke-width": 5, "stroke-linecap": "round", opacity: 0.35 }));
    parts.push(draw("circle", { cx: X(of.value), cy: 10, r: 4.5, fill: few ? "var(--card)" : colour, stroke: colour, "stroke-width": 1.6 }));
  }
  return draw("svg", { viewBox: `0 0 ${width} 20`, width, height: 20, "aria-hidden": "true" }, ...parts);
}
