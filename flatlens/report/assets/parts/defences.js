// The defences of a sweep against each other: κ and the Lipschitz bound against the worst case, a dot for each training; and their table.

import { decadesOf, dotsOf, meansOf, nextDot, percentsOf } from "../core/defences.js";
import { placed } from "../core/placing.js";
import { brief, count, num, raised } from "../core/text.js";
import { fontOf, isNarrow } from "../draw/chart.js";
import { $, draw, make } from "../draw/dom.js";

/** @typedef {import("../core/types.js").Defences} Defences */
/** @typedef {import("../core/types.js").SweepData} SweepData */
/** @typedef {import("../core/defences.js").Dot} Dot */
/** @typedef {import("../core/defences.js").Mean} Mean */
/** @typedef {{ x: (log: number) => number, y: (percent: number) => number, width: number, height: number }} Frame */

const EDGE = { left: 46, right: 14, top: 12, bottom: 40 };
const MOST_NAMES = 60;
/** @typedef {{ across: "kappa" | "lipschitz", said: string, axis: string, low: string, high: string }} Kind of a picture: what goes across */
/** @type {Kind[]} */
const KINDS = [
  { across: "kappa", said: "κ at clean inputs", axis: "κ, median at clean inputs", low: "← flat", high: "sharp →" },
  { across: "lipschitz", said: "The Lipschitz bound", axis: "Lipschitz bound", low: "← smooth", high: "steep →" },
];
const ASK = "Point at a dot, or walk with the arrow keys: left and right by the value across, up and down by the worst case.";
/** @type {number | null} the dot that the keys stand on, by its place among the points */
let chosen = null;

/** Where a shape stands: a diamond is trained against an attack, a circle is not. @param {boolean} attacked @param {number} x @param {number} y @param {number} r @param {Record<string, any>} look */
const shape = (attacked, x, y, r, look) => (attacked
  ? draw("path", { d: `M${x} ${y - 1.3 * r}L${x + 1.3 * r} ${y}L${x} ${y + 1.3 * r}L${x - 1.3 * r} ${y}Z`, "stroke-linejoin": "round", ...look })
  : draw("circle", { cx: x, cy: y, r, ...look }));

/** How wide a name is in px, in the letters that it is written in. @returns {(text: string) => number} */
function ruler() {
  const pen = make("canvas").getContext("2d");
  pen.font = `620 12.5px ${fontOf()}`;
  return (text) => pen.measureText(text).width + 3;
}

const inkOf = (/** @type {boolean} */ attacked) => (attacked ? "var(--cross)" : "var(--attack)");

/** @param {SweepData} data */
export function drawDefences({ defences: of }) {
  if (!of || !$("defences-card")) return;
  const pictures = KINDS.map((kind) => ({ kind, ...dotsOf(of, kind.across) })).filter(({ dots }) => dots.length);
  $("defences-figure").hidden = !pictures.length;
  $("defences").classList.toggle("two", pictures.length > 1);
  // Boxes first: how wide each is depends on how many there are.
  const boxes = pictures.map(() => make("div"));
  $("defences").replaceChildren(...boxes);
  if (!pictures.length) return;
  const lefts = pictures.map(({ kind, dots }, i) => drawPicture(of, kind, dots, boxes[i]));
  $("defences-readout").textContent = ASK;
  const { able, dots } = pictures[0], left = Math.max(...lefts), both = pictures.length > 1;
  drawKeys(of, meansOf(of, dots), left);
  $("defences-caption").textContent = [
    `Each dot is a training, with the 95 % interval of its worst case over samples; a ringed mark is a defence’s mean over its seeds, of logarithms across. ${pictures[0].kind.across === "kappa" ? "To the left of κ is flat, upwards is robust." : "Upwards is robust."}`,
    pictures.some(({ kind }) => kind.across === "lipschitz") ? "The Lipschitz bound is the product of the layers’ spectral norms: its network is never steeper, and mostly far less steep." : "",
    able > dots.length ? `Of ${count(able)} trainings ${count(dots.length)} evenly spaced ones are drawn.` : "",
    ...pictures.map(({ kind, able: drawn }) => (of.points.length > drawn ? `${count(of.points.length - drawn)} trainings have no ${kind.across === "kappa" ? "κ" : "Lipschitz bound"} above 0 and are ${both ? "not in its picture" : "in the table alone"}.` : "")),
    left ? `${count(left)} names find no room: point at their marks.` : "",
  ].filter(Boolean).join(" ");
}

