// What PyHessian says of the same points, beside the exact number.

import { num } from "../core/text.js";
import { $, make } from "../draw/dom.js";

/** @typedef {import("../pages/run.js").View} View */

/** @param {View} view */
export function drawPeers(view) {
  const rows = view.run.peers;
  $("peers-card").hidden = !rows.length;
  const heads = ["sample", "at", "Tr H", "PyHessian", "λ_max", "PyHessian"];
  $("peers").replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map((h, k) => make("th", { scope: "col", class: k > 1 ? "num" : null }, h)))),
    make("tbody", {}, ...rows.map(([sample, at, trace, peer, se, top, other]) => make("tr", {},
      make("th", { scope: "row" }, String(sample)), make("td", {}, at), make("td", { class: "num" }, num(trace)),
      make("td", { class: "num" }, `${num(peer)} ± ${num(se, 2)}`), make("td", { class: "num" }, num(top)), make("td", { class: "num" }, num(other))))));
}
