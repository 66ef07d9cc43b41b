// A surface over a plane, painted on a canvas: no WebGL, so that it works headless, prints, and needs no library.

import { channels } from "../core/colours.js";

/**
 * @typedef {{ u: ArrayLike<number>, v: ArrayLike<number>, height: (row: number, column: number) => number,
 *   right: ((row: number, column: number) => boolean) | null, ways: { points: [number, number][], role: string }[],
 *   marks: { at: [number, number], text: string, role: string, left?: boolean }[], here: [number, number] | null,
 *   range: [number, number] }} Land
 * @typedef {{ yaw: number, pitch: number }} Turn
 */

const LIFT = 0.5;

/** Between the grid's nodes. @param {Land} land @param {[number, number]} at */
export function heightAt(land, [u, v]) {
  const [i, f] = cellOf(land.u, u), [j, g] = cellOf(land.v, v), h = land.height;
  return h(j, i) * (1 - f) * (1 - g) + h(j, i + 1) * f * (1 - g) + h(j + 1, i) * (1 - f) * g + h(j + 1, i + 1) * f * g;
}

/** @param {ArrayLike<number>} axis @param {number} value @returns {[number, number]} */
function cellOf(axis, value) {
  const n = axis.length - 1, share = ((value - axis[0]) / (axis[n] - axis[0])) * n, i = Math.max(0, Math.min(n - 1, Math.floor(share)));
  return [i, Math.max(0, Math.min(1, share - i))];
}

/** A path in so many pieces that it lies on the ground and does not float. @param {[number, number][]} points */
const fine = (points) => points.flatMap((p, k) => (k === points.length - 1 ? [p] : [0, 0.25, 0.5, 0.75].map((f) => /** @type {[number, number]} */ ([p[0] + (points[k + 1][0] - p[0]) * f, p[1] + (points[k + 1][1] - p[1]) * f]))));

/** @param {any} canvas @param {Land} land @param {Turn} turn @param {Record<string, string>} colours */
export function paintRidge(canvas, land, turn, colours) {
  const width = canvas.clientWidth, height = Math.round(Math.min(356, Math.max(230, width * 0.55))), scale = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const c = canvas.getContext("2d");
  c.scale(scale, scale);
  const rows = land.v.length, columns = land.u.length, [low, high] = land.range;
  const cy = Math.cos(turn.yaw), sy = Math.sin(turn.yaw), cp = Math.cos(turn.pitch), sp = Math.sin(turn.pitch);
  const up = (/** @type {number} */ h) => ((Math.max(low, Math.min(high, Number.isNaN(h) ? low : h)) - low) / (high - low || 1)) * LIFT - 0.2;
  const raw = (/** @type {number} */ a, /** @type {number} */ b, /** @type {number} */ z) => { const x = a - 0.5, y = b - 0.5; return [x * cy - y * sy, -((x * sy + y * cy) * sp + z * cp), (x * sy + y * cy) * cp - z * sp]; };
  const U = (/** @type {number} */ u) => (u - land.u[0]) / (land.u[columns - 1] - land.u[0]), V = (/** @type {number} */ v) => (v - land.v[0]) / (land.v[rows - 1] - land.v[0]);
  const points = [], ends = [Infinity, Infinity, -Infinity, -Infinity];
  for (let j = 0; j < rows; j++) for (let i = 0; i < columns; i++) {
    const p = raw(U(land.u[i]), V(land.v[j]), up(land.height(j, i)));
    ends[0] = Math.min(ends[0], p[0]); ends[1] = Math.min(ends[1], p[1]); ends[2] = Math.max(ends[2], p[0]); ends[3] = Math.max(ends[3], p[1]);
    points.push(p);
  }
  const size = Math.min((width - 30) / (ends[2] - ends[0]), (height - 26) / (ends[3] - ends[1]));
  const dx = width / 2 - (size * (ends[0] + ends[2])) / 2, dy = height / 2 - (size * (ends[1] + ends[3])) / 2;
  const onto = (/** @type {number[]} */ p) => [dx + p[0] * size, dy + p[1] * size, p[2]];
  const placed = points.map(onto);
  const at = (/** @type {[number, number]} */ p, lift = 0.012) => onto(raw(U(p[0]), V(p[1]), up(heightAt(land, p)) + lift));

  const ok = channels(colours["right-side"]), bad = channels(colours["wrong-side"]), hot = channels(colours.hot), ground = channels(colours.soft);
  /** @type {[number, (context: any) => void][]} */
  const items = [];
  for (let j = 0; j < rows - 1; j++) for (let i = 0; i < columns - 1; i++) {
    const corners = [[j, i], [j, i + 1], [j + 1, i + 1], [j + 1, i]], z = corners.map(([r, k]) => up(land.height(r, k)));
    const nx = ((z[0] + z[3] - z[1] - z[2]) / 2) * columns, ny = ((z[0] + z[1] - z[2] - z[3]) / 2) * rows, length = Math.hypot(nx, ny, 3.2);
    const shade = Math.max(0.6, Math.min(1.15, 0.68 + (0.5 * (nx * -0.5 + ny * -0.35 + 2.6)) / length));
    const base = land.right ? (land.right(j, i) ? ok : bad) : ground, heat = Math.max(0, (z[0] + 0.2) / LIFT - 0.62) / 0.38;
    const colour = `rgb(${base.map((v, k) => Math.round(Math.min(255, (v + (hot[k] - v) * Math.min(1, heat) * 0.6) * shade)))})`;
    const quad = corners.map(([r, k]) => placed[r * columns + k]);
    items.push([quad.reduce((sum, p) => sum + p[2], 0) / 4, (g) => {
      g.beginPath();
      quad.forEach((p, k) => (k ? g.lineTo(p[0], p[1]) : g.moveTo(p[0], p[1])));
      g.closePath();
      g.fillStyle = colour;
      g.strokeStyle = colour;
      g.lineWidth = 0.7;
      g.fill();
      g.stroke();
      if (j % 5 && i % 5) return;
      g.strokeStyle = colours.ink;
      g.globalAlpha = 0.13;
      g.beginPath();
      if (j % 5 === 0) { g.moveTo(quad[0][0], quad[0][1]); g.lineTo(quad[1][0], quad[1][1]); }
      if (i % 5 === 0) { g.moveTo(quad[0][0], quad[0][1]); g.lineTo(quad[3][0], quad[3][1]); }
      g.stroke();
      g.globalAlpha = 1;
    }]);
  }
  for (const way of land.ways) {
    const all = fine(way.points).map((p) => at(p)), wide = way.role === "attack" ? 4 : 3.2;
    for (let k = 0; k < all.length - 1; k++) {
      const [p, q] = [all[k], all[k + 1]];
      items.push([(p[2] + q[2]) / 2 - 0.03, (g) => {
        for (const [stroke, line, alpha] of [[colours.card, wide + 2.4, 0.6], [colours[way.role], wide, 1]]) {
          g.beginPath(); g.moveTo(p[0], p[1]); g.lineTo(q[0], q[1]);
          g.strokeStyle = stroke; g.lineWidth = line; g.globalAlpha = alpha; g.stroke();
        }
        g.globalAlpha = 1;
      }]);
    }
  }
  c.lineJoin = "round";
  c.lineCap = "round";
  items.sort((a, b) => b[0] - a[0]).forEach(([, paint]) => paint(c));
  for (const mark of land.marks) dot(c, at(mark.at, 0.02), colours[mark.role], 5.5, colours, mark.text, mark.left ?? false, width);
  if (land.here) dot(c, at(land.here, 0.02), colours.chosen, 6.5, colours, "", false, width);
}

