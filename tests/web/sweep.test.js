import { describe, expect, it } from "vitest";

import { readAsked, writeAsked } from "../../flatlens/report/assets/core/asked.js";
import { ALL_LAYERS, accuracyOf, across, bookOf, fullMeasure, labelOf, medianOf, rowOf, shareOf, shortMeasure, words } from "../../flatlens/report/assets/core/cells.js";
import { columnsOf, sortedBy } from "../../flatlens/report/assets/core/columns.js";
import { changesOf } from "../../flatlens/report/assets/core/heights.js";
import { LOWEST, numOf, quartilesOf, readAt, scaleOf, sparkEnds } from "../../flatlens/report/assets/core/medians.js";
import { againstControls, comparisonsOf, firstAsked, isFiltered, itemsOf, measuredOf, robustPairs, shareWords, shownOf } from "../../flatlens/report/assets/core/rows.js";
import { median } from "../../flatlens/report/assets/core/statistics.js";
import { againstTable, curvesTable, heightsTable, robustTable, runsTable } from "../../flatlens/report/assets/core/tables.js";
import { random } from "./made.js";
import { anyAsked, madeSweep } from "./made_sweep.js";

const { data, truth } = madeSweep(), book = bookOf(data), first = firstAsked(book);
const asked = (more = {}) => ({ ...first, ...more });
const shown = (more = {}) => { const of = asked(more); return shownOf(book, of, columnsOf(book, of).find((c) => c.key === of.sort)); };
const cells = (more) => shown(more).map((item) => item.cell);
const told = ([value, low, high, count, n]) => ({ value, low, high, count, n });

describe("what is known of a cell", () => {
  it("is what stands in the file, for every cell, layer and path", () => {
    for (const { cell, layer, path, valley, flipped, rise } of truth.rows) {
      const row = rowOf(book, { cell, layer }, path);
      expect(shareOf(book, row, "valley_of_flipped")).toEqual(told(valley));
      expect(shareOf(book, row, "valley_of_all")).toEqual(told(valley.map((v) => v / 2)));
      if (path) continue;
      expect(shareOf(book, row, "flipped")).toEqual(told(flipped));
      expect(medianOf(book, row, "rise")).toEqual({ value: rise[0], low: 1, high: 20, n: 30 });
    }
  });

  it("is nothing where there are no numbers", () => {
    expect([rowOf(book, { cell: 12, layer: -1 }), rowOf(book, { cell: 0, layer: 0 }, -1)]).toEqual([undefined, undefined]);
    expect([shareOf(book, undefined, "flipped"), medianOf(book, undefined, "rise"), accuracyOf(book, 12, "clean"), quartilesOf(book, { cell: 12, layer: -1 }, 0)]).toEqual([null, null, null, null]);
    expect(quartilesOf(book, { cell: 0, layer: 0 }, 2)).toBeNull(); // of noise the file has no curve
  });

  it("has a name that tells it from the others", () => {
    expect(labelOf(book, asked(), { cell: 4, layer: 0 })).toBe("cnn · pgd 0.1 · seed 1");
    expect(labelOf(book, asked({ layer: ALL_LAYERS }), { cell: 4, layer: 1 })).toBe("cnn · pgd 0.1 · seed 1 · conv1");
    expect(labelOf(book, asked(), { cell: 4, layer: 0 }, ["seed", "train.adversarial"])).toBe("cnn");
    expect(labelOf(book, asked(), { cell: 13, layer: -1 })).toBe("mlp · seed 0"); // what is not there is not said
    expect(labelOf(bookOf({ ...data, varying: [] }), asked(), { cell: 3, layer: 0 })).toBe("00000000");
  });

  it("says two settings of one name apart, and of namesakes what differs", () => {
    const eps = (key) => ({ key, numbers: true, values: ["0.1", "0.3"], of: data.cells.key.map((_, k) => k % 2) });
    expect(labelOf(bookOf({ ...data, varying: [eps("train.eps")] }), asked(), { cell: 1, layer: 0 })).toBe("eps 0.3");
    expect(labelOf(bookOf({ ...data, varying: [eps("eps"), eps("train.eps")] }), asked(), { cell: 1, layer: 0 })).toBe("eps 0.3 · train.eps 0.3");
    const name = { key: "name", numbers: false, values: ["mine", "–"], of: data.cells.key.map((_, k) => Number(k > 1)) };
    const named = bookOf({ ...data, varying: [name, ...data.varying] });
    expect(labelOf(named, asked(), { cell: 1, layer: 0 })).toBe("mine · seed 1");
    expect(labelOf(named, asked(), { cell: 2, layer: 0 })).toBe("cnn · standard · seed 2");
  });

  it.each([[["flatlens:a", "flatlens:b"], 9], [["timm:a", "flatlens:b"], 0], [["a", "b"], 0], [["C:/a.py", "C:/b.py"], 0]])("the scheme of %j has %i letters", (values, size) => {
    expect(bookOf({ ...data, varying: [{ key: "model", numbers: false, values, of: data.cells.key.map(() => 0) }] }).schemes.get("model")).toBe(size);
  });

  it("has words", () => {
    expect([words("step_size"), words("line-to-other-class")]).toEqual(["step size", "line to other class"]);
    expect([fullMeasure(data, "lambda_max"), shortMeasure(data, "lambda_max")]).toEqual(["λₘₐₓ, largest eigenvalue (…)", "λₘₐₓ"]);
  });
});

