// The columns of a sweep's table: what stands in each, what it is sorted by, and what it writes.

import { ALL_LAYERS, accuracyOf, across, medianOf, rowOf, shareOf, shortOf, valueOf, words } from "./cells.js";
import { quartilesOf } from "./medians.js";
import { shareWords } from "./rows.js";
import { fixed, num } from "./text.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Told} Told */
/** @typedef {import("./types.js").Asked} Asked */
/**
 * @typedef {{ key: string, title: string, sort: (item: Item) => string | number | null | undefined }
 *   & ({ kind: "setting", of: (item: Item) => string, whole?: (item: Item) => string, scheme?: string, first?: boolean }
 *   | { kind: "share", of: (item: Item) => Told | null, both?: boolean, masked?: (item: Item) => boolean }
 *   | { kind: "median", of: (item: Item) => Told | null, write: (value: number) => string, over?: string }
 *   | { kind: "curve", of: (item: Item) => import("./medians.js").Quartiles | null }
 *   | { kind: "number", of: (item: Item) => number }
 *   | { kind: "state", of: (item: Item) => string })} Column `first`: it names the row; `both`: the control's share is drawn beside the attack's; `masked`: whether gradients are, of one of the runs; `over`: what a median is of, where it is not the flipped samples
 */

/** @param {Book} book @param {Asked} asked @returns {Column[]} */
export function columnsOf(book, asked) {
  const { data, control } = book;
  const told = (/** @type {string} */ key, /** @type {string} */ title, /** @type {(item: Item) => Told | null} */ one) => {
    const of = (/** @type {Item} */ item) => across(item, one);
    return { key, title, of, sort: (/** @type {Item} */ item) => { const found = of(item); return found && found.n ? found.value : null; } };
  };
  const share = (/** @type {string} */ key, /** @type {string} */ title, path = 0, name = asked.share) => told(key, title, (item) => shareOf(book, rowOf(book, item, path), name));
  const middle = (/** @type {string} */ key, /** @type {string} */ title) => told(key, title, (item) => medianOf(book, rowOf(book, item), key));
  const right = (/** @type {string} */ key) => told(key, `right, ${key}`, ({ cell }) => accuracyOf(book, cell, key));
  const once = (/** @type {string} */ key, /** @type {string} */ title, /** @type {import("./types.js").Matrix} */ values) => {
    const of = (/** @type {Item} */ { cell }) => values.values[cell];
    return { key, title, kind: /** @type {const} */ ("number"), of, sort: of };
  };
  const layerOf = (/** @type {Item} */ { layer }) => data.layers[layer] ?? null;
  return [
    ...settings(book),
    ...(asked.layer === ALL_LAYERS ? [{ key: "layer", title: "layer", kind: /** @type {const} */ ("setting"), of: (/** @type {Item} */ item) => layerOf(item) ?? "–", sort: layerOf }] : []),
    ...(data.matched === null ? [{ ...right("clean"), kind: /** @type {const} */ ("share") }, { ...right("attacked"), kind: /** @type {const} */ ("share") }] : []),
    ...(data.cells.accuracy.worst ? [{ ...right("worst"), title: "right, worst case", kind: /** @type {const} */ ("share"), masked: (/** @type {Item} */ item) => (item.group ?? [item]).some(({ cell }) => data.cells.masked.includes(cell)) }] : []),
    { ...share("flipped", "flipped", 0, "flipped"), kind: "share" },
    { key: "curve", title: "median κ", kind: "curve", of: (item) => quartilesOf(book, item, 0), sort: () => null },
    ...(data.matched === null ? [] : [
      { ...share("settled", "settled", 0, "settled"), kind: /** @type {const} */ ("share") }, { ...share("flat_end", "flat end", 0, "flat_end"), kind: /** @type {const} */ ("share") },
      { ...middle("matched", `κ at a loss of ${num(data.matched)}`), kind: /** @type {const} */ ("median"), write: num, over: "prompts that came so far" },
      { ...middle("flip_step", "flip step"), kind: /** @type {const} */ ("median"), write: num },
    ]),
    { ...share("valley", `valley, ${shareWords(asked)}`), kind: "share", both: true },
    ...(control < 0 ? [] : [{ ...share("control", `the same on ${words(data.control)}`, control), kind: /** @type {const} */ ("share") }]),
    { ...middle("rise", "rise, ×"), kind: "median", write: num },
    { ...middle("depth", "depth, log₁₀"), kind: "median", write: fixed },
    { ...middle("lag", "lag, steps"), kind: "median", write: num },
    once("seconds", "seconds", data.cells.seconds),
    ...(data.cells.step_seconds ? [once("step_seconds", "seconds a step", data.cells.step_seconds)] : []),
    { key: "state", title: "state", kind: "state", of: ({ cell }) => data.cells.state[cell], sort: ({ cell }) => data.cells.state[cell] },
  ];
}

/** @param {Book} book @returns {Column[]} */
function settings(book) {
  const { data } = book;
  if (!data.varying.length) return [{ key: "key", title: "run", kind: "setting", of: ({ cell }) => data.cells.key[cell].slice(0, 8), sort: ({ cell }) => cell, first: true }];
  return data.varying.map((c, k) => ({
    key: c.key, title: words(c.key), kind: "setting", scheme: c.values[0].slice(0, book.schemes.get(c.key)), first: k === 0,
    of: ({ cell }) => shortOf(book, c, cell), whole: ({ cell }) => valueOf(c, cell), sort: ({ cell }) => c.of[cell],
  }));
}

/** What a click on a column's name sorts by: numbers from their large end first, settings from the start, then the other way, then as they came. @param {Asked} asked @param {Column} column @returns {Partial<Asked>} */
export function sortedBy(asked, column) {
  const numeric = column.kind === "share" || column.kind === "median" || column.kind === "number";
  if (asked.sort !== column.key) return { sort: column.key, down: numeric };
  return asked.down === numeric ? { down: !numeric } : { sort: null, down: false };
}
