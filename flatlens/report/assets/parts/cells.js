// The table of a sweep's runs: sorted by any column, some rows at a time; chosen runs are compared.

import { ALL_LAYERS, across, fullMeasure, labelOf, rowOf, shareOf } from "../core/cells.js";
import { columnsOf, sortedBy } from "../core/columns.js";
import { measuredOf } from "../core/rows.js";
import { brief, count, num, percent } from "../core/text.js";
import { $, make } from "../draw/dom.js";
import { sparkline, whiskers } from "../draw/spark.js";

/** @typedef {import("../pages/sweep.js").View} View */
/** @typedef {import("../core/types.js").Item} Item */
/** @typedef {import("../core/types.js").Told} Told */
/** @typedef {import("../core/columns.js").Column} Column */

export const ROWS_AT_ONCE = 200;
const ON_PAPER = 400;
const WITHOUT = { waiting: "not begun", running: "runs now" };

/** @param {View} view */
export function drawTable(view) {
  const { book, asked, shown } = view, columns = columnsOf(book, asked), most = view.paper ? Math.min(view.most.rows, ON_PAPER) : view.most.rows;
  $("runs").replaceChildren(
    make("thead", {}, make("tr", {}, ...columns.map((column) => headOf(view, column)))),
    make("tbody", {}, ...shown.slice(0, most).map((item) => lineOf(view, item, columns))));
  const left = Math.max(0, shown.length - most);
  $("more-rows").parentNode.hidden = left === 0;
  $("more-rows").textContent = `Show ${count(Math.min(ROWS_AT_ONCE, left))} more of ${count(left)}`;
  noteTable(view);
}

/** @param {View} view @param {Column} column */
function headOf(view, column) {
  const { asked } = view, on = asked.sort === column.key, scheme = column.kind === "setting" && column.scheme;
  const press = () => {
    view.change(sortedBy(view.asked, column));
    $("runs").querySelector(`[data-key="${CSS.escape(column.key)}"]`).focus(); // the table is new, and so is its button
  };
  const button = make("button", { type: "button", class: "sort", "data-key": column.key, onclick: press }, column.title,
    scheme ? make("span", { class: "scheme" }, ` ${scheme}…`) : null, make("span", { "aria-hidden": "true" }, on ? (asked.down ? " ↓" : " ↑") : ""));
  return make("th", { scope: "col", "aria-sort": on ? (asked.down ? "descending" : "ascending") : "none", class: column.kind === "setting" ? "left" : null }, button);
}

/** @param {View} view @param {Item} item @param {Column[]} columns */
function lineOf(view, item, columns) {
  const { cells } = view.book.data, state = cells.state[item.cell], link = cells.page[item.cell];
  const settings = columns.filter((c) => c.kind === "setting"), rest = columns.filter((c) => c.kind !== "setting");
  const found = settings.map((c) => settingCell(view, item, c));
  if (item.layer < 0) {
    const said = cells.error[item.cell] ?? WITHOUT[/** @type {"waiting"} */ (state)] ?? "no numbers";
    found.push(make("td", { class: "left what-happened", colspan: rest.length - 2 }, said), ...rest.slice(-2).map((c) => cellOf(view, c, item)));
  } else found.push(...rest.map((c) => cellOf(view, c, item)));
  const node = make("tr", { class: link ? `${state} linked` : state }, ...found);
  if (link) {
    node.addEventListener("click", (/** @type {any} */ event) => {
      if (event.target.closest("a") || String(window.getSelection())) return;
      node.querySelector("a").dispatchEvent(new MouseEvent("click", { bubbles: false, cancelable: true, ctrlKey: event.ctrlKey, metaKey: event.metaKey }));
    });
  }
  return node;
}

/** @param {View} view @param {Item} item @param {Extract<Column, { kind: "setting" }>} column */
function settingCell(view, item, column) {
  const { asked, book } = view, many = asked.fold && item.group ? item.group.length : 1;
  const said = many > 1 && book.seeds.some((seed) => seed.key === column.key) ? `${many} seeds` : column.of(item);
  if (!column.first) return make("td", { class: "left", title: said.length > 34 ? said : null }, brief(said, 34));
  const link = book.data.cells.page[item.cell], name = link ? make("a", { href: link }, brief(said)) : brief(said);
  return make("th", { scope: "row", title: column.whole ? column.whole(item) : book.data.cells.key[item.cell] }, pickerOf(view, item), name);
}

/** Chosen runs are compared: shown alone, on one scale. @param {View} view @param {Item} item */
function pickerOf(view, item) {
  const key = view.book.data.cells.key[item.cell], { picked } = view.asked;
  return make("input", {
    type: "checkbox", class: "pick", checked: picked.includes(key), "aria-label": `Compare ${labelOf(view.book, view.asked, item)}`,
    onclick: (/** @type {Event} */ event) => event.stopPropagation(),
    onchange: (/** @type {any} */ event) => view.change({ picked: event.target.checked ? [...view.asked.picked, key] : view.asked.picked.filter((one) => one !== key) }),
  });
}

