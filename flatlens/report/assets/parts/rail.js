// The rail: the chosen sample at one step, and below it all samples to choose from.

import { className, count, num, percent, probability, span } from "../core/text.js";
import { gallery, summary } from "../core/select.js";
import { frames, labelled, moments, nearest, numbers, says, verdict } from "../core/sample.js";
import { FILTERS } from "../core/state.js";
import { $, make, segments } from "../draw/dom.js";
import { change, natural, paint, picture, signed } from "../draw/pixels.js";

/** @typedef {import("../pages/run.js").View} View */

const SHOWN = 120;
const MOST_BARS = 10;
const CALLED = /** @type {Record<string, string>} */ ({ all: "all", valley: "valley", none: "no valley", back: "flips back", unflipped: "never flips" });
let channel = -1, shows = "change";

/** @param {View} view */
export function drawRail(view) {
  const { run, state } = view, i = state.sample, n = numbers(run, state);
  if (document.activeElement !== $("sample")) $("sample").value = run.sample[i];
  $("verdict").textContent = verdict(run, state, i);
  $("moments").replaceChildren(...moments(run, state).map(([name, step]) => make("button", {
    type: "button", "aria-pressed": String(step === state.step), onclick: () => view.change({ step }),
  }, name, make("small", {}, `step ${step}`))));
  const slider = $("step");
  slider.max = run.steps;
  slider.value = state.step;
  slider.setAttribute("aria-valuetext", `step ${state.step}: ${view.data.symbols[state.measure]} ${num(n.value)}, says ${says(run, state.path, i, state.step)}`);
  $("step-number").textContent = `${state.step} / ${run.steps}`;
  drawPictures(view);
  drawBars(view);
  drawNumbers(view, n);
}

/** @param {View} view @param {ReturnType<typeof numbers>} n */
function drawNumbers(view, n) {
  const { run, state } = view, p = chances(view);
  const best = p ? p.indexOf(Math.max(...p)) : -1;
  const doubt = p ? p.reduce((sum, v, k) => (k === best ? sum : sum + v), 0) : 1 - n.confidence;
  const rows = [[view.data.symbols[state.measure], num(n.value), "value"], ["loss", num(n.loss), "loss"], ["1 − confidence", num(doubt, 2), "doubt"], ["margin", num(n.margin), "margin"]];
  $("numbers-here").replaceChildren(...rows.map(([name, value, key]) => make("div", {}, make("dt", {}, name), make("dd", { "data-number": key }, value))));
  $("whose").textContent = state.path === 0 ? "" : `Numbers of the ${run.paths[state.path].words}; inputs are kept of the attack alone.`;
}

/** Probabilities at the shown step, where they are kept. @param {View} view @returns {number[] | null} */
function chances(view) {
  const kept = view.run.images, of = frames(view.run, view.state.sample).find((f) => f.step === view.state.step);
  return kept && kept.p && of && view.state.path === 0 ? [...kept.p.row(of.row)] : null;
}

/** @param {View} view */
function drawPictures(view) {
  const { run, state } = view, kept = run.images, of = frames(run, state.sample), box = $("pictures");
  $("input-note").textContent = noteOn(view, of.length);
  box.hidden = !kept || !kept.drawable || !of.length;
  if (box.hidden || !kept) return;
  const now = nearest(of, state.step), clean = of.find((f) => f.step === 0), [depth, height, width] = kept.shape;
  for (const id of ["picture-input", "picture-change"]) { $(id).width = width; $(id).height = height; }
  paint($("picture-input"), natural(kept, now.row));
  $("picture-input").setAttribute("aria-label", `Input of sample ${run.sample[state.sample]} at step ${now.step}`);
  $("input-caption").textContent = now.step === state.step ? "input" : `input at step ${now.step}, the nearest kept`;
  const slope = slopeAt(view);
  $("change-figure").hidden = !clean && !slope;
  $("shows").hidden = !slope;
  $("shows").value = slope ? shows : "change";
  if (slope && shows === "gradient") return drawSlope(view, slope);
  if (!clean) return;
  const moved = change(kept, now.row, clean.row, channel);
  // One gain for all samples and steps: frames can be compared.
  const full = run.eps ?? Math.max(...of.map((f) => change(kept, f.row, clean.row, -1).most), 1e-12);
  paint($("picture-change"), signed(moved.values, full, view.colours));
  $("picture-change").setAttribute("aria-label", `Change since the clean input, at most ${num(moved.most, 2)}`);
  $("change-caption").textContent = `change, ±${num(full, 2)}; most ${num(moved.most, 2)}`;
  const menu = $("channel");
  menu.hidden = depth < 3;
  if (depth >= 3 && !menu.childElementCount) menu.append(...["mean", "red", "green", "blue"].map((name, k) => make("option", { value: k - 1 }, name)));
}

