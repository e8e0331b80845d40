/**
 * What stands for a name: a colour that stays the same wherever the name appears, and a letter.
 *
 * Neighbours: `parts`, `sidebar` and `group` show agents with them; the colours are in `tokens.css`.
 * Invariant: a colour depends on the name alone, so two devices agree without being told.
 */

/** As many as there are `hue-…` classes. */
const HUES = 8;

/** The class that sets `--hue`. @param {string} name */
export function hueOf(name) {
  let hash = 0x811c9dc5;
  for (const character of name) {
    hash = Math.imul(hash ^ /** @type {number} */ (character.codePointAt(0)), 0x01000193);
  }
  return `hue-${(hash >>> 8) % HUES}`;
}

/**
 * Colours of names that stand beside each other: their own, or where that is taken the next one.
 * @param {readonly string[]} names
 * @returns {ReadonlyMap<string, string>}
 */
export function huesOf(names) {
  /** @type {Map<string, string>} */
  const hues = new Map();
  const taken = new Set();
  for (const name of names) {
    let hue = Number(hueOf(name).slice("hue-".length));
    while (taken.has(hue) && taken.size < HUES) hue = (hue + 1) % HUES;
    taken.add(hue);
    hues.set(name, `hue-${hue}`);
  }
  return hues;
}

/** @param {string} name */
export function initialOf(name) {
  return ([...name.trim()][0] ?? "?").toUpperCase();
}

/** The agent of a `model` as messages carry it: `NAME` or `NAME/MODEL`. @param {string} model */
export function agentOfModel(model) {
  return model.split("/", 1)[0];
}
