// The median curves of a sweep's runs, as logarithms: one scale for all that are drawn, and the values at a step.

import { curveAt } from "./cells.js";
import { num } from "./text.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {{ position: number[], median: ArrayLike<number>, low: ArrayLike<number>, high: ArrayLike<number>, n: [number, number] }} Quartiles log10, by position */
/** @typedef {{ bottom: number, top: number, steps: number, clamped: boolean }} Scale */

/** log10: below it a value is 0. */
export const LOWEST = -390;
/** Decades that are shown at most. */
const DEEPEST = 12;

/** The curve of a run on one path; null where the file has none. @param {Book} book @param {Item} item @param {number} path @returns {Quartiles | null} */
export function quartilesOf(book, item, path) {
  const k = curveAt(book, item, path), { values, positions, position, n } = book.data.curves;
  if (k === undefined) return null;
  const [median, low, high] = [0, 1, 2].map((r) => values[k].row(r));
  return { position: positions[position[k]], median, low, high, n: n[k] };
}

/**
 * From the lowest median to the highest quartile, but no more than 12 decades: a saturated end may lie 250 down.
 * Null where nothing is above 0.
 * @param {Quartiles[]} all @returns {Scale | null}
 */
export function scaleOf(all) {
  let top = -Infinity, median = Infinity, low = Infinity, steps = 1;
  const above = (/** @type {ArrayLike<number>} */ of, /** @type {(v: number) => void} */ take) => { for (let i = 0; i < of.length; i++) if (of[i] > LOWEST) take(of[i]); };
  for (const curve of all) {
    above(curve.high, (v) => { top = Math.max(top, v); });
    above(curve.median, (v) => { median = Math.min(median, v); });
    above(curve.low, (v) => { low = Math.min(low, v); });
    steps = Math.max(steps, curve.position[curve.position.length - 1] ?? 0);
  }
  if (median === Infinity) return null;
  const lowest = Math.max(top - DEEPEST, Math.min(median, Math.max(low, median - 1))), bottom = lowest - (0.06 * (top - lowest) + 0.05);
  // Whether anything lies under the edge, or is exactly 0.
  const clamped = all.some((curve) => Array.from(curve.low).some((v) => v < bottom));
  return { bottom, top: top + (lowest - bottom), steps, clamped };
}

/** The lowest and the highest median of all attacks, no more than 12 decades apart: sparklines below each other share it. @param {Book} book @returns {[number, number]} */
export function sparkEnds({ data: { curves } }) {
  let low = Infinity, high = -Infinity;
  curves.cell.forEach((_, k) => {
    if (curves.path[k] !== 0) return;
    for (const v of curves.values[k].row(0)) if (v > LOWEST && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  });
  return [Math.max(low, high - DEEPEST), high];
}

/** A logarithm as the number that it is of. @param {number} log @param {number} [digits] */
export const numOf = (log, digits = 3) => (log < LOWEST ? "0" : num(10 ** log, digits));

/** What a curve says nearest to a step. @param {Quartiles} curve @param {number} step */
export function readAt(curve, step) {
  const best = curve.position.reduce((near, p, i) => (Math.abs(p - step) < Math.abs(curve.position[near] - step) ? i : near), 0);
  const short = numOf(curve.median[best], 2);
  return { step: curve.position[best], short, text: `${short} (${numOf(curve.low[best], 2)} … ${numOf(curve.high[best], 2)})` };
}
