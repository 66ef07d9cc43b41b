// The page of a sweep: its state, what changes it, and what is drawn again when it changes.

import { readAsked, writeAsked } from "../core/asked.js";
import { bookOf } from "../core/cells.js";
import { columnsOf } from "../core/columns.js";
import { sparkEnds } from "../core/medians.js";
import { unpack } from "../core/pack.js";
import { shownOf } from "../core/rows.js";
import { againstTable, curvesTable, heightsTable, robustTable, runsTable } from "../core/tables.js";
import { $, listenSkips } from "../draw/dom.js";
import { dressed, palette, theme, wear } from "../draw/dress.js";
import { listenSort } from "../draw/sorting.js";
import { takeaway } from "../draw/takeaway.js";
import { drawTable, ROWS_AT_ONCE } from "../parts/cells.js";
import { drawDefences } from "../parts/defences.js";
import { drawHeights } from "../parts/heights.js";
import { drawMenus, listenMenus } from "../parts/menus.js";
import { drawAgainst, drawRobust } from "../parts/pairs.js";
import { drawPanels, firstPanels } from "../parts/panels.js";
import { drawComparisons, drawSwept } from "../parts/swept.js";

/** @typedef {import("../core/types.js").Asked} Asked */
/** @typedef {import("../core/types.js").Item} Item */
/** @typedef {{ rows: number, panels: number }} Most */
/**
 * @typedef {{ book: import("../core/cells.js").Book, asked: Asked, shown: Item[], most: Most, colours: Record<string, string>, paper: boolean,
 *   ends: [number, number], colourOf: (path: number) => string, change: (parts: Partial<Asked>) => void, fresh: (parts: Partial<Asked>) => void,
 *   more: (parts: Partial<Most>) => void }} View `change` keeps how many rows and panels are shown; `fresh` begins with the first ones again
 */

const FIGURES = { panels: drawPanels, against: drawAgainst, robust: drawRobust, heat: drawHeights };
/** @typedef {keyof typeof FIGURES} Figure */
/** What lies under each card, as numbers: the table, the card, and plotly's node where the picture is plotly's. */
const TABLES = /** @type {[import("../core/tables.js").Table, string, string, string?][]} */ ([
  [runsTable, "table-card", "runs"], [curvesTable, "panels-card", "curves"], [againstTable, "against-card", "against", "against"],
  [robustTable, "robust-card", "robust", "robust"], [heightsTable, "heat-card", "measures", "heat"],
]);
const ALL = /** @type {Figure[]} */ (Object.keys(FIGURES));

/** @param {import("../core/types.js").SweepData} data */
export function startSweep(data) {
  const book = bookOf(data), first = readAsked(book, "", []);
  /** @type {Set<Figure>} */
  const waiting = new Set();
  const most = () => ({ rows: ROWS_AT_ONCE, panels: firstPanels() });
  /** @type {View} */
  const view = {
    book, asked: first, shown: [], most: most(), colours: palette(data), paper: false, ends: sparkEnds(book),
    colourOf: (path) => view.colours[data.looks[path][0]],
    change, fresh: (parts) => { view.most = most(); change(parts); }, more,
  };

  // Redraws are gathered per frame: letters that are typed fast must not queue them up.
  /** @param {Figure[]} names */
  function later(...names) {
    if (!waiting.size) requestAnimationFrame(() => { const now = [...waiting]; waiting.clear(); now.forEach((name) => FIGURES[name](view)); });
    names.forEach((name) => waiting.add(name));
  }

  /** @param {Partial<Asked>} parts */
  function change(parts) {
    view.asked = { ...view.asked, ...parts };
    const changed = Object.keys(parts), only = (/** @type {string[]} */ ...keys) => changed.length > 0 && changed.every((key) => keys.includes(key));
    if (!only("heights")) {
      const columns = columnsOf(book, view.asked);
      view.shown = shownOf(book, view.asked, columns.find((column) => column.key === view.asked.sort));
      drawTable(view);
    }
    drawMenus(view);
    opened.forEach((again) => again());
    keep();
    if (only("heights")) later("heat");
    // Which rows are shown matters to all figures; their order to those that draw the first ones.
    else if (only("sort", "down")) later("panels", "robust");
    else {
      drawComparisons(view);
      later(...ALL);
    }
  }

  /** @param {Partial<Most>} parts */
  function more(parts) {
    view.most = { ...view.most, ...parts };
    if (parts.rows) drawTable(view);
    if (parts.panels) later("panels");
  }

  function keep() {
    const hash = writeAsked(book, view.asked);
    if (`#${hash}` === location.hash || (!hash && !location.hash)) return;
    try { history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search); } catch { /* a frame in a notebook has no address of its own */ }
  }

  /** Every setting can be sorted by, and all that the table has when each layer has a row. */
  const recalled = () => {
    const known = readAsked(book, location.hash, []);
    return readAsked(book, location.hash, columnsOf(book, known).map((column) => column.key));
  };

  /** Paper is light, and its figures are drawn at once, since printing does not wait. @param {boolean} begins */
  function paper(begins) {
    if (begins) screen = theme();
    wear(begins ? "light" : screen);
    view.paper = begins;
    view.colours = palette(data);
    drawTable(view);
    ALL.forEach((name) => FIGURES[name](view));
  }

  const opened = TABLES.map(([table, card, name, plot]) =>
    takeaway($(card), `flatlens-${name}`, () => ({ rows: table(book, view.asked, view.shown) }), plot && $(plot)));
  let screen = theme();
  dressed(() => { view.colours = palette(data); change({}); });
  view.colours = palette(data);
  listenMenus(view);
  listenSkips();
  listenSort("defences-table");
  listenSort("immunity-table");
  window.addEventListener("resize", () => requestAnimationFrame(() => drawDefences(data)));
  window.addEventListener("hashchange", () => view.fresh(recalled()));
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
  drawSwept(data);
  drawDefences(data);
  change(recalled());
  document.documentElement.dataset.ready = "yes";
  return view;
}

export function begin() {
  /** @type {any} */ (globalThis).flatlens = startSweep(unpack(JSON.parse($("flatlens-data").textContent)));
}