/** One picture into its box; how many names found no room. @param {Defences} of @param {Kind} kind @param {Dot[]} dots @param {any} box @returns {number} */
function drawPicture(of, kind, dots, box) {
  const means = meansOf(of, dots), width = Math.max(300, Math.round(box.clientWidth)), height = isNarrow() ? 400 : 460;
  const across = decadesOf(dots.map((dot) => dot.x)), upwards = percentsOf(dots);
  const frame = {
    width, height,
    x: (/** @type {number} */ log) => EDGE.left + ((log - across.low) / (across.high - across.low)) * (width - EDGE.left - EDGE.right),
    y: (/** @type {number} */ share) => height - EDGE.bottom - ((share - upwards.low) / (upwards.high - upwards.low)) * (height - EDGE.top - EDGE.bottom),
  };
  const said = `${kind.said} against the worst case: ${count(dots.length)} trainings of ${count(means.length)} defences. ${ASK}`;
  const canvas = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": said, "data-across": kind.across, "font-family": fontOf() });
  canvas.append(...axesOf(frame, kind, across.ticks, upwards.ticks));
  const names = namesOf(frame, means, dots), marks = dots.map((dot) => markOf(frame, of, dot));
  canvas.append(...names.lines, ...means.filter((mean) => mean.seeds > 1).map((mean) => meanOf(frame, mean)), ...marks, ...names.texts);
  listenDots(canvas, dots, marks);
  box.append(canvas);
  return names.left;
}

/** @param {Frame} frame @param {Kind} kind @param {number[]} powers @param {number[]} shares */
function axesOf({ x, y, width, height }, kind, powers, shares) {
  const base = height - EDGE.bottom, style = { fill: "var(--muted)", "font-size": 11.5 };
  const tick = (/** @type {number} */ power) => (Number.isInteger(power) && (power < -2 || power > 3) ? `10${raised(power)}` : num(10 ** power));
  return [
    ...shares.flatMap((share) => [
      draw("path", { d: `M${EDGE.left} ${y(share)}H${width - EDGE.right}`, stroke: "var(--grid)" }),
      draw("text", { x: EDGE.left - 7, y: y(share) + 4, "text-anchor": "end", ...style }, `${share}`),
    ]),
    ...powers.flatMap((power) => [
      draw("path", { d: `M${x(power)} ${EDGE.top}V${base}`, stroke: "var(--grid)" }),
      draw("text", { x: x(power), y: base + 16, "text-anchor": "middle", ...style }, tick(power)),
    ]),
    draw("path", { d: `M${EDGE.left} ${EDGE.top}V${base}H${width - EDGE.right}`, fill: "none", stroke: "var(--line)" }),
    draw("text", { x: EDGE.left, y: height - 6, ...style }, kind.low),
    draw("text", { x: (EDGE.left + width - EDGE.right) / 2, y: height - 6, "text-anchor": "middle", ...style }, kind.axis),
    draw("text", { x: width - EDGE.right, y: height - 6, "text-anchor": "end", ...style }, kind.high),
    draw("text", { transform: `translate(12 ${(EDGE.top + base) / 2}) rotate(-90)`, "text-anchor": "middle", ...style }, "right in the worst case, %"),
  ];
}

/** @param {Frame} frame @param {Defences} of @param {Dot} dot */
function markOf({ x, y }, of, dot) {
  const attacked = of.rows[dot.row].attacked, ink = inkOf(attacked), at = x(dot.x);
  return draw("g", { class: "dot", role: "img", tabindex: -1, "aria-label": dot.said, "data-row": dot.row },
    draw("circle", { cx: at, cy: y(dot.y), r: 12, fill: "transparent" }), // easier to hit
    draw("path", { d: `M${at} ${y(dot.low)}V${y(dot.high)}`, stroke: ink, "stroke-width": 1.3, "stroke-opacity": 0.45 }),
    shape(attacked, at, y(dot.y), 4.5, { fill: dot.masked ? "var(--card)" : ink, stroke: ink, "stroke-width": 1.6 }));
}

/** @param {Frame} frame @param {Mean} mean */
function meanOf({ x, y }, mean) {
  return draw("g", { class: "mean", "data-row": mean.row, "aria-hidden": "true" }, shape(mean.attacked, x(mean.x), y(mean.y), 9, { fill: "none", stroke: inkOf(mean.attacked), "stroke-width": 2 }));
}

