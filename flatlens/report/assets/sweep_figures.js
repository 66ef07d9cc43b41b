// Comparisons between runs: attack and controls, robust and standard training, models and measures.

const MOST_BARS = 150, MOST_MARKS = 2000, MOST_PAIRS = 30, MOST_MODELS = 60;

function react(id, traces, shape, words) {
  const node = $(id), first = !node.data, title = node.closest("figure").querySelector("h2").textContent.trim();
  node.setAttribute("aria-label", `${title}. ${words}`);
  Plotly.react(node, traces, shape, CONFIG);
  if (first && id !== "heat") node.on("plotly_click", ({ points: [p] }) => { const link = DATA.cells.page[p.customdata?.[0]]; if (link) window.open(link, "_blank", "noopener"); });
}

const interval = (f) => `${(100 * f.low).toFixed(1)}–${(100 * f.high).toFixed(1)} %`;
const told = (f) => `${percent(f.value)} [${interval(f)}], ${count(f.count)} of ${count(f.n)}`;
const bars = (of, colour, vertical) => ({
  type: "data", symmetric: false, array: of.map((f) => 100 * (f.high - f.value)), arrayminus: of.map((f) => 100 * (f.value - f.low)),
  color: fade(colour, 0.42), thickness: 1.3, width: vertical ? 0 : 3,
});
const shareAxis = (text, more = {}) => axis(text, { range: [-3, 103], tickvals: [0, 25, 50, 75, 100], ticktext: ["0", "25", "50", "75", "100 %"], ...more });
// A control that flipped next to nothing has an interval as wide as the picture: it is in the hover, not over the others.
const FEW = 10;
const certain = (f, share) => (f.control.n < FEW ? { low: share.value, value: share.value, high: share.value } : share);
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x"];

