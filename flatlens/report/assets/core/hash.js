// The state in the address: #s=2&t=4&x=flip&m=trace&l=conv2. Names and ids, not positions; what is unknown is ignored.

import { first, settle } from "./state.js";

/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").State} State */

/** @param {Run[]} runs @param {State} state @returns {string} */
export function write(runs, state) {
  const run = runs[state.run], base = first(runs, state.run), parts = new URLSearchParams();
  if (runs.length > 1) parts.set("r", String(state.run));
  parts.set("s", String(run.sample[state.sample]));
  parts.set("t", String(state.step));
  if (state.align !== base.align) parts.set("x", state.align);
  if (state.measure !== base.measure) parts.set("m", state.measure);
  if (state.layer) parts.set("l", run.layers[state.layer].name);
  if (state.path) parts.set("p", run.paths[state.path].name);
  state.off.forEach((name) => parts.append("off", name));
  if (state.brush) parts.set("sel", ranges(state.brush.map((i) => run.sample[i])));
  if (state.filter !== "all") parts.set("f", state.filter);
  if (state.order !== "id") parts.set("o", state.order);
  return "#" + parts.toString();
}

/** @param {Run[]} runs @param {string} hash @returns {State} */
export function read(runs, hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, "").slice(0, 20000));
  const number = (/** @type {string} */ key) => (/^\d{1,15}$/.test(parts.get(key) ?? "") ? Number(parts.get(key)) : undefined);
  const which = number("r") ?? 0, run = runs[which] ?? runs[0];
  const place = (/** @type {number | undefined} */ at) => (at === undefined || at < 0 ? undefined : at);
  const id = number("s"), selected = parts.get("sel");
  return settle(runs, {
    run: which,
    sample: id === undefined ? undefined : place(run.sample.indexOf(id)),
    step: number("t"),
    align: /** @type {any} */ (parts.get("x") ?? undefined),
    measure: parts.get("m") ?? undefined,
    layer: place(run.layers.findIndex((l) => l.name === parts.get("l"))),
    path: place(run.paths.findIndex((p) => p.name === parts.get("p"))),
    off: parts.getAll("off"),
    brush: selected === null ? null : members(selected, run.sample),
    filter: parts.get("f") ?? undefined,
    order: parts.get("o") ?? undefined,
  });
}

/** @param {number[]} ids ascending */
function ranges(ids) {
  /** @type {string[]} */
  const out = [];
  for (let k = 0; k < ids.length; ) {
    let end = k;
    while (ids[end + 1] === ids[end] + 1) end++;
    out.push(end > k ? `${ids[k]}-${ids[end]}` : String(ids[k]));
    k = end + 1;
  }
  return out.join(".");
}

/** @param {string} text @param {number[]} sample */
function members(text, sample) {
  if (!/^\d{1,15}(-\d{1,15})?(\.\d{1,15}(-\d{1,15})?)*$/.test(text)) return [];
  const spans = text.split(".").map((part) => part.split("-").map(Number));
  return sample.map((id, i) => (spans.some(([a, b = a]) => id >= a && id <= b) ? i : -1)).filter((i) => i >= 0);
}
