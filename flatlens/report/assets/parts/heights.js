// Model by measure: how much each measure changes from the clean input to the peak or the end.

import { shortMeasure } from "../core/cells.js";
import { changesOf } from "../core/heights.js";
import { LOWEST, numOf } from "../core/medians.js";
import { brief, count, fixed, plain } from "../core/text.js";
import { axis, isNarrow, layoutOf, plot } from "../draw/chart.js";
import { $ } from "../draw/dom.js";

/** @typedef {import("../pages/sweep.js").View} View */

const MOST_MODELS = 60, SCHEME = "flatlens:";

/** @param {View} view */
export function drawHeights(view) {
  const { book, asked, colours } = view, narrow = isNarrow();
  const { models, measures, rows, of } = changesOf(book, asked, view.shown, MOST_MODELS);
  $("heat-card").hidden = !models.length;
  if (!models.length) return;
  const z = rows.map((row) => row.map((cell) => cell.change)), largest = z.flat().reduce((most, v) => (Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most), 0);
  const size = Math.max(0.3, Math.min(8, largest)), there = asked.heights, symbols = measures.map((name) => plain(shortMeasure(book.data, name)));
  const scheme = models.every((name) => name.startsWith(SCHEME)) ? SCHEME.length : 0;
  plot("heat", [{
    type: "heatmap", x: measures.map((_, i) => i), y: models.map((_, i) => i), z, zmin: -size, zmax: size, xgap: 2, ygap: 2, hoverongaps: false, showscale: !narrow,
    colorscale: [[0, colours.attack], [0.5, colours.soft], [1, colours.cross]],
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: "log₁₀", side: "right", font: { size: 11 } }, tickfont: { size: 11 } },
    text: z.map((row) => row.map(written)), texttemplate: "%{text}", textfont: { size: narrow ? 9 : 12 },
    customdata: rows.map((row, r) => row.map((cell, m) => [plain(models[r]), symbols[m], numOf(cell.clean), numOf(cell.at), cell.runs, cell.samples])),
    hovertemplate: `<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]} at the clean input, %{customdata[3]} at the ${there}<br>log₁₀ of their ratio %{z:.2f}<br>%{customdata[4]} run(s), %{customdata[5]} samples<extra></extra>`,
  }], layoutOf(colours, view.paper, {
    height: 110 + 34 * models.length, margin: { l: 60, r: 8, t: 8, b: 40 },
    xaxis: axis(colours, "", { tickvals: symbols.map((_, i) => i), ticktext: symbols.map((name) => name.replace(" · ", narrow ? "<br>" : " · ")), showgrid: false, side: "bottom", tickfont: { size: narrow ? 10 : 12, color: colours.ink }, fixedrange: true }),
    yaxis: axis(colours, "", { tickvals: models.map((_, i) => i), ticktext: models.map((name) => plain(brief(name.slice(scheme), narrow ? 20 : 46))), autorange: "reversed", showgrid: false, fixedrange: true }),
  }), `${models.length} models, ${measures.length} measures`);
  $("heat-what").textContent = `log₁₀ of the median at the ${there} over the median at the clean input`;
  $("heat-note").textContent = [
    `Medians over all samples whose measure is finite along the whole path; where a model has several runs, the median of their ratios.${of > models.length ? ` The first ${models.length} of ${count(of)} models shown.` : ""}`,
    there === "peak" ? "The peak is each sample’s own, of each measure by itself: a largest value is never below the first, so that some rise is there even where nothing happens." : "The end is flatter than the start where it is blue: the samples there are wrong and confident, so this is not robustness.",
    "At the head all these measures contain the same confidence term and move together; their agreement is no independent evidence. Colours do not say which model is sharper, only how much each one changes.",
  ].join(" ");
}

/** What stands in a field: what has fallen to 0 has no ratio. @param {number} change */
function written(change) {
  if (!Number.isFinite(change)) return "";
  return change < LOWEST / 2 ? "to 0" : `${change >= 0.05 ? "+" : ""}${fixed(change, 1)}`;
}
