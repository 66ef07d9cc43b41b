// Where the names of marks stand in a picture: beside their mark, and none over another or over a mark.

/** @typedef {{ x: number, y: number, text: string }} Named */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box its upper left corner, and its size */
/** @typedef {{ box: Box, far: boolean }} Place `far`: so far off that a line must lead to the mark */

const NEAR = 14, FURTHER = [27, 44, 66, 92];
/** Half the sizes of a dot and of a named mark, in px. */
const DOT = 7, MARK = 13;
/** Of a label beside its mark: right, left, above, below, then the corners. */
const SIDES = [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [-1, -1], [1, 1], [-1, 1]];

/** @param {Box} a @param {Box} b */
export const overlap = (a, b) => Math.max(0, Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x)) * Math.max(0, Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y));

/** @param {Box} outer @param {Box} box */
export const within = (outer, box) => box.x >= outer.x && box.y >= outer.y && box.x + box.width <= outer.x + outer.width && box.y + box.height <= outer.y + outer.height;

/** @param {Named} mark @param {number[]} side @param {number} off @param {number} width @param {number} height @returns {Box} */
function beside(mark, [h, v], off, width, height) {
  const step = h && v ? off * 0.75 : off;
  return { x: mark.x + h * step - (h < 0 ? width : h ? 0 : width / 2), y: mark.y + v * step - (v < 0 ? height : v ? 0 : height / 2), width, height };
}

/**
 * A place for each name, null where there is none: then the pointer and the table tell it.
 * @param {Named[]} marks @param {{ x: number, y: number }[]} dots that no name may lie on @param {Box} frame
 * @param {(text: string) => number} widthOf in px @param {number} [height] of a name @returns {(Place | null)[]}
 */
export function placed(marks, dots, frame, widthOf, height = 16) {
  const around = (/** @type {number} */ r) => (/** @type {{ x: number, y: number }} */ { x, y }) => ({ x: x - r, y: y - r, width: 2 * r, height: 2 * r });
  const taken = [...dots.map(around(DOT)), ...marks.map(around(MARK))];
  /** @type {(Place | null)[]} */
  const out = marks.map(() => null);
  // Marks with the fewest neighbours last: they find room anywhere.
  const crowd = (/** @type {Named} */ one) => marks.filter((other) => Math.hypot(one.x - other.x, one.y - other.y) < 60).length;
  const order = marks.map((_, i) => i).sort((a, b) => crowd(marks[b]) - crowd(marks[a]) || a - b);
  for (const i of order) {
    const width = widthOf(marks[i].text);
    for (const off of [NEAR, ...FURTHER]) {
      const box = SIDES.map((side) => beside(marks[i], side, off, width, height)).find((one) => within(frame, one) && !taken.some((other) => overlap(one, other)));
      if (!box) continue;
      out[i] = { box, far: off > NEAR };
      taken.push(box);
      break;
    }
  }
  return out;
}
