/**
 * One socket for all tabs of a browser: the tab that has the lock is a daemon to the others.
 *
 * Neighbours: `link` is given a `TabSocket` in the place of a WebSocket; `tab_hub` is the serving
 * side. Web Locks elect, a BroadcastChannel carries; a browser without either gives each tab a
 * socket of its own.
 * Invariant: at most one tab of a name has a real socket; when it goes, another one has it, and
 * every tab resumes from its own place, as after any other loss.
 */

import { newId } from "./outbox.js";
import { TabHub } from "./tab_hub.js";

/** @typedef {import("./link.js").Socket} Socket */
/** @typedef {(url: string, protocols: string[]) => Socket} OpenSocket */
/** @typedef {import("../client.js").Client} Client */

/**
 * What tabs say to each other. `open` and `close` are a pipe's, `frame` goes to the hub, `text` and
 * `end` to the pipes named in `to`; `online` asks pipes that wait to open.
 * @typedef {{type: "open" | "close", tab: string}
 *   | {type: "frame", tab: string, text: string}
 *   | {type: "text", to: string[], text: string}
 *   | {type: "end", to: string[]}
 *   | {type: "online"}} TabMessage
 */

/**
 * @typedef {object} Tabs
 * @property {(client: Client, open: OpenSocket) => OpenSocket} join
 * @property {() => void} leave
 */

/** The tab that had the lock went away: as a network that broke. */
const LOST = 1006;

/** A socket whose other end is in another tab, or a real one, once this tab has the lock. */
class TabSocket {
  /** @type {Socket["onopen"]} */
  onopen = null;
  /** @type {Socket["onmessage"]} */
  onmessage = null;
  /** @type {Socket["onclose"]} */
  onclose = null;
  /** @type {Socket["onerror"]} */
  onerror = null;
  /** @type {Socket | null} */
  #real = null;
  #isOpen = false;
  #isOver = false;
  #post;
  #tab;

  /** @param {string} tab @param {(message: TabMessage) => void} post */
  constructor(tab, post) {
    this.#tab = tab;
    this.#post = post;
    this.knock();
  }

  /** Ask whoever has the lock to let us in. */
  knock() {
    if (!this.#isOpen && !this.#isOver && this.#real === null) this.#post({ type: "open", tab: this.#tab });
  }

  /** This tab has the lock now. @param {() => Socket} open */
  become(open) {
    if (this.#isOver) return;
    if (this.#isOpen) return this.ended();
    const real = (this.#real = open());
    real.onopen = (event) => this.onopen?.(event);
    real.onmessage = (event) => this.onmessage?.(event);
    real.onclose = (event) => this.onclose?.(event);
    real.onerror = (event) => this.onerror?.(event);
  }

  /** @param {string} data */
  received(data) {
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.onopen?.({});
    }
    this.onmessage?.({ data });
  }

  ended() {
    this.#isOpen = false;
    this.onclose?.({ code: LOST, reason: "the tab with the connection went away" });
  }

  /** @param {string} text */
  send(text) {
    if (this.#real !== null) this.#real.send(text);
    else this.#post({ type: "frame", tab: this.#tab, text });
  }

  /** @param {number} [code] */
  close(code) {
    this.#isOver = true;
    if (this.#real !== null) return this.#real.close(code);
    this.#isOpen = false;
    this.#post({ type: "close", tab: this.#tab });
  }
}

/**
 * @param {{name?: string, locks?: LockManager | undefined,
 *   channel?: (name: string) => BroadcastChannel}} [options] tabs of one name share a socket: of
 *   different daemons or accounts need different ones
 * @returns {Tabs}
 */
export function shareTabs({
  name = "dispatch", locks = globalThis.navigator?.locks,
  channel: makeChannel = (address) => new BroadcastChannel(address),
} = {}) {
  const tab = newId();
  const over = new AbortController();
  /** @type {TabSocket | null} */
  let pipe = null;
  /** @type {TabHub | null} */
  let hub = null;
  /** @type {BroadcastChannel | null} */
  let channel = null;
  /** @type {() => void} */
  let release = () => {};

  /** @param {Client} client @param {OpenSocket} open @returns {OpenSocket} */
  function join(client, open) {
    if (!locks || typeof BroadcastChannel !== "function") return open;
    const air = (channel = makeChannel(`${name}:tabs`));
    const post = (/** @type {TabMessage} */ message) => air.postMessage(message);
    /** @type {() => Socket} */
    let dial = () => {
      throw new Error("nothing was dialled yet");
    };

    air.onmessage = ({ data }) => {
      const message = /** @type {TabMessage} */ (data);
      if (message.type === "online") pipe?.knock();
      else if (message.type === "text" && message.to.includes(tab)) pipe?.received(message.text);
      else if (message.type === "end" && message.to.includes(tab)) endPipe();
      else hub?.take(message);
      if (message.type === "online") client.session.wake();
    };

    /** The other end went away: what comes next is a new pipe, or our own socket. */
    function endPipe() {
      const ended = pipe;
      pipe = null;
      ended?.ended();
    }

    // Held as long as this tab lives, so that whoever serves it learns of its end.
    const held = new Promise((resolve) => (release = () => resolve(undefined)));
    const signal = over.signal;
    const ignored = () => {};
    locks.request(`${name}:${tab}`, { signal }, () => held).catch(ignored);
    locks.request(`${name}:socket`, { signal }, () => {
      const outlived = (/** @type {string} */ other) =>
        locks.request(`${name}:${other}`, { signal }, () => hub?.gone(other)).catch(ignored);
      hub = new TabHub(client, post, outlived);
      const waiting = pipe;
      pipe = null;
      waiting?.become(() => dial());
      client.session.wake();
      return held;
    }).catch(ignored);

    return (url, protocols) => {
      dial = () => open(url, protocols);
      if (hub !== null) return dial();
      return (pipe = new TabSocket(tab, post));
    };
  }

  /** Let another tab have the socket. */
  function leave() {
    hub?.close();
    release();
    over.abort();
    channel?.close();
  }

  return { join, leave };
}
