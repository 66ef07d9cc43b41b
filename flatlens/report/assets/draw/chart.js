// Plotly's figures of a sweep: axes, layout and error bars that they share, in the theme's colours.

import { fade } from "../core/colours.js";
import { $ } from "./dom.js";

/** @typedef {import("../core/types.js").Told} Told */
/** @typedef {Record<string, string>} Colours */

const CONFIG_OF_SWEEP = {
  displaylogo: false, responsive: true, showTips: false, scrollZoom: false,
  modeBarButtons: [["toImage", "resetScale2d"]],
  toImageButtonOptions: { format: "svg", filename: "flatlens" },
};
/** Two figures with their captions on a page of A4. */
const SHEET = { width: 640, height: 310 };

export const fontOf = () => getComputedStyle(document.body).fontFamily;
export const isNarrow = () => window.innerWidth < 640;

/** @param {Colours} colours @param {string} text @param {Record<string, any>} [more] */
export function axis(colours, text, more = {}) {
  return {
    title: { text, standoff: 8, font: { size: 12, color: colours.muted } },
    gridcolor: colours.grid, linecolor: colours.line, zerolinecolor: colours.line, zeroline: false,
    tickfont: { size: 11, color: colours.muted }, ticks: "", automargin: true, ...more,
  };
}

/** An axis of shares, in percent. @param {Colours} colours @param {string} text */
export const shareAxis = (colours, text) => axis(colours, text, { range: [-3, 103], tickvals: [0, 25, 50, 75, 100], ticktext: ["0", "25", "50", "75", "100 %"] });

/** @param {Colours} colours @param {boolean} paper @param {Record<string, any> & { height: number }} more */
export function layoutOf(colours, paper, more) {
  const font = { family: fontOf(), size: 12, color: colours.ink };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: "closest", dragmode: "zoom",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.muted, activecolor: colours.attack },
    selections: [], showlegend: false, autosize: !paper, ...more,
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 12 }, itemclick: false, itemdoubleclick: false, ...more.legend },
    ...(paper ? { width: SHEET.width, height: Math.min(more.height, SHEET.height) } : {}),
  };
}

/** Bars from the low to the high end of each share, in percent. @param {Told[]} of @param {string} colour */
export const errorBars = (of, colour, width = 3) => ({
  type: "data", symmetric: false, array: of.map((told) => 100 * (told.high - told.value)), arrayminus: of.map((told) => 100 * (told.value - told.low)),
  color: fade(colour, 0.42), thickness: 1.3, width,
});

/**
 * Draw a figure, or draw it anew.
 * @param {string} id @param {any[]} traces @param {any} layout @param {string} said what is in it, for who does not see it
 * @param {(of: any) => void} [open] what a click on a mark does with the mark's data
 */
export function plot(id, traces, layout, said, open) {
  const node = $(id), first = !node.data, title = node.closest("figure").querySelector("h2").textContent.trim();
  node.setAttribute("aria-label", `${title}. ${said}`);
  /** @type {any} */ (globalThis).Plotly.react(node, traces, layout, CONFIG_OF_SWEEP);
  if (first && open) node.on("plotly_click", (/** @type {any} */ { points: [mark] }) => open(mark.customdata));
}
