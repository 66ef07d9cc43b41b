// The chosen prompt at one step, token by token, and below it the target: what the pictures are of a run on images.

import { FAR, TINTS, givesBack, heldAt, jsonOf, positionsOf, roundedAt, strength, textOf, tokensOf, visible } from "../core/tokens.js";
import { count, num } from "../core/text.js";
import { $, make, segments } from "../draw/dom.js";

/** @typedef {import("../pages/run.js").View} View */
/** @typedef {import("../core/tokens.js").Token} Token */
/** @typedef {import("../core/tokens.js").Position} Position */

/** Of a colour at most so much is mixed in: letters stay readable on it. */
const MOST_COLOUR = 42;
/** nats between which the target's chips go from no colour to all of it. */
const NLL = [0.01, 10];
let tint = "changed";

/** @param {number} share −1 … 1 */
const ground = (share, high = "attack", low = "cross") => `color-mix(in srgb, var(--${share < 0 ? low : high}) ${(MOST_COLOUR * Math.min(1, Math.abs(share))).toFixed(1)}%, var(--card))`;

/** @param {View} view */
export function drawPrompt(view) {
  const { run, state } = view, box = $("prompt");
  box.hidden = !run.text;
  if (!run.text) return;
  const tokens = tokensOf(run, state), at = positionsOf(run, state), back = givesBack(run, state), rounded = roundedAt(run, state);
  $("prompt-note").textContent = heldAt(run, state.sample) < 0 ? `Tokens of ${count(run.text.held.length)} of ${count(run.n)} prompts are in this file; not of this one.` : "";
  $("prompt-tokens").hidden = !tokens;
  if (!tokens || !at) return;
  segments($("tint"), TINTS, tint, (value) => { tint = value; drawPrompt(view); });
  $("chips").replaceChildren(...tokens.map((token) => tokenChip(token, state.step)));
  $("chips").setAttribute("aria-label", `Tokens of the prompt at step ${state.step}; ${count(tokens.filter((t) => t.changed).length)} changed`);
  $("retokenises").hidden = back === "yes";
  $("retokenises").textContent = back === "no" ? "⚠ this text does not give these tokens back" : "no text: each token is the nearest one to its vector";
  $("rounded").hidden = !rounded;
  $("rounded").replaceChildren("rounded to text: ", make("bdi", {}, (rounded?.pieces ?? []).map(visible).join("")), `, loss ${num(rounded?.loss)}`);
  $("retokenises").className = back === "no" ? "warn" : "note";
  const most = Math.max(...at.map((p) => p.kappa).filter(Number.isFinite), 0) || 1;
  $("target-chips").replaceChildren(...at.map((position) => targetChip(position, most)));
  const said = at.filter((position) => position.says).length;
  $("target-chips").setAttribute("aria-label", `Target, ${said} of ${at.length} tokens are what the model says`);
  $("target-said").textContent = `target: ${said} of ${at.length} said`;
}

/** @param {Token} token @param {number} step */
function tokenChip(token, step) {
  const far = token.distance > FAR, share = strength(token, tint, step);
  const known = [
    token.part, token.id === null ? null : `token ${token.id}`, JSON.stringify(token.piece), token.part === "slot" && token.age !== null ? `changed ${token.age} steps ago` : null,
    token.grad === null ? null : `‖∂S/∂x‖ ${num(token.grad, 2)}, −⟨∂S/∂x, x⟩ ${num(token.dot, 2)}`, token.distance ? `nearest token, ${num(token.distance, 2)} mean norms away` : null,
  ];
  const node = make("li", { class: `chip ${token.part}${far ? " far" : ""}${token.changed ? " changed" : ""}`, title: known.filter(Boolean).join(" · ") },
    make("bdi", {}, visible(token.piece)), token.distance ? make("small", {}, num(token.distance, 2)) : null);
  if (token.part === "slot") node.style.background = ground(share);
  return node;
}

/** @param {Position} position @param {number} most */
function targetChip(position, most) {
  const share = (Math.log(position.nll) - Math.log(NLL[0])) / (Math.log(NLL[1]) - Math.log(NLL[0])), bar = make("i");
  bar.style.width = `${(100 * Math.max(0, position.kappa || 0)) / most}%`;
  const own = make("bdi", { class: "chip" }, visible(position.piece));
  own.style.background = ground(Math.max(0, share), "cross");
  return make("li", { title: `${position.id === null ? "" : `token ${position.id} · `}${JSON.stringify(position.piece)} · nll ${num(position.nll)} · κ ${num(position.kappa)}${position.says ? "" : ` · the model says ${JSON.stringify(position.greedy)}`}` },
    own, make("span", { class: "bar-of-kappa" }, bar), make("bdi", { class: "greedy" }, position.says ? "" : visible(position.greedy)));
}

/** @param {View} view */
export function listenPrompt(view) {
  const copy = (/** @type {string} */ id, /** @type {() => string} */ text) => $(id).addEventListener("click", async () => {
    const before = $(id).textContent;
    try { await navigator.clipboard.writeText(text()); $(id).textContent = "Copied"; } catch { $(id).textContent = "No clipboard"; }
    setTimeout(() => { $(id).textContent = before; }, 1500);
  });
  copy("copy-text", () => textOf(tokensOf(view.run, view.state) ?? []));
  copy("copy-json", () => JSON.stringify(jsonOf(view.run, view.state), null, 1));
}