/** @param {View} view @param {Exclude<Column, { kind: "setting" }>} column @param {Item} item */
function cellOf(view, column, item) {
  if (column.kind === "curve") {
    const curve = column.of(item);
    return curve ? make("td", { class: "spark" }, sparkline(curve.position, curve.median, view.colourOf(0), view.ends)) : nothing();
  }
  if (column.kind === "number") {
    const value = column.of(item);
    return make("td", {}, Number.isNaN(value) ? "–" : value < 1 ? num(value, 2) : value < 10 ? value.toFixed(1) : count(Math.round(value)));
  }
  if (column.kind === "state") return stateCell(view, item.cell, column.of(item));
  const told = column.of(item);
  if (!told || !told.n) return nothing();
  if (column.kind === "median") {
    const span = Number.isNaN(told.low) ? null : make("small", {}, ` ${column.write(told.low)} … ${column.write(told.high)}`);
    return make("td", { title: `median of ${count(told.n)} ${column.over ?? "flipped samples"}` }, column.write(told.value), span);
  }
  const span = make("small", { title: told.runs ? `median and range of ${told.runs} runs` : null },
    ` ${(100 * told.low).toFixed(1)}–${(100 * told.high).toFixed(1)}${told.runs ? ` of ${told.runs}` : ""}`);
  return make("td", { title: `${count(told.count ?? 0)} of ${count(told.n)}` }, percent(told.value), span,
    column.masked?.(item) ? make("small", { title: "attacks on the cross-entropy overstate this model’s robustness: see the run’s cautions" }, " masked") : null, column.both ? make("small", { class: "drawn" }, bothOf(view, item, told)) : null);
}

const nothing = () => make("td", { class: "empty" }, "–");

/** @param {View} view @param {number} cell @param {string} state */
function stateCell(view, cell, state) {
  const cautions = view.book.data.cells.cautions[cell] ?? [];
  const text = cautions.map(([code, message]) => `${code}: ${message}`).join("\n");
  return make("td", { class: `left state ${state}` }, make("span", {}, state), cautions.length ? make("small", { title: text }, ` ${cautions.length} caution${cautions.length > 1 ? "s" : ""}`) : null);
}

/** The attack's share and its control's on one line, each with its interval. @param {View} view @param {Item} item @param {Told} attack */
function bothOf({ book, asked, colourOf }, item, attack) {
  const control = across(item, (one) => shareOf(book, rowOf(book, one, book.control), asked.share));
  return whiskers([...(control?.n ? [{ of: control, colour: colourOf(book.control), hollow: true }] : []), { of: attack, colour: colourOf(0), hollow: false }]);
}

/** The measures of the rows that are shown. @param {View} view */
export function measuresShown({ book, shown }) {
  const names = Object.keys(book.data.measures);
  return [...new Set(measuredOf(shown).map((item) => book.data.rows.measure[rowOf(book, item) ?? 0]))].map((k) => names[k]);
}

/** @param {View} view */
function noteTable(view) {
  const { book, asked, shown } = view, { rows, layers } = book.data, of = measuredOf(shown).map((item) => rowOf(book, item) ?? 0);
  const estimates = of.filter((row) => { const probe = rows.probes[rows.probe[row]]; return !probe.exact && !probe.method.includes("closed"); }).length;
  const unfinished = of.reduce((sum, row) => sum + rows.not_finite[row], 0);
  const missing = asked.layer === ALL_LAYERS ? 0 : book.ofCell.filter((own) => own.length && !own.includes(asked.layer)).length;
  $("table-note").textContent = [
    `${measuresShown(view).map((name) => fullMeasure(book.data, name)).join("; ") || "No numbers yet"}. 95 % intervals (Wilson for shares, bootstrap for medians), over the samples of one model; medians are over flipped samples.`,
    `A valley ends at no more than ${rows.tau.join(" or ")} of its peak. Rise is peak over start, depth log₁₀ of peak over end, lag peak step minus flip step.`,
    estimates ? `Of ${count(estimates)} rows the measure is an estimate, not exact.` : "",
    unfinished ? `${count(unfinished)} samples in these rows have values that are not finite; they count as having no valley.` : "",
    missing ? `${count(missing)} runs have no layer ${layers[asked.layer]} and are not shown.` : "",
    "Shares of the flipped are over different samples in every row: a hard model’s few flipped samples are not an easy model’s many. The table does not say why rows differ.",
  ].filter(Boolean).join(" ");
}
