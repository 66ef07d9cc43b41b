// The page of a run: its state, what changes it, and what is drawn again when it changes.

import { inflate, unpack } from "../core/pack.js";
import { read, write } from "../core/hash.js";
import { flipOf, first, knownOf, settle } from "../core/state.js";
import { isRight, numbers, says } from "../core/sample.js";
import { num } from "../core/text.js";
import { $, listenSkips, make, segments } from "../draw/dom.js";
import { dressed, kept, palette, theme, wear } from "../draw/dress.js";
import { drawLead, drawMast } from "../parts/lead.js";
import { drawPaths, drawStatistics } from "../parts/paths.js";
import { PLOTS, drawFilm, drawPlot, moveDot, moveSample } from "../parts/plots.js";
import { drawGallery, drawRail, drawSelection, listenRail, markGallery } from "../parts/rail.js";
import { listenExport } from "../parts/export.js";
import { drawRidge, listenRidge } from "../parts/ridge.js";
import { drawPrompt, listenPrompt } from "../parts/prompt.js";
import { LANGUAGE } from "../parts/positions.js";
import { wordings } from "../parts/wording.js";
import { drawPeers } from "../parts/peers.js";
import { drawCompare, drawSame } from "../parts/compare.js";

/** @typedef {import("../core/types.js").Data} Data */
/** @typedef {import("../core/types.js").Run} Run */
/** @typedef {import("../core/types.js").State} State */
/**
 * @typedef {{ data: Data, run: Run, state: State, colours: Record<string, string>,
 *   change: (parts: Partial<State>) => void, tell: (at: any, text: string) => void, paper: boolean }} View
 */

const NAMES = /** @type {(keyof typeof PLOTS)[]} */ (Object.keys(PLOTS));
const THIN = NAMES.filter((name) => PLOTS[name].thin);
const WITH_SAMPLE = NAMES.filter((name) => "y" in PLOTS[name] || name === "peak");

