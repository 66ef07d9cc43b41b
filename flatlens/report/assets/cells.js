// The cells of a sweep: what is known of each, which are shown, in which order.

const CELLS = DATA.cells.key.length;
const narrow = () => window.innerWidth < 640;
const FIRST_PANELS = narrow() ? 8 : 24;
const state = {
  layer: 0, share: "valley_of_flipped", find: "", picks: {}, status: "", sort: null, down: false,
  rows: 200, panels: FIRST_PANELS, heights: "peak", printing: false, fold: false, picked: [], only: false,
};

const LAYERS = DATA.layers.length, PATHS = DATA.paths.length, ALL_LAYERS = -1;
const CONTROL = DATA.paths.indexOf(DATA.control);
const SHARE_NAMES = { valley_of_flipped: "of the flipped", valley_of_all: "of all that were right" };

// What is known of attacks alone (medians, flips) has tables of its own, in `attack`'s places.
// (cell, layer, path) -> row of the statistics; (cell, layer) -> layers that a cell has.
const place = (cell, layer, path) => (cell * LAYERS + layer) * PATHS + path;
const ROWS = new Map(DATA.rows.cell.map((cell, r) => [place(cell, DATA.rows.layer[r], DATA.rows.path[r]), r]));
const OF_CELL = Array.from({ length: CELLS }, () => []);
DATA.rows.cell.forEach((cell, r) => { if (DATA.rows.path[r] === 0) OF_CELL[cell].push(DATA.rows.layer[r]); });
const CURVES = new Map(DATA.curves.cell.map((cell, k) => [place(cell, DATA.curves.layer[k], DATA.curves.path[k]), k]));

// Of a run without numbers, and of a control that is not there, nothing.
const rowOf = (item, path = 0) => (item.layer < 0 || path < 0 ? undefined : ROWS.get(place(item.cell, item.layer, path)));

function shareOf(row, name) {
  if (row === undefined) return null;
  const at = name === "flipped" ? DATA.rows.attack[row] : row;
  const [value, low, high, hits, n] = DATA.rows.shares[name].row(at);
  return { value, low, high, count: hits, n };
}

function medianOf(row, name) {
  if (row === undefined) return null;
  const [value, low, high, n] = DATA.rows.medians[name].row(DATA.rows.attack[row]);
  return { value, low, high, n };
}

function accuracyOf(cell, at) {
  const [value, low, high, hits, n] = DATA.cells.accuracy[at].row(cell);
  return Number.isNaN(value) ? null : { value, low, high, count: hits, n };
}

const setting = (column, cell) => column.values[column.of[cell]];

// Where all models are of one scheme, its name says nothing.
const schemes = new Map(DATA.varying.map((column) => {
  const found = new Set(column.values.map((v) => /^[\w.-]+:(?!\/)/.exec(v)?.[0]));
  return [column.key, found.size === 1 && !found.has(undefined) ? [...found][0].length : 0];
}));
const short = (column, cell) => setting(column, cell).slice(schemes.get(column.key));

// What a run is called beside a picture: its own settings, without those that are not there.
function labelOf(item, without = []) {
  const own = telling(item.cell).filter((c) => !without.includes(c.key) && setting(c, item.cell) !== "–").map((c) => (c.numbers ? `${nameOf(c)} ${setting(c, item.cell)}` : short(c, item.cell)));
  if (state.layer === ALL_LAYERS && item.layer >= 0) own.push(DATA.layers[item.layer]);
  return own.join(" · ") || DATA.cells.key[item.cell].slice(0, 8);
}

// A cell with a name is told by it, and by what differs among its namesakes.
function telling(cell) {
  const name = DATA.varying.find((c) => c.key === "name");
  if (!name || setting(name, cell) === "–") return DATA.varying;
  const alike = name.of.flatMap((code, i) => (code === name.of[cell] ? [i] : []));
  return DATA.varying.filter((c) => c === name || new Set(alike.map((i) => c.of[i])).size > 1);
}

// A number needs its name; `train.eps` is `eps` where the attack's own does not vary.
const nameOf = ({ key }) => { const last = key.replace("train.", ""); return (DATA.varying.some((c) => c.key === last && c.key !== key) ? key : last).replaceAll("_", " "); };

const brief = (text, most = 40) => (text.length > most ? `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}` : text);

