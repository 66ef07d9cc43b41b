// The page of an immunization: its figures, drawn before by Python and here by plotly, in the colours of the theme.

import { $ } from "../draw/dom.js";
import { NARROW, openDrawn, plotted, worn } from "../parts/drawn.js";

/** @typedef {import("../parts/drawn.js").DrawnData} DrawnData */

const HEIGHT = 330;

/** A figure in the theme's colours, and in the room that it has. @param {DrawnData} data @param {string} name */
function drawImmunity(data, name) {
  const node = $(name), { data: lines, layout } = worn(data, name);
  const width = node.clientWidth, narrow = width < NARROW, margin = narrow ? { ...layout.margin, ...layout.meta.narrow } : layout.margin;
  const annotations = layout.annotations.map((/** @type {any} */ note) => (narrow ? { ...note, font: { ...note.font, size: 11 } } : note));
  plotted(node, lines, { ...layout, annotations, margin, width, height: HEIGHT });
}

/** Of the maps of pairs one at a time: without a script they stand below each other. */
function oneMap() {
  const buttons = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-show]")]);
  /** @param {string} name */
  function show(name) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === name));
    for (const map of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-map]"))) map.hidden = map.dataset.map !== name;
  }
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.show ?? ""));
  if (buttons.length) show(buttons[0].dataset.show ?? "");
}

export const openImmunity = () => openDrawn(drawImmunity, oneMap);
