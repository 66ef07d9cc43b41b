// The shapes of the page's data, for the type checker alone: nothing here runs.

/** @typedef {{ f32?: string, f64?: string, u32?: string, u16?: string, u8?: string, shape: number[] }} Packed */
/** @typedef {{ values: Float32Array | Float64Array | Uint32Array | Uint16Array | Uint8Array, width: number, row: (i: number) => Float32Array | Float64Array | Uint32Array | Uint16Array | Uint8Array }} Matrix */
/** @typedef {{ value: number | null, low: number | null, high: number | null, count: number, n: number }} Fraction */
/** @typedef {{ value: number | null, low: number | null, high: number | null, n: number }} Median */
/** @typedef {Record<string, any> & { valley_of_flipped: Fraction, flipped: Fraction, settled: Fraction, flat_end: Fraction, flatter_than_clean: Fraction, rise: Median, depth: Median, lag: Median, end_vs_clean: Median }} Summary */
/** @typedef {{ valley: number, none: number, unflipped: number, wrong: number, back: number, flatter: number }} Kinds */
/** @typedef {{ lines: Matrix, median: Matrix, peak: Matrix, valley: Matrix, rise: Matrix, depth: Matrix, summary: Summary, kinds: Kinds }} Measured */
/** @typedef {{ name: string, role: string, dash: string, words: string, flip: Matrix, flow: Record<string, Matrix> }} Path */
/** @typedef {{ data: any[], layout: any }} Drawn */
/** @typedef {{ layout: any, variants: Record<string, Drawn> }} Figure */
/** @typedef {{ shape: number[], drawable: boolean, sample: number[], step: number[], samples: number, classes: number, low?: number, high?: number, x?: Matrix, p?: Matrix }} Kept */
/** @typedef {{ id: string, said: string, parts: Record<"prefix" | "slot" | "tail" | "target", number[]> }} Prompt a language model's prompt: its tokens as places in the table of pieces */
/**
 * @typedef {{ whole: boolean, slots: Matrix, slot: Matrix, changed: Matrix, grad: Matrix | null, dot: Matrix | null, norm: Matrix, most: Matrix, distance: Matrix | null,
 *   targets: Matrix, nll: Matrix, kappa: Matrix, c: Matrix, a2: Matrix, greedy: Matrix, retokenises: Matrix, rounded?: Matrix | null, rounded_loss?: Matrix | null }} TextPath
 *   the tokens of one path's slots and what stands at its target's positions, sample after sample, step after step; of mixtures of tokens, the texts that they are rounded to
 */
/** @typedef {{ pieces: string[], ids: number[] | null, prompts: Prompt[], held: number[], paths: TextPath[] }} Text what is held of a language model's prompts: `held` are the samples whose tokens are in the file */
/** @typedef {{ sentence: [string, string][], below: string, numbers: [string, string, string][] }} Lead */
/**
 * @typedef {{ name: string, spec: [string, string][], cautions: [string, string][], n: number, steps: number,
 *   labels: string[] | null, attacked_at: string, layers: { name: string, method: string, exact: boolean, measures: string[] }[],
 *   measures: string[], sample: number[], truth: number[] | null, text: Text | null, paths: Path[], results: Record<string, Measured[]>[],
 *   lead: Lead[], ledger: string[], figures: Record<string, Figure>, images: Kept | null, surfaces: any[], gradients: any, peers: any[][], eps: number | null,
 *   spectrum_samples: number | null }} Run
 */
/** @typedef {{ colours: Record<string, Record<string, string>>, measures: Record<string, string>, symbols: Record<string, string>, runs: Run[], compared: Record<string, any[]> }} Data */
/**
 * @typedef {{ run: number, sample: number, step: number, align: "flip" | "raw", measure: string, layer: number,
 *   path: number, off: string[], brush: number[] | null, filter: string, order: string }} State
 */
/** @typedef {{ key: string, numbers: boolean, values: string[], of: number[] }} Setting a setting that differs between a sweep's cells: its values, and which of them each cell has */
/**
 * @typedef {{ name: string, matched: number | null, measures: Record<string, string>, control: string, layers: string[], paths: string[], looks: [string, string][],
 *   colours: Record<string, Record<string, string>>, shared: [string, string][], varying: Setting[],
 *   cells: { key: string[], state: string[], page: (string | null)[], error: Record<string, string>, seconds: Matrix, model: string[],
 *     cautions: Record<string, [string, string][]>, accuracy: Record<string, Matrix>, masked: number[], step_seconds: Matrix | null },
 *   rows: { cell: number[], layer: number[], path: number[], measure: number[], probe: number[], probes: { method: string, exact: boolean }[],
 *     tau: number[], not_finite: number[], shares: Record<string, Matrix>, attack: number[], medians: Record<string, Matrix> },
 *   curves: { cell: number[], layer: number[], path: number[], position: number[], positions: number[][], values: Matrix[], n: [number, number][], left_out: number },
 *   heights: { cell: number[], layer: number[], measure: number[], n: number[], values: Matrix }, pairs: { standard: number, robust: number }[], defences: Defences | null }} SweepData
 */
/**
 * @typedef {{ rows: { name: string, attacked: boolean, seeds: number, masked: number }[],
 *   points: { row: number, seed: number | null, kappa: number | null, lipschitz?: number | null, worst: [number, number, number], n: number | null, masked: boolean }[] }} Defences
 *   what trainings reach, folded over their seeds: a row for each defence, a point for each training
 */
/** @typedef {{ cell: number, layer: number, group?: Item[] }} Item a row of a sweep: a run at a layer (-1 where it has no numbers), or runs that differ in their seed alone */
/** @typedef {{ value: number, low: number, high: number, n: number, count?: number, runs?: number }} Told a share or a median with its interval; of several runs their median and range */
/**
 * @typedef {{ layer: number, share: string, find: string, picks: Record<number, number>, status: string, sort: string | null, down: boolean,
 *   heights: string, fold: boolean, picked: string[], only: boolean }} Asked what is chosen on the page of a sweep
 */

export {};
