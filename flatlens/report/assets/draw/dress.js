// Light or dark: as was chosen here before, else as the system has it.

import { $ } from "./dom.js";

/** @param {string} name */
export function wear(name) {
  document.documentElement.dataset.theme = name;
  const button = $("theme");
  if (button) button.textContent = name === "dark" ? "Light" : "Dark";
}

/** @returns {string} */
export function kept() {
  try {
    const theme = localStorage.getItem("flatlens-theme");
    if (theme === "dark" || theme === "light") return theme;
  } catch { /* there may be no storage */ }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function dressed() {
  wear(kept());
  $("theme")?.addEventListener("click", () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    wear(name);
    try { localStorage.setItem("flatlens-theme", name); } catch { /* there may be no storage */ }
  });
}
