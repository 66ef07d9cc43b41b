// What was run, its headline figures, its cautions, and the table of statistics.

const specOf = (key) => { const found = run().spec.find(([k]) => k === key); return found ? found[1] : null; };
const CHIPS = ["data", "norm", "eps", "step_size", "steps", "targeted", "layer", "seed", "dtype", "device"];

function drawHeader() {
  const r = run(), model = specOf("model"), attack = specOf("attack");
  $("kicker").textContent = DATA.runs.length > 1 ? `Loss landscape along an attack · ${r.name}` : "Loss landscape along an attack";
  $("headline").replaceChildren(...(attack && model ? [make("span", {}, attack), " on ", make("span", {}, model)] : ["A run"]));
  $("chips").replaceChildren(...CHIPS.filter((k) => specOf(k)).map((k) =>
    make("li", {}, make("span", {}, k.replace("_", " ")), " ", specOf(k).length > 60 ? specOf(k).slice(0, 57) + "…" : specOf(k))),
  make("li", {}, make("span", {}, "samples"), " ", count(r.n)));
  $("spec").replaceChildren(...r.spec.map(([k, v]) => make("div", {}, make("dt", {}, k), make("dd", {}, v))));
  $("cautions").replaceChildren(...r.cautions.map(([code, message]) => make("p", { class: "caution" }, make("b", {}, code), " ", message)));
  document.title = [attack, model, "flatlens"].filter(Boolean).join(" · ");
  $("footer").textContent = `Drawn by flatlens from ${count(r.n)} samples, ${count(r.steps + 1)} steps, ${count(r.layers.length)} layer${r.layers.length === 1 ? "" : "s"}. This file holds everything it shows and opens without a network.`;
}

function drawTiles() {
  const r = run(), summary = summaryOf(r.paths[0]);
  const tiles = [
    tile("Clean accuracy", r.accuracy.clean, "samples are right at step 0"),
    tile("Accuracy under attack", r.accuracy.attacked, `samples are right at the ${r.attacked_at}`),
    summary ? tile("Flipped", summary.flipped, "that were right, at some step") : null,
    forest(),
  ];
  $("tiles").replaceChildren(...tiles.filter(Boolean));
}

function tile(name, share, what) {
  return make("div", { class: "tile" }, make("h2", {}, name), make("p", { class: "figure" }, percent(share.value)),
    make("p", { class: "interval" }, `95 %: ${interval(share)}`), make("p", { class: "muted" }, `${count(share.count)} of ${count(share.n)} ${what}`), whisker(share, pathColour(0)));
}

const interval = (f) => (f.low === null ? "no interval" : `${(100 * f.low).toFixed(1)}–${(100 * f.high).toFixed(1)} %`);
const summaryOf = (path, layer = state.layer, measure = state.measure) => path.layers[layer].measures[measure]?.summary;

// The share of valleys, attack above its controls: two columns of points with intervals.
function forest() {
  const rows = run().paths.map((p, index) => ({ p, index, s: summaryOf(p) })).filter((row) => row.s);
  const columns = [["of the flipped", "valley_of_flipped"], ["of all that were right", "valley_of_all"]];
  const grid = make("div", { class: "forest", role: "table", "aria-label": "Share of samples that ran into a valley" });
  grid.append(make("div", { role: "row" }, make("span", { role: "columnheader", class: "muted" }, "path"), ...columns.map(([name]) => make("span", { role: "columnheader", class: "muted" }, name))));
  for (const { p, index, s } of rows) {
    grid.append(make("div", { role: "row" }, make("span", { role: "cell", class: "who", title: p.name }, make("i", { style: `background:${pathColour(index)}` }), p.name),
      ...columns.map(([, key]) => make("span", { role: "cell", class: "what" }, whisker(s[key], pathColour(index)),
        make("span", { class: "share" }, make("b", {}, percent(s[key].value)), make("small", {}, s[key].n ? `${interval(s[key])}, n = ${count(s[key].n)}` : "n = 0"))))));
  }
  const control = run().paths.length > 1 ? "A control that has as many valleys as the attack means: they come from crossing a boundary." : "No control was run: nothing here can be attributed to the attack.";
  return make("div", { class: "tile wide" }, make("h2", {}, "Ran into an uncanny valley"), grid, make("p", { class: "muted" }, control));
}

