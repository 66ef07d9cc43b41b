// Figures of one quantity against another: measure and margin, flip and peak, layer and step.

function drawMargin() {
  const own = lookOf(focus()), flow = focus().flow.margin;
  const traces = [];
  let scale = scaleOf("linear", []), pickable = {};
  if (own) {
    scale = scaleOf(state.scale, [own.raw]);
    const xs = (i) => flow.lines.row(i), ys = (i) => own.lines.row(i).map(scale.f);
    const colour = pathColour(state.path);
    if (state.lines) traces.push(lineTrace(lineSamples(), xs, ys, { color: fade(colour, theme() === "dark" ? 0.2 : 0.17), width: 1 }));
    if (state.brush) traces.push(lineTrace([...state.brush], xs, ys, { color: fade(PALETTE[theme()].brush, 0.6), width: 1.3 }));
    traces.push(medianPath(flow.raw, own.raw, scale.f, colour));
    traces.push(...chosenTraces(xs, ys));
    pickable = { y: [xs, ys] };
  }
  react("margin", traces, layout({
    height: 400, uirevision: `${view()}|${state.scale}`,
    xaxis: axis("margin  (correct ← 0 → wrong)", { autorange: "reversed", zeroline: true, zerolinewidth: 1.5, zerolinecolor: css("--muted") }),
    yaxis: axis(plain(shortMeasure(state.measure)), scale.axis), annotations: own ? [] : [absent("not measured at this layer")],
  }), pickable);
}

function medianPath(margin, measure, f, colour) {
  const at = new Map([...measure.position].map((p, i) => [p, measure.median[i]]));
  const steps = [...margin.position].filter((p) => at.has(p));
  return {
    x: steps.map((p, i) => margin.median[i]), y: steps.map((p) => f(at.get(p))), customdata: steps.map((p) => [p, number(at.get(p))]),
    mode: "lines+markers", line: { color: colour, width: 3 }, marker: { color: colour, size: 5 }, showlegend: false,
    hovertemplate: "medians at step %{customdata[0]}<br>margin %{x:.2f}<br>measure %{customdata[1]}<extra></extra>",
  };
}

function drawPeak() {
  const own = lookOf(focus()), steps = run().steps, traces = [];
  const ends = [-0.6, steps + 0.6];
  traces.push({ x: ends, y: ends, mode: "lines", line: { color: css("--muted"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false });
  let empty = true;
  if (own && own.cells.count.length) {
    empty = false;
    const { flip, peak, count: many } = own.cells;
    const top = many.reduce((a, n) => Math.max(a, n), 1);
    const inside = (k) => samplesAt(own, flip[k], peak[k]);
    const lit = [...flip].map((_, k) => (state.brush && inside(k).some((i) => state.brush.has(i)) ? 1 : 0));
    traces.push({
      x: [...flip], y: [...peak], mode: "markers", showlegend: false, customdata: [...flip].map((_, k) => inside(k)),
      text: [...many].map((n) => `${count(n)} sample${n === 1 ? "" : "s"}`),
      marker: {
        size: [...many].map((n) => 7 + 19 * Math.sqrt(n / top)), opacity: 1,
        color: lit.map((on) => fade(on ? PALETTE[theme()].brush : pathColour(state.path), 0.45)),
        line: { color: lit.map((on) => (on ? PALETTE[theme()].brush : pathColour(state.path))), width: 1 },
      },
      hovertemplate: "flip at step %{x}, peak at step %{y}<br>%{text}<extra></extra>",
    });
    const f = focus().flip[state.sample], p = own.peak[state.sample];
    if (f >= 0 && p >= 0) traces.push({ x: [f], y: [p], mode: "markers", marker: { symbol: "circle-open", size: 16, color: PALETTE[theme()].chosen, line: { width: 3 } }, hoverinfo: "skip", showlegend: false });
  }
  react("peak", traces, layout({
    height: 400, uirevision: view(),
    xaxis: axis("flip step", { range: ends }), yaxis: axis("peak step", { range: ends }),
    annotations: empty ? [absent("no sample flipped")] : [],
  }), { cells: own });
}

function samplesAt(own, flip, peak) {
  const out = [];
  focus().flip.forEach((f, i) => { if (f === flip && own.peak[i] === peak) out.push(i); });
  return out;
}

function drawHeat() {
  const layers = run().layers;
  $("layers-card").hidden = layers.length < 2;
  if (layers.length < 2) return;
  const rows = layers.map((layer, k) => {
    const look = focus().layers[k].measures[state.measure];
    if (!look) return { x: [], y: [] };
    const start = look.raw.median[0], band = bandOf(look);
    const y = [...band.median].map((v) => (v > 0 && start > 0 ? Math.log10(v / start) : NaN));
    return { x: [...band.position], y };
  });
  const x = [...new Set(rows.flatMap((r) => r.x))].sort((a, b) => a - b);
  const z = rows.map((r) => { const at = new Map(r.x.map((p, i) => [p, r.y[i]])); return x.map((p) => at.get(p) ?? NaN); });
  const size = Math.max(0.1, ...z.flat().filter(Number.isFinite).map(Math.abs));
  const y = layers.map((l, k) => k);
  const dark = theme() === "dark";
  const middle = dark ? "#1b222c" : "#f4f5f7";
  react("heat", [{
    type: "heatmap", x, y, z, zmin: -size, zmax: size, xgap: 1, ygap: 2,
    colorscale: [[0, dark ? "#4BA3E3" : "#0B5C94"], [0.25, dark ? "#2B6798" : "#7DB5DC"], [0.5, middle], [0.75, dark ? "#A8551B" : "#F1A469"], [1, dark ? "#FF9A4D" : "#C24E00"]],
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: "log₁₀ change", side: "right", font: { size: 11 } }, tickfont: { size: 11 } },
    text: z.map((row, k) => row.map(() => plain(layers[k].name))), hoverongaps: false,
    hovertemplate: `%{text}<br>${where()} %{x}<br>log₁₀ change %{z:.2f}<extra></extra>`,
  }], layout({
    height: Math.min(820, 130 + 26 * layers.length), uirevision: view(), margin: { l: 60, r: 8, t: 8, b: 40 },
    xaxis: axis(stepTitle(), { showgrid: false }),
    yaxis: axis("", { tickvals: y, ticktext: layers.map((l, k) => (k === state.layer ? `<b>${plain(brief(l.name))}</b>` : plain(brief(l.name)))), autorange: "reversed", showgrid: false }),
  }));
}

const brief = (name) => (name.length > 26 ? `…${name.slice(-25)}` : name);

function drawDensity() {
  const found = run().density;
  $("density-card").hidden = !found;
  if (!found) return;
  $("density-samples").textContent = count(found.samples);
  const colours = { clean: css("--muted"), flip: PALETTE[theme()].chosen, end: pathColour(0) };
  const lowest = 1e-6;
  react("density", Object.entries(found.curves).map(([at, y]) => ({
    x: [...found.position], y: [...y].map((v) => Math.max(v, lowest)), name: at, mode: "lines",
    line: { color: colours[at], width: 2.4, dash: { clean: "dot", flip: "solid", end: "dash" }[at] }, hovertemplate: `${at}<extra></extra>`,
  })), layout({
    height: 360, showlegend: true, uirevision: state.run,
    xaxis: axis("eigenvalue", { tickvals: found.tick, ticktext: found.value.map((v) => number(v)) }),
    yaxis: axis("density", { type: "log", range: [Math.log10(lowest), null], exponentformat: "power" }),
  }));
}
