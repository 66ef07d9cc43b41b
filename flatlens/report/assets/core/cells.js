// The cells of a sweep: what is known of each, and what each is called.

import { median } from "./statistics.js";

/** @typedef {import("./types.js").SweepData} SweepData */
/** @typedef {import("./types.js").Setting} Setting */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Told} Told */
/** @typedef {import("./types.js").Asked} Asked */
/**
 * A sweep's data with what finds a number in it.
 * @typedef {{ data: SweepData, cells: number, control: number, rows: Map<number, number>, curves: Map<number, number>, ofCell: number[][],
 *   schemes: Map<string, number>, seeds: Setting[], texts: string[] }} Book
 */

export const ALL_LAYERS = -1;

/** @param {SweepData} data @returns {Book} */
export function bookOf(data) {
  const { rows, curves } = data, ofCell = data.cells.key.map(() => /** @type {number[]} */ ([]));
  rows.cell.forEach((cell, r) => { if (rows.path[r] === 0) ofCell[cell].push(rows.layer[r]); });
  return {
    data, cells: data.cells.key.length, control: data.paths.indexOf(data.control), ofCell,
    rows: new Map(rows.cell.map((cell, r) => [slot(data, cell, rows.layer[r], rows.path[r]), r])),
    curves: new Map(curves.cell.map((cell, k) => [slot(data, cell, curves.layer[k], curves.path[k]), k])),
    schemes: new Map(data.varying.map((column) => [column.key, schemeOf(column)])),
    seeds: data.varying.filter(({ key }) => /(^|\.)(sample_)?seed$/.test(key)),
    texts: data.cells.key.map((key, cell) => [...data.varying.map((c) => valueOf(c, cell)), key, data.cells.state[cell], data.cells.error[cell] ?? ""].join("\n").toLowerCase()),
  };
}

/** A cell, a layer and a path as one number. @param {SweepData} data @param {number} cell @param {number} layer @param {number} path */
const slot = (data, cell, layer, path) => (cell * data.layers.length + layer) * data.paths.length + path;

/** Where all models are of one scheme (`flatlens:`), its name says nothing: how many letters it has. @param {Setting} column */
function schemeOf(column) {
  const found = new Set(column.values.map((v) => /^[\w.-]+:(?!\/)/.exec(v)?.[0]));
  return found.size === 1 ? ([...found][0] ?? "").length : 0;
}

/** The row of the statistics; none of a run without numbers, and of a control that is not there. @param {Book} book @param {Item} item @param {number} [path] */
export const rowOf = (book, item, path = 0) => (item.layer < 0 || path < 0 ? undefined : book.rows.get(slot(book.data, item.cell, item.layer, path)));

/** @param {Book} book @param {Item} item @param {number} path */
export const curveAt = (book, item, path) => (item.layer < 0 || path < 0 ? undefined : book.curves.get(slot(book.data, item.cell, item.layer, path)));

/** @param {Book} book @param {number | undefined} row @param {string} name @returns {Told | null} */
export function shareOf(book, row, name) {
  if (row === undefined) return null;
  // What is known of attacks alone has tables of its own.
  const [value, low, high, count, n] = book.data.rows.shares[name].row(name.startsWith("valley") ? row : book.data.rows.attack[row]);
  return { value, low, high, count, n };
}

/** @param {Book} book @param {number | undefined} row of an attack @param {string} name @returns {Told | null} */
export function medianOf(book, row, name) {
  if (row === undefined) return null;
  const [value, low, high, n] = book.data.rows.medians[name].row(book.data.rows.attack[row]);
  return { value, low, high, n };
}

/** @param {Book} book @param {number} cell @param {string} at `clean`, `attacked` or `worst` @returns {Told | null} */
export function accuracyOf(book, cell, at) {
  const [value, low, high, count, n] = book.data.cells.accuracy[at].row(cell);
  return Number.isNaN(value) ? null : { value, low, high, count, n };
}

/**
 * Of several runs the median and the range, in the place of one run's value and interval.
 * @param {Item} item @param {(one: Item) => Told | null} of @returns {Told | null}
 */
export function across(item, of) {
  const one = of(item);
  if (!item.group || item.group.length < 2 || !one) return one;
  const all = item.group.map(of).filter((told) => told !== null && told.n > 0).map((told) => /** @type {Told} */ (told)), values = all.map((told) => told.value);
  if (!values.length) return one;
  const sum = (/** @type {(told: Told) => number} */ part) => all.reduce((total, told) => total + part(told), 0);
  return { value: median(values), low: Math.min(...values), high: Math.max(...values), count: sum((told) => told.count ?? 0), n: sum((told) => told.n), runs: values.length };
}

/** @param {Setting} column @param {number} cell */
export const valueOf = (column, cell) => column.values[column.of[cell]];

/** The same without a scheme that all share. @param {Book} book @param {Setting} column @param {number} cell */
export const shortOf = (book, column, cell) => valueOf(column, cell).slice(book.schemes.get(column.key));

/**
 * What a run is called beside a picture: its own settings, without those that are not there.
 * @param {Book} book @param {Asked} asked @param {Item} item @param {string[]} [without] keys of settings that go without saying
 */
export function labelOf(book, asked, item, without = []) {
  const own = telling(book.data, item.cell)
    .filter((c) => !without.includes(c.key) && valueOf(c, item.cell) !== "–")
    .map((c) => (c.numbers ? `${titleOf(book.data, c)} ${valueOf(c, item.cell)}` : shortOf(book, c, item.cell)));
  if (asked.layer === ALL_LAYERS && item.layer >= 0) own.push(book.data.layers[item.layer]);
  return own.join(" · ") || book.data.cells.key[item.cell].slice(0, 8);
}

/** A cell with a name is told by it, and by what differs among its namesakes. @param {SweepData} data @param {number} cell */
function telling(data, cell) {
  const name = data.varying.find((c) => c.key === "name");
  if (!name || valueOf(name, cell) === "–") return data.varying;
  const alike = name.of.flatMap((code, i) => (code === name.of[cell] ? [i] : []));
  return data.varying.filter((c) => c === name || new Set(alike.map((i) => c.of[i])).size > 1);
}

/** A number needs its name; `train.eps` is `eps` where the attack's own does not vary. @param {SweepData} data @param {Setting} column */
function titleOf(data, { key }) {
  const last = key.replace("train.", "").replace("immunize.method", "immunized by").replace("immunize.", ""), taken = data.varying.some((c) => c.key === last && c.key !== key);
  return words(taken ? key : last);
}

/** A key or a path's name, as words. @param {string} name */
export const words = (name) => name.replace(/[_-]/g, " ");

/** A measure as the note under a table says it: "κ, relative flatness (source)". @param {SweepData} data @param {string} key */
export const fullMeasure = (data, key) => data.measures[key].replace("_max", "ₘₐₓ");

/** Its symbol, for axes. @param {SweepData} data @param {string} key */
export const shortMeasure = (data, key) => fullMeasure(data, key).split(",")[0];