/** The defences' names beside their means. @param {Frame} frame @param {Mean[]} means @param {Dot[]} dots */
function namesOf({ x, y, width, height }, means, dots) {
  const named = means.slice(0, MOST_NAMES).map((mean) => ({ x: x(mean.x), y: y(mean.y), text: brief(mean.name, isNarrow() ? 16 : 26) }));
  const room = { x: EDGE.left + 2, y: EDGE.top, width: width - EDGE.left - EDGE.right - 2, height: height - EDGE.top - EDGE.bottom };
  const places = placed(named, dots.map((dot) => ({ x: x(dot.x), y: y(dot.y) })), room, ruler());
  const lines = places.flatMap((place, i) => {
    if (!place?.far) return [];
    const { box } = place, to = [Math.max(box.x, Math.min(named[i].x, box.x + box.width)), Math.max(box.y, Math.min(named[i].y, box.y + box.height))];
    return [draw("path", { d: `M${named[i].x} ${named[i].y}L${to.join(" ")}`, stroke: "var(--faint)", "stroke-width": 1, "data-row": means[i].row })];
  });
  const texts = places.flatMap((place, i) => (place ? [draw("text", {
    class: "name", x: place.box.x + 1, y: place.box.y + 12.5, "font-size": 12.5, "font-weight": 620, fill: means[i].attacked ? "var(--cross-ink)" : "var(--attack)", "data-row": means[i].row, "aria-hidden": "true",
  }, named[i].text)] : []));
  return { lines, texts, left: means.length - texts.length };
}

/** One dot at a time takes the focus; what is pointed at or walked to stands out with its defence's others. @param {any} canvas @param {Dot[]} dots @param {any[]} marks */
function listenDots(canvas, dots, marks) {
  const at = () => Math.max(0, dots.findIndex((dot) => dot.k === chosen));
  const tell = (/** @type {number | null} */ i) => {
    $("defences-readout").textContent = i === null ? ASK : dots[i].said;
    $("defences").classList.toggle("some", i !== null); // the same defence stands out in both pictures
    $("defences").querySelectorAll("[data-row]").forEach((/** @type {any} */ node) => node.classList.toggle("lit", i !== null && Number(node.dataset.row) === dots[i].row));
    $("defences-table").querySelectorAll("tbody tr").forEach((/** @type {any} */ line) => line.classList.toggle("lit", i !== null && Number(line.dataset.row) === dots[i].row));
  };
  marks[at()].setAttribute("tabindex", "0");
  marks.forEach((mark, i) => {
    mark.addEventListener("pointerenter", () => tell(i));
    mark.addEventListener("focus", () => {
      marks[at()].setAttribute("tabindex", "-1");
      mark.setAttribute("tabindex", "0");
      chosen = dots[i].k;
      tell(i);
    });
    mark.addEventListener("blur", () => tell(null));
  });
  canvas.addEventListener("pointerleave", () => tell(canvas.contains(document.activeElement) ? at() : null));
  canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const to = nextDot(dots, at(), event.key);
    if (to === null) return;
    event.preventDefault();
    marks[to].focus();
  });
}

/** @param {Defences} of @param {Mean[]} means @param {number} left names that found no room */
function drawKeys(of, means, left) {
  const kinds = [true, false].filter((kind) => means.some((mean) => mean.attacked === kind));
  const key = (/** @type {Node} */ sign, /** @type {string} */ said) => make("span", {}, draw("svg", { width: 18, height: 18, "aria-hidden": "true" }, sign), said);
  $("defences-keys").replaceChildren(
    ...kinds.map((kind) => key(shape(kind, 9, 9, 5, { fill: inkOf(kind) }), kind ? "trained against an attack" : "not trained against an attack")),
    ...(of.points.some((point) => point.masked) ? [key(shape(false, 9, 9, 5, { fill: "none", stroke: "var(--muted)", "stroke-width": 1.6 }), "hollow: its gradients are masked")] : []),
    ...(means.some((mean) => mean.seeds > 1) ? [key(shape(false, 9, 9, 7, { fill: "none", stroke: "var(--muted)", "stroke-width": 2 }), `ringed: mean over seeds${left ? "" : ", named"}`)] : []));
}
