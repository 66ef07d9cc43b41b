// The top of a sweep's page: what was swept, how far it is, and how many comparisons it invites.

import { words } from "../core/cells.js";
import { comparisonsOf } from "../core/rows.js";
import { brief, count } from "../core/text.js";
import { $, make } from "../draw/dom.js";

/** @typedef {import("../pages/sweep.js").View} View */
/** @typedef {import("../core/types.js").SweepData} SweepData */

const CHIPS = ["model", "data", "attack", "norm", "eps", "step_size", "steps", "targeted", "control", "layer", "limit", "seed", "train.adversarial", "train.epochs", "dtype", "device"];

/** What does not change with what is chosen. @param {SweepData} data */
export function drawSwept(data) {
  const cells = data.cells.key.length, keys = data.varying.map((c) => ({ key: c.key, n: c.values.filter((v) => v !== "–").length })).filter(({ n }) => n > 1);
  $("kicker").textContent = "Loss landscapes along attacks · a sweep";
  $("headline").textContent = data.name;
  const whole = keys.reduce((product, { n }) => product * n, 1) === cells; // not where settings move together, or cells are left out
  const over = keys.map(({ key, n }) => `${words(key)} (${count(n)})`).join(whole ? " × " : ", ");
  $("swept").textContent = keys.length ? `${count(cells)} runs over ${over}` : `${count(cells)} run${cells === 1 ? "" : "s"}`;
  const chips = data.shared.filter(([key, value]) => CHIPS.includes(key) && value !== "");
  $("chips").replaceChildren(...chips.map(([key, value]) => make("li", { title: value }, make("span", {}, words(key)), " ", brief(value, 120))));
  const done = drawStates(data);
  $("footer").textContent = `Drawn by flatlens from ${count(done)} finished runs. Nothing is loaded from a network; a row leads to its run’s own page beside this file.`;
}

/** @param {SweepData} data @returns {number} how many runs are done */
function drawStates(data) {
  const of = (/** @type {string} */ state) => data.cells.state.filter((v) => v === state).length;
  const tally = ["done", "failed", "running", "waiting"].map((state) => ({ state, n: of(state) })).filter(({ state, n }) => n || state === "done");
  const bar = make("div", { class: "tally", "aria-hidden": "true" }, ...tally.map(({ state }) => make("i", { class: state })));
  tally.forEach(({ n }, k) => { bar.children[k].style.flex = String(n); });
  $("states").replaceChildren(make("h2", {}, "Runs"), make("p", { class: "figure" }, `${count(tally[0].n)} of ${count(data.cells.key.length)} done`), bar,
    make("ul", { class: "states" }, ...tally.map(({ state, n }) => make("li", { class: state }, `${count(n)} ${state}`))));
  return tally[0].n;
}

/** How many comparisons the page invites: said before anybody makes them. @param {View} view */
export function drawComparisons({ book, asked, shown }) {
  const { runs, rows, shares, empty, against, pairs } = comparisonsOf(book, asked, shown), paths = book.data.paths.length;
  const missed = 0.05 * shares, about = missed < 0.95 ? "less than one" : `about ${count(Math.round(missed))}`;
  const layers = rows > runs ? ` at ${count(rows)} layers in all` : "", none = empty ? `; on ${count(empty)} of these paths nothing flipped, which leaves no share` : "";
  /** @type {[number, string][]} */
  const things = [[shares, "shares of valleys, each with a 95 % interval"], [against, "pairs of an attack and a control"], [pairs, "pairs of a defence and standard training"]];
  $("comparisons").replaceChildren(make("h2", {}, "How many comparisons this page makes"),
    make("ul", { class: "things" }, ...things.map(([n, what]) => make("li", {}, make("b", {}, count(n)), ` ${what}`))),
    make("p", {}, `${count(runs)} run${runs === 1 ? "" : "s"}${layers} on up to ${count(paths)} path${paths === 1 ? "" : "s"} each${none}. Of ${count(shares)} intervals at 95 %, ${about} would miss the true value by chance alone, and nobody can say which.`),
    make("p", { class: "muted" }, "Nothing here is corrected for that number, and nothing is called significant: among many differences the largest is partly luck. Take it as a question for other seeds and other samples."));
}