/** The attack's own gradient at the nearest of its kept moments. @param {View} view @returns {{ row: number, step: number } | null} */
function slopeAt(view) {
  const of = view.run.gradients, id = view.run.sample[view.state.sample];
  if (!of) return null;
  /** @type {{ row: number, step: number }[]} */
  const own = of.sample.map((/** @type {number} */ s, /** @type {number} */ row) => ({ s, row, step: of.step[row] })).filter((/** @type {any} */ f) => f.s === id);
  return own.length ? nearest(own, view.state.step) : null;
}

/** @param {View} view @param {{ row: number, step: number }} at */
function drawSlope(view, at) {
  const kept = /** @type {import("../core/types.js").Kept} */ (view.run.images), of = view.run.gradients, [depth, height, width] = kept.shape;
  const raw = of.values.row(at.row), size = height * width, mean = new Float32Array(size);
  for (let k = 0; k < size; k++) for (let c = 0; c < depth; c++) if (channel < 0 || c === channel) mean[k] += (raw[k + c * size] / 254) * 2 - 1;
  const full = mean.reduce((most, v) => Math.max(most, Math.abs(v)), 0) || 1;
  paint($("picture-change"), signed(mean, full, view.colours));
  const what = of.own[at.row] ? "of the attack’s objective" : "of the loss";
  $("change-caption").textContent = `∂/∂x ${what} at step ${at.step}, largest ${num(of.most[at.row], 2)}`;
  $("picture-change").setAttribute("aria-label", `Gradient by the input ${what} at step ${at.step}`);
}

/** @param {View} view @param {number} held */
function noteOn(view, held) {
  const kept = view.run.images;
  if (!view.run.truth) return "";
  if (!kept) return "This run kept no inputs (images = none).";
  if (!held) return `Inputs of ${count(kept.samples)} of ${count(view.run.n)} samples are in this file; not of this one.`;
  return kept.drawable ? "" : `Inputs of shape ${kept.shape.join(" × ")} are not images of 1 or 3 channels, so they are not drawn.`;
}

/** @param {View} view */
function drawBars(view) {
  const { run, state } = view, p = chances(view), box = $("bars");
  box.hidden = !p;
  if (!p) return;
  const truth = /** @type {number[]} */ (run.truth)[state.sample], best = p.indexOf(Math.max(...p));
  const order = p.map((_, k) => k).sort((a, b) => p[b] - p[a]), shown = p.length <= MOST_BARS ? p.map((_, k) => k) : [...new Set([truth, ...order])].slice(0, MOST_BARS);
  box.replaceChildren(...shown.map((k) => {
    const bar = make("i");
    bar.style.width = `${100 * p[k]}%`;
    const role = k === truth ? "truth" : k === best ? "said" : null;
    return make("li", { class: role, title: className(run.labels, k) }, make("b", {}, className(run.labels, k)), make("span", {}, bar), make("em", {}, probability(p, k)));
  }));
}