// Rows before filtering: a run each, or a run and layer each. Runs without numbers are there, too.
function items() {
  const out = [];
  for (let cell = 0; cell < CELLS; cell++) {
    const own = OF_CELL[cell];
    if (!own.length) out.push({ cell, layer: -1 });
    else if (state.layer === ALL_LAYERS) own.forEach((layer) => out.push({ cell, layer }));
    else if (own.includes(state.layer)) out.push({ cell, layer: state.layer });
  }
  return out;
}

const texts = [];
function textOf(cell) {
  texts[cell] ??= [...DATA.varying.map((c) => setting(c, cell)), DATA.cells.key[cell], DATA.cells.state[cell], DATA.cells.error[cell] ?? ""].join("\n").toLowerCase();
  return texts[cell];
}

function passes({ cell }) {
  if (state.only && !state.picked.includes(DATA.cells.key[cell])) return false;
  if (state.status && DATA.cells.state[cell] !== state.status) return false;
  for (const [k, code] of Object.entries(state.picks)) if (code >= 0 && DATA.varying[k].of[cell] !== code) return false;
  return state.find.toLowerCase().split(/\s+/).every((word) => textOf(cell).includes(word));
}

// With seeds folded, runs that differ in a seed alone are one row: the first of them, which knows the others.
const SEEDS = DATA.varying.filter((c) => /(^|\.)(sample_)?seed$/.test(c.key));
function folded(all) {
  const groups = new Map();
  for (const item of all) {
    const same = DATA.varying.filter((c) => !SEEDS.includes(c)).map((c) => c.of[item.cell]).join(",") + "|" + item.layer;
    if (!groups.has(same)) groups.set(same, { ...item, group: [] });
    groups.get(same).group.push(item);
  }
  return [...groups.values()];
}

const middle = (values) => { const v = values.filter((x) => x !== null && !Number.isNaN(x)).sort((a, b) => a - b); return v.length ? (v[(v.length - 1) >> 1] + v[v.length >> 1]) / 2 : NaN; };

// Of several runs the median and the range, in the place of one run's value and interval.
function across(item, of) {
  const one = of(item);
  if (!item.group || item.group.length < 2 || !one) return one;
  const all = item.group.map(of).filter((f) => f && f.n), values = all.map((f) => f.value);
  return values.length ? { ...one, value: middle(values), low: Math.min(...values), high: Math.max(...values), count: all.reduce((n, f) => n + (f.count ?? 0), 0), n: all.reduce((n, f) => n + f.n, 0), runs: values.length } : one;
}

let shown = [];
function choose() {
  shown = items().filter(passes);
  if (state.fold) shown = folded(shown);
  const column = COLUMNS().find((c) => c.key === state.sort);
  if (!column) return;
  const keyed = shown.map((item) => [item, column.sort(item)]);
  const missing = (v) => v === null || v === undefined || Number.isNaN(v);
  const sign = state.down ? -1 : 1;
  // What has no value comes last, in either direction; equal rows keep the sweep's order.
  keyed.sort(([, a], [, b]) => (missing(a) || missing(b) ? missing(a) - missing(b) : a === b ? 0 : sign * (a < b ? -1 : 1)));
  shown = keyed.map(([item]) => item);
}

const measured = () => shown.filter((item) => item.layer >= 0);

// Attack and control of every shown run, with the shares that are compared.
function againstControls() {
  const out = [];
  for (const item of measured()) {
    const attack = shareOf(rowOf(item), state.share);
    for (let path = 1; path < PATHS; path++) {
      const control = shareOf(rowOf(item, path), state.share);
      if (attack?.n && control?.n) out.push({ item, path, attack, control });
    }
  }
  return out;
}

function robustPairs() {
  const at = new Map();
  for (const item of measured()) at.set(item.cell, [...(at.get(item.cell) ?? []), item]);
  const out = [];
  for (const { standard, robust } of DATA.pairs) {
    for (const one of at.get(standard) ?? []) {
      const other = (at.get(robust) ?? []).find((item) => item.layer === one.layer);
      const a = shareOf(rowOf(one), state.share), b = other && shareOf(rowOf(other), state.share);
      if (a?.n && b?.n) out.push({ standard: one, robust: other, a, b });
    }
  }
  return out;
}
