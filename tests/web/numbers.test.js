import { describe, expect, it } from "vitest";

import { bytesOf, decode, inflate, unpack } from "../../flatlens/report/assets/core/pack.js";
import { frames, kind, moments, nearest, numbers, verdict } from "../../flatlens/report/assets/core/sample.js";
import { gallery, inBox, summary } from "../../flatlens/report/assets/core/select.js";
import { median, wilson } from "../../flatlens/report/assets/core/statistics.js";
import { first } from "../../flatlens/report/assets/core/state.js";
import { samplesOf } from "../../flatlens/report/assets/parts/export.js";
import { PLOTS, spread } from "../../flatlens/report/assets/parts/plots.js";
import { anyState, made, packed, random } from "./made.js";

const { run, truth } = made();
const state = first([run]);

describe("what is said of a sample", () => {
  it("is the same in the inspector, at the dot of every figure, and in the table, for 200 random states", () => {
    const draw = random(5);
    for (let k = 0; k < 200; k++) {
      const s = anyState([run], draw), { sample: i, step: t } = s, view = { run, state: s };
      const own = truth.flow[s.path], flip = own.flip[i], said = numbers(run, s);
      const x = s.align === "raw" ? t : flip < 0 ? NaN : t - flip;
      expect(said).toEqual({
        x, value: truth.lines[s.layer][s.measure][s.path][i][t], loss: own.loss[i][t], margin: own.margin[i][t], confidence: own.confidence[i][t], prediction: own.prediction[i][t],
      });
      expect(PLOTS.valley.y(view, i, t)).toBe(said.value);
      expect(PLOTS.margin.y(view, i, t)).toBe(said.margin);
      expect(PLOTS.loss.y(view, i, t)).toBe(said.loss);
      expect([PLOTS.crossing.x(view, i, t), PLOTS.crossing.y(view, i, t)]).toEqual([said.margin, said.value]);
      const [head, ...rows] = samplesOf(view, [i]);
      expect(head).toEqual(["sample", "label", "step", "offset", s.measure, "loss", "margin", "confidence", "prediction"]);
      expect(rows[t]).toEqual([run.sample[i], run.truth[i], t, said.x, said.value, said.loss, said.margin, said.confidence, said.prediction]);
    }
  });

  it("names the moments in their order", () => {
    const i = state.sample, flip = truth.flow[0].flip[i], row = truth.lines[0].relative_flatness[0][i];
    expect(moments(run, state)).toEqual([["clean", 0], ["flip", flip], ["peak", row.indexOf(Math.max(...row))], ["end", 8]]);
    const never = truth.flow[0].flip.indexOf(-1);
    expect(moments(run, { ...state, sample: never }).map(([name]) => name)).toEqual(["clean", "peak", "end"]);
  });

  it("has a verdict for every kind", () => {
    const of = (i) => verdict(run, state, i), never = truth.flow[0].flip.indexOf(-1), flips = truth.flow[0].flip.findIndex((v) => v > 0);
    expect(of(never)).toMatch(/^Label \d, never wrong on this path\.$/);
    const says = run.paths[0].flow.prediction.row(flips), at = truth.flow[0].flip[flips];
    for (const [end, told] of [[says[at], ""], [(says[at] + 1) % 10, `, ends as ${(says[at] + 1) % 10}`]]) {
      says[run.steps] = end;
      expect(of(flips)).toMatch(new RegExp(`^Label \\d, flips to ${says[at]} at step ${at}${told}, sharpest at \\d\\.$`));
    }
    expect(verdict({ ...run, spec: [["targeted", "next"]] }, state, never)).toMatch(/^Label \d, never taken for its target on this path\.$/);
    const wrong = made({ flips: false }).run;
    wrong.paths[0].flow.margin.values[0] = -1;
    expect(verdict(wrong, first([wrong]), 0)).toMatch(/wrong from the start/);
  });

  it("is of one kind, which the numbers show", () => {
    const counts = {};
    run.sample.forEach((_, i) => {
      const flip = truth.flow[0].flip[i], found = kind(run, state, i);
      counts[found] = (counts[found] ?? 0) + 1;
      const after = flip < 0 ? [] : truth.flow[0].margin[i].slice(flip + 1);
      const expected = flip < 0 ? "unflipped" : i % 3 === 0 ? "valley" : after.some((v) => v > 0) ? "back" : "none";
      expect(found).toBe(expected);
    });
    expect(Object.keys(counts).sort()).toEqual(["back", "none", "unflipped", "valley"]);
  });

  it("has its kept inputs, the nearest of which is shown", () => {
    expect(frames(run, 2)).toEqual([{ row: 4, step: 0 }, { row: 5, step: 8 }]);
    expect(frames(made({ images: false }).run, 2)).toEqual([]);
    expect(nearest(frames(run, 2), 3).step).toBe(0);
    expect(nearest(frames(run, 2), 5).step).toBe(8);
  });
});

