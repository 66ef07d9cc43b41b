// What the sweep's page says of itself, what changes its state, and what is drawn again then.

function drawHeader() {
  const many = count(CELLS), keys = DATA.varying.map((c) => [c.key, c.values.filter((v) => v !== "–").length]).filter(([, n]) => n > 1);
  $("kicker").textContent = "Loss landscapes along attacks · a sweep";
  $("headline").textContent = DATA.name;
  const whole = keys.reduce((product, [, n]) => product * n, 1) === CELLS;  // not where settings move together, or cells are left out
  $("swept").textContent = keys.length ? `${many} runs over ${keys.map(([key, n]) => `${key.replaceAll("_", " ")} (${count(n)})`).join(whole ? " × " : ", ")}` : `${many} run${CELLS === 1 ? "" : "s"}`;
  const CHIPS = ["model", "data", "attack", "norm", "eps", "step_size", "steps", "targeted", "control", "layer", "limit", "seed", "train.adversarial", "train.epochs", "dtype", "device"];
  const chips = DATA.shared.filter(([k, v]) => CHIPS.includes(k) && v !== "");
  $("chips").replaceChildren(...chips.map(([k, v]) => make("li", { title: v }, make("span", {}, k.replaceAll("_", " ")), " ", brief(v, 120))));
  const tally = ["done", "failed", "running", "waiting"].map((s) => [s, DATA.cells.state.filter((v) => v === s).length]).filter(([s, n]) => n || s === "done");
  const bar = make("div", { class: "tally", "aria-hidden": "true" }, ...tally.map(([s, n]) => make("i", { class: s, style: `flex:${n}` })));
  $("states").replaceChildren(make("h2", {}, "Runs"), make("p", { class: "figure" }, `${count(tally[0][1])} of ${many} done`), bar,
    make("ul", { class: "states" }, ...tally.map(([s, n]) => make("li", { class: s }, `${count(n)} ${s}`))));
  $("footer").textContent = `Drawn by flatlens from ${count(tally[0][1])} finished runs. Nothing is loaded from a network; a row leads to its run’s own page beside this file.`;
}

// How many comparisons the page invites: said before anybody makes them.
function drawComparisons() {
  const rows = measured(), whole = rows.reduce((sum, item) => { for (let p = 0; p < PATHS; p++) if (shareOf(rowOf(item, p), state.share)?.n) sum++; return sum; }, 0);
  const runs = new Set(rows.map((item) => item.cell)).size, against = againstControls().length, pairs = robustPairs().length;
  const missed = 0.05 * whole, about = missed < 0.95 ? "less than one" : `about ${count(Math.round(missed))}`;
  const layers = rows.length > runs ? ` at ${count(rows.length)} layers in all` : "";
  const empty = rows.reduce((sum, item) => { for (let p = 0; p < PATHS; p++) { const s = shareOf(rowOf(item, p), state.share); if (s && !s.n) sum++; } return sum; }, 0);
  const things = [[whole, "shares of valleys, each with a 95 % interval"], [against, "pairs of an attack and a control"], [pairs, "pairs of robust and standard training"]];
  $("comparisons").replaceChildren(make("h2", {}, "How many comparisons this page makes"),
    make("ul", { class: "things" }, ...things.map(([n, what]) => make("li", {}, make("b", {}, count(n)), ` ${what}`))),
    make("p", {}, `${count(runs)} run${runs === 1 ? "" : "s"}${layers} on up to ${count(PATHS)} path${PATHS === 1 ? "" : "s"} each${empty ? `; on ${count(empty)} of these paths nothing flipped, which leaves no share` : ""}. Of ${count(whole)} intervals at 95 %, ${about} would miss the true value by chance alone, and nobody can say which.`),
    make("p", { class: "muted" }, "Nothing here is corrected for that number, and nothing is called significant: among many differences the largest is partly luck. Take it as a question for other seeds and other samples."));
}

const waiting = new Set();
const FIGURES = { panels: drawPanels, against: drawAgainst, robust: drawRobust, heat: drawHeat };
function redraw(names) {
  if (!waiting.size) requestAnimationFrame(() => { const now = [...waiting]; waiting.clear(); now.forEach((name) => FIGURES[name]()); });
  names.forEach((name) => waiting.add(name));
}

// The only way in which the state changes.
function change(parts) {
  Object.assign(state, parts);
  const only = (...keys) => Object.keys(parts).length > 0 && Object.keys(parts).every((k) => keys.includes(k));
  if (only("heights")) return redraw(["heat"]);
  if (only("rows")) return drawTable();
  if (only("panels")) return redraw(["panels"]);
  choose();
  sync();
  drawTable();
  // Which rows are shown matters to all figures; their order to those that draw the first ones.
  if (only("sort", "down")) return redraw(["panels", "robust"]);
  drawComparisons();
  redraw(Object.keys(FIGURES));
}

function sync() {
  const every = items().length;
  const filtered = state.find !== "" || state.status !== "" || Object.values(state.picks).some((c) => c >= 0);
  $("matches").textContent = filtered ? `${count(shown.length)} of ${count(every)} rows` : `${count(every)} rows`;
  $("reset").hidden = !filtered && !state.only;
  $("compare").hidden = !state.picked.length;
  $("compare").textContent = state.only ? `Compared: ${count(state.picked.length)} runs` : `Compare ${count(state.picked.length)} runs`;
  $("compare").setAttribute("aria-pressed", String(state.only));
  keep();
}

