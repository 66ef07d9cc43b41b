// Small multiples of median curves with their quartile bands: SVG of our own, all on one common scale.

const BOX = { width: 264, height: 168, left: 38, right: 6, top: 6, bottom: 20 };
const LOWEST = -390, DEEPEST = 12;  // log10: below it a value is 0; decades that are shown at most
let panelScale = null, panelSteps = [];

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function curveOf(item, path) {
  const k = CURVES.get(place(item.cell, item.layer, path));
  if (k === undefined) return null;
  const [median, low, high] = [0, 1, 2].map((r) => DATA.curves.values[k].row(r));
  return { position: DATA.curves.positions[DATA.curves.position[k]], median, low, high, n: DATA.curves.n[k] };
}

function drawPanels() {
  const able = measured().filter((item) => CURVES.has(place(item.cell, item.layer, 0)));
  const drawn = able.slice(0, state.panels).map((item) => ({ item, attack: curveOf(item, 0), control: CONTROL < 0 ? null : curveOf(item, CONTROL) }));
  panelScale = scaleOfPanels(drawn);
  $("panels-card").hidden = !able.length;
  panelSteps = [];
  $("panels").replaceChildren(...drawn.map(panel));
  const left = able.length - drawn.length;
  $("more-panels").parentNode.hidden = left === 0;
  $("more-panels").textContent = `Show ${count(Math.min(24, left))} more of ${count(left)}`;
  const names = measuresShown();
  $("panels-measure").textContent = names.length === 1 ? `${shortMeasure(names[0])}, logarithmic, against attack step` : "logarithmic, against attack step";
  $("panels-keys").replaceChildren(key("line", pathColour(0), "attack, median"), key("band", pathColour(0), "its quartiles"),
    ...(CONTROL < 0 ? [] : [key("dashed", pathColour(CONTROL), `control, ${DATA.control.replaceAll("-", " ")}`)]), key("dotted", css("--muted"), "median flip step"));
  notePanels(names, drawn);
}

function key(kind, colour, words) {
  const shape = kind === "band" ? svg("rect", { x: 0, y: 1, width: 24, height: 10, fill: fade(colour, 0.22) })
    : kind === "dotted" ? svg("path", { d: "M12 0V12", stroke: colour, "stroke-dasharray": "1.5 2.5", "stroke-width": 1.4 })
      : svg("path", { d: "M0 6H24", stroke: colour, "stroke-width": 2.4, "stroke-dasharray": kind === "dashed" ? "5 3" : "none" });
  return make("span", {}, svg("svg", { width: 24, height: 12, "aria-hidden": "true" }, shape), words);
}

// From the lowest median to the highest quartile, but no more than 12 decades: a saturated end may lie 250 down.
function scaleOfPanels(drawn) {
  const all = drawn.flatMap((d) => [d.attack, d.control].filter(Boolean));
  const ends = (kind) => all.flatMap((c) => [...c[kind]]).filter((v) => v > LOWEST);
  const most = (values, start, pick) => values.reduce((a, v) => pick(a, v), start);
  const highs = ends("high"), medians = ends("median"), lows = ends("low");
  if (!medians.length) return null;
  const top = most(highs, -Infinity, Math.max), median = most(medians, Infinity, Math.min), low = most(lows, Infinity, Math.min);
  const bottom = Math.max(top - DEEPEST, Math.min(median, Math.max(low, median - 1)));
  const pad = 0.06 * (top - bottom) + 0.05;
  const steps = all.reduce((a, c) => Math.max(a, c.position[c.position.length - 1] ?? 0), 1);
  // Whether anything lies under the edge, or is exactly 0.
  const clamped = all.some((c) => c.low.some((v) => v < bottom - pad));
  return { bottom: bottom - pad, top: top + pad, steps, clamped };
}

const px = (step) => BOX.left + (step / panelScale.steps) * (BOX.width - BOX.left - BOX.right);
const py = (log) => BOX.top + (1 - (Math.max(log, panelScale.bottom) - panelScale.bottom) / (panelScale.top - panelScale.bottom)) * (BOX.height - BOX.top - BOX.bottom);

function panel({ item, attack, control }) {
  const label = labelOf(item), link = DATA.cells.page[item.cell];
  const canvas = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img" });
  canvas.setAttribute("aria-label", `${label}: ${describe(item)}`);
  drawAxes(canvas);
  const flip = medianOf(rowOf(item), "flip_step");
  if (flip?.n) canvas.append(svg("path", { d: `M${px(flip.value)} ${BOX.top}V${BOX.height - BOX.bottom}`, stroke: css("--muted"), "stroke-width": 1.2, "stroke-dasharray": "1.5 3" }));
  if (control) drawCurve(canvas, control, pathColour(CONTROL), "5 3", 1.8, 0.1);
  drawCurve(canvas, attack, pathColour(0), "none", 2.4, 0.2);
  const cursor = svg("path", { d: "", stroke: css("--text"), "stroke-width": 0.8, opacity: 0.6 });
  canvas.append(cursor);
  const said = make("p", { class: "readout" }, describe(item));
  panelSteps.push({ attack, control, cursor, said, rest: describe(item) });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * BOX.width;
    point(Math.round(((x - BOX.left) / (BOX.width - BOX.left - BOX.right)) * panelScale.steps));
  });
  canvas.addEventListener("pointerleave", () => point(null));
  return make("div", { class: "panel" }, make("h3", { title: label }, link ? make("a", { href: link }, brief(label, 56)) : brief(label, 56)), said, canvas);
}

