import { describe, expect, it } from "vitest";

import { read, write } from "../../flatlens/report/assets/core/hash.js";
import { first, firstSample, flipOf, settle } from "../../flatlens/report/assets/core/state.js";
import { anyState, made, random } from "./made.js";

const HOSTILE = ["</script><b>~&=#%", "a~b", "a&b=c", "ä ∞ +%20", "__proto__"];
const runs = [made().run, made({ seed: 2, n: 9, steps: 1, layers: ["conv1", HOSTILE[0]], paths: ["attack", ...HOSTILE] }).run, made({ seed: 3, flips: false, images: false }).run];

describe("the address", () => {
  it("gives back each of 200 random states", () => {
    const draw = random(13);
    for (let k = 0; k < 200; k++) {
      const state = anyState(runs, draw);
      expect(read(runs, write(runs, state))).toEqual(state);
    }
  });

  it("holds ids and names, so that it means the same when the file holds other samples", () => {
    const state = { ...first(runs), sample: 4, path: 1, layer: 1 };
    const fewer = { ...runs[0], sample: runs[0].sample.slice(3) };
    const again = read([fewer], write([runs[0]], state));
    expect(fewer.sample[again.sample]).toBe(runs[0].sample[4]);
  });

  const nothing = ["", "#", "#s=", "#s=-1", "#s=1e3", "#s=NaN", "#s=999999999999999999999", "#t=-1", "#t=1.5", "#t=99999", "#x=up", "#m=toString", "#m=__proto__", "#l=nobody",
    "#p=", "#off=attack", "#off=~~~", "#sel=", "#sel=.", "#sel=-", "#sel=x-y", "#sel=1e5", "#sel=-5--1", "#sel=NaN-NaN", "#sel= ", "#sel=0x10", "#f=<img src=x>", "#o=constructor", "#r=7", "#r=-1", "#r=length", "#%", "#%E0%A4%A",
    "#s=%00", "#__proto__=1&constructor=2", "#" + "&".repeat(5000), "#sel=" + "1-".repeat(9000), "#" + "a=b&".repeat(50000)];
  it.each(nothing.map((hash) => [hash.slice(0, 40), hash]))("changes nothing: %s", (_, hash) => {
    expect(read(runs, hash)).toEqual(first(runs));
  });
});

describe("settle", () => {
  const run = runs[0], base = first(runs);
  const kinds = [
    ["nothing", {}, {}],
    ["a sample that is not there", { sample: 30 }, {}],
    ["a half sample", { sample: 1.5 }, {}],
    ["a text for a step", { step: "3" }, {}],
    ["an infinite step", { step: Infinity }, {}],
    ["a wrong axis", { align: "up" }, {}],
    ["an object for a measure", { measure: {} }, {}],
    ["a brush that is no list", { brush: "all" }, {}],
    ["an empty brush", { brush: [] }, {}],
    ["a brush with strangers, unordered and doubled", { brush: [5, -1, 2, 5, 99, 0.5] }, { brush: [2, 5] }],
    ["the attack switched off", { off: ["attack", "gaussian-noise"] }, { off: ["gaussian-noise"] }],
    ["off that is no list", { off: 7 }, {}],
    ["a layer that is there", { layer: 1 }, { layer: 1 }],
    ["a filter that is there", { filter: "back" }, { filter: "back" }],
    ["an order that is there", { order: "rise" }, { order: "rise" }],
  ];
  it.each(kinds)("%s", (_, asked, changed) => {
    expect(settle(runs, asked)).toEqual({ ...base, ...changed });
  });

  it("shows of a layer only what is known of it", () => {
    const { run: some } = made({ layers: ["head", "inner", "nothing"], measures: ["relative_flatness", "trace", "ggn_trace"] });
    some.layers[1].measures = ["ggn_trace"], some.layers[2].measures = [];
    const shown = (asked) => settle([some], asked).measure;
    expect(shown({ layer: 1 })).toBe("ggn_trace");
    expect(shown({ layer: 1, measure: "trace" })).toBe("ggn_trace");
    expect(shown({ layer: 0, measure: "trace" })).toBe("trace");
    expect(shown({ layer: 2, measure: "trace" })).toBe("trace");
    expect(read([some], write([some], settle([some], { layer: 1 })))).toEqual(settle([some], { layer: 1 }));
    some.layers.reverse();
    expect(first([some]).measure).toBe("relative_flatness");
  });

  it("leaves as they are the states that can be shown, and is done at once", () => {
    const draw = random(4);
    for (let k = 0; k < 200; k++) {
      const state = anyState(runs, draw);
      expect(settle(runs, state)).toEqual(state);
    }
  });

  it("shows a sample at its flip, else at the end", () => {
    const flip = [...run.paths[0].flip.values], never = flip.indexOf(-1), does = flip.findIndex((v) => v > 0);
    expect(settle(runs, { sample: does }).step).toBe(flip[does]);
    expect(settle(runs, { sample: never }).step).toBe(run.steps);
    expect(flipOf(run, 0, never)).toBe(run.steps);
  });

  it("begins raw where nothing flips, and with a sample that flips inside where some does", () => {
    expect(first(runs, 2)).toMatchObject({ align: "raw", sample: 0, step: runs[2].steps });
    expect(run.paths[0].flip.values[firstSample(run)]).toBeGreaterThan(1);
    const landed = { ...run, surfaces: [{ sample: run.sample[11] }] };
    expect([0, 11]).toContain(firstSample(landed));
  });
});
