// What is chosen on the page. A state is plain data; `settle` makes any state one that can be shown.

/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").State} State */

export const FILTERS = ["all", "valley", "none", "back", "unflipped"];
export const ORDERS = ["id", "flip", "rise"];

/** The first sample that flips inside its path is the most telling one to open with. @param {Run} run */
export function firstSample(run) {
  const kept = run.surfaces?.length ? run.surfaces.map((s) => s.sample) : run.images?.sample;
  const held = kept ? new Set(kept) : null, flip = run.paths[0].flip.values;
  const at = run.sample.findIndex((id, i) => flip[i] > 1 && (!held || held.has(id)));
  return Math.max(0, at);
}

/** @param {Run[]} runs @returns {State} */
export function first(runs, run = 0) {
  const sample = firstSample(runs[run]);
  return {
    run, sample, step: flipOf(runs[run], 0, sample), align: flips(runs[run]) ? "flip" : "raw",
    measure: knownOf(runs[run], 0)[0], layer: 0, path: 0, off: [], brush: null, filter: "all", order: "id",
  };
}

/** What is known of a layer: of some methods not every measure. @param {Run} run @param {number} layer */
export function knownOf(run, layer) {
  const known = run.layers[layer].measures;
  return known.length ? known : run.measures;
}

/** @param {Run} run */
const flips = (run) => run.paths[0].flip.values.some((v) => v >= 0);

/** Where a sample is shown first: at its flip, else at the end. @param {Run} run @param {number} path @param {number} sample */
export function flipOf(run, path, sample) {
  const flip = run.paths[path].flip.values[sample];
  return flip >= 0 ? flip : run.steps;
}

/**
 * The nearest state that can be shown: whatever a link, an old page or a stranger asks for.
 * @param {Run[]} runs
 * @param {Partial<State>} asked
 * @returns {State}
 */
export function settle(runs, asked) {
  const which = within(asked.run, runs.length, 0), run = runs[which], base = first(runs, which);
  const sample = within(asked.sample, run.sample.length, base.sample);
  const path = within(asked.path, run.paths.length, 0);
  const names = run.paths.map((p) => p.name), layer = within(asked.layer, run.layers.length, 0), known = knownOf(run, layer);
  const brush = Array.isArray(asked.brush) ? asked.brush.filter((i) => Number.isInteger(i) && i >= 0 && i < run.sample.length) : null;
  return {
    run: which, sample, path,
    step: within(asked.step, run.steps + 1, flipOf(run, path, sample)),
    align: asked.align === "raw" || asked.align === "flip" ? asked.align : base.align,
    measure: [String(asked.measure), base.measure, known[0]].find((m) => known.includes(m)) ?? known[0], layer,
    off: Array.isArray(asked.off) ? names.filter((name) => asked.off?.includes(name) && name !== names[0]) : [],
    brush: brush && brush.length ? [...new Set(brush)].sort((a, b) => a - b) : null,
    filter: FILTERS.includes(String(asked.filter)) ? String(asked.filter) : "all",
    order: ORDERS.includes(String(asked.order)) ? String(asked.order) : "id",
  };
}

/** @param {unknown} value @param {number} size @param {number} otherwise */
const within = (value, size, otherwise) => (Number.isInteger(value) && Number(value) >= 0 && Number(value) < size ? Number(value) : otherwise);
