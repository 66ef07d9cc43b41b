// What a run of a language model calls things: there are prompts, and no labels; a flip is that the target is said.

import { $ } from "../draw/dom.js";

/** @typedef {import("../pages/run.js").View} View */

/** Figure -> its title and its caption. @type {Record<string, [string, string]>} */
const OF_PROMPTS = {
  margin: ["Not said, then said", "The smallest margin over the target’s tokens, its logit minus the largest other: above 0 greedy decoding says the whole target."],
  loss: ["The target’s loss", "Mean negative log-likelihood of the target’s tokens. A low one makes a flat place almost by force; the converse fails."],
  crossing: ["Against the margin", "Around 0 the worst token of the target is on its boundary."],
  peak: ["Flip against peak", "On the diagonal a prompt is sharpest where the target is first said; area is the number of prompts."],
};
const RAIL = "Prompt";

/** @type {Map<Element, string>} */
const BEFORE = new Map();

/** @param {Element | null} node @param {string | null} text null: what it said at first */
function say(node, text) {
  if (!node) return;
  if (!BEFORE.has(node)) BEFORE.set(node, node.textContent ?? "");
  const wanted = text ?? BEFORE.get(node) ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** @param {View} view */
export function wordings(view) {
  const of = Boolean(view.run.text), { run } = view;
  // A title tells of what is seen: not every attack turns a sample, or lets the loss rise to its end.
  const flips = Object.values(run.results[0])[0][0].summary.flipped.count > 0;
  const plain = /** @type {Record<string, string | null>} */ ({ margin: flips ? null : "The margin", loss: run.rising ? null : "The loss" });
  for (const [id, [title, caption]] of Object.entries(OF_PROMPTS)) {
    const figure = $(id).closest("figure");
    say(figure.querySelector("h2"), of ? title : plain[id] ?? null);
    say(figure.querySelector("figcaption"), of ? caption : null);
  }
  say($("rail-title"), of ? RAIL : null);
  $("pictures-of").hidden = of;
  $("film").hidden ||= of;
}
