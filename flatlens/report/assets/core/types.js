// The shapes of the page's data, for the type checker alone: nothing here runs.

/** @typedef {{ f32?: string, f64?: string, u16?: string, u8?: string, shape: number[] }} Packed */
/** @typedef {{ values: Float32Array | Float64Array | Uint16Array | Uint8Array, width: number, row: (i: number) => Float32Array | Float64Array | Uint16Array | Uint8Array }} Matrix */
/** @typedef {{ value: number | null, low: number | null, high: number | null, count: number, n: number }} Fraction */
/** @typedef {{ value: number | null, low: number | null, high: number | null, n: number }} Median */
/** @typedef {Record<string, any> & { valley_of_flipped: Fraction, flipped: Fraction, settled: Fraction, flat_end: Fraction, flatter_than_clean: Fraction, rise: Median, depth: Median, lag: Median, end_vs_clean: Median }} Summary */
/** @typedef {{ valley: number, none: number, unflipped: number, wrong: number, back: number, flatter: number }} Kinds */
/** @typedef {{ lines: Matrix, median: Matrix, peak: Matrix, valley: Matrix, rise: Matrix, depth: Matrix, summary: Summary, kinds: Kinds }} Measured */
/** @typedef {{ name: string, role: string, dash: string, words: string, flip: Matrix, flow: Record<string, Matrix> }} Path */
/** @typedef {{ data: any[], layout: any }} Drawn */
/** @typedef {{ layout: any, variants: Record<string, Drawn> }} Figure */
/** @typedef {{ shape: number[], drawable: boolean, sample: number[], step: number[], samples: number, classes: number, low?: number, high?: number, x?: Matrix, p?: Matrix }} Kept */
/** @typedef {{ sentence: [string, string][], below: string, numbers: [string, string, string][] }} Lead */
/**
 * @typedef {{ name: string, spec: [string, string][], cautions: [string, string][], n: number, steps: number,
 *   labels: string[] | null, attacked_at: string, layers: { name: string, method: string, exact: boolean }[],
 *   measures: string[], sample: number[], truth: number[], paths: Path[], results: Record<string, Measured[]>[],
 *   lead: Lead[], ledger: string[], figures: Record<string, Figure>, images: Kept | null, surfaces: any[], gradients: any, peers: any[][], eps: number | null,
 *   spectrum_samples: number | null }} Run
 */
/** @typedef {{ colours: Record<string, Record<string, string>>, measures: Record<string, string>, symbols: Record<string, string>, runs: Run[], compared: Record<string, any[]> }} Data */
/**
 * @typedef {{ run: number, sample: number, step: number, align: "flip" | "raw", measure: string, layer: number,
 *   path: number, off: string[], brush: number[] | null, filter: string, order: string }} State
 */

export {};
