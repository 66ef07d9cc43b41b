import { readFileSync } from "node:fs";

import { describe, expect, it } from "vitest";

import { channels, exchanger, fade, recolour } from "../../flatlens/report/assets/core/colours.js";
import { brief, cell, className, count, counted, fixed, num, percent, plain, probability, raised, span } from "../../flatlens/report/assets/core/text.js";

describe("numbers", () => {
  it.each([
    [0, "0"], [1, "1"], [0.5, "0.5"], [-2.5, "−2.5"], [349.4, "349"], [12345, "12,300"], [999999, "1,000,000"], [1e6, "1.00·10⁶"], [0.001, "0.001"], [0.00099999, "1.00·10⁻³"],
    [9.9999e-5, "1.00·10⁻⁴"], [1.5e-260, "1.50·10⁻²⁶⁰"], [-4.2e9, "−4.20·10⁹"], [NaN, "–"], [null, "–"], [undefined, "–"], [Infinity, "∞"], [-Infinity, "−∞"], ["+inf", "∞"], ["-inf", "−∞"],
  ])("num(%s) is %s", (value, text) => expect(num(value)).toBe(text));

  it("counts, shares and powers", () => {
    expect([count(1234567), percent(0.985), percent(null), percent(NaN), raised(-12), raised(0)]).toEqual(["1,234,567", "98.5 %", "–", "–", "⁻¹²", "⁰"]);
    expect(span({ value: 0.5, low: 0.4, high: 0.6, n: 10 })).toBe("40.0–60.0");
    expect(span({ value: null, low: null, high: null, n: 0 })).toBe("n = 0");
  });

  it("one is no plural", () => {
    expect([counted(1, "step"), counted(0, "step"), counted(2500, "sample"), counted(2, "class", "classes")]).toEqual(["1 step", "0 steps", "2,500 samples", "2 classes"]);
  });

  it("places behind the point", () => {
    expect([fixed(-1.005), fixed(0.25, 1), fixed(3, 0), fixed(Infinity), fixed(NaN)]).toEqual(["−1.00", "0.3", "3", "∞", "–"]);
  });

  it("says a probability near 1 as its distance from it", () => {
    expect(probability([1 - 3e-7, 3e-7], 0)).toBe("1 − 3.0·10⁻⁷");
    expect(probability([1, 0], 0)).toBe("1");
    expect(probability([0.25, 0.75], 1)).toBe("0.750");
    expect(probability([1, 1e-9], 1)).toBe("1.0·10⁻⁹");
  });
});

describe("texts from outside", () => {
  it.each([["abcdefghij", 10, "abcdefghij"], ["abcdefghijk", 10, "abcd…ghijk"], ["abcdefghijk", 9, "abcd…hijk"]])("%s has at most %i letters", (name, most, text) => expect(brief(name, most)).toBe(text));

  it.each([["<b>&", "&lt;b&gt;&amp;"], ["κ", "κ"], ["&lt;", "&amp;lt;"]])("%s stays text in plotly", (name, text) => expect(plain(name)).toBe(text));

  it.each([
    ["=1+1", "'=1+1"], ["+x", "'+x"], ["-x", "'-x"], ["@x", "'@x"], ["\tx", "'\tx"], ["a,b", '"a,b"'], ['a"b', '"a""b"'], ["a\nb", '"a\nb"'], ["=a,b", '"\'=a,b"'], ["\r=x", '"\'\r=x"'], [-1.5, "-1.5"], [null, ""],
  ])("no spreadsheet runs %j", (value, text) => expect(cell(value)).toBe(text));

  it("a class without a name is its number", () => {
    expect([className(["a", "b"], 1), className(["a"], 3), className(null, 3), className(["a"], -1)]).toEqual(["b", "3", "3", "-1"]);
  });
});

describe("colours", () => {
  const { light, dark } = JSON.parse(readFileSync(new URL("../../flatlens/report/assets/colours.json", import.meta.url), "utf8"));
  const exchange = exchanger(light, dark);

  it("each of the light theme becomes the dark one's of that name", () => {
    for (const [name, hex] of Object.entries(light)) {
      expect(exchange(hex), name).toBe(dark[name]);
      expect(exchange(hex.toUpperCase())).toBe(dark[name]);
      expect(exchange(`rgba(${channels(hex).join(", ")}, 0.16)`)).toBe(fade(dark[name], 0.16));
    }
  });

  it("no two names share a light colour, which could then not be told apart", () => {
    expect(new Set(Object.values(light)).size).toBe(Object.keys(light).length);
  });

  it("what is no colour of ours stays", () => {
    expect([exchange("#123456"), exchange("rgba(1,2,3,0.5)"), exchange("rgba(0,0,0,0)")]).toEqual(["#123456", "rgba(1,2,3,0.5)", "rgba(0,0,0,0)"]);
  });

  it("recolours a figure and shares its numbers", () => {
    const y = new Float64Array(3), long = Array.from({ length: 65 }, () => light.ink), bytes = { bdata: "AA", dtype: "f4" };
    const figure = { data: [{ y, line: { color: light.attack, width: 2 }, z: bytes, long }], layout: { font: { color: light.muted }, none: null, titles: ["x", light.ink] } };
    const other = recolour(figure, exchange);
    expect(other).toEqual({ data: [{ y, line: { color: dark.attack, width: 2 }, z: bytes, long }], layout: { font: { color: dark.muted }, none: null, titles: ["x", dark.ink] } });
    expect([other.data[0].y === y, other.data[0].z === bytes, figure.data[0].line.color]).toEqual([true, true, light.attack]);
  });
});
