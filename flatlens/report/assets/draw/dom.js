// Elements, and nothing but: texts go in as texts.

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/**
 * @param {string} name
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const SPACE = "http://www.w3.org/2000/svg";

/** @param {string} name @param {Record<string, any>} [attributes] @param {...(Node | string)} children */
export function draw(name, attributes = {}, ...children) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

/** A buttons' group of which one is pressed. @param {any} node @param {[string, string][]} options @param {string} chosen @param {(value: string) => void} choose */
export function segments(node, options, chosen, choose) {
  if (node.childElementCount !== options.length) {
    node.replaceChildren(...options.map(([value, name]) => make("button", { type: "button", "data-value": value, onclick: () => choose(value) }, name)));
  }
  for (const button of node.children) button.setAttribute("aria-pressed", String(button.dataset.value === chosen));
}

/** @param {string} name @param {string} text @param {string} kind */
export function download(name, text, kind) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Links inside the page lead on without writing over the address, which holds the state. */
export function listenSkips() {
  document.querySelectorAll("a.skip").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    $(/** @type {HTMLAnchorElement} */ (link).hash.slice(1)).focus();
  }));
}
