// Figures on the path's own axis: the measure, the flow of the prediction, the factors, the layers.

const bandOf = (curve) => (state.aligned ? curve.aligned : curve.raw);
const where = () => (state.aligned ? "offset" : "step");
const stepTitle = () => (state.aligned ? "steps from the flip" : "attack step");

// Steps of one sample on the axis that is shown: raw, or shifted so that its flip is 0.
function stepsOf(i) {
  const flip = focus().flip[i], length = run().steps + 1;
  return Float32Array.from({ length }, (_, t) => (state.aligned ? (flip < 0 ? NaN : t - flip) : t));
}

const shownPaths = () => run().paths.map((p, index) => ({ ...p, index }))
  .filter((p) => p.index === state.path || (state.controls && (p.control || p.index === 0)));

function stepAxis(more = {}) {
  const steps = run().steps;
  return axis(stepTitle(), { range: state.aligned ? [-steps, steps] : [-0.02 * steps - 0.2, steps * 1.02 + 0.2], ...more });
}

const isFocus = (p) => p.index === state.path;

// Where most flipped samples are, else a few early flips stretch the axis to twice its length.
function alignedRange(bands) {
  let low = 0, high = 1;
  for (const band of bands) {
    const most = band.n.reduce((a, n) => Math.max(a, n), 0);
    band.position.forEach((p, i) => { if (band.n[i] >= 0.1 * most) { low = Math.min(low, p); high = Math.max(high, p); } });
  }
  return [low - 0.8, high + 0.8];
}

const flipMark = (more = {}) => ({
  type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: css("--muted"), width: 1, dash: "dot" }, ...more,
});

function drawValley() {
  const looks = shownPaths().map((p) => ({ ...p, look: p.layers[state.layer].measures[state.measure] })).filter((p) => p.look);
  const own = lookOf(focus());
  const others = state.runs ? DATA.runs.map((r, index) => ({ r, index })).filter(({ index }) => index !== state.run) : [];
  const compared = others.map(({ r, index }) => ({ r, index, look: otherLook(r) })).filter((o) => o.look);
  const bands = [...looks.map((p) => bandOf(p.look)), ...compared.map((o) => bandOf(o.look))];
  const scale = scaleOf(state.scale, bands);
  const traces = [];
  const ys = (i) => own.lines.row(i).map(scale.f);
  if (own && state.lines) {
    const faint = { color: fade(pathColour(state.path), theme() === "dark" ? 0.17 : 0.14), width: 1 };
    traces.push(lineTrace(lineSamples(), stepsOf, ys, faint));
    if (state.brush) traces.push(lineTrace([...state.brush], stepsOf, ys, { color: fade(PALETTE[theme()].brush, 0.6), width: 1.3 }));
  }
  for (const p of looks) {
    const options = { where: where(), halo: p.index === state.path, mean: state.mean, fill: p.index === state.path ? 0.2 : 0.1, width: p.index === state.path ? 3 : 2 };
    const band = bandOf(p.look);
    // Around the flip a path may consist of a handful of samples: its name says of how many.
    const name = state.aligned ? `${p.name}, n = ${count(Math.max(0, ...band.n))}` : p.name;
    traces.push(...bandTraces(band, scale.f, pathColour(p.index), pathDash(p.index), name, options));
    traces.push({
      x: [...band.position], y: [...band.n], xaxis: "x", yaxis: "y2", mode: "lines", showlegend: false,
      line: { color: pathColour(p.index), width: 1.5, shape: "hvh", dash: pathDash(p.index) },
      fill: p.index === state.path ? "tozeroy" : "none", fillcolor: fade(pathColour(p.index), 0.12),
      hovertemplate: `${plain(p.name)}<br>${where()} %{x}: n = %{y}<extra></extra>`,
    });
  }
  compared.forEach(({ r, look }, k) => traces.push(
    ...bandTraces(bandOf(look), scale.f, PALETTE[theme()].controls[3 - (k % 4)], DASHES[k % 4], r.name, { bare: true, where: where(), width: 1.8 })));
  if (own) traces.push(...chosenTraces(stepsOf, ys));
  const most = Math.max(1, ...looks.flatMap((p) => [...bandOf(p.look).n]));
  const range = state.aligned ? alignedRange(looks.filter(isFocus).map((p) => bandOf(p.look))) : undefined;
  const shape = layout({
    height: narrow() ? 380 : 470, showlegend: true, uirevision: `${view()}|${state.scale}`,
    xaxis: stepAxis({ anchor: "y2", ...(range ? { range } : {}) }),
    yaxis: axis(plain(shortMeasure(state.measure)), { domain: [0.19, 1], ...scale.axis }),
    yaxis2: axis("n", { domain: [0, 0.1], range: [0, most * 1.12], tickvals: [0, most], showgrid: false, fixedrange: true }),
    shapes: state.aligned ? [flipMark()] : [],
    annotations: looks.length ? [] : [absent("not measured at this layer")],
  });
  if (state.aligned) shape.annotations.push({ x: 0, y: 1, yref: "y domain", text: "flip", showarrow: false, xanchor: "left", xshift: 5, font: { size: 11, color: css("--muted") } });
  react("valley", traces, shape, own ? { y: [stepsOf, ys] } : {});
  noteValley(own, looks);
}

