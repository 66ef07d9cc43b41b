// What many values have in common: a share with its interval, a median.

/** Share with its 95 % Wilson interval. @param {number} k @param {number} n */
export function wilson(k, n) {
  if (!n) return { value: NaN, low: NaN, high: NaN, count: k, n };
  const z2 = 1.959963984540054 ** 2, p = k / n;
  const centre = (p + z2 / (2 * n)) / (1 + z2 / n), half = Math.sqrt(z2 * ((p * (1 - p)) / n + z2 / (4 * n * n))) / (1 + z2 / n);
  return { value: p, low: k === 0 ? 0 : centre - half, high: k === n ? 1 : centre + half, count: k, n };
}

/** @param {number[]} values */
export function median(values) {
  const sorted = values.filter((v) => !Number.isNaN(v)).sort((a, b) => a - b), n = sorted.length;
  if (!n) return NaN;
  return n % 2 ? sorted[(n - 1) / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
