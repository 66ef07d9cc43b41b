// Light or dark: as was chosen here before, else as the system has it.

import { $ } from "./dom.js";

export const theme = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");

/** The colours of the theme that is worn. @param {{ colours: Record<string, Record<string, string>> }} data */
export const palette = (data) => data.colours[theme()];

/** @param {string} name */
export function wear(name) {
  document.documentElement.dataset.theme = name;
  const button = $("theme"), other = name === "dark" ? "light" : "dark";
  if (!button) return;
  button.textContent = other === "dark" ? "Dark" : "Light";
  button.setAttribute("aria-label", `Switch to ${other} colours`);
}

/** @returns {string} */
export const kept = () => chosenBefore() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

/** @returns {string | null} */
function chosenBefore() {
  try {
    const name = localStorage.getItem("flatlens-theme");
    return name === "dark" || name === "light" ? name : null;
  } catch { return null; /* a file may have no storage */ }
}

/** Wear it, and another when the button is pressed or the system changes. @param {() => void} [redraw] what the theme's colours are drawn into */
export function dressed(redraw = () => {}) {
  wear(kept());
  $("theme").addEventListener("click", () => {
    wear(theme() === "dark" ? "light" : "dark");
    try { localStorage.setItem("flatlens-theme", theme()); } catch { /* a file may have no storage */ }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { wear(kept()); redraw(); });
}
