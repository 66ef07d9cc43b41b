// The table of all runs: sorted by any column, 200 rows at a time.

function COLUMNS() {
  const attack = (item) => rowOf(item), control = (item) => rowOf(item, CONTROL);
  const share = (row) => (item) => across(item, (one) => shareOf(row(one), state.share));
  const median = (name) => (item) => across(item, (one) => medianOf(attack(one), name));
  const none = DATA.varying.length === 0;
  const settings = DATA.varying.map((c, k) => ({ key: c.key, title: c.key.replaceAll("_", " "), scheme: schemes.get(c.key) ? c.values[0].slice(0, schemes.get(c.key)) : "", kind: "setting", of: ({ cell }) => short(c, cell), whole: ({ cell }) => setting(c, cell), sort: ({ cell }) => c.of[cell], first: k === 0 }));
  const measures = [
    { key: "clean", title: "right, clean", kind: "share", plainly: true, of: (item) => across(item, ({ cell }) => accuracyOf(cell, "clean")) },
    { key: "attacked", title: "right, attacked", kind: "share", plainly: true, of: (item) => across(item, ({ cell }) => accuracyOf(cell, "attacked")) },
    { key: "flipped", title: "flipped", kind: "share", plainly: true, of: (item) => across(item, (one) => shareOf(attack(one), "flipped")) },
    { key: "curve", title: "median κ", kind: "curve", of: (item) => curveOf(item, 0), sort: () => null },
    { key: "valley", title: `valley, ${SHARE_NAMES[state.share]}`, kind: "share", path: 0, of: share(attack) },
    ...(CONTROL < 0 ? [] : [{ key: "control", title: `the same on ${DATA.control.replaceAll("-", " ")}`, kind: "share", path: CONTROL, of: share(control) }]),
    { key: "rise", title: "rise, ×", kind: "median", write: (v) => (v >= 1000 && v < 1e5 ? count(Number(v.toPrecision(3))) : number(v)), of: median("rise") },
    { key: "depth", title: "depth, log₁₀", kind: "median", write: (v) => (Number.isFinite(v) ? minus(v.toFixed(2)) : number(v)), of: median("depth") },
    { key: "lag", title: "lag, steps", kind: "median", write: (v) => number(v), of: median("lag") },
  ].map((c) => ({ sort: null, ...c })).map((c) => (c.sort ? c : { ...c, sort: (item) => { const f = c.of(item); return f && f.n ? f.value : null; } }));
  return [
    ...(none ? [{ key: "key", title: "run", kind: "setting", of: ({ cell }) => DATA.cells.key[cell].slice(0, 8), sort: ({ cell }) => cell, first: true }] : settings),
    ...(state.layer === ALL_LAYERS ? [{ key: "layer", title: "layer", kind: "setting", of: ({ layer }) => DATA.layers[layer] ?? "–", sort: ({ layer }) => DATA.layers[layer] ?? null }] : []),
    ...measures,
    { key: "seconds", title: "seconds", kind: "number", of: ({ cell }) => DATA.cells.seconds[cell], sort: ({ cell }) => DATA.cells.seconds[cell] },
    { key: "state", title: "state", kind: "state", of: ({ cell }) => DATA.cells.state[cell], sort: ({ cell }) => DATA.cells.state[cell] },
  ];
}

function drawTable() {
  const columns = COLUMNS();
  const head = make("tr", {}, ...columns.map((c) => {
    const on = state.sort === c.key;
    const button = make("button", { type: "button", class: "sort", "data-key": c.key }, c.title, c.scheme ? make("span", { class: "scheme" }, ` ${c.scheme}…`) : null, make("span", { "aria-hidden": "true" }, on ? (state.down ? " ↓" : " ↑") : ""));
    button.addEventListener("click", () => { sortBy(c.key); $("runs").querySelector(`[data-key="${CSS.escape(c.key)}"]`).focus(); });
    return make("th", { scope: "col", "aria-sort": on ? (state.down ? "descending" : "ascending") : "none", class: c.kind === "setting" ? "left" : null }, button);
  }));
  const most = state.printing ? Math.min(state.rows, 400) : state.rows;
  const body = make("tbody", {}, ...shown.slice(0, most).map((item) => row(item, columns)));
  $("runs").replaceChildren(make("thead", {}, head), body);
  const left = shown.length - Math.min(most, shown.length);
  $("more-rows").parentNode.hidden = left === 0;
  $("more-rows").textContent = `Show ${count(Math.min(200, left))} more of ${count(left)}`;
  noteTable();
}

