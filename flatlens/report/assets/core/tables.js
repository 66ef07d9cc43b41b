// The numbers of a sweep's pictures as tables, for who does not see them or takes them away.

import { labelOf, shortMeasure } from "./cells.js";
import { columnsOf } from "./columns.js";
import { changesOf } from "./heights.js";
import { LOWEST, quartilesOf } from "./medians.js";
import { againstControls, measuredOf, robustPairs } from "./rows.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Told} Told */
/** @typedef {import("./types.js").Asked} Asked */
/** @typedef {(book: Book, asked: Asked, shown: Item[]) => unknown[][]} Table the first row names the columns */

/** @param {string} name */
const interval = (name) => [name, `${name} low`, `${name} high`, `${name} n`];
/** @param {Told | null} told */
const numbers = (told) => (told && told.n ? [told.value, told.low, told.high, told.n] : ["", "", "", ""]);
/** @param {number} log */
const valueOfLog = (log) => (log < LOWEST ? 0 : 10 ** log);

/** @param {import("./columns.js").Column} column @param {Item} item */
const toldOf = (column, item) => Boolean(/** @type {Told | null} */ (column.of(item))?.n);

/** All rows that are shown, with every column. @type {Table} */
export function runsTable(book, asked, shown) {
  const columns = columnsOf(book, asked).filter((column) => column.kind !== "curve");
  const wide = (/** @type {import("./columns.js").Column} */ { kind }) => kind === "share" || kind === "median";
  const head = columns.flatMap((column) => (wide(column) ? [...interval(column.title), ...("masked" in column ? [`${column.title} masked`] : [])] : [column.title]));
  return [["key", ...head, "error"], ...shown.map((item) => [
    book.data.cells.key[item.cell],
    ...columns.flatMap((column) => (wide(column) ? [...numbers(/** @type {Told | null} */ (column.of(item))), ...("masked" in column && column.masked ? [toldOf(column, item) ? String(column.masked(item)) : ""] : [])] : [column.kind === "setting" && column.whole ? column.whole(item) : column.of(item)])),
    book.data.cells.error[item.cell] ?? "",
  ])];
}

/** The quartiles of every curve at every step. @type {Table} */
export function curvesTable(book, asked, shown) {
  const { paths } = book.data;
  const rows = measuredOf(shown).flatMap((item) => [0, book.control].flatMap((path) => {
    const curve = quartilesOf(book, item, path), label = labelOf(book, asked, item);
    return curve ? curve.position.map((step, i) => [label, paths[path], step, valueOfLog(curve.median[i]), valueOfLog(curve.low[i]), valueOfLog(curve.high[i])]) : [];
  }));
  return [["run", "path", "step", "median", "lower quartile", "upper quartile"], ...rows];
}

/** @type {Table} */
export const againstTable = (book, asked, shown) => [
  ["run", "control", ...interval("attack"), ...interval("on the control")],
  ...againstControls(book, asked, shown).map(({ item, path, attack, control }) => [labelOf(book, asked, item), book.data.paths[path], ...numbers(attack), ...numbers(control)]),
];

/** @type {Table} */
export const robustTable = (book, asked, shown) => [
  ["robust run", "standard run", ...interval("robust"), ...interval("standard")],
  ...robustPairs(book, asked, shown).map(({ robust, standard, a, b }) => [labelOf(book, asked, robust), labelOf(book, asked, standard), ...numbers(b), ...numbers(a)]),
];

/** @type {Table} */
export function heightsTable(book, asked, shown) {
  const { models, measures, rows } = changesOf(book, asked, shown, Infinity);
  return [["model", "measure", "clean", asked.heights, "log10 of their ratio", "runs", "samples"], ...rows.flatMap((row, r) => row.map((cell, m) => [
    models[r], shortMeasure(book.data, measures[m]), valueOfLog(cell.clean), valueOfLog(cell.at), cell.change, cell.runs, cell.samples,
  ]))];
}
