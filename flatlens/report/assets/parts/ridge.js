// Why every crossing has a valley: sharpness as height over a plane of inputs, or of weights.

import { className, num } from "../core/text.js";
import { $, make, segments } from "../draw/dom.js";
import { paintPlan, paintRidge } from "../draw/ridge.js";

/** @typedef {import("../pages/run.js").View} View */
/** @typedef {import("../draw/ridge.js").Land} Land */

const turn = { yaw: -0.2, pitch: 0.52 };
const choice = { plane: "input", height: "kappa" };

/** The surfaces that are shown: the chosen sample's, or those of the first that has some. @param {View} view */
function shownLand(view) {
  const all = view.run.surfaces, id = view.run.sample[view.state.sample];
  return all.find((s) => s.sample === id) ?? all[0];
}

/** @param {any} packed @returns {(row: number, column: number) => number} log10 */
function heightsOf(packed) {
  const { levels, low, high } = packed, width = Math.round(Math.sqrt(levels.values.length));
  return (row, column) => { const raw = levels.values[row * width + column]; return raw > 65534 ? NaN : low + (raw / 65534) * (high - low); };
}

/** A straight line in pieces that follow the ground. @param {number[]} a @param {number[]} b @returns {[number, number][]} */
const straight = (a, b) => Array.from({ length: 17 }, (_, k) => [a[0] + ((b[0] - a[0]) * k) / 16, a[1] + ((b[1] - a[1]) * k) / 16]);

/** @param {View} view @param {any} of @returns {Land} */
function landOf(view, of) {
  const { run, state } = view, own = run.sample[state.sample] === of.sample;
  if (choice.plane === "input" || !of.weights.length) {
    const plane = of.input, grid = plane[choice.height], truth = /** @type {number[]} */ (run.truth)[run.sample.indexOf(of.sample)], width = plane.u.values.length;
    const attack = plane.ways.find((/** @type {any} */ w) => w.path === "attack");
    const points = (/** @type {any} */ way) => way.step.map((/** @type {number} */ _, /** @type {number} */ k) => /** @type {[number, number]} */ ([...way.at.row(k)]));
    const says = (/** @type {number} */ k) => className(run.labels, k), [kind, label] = plane.third;
    const at = own && attack ? attack.step.indexOf(state.step) : -1;
    return {
      u: plane.u.values, v: plane.v.values, height: heightsOf(grid), right: (j, i) => plane.prediction.values[j * width + i] === truth,
      // The control's own line leads to another image, far off this plane; the line to the third point lies in it.
      ways: [...(kind === 2 ? [] : [{ points: straight(plane.corners[0], plane.corners[2]), role: "cross" }]), ...(attack ? [{ points: points(attack), role: "attack" }] : [])],
      marks: [
        { at: plane.corners[0], text: `clean ${says(truth)}`, role: "ink", left: true },
        { at: plane.corners[1], text: `attacked: “${says(plane.end)}”`, role: "attack" },
        { at: plane.corners[2], text: kind === 2 ? "a random direction" : `a clean ${says(label)}`, role: "cross" },
      ],
      here: at >= 0 ? points(attack)[at] : null, range: [grid.low, grid.high],
    };
  }
  const plane = of.weights.find((/** @type {any} */ w) => w.moment === choice.plane) ?? of.weights[0];
  // All moments on one scale: else flat would look like sharp.
  const low = Math.min(...of.weights.map((/** @type {any} */ w) => w[choice.height].low)), high = Math.max(...of.weights.map((/** @type {any} */ w) => w[choice.height].high));
  return {
    u: plane.u.values, v: plane.v.values, height: heightsOf(plane[choice.height]), right: null, ways: [],
    marks: [{ at: [0, 0], text: `the weights, at ${plane.moment}`, role: "ink", left: true }, ...(plane.toward >= 0 ? [{ at: /** @type {[number, number]} */ ([0, 1]), text: plane.toward ? "gives the attacked logits" : "gives the clean logits", role: "attack" }] : [])],
    here: null, range: [low, high],
  };
}

/** @param {View} view */
export function drawRidge(view) {
  const card = $("ridge-card");
  if (!card) return;
  card.hidden = !view.run.surfaces.length;
  if (card.hidden) return;
  const of = shownLand(view), land = landOf(view, of);
  const moments = of.weights.map((/** @type {any} */ w) => /** @type {[string, string]} */ ([w.moment, `weights, ${w.moment}`]));
  segments($("plane"), [["input", "inputs"], ...moments], choice.plane, (plane) => { choice.plane = plane; drawRidge(view); });
  segments($("height"), [["kappa", "κ"], ["loss", "loss"]], choice.height, (height) => { choice.height = height; drawRidge(view); });
  paintRidge($("surface"), land, turn, view.colours);
  paintPlan($("plan"), land, view.colours, $("surface").clientHeight);
  $("ridge-whose").textContent = `log ${choice.height === "kappa" ? "κ" : "loss"} over ${choice.plane === "input" ? "a plane of inputs" : "two directions of the weights"}, sample ${of.sample}; ${land.u.length} × ${land.v.length} points`;
  const attack = of.input.ways.find((/** @type {any} */ w) => w.path === "attack"), length = Math.hypot(of.input.corners[1][0], of.input.corners[1][1]);
  $("ridge-note").textContent = choice.plane === "input"
    ? `Where the colours meet the prediction changes.${of.input.third[0] === 2 ? "" : " The straight line to the other image lies in this plane;"} ${of.input.third[0] === 2 ? "The" : "the"} attack’s iterates are projected, at most ${num(attack ? attack.off : 0, 2)} off it (from clean to end it is ${num(length, 2)}). A plane is a choice. At the head a ridge is expected, for κ contains Σ p(1 − p).`
    : "Across: the eigenvector of the largest eigenvalue of this layer’s Hessian. Up: the change of the weights that acts on the logits as the attack’s change of the features does. Clean, flip and end are on one scale.";
  $("lands").replaceChildren("Samples with a surface: ", ...view.run.surfaces.map((s) => {
    const i = view.run.sample.indexOf(s.sample);
    return make("button", { type: "button", "aria-pressed": String(s === of), disabled: i < 0, onclick: () => view.change({ sample: i, step: -1 }) }, String(s.sample));
  }));
  $("surface").setAttribute("aria-label", `${$("ridge-whose").textContent}. Arrow keys turn it.`);
}

/** @param {View} view */
export function listenRidge(view) {
  const canvas = $("surface");
  if (!canvas) return;
  /** @type {number[] | null} */
  let held = null;
  const again = () => paintRidge(canvas, landOf(view, shownLand(view)), turn, view.colours);
  canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => { held = [e.clientX, e.clientY, turn.yaw, turn.pitch]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => {
    if (!held) return;
    turn.yaw = held[2] - (e.clientX - held[0]) * 0.008;
    turn.pitch = Math.max(0.15, Math.min(1.4, held[3] + (e.clientY - held[1]) * 0.006));
    again();
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const by = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] }[e.key];
    if (!by || e.shiftKey) return;
    turn.yaw += by[0];
    turn.pitch = Math.max(0.15, Math.min(1.4, turn.pitch + by[1]));
    again();
    e.preventDefault();
    e.stopPropagation();
  });
}
