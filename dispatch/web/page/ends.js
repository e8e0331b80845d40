/**
 * How turns ended that did not end by themselves, as far as this page heard.
 *
 * Neighbours: `conversation` shows it below the answer. Rows of history do not say it, so it is gone
 * after a reload.
 * Invariant: it is taken from the frame itself, so every page that watches says the same.
 */

/** @type {Record<string, string>} */
const WORDS = { aborted: "Stopped", interrupted: "Interrupted by a restart" };
/** Turns that are remembered: more than a person scrolls through. */
const TURNS_MAX = 1_000;

export class Ends {
  /** @type {Map<string, string>} by turn */
  #words = new Map();

  /** @param {import("../client.js").Client} client */
  constructor(client) {
    client.tap(({ direction, frame }) => {
      if (direction !== "in" || frame.type !== "chat.delta" || !("event" in frame)) return;
      const { type, reason, turnId } = /** @type {Record<string, string>} */ (/** @type {unknown} */ (frame.event));
      if (type !== "done" || WORDS[reason] === undefined) return;
      if (this.#words.size >= TURNS_MAX) this.#words.clear();
      this.#words.set(turnId, WORDS[reason]);
    });
  }

  /** @param {string | undefined} turnId */
  of(turnId) {
    return turnId === undefined ? undefined : this.#words.get(turnId);
  }
}
