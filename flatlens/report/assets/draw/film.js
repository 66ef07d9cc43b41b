// The film strip: the chosen sample's inputs on the picture's own axis, and what the model says under each.

import { className } from "../core/text.js";
import { frames, place } from "../core/sample.js";
import { picture } from "./pixels.js";
import { make } from "./dom.js";

/** @typedef {import("../core/types.js").Run} Run */
/** @typedef {import("../core/types.js").State} State */

const SIZE = 38;
/** Width of the strip's own words, in px. */
const WORDS = 56;

/**
 * @param {any} box
 * @param {Run} run
 * @param {State} state
 * @param {{ left: number, width: number, range: [number, number] }} axis in px, and in steps
 * @param {(step: number) => void} choose
 */
export function film(box, run, state, axis, choose) {
  const of = frames(run, state.sample), kept = run.images;
  box.hidden = !kept || !kept.drawable || !of.length;
  if (box.hidden || !kept || !run.truth) return;
  const px = axis.width / (axis.range[1] - axis.range[0]), every = Math.max(1, Math.ceil((SIZE + 6) / px));
  const says = run.paths[0].flow.prediction.row(state.sample), truth = run.truth[state.sample];
  // Frames in the middle of a step's room, the flip always among them.
  const shown = of.filter((f, k) => {
    const x = place(run, { ...state, path: 0 }, state.sample, f.step);
    const here = x >= axis.range[0] && x <= axis.range[1] && (of.length <= 6 || x % every === 0);
    return here && (k === 0 || of[k - 1].step !== f.step);
  });
  let first = Infinity;
  const strip = shown.map((f) => {
    const x = place(run, { ...state, path: 0 }, state.sample, f.step), right = says[f.step] === truth;
    const name = className(run.labels, says[f.step]);
    const button = make("button", {
      type: "button", class: `frame ${right ? "right" : "wrong"}`, tabindex: -1, "aria-label": `step ${f.step}: says ${name}`,
      "aria-current": f.step === state.step ? "true" : null, onclick: () => choose(f.step),
    }, picture(kept, f.row, { "aria-hidden": "true" }), make("span", {}, name.length > 5 ? name.slice(0, 4) + "…" : name));
    const left = axis.left + (x - axis.range[0]) * px - SIZE / 2;
    first = Math.min(first, left);
    button.style.left = `${left}px`;
    return button;
  });
  // Where there is no room beside the first frame, the rail says whose inputs these are.
  const words = first < WORDS ? [] : [make("span", { class: "film-name" }, `sample ${run.sample[state.sample]}`), make("span", { class: "film-says" }, "says")];
  box.replaceChildren(...strip, ...words);
}
