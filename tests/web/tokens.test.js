import { describe, expect, it } from "vitest";

import { unpack } from "../../flatlens/report/assets/core/pack.js";
import { called, isRight, kind, labelled, lastOf, moments, says, verdict } from "../../flatlens/report/assets/core/sample.js";
import { first } from "../../flatlens/report/assets/core/state.js";
import { FAR, against, givesBack, heatOf, heldAt, jsonOf, positionsOf, roundedAt, stepOn, strength, textOf, tokensOf, visible } from "../../flatlens/report/assets/core/tokens.js";
import { samplesOf } from "../../flatlens/report/assets/parts/export.js";
import { made, packed } from "./made.js";

/** Two prompts, three steps, a slot of two tokens; the second path is of one text, longer at each step. */
function language() {
  const { run } = made({ n: 2, steps: 2, paths: ["attack", "copies"], layers: ["head"], measures: ["relative_flatness"], images: false });
  const flow = (loss, margin, matched) => unpack({ loss: packed(loss), margin: packed(margin), confidence: packed(loss), matched: packed(matched) });
  run.truth = null;
  run.labels = null;
  run.paths[0].flow = flow([[4, 2, 0.5], [3, 3, NaN]], [[-2, -1, 1], [1, -1, NaN]], [[0, 1, 2], [1, 0, NaN]]);
  run.paths[1].flow = flow([[4, 2, 1], [3, 2, 1]], [[-2, -1, -1], [-1, -1, -1]], [[0, 1, 1], [0, 0, 0]]);
  run.paths[0].flip = unpack({ a: packed([2, -1]) }).a;
  const none = { grad: null, dot: null, distance: null };
  run.text = unpack({
    pieces: ["pre", " x", "\n", "end", " moon", "."], ids: [10, 11, 12, 13, 14, 15], held: run.sample.slice(),
    prompts: run.sample.map((id) => ({ id: `p${id}`, said: "moon", parts: { prefix: [0], slot: [1, 1], tail: [3], target: [4, 5] } })),
    paths: [{
      whole: false, slots: packed([[2, 2, 2], [2, 2, 0]], "u16"), slot: packed([1, 1, 1, 2, 4, 2, 1, 1, 1, 1], "u16"), changed: packed([0, 0, 0, 1, 1, 0, 0, 0, 0, 0], "u8"),
      grad: packed([255, 51, 0, 0, 0, 0, 0, 0, 0, 0], "u8"), dot: packed([0, 254, 127, 127, 127, 127, 127, 127, 127, 127], "u8"), norm: packed([[10, 0, 0], [0, 0, 0]]), most: packed([[4, 0, 0], [0, 0, 0]]),
      distance: packed([0, 0, 0.4, 0.6, 0, 0, 0, 0, 0, 0]), targets: packed([[2, 2, 2], [2, 2, 0]], "u16"), nll: packed([5, 3, 2, 2, 1, 0, 3, 3, 3, 3]), kappa: packed([8, 6, 4, 4, 2, 0, 6, 6, 6, 6]),
      c: packed(Array(10).fill(0.5)), a2: packed(Array(10).fill(2)), greedy: packed([0, 5, 4, 0, 4, 5, 0, 0, 0, 0], "u16"), retokenises: packed([[1, 0, 2], [1, 1, 2]], "u8"),
    }, {
      ...none, whole: true, slots: packed([[1, 2, 3], [1, 2, 3]], "u16"), slot: packed(Array(12).fill(4), "u16"), changed: packed(Array(12).fill(0), "u8"), norm: packed([[0, 0, 0], [0, 0, 0]]), most: packed([[0, 0, 0], [0, 0, 0]]),
      targets: packed([[2, 2, 2], [2, 2, 2]], "u16"), nll: packed(Array(12).fill(1)), kappa: packed(Array(12).fill(3)), c: packed(Array(12).fill(0.5)), a2: packed(Array(12).fill(2)), greedy: packed(Array(12).fill(0), "u16"),
      retokenises: packed([[1, 1, 1], [1, 1, 1]], "u8"),
    }],
  });
  return run;
}

