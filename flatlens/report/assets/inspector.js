// One sample: its inputs at the stored steps, the perturbation, the probabilities, its numbers.

const GAINS = [1, 2, 5, 10, 20, 50, 100];

// Rows of the stored images of the chosen sample: [{row, step}].
function framesOf(i) {
  const kept = run().images;
  if (!kept) return [];
  const id = run().sample[i];
  const first = kept.sample.indexOf(id);
  const out = [];
  for (let row = first; row >= 0 && kept.sample[row] === id; row++) out.push({ row, step: kept.step[row] });
  return out;
}

// Without stored images the slider runs over all steps, so that the numbers can still be followed.
function stopsOf(i) {
  const frames = framesOf(i);
  return frames.length ? frames : Array.from({ length: run().steps + 1 }, (_, step) => ({ row: -1, step }));
}

const currentStep = () => { const stops = stopsOf(state.sample); return stops[Math.min(state.stop, stops.length - 1)].step; };

function stepName(step) {
  const flip = run().paths[0].flip[state.sample], look = run().paths[0].layers[state.layer].measures[state.measure];
  const names = [];
  if (step === 0) names.push("clean");
  if (step === flip) names.push("flip");
  if (look && step === look.peak[state.sample]) names.push("peak");
  if (step === run().steps) names.push("end");
  return names.join(", ");
}

const className = (k) => (run().labels && k >= 0 && k < run().labels.length ? run().labels[k] : String(k));

function drawInspector() {
  const r = run(), i = state.sample, stops = stopsOf(i);
  state.stop = Math.min(state.stop, stops.length - 1);
  const stop = stops[state.stop];
  if (document.activeElement !== $("sample")) $("sample").value = r.sample[i];
  $("sample-count").textContent = r.sample.length < r.n ? `${count(i + 1)} of ${count(r.sample.length)} here, ${count(r.n)} in all` : `${count(i + 1)} of ${count(r.n)}`;
  $("sample-verdict").textContent = verdict(i);
  const body = $("inspector-body");
  const keepFocus = document.activeElement && document.activeElement.id === "step";
  body.replaceChildren(...[slider(stops), pictures(stop), probabilities(stop, stops), numbersOf(i, stop.step)].filter(Boolean));
  if (keepFocus) $("step").focus();
  $("inspector-note").textContent = imageNote(stop);
}

function verdict(i) {
  const attack = run().paths[0], flip = attack.flip[i];
  const look = attack.layers[state.layer].measures[state.measure];
  const label = `Label ${className(run().truth[i])}. `;
  if (flip < 0) return label + (attack.flow.margin.lines.row(i)[0] <= 0 ? "Wrong from the start." : "The attack does not flip it.");
  const peak = look ? look.peak[i] : -1;
  return `${label}Flips at step ${flip}` + (peak >= 0 ? `; ${shortMeasure(state.measure)} is largest at step ${peak}.` : ".");
}

function imageNote(stop) {
  const kept = run().images;
  if (!kept) return "This run stored no inputs (images = none).";
  if (stop.row < 0) return `Inputs of ${count(kept.samples)} of the ${count(run().sample.length)} samples are embedded, to keep the file small; not of this one.`;
  if (!kept.drawable) return `Inputs of shape ${kept.shape.join(" × ")} are not images of 1 or 3 channels, so they are not drawn.`;
  const left = kept.samples < run().n ? ` Inputs of ${count(kept.samples)} of ${count(run().n)} samples are embedded.` : "";
  return `Inputs are those of the attack’s path.${left}`;
}

function slider(stops) {
  const input = make("input", { type: "range", id: "step", min: 0, max: stops.length - 1, step: 1, value: state.stop, "aria-label": "Step" });
  const stop = stops[state.stop], name = stepName(stop.step);
  input.setAttribute("aria-valuetext", `step ${stop.step}${name ? ", " + name : ""}`);
  input.addEventListener("input", () => change({ stop: Number(input.value) }));
  const marks = make("div", { class: "marks", "aria-hidden": "true" });
  if (stops.length <= 8) {
    marks.append(...stops.map((s, k) => {
      const at = stops.length > 1 ? k / (stops.length - 1) : 0;
      return make("span", { style: `left:calc(${at} * (100% - 1.1rem) + .55rem)`, class: k === state.stop ? "on" : null }, String(s.step));
    }));
  }
  return make("div", { class: "stepper" }, make("div", { class: "stepper-head" },
    make("label", { for: "step" }, "Step ", make("b", {}, String(stop.step))), make("span", { class: "muted" }, name)), input, stops.length > 1 ? marks : null);
}

