// The top of the page: what was run, the result in a sentence, four numbers, cautions.

import { counted } from "../core/text.js";
import { $, make } from "../draw/dom.js";

/** @typedef {import("../pages/run.js").View} View */

const CLASS = { attack: "said-attack", cross: "said-cross" };

/** @param {View} view */
export function drawLead(view) {
  const { run, state } = view, said = run.lead[state.layer * run.measures.length + run.measures.indexOf(state.measure)];
  $("sentence").replaceChildren(...said.sentence.map(([text, role]) => (role ? make("em", { class: CLASS[/** @type {"attack"} */ (role)] }, text) : text)));
  $("below").textContent = said.below;
  $("ledger-told").textContent = run.ledger[state.layer];
  $("numbers").replaceChildren(...said.numbers.map(([value, name, interval]) => make("li", {}, make("b", {}, value), make("span", {}, name), make("span", {}, interval))));
}

/** What does not change with the measure. @param {View} view */
export function drawMast(view) {
  const { run } = view, of = Object.fromEntries(run.spec);
  const words = [of.name, of.data, of.norm && of.eps && !run.text ? `${of.norm} ε ${of.eps}` : null, counted(run.steps, "step"), counted(run.n, run.text ? "prompt" : "sample"), of.seed ? `seed ${of.seed}` : null];
  $("runline").replaceChildren(make("b", {}, of.attack ?? "a path"), " on ", make("b", {}, of.model ?? "a model"), " · " + words.filter(Boolean).join(" · "));
  $("spec").replaceChildren(...run.spec.map(([key, value]) => make("div", {}, make("dt", {}, key), make("dd", {}, value))));
  $("cautions").replaceChildren(...run.cautions.map(([code, message]) => make("details", {}, make("summary", {}, code.replace(/-/g, " ")), message)));
}