// Numbers are worth seeing from their large end first, settings from the start.
function sortBy(key) {
  const numeric = ["share", "median", "number"].includes(COLUMNS().find((c) => c.key === key).kind);
  if (state.sort !== key) change({ sort: key, down: numeric });
  else if (state.down === numeric) change({ down: !numeric });
  else change({ sort: null, down: false });
}

function row(item, columns) {
  const link = DATA.cells.page[item.cell], error = DATA.cells.error[item.cell];
  const settings = columns.filter((c) => c.kind === "setting"), rest = columns.filter((c) => c.kind !== "setting");
  const cells = settings.map((c) => {
    const words = state.fold && item.group?.length > 1 && SEEDS.some((s) => s.key === c.key) ? `${item.group.length} seeds` : c.of(item);
    if (!c.first) return make("td", { class: "left", title: words.length > 34 ? words : null }, brief(words, 34));
    return make("th", { scope: "row", title: c.whole?.(item) ?? DATA.cells.key[item.cell] }, picker(item), link ? make("a", { href: link }, brief(words)) : brief(words));
  });
  if (item.layer < 0) {
    cells.push(make("td", { class: "left what-happened", colspan: rest.length - 2 }, error ?? { waiting: "not begun", running: "runs now" }[DATA.cells.state[item.cell]] ?? "no numbers"));
    cells.push(...rest.slice(-2).map((c) => show(c, item)));
  } else cells.push(...rest.map((c) => show(c, item)));
  const node = make("tr", { class: [DATA.cells.state[item.cell], link ? "linked" : ""].join(" ") }, ...cells);
  if (link) {
    node.addEventListener("click", (event) => {
      if (event.target.closest("a") || String(window.getSelection())) return;
      node.querySelector("a").dispatchEvent(new MouseEvent("click", { bubbles: false, cancelable: true, ctrlKey: event.ctrlKey, metaKey: event.metaKey }));
    });
  }
  return node;
}

// Chosen runs are compared: shown alone, on one scale.
function picker(item) {
  const key = DATA.cells.key[item.cell], on = state.picked.includes(key);
  const box = make("input", { type: "checkbox", class: "pick", checked: on, "aria-label": `Compare ${labelOf(item)}` });
  box.addEventListener("click", (event) => event.stopPropagation());
  box.addEventListener("change", () => change({ picked: box.checked ? [...state.picked, key] : state.picked.filter((k) => k !== key) }));
  return box;
}

// A run's median along its path, as small as a word, on the scale of all rows.
function sparkOf(curve) {
  if (!curve) return make("td", { class: "empty" }, "–");
  const [low, high] = sparkEnds(), width = 92, height = 22, n = Math.max(1, curve.position[curve.position.length - 1]);
  const at = [...curve.position.keys()].filter((k) => Number.isFinite(curve.median[k]));
  const y = (v) => height - 2 - ((Math.max(v, low) - low) / (high - low || 1)) * (height - 4);
  return make("td", { class: "spark" }, svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("path", { d: at.map((k, i) => `${i ? "L" : "M"}${(1 + (curve.position[k] / n) * (width - 2)).toFixed(1)} ${y(curve.median[k]).toFixed(1)}`).join("") || "M0 0", fill: "none", stroke: pathColour(0), "stroke-width": 1.7 })));
}

let ends = null;
function sparkEnds() {
  if (ends) return ends;
  let low = Infinity, high = -Infinity;
  DATA.curves.cell.forEach((_, k) => { if (DATA.curves.path[k] === 0) for (const v of DATA.curves.values[k].row(0)) if (v > LOWEST && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); } });
  ends = [Math.max(low, high - DEEPEST), high];
  return ends;
}

