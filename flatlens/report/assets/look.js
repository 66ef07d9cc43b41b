// Colours and the parts of a layout that all figures share. Okabe–Ito colours: safe for colour-blind readers.

const PALETTE = {
  light: { attack: "#0072B2", controls: ["#B8860B", "#008A65", "#B0578D", "#6B7280", "#7B3F00"], chosen: "#D55E00", brush: "#7A3E9D" },
  dark: { attack: "#56B4E9", controls: ["#E69F00", "#2CC295", "#CC79A7", "#9CA3AF", "#C9A27A"], chosen: "#FF7F32", brush: "#C9A2F2" },
};
const DASHES = ["dash", "dot", "dashdot", "longdash", "longdashdot"];

const theme = () => document.documentElement.dataset.theme;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function pathColour(index) {
  const colours = PALETTE[theme()];
  return index === 0 ? colours.attack : colours.controls[(index - 1) % colours.controls.length];
}
const pathDash = (index) => (index === 0 ? "solid" : DASHES[(index - 1) % DASHES.length]);

function fade(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

function axis(text, more = {}) {
  return {
    title: { text, standoff: 8, font: { size: 12, color: css("--muted") } },
    gridcolor: css("--grid"), linecolor: css("--line"), zerolinecolor: css("--line"), zeroline: false,
    tickfont: { size: 11, color: css("--muted") }, ticks: "", automargin: true, ...more,
  };
}

function layout(more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("--font"), size: 12, color: css("--text") },
    margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: "closest", dragmode: state.drag === "brush" ? "select" : "zoom",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { family: css("--font"), size: 12, color: css("--text") } },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 12 }, itemclick: false, itemdoubleclick: false },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--accent") },
    selections: [], showlegend: false, autosize: !state.printing, ...more,
    ...(state.printing ? { width: PAPER.width, height: Math.min(more.height ?? PAPER.height, PAPER.height) } : {}),
  };
}

const CONFIG = {
  displaylogo: false, responsive: true, showTips: false, scrollZoom: false,
  modeBarButtons: [["toImage", "resetScale2d"]],
  toImageButtonOptions: { format: "svg", filename: "flatlens" },
};

// Two figures with their captions on a page of A4.
const PAPER = { width: 640, height: 310 };

// A band and its median as traces; positions that the scale cannot show are left out.
function bandTraces(band, f, colour, dash, name, options = {}) {
  const keep = [...band.position.keys()].filter((i) => Number.isFinite(f(band.median[i])));
  const at = (values) => keep.map((i) => f(values[i]));
  const low = keep.map((i) => (Number.isFinite(f(band.low[i])) ? f(band.low[i]) : f(band.median[i])));
  const x = keep.map((i) => band.position[i]);
  const axes = { xaxis: options.xaxis || "x", yaxis: options.yaxis || "y" };
  const edge = { ...axes, x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const seen = keep.map((i) => [band.median[i], band.low[i], band.high[i], band.mean[i], band.n[i]].map((v) => number(v)));
  const traces = [];
  if (!options.bare) {
    traces.push({ ...edge, y: low }, { ...edge, y: at(band.high), fill: "tonexty", fillcolor: fade(colour, options.fill ?? 0.16) });
  }
  // A rim in the card's colour keeps the median apart from the thin lines under it.
  if (options.halo) traces.push({ ...edge, y: at(band.median), line: { color: css("--card"), width: (options.width ?? 2.6) + 3.4 } });
  traces.push({
    ...axes, x, y: at(band.median), mode: keep.length > 1 ? "lines" : "markers", name: plain(name),
    line: { color: colour, width: options.width ?? 2.6, dash }, marker: { color: colour, size: 7 }, customdata: seen,
    showlegend: options.legend ?? true, legendgroup: name,
    hovertemplate: `<b>${plain(name)}</b><br>${options.where || "step"} %{x}<br>median %{customdata[0]}<br>` +
      "quartiles %{customdata[1]} … %{customdata[2]}<br>mean %{customdata[3]}, n = %{customdata[4]}<extra></extra>",
  });
  if (options.mean) {
    traces.push({ ...axes, x, y: at(band.mean), mode: "lines", line: { color: colour, width: 1.4, dash: "dot" }, hoverinfo: "skip", showlegend: false });
  }
  return traces;
}

// Many samples' curves as one trace: gaps separate them, customdata says whose point it is.
function lineTrace(samples, xs, ys, style, axes = {}) {
  const x = [], y = [], customdata = [];
  for (const i of samples) {
    const a = xs(i), b = ys(i);
    for (let t = 0; t < b.length; t++) { x.push(a[t]); y.push(b[t]); customdata.push(i); }
    x.push(null); y.push(null); customdata.push(i);
  }
  return { x, y, customdata, mode: "lines", line: style, hoverinfo: style.silent ? "skip" : "none", showlegend: false, ...axes };
}

// The chosen sample's curve, with a dot at the inspector's step; drawn in every figure that has curves.
function chosenTraces(xs, ys, axes = {}) {
  const i = state.sample, colour = PALETTE[theme()].chosen;
  const x = xs(i), y = ys(i), t = currentStep();
  const own = `sample ${run().sample[i]}`;
  return [
    { x: [...x], y: [...y], customdata: x.map ? Array.from(x, () => i) : [], mode: "lines", line: { color: css("--card"), width: 4.6 }, hoverinfo: "skip", showlegend: false, ...axes },
    { x: [...x], y: [...y], customdata: Array.from(x, () => i), mode: "lines", line: { color: colour, width: 2.2 }, hovertemplate: `${own}<br>%{x}<extra></extra>`, showlegend: false, ...axes },
    { x: [x[t]], y: [y[t]], mode: "markers", marker: { color: colour, size: 10, line: { color: css("--card"), width: 2 } }, hoverinfo: "skip", showlegend: false, ...axes },
  ];
}