function describe(item) {
  const a = shareOf(rowOf(item), state.share), c = CONTROL < 0 ? null : shareOf(rowOf(item, CONTROL), state.share);
  return `valleys ${a?.n ? `${percent(a.value)} (n ${count(a.n)})` : "–"}${c ? `, control ${c.n ? percent(c.value) : "–"}` : ""}`;
}

function drawAxes(canvas) {
  const { bottom, top, steps } = panelScale, right = BOX.width - BOX.right, base = BOX.height - BOX.bottom;
  const style = { fill: css("--muted"), "font-size": 10.5, "font-family": css("--font") };
  const every = Math.max(1, Math.ceil((top - bottom) / 5));
  for (let e = Math.ceil(bottom / every) * every; e <= top; e += every) {
    canvas.append(svg("path", { d: `M${BOX.left} ${py(e)}H${right}`, stroke: css("--grid") }), svg("text", { x: BOX.left - 5, y: py(e) + 3.5, "text-anchor": "end", ...style }, e === 0 ? "1" : e === 1 ? "10" : `10${superscript(e)}`));
  }
  canvas.append(svg("path", { d: `M${BOX.left} ${base}H${right}`, stroke: css("--line") }));
  const stride = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500].find((s) => steps / s <= 4.01) ?? Math.ceil(steps / 4);
  for (let s = 0; s <= steps; s += stride) canvas.append(svg("text", { x: px(s), y: base + 13, "text-anchor": s === 0 ? "start" : s === steps ? "end" : "middle", ...style }, String(s)));
}

function drawCurve(canvas, curve, colour, dash, width, fill) {
  const known = [...curve.position.keys()].filter((i) => Number.isFinite(curve.median[i]));
  if (!known.length) return;
  const at = (values, i) => `${px(curve.position[i]).toFixed(1)} ${py(Number.isFinite(values[i]) ? values[i] : curve.median[i]).toFixed(1)}`;
  const up = known.map((i) => at(curve.high, i)), down = known.map((i) => at(curve.low, i)).reverse();
  canvas.append(
    svg("path", { d: `M${[...up, ...down].join("L")}Z`, fill: fade(colour, fill) }),
    svg("path", { d: `M${known.map((i) => at(curve.median, i)).join("L")}`, fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash, "stroke-linejoin": "round" }));
}

// One step in all panels at once: that is what a common scale is for.
function point(step) {
  const inside = step !== null && step >= 0 && step <= panelScale.steps;
  for (const { attack, control, cursor, said, rest } of panelSteps) {
    cursor.setAttribute("d", inside ? `M${px(step)} ${BOX.top}V${BOX.height - BOX.bottom}` : "");
    const a = inside && valueAt(attack, step), c = inside && control && valueAt(control, step);
    said.textContent = a ? `step ${a.step}: ${a.text}${c ? `, control ${c.short}` : ""}` : rest;
  }
}

function valueAt(curve, step) {
  let best = 0;
  curve.position.forEach((p, i) => { if (Math.abs(p - step) < Math.abs(curve.position[best] - step)) best = i; });
  const told = (log) => (log < LOWEST ? "0" : number(10 ** log, 2));
  const short = told(curve.median[best]);
  return { step: curve.position[best], short, text: `${short} (${told(curve.low[best])} … ${told(curve.high[best])})` };
}

function notePanels(names, drawn) {
  const fewer = drawn.some(({ attack }) => attack.n[1] < attack.n[0]);
  $("panels-note").textContent = [
    names.length > 1 ? `Rows measure different things (${names.map(shortMeasure).join(", ")}); their heights are not comparable.` : `${names.map(fullMeasure).join("")}: median over all samples, wrong ones included; high is sharp.`,
    `The scale is that of the ${count(drawn.length)} panels drawn.`,
    panelScale?.clamped ? `Values under its lower edge, exact zeros among them, are drawn on the edge: a saturated softmax goes hundreds of decades down, and how far says little.` : "",
    fewer ? "Some paths end early, so that the set of samples changes along a curve." : "",
    DATA.curves.left_out ? `Curves of ${count(DATA.curves.left_out)} runs are not in this file; they are on the runs’ own pages.` : "",
    CONTROL < 0 ? "There is no control here: nothing in these pictures can be attributed to the attack." : "Where the dashed control falls as the attack does, the valley comes from crossing a boundary.",
    "A median curve does not show single samples, which peak at different steps; and κ of networks with different heads may differ in scale for reasons that are not robustness.",
  ].filter(Boolean).join(" ");
}