describe("which rows are shown", () => {
  it.each([
    [{}, "0 1 2 3 4 5 6 7 8 9 10 11 12 13"],
    [{ find: " MLP  pgd" }, "9 10 11"],
    [{ find: "divide" }, "12"],
    [{ status: "waiting" }, "13"],
    [{ picks: { 0: 1, 2: 0 } }, "6 9 13"],
    [{ picks: { 0: -1 } }, "0 1 2 3 4 5 6 7 8 9 10 11 12 13"],
    [{ picked: [data.cells.key[3], data.cells.key[1]], only: true }, "1 3"],
    [{ picked: [data.cells.key[3]] }, "0 1 2 3 4 5 6 7 8 9 10 11 12 13"],
    [{ sort: "seconds", down: true }, "11 10 9 8 7 6 5 4 3 2 1 0 12 13"],
    [{ sort: "seed", picks: { 0: 1 } }, "6 9 13 7 10 8 11"],
    [{ sort: "nothing" }, "0 1 2 3 4 5 6 7 8 9 10 11 12 13"],
  ])("%o", (more, found) => expect(cells(more).join(" ")).toBe(found));

  it("are one for each layer where all are asked for, and none of a run that has not the layer", () => {
    expect(itemsOf(book, asked({ layer: ALL_LAYERS })).length).toBe(12 * 2 + 2);
    const fewer = bookOf({ ...data, rows: { ...data.rows, layer: data.rows.layer.map((l, r) => (data.rows.cell[r] === 5 ? 0 : l)) } });
    expect(itemsOf(fewer, asked({ layer: 1 })).map((item) => item.cell)).not.toContain(5);
  });

  it.each(["valley", "control", "clean", "flipped", "rise"])("are sorted by %s, missing ones last in either direction", (sort) => {
    for (const down of [false, true]) {
      const of = asked({ sort, down }), column = columnsOf(book, of).find((c) => c.key === sort), values = shownOf(book, of, column).map((item) => column.sort(item));
      const there = values.filter((v) => v !== null);
      expect(values.slice(there.length)).toEqual([null, null]);
      expect(there).toEqual([...there].sort((a, b) => (down ? b - a : a - b)));
    }
  });

  it("fold runs that differ in a seed alone to their median and range", () => {
    const folded = shown({ fold: true }), values = [3, 4, 5].map((cell) => truth.find(cell, 0, 0).valley[0]);
    expect(folded.map((item) => item.group.map((one) => one.cell))).toEqual([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12], [13]]);
    const found = across(folded[1], (one) => shareOf(book, rowOf(book, one), "valley_of_flipped"));
    expect(found).toMatchObject({ value: median(values), low: Math.min(...values), high: Math.max(...values), n: 120, runs: 3 });
    expect(across({ cell: 3, layer: 0 }, (one) => shareOf(book, rowOf(book, one), "valley_of_flipped"))).toEqual(told(truth.find(3, 0, 0).valley));
    expect(across(folded[0], () => ({ value: NaN, low: NaN, high: NaN, n: 0 })).n).toBe(0);
    expect(bookOf({ ...data, varying: data.varying.slice(0, 2) }).seeds).toEqual([]);
  });

  it("knows whether anything is filtered", () => {
    expect([first, asked({ picks: { 0: -1 } }), asked({ sort: "seed" })].map(isFiltered)).toEqual([false, false, false]);
    expect([asked({ find: "a" }), asked({ status: "done" }), asked({ picks: { 0: 0 } })].map(isFiltered)).toEqual([true, true, true]);
  });
});

