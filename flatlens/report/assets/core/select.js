// Choosing many: a brush over curves, filters and orders of the gallery, and what the chosen have in common.

import { kind, measured, place } from "./sample.js";
import { median, wilson } from "./statistics.js";

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

/** What the brushed samples have in common. @param {Run} run @param {State} state */
export function summary(run, state) {
  const of = state.brush ?? [], flip = run.paths[state.path].flip.values, found = measured(run, state);
  const flipped = of.filter((i) => flip[i] >= 0);
  return {
    n: of.length, flipped: flipped.length, valley: wilson(flipped.filter((i) => found.valley.values[i]).length, flipped.length),
    rise: median(flipped.map((i) => found.rise.values[i])), flip: median(flipped.map((i) => flip[i])),
  };
}
