// What is chosen on a sweep's page, in the address: names of settings and keys of runs, not their places.

import { ALL_LAYERS } from "./cells.js";
import { firstAsked, HEIGHTS, SHARES } from "./rows.js";

/** @typedef {import("./cells.js").Book} Book */
/** @typedef {import("./types.js").Asked} Asked */

const MOST = 20_000;

/** The hash without its #; empty where all is as a page opens. @param {Book} book @param {Asked} asked */
export function writeAsked(book, asked) {
  const parts = new URLSearchParams(), { data } = book, first = firstAsked(book);
  if (asked.find) parts.set("find", asked.find);
  if (asked.sort) parts.set("sort", (asked.down ? "-" : "") + asked.sort);
  if (asked.fold) parts.set("fold", "seeds");
  if (asked.picked.length) parts.set(asked.only ? "only" : "picked", asked.picked.join("."));
  if (asked.status) parts.set("state", asked.status);
  if (asked.layer === ALL_LAYERS) parts.set("layers", "all");
  else if (asked.layer !== first.layer) parts.set("layer", data.layers[asked.layer]);
  if (asked.share !== first.share) parts.set("share", asked.share);
  if (asked.heights !== first.heights) parts.set("heights", asked.heights);
  for (const [k, code] of Object.entries(asked.picks)) if (code >= 0) parts.set(`is:${data.varying[Number(k)].key}`, data.varying[Number(k)].values[code]);
  return parts.toString();
}

/** What a hash asks for; what this sweep does not have is left out. @param {Book} book @param {string} hash @param {string[]} columns that can be sorted by @returns {Asked} */
export function readAsked(book, hash, columns) {
  const parts = new URLSearchParams(hash.replace(/^#/, "").slice(0, MOST)), { data } = book, first = firstAsked(book);
  const known = new Set(data.cells.key), sort = parts.get("sort") ?? "", key = sort.replace(/^-/, ""), layer = data.layers.indexOf(parts.get("layer") ?? "");
  const picked = [...new Set((parts.get("only") ?? parts.get("picked") ?? "").split("."))].filter((one) => known.has(one));
  const one = (/** @type {string[][]} */ options, /** @type {string} */ name, /** @type {string} */ otherwise) => (options.some(([value]) => value === parts.get(name)) ? String(parts.get(name)) : otherwise);
  /** @type {Record<number, number>} */
  const picks = {};
  data.varying.forEach((column, k) => {
    const code = column.values.indexOf(parts.get(`is:${column.key}`) ?? "");
    if (parts.has(`is:${column.key}`) && code >= 0) picks[k] = code;
  });
  return {
    layer: parts.get("layers") === "all" && data.layers.length > 1 ? ALL_LAYERS : layer >= 0 ? layer : first.layer,
    share: one(SHARES, "share", first.share), heights: one(HEIGHTS, "heights", first.heights),
    find: parts.get("find") ?? "", picks, status: data.cells.state.includes(parts.get("state") ?? "") ? String(parts.get("state")) : "",
    ...(columns.includes(key) ? { sort: key, down: sort.startsWith("-") } : { sort: first.sort, down: first.down }),
    fold: parts.get("fold") === "seeds" && book.seeds.length > 0, picked, only: parts.has("only") && picked.length > 0,
  };
}
