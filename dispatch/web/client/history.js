/**
 * Pages of sealed rows: what lies before a window, and what lies between it and the live log.
 *
 * Neighbours: `thread` says what is missing and takes what was found, `conversation` begins this and
 * shows how it goes, `http` asks.
 * Invariant: one page of a conversation is asked for at a time; a page that fails is asked for again
 * while the conversation is followed, and nothing live waits for it.
 */

import { jittered } from "./failures.js";

/** @typedef {import("./thread.js").Thread} Thread */
/** @typedef {import("./failures.js").DispatchError} DispatchError */

export class History {
  isFetching = false;
  /** @type {DispatchError | null} why the last page could not be had */
  error = null;
  #path;
  #parts;
  #changed;

  /**
   * @param {string} id of the conversation
   * @param {{http: import("./http.js").Http, pageRows: number, random: () => number}} parts
   * @param {() => void} changed
   */
  constructor(id, parts, changed) {
    this.#path = `conversations/${id}`;
    this.#parts = parts;
    this.#changed = changed;
  }

  /**
   * Fetch until nothing is missing.
   * @param {() => Thread | null} wanted the thread, while it is followed
   */
  async fill(wanted) {
    for (let attempt = 0; !this.isFetching; attempt += 1) {
      const thread = wanted();
      const missing = thread?.missing() ?? null;
      if (thread === null || missing === null) return;
      const { since, before } = missing;
      const query = { beforeSeq: before, ...(since > 0 ? { sinceSeq: since } : {}) };
      if (await this.fetch(thread, query)) {
        attempt = -1;
      } else if (this.error !== null && !this.error.retryable) {
        return;
      } else {
        const wait = jittered(attempt, this.#parts.random);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }

  /**
   * @param {Thread} thread
   * @param {{beforeSeq: number, sinceSeq?: number}} query both exclusive
   * @returns {Promise<boolean>} whether something came of it
   */
  async fetch(thread, query) {
    if (this.isFetching) return false;
    this.isFetching = true;
    this.#changed();
    const { http, pageRows } = this.#parts;
    const { rows } = thread;
    try {
      const page = await http.get(this.#path, { ...query, limit: pageRows });
      thread.addRows(page.chunks, page.turns);
      this.error = null;
    } catch (error) {
      this.error = /** @type {DispatchError} */ (error);
    }
    this.isFetching = false;
    this.#changed();
    return thread.rows !== rows;
  }
}
