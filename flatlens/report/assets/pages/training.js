// The page of a training: its figures, drawn before by Python and here by plotly, in the colours of the theme.

import { exchanger, recolour } from "../core/colours.js";
import { inflate } from "../core/pack.js";
import { $, listenSkips } from "../draw/dom.js";
import { dressed, kept, palette, wear } from "../draw/dress.js";
import { CONFIG } from "../draw/figure.js";

/** @typedef {import("../core/types.js").Drawn} Drawn */
/** @typedef {{ colours: Record<string, Record<string, string>>, figures: Record<string, Drawn> }} TrainingData */

const HEIGHTS = { hero: 330, small: 260 };
/** px below which names at the ends of lines take too much of a figure's width. */
const NARROW = 420;

/** A figure in the theme's colours, and in the room that it has. @param {TrainingData} data @param {string} name */
function drawTraining(data, name) {
  const node = $(name), hero = node.closest("figure").classList.contains("hero");
  const { data: lines, layout } = recolour(data.figures[name], exchanger(data.colours.light, palette(data)));
  const width = node.clientWidth, narrow = width < NARROW, margin = narrow ? { ...layout.margin, l: 54, r: 88 } : layout.margin;
  // An alarm's words have no room beside their line there: they begin at the left.
  const annotations = layout.annotations.map((/** @type {any} */ note) => (narrow && note.name === "alarm" ? { ...note, x: layout.xaxis.range[0], xanchor: "left", xshift: 3 } : note));
  /** @type {any} */ (globalThis).Plotly.react(node, lines, { ...layout, annotations, margin, width, height: hero ? HEIGHTS.hero : HEIGHTS.small, dragmode: "zoom" }, CONFIG);
}

export async function openTraining() {
  wear(kept());
  const held = $("plotly"), library = held && inflate(held.textContent.trim());
  /** @type {TrainingData} */
  const data = JSON.parse(await inflate($("flatlens-data").textContent.trim()));
  if (held) {
    // The policy names this program by its hash, so that it runs and nothing else does.
    const script = document.createElement("script");
    script.textContent = await library;
    held.replaceWith(script);
  }
  const names = Object.keys(data.figures), all = () => names.forEach((name) => drawTraining(data, name));
  names.forEach((name) => $(name).replaceChildren());
  dressed(all);
  listenSkips();
  window.addEventListener("resize", () => requestAnimationFrame(all));
  all();
  document.documentElement.dataset.ready = "yes";
}
