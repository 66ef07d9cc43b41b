// A language model's prompt at one step: its tokens, their colours' shares, and what stands at each target position. No drawing.

/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").State} State */
/** @typedef {import("./types.js").TextPath} TextPath */
/**
 * @typedef {{ piece: string, id: number | null, part: "prefix" | "slot" | "tail", age: number | null, changed: boolean, grad: number | null,
 *   dot: number | null, gradShare: number, dotShare: number, distance: number }} Token
 * `age`: steps since it last changed, null where it never did; shares are of the step's largest
 */
/** @typedef {{ piece: string, id: number | null, greedy: string, says: boolean, nll: number, kappa: number, c: number, a2: number, variance: number }} Position */

export const TINTS = /** @type {[string, string][]} */ ([["changed", "changed"], ["age", "age"], ["grad", "‖∂S/∂x‖"], ["dot", "−⟨∂S, x⟩"]]);
/** Half a mean norm of the embedding's rows: a slot farther from any token is no text. */
export const FAR = 0.5;

const HIDDEN = /** @type {Record<string, string>} */ ({ "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" });

/**
 * A piece so that all of it is seen: line ends, invisible and turning letters by their code, a leading space as a dot.
 * @param {string} piece
 */
export function visible(piece) {
  if (piece === "") return "∅";
  const shown = piece.replace(/[\n\t\r\u00a0]/g, (c) => HIDDEN[c]).replace(/^ +| +$/g, (c) => "·".repeat(c.length));
  return shown.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\u2028\u2029]/gu, (c) => `⟨${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(2, "0")}⟩`);
}

/** Where each step of each sample begins in the rows that follow each other. @type {WeakMap<object, Float64Array>} */
const BEGINS = new WeakMap();

/** @param {import("./types.js").Matrix} lengths */
function begins(lengths) {
  let found = BEGINS.get(lengths);
  if (!found) {
    found = new Float64Array(lengths.values.length + 1);
    for (let k = 0; k < lengths.values.length; k++) found[k + 1] = found[k] + lengths.values[k];
    BEGINS.set(lengths, found);
  }
  return found;
}

/** Rows of a sample at a step. @param {import("./types.js").Matrix} lengths @param {number} held @param {number} t @returns {[number, number]} */
function rowsAt(lengths, held, t) {
  const at = held * lengths.width + Math.min(t, lengths.width - 1), all = begins(lengths);
  return t < lengths.width ? [all[at], all[at + 1]] : [0, 0];
}

/** Its place among the samples whose tokens are in the file; -1 where they are not. @param {Run} run @param {number} i */
export const heldAt = (run, i) => run.text?.held.indexOf(run.sample[i]) ?? -1;

/** The last step at or before `t` that the path has: a path of one text has only its first. @param {TextPath} path @param {number} held @param {number} t */
export function stepOn(path, held, t) {
  let step = Math.min(t, path.slots.width - 1);
  while (step > 0 && !path.slots.row(held)[step]) step--;
  return step;
}

/**
 * The whole prompt at a step, without its target; null where its tokens are not in the file.
 * @param {Run} run @param {State} state @returns {Token[] | null}
 */
export function tokensOf(run, state) {
  const text = run.text, held = heldAt(run, state.sample);
  if (!text || held < 0) return null;
  const path = text.paths[state.path], { parts } = text.prompts[state.sample], step = stepOn(path, held, state.step);
  const [from, to] = rowsAt(path.slots, held, step), row = held * path.slots.width + step;
  const token = (/** @type {number} */ at, /** @type {Token["part"]} */ part) => ({
    piece: text.pieces[at], id: text.ids ? text.ids[at] : null, part, age: null, changed: false, grad: null, dot: null, gradShare: 0, dotShare: 0, distance: 0,
  });
  const slot = Array.from({ length: to - from }, (_, k) => {
    const at = from + k, grad = path.grad ? path.grad.values[at] / 255 : 0, dot = path.dot ? (path.dot.values[at] - 127) / 127 : 0;
    const known = path.norm.values[row] > 0;
    return {
      ...token(path.slot.values[at], "slot"), changed: path.changed.values[at] === 1, age: ageOf(path, held, step, k),
      grad: known ? grad * path.norm.values[row] : null, dot: known ? -dot * path.most.values[row] : null,
      gradShare: known ? grad : 0, dotShare: known ? -dot : 0, distance: path.distance ? path.distance.values[at] || 0 : 0,
    };
  });
  const fixed = (/** @type {"prefix" | "tail"} */ part) => (path.whole ? [] : parts[part].map((at) => token(at, part)));
  return [...fixed("prefix"), ...slot, ...fixed("tail")];
}

/** Steps since a slot's token last changed. @param {TextPath} path @param {number} held @param {number} t @param {number} k */
function ageOf(path, held, t, k) {
  for (let step = t; step > 0; step--) {
    const [from, to] = rowsAt(path.slots, held, step);
    if (k < to - from && path.changed.values[from + k] === 1) return t - step;
  }
  return null;
}

