// The embedded numbers, and how they are written for people.

const KINDS = { f32: Float32Array, f64: Float64Array, u16: Uint16Array };

// {f32: base64, shape} anywhere in the data becomes a typed array; a matrix gets .row(i).
function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  const kind = Object.keys(KINDS).find((k) => k in value && "shape" in value);
  if (!kind) return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, decode(v)]));
  const text = atob(value[kind]), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const array = new KINDS[kind](bytes.buffer);
  const width = value.shape.slice(1).reduce((a, b) => a * b, 1);
  array.row = (i) => array.subarray(i * width, (i + 1) * width);
  return array;
}

const DATA = decode(JSON.parse(document.getElementById("flatlens-data").textContent));

const $ = (id) => document.getElementById(id);

// An element with text (never HTML: names come from outside) and children.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

// Plotly reads some HTML in its texts: names from outside must not be markup there.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const minus = (text) => text.replace(/-/g, "−");

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === "+inf" || value === Infinity) return "∞";
  if (value === "-inf" || value === -Infinity) return "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    const [head, power] = value.toExponential(digits - 1).split("e");
    return minus(`${head}·10${superscript(Number(power))}`);
  }
  const text = value.toPrecision(digits);
  return minus(String(Number(text)));
}

const superscript = (n) => String(n).replace(/[-\d]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const COUNTS = new Intl.NumberFormat("en-US");  // made once: a table writes thousands
const count = (n) => COUNTS.format(n);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
// "κ, relative flatness (source)" -> the symbol for axes, the words for headings.
const fullMeasure = (key) => DATA.measures[key].replace("_max", "ₘₐₓ");
const shortMeasure = (key) => fullMeasure(key).split(",")[0];
const wordsOf = (key) => capital((fullMeasure(key).split(", ")[1] || fullMeasure(key)).split(" (")[0]);

// The scales: f maps a value to the axis; log leaves out what is not positive.
function scaleOf(kind, bands, unit = "") {
  if (kind === "linear") return { kind, f: (v) => v, axis: { type: "linear", rangemode: "tozero" } };
  const ends = bands.flatMap((b) => [...b.low, ...b.high, ...b.median]).filter(Number.isFinite);
  const top = ends.reduce((a, v) => Math.max(a, Math.abs(v)), 0) || 1;
  if (kind === "log") {
    const small = ends.filter((v) => v > 0).reduce((a, v) => Math.min(a, v), top);
    // A saturated end may lie 200 decades down; show 15 and let the reader zoom out.
    const range = [Math.log10(Math.max(small / 2.5, top * 1e-15)), Math.log10(top * 2.5)];
    const exponents = powers(Math.ceil(range[0]), Math.floor(range[1]));
    const near = range[1] - range[0] < 3;
    const tickvals = near ? powers(Math.floor(range[0]), Math.ceil(range[1])).flatMap((e) => [1, 2, 5].map((k) => k * 10 ** e)) : exponents.map((e) => 10 ** e);
    const ticktext = near ? tickvals.map((v) => number(v)) : exponents.map(tenTo);
    return { kind, f: positive, axis: { type: "log", range, tickmode: "array", tickvals, ticktext } };
  }
  const knee = 10 ** Math.floor(Math.log10(top) - 3);
  const f = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v) / knee);
  const negative = ends.some((v) => v < 0);
  const exponents = powers(Math.round(Math.log10(knee)), Math.ceil(Math.log10(top)));
  const tickvals = [0, ...exponents.map((e) => f(10 ** e))];
  const ticktext = ["0", ...exponents.map(tenTo)];
  if (negative) exponents.forEach((e) => { tickvals.push(-f(10 ** e)); ticktext.push("−" + tenTo(e)); });
  return { kind, f, axis: { type: "linear", tickmode: "array", tickvals, ticktext, range: [negative ? -f(top * 1.6) : -0.1, f(top * 1.6)] } };
}

const positive = (v) => (v > 0 ? v : NaN);
const tenTo = (e) => (Math.abs(e) <= 2 ? minus(String(Number((10 ** e).toPrecision(1)))) : `10<sup>${minus(String(e))}</sup>`);

function powers(from, to) {
  const every = Math.max(1, Math.ceil((to - from) / 7));
  const out = [];
  for (let e = from; e <= to; e += every) out.push(e);
  return out;
}
