// A page whose figures Python has drawn: here plotly draws them again, in the colours of the theme.

import { exchanger, recolour } from "../core/colours.js";
import { inflate } from "../core/pack.js";
import { $, listenSkips } from "../draw/dom.js";
import { dressed, kept, palette, wear } from "../draw/dress.js";
import { CONFIG } from "../draw/figure.js";

/** @typedef {import("../core/types.js").Drawn} Drawn */
/** @typedef {{ colours: Record<string, Record<string, string>>, figures: Record<string, Drawn> }} DrawnData */

/** px below which names at the ends of lines take too much of a figure's width. */
export const NARROW = 420;

/** A figure in the theme's colours. @param {DrawnData} data @param {string} name @returns {Drawn} */
export const worn = (data, name) => recolour(data.figures[name], exchanger(data.colours.light, palette(data)));

/** @param {HTMLElement} node @param {any[]} lines @param {any} layout */
export function plotted(node, lines, layout) {
  /** @type {any} */ (globalThis).Plotly.react(node, lines, { ...layout, dragmode: "zoom" }, CONFIG);
}

/**
 * Unpack the page's data and plotly, and draw now, after a change of the theme, and of the window.
 * @param {(data: DrawnData, name: string) => void} draw one figure, by name
 * @param {(data: DrawnData) => void} [begin] before anything is drawn
 */
export async function openDrawn(draw, begin = () => {}) {
  wear(kept());
  const held = $("plotly"), library = held && inflate(held.textContent.trim());
  /** @type {DrawnData} */
  const data = JSON.parse(await inflate($("flatlens-data").textContent.trim()));
  if (held) {
    // The policy names this program by its hash, so that it runs and nothing else does.
    const script = document.createElement("script");
    script.textContent = await library;
    held.replaceWith(script);
  }
  const names = Object.keys(data.figures).filter((name) => $(name)), all = () => names.forEach((name) => draw(data, name));
  begin(data);
  names.forEach((name) => $(name).replaceChildren());
  dressed(all);
  listenSkips();
  window.addEventListener("resize", () => requestAnimationFrame(all));
  all();
  document.documentElement.dataset.ready = "yes";
}
