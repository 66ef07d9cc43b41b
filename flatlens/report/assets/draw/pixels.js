// Inputs as pixels: pictures, signed changes with one fixed gain, thumbnails.

import { channels } from "../core/colours.js";
import { make } from "./dom.js";

/** @typedef {import("../core/types.js").Kept} Kept */

/** One value of a kept input, in the units of the input. @param {Kept} kept @param {number} row @returns {(k: number) => number} */
export function values(kept, row) {
  const raw = /** @type {any} */ (kept.x).row(row), low = kept.low ?? 0, step = ((kept.high ?? 1) - low) / (raw instanceof Uint8Array ? 255 : 65535);
  return (k) => low + raw[k] * step;
}

/** Inputs outside [0, 1] (normalised ones) are shown over their own range. @param {Kept} kept @param {number} row */
export function natural(kept, row) {
  const [depth, height, width] = kept.shape, of = values(kept, row), size = height * width;
  const low = kept.low ?? 0, high = kept.high ?? 1;
  return (/** @type {number} */ k) => [0, 1, 2].map((c) => (255 * (of(k + (depth === 3 ? c * size : 0)) - low)) / (high - low));
}

/**
 * The change since the clean input: of one channel, or the mean over them.
 * @param {Kept} kept @param {number} row @param {number} clean @param {number} channel -1 for the mean
 */
export function change(kept, row, clean, channel) {
  const [depth, height, width] = kept.shape, size = height * width, now = values(kept, row), before = values(kept, clean);
  const out = new Float32Array(size);
  let most = 0;
  for (let k = 0; k < size; k++) {
    for (let c = 0; c < depth; c++) {
      const d = now(k + c * size) - before(k + c * size);
      most = Math.max(most, Math.abs(d));
      if (channel < 0) out[k] += d / depth;
      else if (c === channel) out[k] = d;
    }
  }
  return { values: out, most };
}

/** Blue for darker, amber for lighter, the ground for no change. @param {ArrayLike<number>} of @param {number} full @param {Record<string, string>} colours */
export function signed(of, full, colours) {
  const none = channels(colours.soft), down = channels(colours.attack), up = channels(colours.cross);
  return (/** @type {number} */ k) => {
    const v = full > 0 ? Math.max(-1, Math.min(1, of[k] / full)) : 0, end = v < 0 ? down : up;
    return none.map((c, j) => c + (end[j] - c) * Math.abs(v));
  };
}

/** @param {any} canvas @param {(k: number) => number[]} colour */
export function paint(canvas, colour) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let k = 0; k < canvas.width * canvas.height; k++) {
    const [r, g, b] = colour(k);
    image.data.set([r, g, b, 255], 4 * k);
  }
  context.putImageData(image, 0, 0);
}

/** @param {Kept} kept @param {number} row @param {Record<string, any>} [attributes] */
export function picture(kept, row, attributes = {}) {
  const canvas = make("canvas", { width: kept.shape[2], height: kept.shape[1], ...attributes });
  paint(canvas, natural(kept, row));
  return canvas;
}