function drawAgainst() {
  const found = againstControls();
  $("against-card").hidden = PATHS < 2 || !found.length;
  if (!found.length) return;
  const withBars = found.length <= MOST_BARS, stride = Math.max(1, found.length / MOST_MARKS);
  const drawn = stride === 1 ? found : Array.from({ length: MOST_MARKS }, (_, k) => found[Math.floor(k * stride)]);
  const traces = [{ x: [-3, 103], y: [-3, 103], mode: "lines", line: { color: css("--muted"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false }];
  for (let path = 1; path < PATHS; path++) {
    const own = drawn.filter((f) => f.path === path), colour = pathColour(path);
    if (!own.length) continue;
    traces.push({
      x: own.map((f) => 100 * f.control.value), y: own.map((f) => 100 * f.attack.value), name: plain(DATA.paths[path]), mode: "markers",
      marker: { color: own.map((f) => fade(colour, f.control.n < FEW ? 0.12 : 0.75)), size: 9, symbol: SYMBOLS[(path - 1) % SYMBOLS.length], line: { color: colour, width: 1.4 } },
      ...(withBars ? { error_x: bars(own.map((f) => certain(f, f.control)), colour, true), error_y: bars(own.map((f) => certain(f, f.attack)), colour, true) } : {}),
      customdata: own.map((f) => [f.item.cell, plain(labelOf(f.item)), told(f.attack), told(f.control)]),
      hovertemplate: `<b>%{customdata[1]}</b><br>attack %{customdata[2]}<br>${plain(DATA.paths[path])} %{customdata[3]}<extra></extra>`,
    });
  }
  react("against", traces, layout({
    height: narrow() ? 420 : 480, showlegend: true, uirevision: state.share, legend: { ...layout().legend, itemclick: "toggle", itemdoubleclick: "toggleothers" },
    xaxis: shareAxis("valleys on the control"), yaxis: shareAxis("valleys under attack"),
    annotations: [{ x: 100, y: 100, text: "as many on the control", textangle: 0, showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11, color: css("--muted") } }],
  }), `${found.length} pairs of an attack and a control`);
  const faint = found.filter((f) => f.control.n < FEW).length;
  $("against-note").textContent = [
    `Shares of valleys ${SHARE_NAMES[state.share]}, a mark for every run and control${withBars ? ", with 95 % intervals" : `; intervals are in the hover, for ${count(found.length)} marks would hide each other`}.${drawn.length < found.length ? ` Of the ${count(found.length)}, ${count(drawn.length)} evenly spaced ones are drawn; filter to see all of fewer runs.` : ""}`,
    "Any path that crosses a boundary confidently has a valley: on the dotted line the attack has no more of them than the control, and only what lies clearly above it speaks about the attack.",
    faint ? `Hollow, without intervals: the control flipped fewer than ${FEW} samples, which says next to nothing (${count(faint)} marks).` : "",
    "Noise seldom crosses a boundary at all; the line to another class is the control that does. Attack and control share their clean samples, but not those that they flip.",
  ].filter(Boolean).join(" ");
}

function drawRobust() {
  const found = robustPairs(), drawn = found.slice(0, MOST_PAIRS);
  $("robust").hidden = !found.length;
  if (!found.length) {
    $("robust-note").textContent = DATA.pairs.length
      ? `None of the sweep’s ${count(DATA.pairs.length)} pairs is whole among the runs shown, with numbers in both.`
      : "There are no pairs: no two runs differ in adversarial training alone (train.adversarial with its eps and steps, or a model’s name ending in ‑robust).";
    return;
  }
  const colours = [pathColour(0), palette().cross], sides = [["standard", "a", "circle-open", -0.16], ["robust", "b", "diamond", 0.16]];
  const joins = { x: [], y: [], mode: "lines", line: { color: css("--line"), width: 5 }, hoverinfo: "skip", showlegend: false };
  drawn.forEach((p, i) => { joins.x.push(100 * p.a.value, 100 * p.b.value, null); joins.y.push(i - 0.16, i + 0.16, null); });
  const traces = [joins, ...sides.map(([name, at, symbol, shift], k) => ({
    x: drawn.map((p) => 100 * p[at].value), y: drawn.map((_, i) => i + shift), name, mode: "markers",
    marker: { color: colours[k], size: 10, symbol, line: { width: 2, color: colours[k] } }, error_x: bars(drawn.map((p) => p[at]), colours[k]),
    customdata: drawn.map((p) => [p[name].cell, plain(labelOf(p[name])), told(p[at])]), hovertemplate: `<b>%{customdata[1]}</b><br>${name} %{customdata[2]}<extra></extra>`,
  }))];
  const names = drawn.map((p) => brief(labelOf(p.robust, ["train.adversarial", "train"]), narrow() ? 22 : 34));
  react("robust", traces, layout({
    height: Math.max(narrow() ? 260 : 300, 110 + 46 * drawn.length), showlegend: true, uirevision: state.share,
    xaxis: shareAxis(`valleys, ${SHARE_NAMES[state.share]}`), yaxis: axis("", { tickvals: names.map((_, i) => i), ticktext: names.map(plain), range: [drawn.length - 0.5, -0.5], showgrid: false, fixedrange: true }),
  }), `${found.length} pairs`);
  $("robust-note").textContent = [
    "Two runs that differ in nothing but adversarial training (or whose models’ names differ by ‑robust alone), with 95 % intervals over samples.",
    found.length > drawn.length ? `The first ${drawn.length} of ${count(found.length)} pairs of the runs shown.` : "",
    state.share === "valley_of_flipped" ? "Two models’ flipped samples are not the same ones, nor as many; switch to all that were right for a base that differs less." : "",
    "A robust model may have fewer valleys because its paths stop at the boundary under the same eps, not because its loss is flatter. Each side is one training: the interval does not cover another seed.",
  ].filter(Boolean).join(" ");
}

function drawHeat() {
  const chosen = new Map(measured().map((item) => [place(item.cell, item.layer, 0), item]));
  const { cell, layer, measure, values } = DATA.heights, names = Object.keys(DATA.measures), rows = new Map();
  for (let k = 0; k < cell.length; k++) {
    const item = chosen.get(place(cell[k], layer[k], 0));
    if (!item) continue;
    const [clean, peak, end] = values.row(k);
    const change = (state.heights === "peak" ? peak : end) - clean;
    if (!Number.isFinite(change) || clean < LOWEST) continue;
    const name = DATA.cells.model[item.cell] + (state.layer === ALL_LAYERS ? ` · ${DATA.layers[item.layer]}` : "");
    if (!rows.has(name)) rows.set(name, names.map(() => []));
    rows.get(name)[measure[k]].push({ change, clean, at: state.heights === "peak" ? peak : end, n: DATA.heights.n[k] });
  }
  $("heat-card").hidden = !rows.size;
  if (!rows.size) return;
  const drawn = [...rows].slice(0, MOST_MODELS), used = names.map((_, m) => m).filter((m) => drawn.some(([, r]) => r[m].length));
  const middle = (list, f) => { const v = list.map(f).sort((a, b) => a - b); return v.length ? (v[(v.length - 1) >> 1] + v[v.length >> 1]) / 2 : NaN; };
  const z = drawn.map(([, r]) => used.map((m) => middle(r[m], (v) => v.change)));
  const size = Math.max(0.3, Math.min(8, ...[z.flat().filter(Number.isFinite).reduce((a, v) => Math.max(a, Math.abs(v)), 0)]));
  const dark = theme() === "dark", there = state.heights;
  const of = (v) => (v < LOWEST ? "0" : number(10 ** v));
  const scheme = drawn.every(([name]) => name.startsWith("flatlens:")) ? 9 : 0;
  react("heat", [{
    type: "heatmap", x: used.map((_, i) => i), y: drawn.map((_, i) => i), z, zmin: -size, zmax: size, xgap: 2, ygap: 2, hoverongaps: false,
    colorscale: [[0, dark ? "#4BA3E3" : "#0B5C94"], [0.25, dark ? "#2B6798" : "#7DB5DC"], [0.5, dark ? "#1b222c" : "#f4f5f7"], [0.75, dark ? "#A8551B" : "#F1A469"], [1, dark ? "#FF9A4D" : "#C24E00"]],
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: "log₁₀", side: "right", font: { size: 11 } }, tickfont: { size: 11 } },
    text: z.map((r) => r.map((v) => (Number.isFinite(v) ? (v < -LOWEST / -2 ? "to 0" : `${v >= 0.05 ? "+" : ""}${minus(v.toFixed(1))}`) : ""))), texttemplate: "%{text}", textfont: { size: narrow() ? 9 : 12 }, showscale: !narrow(),
    customdata: drawn.map(([name, r]) => used.map((m) => [plain(name), plain(shortMeasure(names[m])), of(middle(r[m], (v) => v.clean)), of(middle(r[m], (v) => v.at)), r[m].length, r[m].reduce((a, v) => a + v.n, 0)])),
    hovertemplate: `<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]} at the clean input, %{customdata[3]} at the ${there}<br>log₁₀ of their ratio %{z:.2f}<br>%{customdata[4]} run(s), %{customdata[5]} samples<extra></extra>`,
  }], layout({
    height: 110 + 34 * drawn.length, margin: { l: 60, r: 8, t: 8, b: 40 },
    xaxis: axis("", { tickvals: used.map((_, i) => i), ticktext: used.map((m) => plain(shortMeasure(names[m])).replace(" · ", narrow() ? "<br>" : " · ")), showgrid: false, side: "bottom", tickfont: { size: narrow() ? 10 : 12, color: css("--text") }, fixedrange: true }),
    yaxis: axis("", { tickvals: drawn.map((_, i) => i), ticktext: drawn.map(([name]) => plain(brief(name.slice(scheme), narrow() ? 20 : 46))), autorange: "reversed", showgrid: false, fixedrange: true }),
  }), `${drawn.length} models, ${used.length} measures`);
  $("heat-what").textContent = `log₁₀ of the median at the ${there} over the median at the clean input`;
  $("heat-note").textContent = [
    `Medians over all samples whose measure is finite along the whole path; where a model has several runs, the median of their ratios.${rows.size > drawn.length ? ` The first ${drawn.length} of ${count(rows.size)} models shown.` : ""}`,
    there === "peak" ? "The peak is each sample’s own, of each measure by itself: a largest value is never below the first, so that some rise is there even where nothing happens." : "The end is flatter than the start where it is blue: the samples there are wrong and confident, so this is not robustness.",
    "At the head all these measures contain the same confidence term and move together; their agreement is no independent evidence. Colours do not say which model is sharper, only how much each one changes.",
  ].join(" ");
}
