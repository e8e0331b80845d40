/**
 * What was typed and not sent, by conversation.
 *
 * Neighbours: `composer` reads it when it is shown and writes it with every key.
 * Invariant: a store that is full or forbidden costs the draft its reload, and nothing else.
 */

const PREFIX = "dispatch:draft:";

/** @type {Map<string, string>} what this page has typed: true also where nothing can be stored */
const here = new Map();

export const drafts = {
  /** @param {string} id */
  get(id) {
    const known = here.get(id);
    if (known !== undefined) return known;
    try {
      return localStorage.getItem(PREFIX + id) ?? "";
    } catch {
      return "";
    }
  },

  /** @param {string} id @param {string} text */
  put(id, text) {
    here.set(id, text);
    try {
      if (text === "") localStorage.removeItem(PREFIX + id);
      else localStorage.setItem(PREFIX + id, text);
    } catch {
      // Kept in `here`.
    }
  },
};