describe("choosing many", () => {
  it("a box holds those whose curve enters it, on either axis and drawn in any direction", () => {
    for (const align of ["raw", "flip"]) {
      const s = { ...state, align }, height = (i, t) => truth.lines[0].relative_flatness[0][i][t];
      const expected = run.sample.map((_, i) => i).filter((i) => truth.lines[0].relative_flatness[0][i].some((v, t) => {
        const x = align === "raw" ? t : t - truth.flow[0].flip[i];
        return (align === "raw" || truth.flow[0].flip[i] >= 0) && x >= 1 && x <= 3 && v >= 10 && v <= 1000;
      }));
      expect(expected.length).toBeGreaterThan(0);
      expect(inBox(run, s, height, [1, 3], [10, 1000])).toEqual(expected);
      expect(inBox(run, s, height, [3, 1], [1000, 10])).toEqual(expected);
      expect(inBox(run, s, height, [100, 200], [10, 1000])).toEqual([]);
    }
  });

  it.each(["all", "valley", "none", "back", "unflipped"])("the gallery shows %s in each order", (filter) => {
    const of = gallery(run, { ...state, filter });
    expect(of).toEqual([...of].sort((a, b) => a - b));
    expect(of.every((i) => filter === "all" || kind(run, state, i) === filter)).toBe(true);
    const flip = gallery(run, { ...state, filter, order: "flip" }).map((i) => truth.flow[0].flip[i]);
    expect(flip.map((v) => (v < 0 ? 99 : v))).toEqual(flip.map((v) => (v < 0 ? 99 : v)).sort((a, b) => a - b));
    const rise = gallery(run, { ...state, filter, order: "rise" }).map((i) => run.results[0].relative_flatness[0].rise.values[i]);
    expect(rise).toEqual([...rise].sort((a, b) => b - a));
    expect(gallery(run, { ...state, filter, brush: [1, 2] }).every((i) => [1, 2].includes(i))).toBe(true);
  });

  it("shares have Wilson's interval", () => {
    const of = wilson(8, 10); // 0.4902, 0.9433: Wilson (1927), as statsmodels computes it
    expect([of.value, of.low, of.high]).toEqual([0.8, expect.closeTo(0.490162, 6), expect.closeTo(0.943318, 6)]);
    expect(wilson(0, 5).low).toBe(0);
    expect(wilson(5, 5).high).toBe(1);
    expect(wilson(0, 0).value).toBeNaN();
  });

  it.each([[[3, 1, 2], 2], [[4, 1, 2, 3], 2.5], [[NaN, 5], 5], [[], NaN], [[Infinity, 1, 2], 2]])("the median of %j is %s", (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  it("says what the chosen have in common", () => {
    const brush = [0, 1, 2, 3, 4, 5], flipped = brush.filter((i) => truth.flow[0].flip[i] >= 0), found = summary(run, { ...state, brush });
    expect(found).toMatchObject({ n: 6, flipped: flipped.length, flip: median(flipped.map((i) => truth.flow[0].flip[i])) });
    expect(found.valley.count).toBe(flipped.filter((i) => i % 3 === 0).length);
    expect(summary(run, state).n).toBe(0);
  });

  it("spreads evenly and stays inside", () => {
    expect(spread(3, 120)).toEqual([0, 1, 2]);
    const few = spread(1000, 120);
    expect([few.length, new Set(few).size, Math.max(...few) < 1000]).toEqual([120, 120, true]);
  });
});

describe("packed numbers", () => {
  it.each([["f32", [0.5, -1, NaN, Infinity]], ["f64", [1e-260, 1e300, NaN, 0]], ["u16", [0, 1, 65535, 7]]])("%s survives", (kind, values) => {
    expect([...decode(packed(values, kind)).values]).toEqual(values);
  });

  it("gives rows of any shape", () => {
    const cube = decode(packed([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]));
    expect([cube.width, [...cube.row(1)]]).toEqual([4, [5, 6, 7, 8]]);
    expect([...decode(packed([1, 2, 3])).row(2)]).toEqual([3]);
  });

  it("unpacks a tree and leaves plotly's arrays and all else", () => {
    const figure = { dtype: "f4", bdata: "AAAA", shape: "1, 1" };
    const tree = unpack({ a: [{ b: packed([1]) }], c: figure, d: { shape: [1, 2] }, e: null, f: "x" });
    expect([[...tree.a[0].b.values], tree.c, tree.d, tree.e, tree.f]).toEqual([[1], figure, { shape: [1, 2] }, null, "x"]);
  });

  it("inflates what gzip has compressed", async () => {
    const stream = new Blob(["κ ≤ ∞ </script>"]).stream().pipeThrough(new CompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    expect(await inflate(btoa(String.fromCharCode(...bytes)))).toBe("κ ≤ ∞ </script>");
    expect([...bytesOf("AQL/")]).toEqual([1, 2, 255]);
  });
});
