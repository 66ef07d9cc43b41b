// The page's state, what changes it, and what is drawn again when it changes.

const state = {
  run: 0, path: 0, layer: 0, measure: null, scale: "log", aligned: false, drag: "zoom", gain: 0,
  controls: true, lines: true, mean: false, runs: false, sample: 0, stop: 0, brush: null, printing: false,
};

const run = () => DATA.runs[state.run];
const focus = () => run().paths[state.path];
const lookOf = (path) => path.layers[state.layer].measures[state.measure];
const lineSamples = () => run().lines;
const narrow = () => window.innerWidth < 640;
// What a zoom belongs to: with other axes it starts anew.
const view = () => [state.run, state.path, state.layer, state.measure, state.aligned].join("|");

const FIGURES = { valley: drawValley, free: drawFree, tau: drawTau, flow: drawFlow, factors: drawFactors, bound: drawBound, margin: drawMargin, peak: drawPeak, heat: drawHeat, density: drawDensity };
const SAMPLE_FIGURES = ["valley", "flow", "margin", "peak"];
const pickables = {};
const waiting = new Set();

// Redraws are gathered per frame: a held arrow key must not queue them up.
function redraw(names) {
  if (!waiting.size) requestAnimationFrame(() => { const now = [...waiting]; waiting.clear(); now.forEach((name) => FIGURES[name]()); });
  names.forEach((name) => waiting.add(name));
}

function react(id, traces, shape, pickable = {}) {
  const node = $(id), first = !node.data;
  pickables[id] = pickable;
  node.setAttribute("aria-label", `${node.closest("figure").querySelector("h2").textContent.trim()}. ${node.closest("figure").querySelector("figcaption").textContent.slice(0, 160)}`);
  Plotly.react(node, traces, shape, CONFIG);
  if (!first) return;
  node.on("plotly_click", (event) => clicked(id, event));
  node.on("plotly_selected", (event) => brushed(id, event));
  node.on("plotly_deselect", () => change({ brush: null }));
}

function clicked(id, event) {
  const point = event.points[0];
  if (id === "heat") return change({ layer: point.y });
  // Points of medians come first in the list where they overlap: look for one that is a sample's.
  const own = event.points.map((p) => p.customdata).find((c) => typeof c === "number" || (id === "peak" && Array.isArray(c) && c.length));
  if (typeof own === "number") change({ sample: own, stop: nearestStop(own, point.x, id) });
  else if (Array.isArray(own)) change({ sample: own[0], stop: flipStop(own[0]), brush: own.length > 1 ? new Set(own) : null });
}

function nearestStop(sample, x, id) {
  const stops = stopsOf(sample);
  if (id === "margin") return Math.min(state.stop, stops.length - 1);
  const step = state.aligned ? x + focus().flip[sample] : x;
  return stops.reduce((best, s, k) => (Math.abs(s.step - step) < Math.abs(stops[best].step - step) ? k : best), 0);
}

// A sample is shown first where it flips: there its perturbation and its sharpness are worth seeing.
function flipStop(sample) {
  const flip = run().paths[0].flip[sample];
  const at = stopsOf(sample).findIndex((s) => s.step >= flip);
  return flip < 0 ? stopsOf(sample).length - 1 : Math.max(at, 0);
}

// Samples whose curve enters the box, or whose cell lies in it.
function brushed(id, event) {
  if (!event || !event.range) return;
  const { range } = event, pickable = pickables[id];
  const within = (v, ends) => v >= Math.min(...ends) && v <= Math.max(...ends);
  const all = run().sample.map((_, i) => i);
  let chosen = [];
  if (pickable.cells) {
    chosen = all.filter((i) => within(focus().flip[i], range.x) && within(pickable.cells.peak[i], range.y));
  } else {
    const key = Object.keys(range).find((k) => k.startsWith("y"));
    if (!pickable[key]) return;
    const [xs, ys] = pickable[key];
    chosen = all.filter((i) => { const x = xs(i), y = ys(i); return y.some((v, t) => within(x[t], range.x) && within(v, range[key])); });
  }
  if (chosen.length) change({ brush: new Set(chosen), ...(chosen.includes(state.sample) ? {} : { sample: chosen[0], stop: flipStop(chosen[0]) }) });
  else change({ brush: null });
}

// The only way in which the state changes.
function change(parts) {
  const before = { ...state };
  Object.assign(state, parts);
  if (state.run !== before.run) enterRun();
  const only = (...keys) => Object.keys(parts).every((k) => keys.includes(k));
  if (!only("sample", "stop", "brush", "gain")) { syncControls(); drawTiles(); drawTable(); redraw(Object.keys(FIGURES)); }
  else if (!only("gain")) redraw(SAMPLE_FIGURES);
  drawInspector();
}

