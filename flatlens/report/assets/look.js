// Colours and the parts of a layout that all figures share: a path's role gives its colour, as on the page of a run.


const theme = () => document.documentElement.dataset.theme;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const palette = () => DATA.colours[theme()];
const pathColour = (index) => palette()[DATA.looks[index][0]];
const pathDash = (index) => DATA.looks[index][1];

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
