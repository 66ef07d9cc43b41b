// How much each measure changes along the path, by model: the numbers of the picture "model by measure".

import { ALL_LAYERS } from "./cells.js";
import { LOWEST } from "./medians.js";
import { measuredOf } from "./rows.js";
import { median } from "./statistics.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Asked} Asked */
/** @typedef {{ change: number, clean: number, at: number, runs: number, samples: number }} Change medians over a model's runs, log10; NaN where it has none */

/**
 * A row for every model, a column for every measure that one of them has.
 * @param {Book} book @param {Asked} asked @param {Item[]} shown @param {number} most models that are drawn
 * @returns {{ models: string[], measures: string[], rows: Change[][], of: number }} `of`: how many models there are
 */
export function changesOf({ data }, asked, shown, most) {
  const chosen = new Set(measuredOf(shown).map((item) => `${item.cell} ${item.layer}`)), names = Object.keys(data.measures);
  const { cell, layer, measure, values, n } = data.heights;
  /** @type {Map<string, { change: number, clean: number, at: number, n: number }[][]>} */
  const found = new Map();
  cell.forEach((which, k) => {
    if (!chosen.has(`${which} ${layer[k]}`)) return;
    const [clean, peak, end] = values.row(k), at = asked.heights === "peak" ? peak : end, change = at - clean;
    if (!Number.isFinite(change) || clean < LOWEST) return;
    const name = data.cells.model[which] + (asked.layer === ALL_LAYERS ? ` · ${data.layers[layer[k]]}` : "");
    if (!found.has(name)) found.set(name, names.map(() => []));
    found.get(name)?.[measure[k]].push({ change, clean, at, n: n[k] });
  });
  const drawn = [...found].slice(0, most), used = names.map((_, m) => m).filter((m) => drawn.some(([, own]) => own[m].length));
  return {
    models: drawn.map(([name]) => name), measures: used.map((m) => names[m]), of: found.size,
    rows: drawn.map(([, own]) => used.map((m) => ({
      change: median(own[m].map((v) => v.change)), clean: median(own[m].map((v) => v.clean)), at: median(own[m].map((v) => v.at)),
      runs: own[m].length, samples: own[m].reduce((sum, v) => sum + v.n, 0),
    }))),
  };
}