const run = language(), base = { ...first([run]), sample: 0, path: 0, layer: 0, measure: "relative_flatness", align: "raw" };
const at = (step, more = {}) => ({ ...base, step, ...more });

describe("what a piece looks like", () => {
  it.each([
    ["\n", "⏎"], [" moon", "·moon"], ["a b", "a b"], ["", "∅"], ["\u202egnp", "⟨202E⟩gnp"], ["a\u200bb", "a⟨200B⟩b"], ["\x00", "⟨00⟩"], ["<script>", "<script>"], ["\t\r\u00a0", "⇥␍⍽"], ["  ", "··"], ["▮▮", "▮▮"], ["שלום", "שלום"],
  ])("%j is shown as %s", (piece, shown) => expect(visible(piece)).toBe(shown));
});

describe("the prompt at a step", () => {
  it("is prefix, slot and tail, and of a text of its own the slot alone", () => {
    expect(tokensOf(run, at(2)).map((t) => t.piece)).toEqual(["pre", " moon", "\n", "end"]);
    expect(textOf(tokensOf(run, at(2)))).toBe("pre moon\nend");
    expect(tokensOf(run, at(2, { path: 1 })).map((t) => t.part)).toEqual(["slot", "slot", "slot"]);
  });

  it("has beside a mixture the text that it is rounded to, and beside others none", () => {
    const mixed = language();
    Object.assign(mixed.text.paths[0], unpack({ rounded: packed([5, 1, 4, 4, 3, 1, 0, 0, 0, 0], "u16"), rounded_loss: packed([[5, 4, 3], [2, 1, NaN]]) }));
    expect(roundedAt(mixed, at(1))).toEqual({ pieces: [" moon", " moon"], loss: 4 });
    expect(jsonOf(mixed, at(2)).rounded).toEqual(["end", " x"]);
    expect([roundedAt(run, at(1)), roundedAt(mixed, at(1, { path: 1 })), jsonOf(run, at(1)).rounded]).toEqual([null, null, undefined]);
  });

  it("knows what changed, how long ago, its gradient and its distance", () => {
    const [, a, b] = tokensOf(run, at(2));
    expect([a.changed, a.age, b.changed, b.age]).toEqual([true, 0, false, 1]);
    const [, c, d] = tokensOf(run, at(0));
    expect([c.age, c.grad, d.grad, c.dot, d.dot]).toEqual([null, 10, 2, 4, -4]);
    const [, e, f] = tokensOf(run, at(1));
    expect([e.distance > FAR, f.distance > FAR, e.grad]).toEqual([false, true, null]);
  });

  it("is coloured by what is asked for", () => {
    const [fixed, a, b] = tokensOf(run, at(2)), [, c, d] = tokensOf(run, at(0));
    expect([strength(fixed, "changed", 2), strength(a, "changed", 2), strength(b, "changed", 2)]).toEqual([0, 1, 0]);
    expect([strength(a, "age", 2), strength(b, "age", 2), strength(c, "age", 0)]).toEqual([1, 1 - 1 / 3, 0]);
    expect([strength(c, "grad", 0), strength(d, "grad", 0), strength(c, "dot", 0), strength(d, "dot", 0)]).toEqual([1, 0.2, 1, -1]);
  });

  it("stays at the last step of a shorter path", () => {
    expect(stepOn(run.text.paths[0], 1, 2)).toBe(1);
    expect(tokensOf(run, at(2, { sample: 1 })).length).toBe(4);
    expect([lastOf(run, 0, 0), lastOf(run, 0, 1)]).toEqual([2, 1]);
  });

  it("says whether the text gives its tokens back", () => expect([0, 1, 2].map((t) => givesBack(run, at(t)))).toEqual(["yes", "no", "no text"]));

  it("is told to programs with its tokens", () => {
    const told = jsonOf(run, at(1));
    expect(told).toMatchObject({ step: 1, path: "attack", retokenises: "no", slot: { ids: [11, 12], pieces: [" x", "\n"] }, target: { ids: [14, 15], pieces: [" moon", "."] } });
    const redacted = { ...run, text: { ...run.text, ids: null } };
    expect(jsonOf(redacted, at(1)).prefix.ids).toEqual([null]);
    expect(positionsOf(redacted, at(1))[0].id).toBe(null);
  });
});

