// One sample: what it says, where it is, what changed. The inspector, every figure's dot and every table read it here.

import { className, num } from "./text.js";

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
 * All numbers of one sample at one step, of the path and the measure that are chosen. A language model's prediction is
 * how many of the target's tokens it says.
 * @param {Run} run @param {State} state @param {number} [i] @param {number} [step]
 */
export function numbers(run, state, i = state.sample, step = state.step) {
  const flow = run.paths[state.path].flow;
  const at = (/** @type {string} */ name) => flow[name].row(i)[step];
  return {
    x: place(run, state, i, step), value: measured(run, state).lines.row(i)[step], loss: at("loss"), margin: at("margin"),
    confidence: at("confidence"), prediction: at(run.truth ? "prediction" : "matched"),
  };
}

/** What the model says there: a class; of a language model, how many of the target's tokens greedy decoding gives. @param {Run} run @param {number} path @param {number} i @param {number} t */
export function says(run, path, i, t) {
  const flow = run.paths[path].flow;
  if (!run.truth) return `${num(flow.matched.row(i)[t])} target tokens`;
  return className(run.labels, flow.prediction.row(i)[t]);
}

/** What a sample is called; a prompt has a name of its own. @param {Run} run @param {number} i */
export const called = (run, i) => (run.text ? `${run.sample[i]}, ${run.text.prompts[i].id}` : String(run.sample[i]));

/** What its label is, for people. @param {Run} run @param {number} i */
export const labelled = (run, i) => (run.truth ? `label ${className(run.labels, run.truth[i])}` : "a prompt");

/** Whether it is right at a step: classified as labelled; of a language model, that the target is not what it says. @param {Run} run @param {State} state @param {number} i @param {number} t */
export function isRight(run, state, i, t) {
  const flow = run.paths[state.path].flow;
  return run.truth ? flow.prediction.row(i)[t] === run.truth[i] : flow.margin.row(i)[t] <= 0;
}

/** The moments of a sample that are worth a look. @param {Run} run @param {State} state @returns {[string, number][]} */
export function moments(run, state) {
  const flip = run.paths[state.path].flip.values[state.sample], peak = measured(run, state).peak.values[state.sample];
  /** @type {[string, number][]} */
  const found = [["clean", 0]];
  if (flip >= 0) found.push(["flip", flip]);
  if (peak >= 0) found.push(["peak", peak]);
  found.push(["end", lastOf(run, state.path, state.sample)]);
  return found;
}

/** What kind of path a sample has. @param {Run} run @param {State} state @param {number} i */
export function kind(run, state, i) {
  const flip = run.paths[state.path].flip.values[i];
  if (flip < 0) return "unflipped";
  if (measured(run, state).valley.values[i]) return "valley";
  // Of a language model the margin is the target's: where it is said, above 0.
  const margin = run.paths[state.path].flow.margin.row(i), side = run.truth ? 1 : -1;
  for (let t = flip + 1; t < margin.length; t++) if (side * margin[t] > 0) return "back";
  return "none";
}

/** @param {Run} run @param {State} state @param {number} i */
export function verdict(run, state, i) {
  if (!run.truth) return verdictOnPrompt(run, state, i);
  const name = (/** @type {number} */ k) => className(run.labels, k);
  const flip = run.paths[state.path].flip.values[i], label = name(run.truth[i]);
  const flow = run.paths[state.path].flow;
  if (flip < 0) {
    const wrong = flow.margin.row(i)[0] <= 0, targeted = run.spec.some(([key]) => key === "targeted");
    return `Label ${label}, ${wrong ? "wrong from the start" : targeted ? "never taken for its target on this path" : "never wrong on this path"}.`;
  }
  const peak = measured(run, state).peak.values[i];
  const says = (/** @type {number} */ t) => name(flow.prediction.row(i)[t]), to = says(flip), end = says(lastOf(run, state.path, i));
  return `Label ${label}, flips to ${to} at step ${flip}${end === to ? "" : `, ends as ${end}`}${peak >= 0 ? `, sharpest at ${peak}` : ""}.`;
}

/** Of a language model a flip is that its greedy answer is the target. @param {Run} run @param {State} state @param {number} i */
function verdictOnPrompt(run, state, i) {
  const flip = run.paths[state.path].flip.values[i], peak = measured(run, state).peak.values[i], margin = run.paths[state.path].flow.margin.row(i);
  if (flip < 0) return margin[0] > 0 ? "The target is said from the start." : "The target is never said on this path.";
  const end = lastOf(run, state.path, i), back = margin[end] <= 0 ? ", but not at the end" : "";
  return `The target is said from step ${flip} on${back}${peak >= 0 ? `; sharpest at ${peak}` : ""}.`;
}

/** A sample's last step on a path: paths may be shorter than the longest. @param {Run} run @param {number} path @param {number} i */
export function lastOf(run, path, i) {
  const loss = run.paths[path].flow.loss.row(i);
  let t = loss.length - 1;
  while (t > 0 && Number.isNaN(loss[t])) t--;
  return t;
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
