// What is chosen on a sweep's page: its menus, fields and buttons, which follow the state and change it.

import { ALL_LAYERS, words } from "../core/cells.js";
import { HEIGHTS, isFiltered, itemsOf, SHARES } from "../core/rows.js";
import { brief, count } from "../core/text.js";
import { $, make } from "../draw/dom.js";
import { PANELS_AT_ONCE } from "./panels.js";
import { ROWS_AT_ONCE } from "./cells.js";

/** @typedef {import("../pages/sweep.js").View} View */
/** @typedef {import("../core/types.js").Asked} Asked */

const PAUSE = 120; // ms without a letter, after which what was typed is looked for

/** @param {string} name @param {[string | number, string][]} options @param {Record<string, any>} attributes */
const menuOf = (name, options, attributes) => make("label", {}, `${name} `, make("select", attributes, ...options.map(([value, said]) => make("option", { value }, said))));

/** @param {View} view */
export function listenMenus(view) {
  const { book, fresh } = view, { data } = book;
  const layers = /** @type {[number, string][]} */ ([...data.layers.map((name, k) => [k, name]), ...(data.layers.length > 1 ? [[ALL_LAYERS, "all, a row each"]] : [])]);
  $("layer").replaceChildren(...layers.map(([value, name]) => make("option", { value }, name)));
  $("layer").closest("label").hidden = data.layers.length < 2;
  $("layer").addEventListener("change", () => fresh({ layer: Number($("layer").value) }));
  radios("share", SHARES.map(([value, name]) => [value, name.replace("all that were right", "all right")]), (share) => view.change({ share }));
  radios("heights", HEIGHTS, (heights) => view.change({ heights }));
  const menus = data.varying.map((column, k) => menuOf(words(column.key), [[-1, "all"], ...column.values.map((v, code) => /** @type {[number, string]} */ ([code, brief(v, 48)]))], {
    id: `pick-${k}`, onchange: () => fresh({ picks: { ...view.asked.picks, [k]: Number($(`pick-${k}`).value) } }),
  }));
  const states = [...new Set(data.cells.state)];
  if (states.length > 1) menus.push(menuOf("state", [["", "all"], ...states.map((s) => /** @type {[string, string]} */ ([s, s]))], { id: "pick-state", onchange: () => fresh({ status: $("pick-state").value }) }));
  $("menus").replaceChildren(...menus);
  listenButtons(view);
}

/** @param {View} view */
function listenButtons(view) {
  const { fresh } = view;
  /** @type {any} */
  let typing = null;
  $("find").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => fresh({ find: $("find").value.trim() }), PAUSE); });
  $("reset").addEventListener("click", () => {
    clearTimeout(typing);
    fresh({ find: "", picks: {}, status: "", only: false });
    $("find").value = "";
    $("find").focus();
  });
  $("fold").closest("label").hidden = !view.book.seeds.length;
  $("fold").addEventListener("change", () => fresh({ fold: $("fold").checked }));
  $("compare").addEventListener("click", () => fresh({ only: !view.asked.only }));
  $("more-rows").addEventListener("click", () => view.more({ rows: view.most.rows + ROWS_AT_ONCE }));
  $("more-panels").addEventListener("click", () => view.more({ panels: view.most.panels + PANELS_AT_ONCE }));
  $("controls").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
}

/** @param {string} id of a field set @param {string[][]} options @param {(value: string) => void} choose */
function radios(id, options, choose) {
  $(id).append(...options.map(([value, said]) => make("label", {}, make("input", { type: "radio", name: id, value, onchange: () => choose(value) }), make("span", {}, said))));
}

/** @param {View} view */
export function drawMenus({ book, asked, shown }) {
  const every = itemsOf(book, asked).length, filtered = isFiltered(asked);
  $("layer").value = String(asked.layer);
  for (const id of /** @type {("share" | "heights")[]} */ (["share", "heights"])) {
    $(id).querySelectorAll("input").forEach((/** @type {any} */ input) => { input.checked = input.value === asked[id]; });
  }
  book.data.varying.forEach((_, k) => { $(`pick-${k}`).value = String(asked.picks[k] ?? -1); });
  if ($("pick-state")) $("pick-state").value = asked.status;
  if ($("find").value.trim() !== asked.find) $("find").value = asked.find;
  $("fold").checked = asked.fold;
  $("matches").textContent = filtered ? `${count(shown.length)} of ${count(every)} rows` : `${count(every)} rows`;
  $("reset").hidden = !filtered && !asked.only;
  $("compare").hidden = !asked.picked.length;
  $("compare").textContent = asked.only ? `Compared: ${count(asked.picked.length)} runs` : `Compare ${count(asked.picked.length)} runs`;
  $("compare").setAttribute("aria-pressed", String(asked.only));
}
