/**
 * The browser client of dispatch: the one entry; speaks `dispatch.v1` and gets the hard things right.
 *
 *     import { createClient } from "./client.js";
 *     const client = createClient();                       // of the page's own origin
 *     const conversation = client.conversation("my-chat");  // or none, for a new one
 *     const close = conversation.open();                    // watch: history, then live
 *     conversation.subscribe(() => render(conversation.snapshot));
 *     conversation.send("hello");
 *
 * Stores (`client.connection`, conversations, and those of the optional parts) have
 * `subscribe(listener)`, `getSnapshot()` and `snapshot`: see `client/store.js`. What a snapshot
 * holds: `ConversationSnapshot` in `client/conversation.js`, `ConnectionState` in
 * `client/session.js`, `Turn` in `client/turn.js`, `Sending` in `client/outbox.js`.
 * Optional parts, imported by who wants them: `client/storage.js` (kept over a reload),
 * `client/tabs.js` (one socket for all tabs), `client/directory.js` (the list of conversations),
 * `client/group_list.js` (the list of groups), `client/groups.js`, `client/chats.js`.
 * Invariant: nothing here depends on a right clock, on a build step or on another package.
 */

import { Conversation } from "./client/conversation.js";
import { DispatchError } from "./client/failures.js";
import { Http } from "./client/http.js";
import { Outbox, newId } from "./client/outbox.js";
import { Session } from "./client/session.js";
import { Store, until } from "./client/store.js";

export { Conversation, DispatchError, Store, newId, until };

/** @typedef {import("./client/conversation.js").ConversationSnapshot} ConversationSnapshot */
/** @typedef {import("./client/session.js").ConnectionState} ConnectionState */
/** @typedef {import("./client/outbox.js").Sending} Sending */
/** @typedef {import("./client/turn.js").Turn} Turn */

/**
 * @typedef {object} ClientOptions
 * @property {string} [url] of the daemon; the page's own origin where there is a page
 * @property {import("./client/link.js").Provider} [token] a bearer token, asked for before each
 *   connection and request; null: none
 * @property {import("./client/link.js").Provider} [ticket] a single-use ticket for each connection:
 *   `() => client.ticket()` where requests carry a credential that sockets cannot
 * @property {import("./client/storage.js").Storage | null} [storage] what survives a reload:
 *   `browserStorage()` of `client/storage.js`
 * @property {import("./client/tabs.js").Tabs | null} [tabs] `shareTabs()` of `client/tabs.js`
 * @property {number} [pageRows] rows of history that are fetched and kept at a time (200)
 * @property {(url: string, protocols: string[]) => import("./client/link.js").Socket} [socket]
 * @property {typeof fetch} [fetch]
 * @property {() => number} [random] in [0, 1), for back-off
 */

/** A storage that does not answer must not keep the client from the daemon. */
const RESTORE_MS = 1_000;
const PAGE_ROWS = 200;

export class Client {
  /** @type {Map<string, Conversation>} */
  #conversations = new Map();
  /** @type {(() => void)[]} */
  #undo = [];
  #session;
  #parts;

  /** @param {ClientOptions} options */
  constructor({
    url = globalThis.location?.origin, token, ticket, storage = null, tabs = null,
    pageRows = PAGE_ROWS, socket = (address, protocols) => new WebSocket(address, protocols),
    fetch: fetcher, random = Math.random,
  }) {
    if (!url) throw new TypeError("a client outside of a page needs the daemon's `url`");
    this.http = new Http(url, token, fetcher);
    const open = tabs === null ? socket : tabs.join(this, socket);
    if (tabs !== null) this.#undo.push(() => tabs.leave());
    this.#session = new Session({
      url, token, ticket, random, socket: open, refusal: () => this.#refusal(),
    });
    /** The connection; a `Store` of `ConnectionState`. */
    this.connection = this.#session.state;
    const outbox = new Outbox(this.#session, storage, random);
    this.#parts = { session: this.#session, http: this.http, outbox, storage, random, pageRows };
    this.#wakeWithPage();
    // Before the first connection: what waits is sent before anything is shown.
    const slow = new Promise((resolve) => setTimeout(resolve, RESTORE_MS));
    const ready = storage === null ? Promise.resolve() : Promise.race([outbox.restore(), slow]);
    this.restored = ready.then(() => this.#session.connect());
  }

  /** What the optional parts build on. */
  get session() {
    return this.#session;
  }

  /** Messages on their way, of all conversations. */
  get outbox() {
    return this.#parts.outbox;
  }

  /**
   * A conversation: the same object for the same id.
   * @param {string} [id] 1 to 128 of `A-Z a-z 0-9 . _ : -`; none: of a new one
   */
  conversation(id = newId()) {
    const known = this.#conversations.get(id);
    if (known) return known;
    const conversation = new Conversation(id, this.#parts);
    this.#conversations.set(id, conversation);
    return conversation;
  }

  /** Connect now: after `refused` (somebody signed in), or instead of waiting. */
  connect() {
    this.#session.connect();
  }

  /** A ticket for one connection, by the credential of this client's requests. */
  async ticket() {
    return /** @type {string} */ ((await this.http.post("auth/ticket")).ticket);
  }

  /** See every frame, both ways, until the function that is returned is called. */
  get tap() {
    return this.#session.tap.bind(this.#session);
  }

  /** End everything of this client; what was not sent is sent by the next one. */
  close() {
    this.#session.close();
    this.#parts.storage?.close?.();
    this.#undo.splice(0).forEach((undo) => undo());
  }

  /** Why the daemon would not have us, where a browser does not say why a socket failed. */
  async #refusal() {
    try {
      await this.http.get("models");
    } catch (error) {
      const { code } = /** @type {DispatchError} */ (error);
      if (code === "unauthorized" || code === "forbidden") return code;
    }
    return null;
  }

  /** At once when the network is back, or the page is. */
  #wakeWithPage() {
    const { document: page } = globalThis;
    const wake = () => this.#session.wake();
    const wakeIfShown = () => page.visibilityState === "visible" && wake();
    /** @type {[EventTarget | undefined, string, () => void][]} */
    const reasons = [
      [globalThis.window, "online", wake],
      [globalThis.window, "offline", wake],
      [globalThis.window, "pageshow", wake],
      [page, "visibilitychange", wakeIfShown],
    ];
    for (const [target, name, listener] of reasons) {
      target?.addEventListener(name, listener);
      this.#undo.push(() => target?.removeEventListener(name, listener));
    }
  }
}

/** A client that connects by itself. @param {ClientOptions} [options] */
export function createClient(options = {}) {
  return new Client(options);
}