/** @param {any} c @param {number[]} at @param {string} colour @param {number} radius @param {Record<string, string>} colours @param {string} text @param {boolean} left @param {number} width */
function dot(c, at, colour, radius, colours, text, left, width) {
  c.beginPath();
  c.arc(at[0], at[1], radius, 0, 7);
  c.fillStyle = colour;
  c.strokeStyle = colours.card;
  c.lineWidth = 2;
  c.fill();
  c.stroke();
  if (!text) return;
  c.font = `600 12.5px ${getComputedStyle(document.body).fontFamily}`;
  const room = c.measureText(text).width + 12, before = left ? at[0] - room > 0 : at[0] + room > width;
  c.textAlign = before ? "right" : "left";
  c.lineWidth = 4;
  c.strokeStyle = colours.card;
  // On the side that it is not meant for it would lie on the path that leads to the mark.
  const x = at[0] + (before ? -11 : 11), y = at[1] + (before === left ? 5 : -9);
  c.strokeText(text, x, y);
  c.fillStyle = colours.ink;
  c.fillText(text, x, y);
}

/** The same from above. @param {any} canvas @param {Land} land @param {Record<string, string>} colours @param {number} height */
export function paintPlan(canvas, land, colours, height) {
  const width = canvas.clientWidth, scale = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const c = canvas.getContext("2d"), rows = land.v.length, columns = land.u.length, [low, high] = land.range;
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const s = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d")), image = s.createImageData(columns, rows), hot = channels(colours.hot);
  const ok = channels(colours["right-side"]), bad = channels(colours["wrong-side"]), card = channels(colours.card), ground = channels(colours.soft);
  for (let j = 0; j < rows; j++) for (let i = 0; i < columns; i++) {
    const h = land.height(j, i), share = Math.max(0, Math.min(1, ((Number.isNaN(h) ? low : h) - low) / (high - low || 1)));
    const base = land.right ? (land.right(j, i) ? ok : bad).map((v, k) => (v + 2 * card[k]) / 3) : ground;
    image.data.set([...base.map((v, k) => v + (hot[k] - v) * share ** 2.2), 255], 4 * ((rows - 1 - j) * columns + i));
  }
  s.putImageData(image, 0, 0);
  c.scale(scale, scale);
  c.imageSmoothingEnabled = true;
  const pad = 6, X = (/** @type {number} */ u) => pad + ((u - land.u[0]) / (land.u[columns - 1] - land.u[0])) * (width - 2 * pad), Y = (/** @type {number} */ v) => height - pad - ((v - land.v[0]) / (land.v[rows - 1] - land.v[0])) * (height - 2 * pad);
  c.drawImage(small, pad, pad, width - 2 * pad, height - 2 * pad);
  c.lineJoin = "round";
  for (const way of land.ways) {
    for (const [stroke, line] of /** @type {[string, number][]} */ ([[colours.card, 5.5], [colours[way.role], 3]])) {
      c.beginPath();
      way.points.forEach(([u, v], k) => (k ? c.lineTo(X(u), Y(v)) : c.moveTo(X(u), Y(v))));
      c.strokeStyle = stroke;
      c.lineWidth = line;
      c.stroke();
    }
  }
  for (const mark of land.marks) dot(c, [X(mark.at[0]), Y(mark.at[1])], colours[mark.role], 4.5, colours, mark.text, mark.left ?? false, width);
  if (land.here) dot(c, [X(land.here[0]), Y(land.here[1])], colours.chosen, 6, colours, "", false, width);
}
