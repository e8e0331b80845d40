/**
 * Dark, light, or what the system says.
 *
 * Neighbours: `tokens.css` has both sets of colours; `settings` offers the choice.
 */

const KEY = "dispatch:theme";
export const themes = /** @type {const} */ (["system", "light", "dark"]);

/** @returns {typeof themes[number]} */
export function themeNow() {
  const theme = document.documentElement.dataset.theme;
  return themes.find((one) => one === theme) ?? "system";
}

/** @param {typeof themes[number]} [chosen] none: as it was left */
export function applyTheme(chosen) {
  /** @type {string | null | undefined} */
  let theme = chosen;
  try {
    theme ??= localStorage.getItem(KEY);
    if (chosen !== undefined) localStorage.setItem(KEY, chosen);
  } catch {
    // Forgotten at the next visit.
  }
  document.documentElement.dataset.theme = themes.find((one) => one === theme) ?? "system";
}
