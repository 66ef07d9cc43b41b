// Runs as a page holds them, made of plain arrays that a test can look its numbers up in, and random states of them.

import { unpack } from "../../flatlens/report/assets/core/pack.js";

/** Numbers in [0, 1) that are the same each time. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const base64 = (array) => btoa(String.fromCharCode(...new Uint8Array(array.buffer)));
const KINDS = { f32: Float32Array, f64: Float64Array, u32: Uint32Array, u16: Uint16Array, u8: Uint8Array };

/** Nested arrays in the form in which Python packs them. */
export function packed(values, kind = "f64") {
  const shape = [];
  for (let part = values; Array.isArray(part); part = part[0]) shape.push(part.length);
  return { [kind]: base64(new KINDS[kind](values.flat(Infinity))), shape };
}

const FLOW = ["loss", "margin", "confidence", "prediction"];

/**
 * One run and the plain numbers in it: `truth.lines[layer][measure][path][i][t]`, `truth.flow[path][name][i][t]`.
 * @param {{ seed?: number, n?: number, steps?: number, paths?: string[], layers?: string[], measures?: string[], flips?: boolean, images?: boolean }} [options]
 */
export function made(options = {}) {
  const { seed = 1, n = 30, steps = 8, flips = true, images = true } = options;
  const { paths = ["attack", "line-to-other-class", "gaussian-noise"], layers = ["head", "conv1"], measures = ["relative_flatness", "trace"] } = options;
  const draw = random(seed), grid = (value) => Array.from({ length: n }, (_, i) => Array.from({ length: steps + 1 }, (_, t) => value(i, t)));
  const sample = Array.from({ length: n }, (_, i) => (i ? 3 * i + Math.floor(3 * draw()) : 0));
  const truth = sample.map(() => Math.floor(10 * draw()));
  const flow = paths.map(() => {
    const margin = grid(() => 0), flip = sample.map(() => (flips && draw() > 0.2 ? 1 + Math.floor(draw() * steps) : -1));
    flip.forEach((at, i) => margin[i].forEach((_, t) => { margin[i][t] = at >= 0 && t >= at && !(i % 7 === 0 && t === steps && t > at) ? -draw() - 0.01 : draw() + 0.01; }));
    return { flip, margin, loss: grid(() => draw()), confidence: grid(() => draw()), prediction: margin.map((row, i) => row.map((v) => (v > 0 ? truth[i] : (truth[i] + 1) % 10))) };
  });
  const lines = layers.map(() => Object.fromEntries(measures.map((name) => [name, paths.map(() => grid(() => 10 ** (8 * draw() - 4)))])));
  const peakOf = (row) => row.indexOf(Math.max(...row));
  const run = unpack({
    name: "made", spec: [], cautions: [], n, steps, labels: [..."0123456789"], attacked_at: "last iterate", sample, truth, measures,
    layers: layers.map((name) => ({ name, method: "exact", exact: true, measures })),
    paths: paths.map((name, p) => ({
      name, role: p ? "cross" : "attack", dash: "solid", words: name, flip: packed(flow[p].flip), flow: Object.fromEntries(FLOW.map((key) => [key, packed(flow[p][key])])),
    })),
    results: layers.map((_, l) => Object.fromEntries(measures.map((m) => [m, paths.map((_, p) => {
      const own = lines[l][m][p], peak = own.map(peakOf);
      return {
        lines: packed(own), median: packed(own[0]), peak: packed(peak), valley: packed(flow[p].flip.map((at, i) => Number(at >= 0 && i % 3 === 0))),
        rise: packed(own.map((row, i) => row[peak[i]] / row[0])), depth: packed(own.map((row, i) => Math.log10(row[peak[i]] / row[steps]))), summary: {}, kinds: {},
      };
    })]))),
    lead: [], figures: {}, surfaces: [], gradients: null, peers: [], eps: 0.3, spectrum_samples: null,
    images: images ? { shape: [1, 1, 2], drawable: true, sample: sample.flatMap((id) => [id, id]), step: sample.flatMap(() => [0, steps]), samples: n, classes: 10 } : null,
  });
  return { run, truth: { flow, lines } };
}

/** A random state that a page of these runs can be in. */
export function anyState(runs, draw) {
  const of = (list) => list[Math.floor(draw() * list.length)], below = (n) => Math.floor(draw() * n);
  const run = below(runs.length), own = runs[run], brush = own.sample.map((_, i) => i).filter(() => draw() < 0.4);
  return {
    run, sample: below(own.sample.length), step: below(own.steps + 1), align: of(["flip", "raw"]), measure: of(own.measures), layer: below(own.layers.length),
    path: below(own.paths.length), off: own.paths.slice(1).map((p) => p.name).filter(() => draw() < 0.4), brush: draw() < 0.5 && brush.length ? brush : null,
    filter: of(["all", "valley", "none", "back", "unflipped"]), order: of(["id", "flip", "rise"]),
  };
}