describe("the target", () => {
  it("has its numbers at each position", () => {
    expect(positionsOf(run, at(0))).toEqual([
      { piece: " moon", id: 14, greedy: "pre", says: false, nll: 5, kappa: 8, c: 0.5, a2: 2, variance: 4 }, { piece: ".", id: 15, greedy: ".", says: true, nll: 3, kappa: 6, c: 0.5, a2: 2, variance: 3 },
    ]);
  });

  it("is a map of steps and positions, without what a shorter path lacks", () => {
    expect(heatOf(run, at(0), "nll")).toEqual([[5, 2, 1], [3, 2, 0]]);
    expect(heatOf(run, at(0, { sample: 1 }), "kappa")).toEqual([[6, 6, NaN], [6, 6, NaN]]);
  });

  it("has the points of sharpness against loss that a logarithm has", () => {
    const lines = run.results[0].relative_flatness[0].lines.row(1);
    expect(against(run, at(0), 0, 1)).toEqual([{ x: 3, y: lines[0], step: 0 }, { x: 3, y: lines[1], step: 1 }]);
  });
});

describe("prompts whose tokens are not in the file, and runs on images", () => {
  const bare = { ...run, text: { ...run.text, held: [] } }, images = made().run;
  images.text = null;
  it.each([["not held", bare, -1], ["images", images, -1]])("%s", (_, other, place) => {
    expect(heldAt(other, 0)).toBe(place);
    for (const found of [tokensOf(other, at(0)), positionsOf(other, at(0)), heatOf(other, at(0), "nll"), givesBack(other, at(0))]) expect(found).toBe(null);
  });
  it("are told without their tokens", () => expect(jsonOf(bare, at(0)).slot.ids).toEqual([]));
});

describe("what is said of a prompt", () => {
  it("is of targets, not of labels", () => {
    expect(verdict(run, at(0), 0)).toMatch(/^The target is said from step 2 on; sharpest at/);
    expect(verdict(run, at(0), 1)).toBe("The target is said from the start.");
    expect(verdict({ ...run, paths: [run.paths[1], run.paths[1]] }, at(0), 0)).toMatch(/target/);
    expect([says(run, 0, 0, 2), labelled(run, 0), called(run, 0), isRight(run, at(0), 0, 0), isRight(run, at(0), 0, 2)]).toEqual(["2 target tokens", "a prompt", `${run.sample[0]}, p${run.sample[0]}`, true, false]);
  });

  it("is of labels where there are some", () => {
    const { run: images } = made(), state = first([images]);
    images.text = null;
    expect([says(images, 0, 0, 0), labelled(images, 0), called(images, 0)]).toEqual([String(images.paths[0].flow.prediction.row(0)[0]), `label ${images.truth[0]}`, String(images.sample[0])]);
    expect(isRight(images, state, 0, 0)).toBe(images.paths[0].flow.prediction.row(0)[0] === images.truth[0]);
  });

  it("ends where its path ends, and may flip back", () => {
    expect(moments(run, at(0, { sample: 1 })).at(-1)).toEqual(["end", 1]);
    const back = language();
    back.paths[0].flip.values[0] = 1;
    back.paths[0].flow.margin = unpack({ a: packed([[-2, 1, -1], [-1, -1, -1]]) }).a;
    back.results[0].relative_flatness[0].valley.values.fill(0);
    expect([kind(back, at(0), 0), kind(back, at(0), 1)]).toEqual(["back", "unflipped"]);
    expect(verdict(back, at(0), 0)).toMatch(/but not at the end/);
    expect(verdict(back, at(0), 1)).toBe("The target is never said on this path.");
  });

  it("stands in the table", () => {
    const [head, row] = samplesOf({ run, state: at(0) }, [0]);
    expect([head[1], head.at(-1), row[1], row.at(-1)]).toEqual(["prompt", "target_tokens_said", `p${run.sample[0]}`, 0]);
  });
});