function pictures(stop) {
  const kept = run().images;
  if (!kept || !kept.drawable || stop.row < 0) return null;
  const clean = framesOf(state.sample).find((f) => f.step === 0);
  const pair = make("div", { class: "pictures" });
  pair.append(picture(`Input at step ${stop.step}`, "input", rgbOf(stop.row)));
  if (clean) {
    const delta = perturbation(stop.row, clean.row);
    const gain = state.gain || delta.auto;
    const select = make("select", { id: "gain", "aria-label": "Enlarge the perturbation" },
      make("option", { value: 0, selected: !state.gain }, `auto ×${delta.auto}`),
      ...GAINS.map((k) => make("option", { value: k, selected: k === state.gain }, `×${k}`)));
    select.addEventListener("change", () => change({ gain: Number(select.value) }));
    pair.append(picture("Perturbation", "perturbation", diverging(delta.values, gain), select));
  } else {
    pair.append(make("p", { class: "note" }, "The clean input is not stored: no perturbation."));
  }
  return pair;
}

function pixel(row) {
  const kept = run().images, raw = kept.x.row(row), step = (kept.high - kept.low) / 65535;
  return (k) => kept.low + raw[k] * step;
}

function rgbOf(row) {
  const [channels, height, width] = run().images.shape, value = pixel(row), size = height * width;
  // Inputs outside [0, 1] (normalised ones) are shown over their own range.
  const { low, high } = run().images;
  return (k) => [0, 1, 2].map((c) => (255 * (value(k + (channels === 3 ? c * size : 0)) - low)) / (high - low));
}

function perturbation(row, cleanRow) {
  const [channels, height, width] = run().images.shape, size = height * width;
  const now = pixel(row), clean = pixel(cleanRow), values = new Float32Array(size);
  let top = 0;
  for (let k = 0; k < size; k++) {
    for (let c = 0; c < channels; c++) values[k] += (now(k + c * size) - clean(k + c * size)) / channels;
    top = Math.max(top, Math.abs(values[k]));
  }
  const auto = GAINS.filter((k) => k * top <= 1.001).pop() || 1;
  return { values, auto: top > 0 ? auto : 1 };
}

// Blue for darker, orange for lighter than the clean input, the page's middle grey for no change.
function diverging(values, gain) {
  const up = [213, 94, 0], down = [0, 114, 178], none = theme() === "dark" ? [30, 37, 47] : [246, 247, 249];
  return (k) => {
    const v = Math.max(-1, Math.min(1, values[k] * gain)), end = v < 0 ? down : up;
    return none.map((c, j) => c + (end[j] - c) * Math.abs(v));
  };
}

function picture(title, name, colourAt, extra = null) {
  const [, height, width] = run().images.shape;
  const canvas = make("canvas", { width, height, id: `canvas-${name}`, role: "img", "aria-label": `${title}, sample ${run().sample[state.sample]}` });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let k = 0; k < width * height; k++) {
    const [r, g, b] = colourAt(k);
    image.data.set([r, g, b, 255], 4 * k);
  }
  context.putImageData(image, 0, 0);
  return make("figure", { class: "picture" }, canvas, make("figcaption", {}, make("span", {}, title), extra));
}

function probabilities(stop, stops) {
  const kept = run().images;
  if (!kept || stop.row < 0 || !kept.p) return null;
  const now = kept.p.row(stop.row), truth = run().truth[state.sample];
  const classes = Array.from({ length: kept.classes }, (_, k) => k);
  const most = (k) => Math.max(...stops.map((s) => kept.p.row(s.row)[k]));
  // The same classes at every step, so that bars do not jump.
  const shown = kept.classes <= 10 ? classes : classes.map((k) => [k, most(k)]).sort((a, b) => b[1] - a[1]).slice(0, 8).map(([k]) => k);
  if (truth >= 0 && !shown.includes(truth)) shown[shown.length - 1] = truth;
  const best = classes.reduce((a, k) => (now[k] > now[a] ? k : a), 0);
  const list = make("ul", { class: "bars", "aria-label": "Class probabilities" });
  for (const k of shown) {
    const kind = (k === truth ? " truth" : "") + (k === best ? " predicted" : "");
    const share = now[k] >= 0.0005 && now[k] <= 0.9995 ? now[k].toFixed(3) : number(now[k], 2);
    list.append(make("li", { class: kind.trim() }, make("span", { class: "class", title: className(k) }, className(k)),
      make("span", { class: "track" }, make("i", { style: `width:${(100 * now[k]).toFixed(2)}%` })), make("span", { class: "value" }, share)));
  }
  const rest = kept.classes - shown.length;
  return make("div", { class: "probabilities" }, make("p", { class: "legend" }, make("span", { class: "key truth" }, "label"), make("span", { class: "key predicted" }, "prediction"),
    rest > 0 ? make("span", { class: "muted" }, `${rest} more classes`) : null), list);
}

function numbersOf(i, step) {
  const attack = run().paths[0], look = attack.layers[state.layer].measures[state.measure];
  const items = Object.keys(DATA.flow).map((k) => [DATA.flow[k], attack.flow[k].lines.row(i)[step]]);
  items.unshift([shortMeasure(state.measure), look ? look.lines.row(i)[step] : NaN]);
  return make("dl", { class: "numbers" }, ...items.map(([k, v]) => make("div", {}, make("dt", {}, k), make("dd", {}, number(v)))));
}
