// The defences of a sweep as points of a picture: κ or the Lipschitz bound across, on a logarithmic scale, and the worst case upwards.

import { num, percent } from "./text.js";

/** @typedef {import("./types.js").Defences} Defences */
/** @typedef {{ k: number, row: number, x: number, y: number, low: number, high: number, masked: boolean, said: string }} Dot a training: log10 of what goes across, the worst case with its interval in percent */
/** @typedef {{ row: number, x: number, y: number, seeds: number, name: string, attacked: boolean, masked: boolean }} Mean of a defence */
/** @typedef {{ low: number, high: number, ticks: number[] }} Scale */

export const MOST_DOTS = 2000;

/** The trainings that can be drawn: those whose value across is above 0, at most so many. @param {Defences} of @param {"kappa" | "lipschitz"} [across] @returns {{ dots: Dot[], able: number }} */
export function dotsOf({ rows, points }, across = "kappa") {
  const able = points.flatMap(({ row, seed, kappa, lipschitz, worst, n, masked }, k) => {
    const value = across === "kappa" ? kappa : lipschitz;
    if (!value || value <= 0) return [];
    const [share, low, high] = worst, seeds = rows[row].seeds > 1 && seed !== null ? `, seed ${seed}` : "";
    const said = `${rows[row].name}${seeds}: κ ${kappa === null ? "–" : num(kappa)}${lipschitz ? `, Lipschitz bound ${num(lipschitz)}` : ""}, worst case ${percent(share)} [${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)} %]${n ? ` of ${n}` : ""}${masked ? ", masked" : ""}`;
    return [{ k, row, x: Math.log10(value), y: 100 * share, low: 100 * low, high: 100 * high, masked, said }];
  });
  const stride = Math.max(1, able.length / MOST_DOTS);
  return { dots: stride === 1 ? able : Array.from({ length: MOST_DOTS }, (_, i) => able[Math.floor(i * stride)]), able: able.length };
}

/** Of each defence whose trainings are drawn the mean, at the mean of the logarithms across and of the worst case. @param {Defences} of @param {Dot[]} dots @returns {Mean[]} */
export function meansOf({ rows }, dots) {
  return rows.flatMap(({ name, attacked }, row) => {
    const own = dots.filter((dot) => dot.row === row), mean = (/** @type {"x" | "y"} */ at) => own.reduce((sum, dot) => sum + dot[at], 0) / own.length;
    return own.length ? [{ row, x: mean("x"), y: mean("y"), seeds: own.length, name, attacked, masked: own.some((dot) => dot.masked) }] : [];
  });
}

/** Decades that hold all values, with a little room. @param {number[]} logs @returns {Scale} */
export function decadesOf(logs) {
  const low = Math.min(...logs), high = Math.max(...logs), room = 0.08 * (high - low) + 0.12;
  const scale = { low: low - room, high: high + room }, every = Math.max(1, Math.ceil((scale.high - scale.low) / 8));
  const first = Math.ceil(scale.low / every) * every, ticks = [];
  for (let power = first; power <= scale.high; power += every) ticks.push(power);
  // Within a decade, halves of it tell where one is.
  if (ticks.length < 2) return { ...scale, ticks: [1, 2, 5, 10, 20, 50].map((v) => Math.log10(v) + Math.floor(scale.low)).filter((v) => v >= scale.low && v <= scale.high) };
  return { ...scale, ticks };
}

/** Percents that hold all intervals, from and to a whole ten. @param {{ low: number, high: number }[]} spans @returns {Scale} */
export function percentsOf(spans) {
  const low = Math.max(0, Math.floor((Math.min(...spans.map((s) => s.low)) - 1) / 10) * 10), high = Math.min(100, Math.ceil((Math.max(...spans.map((s) => s.high)) + 1) / 10) * 10);
  const every = high - low > 50 ? 20 : 10, ticks = [];
  for (let value = Math.ceil(low / every) * every; value <= high; value += every) ticks.push(value);
  return { low, high, ticks };
}

/** The dot that a key leads to: left and right by the value across, up and down by the worst case. @param {Dot[]} dots @param {number} at @param {string} key */
export function nextDot(dots, at, key) {
  const by = { ArrowRight: ["x", 1], ArrowLeft: ["x", -1], ArrowUp: ["y", 1], ArrowDown: ["y", -1] }[key];
  if (key === "Home" || key === "End") return order(dots, "x")[key === "Home" ? 0 : dots.length - 1];
  if (!by) return null;
  const sorted = order(dots, /** @type {"x" | "y"} */ (by[0])), to = sorted.indexOf(at) + Number(by[1]);
  return sorted[Math.max(0, Math.min(dots.length - 1, to))];
}

/** @param {Dot[]} dots @param {"x" | "y"} by @returns {number[]} */
const order = (dots, by) => dots.map((_, i) => i).sort((a, b) => dots[a][by] - dots[b][by] || a - b);

/** Values of the table's cells in the order that a heading asks for: those without one come last. @param {(number | string | null)[]} values @param {boolean} down @returns {number[]} */
export function orderOf(values, down) {
  const sign = down ? -1 : 1;
  return values.map((_, i) => i).sort((i, j) => {
    const a = values[i], b = values[j];
    if (a === null || b === null) return Number(a === null) - Number(b === null) || i - j;
    return a === b ? i - j : sign * (a < b ? -1 : 1);
  });
}
