// Numbers and names as people read them.

const UP = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** @param {number} power */
export const raised = (power) => (power < 0 ? "⁻" : "") + [...String(Math.abs(power))].map((d) => UP[Number(d)]).join("");

/**
 * Three digits, in powers of ten where it is long. JSON has no infinity: there it is a text.
 * @param {number | "+inf" | "-inf" | null | undefined} told
 * @param {number} [digits]
 */
export function num(told, digits = 3) {
  const value = told === "+inf" ? Infinity : told === "-inf" ? -Infinity : told;
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size >= 1e6 || size < 1e-3) {
    const power = Math.floor(Math.log10(size)), head = (size / 10 ** power).toPrecision(digits);
    const whole = Number(head) >= 10 ? [(Number(head) / 10).toPrecision(digits), power + 1] : [head, power];
    return `${sign}${whole[0]}·10${raised(Number(whole[1]))}`;
  }
  const rounded = Number(size.toPrecision(digits));
  return sign + rounded.toLocaleString("en-US", { maximumFractionDigits: Math.max(0, digits - 1 - Math.floor(Math.log10(size))) });
}

const COUNTS = new Intl.NumberFormat("en-US"); // made once: a table writes thousands

/** @param {number} n */
export const count = (n) => COUNTS.format(n);

/** `1 step`, `3 steps`. @param {number} n @param {string} one @param {string} [many] */
export const counted = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A number to so many places behind the point, with a true minus. @param {number} value @param {number} [places] */
export const fixed = (value, places = 2) => (Number.isFinite(value) ? value.toFixed(places).replace("-", "−") : num(value));

/** A long name without its middle. @param {string} text @param {number} [most] */
export const brief = (text, most = 40) => (text.length > most ? `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}` : text);

/** @param {number | null} share */
export const percent = (share) => (share === null || Number.isNaN(share) ? "–" : `${(100 * share).toFixed(1)} %`);

/** @param {{ value: number | null, low: number | null, high: number | null, n: number }} of */
export const span = (of) => (of.low === null || of.high === null || !of.n ? `n = ${count(of.n)}` : `${(100 * of.low).toFixed(1)}–${(100 * of.high).toFixed(1)}`);

/**
 * A probability close to 1 as its distance from it: where the softmax is saturated, that is where the numbers are.
 * @param {ArrayLike<number>} all
 * @param {number} k
 */
export function probability(all, k) {
  const p = all[k];
  if (p > 0.999) {
    let rest = 0;
    for (let j = 0; j < all.length; j++) if (j !== k) rest += all[j];
    return rest > 0 ? `1 − ${num(rest, 2)}` : "1";
  }
  return p < 0.0005 ? num(p, 2) : p.toFixed(3);
}

/** @param {string[] | null} labels @param {number} k */
export const className = (labels, k) => (labels && k >= 0 && k < labels.length ? labels[k] : String(k));

/** plotly renders some HTML in its texts, and names come from outside. @param {string} name */
export const plain = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** A cell of a CSV file that no spreadsheet runs. @param {unknown} value */
export function cell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}