function whisker(f, colour) {
  if (f.value === null) return make("span", { class: "whisker empty" });
  return make("span", { class: "whisker", "aria-hidden": "true" },
    make("i", { class: "range", style: `left:${100 * f.low}%;width:${100 * (f.high - f.low)}%;background:${fade(colour, 0.45)}` }),
    make("i", { class: "point", style: `left:${100 * f.value}%;background:${colour}` }));
}

const COLUMNS = [
  ["correct", "right at start", "share"], ["flipped", "flipped", "share"], ["valley_of_flipped", "valley, of flipped", "share"], ["valley_of_all", "valley, of right", "share"],
  ["flips_back", "flips back", "share"], ["interior_peak", "peak inside", "share"], ["settled", "settled", "share"], ["flat_end", "flat end", "share"], ["flatter_than_clean", "flatter than clean", "share"],
  ["flip_step", "flip step", "median"],
  ["peak_step", "peak step", "median"], ["lag", "lag", "median"], ["rise", "rise, ×", "median"], ["depth", "depth, log₁₀", "median"],
  ["end_vs_clean", "end ÷ clean", "median"], ["clean_percentile", "rank among clean", "median"],
];

function drawTable() {
  const many = DATA.runs.length > 1;
  const head = make("tr", {}, make("th", { scope: "col" }, "path"), make("th", { scope: "col" }, "n"), ...COLUMNS.map(([, name]) => make("th", { scope: "col" }, name)));
  const body = make("tbody");
  const layer = run().layers[state.layer].name;
  DATA.runs.forEach((r, k) => {
    const at = r.layers.findIndex((l) => l.name === layer);
    if (many) body.append(make("tr", { class: "group" }, make("th", { colspan: COLUMNS.length + 2, scope: "rowgroup" }, r.name + (at < 0 ? `: no layer ${layer}` : ""))));
    if (at < 0) return;
    r.paths.forEach((p, index) => {
      const s = summaryOf(p, at);
      if (!s) return;
      body.append(make("tr", { class: k === state.run && index === state.path ? "chosen" : null },
        make("th", { scope: "row" }, make("i", { class: "dot", style: `background:${pathColour(index)}` }), p.name),
        make("td", {}, count(s.n)), ...COLUMNS.map(([key, , kind]) => cell(s[key], kind))));
    });
  });
  $("statistics").replaceChildren(make("caption", {}, `${fullMeasure(state.measure)}, layer ${layer}`), make("thead", {}, head), body);
  const own = summaryOf(focus()), unfinished = own ? own.not_finite : 0;
  $("statistics-note").textContent = `With 95 % intervals (Wilson for shares, bootstrap for medians); medians are over flipped samples. A valley ends at no more than ${own ? own.tau : 0.1} of its peak. Settled is flipped at the end, a flat end at no more than that fraction of the peak, flatter than clean below the measure at its own clean input; the rank is that of the end among all clean inputs, 0 to 1. Rise is peak over start, depth log₁₀ of peak over end (∞ where it ends at or below 0), lag peak step minus flip step. Medians of fewer than 6 samples have no interval. Accuracy under attack is the worst case over restarts of the last iterate, or of the best point where an attack keeps one (APGD, DDN). These are numbers of this sample and this model, not of models in general.`
    + (unfinished ? ` ${count(unfinished)} samples of this path have values that are not finite; they count as having no valley.` : "");
}

function cell(f, kind) {
  if (!f.n) return make("td", { class: "empty" }, "–");
  if (kind === "share") return make("td", {}, percent(f.value), make("small", {}, `${(100 * f.low).toFixed(1)}–${(100 * f.high).toFixed(1)}`), make("small", {}, `n = ${count(f.n)}`));
  return make("td", {}, number(f.value), f.low === null ? null : make("small", {}, `${number(f.low)} … ${number(f.high)}`), make("small", {}, `n = ${count(f.n)}`));
}
