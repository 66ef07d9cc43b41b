import { describe, expect, it } from "vitest";

import { decadesOf, dotsOf, meansOf, MOST_DOTS, nextDot, orderOf, percentsOf } from "../../flatlens/report/assets/core/defences.js";
import { overlap, placed, within } from "../../flatlens/report/assets/core/placing.js";
import { random } from "./made.js";

const row = (name, attacked = false, seeds = 2) => ({ name, attacked, seeds, masked: 0 });
const point = (of, seed, kappa, value, more = {}) => ({ row: of, seed, kappa, worst: [value, value - 0.04, value + 0.04], n: 450, masked: false, ...more });
const of = { rows: [row("standard"), row("pgd", true)], points: [point(0, 0, 1, 0.4), point(0, 1, 100, 0.5), point(1, 0, 1000, 0.7, { masked: true }), point(1, 1, 0, 0.7), point(1, 2, null, 0.7)] };

describe("the dots", () => {
  it("are the trainings with a κ above 0, and say what they are", () => {
    const { dots, able } = dotsOf(of);
    expect([able, dots.map((dot) => dot.k)]).toEqual([3, [0, 1, 2]]);
    expect(dots[1]).toMatchObject({ row: 0, x: 2, y: 50 });
    expect(dots[0].said).toBe("standard, seed 0: κ 1, worst case 40.0 % [36.0–44.0 %] of 450");
    expect(dots[2].said).toContain(", masked");
    expect(dotsOf({ rows: [row("a", false, 1)], points: [point(0, null, 2, 0.5, { n: null })] }).dots[0].said).toBe("a: κ 2, worst case 50.0 % [46.0–54.0 %]");
  });

  it("lie by the Lipschitz bound where that is asked for, whatever their κ", () => {
    const bounded = { rows: of.rows, points: [point(0, 0, null, 0.4, { lipschitz: 1000 }), point(1, 0, 5, 0.7, { lipschitz: null }), point(1, 1, 5, 0.7, { lipschitz: 0 })] };
    const { dots, able } = dotsOf(bounded, "lipschitz");
    expect([able, dots.map(({ k, x: log, y }) => [k, log, y])]).toEqual([1, [[0, 3, 40]]]);
    expect(dots[0].said).toBe("standard, seed 0: κ –, Lipschitz bound 1,000, worst case 40.0 % [36.0–44.0 %] of 450");
    expect(dotsOf(bounded).able).toBe(2);
  });

  it("are bounded, evenly spaced", () => {
    const many = dotsOf({ rows: [row("a")], points: Array.from({ length: 9000 }, (_, k) => point(0, k, 1 + k, 0.5)) });
    expect([many.able, many.dots.length, many.dots[0].k]).toEqual([9000, MOST_DOTS, 0]);
    expect(many.dots[MOST_DOTS - 1].k).toBeGreaterThan(8990);
  });

  it("have a mean for each defence, of log κ", () => {
    const [standard, pgd] = meansOf(of, dotsOf(of).dots);
    expect(standard).toEqual({ row: 0, x: 1, y: 45, seeds: 2, name: "standard", attacked: false, masked: false });
    expect(pgd).toMatchObject({ row: 1, x: 3, seeds: 1, masked: true });
    expect(meansOf(of, [])).toEqual([]);
  });

  it.each([["ArrowRight", 0, 1], ["ArrowLeft", 1, 0], ["ArrowLeft", 0, 0], ["ArrowUp", 1, 2], ["ArrowDown", 2, 1], ["End", 0, 2], ["Home", 2, 0], ["Tab", 0, null]])("%s leads from %i to %j", (key, at, to) => {
    expect(nextDot(dotsOf(of).dots, at, key)).toBe(to);
  });
});

describe("the scales", () => {
  it.each([[[0, 3]], [[-12, 5]], [[0.1, 0.2]], [[1.3, 1.3]], [[-0.4, 0.9]]])("hold %j, with at least two ticks on them", (logs) => {
    const scale = decadesOf(logs);
    expect(scale.low).toBeLessThan(Math.min(...logs));
    expect(scale.high).toBeGreaterThan(Math.max(...logs));
    expect(scale.ticks.length).toBeGreaterThanOrEqual(logs[0] === logs[1] ? 1 : 2);
    expect(scale.ticks.length).toBeLessThanOrEqual(10);
    for (const tick of scale.ticks) expect(tick >= scale.low && tick <= scale.high).toBe(true);
  });

  it("hold all intervals, from and to a ten", () => {
    expect(percentsOf([{ low: 36, high: 44 }, { low: 68.9, high: 75 }])).toEqual({ low: 30, high: 80, ticks: [30, 40, 50, 60, 70, 80] });
    expect(percentsOf([{ low: 0, high: 100 }])).toEqual({ low: 0, high: 100, ticks: [0, 20, 40, 60, 80, 100] });
  });
});

describe("the names", () => {
  const frame = { x: 40, y: 10, width: 1000, height: 400 }, width = (text) => 7 * text.length;

  it("never lie over each other, over a mark, or outside of the picture", () => {
    const draw = random(5);
    for (let round = 0; round < 40; round++) {
      const marks = Array.from({ length: 13 }, (_, k) => ({ x: 60 + 960 * draw(), y: 20 + 380 * draw(), text: "name".repeat(1 + (k % 3)) }));
      const dots = marks.flatMap(({ x, y }) => [{ x: x + 20 * draw(), y: y - 20 * draw() }]), places = placed(marks, dots, frame, width), boxes = places.filter(Boolean).map((place) => place.box);
      for (const [i, box] of boxes.entries()) {
        expect(within(frame, box)).toBe(true);
        for (const other of boxes.slice(i + 1)) expect(overlap(box, other)).toBe(0);
        for (const { x, y } of [...marks, ...dots]) expect(overlap(box, { x: x - 4, y: y - 4, width: 8, height: 8 })).toBe(0);
      }
      expect(boxes.length).toBeGreaterThanOrEqual(12); // nearly all find room
    }
  });

  it("stand beside a mark that is alone, on the side where there is room", () => {
    const [right] = placed([{ x: 100, y: 100, text: "abc" }], [], frame, width), [left] = placed([{ x: 1035, y: 100, text: "abc" }], [], frame, width);
    expect([right.far, right.box.x > 100, left.box.x + left.box.width < 1035]).toEqual([false, true, true]);
  });

  it("are left out where there is no room, and led to where it is far", () => {
    const crowd = Array.from({ length: 400 }, (_, k) => ({ x: 50 + (k % 20) * 2, y: 60 + Math.floor(k / 20) * 2, text: "a name" }));
    const places = placed(crowd, [], frame, width);
    expect(places.some((place) => place === null)).toBe(true);
    expect(places.some((place) => place?.far)).toBe(true);
  });
});

describe("the table's order", () => {
  it.each([[false, [2, 0, 3, 1]], [true, [0, 3, 2, 1]]])("down %s: what has no value comes last, equals stay as they are", (down, order) => {
    expect(orderOf([3, null, 1, 3], down)).toEqual(order);
  });
});
