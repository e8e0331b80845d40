/**
 * Tells this person's other devices that something is being written here.
 *
 * Neighbours: the composer says that a key was pressed; only chat sessions have typing.
 * Invariant: at most one request in the time that the daemon shows one.
 */

import { newId } from "../client.js";

/** The daemon shows it for six seconds (`protocol/chat-sessions.md` 2). */
const SHOWN_MS = 4_000;

export class Typing {
  #app;
  device = newId();
  /** @type {Map<string, number>} */
  #told = new Map();

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
  }

  /** @param {string} id of a conversation */
  typed(id) {
    const { entries } = this.#app;
    const now = performance.now();
    if (entries.find(id)?.kind !== "chat" || now - (this.#told.get(id) ?? -SHOWN_MS) < SHOWN_MS) return;
    this.#told.set(id, now);
    entries.chats.type(id, true, this.device).catch(() => {
      // Nobody misses it.
    });
  }
}
