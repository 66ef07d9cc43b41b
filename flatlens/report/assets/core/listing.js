// Which rows of a list are shown, and in which order: no drawing.

/**
 * @typedef {Record<string, any> & { key: string, kind: string, href: string, place: string, state: string, when: number,
 *   cautions: [string, string][] }} Row
 */
/** @typedef {{ find: string, state: string, cells: boolean, sort: string, down: boolean }} Wanted */

export const STATES = ["all", "finished", "running", "interrupted", "damaged"];

/** @type {{ key: string, title: string, kind: "text" | "number" | "share", opt?: string }[]} */
export const COLUMNS = [
  { key: "name", title: "name", kind: "text" },
  { key: "model", title: "model", kind: "text", opt: "opt2" },
  { key: "data", title: "data", kind: "text", opt: "opt" },
  { key: "attack", title: "attack", kind: "text", opt: "opt2" },
  { key: "eps", title: "ε", kind: "number", opt: "opt" },
  { key: "steps", title: "steps", kind: "number", opt: "opt" },
  { key: "state", title: "state", kind: "text" },
  { key: "clean", title: "right, clean", kind: "share", opt: "opt" },
  { key: "attacked", title: "right, attacked", kind: "share", opt: "opt" },
  { key: "valley", title: "valleys of the flipped", kind: "share", opt: "opt2" },
  { key: "cautions", title: "cautions", kind: "number", opt: "opt" },
  { key: "when", title: "when", kind: "number", opt: "opt2" },
];

/** What a row is called. @param {Row} row */
export const nameOf = (row) => row.name || row.label || row.place;

/** What a column sorts by; null where a row has nothing there. @param {Row} row @param {string} key @returns {string | number | null} */
export function valueOf(row, key) {
  if (key === "name") return nameOf(row);
  if (key === "cautions") return row.cautions.length;
  const value = row[key];
  if (Array.isArray(value)) return value[0];
  return value === undefined ? null : value;
}

/** How far a row is, in words. @param {Row} row */
export function far(row) {
  const of = (/** @type {string} */ what) => `${(row.done ?? 0).toLocaleString("en-US")} of ${(row.total ?? 0).toLocaleString("en-US")} ${what}`;
  if (row.state === "damaged") return "damaged";
  if (row.kind === "sweep") return `${row.state}, ${of("cells")}${row.failed ? `, ${row.failed.toLocaleString("en-US")} failed` : ""}`;
  return row.state === "finished" ? "finished" : `${row.state}, ${of("batches")}`;
}

/** The rows that are wanted, in their order. @param {Row[]} rows @param {Wanted} wanted @returns {Row[]} */
export function listed(rows, wanted) {
  const words = wanted.find.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = rows.filter((row) =>
    (wanted.cells || row.kind !== "cell") && (wanted.state === "all" || row.state === wanted.state) && words.every((word) => textOf(row).includes(word)));
  const sign = wanted.down ? -1 : 1;
  return shown
    .map((row) => ({ row, value: valueOf(row, wanted.sort) }))
    .sort((a, b) => {
      // What has no value stands last, whichever way it is sorted.
      if (a.value === null || b.value === null) return Number(a.value === null) - Number(b.value === null);
      if (typeof a.value === "number" && typeof b.value === "number") return sign * (a.value - b.value);
      return sign * String(a.value).localeCompare(String(b.value), "en", { numeric: true });
    })
    .map(({ row }) => row);
}

/** @param {Row} row */
function textOf(row) {
  const parts = [nameOf(row), row.place, row.model, row.data, row.attack, row.eps_text, row.steps, row.varies, row.about, row.error, far(row), row.kind, ...row.cautions.map(([code]) => code)];
  return parts.filter((part) => part !== undefined && part !== null).join(" ").toLowerCase();
}

/** What is wanted, as the hash of an address. @param {Wanted} wanted */
export function hashOf(wanted) {
  const parts = new URLSearchParams();
  if (wanted.find) parts.set("q", wanted.find);
  if (wanted.state !== "all") parts.set("f", wanted.state);
  if (wanted.cells) parts.set("c", "1");
  if (wanted.sort !== "when" || !wanted.down) parts.set("o", `${wanted.down ? "-" : ""}${wanted.sort}`);
  const text = parts.toString();
  return text ? `#${text}` : "#";
}

/** What a hash asks for; what it cannot ask for is left out. @param {string} hash @returns {Wanted} */
export function wantedOf(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const order = parts.get("o") ?? "-when", sort = order.replace(/^-/, "");
  const known = COLUMNS.some((column) => column.key === sort), state = parts.get("f") ?? "all";
  return {
    find: (parts.get("q") ?? "").slice(0, 200),
    state: STATES.includes(state) ? state : "all",
    cells: parts.get("c") === "1",
    sort: known ? sort : "when",
    down: known ? order.startsWith("-") : true,
  };
}