// What is chosen stands in the address: names of settings and keys of runs, not their places.
function keep() {
  const parts = new URLSearchParams();
  if (state.find) parts.set("find", state.find);
  if (state.sort) parts.set("sort", (state.down ? "-" : "") + state.sort);
  if (state.fold) parts.set("fold", "seeds");
  if (state.picked.length) parts.set(state.only ? "only" : "picked", state.picked.join("."));
  for (const [k, code] of Object.entries(state.picks)) if (code >= 0) parts.set(`is:${DATA.varying[k].key}`, DATA.varying[k].values[code]);
  const hash = parts.toString();
  if (("#" + hash) !== location.hash && (hash || location.hash)) history.replaceState(null, "", hash ? "#" + hash : location.pathname);
}

function recall() {
  const parts = new URLSearchParams(location.hash.replace(/^#/, "").slice(0, 20000)), known = new Set(DATA.cells.key);
  const picked = (parts.get("only") ?? parts.get("picked") ?? "").split(".").filter((key) => known.has(key));
  const sort = parts.get("sort") ?? "", key = sort.replace(/^-/, "");
  const picks = {};
  DATA.varying.forEach((column, k) => { const code = column.values.indexOf(parts.get(`is:${column.key}`)); if (code >= 0) { picks[k] = code; $(`pick-${k}`).value = String(code); } });
  $("find").value = parts.get("find") ?? "";
  $("fold").checked = parts.get("fold") === "seeds" && SEEDS.length > 0;
  Object.assign(state, { find: $("find").value, picked, only: parts.has("only") && picked.length > 0, picks, fold: $("fold").checked, ...(COLUMNS().some((c) => c.key === key) ? { sort: key, down: sort.startsWith("-") } : {}) });
}

function fill(node, options) {
  node.replaceChildren(...options.map(([value, name]) => make("option", { value }, name)));
}

function segment(id, key, options) {
  for (const [value, name] of options) {
    const input = make("input", { type: "radio", name: id, value, checked: state[key] === value });
    input.addEventListener("change", () => change({ [key]: value }));
    $(id).append(make("label", {}, input, make("span", {}, name)));
  }
}

const fromStart = (parts) => change({ rows: 200, panels: FIRST_PANELS, ...parts });

function buildMenus() {
  const head = DATA.layers.indexOf("head");
  state.layer = Math.max(head, 0);
  fill($("layer"), [...DATA.layers.map((name, k) => [k, name]), ...(LAYERS > 1 ? [[ALL_LAYERS, "all, a row each"]] : [])]);
  $("layer").value = String(state.layer);
  $("layer").closest("label").hidden = LAYERS < 2;
  $("layer").addEventListener("change", (e) => fromStart({ layer: Number(e.target.value) }));
  segment("share", "share", Object.entries(SHARE_NAMES).map(([k, v]) => [k, v.replace("all that were right", "all right")]));
  segment("heights", "heights", [["peak", "peak ÷ clean"], ["end", "end ÷ clean"]]);
  const menus = DATA.varying.map((column, k) => {
    const menu = make("select", { id: `pick-${k}` });
    fill(menu, [[-1, "all"], ...column.values.map((v, code) => [code, brief(v, 48)])]);
    menu.addEventListener("change", () => fromStart({ picks: { ...state.picks, [k]: Number(menu.value) } }));
    return make("label", {}, `${column.key.replaceAll("_", " ")} `, menu);
  });
  const states = [...new Set(DATA.cells.state)];
  if (states.length > 1) {
    const menu = make("select", { id: "pick-state" });
    fill(menu, [["", "all"], ...states.map((s) => [s, s])]);
    menu.addEventListener("change", () => fromStart({ status: menu.value }));
    menus.push(make("label", {}, "state ", menu));
  }
  $("menus").replaceChildren(...menus);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(name === "dark"));
  $("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
}

// Paper is light; its figures are drawn anew at once, since printing does not wait.
let screenTheme = null;
function print(begins) {
  if (begins) { screenTheme = theme(); setTheme("light"); } else setTheme(screenTheme);
  state.printing = begins;
  drawTable();
  Object.values(FIGURES).forEach((draw) => draw());
}

function listen() {
  const wide = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(wide.matches ? "dark" : "light");
  wide.addEventListener("change", () => { setTheme(wide.matches ? "dark" : "light"); change({}); });
  $("theme").addEventListener("click", () => { setTheme(theme() === "dark" ? "light" : "dark"); change({}); });
  let typing = null;
  $("find").addEventListener("input", (e) => { clearTimeout(typing); typing = setTimeout(() => fromStart({ find: e.target.value.trim() }), 120); });
  $("reset").addEventListener("click", () => {
    $("find").value = "";
    $("menus").querySelectorAll("select").forEach((menu) => { menu.selectedIndex = 0; });
    fromStart({ find: "", picks: {}, status: "", only: false });
    $("find").focus();
  });
  $("fold").closest("label").hidden = !SEEDS.length;
  $("fold").addEventListener("change", () => fromStart({ fold: $("fold").checked }));
  $("compare").addEventListener("click", () => fromStart({ only: !state.only }));
  $("more-rows").addEventListener("click", () => change({ rows: state.rows + 200 }));
  $("more-panels").addEventListener("click", () => change({ panels: state.panels + 24 }));
  $("controls").addEventListener("submit", (e) => e.preventDefault());
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
}

listen();
buildMenus();
recall();
drawHeader();
change({});
