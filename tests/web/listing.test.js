import { describe, expect, it } from "vitest";

import { COLUMNS, STATES, far, hashOf, listed, nameOf, valueOf, wantedOf } from "../../flatlens/report/assets/core/listing.js";

const row = (key, more = {}) => ({ key, kind: "run", href: `/run/${key}`, place: key, state: "finished", when: 0, cautions: [], ...more });
const ROWS = [
  row("b", { model: "cnn", eps: 0.3, when: 3, valley: [0.9, 0.8, 1, 9] }),
  row("a", { model: "vit", eps: 0.03, when: 2, state: "running", done: 2, total: 1200 }),
  row("s", { kind: "sweep", state: "interrupted", done: 4, total: 9, failed: 1, when: 4, varies: "model, seed" }),
  row("c1", { kind: "cell", label: "seed 3", sweep: "s", when: 5, cautions: [["not-converged", "…"]] }),
  row("d", { state: "damaged", error: "manifest.json is a link", when: 1 }),
];
const wanted = (more = {}) => ({ find: "", state: "all", cells: true, sort: "when", down: true, ...more });
const keys = (more) => listed(ROWS, wanted(more)).map((r) => r.key).join(" ");

describe("what is listed", () => {
  it.each([
    [{}, "c1 s b a d"],
    [{ down: false }, "d a b s c1"],
    [{ cells: false }, "s b a d"],
    [{ state: "running" }, "a"],
    [{ sort: "eps" }, "b a s c1 d"],
    [{ sort: "eps", down: false }, "a b s c1 d"],
    [{ sort: "valley" }, "b a s c1 d"],
    [{ sort: "name", down: false }, "a b d s c1"],
    [{ sort: "cautions" }, "c1 b a s d"],
    [{ find: "CNN" }, "b"],
    [{ find: "  seed   model " }, "s"],
    [{ find: "link" }, "d"],
    [{ find: "1,200" }, "a"],
    [{ find: "nowhere" }, ""],
  ])("%o", (more, found) => expect(keys(more)).toBe(found));

  it("leaves the rows as they are", () => {
    const before = ROWS.map((r) => r.key);
    listed(ROWS, wanted({ sort: "name" }));
    expect(ROWS.map((r) => r.key)).toEqual(before);
  });
});

describe("what is said of a row", () => {
  it.each([
    [ROWS[0], "finished"], [ROWS[1], "running, 2 of 1,200 batches"], [ROWS[2], "interrupted, 4 of 9 cells, 1 failed"], [ROWS[4], "damaged"],
    [row("x", { kind: "sweep", state: "finished" }), "finished, 0 of 0 cells"],
  ])("%o", (one, said) => expect(far(one)).toBe(said));

  it("names and values", () => {
    expect([nameOf(ROWS[3]), nameOf(ROWS[0]), nameOf(row("p", { name: "mine" }))]).toEqual(["seed 3", "b", "mine"]);
    expect([valueOf(ROWS[0], "valley"), valueOf(ROWS[1], "valley"), valueOf(ROWS[3], "cautions")]).toEqual([0.9, null, 1]);
  });
});

describe("the address", () => {
  const states = COLUMNS.flatMap(({ key }) => [true, false].flatMap((down) => STATES.map((state, i) => wanted({ sort: key, down, state, cells: i % 2 === 0, find: ["", "a & b = #", "ε ≠ %"][i % 3] }))));
  it("says all that is wanted, and no more", () => {
    for (const state of states) expect(wantedOf(hashOf(state))).toEqual(state);
    expect(hashOf(wanted({ cells: false }))).toBe("#");
  });

  it.each(["", "#", "#o=__proto__&f=constructor&c=2", "#o=--when", "#%", `#q=`, "#f=all&f=x"])("%s asks for nothing else", (hash) => {
    const found = wantedOf(hash);
    expect(STATES).toContain(found.state);
    expect(COLUMNS.map((c) => c.key)).toContain(found.sort);
    expect(found.cells).toBe(false);
  });

  it("cuts what nobody types", () => expect(wantedOf(`#q=${"x".repeat(1000)}`).find.length).toBe(200));
});