const absent = (text) => ({ text, x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false, font: { size: 14, color: css("--muted") } });

function otherLook(other) {
  const at = other.layers.findIndex((l) => l.name === run().layers[state.layer].name);
  const path = other.paths.find((p) => p.name === focus().name) || other.paths[0];
  return path.layers[at < 0 ? 0 : at].measures[state.measure];
}

function noteValley(own, looks) {
  const layer = run().layers[state.layer];
  $("valley-title").textContent = `${wordsOf(state.measure)} along the path`;
  $("method").textContent = `${layer.name} · ${layer.method || "method unknown"}${layer.exact || layer.method.includes("closed") ? "" : " (estimate)"}`;
  const drawn = state.lines && own ? `; thin lines are ${count(lineSamples().length)} of ${count(run().n)} samples` : "";
  const hidden = state.scale === "log" ? " Values at or below 0 are not drawn on this scale." : "";
  const set = state.aligned
    ? "Only flipped samples are here, and the set changes with the offset: read n below."
    : "The strip below counts the samples at each step.";
  const controls = looks.some((p) => p.control)
    ? "Any path that crosses a boundary confidently has a valley, so only the difference to the controls speaks about the attack."
    : "Any path that crosses a boundary confidently has a valley; without a control, nothing here can be attributed to the attack.";
  $("valley-note").textContent =
    `${fullMeasure(state.measure)}: median and quartile band over all samples, high is sharp${drawn}. ${set}${hidden} ${controls} Flat at the end does not mean robust: those samples are wrong.`;
}

function drawFlow() {
  const names = Object.keys(DATA.flow), paths = shownPaths();
  const domains = [[0.7, 1], [0.36, 0.64], [0, 0.3]];
  const traces = [], axes = {}, pickable = {};
  names.forEach((name, k) => {
    const key = k ? `y${k + 1}` : "y";
    for (const p of paths) {
      traces.push(...bandTraces(bandOf(p.flow[name]), (v) => v, pathColour(p.index), pathDash(p.index), p.name,
        { yaxis: key, legend: k === 0, width: 2.2, fill: p.index === state.path ? 0.18 : 0.08, where: where() }));
    }
    const ys = (i) => focus().flow[name].lines.row(i);
    if (state.brush) traces.push(lineTrace([...state.brush], stepsOf, ys, { color: fade(PALETTE[theme()].brush, 0.5), width: 1 }, { yaxis: key }));
    traces.push(...chosenTraces(stepsOf, ys, { yaxis: key }));
    pickable[key] = [stepsOf, ys];
    axes[k ? `yaxis${k + 1}` : "yaxis"] = axis(DATA.flow[name], { domain: domains[k], nticks: 4, ...(name === "confidence" ? { range: [0, 1.04] } : {}) });
  });
  const range = state.aligned ? alignedRange(paths.filter(isFocus).map((p) => bandOf(p.flow.loss))) : undefined;
  react("flow", traces, layout({
    height: 430, ...axes, xaxis: stepAxis({ anchor: `y${names.length}`, ...(range ? { range } : {}) }), uirevision: view(),
    shapes: [
      ...(state.aligned ? [flipMark()] : []),
      { type: "line", xref: "paper", x0: 0, x1: 1, yref: "y3", y0: 0, y1: 0, line: { color: css("--muted"), width: 1 } },
    ],
  }), pickable);
}

const FACTOR_LOOK = {
  relative_sharpness: ["--text", "solid", 3.2], confidence_term: ["#D55E00", "solid", 2.2],
  feature_norm_sq: ["#009E73", "dash", 2.2], weight_norm: ["--muted", "dot", 1.8],
};

function drawFactors() {
  const moved = focus().layers[state.layer].factors;
  const note = "log₁₀ of each factor’s change since the clean input, sample by sample, then the median: log(‖W‖²·Tr H) = log c + log‖a‖² + log‖W‖². The weights do not move. A valley made by the confidence term alone says that predictions became certain, not that features found a flat region.";
  const missing = "This layer has no closed-form confidence term: the product cannot be split into these factors. Choose the head to see them.";
  $("factors-note").textContent = moved ? note : missing;
  const traces = [];
  if (moved) {
    for (const [key, name] of Object.entries(DATA.factors)) {
      const [named, dash, width] = FACTOR_LOOK[key];
      const colour = named.startsWith("--") ? toHex(css(named)) : named;
      traces.push(...bandTraces(bandOf(moved[key]), (v) => v, colour, dash, name, { width, fill: 0.13, bare: key === "relative_sharpness" || key === "weight_norm", where: where() }));
    }
  }
  const range = state.aligned && moved ? alignedRange([bandOf(moved.relative_sharpness)]) : undefined;
  react("factors", traces, layout({
    height: 430, showlegend: true, uirevision: view(),
    legend: { ...layout().legend, font: { size: 11 } },
    xaxis: stepAxis(range ? { range } : {}), yaxis: axis("change, log₁₀", { zeroline: true }),
    shapes: state.aligned ? [flipMark()] : [], annotations: moved ? [] : [absent("no confidence term at this layer")],
  }));
}