describe("what is compared", () => {
  it("is each attack with each control that flipped something", () => {
    const found = againstControls(book, first, shown());
    expect(found.length).toBe(12 + 6);
    for (const { item, path, attack, control } of found) {
      expect([attack, control]).toEqual([told(truth.find(item.cell, 0, 0).valley), told(truth.find(item.cell, 0, path).valley)]);
    }
  });

  it("is each robust training with the standard one of its model and seed, where both are shown", () => {
    expect(robustPairs(book, first, shown()).map((p) => [p.standard.cell, p.robust.cell])).toEqual([[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]);
    expect(robustPairs(book, first, shown({ picks: { 1: 0 } }))).toEqual([]);
    expect(robustPairs(book, first, shown({ layer: ALL_LAYERS })).every((p) => p.standard.layer === p.robust.layer)).toBe(true);
  });

  it("is counted before anybody does it", () => {
    expect(comparisonsOf(book, first, shown())).toEqual({ runs: 12, rows: 12, shares: 30, empty: 6, against: 18, pairs: 6 });
    expect(comparisonsOf(book, first, shown({ layer: ALL_LAYERS, picks: { 2: 1 } }))).toMatchObject({ runs: 4, rows: 8 });
    expect(comparisonsOf(book, first, [])).toEqual({ runs: 0, rows: 0, shares: 0, empty: 0, against: 0, pairs: 0 });
    expect(shareWords(first)).toBe("of the flipped");
  });
});

describe("the columns", () => {
  it("are the settings, what was measured, and how it went", () => {
    expect(columnsOf(book, first).map((c) => c.key).join(" ")).toBe("model train.adversarial seed clean attacked flipped curve valley control rise depth lag seconds state");
    expect(columnsOf(book, asked({ layer: ALL_LAYERS })).map((c) => c.key)).toContain("layer");
    expect(columnsOf(bookOf(madeSweep({ control: "line-to-end" }).data), first).map((c) => c.key)).not.toContain("control");
    expect(columnsOf(bookOf({ ...data, varying: [] }), first)[0]).toMatchObject({ key: "key", first: true });
  });

  it("tell the worst case where a run was asked for it, and which are masked", () => {
    const { data: told, truth: of } = madeSweep({ text: true }), spoken = columnsOf(bookOf(told), first), value = (key, item) => spoken.find((c) => c.key === key).of(item);
    expect(spoken.map((c) => c.key).join(" ")).toBe("model train.adversarial seed flipped curve settled flat_end matched flip_step valley control rise depth lag seconds step_seconds state");
    expect(spoken.find((c) => c.key === "matched").title).toBe("κ at a loss of 0.1");
    expect(value("settled", { cell: 4, layer: 1 }).value).toBeCloseTo(of.find(4, 1, 0).flipped[0]);
    expect(value("matched", { cell: 4, layer: 1 }).value).toBeCloseTo(of.find(4, 1, 0).rise[0]);
    expect(value("step_seconds", { cell: 4, layer: 1 })).toBeCloseTo(0.04);
    const asking = bookOf(madeSweep({ worst: true }).data), keys = columnsOf(asking, first).map((c) => c.key), worst = columnsOf(asking, first).find((c) => c.key === "worst");
    expect(keys.slice(keys.indexOf("attacked"), keys.indexOf("flipped"))).toEqual(["attacked", "worst"]);
    expect([worst.title, worst.of({ cell: 4, layer: 0 }), worst.of({ cell: 12, layer: -1 })]).toEqual(["right, worst case", accuracyOf(asking, 4, "worst"), null]);
    expect([1, 2].map((cell) => worst.masked({ cell, layer: 0 }))).toEqual([false, true]);
    expect(worst.masked({ cell: 0, layer: 0, group: [0, 1, 2].map((cell) => ({ cell, layer: 0 })) })).toBe(true);
  });

  it("say what stands in a row", () => {
    const of = asked({ layer: ALL_LAYERS }), says = (key, item) => columnsOf(book, of).find((c) => c.key === key).of(item), item = { cell: 4, layer: 1 };
    expect([says("model", item), says("seed", item), says("layer", item), says("state", item), says("seconds", item)]).toEqual(["cnn", "1", "conv1", "done", 4.5]);
    expect(says("layer", { cell: 12, layer: -1 })).toBe("–");
    expect([says("control", item), says("curve", item).median]).toEqual([told(truth.find(4, 1, 1).valley), Float64Array.from(truth.find(4, 1, 0).curve[0])]);
    const [model] = columnsOf(book, first), bare = columnsOf(bookOf({ ...data, varying: [] }), first)[0];
    expect([model.whole(item), model.sort(item), bare.of(item), bare.sort(item)]).toEqual(["flatlens:cnn", 0, "00000000", 4]);
    for (const column of columnsOf(book, of)) expect(() => column.sort(item)).not.toThrow();
  });

  it("are sorted by one click, the other way by a second, as they came by a third", () => {
    const presses = (key) => {
      let of = first;
      return [1, 2, 3].map(() => { of = { ...of, ...sortedBy(of, columnsOf(book, of).find((c) => c.key === key)) }; return of.sort && `${of.down ? "-" : ""}${of.sort}`; });
    };
    expect(presses("valley")).toEqual(["-valley", "valley", null]);
    expect(presses("model")).toEqual(["model", "-model", null]);
  });
});

describe("the curves", () => {
  const curve = (median, low = median, high = median) => ({ position: median.map((_, k) => 2 * k), median, low, high, n: [40, 40] });

  it("are on one scale, from the lowest median to the highest quartile", () => {
    const scale = scaleOf([curve([0, 2], [-5, 1], [1, 3]), curve([-1, 1])]);
    // A low quartile may take it one decade below the lowest median, and no further.
    expect(scale).toEqual({ bottom: expect.closeTo(-2 - 0.35, 12), top: expect.closeTo(3 + 0.35, 12), steps: 2, clamped: true });
    expect(scaleOf([curve([0, 2])])).toMatchObject({ clamped: false });
  });

  it("show 12 decades at most, zeros and what is not there on the edge", () => {
    const scale = scaleOf([curve([3, -250, -400, NaN])]);
    expect(scale).toMatchObject({ bottom: expect.closeTo(-9 - 0.77, 12), clamped: true, steps: 6 });
    expect([scaleOf([]), scaleOf([curve([-400, NaN])])]).toEqual([null, null]);
  });

  it("are read at the position that is nearest", () => {
    const of = curve([0, 2, -400], [-1, 1, -400], [1, 3, 0]);
    expect(readAt(of, 2.9)).toEqual({ step: 2, short: "100", text: "100 (10 … 1,000)" });
    expect(readAt(of, 90)).toMatchObject({ step: 4, short: "0" });
    expect([numOf(LOWEST - 1), numOf(-4)]).toEqual(["0", "1.00·10⁻⁴"]);
  });

  it("as sparklines share the attacks' range", () => {
    const all = truth.rows.filter((r) => r.path === 0).flatMap((r) => r.curve[0]);
    expect(sparkEnds(book)).toEqual([Math.min(...all), Math.max(...all)]);
  });
});

describe("model by measure", () => {
  it.each(["peak", "end"])("is the median of the ratio of each run's %s to its clean value", (at) => {
    const found = changesOf(book, asked({ heights: at }), shown(), 60), k = at === "peak" ? 1 : 2;
    expect(found).toMatchObject({ models: ["flatlens:cnn", "flatlens:mlp"], measures: Object.keys(data.measures), of: 2 });
    found.rows.forEach((row, model) => row.forEach((cell, measure) => {
      const own = truth.heights.filter((h) => h.layer === 0 && h.measure === measure && Math.floor(h.cell / 6) === model).map((h) => h.of);
      expect(cell).toEqual({ change: median(own.map((v) => v[k] - v[0])), clean: median(own.map((v) => v[0])), at: median(own.map((v) => v[k])), runs: 6, samples: 240 });
    }));
  });

  it("has a row for each layer where all are shown, the first so many of them", () => {
    const found = changesOf(book, asked({ layer: ALL_LAYERS }), shown({ layer: ALL_LAYERS }), 3);
    expect([found.models, found.of]).toEqual([["flatlens:cnn · head", "flatlens:cnn · conv1", "flatlens:mlp · head"], 4]);
  });

  it("leaves out what has no ratio", () => {
    const none = { ...data, heights: { ...data.heights, values: { ...data.heights.values, row: () => [-400, 1, 1] } } };
    expect(changesOf(bookOf(none), first, shown(), 60)).toEqual({ models: [], measures: [], rows: [], of: 0 });
  });
});

describe("the numbers of a picture", () => {
  const of = (table, more = {}) => table(book, asked(more), shown(more));

  it.each([[runsTable, 14], [curvesTable, 12 * 2 * 5], [againstTable, 18], [robustTable, 6], [heightsTable, 4]])("are as many as it shows, each row as wide as the first: %o", (table, n) => {
    const [head, ...rows] = of(table);
    expect(rows.length).toBe(n);
    expect(new Set([head, ...rows].map((row) => row.length)).size).toBe(1);
    expect(new Set(head).size).toBe(head.length);
  });

  it("are those of the file", () => {
    const [head, ...rows] = of(runsTable), cell = (row, title) => row[head.indexOf(title)];
    rows.slice(0, 12).forEach((row, k) => {
      expect([cell(row, "key"), cell(row, "model"), cell(row, "state"), cell(row, "error")]).toEqual([data.cells.key[k], data.varying[0].values[data.varying[0].of[k]], "done", ""]);
      expect([0, 1, 2, 3].map((i) => row[head.indexOf("valley, of the flipped") + i])).toEqual([0, 1, 2, 4].map((i) => truth.find(k, 0, 0).valley[i]));
    });
    expect([cell(rows[12], "error"), cell(rows[12], "flipped")]).toEqual(["heads=3 does not divide width=16", ""]);
    const curve = truth.find(4, 0, 1).curve.map((values) => 10 ** values[2]);
    expect(of(curvesTable)).toContainEqual(["cnn · pgd 0.1 · seed 1", "line-to-other-class", 4, ...curve]);
    const [a, b] = [truth.find(0, 0, 0), truth.find(3, 0, 0)].map(({ valley }) => [0, 1, 2, 4].map((i) => valley[i]));
    expect(of(robustTable)[1]).toEqual(["cnn · pgd 0.1 · seed 0", "cnn · standard · seed 0", ...b, ...a]);
    const change = changesOf(book, first, shown(), 60).rows[1][0];
    expect(of(heightsTable)[3]).toEqual(["flatlens:mlp", "κ", 10 ** change.clean, 10 ** change.at, change.change, 6, 240]);
  });
});

describe("the address of a sweep", () => {
  const keys = (of) => columnsOf(book, of).map((c) => c.key);

  it("says all that is chosen, for 200 random states", () => {
    const draw = random(11);
    for (let k = 0; k < 200; k++) {
      const of = anyAsked(book, keys(first), draw), hash = writeAsked(book, of);
      expect(readAsked(book, `#${hash}`, keys(of))).toEqual(of);
    }
    expect(writeAsked(book, first)).toBe("");
  });

  it("names settings, layers and runs, not their places", () => {
    const of = asked({ picks: { 0: 1 }, layer: 1, picked: [data.cells.key[2]], sort: "valley", down: true, fold: true, status: "done" });
    expect(decodeURIComponent(writeAsked(book, of))).toBe("sort=-valley&fold=seeds&picked=0000000000000002&state=done&layer=conv1&is:model=flatlens:mlp");
  });

  it.each(["", "#", "#sort=__proto__&is:model=constructor&only=zz.__proto__&state=running&layer=nowhere&share=toString&heights=x&layers=1&fold=yes", "#%E0%A4%A", "#all-runs", `#only=${"x.".repeat(30000)}`])(
    "asks for nothing that is not there: %s", (hash) => expect({ ...readAsked(book, hash, keys(first)), find: "" }).toEqual(first));

  it("does not fold what has no seeds", () => {
    expect(readAsked(bookOf({ ...data, varying: data.varying.slice(0, 1) }), "#fold=seeds&layers=all", []).fold).toBe(false);
    expect(measuredOf(shown()).length).toBe(12);
  });
});
