// Choosing many: a brush over curves, filters and orders of the gallery, and what the chosen have in common.

import { kind, measured, place } from "./sample.js";

/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").State} State */

/**
 * Samples whose curve enters a box.
 * @param {Run} run @param {State} state @param {(i: number, t: number) => number} height @param {[number, number]} x @param {[number, number]} y
 */
export function inBox(run, state, height, x, y) {
  const [left, right] = [Math.min(...x), Math.max(...x)], [low, high] = [Math.min(...y), Math.max(...y)];
  return run.sample.map((_, i) => i).filter((i) => {
    for (let t = 0; t <= run.steps; t++) {
      const at = place(run, state, i, t), v = height(i, t);
      if (at >= left && at <= right && v >= low && v <= high) return true;
    }
    return false;
  });
}

/** Samples of the gallery, filtered and in order. @param {Run} run @param {State} state @returns {number[]} */
export function gallery(run, state) {
  const all = run.sample.map((_, i) => i);
  const kept = all.filter((i) => (state.brush ? state.brush.includes(i) : true))
    .filter((i) => state.filter === "all" || kind(run, state, i) === state.filter);
  const flip = run.paths[state.path].flip.values, rise = measured(run, state).rise.values;
  const late = (/** @type {number} */ v) => (v < 0 ? Infinity : v);
  if (state.order === "flip") kept.sort((a, b) => late(flip[a]) - late(flip[b]) || a - b);
  if (state.order === "rise") kept.sort((a, b) => (rise[b] || 0) - (rise[a] || 0) || a - b);
  return kept;
}

/** Share with its 95 % Wilson interval. @param {number} k @param {number} n */
export function wilson(k, n) {
  if (!n) return { value: NaN, low: NaN, high: NaN, count: k, n };
  const z2 = 1.959963984540054 ** 2, p = k / n;
  const centre = (p + z2 / (2 * n)) / (1 + z2 / n), half = Math.sqrt(z2 * ((p * (1 - p)) / n + z2 / (4 * n * n))) / (1 + z2 / n);
  return { value: p, low: k === 0 ? 0 : centre - half, high: k === n ? 1 : centre + half, count: k, n };
}

/** @param {number[]} values */
export function median(values) {
  const sorted = values.filter((v) => !Number.isNaN(v)).sort((a, b) => a - b), n = sorted.length;
  if (!n) return NaN;
  return n % 2 ? sorted[(n - 1) / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/** What the brushed samples have in common. @param {Run} run @param {State} state */
export function summary(run, state) {
  const of = state.brush ?? [], flip = run.paths[state.path].flip.values, found = measured(run, state);
  const flipped = of.filter((i) => flip[i] >= 0);
  return {
    n: of.length, flipped: flipped.length, valley: wilson(flipped.filter((i) => found.valley.values[i]).length, flipped.length),
    rise: median(flipped.map((i) => found.rise.values[i])), flip: median(flipped.map((i) => flip[i])),
  };
}
