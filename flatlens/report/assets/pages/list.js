// The list of a folder's runs and sweeps: found, sorted, chosen, and kept up to date.

import { COLUMNS, STATES, far, hashOf, listed, nameOf, wantedOf } from "../core/listing.js";
import { percent } from "../core/text.js";
import { $, make, segments } from "../draw/dom.js";
import { dressed } from "../draw/dress.js";

/** @typedef {import("../core/listing.js").Row} Row */
/** @typedef {import("../core/listing.js").Wanted} Wanted */

const EVERY = 2000, AT_ONCE = 200, MOST = 24;

export function opened() {
  const data = JSON.parse($("listing").textContent);
  /** @type {Row[]} */
  let rows = data.rows;
  /** @type {Wanted} */
  let wanted = wantedOf(location.hash);
  /** @type {Set<string>} */
  const chosen = new Set();
  let most = AT_ONCE, mark = "", answering = true;

  /** @param {Partial<Wanted>} parts */
  function change(parts) {
    wanted = { ...wanted, ...parts };
    most = AT_ONCE;
    history.replaceState(null, "", hashOf(wanted));
    drawAll();
  }

  function drawAll() {
    const focused = /** @type {any} */ (document.activeElement)?.dataset?.focus;
    const shown = listed(rows, wanted);
    if ($("find").value !== wanted.find) $("find").value = wanted.find;
    segments($("states"), STATES.map((s) => [s, s]), wanted.state, (state) => change({ state }));
    segments($("cells"), [["no", "runs and sweeps"], ["yes", "cells, too"]], wanted.cells ? "yes" : "no", (c) => change({ cells: c === "yes" }));
    $("cells").hidden = !rows.some((row) => row.kind === "cell");
    $("list").replaceChildren(head(), make("tbody", {}, ...shown.slice(0, most).map(line)));
    const left = Math.max(0, shown.length - most);
    $("more").hidden = left === 0;
    $("more").textContent = `Show ${Math.min(left, AT_ONCE)} more of ${left.toLocaleString("en-US")}`;
    const all = rows.filter((row) => wanted.cells || row.kind !== "cell").length;
    const said = shown.length === all ? all.toLocaleString("en-US") : `${shown.length.toLocaleString("en-US")} of ${all.toLocaleString("en-US")}`;
    if ($("shown").textContent !== said) { $("shown").textContent = said; $("live").textContent = `${said} shown`; }
    $("note").textContent = [
      answering ? "" : "flatlens view does not answer any more: the list is as it was.",
      data.left_out ? `${data.left_out.toLocaleString("en-US")} more are not listed: open a folder within this one.` : "",
      "Shares with the range of their 95 % intervals; “–”: not told without opening the tables.",
    ].filter(Boolean).join(" ");
    drawChosen();
    if (focused) /** @type {any} */ ([...document.querySelectorAll("[data-focus]")].find((node) => /** @type {any} */ (node).dataset.focus === focused))?.focus();
  }

  function drawChosen() {
    const n = chosen.size;
    $("compare").disabled = n < 2 || n > MOST;
    $("compare").textContent = n > MOST ? `Compare at most ${MOST}` : n < 2 ? "Compare" : `Compare ${n}`;
    $("none").hidden = n === 0;
  }

  function head() {
    const titles = COLUMNS.map((column) => {
      const on = wanted.sort === column.key;
      // Numbers are worth seeing from their large end first, texts from the start.
      const down = on ? !wanted.down : column.kind !== "text";
      const button = make("button", { type: "button", "data-focus": `sort ${column.key}`, onclick: () => change({ sort: column.key, down }) },
        column.title, make("span", { "aria-hidden": "true" }, on ? (wanted.down ? " ↓" : " ↑") : ""));
      return make("th", { scope: "col", class: column.opt, "aria-sort": on ? (wanted.down ? "descending" : "ascending") : "none" }, button);
    });
    return make("thead", {}, make("tr", {}, make("td", { class: "pick" }), ...titles));
  }

  /** @param {Row} row */
  function line(row) {
    const may = (row.kind === "run" || row.kind === "cell") && row.state === "finished";
    const box = may && make("input", { type: "checkbox", "data-focus": `pick ${row.key}`, "aria-label": `Choose ${nameOf(row)}`, onchange: () => {
      if (box.checked) chosen.add(row.key); else chosen.delete(row.key);
      drawChosen();
      $("live").textContent = `${chosen.size} chosen`;
    } });
    if (may) box.checked = chosen.has(row.key);
    const name = make("a", { href: row.href, "data-focus": `open ${row.key}` }, nameOf(row));
    const below = row.about ?? (row.kind === "sweep" ? `sweep${row.varies ? ` over ${row.varies}` : ""}` : nameOf(row) === row.place ? null : row.place);
    const cells = [make("td", { class: "pick" }, may ? make("label", {}, box) : ""), make("th", { scope: "row", title: nameOf(row) }, name, below && make("small", { title: below }, below))];
    if (row.state === "damaged") {
      cells.push(make("td", { class: "damage", colspan: COLUMNS.length - 1 }, make("b", { class: "state-damaged" }, "damaged "), row.error ?? ""));
    } else cells.push(...COLUMNS.slice(1).map((column) => make("td", { class: column.opt }, shownAs(row, column.key))));
    return make("tr", {}, ...cells);
  }

  /** @param {Row} row @param {string} key */
  function shownAs(row, key) {
    const value = row[key];
    if (key === "state") return make("span", { class: `state-${row.state}` }, far(row));
    if (key === "when") return make("time", { datetime: new Date(row.when * 1000).toISOString() }, moment(row.when));
    if (key === "cautions") {
      if (!row.cautions.length) return "";
      const told = row.cautions.map(([code, message]) => make("p", {}, make("b", {}, code.replaceAll("-", " ")), ` ${message}`));
      return make("details", {}, make("summary", { "data-focus": `cautions ${row.key}` }, String(row.cautions.length)), ...told);
    }
    if (value === undefined || value === null) return row.kind === "sweep" ? "" : "–";
    if (Array.isArray(value)) {
      const [share, low, high, n] = value;
      return make("span", { title: `n = ${n}` }, percent(share), " ", make("small", {}, `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)}`));
    }
    return row[`${key}_text`] ?? make("span", { title: String(value) }, String(value));
  }

  async function poll() {
    if (!document.hidden) {
      try {
        const answer = await fetch("/api/list", { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
        const again = !answering;
        answering = answer.ok || answer.status === 304;
        if (answer.ok) {
          mark = answer.headers.get("ETag") ?? "";
          const fresh = await answer.json();
          if (again || JSON.stringify(fresh.rows) !== JSON.stringify(rows)) {
            rows = fresh.rows;
            data.left_out = fresh.left_out;
            const there = new Set(rows.map((row) => row.key));
            chosen.forEach((key) => there.has(key) || chosen.delete(key));
            drawAll();
          }
        } else if (again === answering) drawAll();
      } catch {
        if (answering) { answering = false; drawAll(); }
      }
    }
    setTimeout(poll, EVERY);
  }

  $("find").addEventListener("input", () => change({ find: $("find").value }));
  $("tools").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  $("none").addEventListener("click", () => { chosen.clear(); drawAll(); $("find").focus(); });
  $("compare").addEventListener("click", () => { location.href = `/compare?runs=${[...chosen].join(".")}`; });
  $("more").addEventListener("click", () => { most += AT_ONCE; drawAll(); });
  window.addEventListener("hashchange", () => { wanted = wantedOf(location.hash); drawAll(); });
  dressed();
  drawAll();
  document.documentElement.dataset.ready = "yes";
  setTimeout(poll, EVERY);
}

/** A moment as people of this machine write it, to the minute. @param {number} seconds */
function moment(seconds) {
  const at = new Date(seconds * 1000), two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}
