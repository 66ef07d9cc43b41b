// One sample: what it says, where it is, what changed. The inspector, every figure's dot and every table read it here.

import { className } from "./text.js";

/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").State} State */
/** @typedef {import("./types.js").Measured} Measured */

/** @param {Run} run @param {State} state @returns {Measured} */
export const measured = (run, state) => run.results[state.layer][state.measure][state.path];

/** Its step on the axis that is shown; NaN where it has no place there. @param {Run} run @param {State} state @param {number} i @param {number} step */
export function place(run, state, i, step) {
  if (state.align === "raw") return step;
  const flip = run.paths[state.path].flip.values[i];
  return flip < 0 ? NaN : step - flip;
}

/**
 * All numbers of one sample at one step, of the path and the measure that are chosen.
 * @param {Run} run @param {State} state @param {number} [i] @param {number} [step]
 */
export function numbers(run, state, i = state.sample, step = state.step) {
  const flow = run.paths[state.path].flow;
  const at = (/** @type {string} */ name) => flow[name].row(i)[step];
  return {
    x: place(run, state, i, step), value: measured(run, state).lines.row(i)[step], loss: at("loss"), margin: at("margin"),
    confidence: at("confidence"), prediction: at("prediction"),
  };
}

/** The moments of a sample that are worth a look. @param {Run} run @param {State} state @returns {[string, number][]} */
export function moments(run, state) {
  const flip = run.paths[state.path].flip.values[state.sample], peak = measured(run, state).peak.values[state.sample];
  /** @type {[string, number][]} */
  const found = [["clean", 0]];
  if (flip >= 0) found.push(["flip", flip]);
  if (peak >= 0) found.push(["peak", peak]);
  found.push(["end", run.steps]);
  return found;
}

/** What kind of path a sample has. @param {Run} run @param {State} state @param {number} i */
export function kind(run, state, i) {
  const flip = run.paths[state.path].flip.values[i];
  if (flip < 0) return "unflipped";
  if (measured(run, state).valley.values[i]) return "valley";
  const margin = run.paths[state.path].flow.margin.row(i);
  for (let t = flip + 1; t < margin.length; t++) if (margin[t] > 0) return "back";
  return "none";
}

/** @param {Run} run @param {State} state @param {number} i */
export function verdict(run, state, i) {
  const says = (/** @type {number} */ k) => className(run.labels, k);
  const flip = run.paths[state.path].flip.values[i], label = says(run.truth[i]);
  const flow = run.paths[state.path].flow;
  if (flip < 0) {
    const wrong = flow.margin.row(i)[0] <= 0;
    return `Label ${label}, ${wrong ? "wrong from the start" : "never wrong on this path"}.`;
  }
  const peak = measured(run, state).peak.values[i];
  const to = says(flow.prediction.row(i)[run.steps]);
  return `Label ${label}, flips to ${to} at step ${flip}${peak >= 0 ? `, sharpest at ${peak}` : ""}.`;
}

/** Rows of the kept inputs that are of a sample, by step. @param {Run} run @param {number} i @returns {{ row: number, step: number }[]} */
export function frames(run, i) {
  const kept = run.images, out = [];
  if (!kept) return [];
  const id = run.sample[i];
  for (let row = kept.sample.indexOf(id); row >= 0 && kept.sample[row] === id; row++) out.push({ row, step: kept.step[row] });
  return out;
}

/** The kept input that is nearest to a step. @param {{ row: number, step: number }[]} of @param {number} step */
export const nearest = (of, step) => of.reduce((best, f) => (Math.abs(f.step - step) < Math.abs(best.step - step) ? f : best), of[0]);