function drawBound() {
  const found = focus().layers.map((l) => l.looseness).find(Boolean);
  $("bound-card").hidden = !found;
  if (!found) return;
  const drawn = Object.entries(DATA.bounds).filter(([key]) => found[key]);
  const bands = drawn.map(([key]) => bandOf(found[key]));
  const scale = scaleOf("log", bands), traces = [];
  drawn.forEach(([, name], k) => traces.push(
    ...bandTraces(bands[k], scale.f, [pathColour(state.path), PALETTE[theme()].chosen][k], ["solid", "dash"][k], name.replace("_max", "ₘₐₓ"), { width: 2.6, fill: 0.15, where: where() })));
  const range = state.aligned ? alignedRange(bands) : undefined;
  const top = scale.axis.range[1];
  react("bound", traces, layout({
    height: 380, showlegend: true, uirevision: view(),
    xaxis: stepAxis(range ? { range } : {}), yaxis: axis("bound ÷ true rise of the loss", { ...scale.axis, range: [-0.08 * top, top] }),
    shapes: [
      ...(state.aligned ? [flipMark()] : []),
      { type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: css("--muted"), width: 1 } },
    ],
  }));
}

// κ without confidence: the paths beside one another, always on logarithms, for it spans decades near a tie.
function drawFree() {
  const looks = shownPaths().map((p) => ({ ...p, free: p.layers[state.layer].free })).filter((p) => p.free);
  $("free-card").hidden = !focus().layers.some((l) => l.free);
  if ($("free-card").hidden) return;
  const bands = looks.map((p) => bandOf(p.free)), scale = scaleOf("log", bands), traces = [];
  looks.forEach((p, k) => traces.push(...bandTraces(bands[k], scale.f, pathColour(p.index), pathDash(p.index), p.name,
    { where: where(), halo: isFocus(p), fill: isFocus(p) ? 0.2 : 0.1, width: isFocus(p) ? 3 : 2 })));
  const range = state.aligned && looks.some(isFocus) ? alignedRange(looks.filter(isFocus).map((p) => bandOf(p.free))) : undefined;
  react("free", traces, layout({
    height: 430, showlegend: true, uirevision: view(),
    xaxis: stepAxis(range ? { range } : {}), yaxis: axis("κ / (c · gap²)", scale.axis),
    shapes: state.aligned ? [flipMark()] : [], annotations: looks.length ? [] : [absent("not measured at this layer")],
  }));
}

// Shares of the flipped: of valleys by τ, and of depths.
function drawTau() {
  const looks = shownPaths().map((p) => ({ ...p, look: p.layers[state.layer].measures[state.measure] })).filter((p) => p.look && p.look.over_tau.value.some(Number.isFinite));
  const traces = [];
  for (const p of looks) {
    const { over_tau: of, depths } = p.look, colour = pathColour(p.index), x = [...of.position], width = isFocus(p) ? 3 : 2;
    const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    traces.push({ ...edge, y: [...of.low].map((v) => 100 * v) }, { ...edge, y: [...of.high].map((v) => 100 * v), fill: "tonexty", fillcolor: fade(colour, isFocus(p) ? 0.18 : 0.08) });
    traces.push({
      x, y: [...of.value].map((v) => 100 * v), mode: "lines", name: plain(p.name), legendgroup: p.name, line: { color: colour, width, dash: pathDash(p.index) },
      hovertemplate: `<b>${plain(p.name)}</b><br>τ = %{x}: %{y:.1f} % of ${count(of.n)} flipped<extra></extra>`,
    });
    traces.push({
      x: [...depths.position], y: [...depths.value].map((v) => 100 * v), xaxis: "x2", yaxis: "y2", mode: "lines", showlegend: false,
      line: { color: colour, width, dash: pathDash(p.index), shape: "hv" },
      hovertemplate: `<b>${plain(p.name)}</b><br>%{y:.1f} % are at most %{x:.2f} deep<extra></extra>`,
    });
  }
  const own = summaryOf(focus()), at = own ? own.tau : 0.1;
  react("tau", traces, layout({
    height: 430, showlegend: true, uirevision: view(),
    xaxis: axis("τ", { type: "log", anchor: "y", tickvals: [0.001, 0.01, 0.1, 0.5, 0.9], ticktext: ["0.001", "0.01", "0.1", "0.5", "0.9"] }),
    yaxis: axis("valleys, %", { domain: [0.6, 1], range: [-3, 103], tickvals: [0, 50, 100] }),
    xaxis2: axis("depth, log₁₀", { anchor: "y2", rangemode: "tozero" }), yaxis2: axis("at most, %", { domain: [0, 0.38], range: [-3, 103], tickvals: [0, 50, 100] }),
    shapes: [{ type: "line", x0: at, x1: at, yref: "y domain", y0: 0, y1: 1, line: { color: css("--muted"), width: 1, dash: "dot" } }],
    annotations: looks.length ? [] : [absent("no sample flipped")],
  }));
}

const toHex = (colour) => (colour.startsWith("#") ? colour : "#888888");