function enterRun() {
  const r = run();
  Object.assign(state, { path: 0, layer: Math.min(state.layer, r.layers.length - 1), sample: firstSample(r), stop: 0, brush: null });
  if (!r.measures.includes(state.measure)) state.measure = r.measures[0] || "relative_flatness";
  fill("measure", r.measures.map((m) => [m, fullMeasure(m)]));
  fill("layer", r.layers.map((l, k) => [k, l.name]));
  fill("path", r.paths.map((p, k) => [k, p.name]));
  state.scale = defaultScale();
  state.stop = flipStop(state.sample);
  drawHeader();
}

// Logarithms where all medians are positive; a measure that can be negative gets the symmetric scale.
function defaultScale() {
  const looks = run().paths.map((p) => p.layers[state.layer].measures[state.measure]).filter(Boolean);
  return looks.every((l) => l.raw.low.every((v) => v > 0)) ? "log" : "symlog";
}

// The first sample that flips is the most telling one to open with.
const firstSample = (r) => Math.max(0, r.sample.findIndex((id, i) => r.paths[0].flip[i] > 1 && (!r.images || r.images.sample.includes(id))));

function fill(id, options) {
  $(id).replaceChildren(...options.map(([value, name]) => make("option", { value }, name)));
  $(id).closest("label").hidden = options.length < 2;
}

function segment(id, key, options) {
  const node = $(id);
  for (const [value, name] of options) {
    const input = make("input", { type: "radio", name: id, value: String(value) });
    input.addEventListener("change", () => change({ [key]: value }));
    node.append(make("label", {}, input, make("span", {}, name)));
  }
}

function syncControls() {
  for (const id of ["measure", "layer", "path", "run"]) $(id).value = String(state[id]);
  for (const id of ["aligned", "scale", "drag"]) $(id).querySelectorAll("input").forEach((n) => { n.checked = n.value === String(state[id]); });
  $("controls-on").closest("label").hidden = run().paths.length < 2;
}

function step(by) {
  const total = run().sample.length;
  const sample = (state.sample + by + total) % total;
  change({ sample, stop: flipStop(sample) });
}

function chooseById(id) {
  if (!Number.isFinite(id)) return;
  const ids = run().sample;
  const at = ids.reduce((best, v, i) => (Math.abs(v - id) < Math.abs(ids[best] - id) ? i : best), 0);
  change({ sample: at, stop: flipStop(at) });
  if (ids[at] !== id) $("inspector-note").textContent = `Sample ${id} is not among those embedded; the nearest one that is: ${ids[at]}.`;
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(name === "dark"));
  $("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
}

// Paper is light and narrow: the figures are drawn anew for it, at once, since printing does not wait.
let screenTheme = null;
function print(begins) {
  if (begins) { screenTheme = theme(); setTheme("light"); document.querySelector("details.spec").open = true; }
  else setTheme(screenTheme);
  state.printing = begins;
  drawTiles(); drawTable(); drawInspector();
  Object.values(FIGURES).forEach((draw) => draw());
}

function listen() {
  const wide = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(wide.matches ? "dark" : "light");
  wide.addEventListener("change", () => { setTheme(wide.matches ? "dark" : "light"); change({ run: state.run }); });
  $("theme").addEventListener("click", () => { setTheme(theme() === "dark" ? "light" : "dark"); change({ run: state.run }); });
  $("measure").addEventListener("change", (e) => { state.measure = e.target.value; change({ scale: defaultScale() }); });
  for (const id of ["layer", "path", "run"]) $(id).addEventListener("change", (e) => change({ [id]: Number(e.target.value) }));
  for (const key of ["controls", "lines", "mean", "runs"]) $(`${key}-on`).addEventListener("change", (e) => change({ [key]: e.target.checked }));
  segment("aligned", "aligned", [[false, "raw"], [true, "from the flip"]]);
  segment("scale", "scale", [["linear", "linear"], ["log", "log"], ["symlog", "symlog"]]);
  segment("drag", "drag", [["zoom", "zoom"], ["brush", "brush samples"]]);
  $("controls").addEventListener("submit", (e) => e.preventDefault());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("sample").addEventListener("change", (e) => chooseById(e.target.valueAsNumber));
  $("inspector").addEventListener("keydown", (e) => {
    if (e.target.tagName === "INPUT" || e.target.tagName === "SELECT") return;
    if (e.key === "ArrowLeft" || e.key === "ArrowRight") { step(e.key === "ArrowLeft" ? -1 : 1); e.preventDefault(); }
  });
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
}

// The sticky inspector stays below the bar, which may take one line or two.
new ResizeObserver(([entry]) => document.documentElement.style.setProperty("--bar", `${entry.target.offsetHeight}px`)).observe($("controls"));

listen();
fill("run", DATA.runs.map((r, k) => [k, r.name]));
document.querySelectorAll(".runs-switch").forEach((n) => { n.hidden = DATA.runs.length < 2; });
enterRun();
change({ run: 0, drag: "zoom" });