/** @param {Data} data */
export function start(data) {
  const runs = data.runs, waiting = new Set();
  /** @type {View} */
  const view = { data, run: runs[0], state: read(runs, location.hash), colours: palette(data), change, tell, paper: false };
  view.run = runs[view.state.run];
  let quiet = false;

  // Redraws are gathered per frame: a held arrow key must not queue them up.
  /** @param {string[]} names */
  function later(...names) {
    if (!waiting.size) requestAnimationFrame(() => { const now = [...waiting]; waiting.clear(); now.forEach((name) => work(name, now)); });
    names.forEach((name) => waiting.add(name));
  }

  /** @param {any} name @param {string[]} now what else is drawn in this frame: a figure that is has its dot already */
  function work(name, now) {
    if (name === "chosen") WITH_SAMPLE.filter((plot) => !now.includes(plot)).forEach((plot) => { if (near(plot)) moveSample(view, plot); else stale.add(plot); });
    else if (name === "dots") WITH_SAMPLE.forEach((plot) => near(plot) && !now.includes(plot) && !now.includes("chosen") && moveDot(view, plot));
    else if (name === "film") drawFilm(view);
    else if (name === "rail") { drawRail(view); drawPrompt(view); drawSame(view); }
    else if (name === "compare") drawCompare(view);
    else if (name === "ridge") drawRidge(view);
    else if (!near(name)) stale.add(name);
    else if (name in LANGUAGE) LANGUAGE[name](view);
    else drawPlot(view, name);
  }

  // Figures that nobody sees are drawn when they come near.
  const stale = new Set(), seen = new Set();
  const near = (/** @type {string} */ name) => seen.has(name) || name === "valley" || printing;
  let printing = false;
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const name = /** @type {any} */ (target.querySelector(".plot"))?.id;
      if (isIntersecting) seen.add(name); else seen.delete(name);
      if (isIntersecting && stale.delete(name)) later(name);
    }
  }, { rootMargin: "300px" });

  /** @param {Partial<State>} parts */
  function change(parts) {
    const before = view.state;
    const asked = { ...before, ...parts };
    if (parts.run !== undefined && parts.run !== before.run) Object.assign(asked, first(runs, parts.run));
    if (parts.step === -1) asked.step = flipOf(view.run, before.path, asked.sample);
    view.state = settle(runs, asked);
    view.run = runs[view.state.run];
    const moved = (/** @type {(keyof State)[]} */ ...keys) => keys.some((key) => JSON.stringify(before[key]) !== JSON.stringify(view.state[key]));
    if (moved("run")) { drawMast(view); wordings(view); menus(); drawPeers(view); later("ridge"); }
    if (moved("run", "measure", "layer")) { drawLead(view); drawStatistics(view); }
    if (moved("run", "measure", "layer", "off")) drawPaths(view);
    if (moved("run", "measure", "layer", "align", "off", "path")) { later(...NAMES, "compare"); controls(); }
    else {
      if (moved("sample")) later("chosen");
      if (moved("brush")) later(...THIN);
    }
    if (moved("run", "measure", "layer", "path", "brush", "filter", "order")) { drawGallery(view); drawSelection(view); }
    else if (moved("sample")) markGallery(view);
    if (moved("sample", "step")) { later("dots", "film", "ridge"); announce(); }
    later("rail", ...figuresOfText());
    if (quiet) return;
    try {
      history[moved("step") && !moved("sample") ? "replaceState" : "pushState"](null, "", write(runs, view.state));
    } catch { /* a frame in a notebook has no address of its own */ }
  }

  /** Figures of language models alone; one without is hidden, and cannot come near. */
  function figuresOfText() {
    const names = Object.keys(LANGUAGE);
    if (view.run.text) names.forEach((name) => { $(name).closest("figure").hidden = false; });
    else names.forEach((name) => { $(name).closest("figure").hidden = true; });
    return view.run.text ? names : [];
  }

  function announce() {
    const n = numbers(view.run, view.state);
    const { sample, step, path } = view.state, right = isRight(view.run, view.state, sample, step);
    const so = view.run.truth ? (right ? "right" : "wrong") : right ? "target not said" : "target said";
    $("live").textContent = `${view.run.truth ? "Sample" : "Prompt"} ${view.run.sample[sample]}, step ${step}: ${data.symbols[view.state.measure]} ${num(n.value)}, ${so}, ${says(view.run, path, sample, step)}`;
  }

  /** @param {any} at @param {string} text */
  function tell(at, text) {
    const tip = $("tip");
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const width = tip.offsetWidth;
    tip.style.left = `${Math.min(Math.max(8, at.clientX - width / 2), window.innerWidth - width - 8)}px`;
    tip.style.top = `${at.clientY - 40}px`;
  }

  function controls() {
    const { state, run } = view;
    segments($("align"), [["flip", "from the flip"], ["raw", "raw steps"]], state.align, (align) => change({ align: /** @type {any} */ (align) }));
    fill("measure", knownOf(run, state.layer).map((m) => [m, data.measures[m].replace(/ \(.*/, "")]));
    $("measure").value = state.measure;
    $("layer").value = String(state.layer);
    $("path").value = String(state.path);
    const layer = run.layers[state.layer];
    $("method").textContent = `${data.measures[state.measure].replace(/, .*/, "")} · ${layer.name} · ${layer.method}${layer.exact || layer.method.includes("closed") ? ", exact" : ", an estimate"}`;
  }

  /** @param {string} id @param {[string | number, string][]} options */
  function fill(id, options) {
    $(id).replaceChildren(...options.map(([value, name]) => make("option", { value }, name)));
    $(id).closest("label").hidden = options.length < 2;
  }

  function menus() {
    for (const name of NAMES) $(name).closest("figure").hidden = !view.run.figures[name];
    fill("run", runs.map((r, k) => [k, r.name]));
    fill("layer", view.run.layers.map((l, k) => [k, layerWords(l.name)]));
    fill("path", view.run.paths.map((p, k) => [k, p.words]));
    $("run").value = String(view.state.run);
  }

  function all() {
    view.colours = palette(data);
    $("ridge-card").hidden = !view.run.surfaces.length;
    drawMast(view); wordings(view); menus(); controls(); drawLead(view); drawPaths(view); drawStatistics(view); drawGallery(view); drawSelection(view);
    drawPeers(view);
    later(...NAMES, "rail", "ridge", "compare", ...figuresOfText());
  }

  listenSkips();
  listenPrompt(view);
  const step = listenRail(view);
  for (const id of ["run", "layer", "path"]) $(id).addEventListener("change", () => change({ [id]: Number($(id).value) }));
  $("measure").addEventListener("change", () => change({ measure: $("measure").value }));
  dressed(all);
  listenExport(view);
  listenRidge(view);
  window.addEventListener("hashchange", () => { quiet = true; change(read(runs, location.hash)); quiet = false; });
  window.addEventListener("popstate", () => { quiet = true; change(read(runs, location.hash)); quiet = false; });
  document.addEventListener("keydown", (event) => keys(event, view, step));
  document.addEventListener("keyup", (event) => event.key === "Shift" && drag("select"));
  document.addEventListener("keydown", (event) => event.key === "Shift" && drag("zoom"));
  // Paper is light and has a width of its own; its figures are drawn at once, since printing does not wait.
  let screen = theme();
  window.addEventListener("beforeprint", () => { screen = theme(); paper(true); });
  window.addEventListener("afterprint", () => paper(false));
  /** @param {boolean} begins */
  function paper(begins) {
    view.paper = begins;
    printing = begins;
    wear(begins ? "light" : screen);
    view.colours = palette(data);
    drawPaths(view);
    NAMES.forEach((name) => (near(name) ? drawPlot(view, name) : stale.add(name)));
    figuresOfText().forEach((name) => LANGUAGE[name](view));
    drawRidge(view);
    drawRail(view);
  }
  let width = $("valley").clientWidth;
  new ResizeObserver(() => {
    if ($("valley").clientWidth === width) return;
    width = $("valley").clientWidth;
    later(...NAMES, "ridge", "compare", ...figuresOfText());
  }).observe($("valley"));
  document.querySelectorAll("figure.watched").forEach((node) => watch.observe(node));
  all();
  document.documentElement.dataset.ready = "yes";
  return view;
}

