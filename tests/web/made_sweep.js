// A sweep as its page holds it, made of plain numbers that a test can look up: every cell has the attack, a line and noise.

import { unpack } from "../../flatlens/report/assets/core/pack.js";
import { packed, random } from "./made.js";

const LAYERS = ["head", "conv1"], PATHS = ["attack", "line-to-other-class", "gaussian-noise"];
const MODELS = ["flatlens:cnn", "flatlens:mlp"], TRAINED = ["standard", "pgd 0.1"], SEEDS = ["0", "1", "2"];
const MEASURES = { relative_flatness: "κ, relative flatness (Petzka et al.)", lambda_max: "λ_max, largest eigenvalue (…)" };

/**
 * Twelve runs over model × training × seed, one that failed and one that waits; `truth` tells each share, median and curve by cell, layer and path.
 * @param {{ control?: string, worst?: boolean, text?: boolean }} [options] `text`: of language models; `worst`: what the worst of several attacks leaves is known of all runs, and run 2 is masked
 */
export function madeSweep({ control = PATHS[1], worst = false, text = false } = {}) {
  const draw = random(3), done = MODELS.flatMap((_, m) => TRAINED.flatMap((_, t) => SEEDS.map((_, s) => [m, t, s]))), size = done.length;
  const share = () => { const v = draw(); return [v, v / 2, (v + 1) / 2, Math.round(40 * v), 40]; };
  const curve = () => [0, -1, 1].map((shift) => Array.from({ length: 5 }, () => 6 * draw() - 3 + shift));
  const rows = done.flatMap((_, cell) => LAYERS.flatMap((_, layer) => PATHS.map((_, path) => ({
    cell, layer, path, valley: path === 2 && cell % 2 ? [NaN, NaN, NaN, 0, 0] : share(), flipped: share(), rise: [10 * draw(), 1, 20, 30], curve: curve(),
  }))));
  const attacks = rows.filter(({ path }) => path === 0), drawn = rows.filter(({ path }) => path < 2);
  const code = (/** @type {number} */ k, /** @type {number} */ none) => [...done.map((of) => of[k]), 0, none];
  const heights = attacks.flatMap(({ cell, layer }) => [0, 1].map((measure) => ({ cell, layer, measure, of: [2 * draw() - 1, 2 + draw(), -2 - draw()] })));
  const data = unpack({
    name: "made", matched: text ? 0.1 : null, measures: MEASURES, control, layers: LAYERS, paths: PATHS, looks: [["attack", "solid"], ["cross", "solid"], ["noise", "solid"]], colours: {},
    shared: [], varying: [
      { key: "model", numbers: false, values: MODELS, of: code(0, 1) },
      { key: "train.adversarial", numbers: false, values: [...TRAINED, "–"], of: code(1, 2) },
      { key: "seed", numbers: true, values: SEEDS, of: code(2, 0) },
    ],
    cells: {
      key: Array.from({ length: size + 2 }, (_, k) => k.toString(16).padStart(16, "0")), state: [...done.map(() => "done"), "failed", "waiting"],
      page: [...done.map((_, k) => `cells/${k}/report.html`), null, null], error: { [size]: "heads=3 does not divide width=16" },
      seconds: packed([...done.map((_, k) => k + 0.5), NaN, NaN]), model: [...done.map(([m]) => MODELS[m]), MODELS[0], MODELS[1]],
      cautions: {}, step_seconds: text ? packed([...done.map((_, k) => k / 100), NaN, NaN]) : null, masked: worst ? [2] : [], accuracy: Object.fromEntries(["clean", "attacked", ...(worst ? ["worst"] : [])].map((at) => [at, packed([...done.map(share), ...[0, 1].map(() => Array(5).fill(NaN))])])),
    },
    rows: {
      cell: rows.map((r) => r.cell), layer: rows.map((r) => r.layer), path: rows.map((r) => r.path), measure: rows.map(() => 0), probe: rows.map(() => 0),
      probes: [{ method: "closed form", exact: true }], tau: [0.1], not_finite: rows.map(() => 0),
      shares: { valley_of_flipped: packed(rows.map((r) => r.valley)), valley_of_all: packed(rows.map((r) => r.valley.map((v) => v / 2))), flipped: packed(attacks.map((r) => r.flipped)),
        ...(text ? { settled: packed(attacks.map((r) => r.flipped)), flat_end: packed(attacks.map((r) => r.flipped)) } : {}) },
      attack: rows.map((r) => attacks.indexOf(r)), medians: Object.fromEntries(["rise", "depth", "lag", "flip_step", ...(text ? ["matched"] : [])].map((name) => [name, packed(attacks.map((r) => r.rise))])),
    },
    curves: {
      cell: drawn.map((r) => r.cell), layer: drawn.map((r) => r.layer), path: drawn.map((r) => r.path), position: drawn.map(() => 0), positions: [[0, 2, 4, 6, 8]],
      values: drawn.map((r) => packed(r.curve)), n: drawn.map(() => [40, 40]), left_out: 0,
    },
    heights: { cell: heights.map((h) => h.cell), layer: heights.map((h) => h.layer), measure: heights.map((h) => h.measure), n: heights.map(() => 40), values: packed(heights.map((h) => h.of)) },
    pairs: done.flatMap(([, t], k) => (t ? [] : [{ standard: k, robust: k + SEEDS.length }])),
  });
  const find = (/** @type {number} */ cell, /** @type {number} */ layer, /** @type {number} */ path) => rows.find((r) => r.cell === cell && r.layer === layer && r.path === path);
  return { data, truth: { rows, heights, find } };
}

/** A random state that a page of this sweep can be in. */
export function anyAsked(book, columns, draw) {
  const of = (list) => list[Math.floor(draw() * list.length)], may = (value, otherwise) => (draw() < 0.5 ? value : otherwise);
  const picked = book.data.cells.key.filter(() => draw() < 0.2), sort = may(of(columns), null);
  const picks = Object.fromEntries(book.data.varying.flatMap((column, k) => (draw() < 0.4 ? [[k, Math.floor(draw() * column.values.length)]] : [])));
  return {
    layer: of([-1, 0, 1]), share: of(["valley_of_flipped", "valley_of_all"]), find: may(of(["cnn", "a & b = #", "ε ≠ %", "+"]), ""), picks, status: of(["", "done", "failed"]),
    sort, down: sort !== null && draw() < 0.5, heights: of(["peak", "end"]), fold: draw() < 0.3, picked, only: picked.length > 0 && draw() < 0.5,
  };
}