/** @param {View} view */
export function drawGallery(view) {
  const { run, state } = view, kinds = run.results[state.layer][state.measure][state.path].kinds;
  const total = /** @type {Record<string, number>} */ ({ all: run.n, valley: kinds.valley, none: kinds.none, back: kinds.back, unflipped: kinds.unflipped });
  segments($("filters"), FILTERS.filter((f) => f === "all" || total[f]).map((f) => [f, `${CALLED[f]} ${count(total[f])}`]), state.filter, (filter) => view.change({ filter }));
  $("order").value = state.order;
  const of = gallery(run, state), kept = run.images;
  const rows = new Map((kept ? kept.sample : []).map((id, row) => [id, row]).reverse().map(([id, row]) => [id, row]));
  $("gallery").replaceChildren(...of.slice(0, SHOWN).map((i) => {
    const row = rows.get(run.sample[i]), drawn = kept && kept.drawable && row !== undefined;
    return make("li", {}, make("button", {
      type: "button", "data-sample": i, "aria-current": i === state.sample ? "true" : null, "aria-label": `${run.truth ? "Sample" : "Prompt"} ${run.sample[i]}, ${labelled(run, i)}`,
      class: drawn ? null : "bare", onclick: () => view.change({ sample: i, step: -1 }),
    }, drawn ? picture(kept, row, { "aria-hidden": "true" }) : String(run.sample[i])));
  }));
  const left = run.sample.length < run.n ? `${count(run.sample.length)} of ${count(run.n)} samples are in this file, evenly over flip steps.` : "";
  const more = of.length > SHOWN ? ` The first ${SHOWN} of ${count(of.length)} are shown.` : of.length ? "" : " None of them is of this kind.";
  $("gallery-note").textContent = left + more;
}

/** The chosen one is marked without drawing all of them anew. @param {View} view */
export function markGallery(view) {
  for (const button of $("gallery").querySelectorAll("button")) {
    if (Number(button.dataset.sample) === view.state.sample) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

/** @param {View} view */
export function drawSelection(view) {
  const { run, state } = view, bar = $("selection");
  bar.hidden = !state.brush;
  if (!state.brush) return;
  const of = summary(run, state);
  $("selection-text").replaceChildren(make("b", {}, `${count(of.n)} of ${count(run.sample.length)} samples`),
    ` · ${count(of.flipped)} flip, at step ${num(of.flip)} in the median · valley ${percent(of.valley.value)} [${span(of.valley)}] · median rise ×${num(of.rise)}`);
}

/** @param {View} view */
export function listenRail(view) {
  const step = (/** @type {number} */ by) => {
    const of = gallery(view.run, view.state), at = of.indexOf(view.state.sample), next = of[(at + by + of.length) % of.length];
    if (next !== undefined) view.change({ sample: next, step: -1 });
  };
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("sample").addEventListener("change", () => {
    const id = Number($("sample").value), ids = view.run.sample;
    if (Number.isFinite(id)) view.change({ sample: ids.reduce((best, v, i) => (Math.abs(v - id) < Math.abs(ids[best] - id) ? i : best), 0), step: -1 });
  });
  $("step").addEventListener("input", () => view.change({ step: Number($("step").value) }));
  $("channel").addEventListener("change", () => { channel = Number($("channel").value); drawRail(view); });
  $("shows").addEventListener("change", () => { shows = $("shows").value; drawRail(view); });
  $("order").addEventListener("change", () => view.change({ order: $("order").value }));
  $("clear").addEventListener("click", () => view.change({ brush: null }));
  /** @type {number | undefined} */
  let timer;
  const play = $("play");
  play.addEventListener("click", () => {
    const running = timer !== undefined;
    clearInterval(timer);
    timer = running ? undefined : window.setInterval(() => view.change({ step: (view.state.step + 1) % (view.run.steps + 1) }), 240);
    play.textContent = running ? "▶" : "❚❚";
    play.setAttribute("aria-label", running ? "Play" : "Stop");
  });
  return step;
}
