/**
 * The list of conversations as a store, newest activity first, and a search over it.
 *
 * Neighbours: built on a `Client`; the daemon's broadcasts say that something changed, the route
 * `GET /conversations` says what. Source: `protocol/native.md` 1.6, 2.2.
 * Invariant: order and times are the daemon's; after every new connection the list is read again,
 * because broadcasts of the time between are not repeated.
 */

import { Store } from "./store.js";

/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("./failures.js").DispatchError} DispatchError */

/**
 * @typedef {object} Entry
 * @property {string} id
 * @property {string | null} title
 * @property {"active" | "idle" | "closed"} status `active`: a turn runs
 * @property {number} createdAt epoch milliseconds of the daemon
 * @property {number} lastActivityAt
 * @property {string} workspaceId
 */

/**
 * @typedef {object} DirectorySnapshot
 * @property {readonly Entry[]} entries
 * @property {boolean} isLoading
 * @property {boolean} hasMore whether `loadMore` would find older ones
 * @property {DispatchError | null} error why the list may be old
 */

const PAGE = 50;
/** Between two readings of the list, however much happens. */
const REST_MS = 500;

/** @extends {Store<DirectorySnapshot>} */
export class Directory extends Store {
  /** @type {Entry[]} */
  #entries = [];
  /** @type {Set<string>} ids that are never used again: a page that was on its way may have them */
  #deleted = new Set();
  /** @type {string | undefined} where the next page begins */
  #next;
  #isLoading = false;
  #isDue = false;
  #isReloading = false;
  /** @type {DispatchError | null} */
  #error = null;
  #client;
  #opened = 0;
  /** @type {() => void} */
  #unfollow = () => {};

  /** @param {import("../client.js").Client} client */
  constructor(client) {
    super(() => ({
      entries: [...this.#entries], isLoading: this.#isLoading, hasMore: this.#next !== undefined,
      error: this.#error,
    }));
    this.#client = client;
  }

  /** Keep it true, until the function that is returned is called as often as this. */
  open() {
    if (++this.#opened === 1) {
      this.#unfollow = this.#client.session.follow({
        key: "account",
        frames: () => (this.#reload(), [{ type: "conversations.watch" }]),
        take: (frame) => this.#take(frame),
        lost() {},
      });
    }
    let isOpen = true;
    return () => {
      if (isOpen && --this.#opened === 0) this.#unfollow();
      isOpen = false;
    };
  }

  /** Read the next page of older ones. */
  async loadMore() {
    if (this.#next !== undefined && !this.#isLoading) await this.#read(this.#next);
  }

  /**
   * Conversations whose title or last message has a text.
   * @param {string} text
   * @param {number} [limit]
   * @returns {Promise<Entry[]>}
   */
  async search(text, limit = PAGE) {
    return (await this.#client.http.get("conversations", { search: text, limit })).conversations;
  }

  /** @param {ServerFrame} frame */
  #take(frame) {
    switch (frame.type) {
      case "conversation.statusChanged":
        this.#patch(frame.conversationId, { status: frame.status });
        break;
      case "conversation.titleChanged":
        this.#patch(frame.conversationId, { title: frame.title });
        break;
      case "conversation.deleted":
        this.#deleted.add(frame.conversationId);
        this.#entries = this.#entries.filter((entry) => entry.id !== frame.conversationId);
        return this.touch();
    }
    this.#reload();
  }

  /** @param {string} id @param {Partial<Entry>} change */
  #patch(id, change) {
    this.#entries = this.#entries.map((one) => (one.id === id ? { ...one, ...change } : one));
    this.touch();
  }

  /** Read the first page again, now or after a rest. */
  async #reload() {
    this.#isDue = true;
    if (this.#isReloading) return;
    this.#isReloading = true;
    while (this.#isDue && this.#opened > 0) {
      this.#isDue = false;
      await this.#read();
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
    }
    this.#isReloading = false;
  }

  /** @param {string} [before] */
  async #read(before) {
    this.#isLoading = true;
    this.touch();
    try {
      const query = before === undefined ? { limit: PAGE } : { limit: PAGE, before };
      const { conversations, next } = await this.#client.http.get("conversations", query);
      // A first page is all there is down to its last: what else was there was deleted unheard.
      const oldest = next === undefined ? -Infinity : conversations.at(-1).lastActivityAt;
      const kept = this.#entries.filter(({ lastActivityAt: at }) => before !== undefined || at <= oldest);
      this.#merge(kept, conversations);
      if (before !== undefined || this.#next === undefined) this.#next = next;
      this.#error = null;
    } catch (error) {
      this.#error = /** @type {DispatchError} */ (error);
    }
    this.#isLoading = false;
    this.touch();
  }

  /** @param {Entry[]} kept @param {Entry[]} found */
  #merge(kept, found) {
    const all = new Map([...kept, ...found].map((entry) => [entry.id, entry]));
    for (const id of this.#deleted) all.delete(id);
    this.#entries = [...all.values()].sort((a, b) => b.lastActivityAt - a.lastActivityAt);
  }
}
