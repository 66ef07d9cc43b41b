// A figure of the page: what `flatlens.report.figures` drew, in the theme's colours, with single samples over it.

import { exchanger, fade, recolour } from "../core/colours.js";
import { plain } from "../core/text.js";
import { palette, theme } from "./dress.js";

/** @typedef {import("../core/types.js").Data} Data */
/** @typedef {import("../core/types.js").Run} Run */
/** @typedef {import("../core/types.js").State} State */
/** @typedef {import("../core/types.js").Drawn} Drawn */

export const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset", showTips: false };

/**
 * One variant of a figure, complete and in the theme's colours; null where there is none.
 * @param {Data} data @param {Run} run @param {string} name @param {string} variant
 * @returns {Drawn | null}
 */
export function figureOf(data, run, name, variant) {
  const figure = run.figures[name], own = figure && figure.variants[variant];
  if (!own) return null;
  const whole = { data: own.data, layout: { ...figure.layout, ...own.layout } };
  const exchange = exchanger(data.colours.light, palette(data));
  return theme() === "light" ? { data: [...whole.data], layout: structuredClone(whole.layout) } : recolour(whole, exchange);
}

/** Hide what the table of paths has switched off. @param {Drawn} drawn @param {string[]} off */
export function without(drawn, off) {
  drawn.data = drawn.data.filter((trace) => !trace.meta || !off.includes(trace.meta.path));
  if (drawn.layout.annotations) drawn.layout.annotations = drawn.layout.annotations.filter((/** @type {any} */ note) => !off.includes(note.name));
  return drawn;
}

/**
 * Many samples' curves as one line with gaps: plotly is slow with many traces, not with many points.
 * @param {number[]} which @param {number} length @param {(i: number, t: number) => number} x @param {(i: number, t: number) => number} y @param {any} line
 */
export function curves(which, length, x, y, line) {
  const size = which.length * (length + 1), xs = new Float64Array(size), ys = new Float64Array(size), of = new Array(size);
  which.forEach((i, row) => {
    for (let t = 0; t < length; t++) {
      const at = row * (length + 1) + t;
      xs[at] = x(i, t);
      ys[at] = y(i, t);
      of[at] = i;
    }
    xs[row * (length + 1) + length] = NaN;
    ys[row * (length + 1) + length] = NaN;
  });
  return { type: "scatter", mode: "lines", x: xs, y: ys, customdata: of, line, hoverinfo: "none", showlegend: false, connectgaps: false };
}

/** The chosen sample: its curve over a halo, and a dot where the inspector stands. @param {Record<string, string>} colours @param {number[]} x @param {number[]} y @param {number} step @param {number} i */
export function chosen(colours, x, y, step, i) {
  const base = { type: "scatter", hoverinfo: "skip", showlegend: false, customdata: x.map(() => i) };
  return [
    { ...base, mode: "lines", x, y, line: { color: colours.card, width: 5 } },
    { ...base, mode: "lines", x, y, line: { color: colours.chosen, width: 2 } },
    { ...base, mode: "markers", x: [x[step]], y: [y[step]], marker: { color: colours.chosen, size: 11, line: { color: colours.card, width: 2.2 } }, meta: { dot: true } },
  ];
}

/** @param {Record<string, string>} colours */
export const thinLine = (colours) => ({ color: fade(colours.attack, theme() === "dark" ? 0.2 : 0.14), width: 1 });

/** @param {string} title @param {string} said */
export const label = (title, said) => `${plain(title)}. ${said}`;
