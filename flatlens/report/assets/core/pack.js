// Numbers as the page carries them: typed arrays in base64, the whole compressed.

/** @typedef {import("./types.js").Packed} Packed */
/** @typedef {import("./types.js").Matrix} Matrix */

const ARRAYS = { f32: Float32Array, f64: Float64Array, u32: Uint32Array, u16: Uint16Array, u8: Uint8Array };

/** @param {string} text @returns {Uint8Array<ArrayBuffer>} */
export function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
  return bytes;
}

/** @param {Packed} packed @returns {Matrix} */
export function decode(packed) {
  const kind = /** @type {keyof typeof ARRAYS} */ (Object.keys(ARRAYS).find((name) => name in packed));
  const values = new ARRAYS[kind](bytesOf(/** @type {string} */ (packed[kind])).buffer);
  const width = packed.shape.length > 1 ? packed.shape.slice(1).reduce((a, b) => a * b, 1) : 1;
  return { values, width, row: (i) => values.subarray(i * width, (i + 1) * width) };
}

/**
 * Every packed array in a tree, decoded in place; plotly's own arrays (`bdata`) are left to plotly.
 * @param {any} node
 */
export function unpack(node) {
  if (!node || typeof node !== "object" || "bdata" in node) return node;
  for (const [name, part] of Object.entries(node)) {
    const packed = part && typeof part === "object" && "shape" in part && Object.keys(ARRAYS).some((kind) => kind in part);
    node[name] = packed ? decode(part) : unpack(part);
  }
  return node;
}

/** @param {string} text compressed, in base64 @returns {Promise<string>} */
export async function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
