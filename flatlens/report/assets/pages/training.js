// The page of a training: its figures, drawn before by Python and here by plotly, in the colours of the theme.

import { $ } from "../draw/dom.js";
import { NARROW, openDrawn, plotted, worn } from "../parts/drawn.js";

/** @typedef {import("../parts/drawn.js").DrawnData} DrawnData */

const HEIGHTS = { hero: 330, small: 260 };

/** A figure in the theme's colours, and in the room that it has. @param {DrawnData} data @param {string} name */
function drawTraining(data, name) {
  const node = $(name), hero = node.closest("figure").classList.contains("hero");
  const { data: lines, layout } = worn(data, name);
  const width = node.clientWidth, narrow = width < NARROW, margin = narrow ? { ...layout.margin, l: 54, r: 88 } : layout.margin;
  // An alarm's words have no room beside their line there: they begin at the left.
  const annotations = layout.annotations.map((/** @type {any} */ note) => (narrow && note.name === "alarm" ? { ...note, x: layout.xaxis.range[0], xanchor: "left", xshift: 3 } : note));
  plotted(node, lines, { ...layout, annotations, margin, width, height: hero ? HEIGHTS.hero : HEIGHTS.small });
}

export const openTraining = () => openDrawn(drawTraining);
