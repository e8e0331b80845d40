/**
 * Addresses of the page: `#/c/ID` a conversation, `#/g/ID` a group, anything else the start.
 *
 * Invariant: an address that names nothing possible is the start, never an error.
 */

/** @typedef {{view: "conversation" | "group", id: string} | {view: "new", id: ""}} Route */

/** @param {string} hash @returns {Route} */
export function routeOf(hash) {
  const [, letter, id] = /^#\/([cg])\/([A-Za-z0-9._:-]{1,128})$/.exec(hash) ?? [];
  if (letter === undefined) return { view: "new", id: "" };
  return { view: letter === "g" ? "group" : "conversation", id };
}

/** @param {{kind: "chat" | "conversation" | "group", id: string} | null} entry */
export function addressOf(entry) {
  return entry === null ? "#/" : `#/${entry.kind === "group" ? "g" : "c"}/${entry.id}`;
}