function show(column, item) {
  const f = column.of(item);
  if (column.kind === "curve") return sparkOf(f);
  if (column.kind === "number") return make("td", {}, Number.isNaN(f) ? "–" : f < 10 ? f.toFixed(1) : count(Math.round(f)));
  if (column.kind === "state") return stateCell(item.cell, f);
  if (!f || !f.n) return make("td", { class: "empty" }, "–");
  const title = column.kind === "median" ? `median of ${count(f.n)} flipped samples` : `${count(f.count)} of ${count(f.n)}`;
  if (column.kind === "median") return make("td", { title }, column.write(f.value), Number.isNaN(f.low) ? null : make("small", {}, ` ${column.write(f.low)} … ${column.write(f.high)}`));
  const numbers = [percent(f.value), make("small", { title: f.runs ? `median and range of ${f.runs} runs` : null }, ` ${(100 * f.low).toFixed(1)}–${(100 * f.high).toFixed(1)}${f.runs ? ` of ${f.runs}` : ""}`)];
  return make("td", { title }, ...numbers, column.plainly || column.path !== 0 ? null : make("small", { class: "drawn" }, both(item, f)));
}

function stateCell(cell, name) {
  const cautions = DATA.cells.cautions[cell] ?? [];
  const text = cautions.map(([code, message]) => `${code}: ${message}`).join("\n");
  return make("td", { class: `left state ${name}` }, make("span", {}, name), cautions.length ? make("small", { title: text }, `${cautions.length} caution${cautions.length > 1 ? "s" : ""}`) : null);
}

// The attack's share and its control's on one line, each with its interval.
function both(item, f) {
  const c = CONTROL < 0 ? null : across(item, (one) => shareOf(rowOf(one, CONTROL), state.share));
  return make("span", { class: "both" }, c && c.n ? whisker(c, pathColour(CONTROL), true) : null, whisker(f, pathColour(0)));
}

function whisker(f, colour, hollow = false) {
  return make("span", { class: "whisker", "aria-hidden": "true" },
    make("i", { class: "range", style: `left:${100 * f.low}%;width:${100 * (f.high - f.low)}%;background:${fade(colour, 0.45)}` }),
    make("i", { class: "point", style: `left:${100 * f.value}%;${hollow ? `background:var(--card);border:1.5px solid ${colour}` : `background:${colour}`}` }));
}

function measuresShown() {
  return [...new Set(measured().map((item) => DATA.rows.measure[rowOf(item)]))].map((k) => Object.keys(DATA.measures)[k]);
}

function noteTable() {
  const estimates = measured().filter((item) => { const p = DATA.rows.probes[DATA.rows.probe[rowOf(item)]]; return !p.exact && !p.method.includes("closed"); }).length;
  const unfinished = measured().reduce((sum, item) => sum + DATA.rows.not_finite[rowOf(item)], 0);
  const missing = state.layer === ALL_LAYERS ? 0 : OF_CELL.filter((own) => own.length && !own.includes(state.layer)).length;
  $("table-note").textContent = [
    `${measuresShown().map(fullMeasure).join("; ") || "No numbers yet"}. 95 % intervals (Wilson for shares, bootstrap for medians), over the samples of one model; medians are over flipped samples.`,
    `A valley ends at no more than ${DATA.rows.tau.join(" or ")} of its peak. Rise is peak over start, depth log₁₀ of peak over end, lag peak step minus flip step.`,
    estimates ? `Of ${count(estimates)} rows the measure is an estimate, not exact.` : "",
    unfinished ? `${count(unfinished)} samples in these rows have values that are not finite; they count as having no valley.` : "",
    missing ? `${count(missing)} runs have no layer ${DATA.layers[state.layer]} and are not shown.` : "",
    "Shares of the flipped are over different samples in every row: a hard model’s few flipped samples are not an easy model’s many. The table does not say why rows differ.",
  ].filter(Boolean).join(" ");
}
