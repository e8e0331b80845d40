/**
 * Chat sessions as a store: the list with unread counts, typing and last messages.
 *
 * Neighbours: built on a `Client`; a chat session is a conversation, so what is said in it is shown
 * and sent with `client.conversation(session.id)`. Source: `protocol/chat-sessions.md`.
 * Invariant: the list is a snapshot and the events behind its cursor; where events are missing
 * (`resync_required`) the snapshot is read again.
 */

import { Store } from "./store.js";

/** @typedef {import("./failures.js").DispatchError} DispatchError */
/** @typedef {import("../frames.js").ServerFrame & {type: "chats.event"}} ChatsEvent */

/**
 * A session as `GET /v1/chat` lists it.
 * @typedef {import("../frames.js").ChatSession & {unread_count: number, has_unread: boolean,
 *   agent_typing: boolean, last_message: {content: string, role: string, created_at: string,
 *   failure_reason: string | null} | null}} ChatEntry
 */

/**
 * @typedef {object} ChatsSnapshot
 * @property {readonly ChatEntry[]} sessions newest activity first
 * @property {number} unreadTotal
 * @property {Readonly<Record<string, string>>} typing session id to device id: this person types
 *   on another device
 * @property {boolean} isLoading
 * @property {DispatchError | null} error
 */

const PAGE = 200;
const REST_MS = 500;

/** @extends {Store<ChatsSnapshot>} */
export class Chats extends Store {
  /** @type {ChatEntry[]} */
  #sessions = [];
  /** @type {Record<string, string>} */
  #typing = {};
  /** @type {number | null} the event that goes on from what is known */
  #cursor = null;
  /** The newest event that was heard, also while there is no cursor. */
  #newest = 0;
  #isLoading = false;
  #isDue = false;
  /** @type {DispatchError | null} */
  #error = null;
  #client;
  #opened = 0;
  /** @type {() => void} */
  #unfollow = () => {};

  /** @param {import("../client.js").Client} client */
  constructor(client) {
    super(() => ({
      sessions: [...this.#sessions], typing: this.#typing, isLoading: this.#isLoading,
      unreadTotal: this.#sessions.reduce((sum, { unread_count: count }) => sum + count, 0),
      error: this.#error,
    }));
    this.#client = client;
  }

  /** Keep it true, until the function that is returned is called as often as this. */
  open() {
    if (++this.#opened === 1) {
      this.#unfollow = this.#client.session.follow({
        key: "chats",
        frames: () => [this.#subscription()],
        take: (frame) => frame.type === "chats.event" && this.#take(frame),
        lost() {},
      });
    }
    let isOpen = true;
    return () => {
      if (isOpen && --this.#opened === 0) {
        this.#unfollow();
        this.#client.session.tell({ type: "chats.unsubscribe" });
      }
      isOpen = false;
    };
  }

  /**
   * @param {string} agentKey
   * @param {string} [title]
   * @returns {Promise<import("../frames.js").ChatSession>}
   */
  async create(agentKey, title) {
    const wish = { agent_key: agentKey, ...(title ? { title } : {}) };
    /** @type {import("../frames.js").ChatSession} */
    const session = await this.#client.http.post("v1/chat", wish);
    if (this.#opened > 0 && !this.#sessions.some(({ id }) => id === session.id)) {
      // In the list at once: whoever made it goes into it, and has to know whose it is.
      const quiet = { unread_count: 0, has_unread: false, agent_typing: false, last_message: null };
      this.#sessions = [{ ...session, ...quiet }, ...this.#sessions];
      this.touch();
    }
    return session;
  }

  /** @param {string} id @param {string} title */
  rename(id, title) {
    return this.#client.http.request("PATCH", `v1/chat/${id}`, { title });
  }

  /** @param {string} id */
  archive(id) {
    return this.#client.http.request("DELETE", `v1/chat/${id}`);
  }

  /** @param {string} id */
  restore(id) {
    return this.#client.http.post(`v1/chat/${id}/restore`);
  }

  /** Delete for ever. @param {string} id */
  purge(id) {
    return this.#client.http.request("DELETE", `v1/chat/${id}?purge=true`);
  }

  /** Everything of a session was read, or everything up to a row. @param {string} id @param {number} [seq] */
  read(id, seq) {
    return this.#client.http.post(`v1/chat/${id}/read`, seq === undefined ? {} : { up_to_seq: seq });
  }

  /** Tell this person's other devices. @param {string} id @param {boolean} typing @param {string} device */
  type(id, typing, device) {
    return this.#client.http.post(`v1/chat/${id}/typing`, { typing, device_id: device });
  }

  /** @returns {import("../frames.js").ClientFrame} */
  #subscription() {
    if (this.#cursor === null) this.#reload();
    const place = this.#cursor === null ? {} : { lastEventId: String(this.#cursor) };
    return { type: "chats.subscribe", ...place };
  }

  /** @param {ChatsEvent} frame */
  #take(frame) {
    /** @type {{event: string, id?: number, data?: any, sessionId?: string | null}} */
    const { event, id, data, sessionId } = frame;
    // What a snapshot has already said.
    if (id !== undefined && this.#cursor !== null && id <= this.#cursor) return;
    if (id !== undefined) this.#newest = id;
    if (id !== undefined && this.#cursor !== null) this.#cursor = id;
    const session = sessionId ?? "";
    switch (event) {
      case "connected":
        return;
      case "resync_required":
        this.#cursor = null;
        this.#newest = 0;
        break;
      case "chat_typing":
        if (data.by === "agent") this.#patch(session, { agent_typing: data.typing });
        else this.#types(session, data.typing ? data.device_id ?? "" : null);
        return;
      case "chat_session_read": {
        const { last_read_seq, unread_count } = data;
        const has_unread = unread_count > 0;
        this.#patch(session, { last_read_seq, unread_count, has_unread });
        return;
      }
      case "chat_session_deleted":
        this.#sessions = this.#sessions.filter((one) => one.id !== session);
        return this.touch();
    }
    this.#reload();
  }

  /** @param {string} id @param {string | null} device */
  #types(id, device) {
    const { [id]: _, ...others } = this.#typing;
    this.#typing = device === null ? others : { ...others, [id]: device };
    this.touch();
  }

  /** @param {string} id @param {Partial<ChatEntry>} change */
  #patch(id, change) {
    this.#sessions = this.#sessions.map((one) => (one.id === id ? { ...one, ...change } : one));
    this.touch();
  }

  /** Read the list again, now or after a rest: order and counts are the daemon's. */
  async #reload() {
    this.#isDue = true;
    if (this.#isLoading) return;
    this.#isLoading = true;
    while (this.#isDue && this.#opened > 0) {
      this.#isDue = false;
      try {
        const query = { status: "all", limit: PAGE };
        const { sessions, cursor } = await this.#client.http.get("v1/chat", query);
        // Events that came meanwhile said more than this does.
        if (Number(cursor) < this.#newest) this.#isDue = true;
        else {
          this.#sessions = sessions;
          this.#cursor = Number(cursor);
        }
        this.#error = null;
      } catch (error) {
        this.#error = /** @type {DispatchError} */ (error);
      }
      this.touch();
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
    }
    this.#isLoading = false;
    this.touch();
  }
}
