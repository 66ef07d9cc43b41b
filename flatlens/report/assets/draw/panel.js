// A small picture of median curves with their quartiles, as SVG: many of them stand beside each other on one scale.

import { raised } from "../core/text.js";
import { fontOf } from "./chart.js";
import { draw, make } from "./dom.js";

/** @typedef {import("../core/medians.js").Quartiles} Quartiles */
/** @typedef {import("../core/medians.js").Scale} Scale */

const BOX = { width: 264, height: 168, left: 38, right: 6, top: 6, bottom: 20 };
/** The dashes of a control: beside the attack it is told by more than its colour. */
export const CONTROL_DASH = "5 3";
const STRIDES = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500];

/** @param {Scale} scale @param {number} step */
const xOf = (scale, step) => BOX.left + (step / scale.steps) * (BOX.width - BOX.left - BOX.right);
/** @param {Scale} scale @param {number} log */
const yOf = (scale, log) => BOX.top + (1 - (Math.max(log, scale.bottom) - scale.bottom) / (scale.top - scale.bottom)) * (BOX.height - BOX.top - BOX.bottom);

/** The empty picture with its axes. @param {Scale} scale @param {Record<string, string>} colours @param {string} said */
export function emptyPanel(scale, colours, said) {
  const { bottom, top, steps } = scale, base = BOX.height - BOX.bottom, right = BOX.width - BOX.right;
  const canvas = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": said });
  const style = { fill: colours.muted, "font-size": 10.5, "font-family": fontOf() }, every = Math.max(1, Math.ceil((top - bottom) / 5));
  for (let e = Math.ceil(bottom / every) * every; e <= top; e += every) {
    canvas.append(
      draw("path", { d: `M${BOX.left} ${yOf(scale, e)}H${right}`, stroke: colours.grid }),
      draw("text", { x: BOX.left - 5, y: yOf(scale, e) + 3.5, "text-anchor": "end", ...style }, e === 0 ? "1" : e === 1 ? "10" : `10${raised(e)}`));
  }
  canvas.append(draw("path", { d: `M${BOX.left} ${base}H${right}`, stroke: colours.line }));
  const stride = STRIDES.find((s) => steps / s <= 4.01) ?? Math.ceil(steps / 4);
  for (let s = 0; s <= steps; s += stride) {
    canvas.append(draw("text", { x: xOf(scale, s), y: base + 13, "text-anchor": s === 0 ? "start" : s === steps ? "end" : "middle", ...style }, String(s)));
  }
  return canvas;
}

/** From the lower to the upper edge at a step; nothing at none. @param {Scale} scale @param {number | null} step */
export const upright = (scale, step) => (step === null ? "" : `M${xOf(scale, step)} ${BOX.top}V${BOX.height - BOX.bottom}`);

/** The step under a pointer; it may lie outside. @param {Scale} scale @param {DOMRect} box of the picture @param {number} x of the pointer */
export function stepUnder(scale, box, x) {
  const at = ((x - box.left) / box.width) * BOX.width;
  return Math.round(((at - BOX.left) / (BOX.width - BOX.left - BOX.right)) * scale.steps);
}

/** The quartiles' band and the median over it. @param {Scale} scale @param {Quartiles} curve @param {{ colour: string, dash: string, width: number, band: number }} look @returns {Element[]} */
export function bandOf(scale, curve, look) {
  const known = [...curve.position.keys()].filter((i) => Number.isFinite(curve.median[i]));
  if (!known.length) return [];
  const at = (/** @type {ArrayLike<number>} */ values) => known.map((i) => `${xOf(scale, curve.position[i]).toFixed(1)} ${yOf(scale, Number.isFinite(values[i]) ? values[i] : curve.median[i]).toFixed(1)}`);
  return [
    draw("path", { d: `M${[...at(curve.high), ...at(curve.low).reverse()].join("L")}Z`, fill: look.colour, "fill-opacity": look.band }),
    draw("path", { d: `M${at(curve.median).join("L")}`, fill: "none", stroke: look.colour, "stroke-width": look.width, "stroke-dasharray": look.dash, "stroke-linejoin": "round" }),
  ];
}

const MARKS = {
  line: { d: "M0 6H24", "stroke-width": 2.4 },
  dashed: { d: "M0 6H24", "stroke-width": 2.4, "stroke-dasharray": CONTROL_DASH },
  dotted: { d: "M12 0V12", "stroke-width": 1.4, "stroke-dasharray": "1.5 2.5" },
  band: { d: "M0 6H24", "stroke-width": 10, opacity: 0.22 },
};

/** What a line, a dash or a band means. @param {keyof typeof MARKS} kind @param {string} colour @param {string} said */
export const keyOf = (kind, colour, said) => make("span", {}, draw("svg", { width: 24, height: 12, "aria-hidden": "true" }, draw("path", { stroke: colour, ...MARKS[kind] })), said);