/** @param {string} name of a layer */
const layerWords = (name) => (name === "head, all positions" ? "head, all positions, as in the paper’s code" : name);

/** With Shift a drag zooms, else it chooses. @param {string} mode */
function drag(mode) {
  for (const name of NAMES) {
    const node = $(name);
    if (node.data && "y" in PLOTS[name] && node._fullLayout.dragmode !== mode) /** @type {any} */ (globalThis).Plotly.relayout(node, { dragmode: mode });
  }
}

/** @param {KeyboardEvent} event @param {View} view @param {(by: number) => void} step */
function keys(event, view, step) {
  const target = /** @type {HTMLElement} */ (event.target), { state, run } = view;
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = target.matches("input, select, textarea, [contenteditable], #surface");
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") { view.change({ brush: null }); $("help").hidden = true; }
  else if (typing) return;
  else if (event.key === "?") $("help").hidden = !$("help").hidden;
  else if (by && event.shiftKey) step(by);
  else if (by) view.change({ step: Math.min(run.steps, Math.max(0, state.step + by)) });
  else if (/^[1-4]$/.test(event.key)) $("moments").children[Number(event.key) - 1]?.click();
  else if (event.key === "b" && state.brush === null) view.change({ brush: similar(view) });
  else return;
  event.preventDefault();
}

/** The samples that flip at the chosen one's flip: a brush for who has no pointer. @param {View} view */
function similar(view) {
  const flip = view.run.paths[view.state.path].flip.values, own = flip[view.state.sample];
  return view.run.sample.map((_, i) => i).filter((i) => flip[i] === own);
}

export async function open() {
  wear(kept());
  const held = $("plotly"), library = held && inflate(held.textContent.trim());
  const data = unpack(JSON.parse(await inflate($("flatlens-data").textContent.trim())));
  if (held) {
    // The policy names this program by its hash, so that it runs and nothing else does.
    const script = document.createElement("script");
    script.textContent = await library;
    held.replaceWith(script);
  }
  $("static").remove();
  /** @type {any} */ (globalThis).flatlens = start(data);
}