/** How strongly a token is coloured, −1 … 1: below 0 in the other colour. @param {Token} token @param {string} tint @param {number} step */
export function strength(token, tint, step) {
  if (token.part !== "slot") return 0;
  if (tint === "changed") return token.changed ? 1 : 0;
  if (tint === "age") return token.age === null ? 0 : 1 - token.age / (step + 1);
  return tint === "grad" ? token.gradShare : token.dotShare;
}

/** What stands at each position of the target; null where it is not in the file. @param {Run} run @param {State} state @param {number} [t] @returns {Position[] | null} */
export function positionsOf(run, state, t = state.step) {
  const text = run.text, held = heldAt(run, state.sample);
  if (!text || held < 0) return null;
  const path = text.paths[state.path], target = text.prompts[state.sample].parts.target;
  const [from, to] = rowsAt(path.targets, held, stepOn(path, held, t));
  return Array.from({ length: to - from }, (_, k) => {
    const at = from + k, own = target[k], greedy = path.greedy.values[at], a2 = path.a2.values[at], kappa = path.kappa.values[at];
    return {
      piece: text.pieces[own] ?? "", id: text.ids ? text.ids[own] : null, greedy: text.pieces[greedy], says: greedy === own,
      nll: path.nll.values[at], kappa, c: path.c.values[at], a2, variance: kappa / a2,
    };
  });
}

export const LAYERS_OF_HEAT = /** @type {[keyof Position, string][]} */ ([["nll", "nll"], ["kappa", "κ"], ["c", "c"], ["a2", "‖a‖²"], ["variance", "weight variance"]]);

/** One number by position and step, `[T][steps]`; NaN beyond the path's end. @param {Run} run @param {State} state @param {keyof Position} what @returns {number[][] | null} */
export function heatOf(run, state, what) {
  const text = run.text, held = heldAt(run, state.sample);
  if (!text || held < 0) return null;
  const path = text.paths[state.path], steps = path.targets.width, target = text.prompts[state.sample].parts.target;
  const out = target.map(() => new Array(steps).fill(NaN));
  for (let t = 0; t < steps; t++) {
    if (!path.targets.row(held)[t]) continue;
    positionsOf(run, state, t)?.forEach((at, k) => { out[k][t] = at[what]; });
  }
  return out;
}

/** Whether the text gives its tokens back: yes, no, or that it is no text. @param {Run} run @param {State} state @returns {"yes" | "no" | "no text" | null} */
export function givesBack(run, state) {
  const text = run.text, held = heldAt(run, state.sample);
  if (!text || held < 0) return null;
  const path = text.paths[state.path];
  return /** @type {const} */ (["no", "yes", "no text"])[path.retokenises.row(held)[stepOn(path, held, state.step)]];
}

/**
 * The text that a mixture of tokens is rounded to at a step, and its loss; null where the slot is no mixture.
 * @param {Run} run @param {State} state @returns {{ pieces: string[], loss: number } | null}
 */
export function roundedAt(run, state) {
  const text = run.text, held = heldAt(run, state.sample), path = text?.paths[state.path];
  if (!text || !path || held < 0 || !path.rounded || !path.rounded_loss) return null;
  const step = stepOn(path, held, state.step), [from, to] = rowsAt(path.slots, held, step), { rounded } = path;
  return { pieces: Array.from({ length: to - from }, (_, k) => text.pieces[rounded.values[from + k]]), loss: path.rounded_loss.row(held)[step] };
}

/** The prompt as its text. @param {Token[]} tokens */
export const textOf = (tokens) => tokens.map((token) => token.piece).join("");

/** The prompt with its tokens, for a program. @param {Run} run @param {State} state */
export function jsonOf(run, state) {
  const all = tokensOf(run, state) ?? [], target = positionsOf(run, state) ?? [];
  const part = (/** @type {string} */ name) => all.filter((token) => token.part === name);
  const plain = (/** @type {{ piece: string, id: number | null }[]} */ of) => ({ ids: of.map((token) => token.id), pieces: of.map((token) => token.piece) });
  return {
    sample: run.sample[state.sample], id: run.text?.prompts[state.sample].id, path: run.paths[state.path].name, step: state.step, retokenises: givesBack(run, state), rounded: roundedAt(run, state)?.pieces,
    prefix: plain(part("prefix")), slot: plain(part("slot")), tail: plain(part("tail")), target: plain(target),
  };
}

/** κ against the loss: the points of a sample on one path that have both. @param {Run} run @param {State} state @param {number} path @param {number} [i] */
export function against(run, state, path, i = state.sample) {
  const kappa = run.results[state.layer][state.measure][path].lines.row(i), loss = run.paths[path].flow.loss.row(i), out = [];
  for (let t = 0; t < loss.length; t++) if (loss[t] > 0 && kappa[t] > 0) out.push({ x: loss[t], y: kappa[t], step: t });
  return out;
}

/** Copies of the target in the controls' steps. */
export const COPIES = [0, 1, 2, 4, 8, 16, 32];
