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
// "κ, relative flatness (source)" -> the symbol for axes, the words for headings.
const fullMeasure = (key) => DATA.measures[key].replace("_max", "ₘₐₓ");
const shortMeasure = (key) => fullMeasure(key).split(",")[0];
