// Which runs of a sweep are shown, in which order, and which of them are compared: no drawing.

import { ALL_LAYERS, rowOf, shareOf } from "./cells.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Told} Told */
/** @typedef {import("./types.js").Asked} Asked */

export const SHARES = [["valley_of_flipped", "of the flipped"], ["valley_of_all", "of all that were right"]];
export const HEIGHTS = [["peak", "peak ÷ clean"], ["end", "end ÷ clean"]];

/** What a page opens with. @param {Book} book @returns {Asked} */
export const firstAsked = (book) => ({
  layer: Math.max(0, book.data.layers.indexOf("head")), share: SHARES[0][0], find: "", picks: {}, status: "", sort: null, down: false,
  heights: HEIGHTS[0][0], fold: false, picked: [], only: false,
});

/** The words of the share that is chosen. @param {Asked} asked */
export const shareWords = (asked) => SHARES.find(([key]) => key === asked.share)?.[1] ?? "";

/** Rows before filtering: a run each, or a run and layer each. Runs without numbers are there, too. @param {Book} book @param {Asked} asked @returns {Item[]} */
export const itemsOf = (book, asked) => book.ofCell.flatMap((own, cell) => {
  if (!own.length) return [{ cell, layer: -1 }];
  if (asked.layer === ALL_LAYERS) return own.map((layer) => ({ cell, layer }));
  return own.includes(asked.layer) ? [{ cell, layer: asked.layer }] : [];
});

/** Whether anything but the order is chosen. @param {Asked} asked */
export const isFiltered = (asked) => asked.find !== "" || asked.status !== "" || Object.values(asked.picks).some((code) => code >= 0);

/** @param {Book} book @param {Asked} asked @param {Item} item */
function passes({ data, texts }, asked, { cell }) {
  if (asked.only && !asked.picked.includes(data.cells.key[cell])) return false;
  if (asked.status && data.cells.state[cell] !== asked.status) return false;
  for (const [k, code] of Object.entries(asked.picks)) if (code >= 0 && data.varying[Number(k)].of[cell] !== code) return false;
  return asked.find.toLowerCase().split(/\s+/).every((word) => texts[cell].includes(word));
}

/** With seeds folded, runs that differ in a seed alone are one row: the first of them, which knows the others. @param {Book} book @param {Item[]} all */
function folded(book, all) {
  const telling = book.data.varying.filter((c) => !book.seeds.includes(c));
  /** @type {Map<string, Item & { group: Item[] }>} */
  const groups = new Map();
  for (const item of all) {
    const same = `${telling.map((c) => c.of[item.cell]).join(",")}|${item.layer}`;
    if (!groups.has(same)) groups.set(same, { ...item, group: [] });
    groups.get(same)?.group.push(item);
  }
  return [...groups.values()];
}

/**
 * The rows that are wanted, in their order.
 * @param {Book} book @param {Asked} asked @param {{ sort: (item: Item) => string | number | null | undefined } | undefined} column what they are sorted by
 * @returns {Item[]}
 */
export function shownOf(book, asked, column) {
  const kept = itemsOf(book, asked).filter((item) => passes(book, asked, item)), rows = asked.fold ? folded(book, kept) : kept;
  if (!column) return rows;
  const missing = (/** @type {unknown} */ v) => v === null || v === undefined || Number.isNaN(v), sign = asked.down ? -1 : 1;
  return rows
    .map((item) => ({ item, value: column.sort(item) }))
    .sort(({ value: a }, { value: b }) => {
      // What has no value comes last, in either direction; equal rows keep the sweep's order.
      if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
      return a === b ? 0 : sign * (/** @type {number} */ (a) < /** @type {number} */ (b) ? -1 : 1);
    })
    .map(({ item }) => item);
}

/** @param {Item[]} shown */
export const measuredOf = (shown) => shown.filter((item) => item.layer >= 0);

/** Attack and control of every shown run, with the shares that are compared. @param {Book} book @param {Asked} asked @param {Item[]} shown */
export function againstControls(book, asked, shown) {
  /** @type {{ item: Item, path: number, attack: Told, control: Told }[]} */
  const out = [];
  for (const item of measuredOf(shown)) {
    const attack = shareOf(book, rowOf(book, item), asked.share);
    for (let path = 1; path < book.data.paths.length; path++) {
      const control = shareOf(book, rowOf(book, item, path), asked.share);
      if (attack?.n && control?.n) out.push({ item, path, attack, control });
    }
  }
  return out;
}

/** Shown runs that differ in the defence of their training alone. @param {Book} book @param {Asked} asked @param {Item[]} shown */
export function robustPairs(book, asked, shown) {
  /** @type {Map<number, Item[]>} */
  const at = new Map();
  for (const item of measuredOf(shown)) at.set(item.cell, [...(at.get(item.cell) ?? []), item]);
  /** @type {{ standard: Item, robust: Item, a: Told, b: Told }[]} */
  const out = [];
  for (const pair of book.data.pairs) {
    for (const standard of at.get(pair.standard) ?? []) {
      const robust = (at.get(pair.robust) ?? []).find((item) => item.layer === standard.layer);
      const a = shareOf(book, rowOf(book, standard), asked.share), b = robust ? shareOf(book, rowOf(book, robust), asked.share) : null;
      if (robust && a?.n && b?.n) out.push({ standard, robust, a, b });
    }
  }
  return out;
}

/** How many comparisons a page invites. @param {Book} book @param {Asked} asked @param {Item[]} shown */
export function comparisonsOf(book, asked, shown) {
  const rows = measuredOf(shown);
  const all = rows.flatMap((item) => book.data.paths.map((_, path) => shareOf(book, rowOf(book, item, path), asked.share)).filter((told) => told !== null));
  return {
    runs: new Set(rows.map((item) => item.cell)).size, rows: rows.length, shares: all.filter((told) => told.n).length, empty: all.filter((told) => !told.n).length,
    against: againstControls(book, asked, shown).length, pairs: robustPairs(book, asked, shown).length,
  };
}
