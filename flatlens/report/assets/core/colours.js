// Figures are drawn in the light theme's colours; here they get those of the theme that is shown.

/** @param {string} hex */
const channels = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));

/**
 * @param {Record<string, string>} from
 * @param {Record<string, string>} to
 * @returns {(colour: string) => string}
 */
export function exchanger(from, to) {
  const pairs = new Map(Object.entries(from).map(([name, hex]) => [hex.toLowerCase(), to[name]]));
  const faded = new Map(Object.entries(from).map(([name, hex]) => [channels(hex).join(","), channels(to[name]).join(",")]));
  return (colour) => {
    const own = pairs.get(colour.toLowerCase());
    if (own) return own;
    const parts = /^rgba\((\d+,\d+,\d+),([\d.]+)\)$/.exec(colour.replace(/\s/g, ""));
    return parts && faded.has(parts[1]) ? `rgba(${faded.get(parts[1])},${parts[2]})` : colour;
  };
}

/**
 * A figure in other colours; its numbers are shared with the first.
 * @param {any} node
 * @param {(colour: string) => string} exchange
 * @returns {any}
 */
export function recolour(node, exchange) {
  if (typeof node === "string") return node[0] === "#" || node.startsWith("rgba(") ? exchange(node) : node;
  if (Array.isArray(node)) return node.length > 64 ? node : node.map((part) => recolour(part, exchange));
  if (!node || typeof node !== "object" || "bdata" in node || ArrayBuffer.isView(node)) return node;
  return Object.fromEntries(Object.entries(node).map(([key, part]) => [key, recolour(part, exchange)]));
}

/** @param {string} hex @param {number} alpha */
export const fade = (hex, alpha) => `rgba(${channels(hex).join(",")},${alpha})`;

export { channels };
