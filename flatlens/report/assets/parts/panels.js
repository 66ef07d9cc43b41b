// The runs of a sweep side by side: each one's median curve, the attack's and its control's, all on one scale.

import { fullMeasure, labelOf, medianOf, rowOf, shareOf, shortMeasure, words } from "../core/cells.js";
import { quartilesOf, readAt, scaleOf } from "../core/medians.js";
import { measuredOf } from "../core/rows.js";
import { brief, count, percent } from "../core/text.js";
import { isNarrow } from "../draw/chart.js";
import { $, draw, make } from "../draw/dom.js";
import { CONTROL_DASH, bandOf, emptyPanel, keyOf, stepUnder, upright } from "../draw/panel.js";
import { measuresShown } from "./cells.js";

/** @typedef {import("../pages/sweep.js").View} View */
/** @typedef {import("../core/types.js").Item} Item */
/** @typedef {import("../core/medians.js").Quartiles} Quartiles */
/** @typedef {import("../core/medians.js").Scale} Scale */
/** @typedef {{ item: Item, attack: Quartiles, control: Quartiles | null }} Pictured */
/** @typedef {{ node: Element, tell: (step: number | null) => void }} Panel */

export const PANELS_AT_ONCE = 24;
export const firstPanels = () => (isNarrow() ? 8 : PANELS_AT_ONCE);

/** @param {View} view */
export function drawPanels(view) {
  const { book, shown, colourOf, colours } = view, { control, data } = book;
  const able = measuredOf(shown).flatMap((item) => {
    const attack = quartilesOf(book, item, 0);
    return attack ? [{ item, attack, control: quartilesOf(book, item, control) }] : [];
  });
  const drawn = able.slice(0, view.most.panels), left = able.length - drawn.length;
  const scale = scaleOf(drawn.flatMap((d) => (d.control ? [d.attack, d.control] : [d.attack])));
  $("panels-card").hidden = !able.length;
  /** @type {Panel[]} */
  const panels = [];
  // One step in all panels at once: that is what a common scale is for.
  const point = (/** @type {number | null} */ step) => panels.forEach((panel) => panel.tell(step));
  if (scale) panels.push(...drawn.map((pictured) => panelOf(view, scale, pictured, point)));
  $("panels").replaceChildren(...panels.map((panel) => panel.node));
  $("more-panels").parentNode.hidden = left === 0;
  $("more-panels").textContent = `Show ${count(Math.min(PANELS_AT_ONCE, left))} more of ${count(left)}`;
  const names = measuresShown(view);
  $("panels-measure").textContent = names.length === 1 ? `${shortMeasure(data, names[0])}, logarithmic, against attack step` : "logarithmic, against attack step";
  $("panels-keys").replaceChildren(keyOf("line", colourOf(0), "attack, median"), keyOf("band", colourOf(0), "its quartiles"),
    ...(control < 0 ? [] : [keyOf("dashed", colourOf(control), `control, ${words(data.control)}`)]), keyOf("dotted", colours.muted, "median flip step"));
  notePanels(view, names, drawn, scale);
}

/** @param {View} view @param {Scale} scale @param {Pictured} pictured @param {(step: number | null) => void} point @returns {Panel} */
function panelOf(view, scale, { item, attack, control }, point) {
  const { book, asked, colours, colourOf } = view;
  const label = labelOf(book, asked, item), link = book.data.cells.page[item.cell], rest = sharesOf(view, item);
  const canvas = emptyPanel(scale, colours, `${label}: ${rest}`), flip = medianOf(book, rowOf(book, item), "flip_step");
  if (flip?.n) canvas.append(draw("path", { d: upright(scale, flip.value), stroke: colours.muted, "stroke-width": 1.2, "stroke-dasharray": "1.5 3" }));
  if (control) canvas.append(...bandOf(scale, control, { colour: colourOf(book.control), dash: CONTROL_DASH, width: 1.8, band: 0.1 }));
  const cursor = draw("path", { d: "", stroke: colours.ink, "stroke-width": 0.8, opacity: 0.6 }), said = make("p", { class: "readout" }, rest);
  canvas.append(...bandOf(scale, attack, { colour: colourOf(0), dash: "none", width: 2.4, band: 0.2 }), cursor);
  canvas.addEventListener("pointermove", (event) => {
    const step = stepUnder(scale, canvas.getBoundingClientRect(), /** @type {PointerEvent} */ (event).clientX);
    point(step >= 0 && step <= scale.steps ? step : null);
  });
  canvas.addEventListener("pointerleave", () => point(null));
  const title = brief(label, 56), node = make("div", { class: "panel" }, make("h3", { title: label }, link ? make("a", { href: link }, title) : title), said, canvas);
  return {
    node,
    tell(step) {
      cursor.setAttribute("d", upright(scale, step));
      const a = step === null ? null : readAt(attack, step), c = step === null || !control ? null : readAt(control, step);
      said.textContent = a ? `step ${a.step}: ${a.text}${c ? `, control ${c.short}` : ""}` : rest;
    },
  };
}

/** @param {View} view @param {Item} item */
function sharesOf({ book, asked }, item) {
  const attack = shareOf(book, rowOf(book, item), asked.share), control = shareOf(book, rowOf(book, item, book.control), asked.share);
  return `valleys ${attack?.n ? `${percent(attack.value)} (n ${count(attack.n)})` : "–"}${control ? `, control ${control.n ? percent(control.value) : "–"}` : ""}`;
}

/** @param {View} view @param {string[]} names @param {Pictured[]} drawn @param {Scale | null} scale */
function notePanels({ book }, names, drawn, scale) {
  const { data, control } = book, fewer = drawn.some(({ attack }) => attack.n[1] < attack.n[0]);
  $("panels-note").textContent = [
    names.length > 1
      ? `Rows measure different things (${names.map((name) => shortMeasure(data, name)).join(", ")}); their heights are not comparable.`
      : `${names.map((name) => fullMeasure(data, name)).join("")}: median over all samples, wrong ones included; high is sharp.`,
    `The scale is that of the ${count(drawn.length)} panels drawn.`,
    scale?.clamped ? "Values under its lower edge, exact zeros among them, are drawn on the edge: a saturated softmax goes hundreds of decades down, and how far says little." : "",
    fewer ? "Some paths end early, so that the set of samples changes along a curve." : "",
    data.curves.left_out ? `Curves of ${count(data.curves.left_out)} runs are not in this file; they are on the runs’ own pages.` : "",
    control < 0 ? "There is no control here: nothing in these pictures can be attributed to the attack." : "Where the dashed control falls as the attack does, the valley comes from crossing a boundary.",
    "A median curve does not show single samples, which peak at different steps; and κ of networks with different heads may differ in scale for reasons that are not robustness.",
  ].filter(Boolean).join(" ");
}
