/**
 * One logical connection to a daemon that survives its real ones.
 *
 * Neighbours: `link` is one real connection; `conversation`, `groups`, `chats`, `directory` and
 * `group_list` are followers, who are asked for their frames on every new connection and get what
 * is theirs; `outbox` makes requests that are repeated until they are answered.
 * Invariant: a request settles once; one that must not be repeated fails with `connection_lost`
 * when its reply is lost; a follower is told of each loss before anything of the next connection.
 */

import { DispatchError, jittered } from "./failures.js";
import { Link } from "./link.js";
import { Store } from "./store.js";

/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("../frames.js").ClientFrame} ClientFrame */
/** @typedef {import("../frames.js").Hello} Hello */

/**
 * `idle` before `connect`; `waiting` until the next try; `refused` until somebody calls `connect`
 * again, e.g. after signing in (see `code`); `closed` for good.
 * @typedef {object} ConnectionState
 * @property {"idle" | "connecting" | "online" | "waiting" | "refused" | "closed"} phase
 * @property {number} attempt tries that failed since the last stable connection
 * @property {number | null} retryInMs what the wait was when it began; null where there is none
 * @property {string | null} code why it is not online: a code of `protocol/errors.md`
 * @property {string | null} reason the same in words
 * @property {Hello | null} hello what the daemon said of itself, last time
 */

/**
 * @typedef {object} Follower
 * @property {string} key whose frames it gets: `topicOf` a frame
 * @property {() => ClientFrame[]} frames what to send on a new connection
 * @property {(frame: ServerFrame) => void} take
 * @property {() => void} lost the connection is gone
 */

/**
 * @typedef {object} Call
 * @property {ClientFrame} frame
 * @property {boolean} isRepeatable
 * @property {boolean} isSent on the present connection
 * @property {(reply: ServerFrame) => void} resolve
 * @property {(error: DispatchError) => void} reject
 */

/**
 * @typedef {object} Frame
 * @property {"in" | "out"} direction
 * @property {ServerFrame | ClientFrame} frame
 * @property {number} bytes of UTF-16 text: near enough for a meter
 */

/** A connection that lives shorter does not end the back-off. */
const STABLE_MS = 5_000;
/** What a caller waits for a reply that is not repeated. */
const REPLY_MS = 30_000;
/** Close codes that say our own bytes were wrong: the same again would only end the next one. */
const OUR_FAULT = [1002, 1003, 1007, 1009];
const REFUSALS = new Set(["chat.error", "error", "group.error"]);
/** @type {Record<number, string>} */
const REFUSED_CODES = { 4500: "unauthorized", 4501: "forbidden" };

/**
 * Whom a frame is for: `chat:ID`, `group:ID`, `chats`, or `` for nobody in particular. What is
 * told of conversations and groups to the whole account is for `account` as well.
 * @param {any} frame
 */
export function topicOf(frame) {
  if (frame.type.startsWith("chats.")) return "chats";
  if (frame.type.startsWith("group.")) return `group:${frame.groupId}`;
  const id = frame.event?.conversationId ?? frame.update?.conversationId ?? frame.conversationId;
  return id === undefined ? "" : `chat:${id}`;
}

export class Session {
  /** @type {Link | null} */
  #link = null;
  /** @type {Map<string, Set<Follower>>} */
  #followers = new Map();
  /** @type {Map<number, Call>} by ref */
  #calls = new Map();
  /** @type {Set<(frame: Frame) => void>} */
  #taps = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retry;
  #refs = 0;
  /** @type {ConnectionState} */
  #state = {
    phase: "idle", attempt: 0, retryInMs: null, code: null, reason: null, hello: null,
  };
  #options;

  /** @param {import("./link.js").LinkOptions & {random: () => number}} options */
  constructor(options) {
    this.#options = options;
    /** @type {Store<ConnectionState>} */
    this.state = new Store(() => this.#state);
  }

  /** Bytes that a frame may have: what is longer ends the connection. */
  get frameBytesMax() {
    return this.#state.hello?.limits?.frameBytesMax ?? 1_048_576;
  }

  get isOnline() {
    return this.#state.phase === "online";
  }

  /** Connect, now: also after `refused`, and in place of what is left of a wait. */
  connect() {
    if (["idle", "waiting", "refused"].includes(this.#state.phase)) this.#dial();
  }

  /**
   * Something happened that makes a try worth while (the network is back, the page is shown
   * again): a wait ends at once, and a connection has to show that it still lives.
   */
  wake() {
    if (this.#state.phase === "waiting") this.#dial();
    else this.#link?.check();
  }

  /** End it for good. Every request that waits fails with `closed`. */
  close() {
    clearTimeout(this.#retry);
    this.#link?.close();
    this.#link = null;
    this.#change({ phase: "closed", code: "closed", reason: "closed by this side" });
    this.#failCalls(() => new DispatchError("closed", "the client is closed"));
  }

  /**
   * Send a frame and wait for its reply.
   * @template {ServerFrame} R
   * @param {ClientFrame} frame
   * @param {{isRepeatable?: boolean, taken?: (reply: R) => void}} [how] whether it may be sent again
   *   on the next connection (it then waits as long as it takes); `taken` is called with the reply
   *   before the next frame is read, which may be of the same instant
   * @returns {Promise<R>} rejects with `DispatchError`
   */
  request(frame, { isRepeatable = false, taken } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#state.phase === "closed") {
        return reject(new DispatchError("closed", "the client is closed"));
      }
      const ref = ++this.#refs;
      const timer = isRepeatable
        ? undefined
        : setTimeout(() => {
            const call = this.#calls.get(ref);
            const code = call?.isSent ? "connection_lost" : "unreachable";
            call?.reject(new DispatchError(code, "no reply", { retryable: true }));
          }, REPLY_MS);
      const settle = () => {
        clearTimeout(timer);
        this.#calls.delete(ref);
      };
      /** @type {Call} */
      const call = {
        frame: { ...frame, ref },
        isRepeatable,
        isSent: false,
        resolve: (reply) => {
          settle();
          taken?.(/** @type {R} */ (reply));
          resolve(/** @type {R} */ (reply));
        },
        reject: (error) => (settle(), reject(error)),
      };
      this.#calls.set(ref, call);
      if (this.isOnline) this.#transmit(call);
    });
  }

  /**
   * Send a frame that has no reply; where there is no connection it is not sent at all.
   * @param {ClientFrame} frame
   */
  tell(frame) {
    if (this.isOnline) this.#write(frame);
  }

  /**
   * Follow a topic over all connections.
   * @param {Follower} follower
   * @returns {() => void} ends it; says nothing to the daemon
   */
  follow(follower) {
    const all = this.#followers.get(follower.key) ?? new Set();
    this.#followers.set(follower.key, all.add(follower));
    if (this.isOnline) follower.frames().forEach((frame) => this.#write(frame));
    return () => {
      all.delete(follower);
      if (all.size === 0 && this.#followers.get(follower.key) === all) {
        this.#followers.delete(follower.key);
      }
    };
  }

  /**
   * See every frame, both ways.
   * @param {(frame: Frame) => void} listener
   * @returns {() => void} ends it
   */
  tap(listener) {
    this.#taps.add(listener);
    return () => void this.#taps.delete(listener);
  }

  /** @param {Partial<ConnectionState>} change */
  #change(change) {
    this.#state = { ...this.#state, retryInMs: null, ...change };
    this.state.touch();
  }

  #dial() {
    clearTimeout(this.#retry);
    this.#change({ phase: "connecting" });
    let helloAt = 0;
    const link = new Link(this.#options, {
      hello: (hello) => {
        helloAt = performance.now();
        this.#change({ phase: "online", code: null, reason: null, hello });
        this.#resume();
      },
      take: (frame, bytes) => this.#take(frame, bytes),
      lost: (code, reason, final) => {
        if (this.#link !== link) return;
        this.#link = null;
        if (helloAt !== 0 && performance.now() - helloAt >= STABLE_MS) this.#change({ attempt: 0 });
        this.#lost(code, reason, final, helloAt !== 0);
      },
    });
    this.#link = link;
  }

  /**
   * On a new connection: what was asked and not answered, in order, then what is followed. So a
   * message is acknowledged before the log shows its turn, and is never shown beside it.
   */
  #resume() {
    for (const call of [...this.#calls.values()]) this.#transmit(call);
    for (const all of [...this.#followers.values()]) {
      for (const follower of [...all]) {
        follower.frames().forEach((frame) => this.#write(frame));
      }
    }
  }

  /**
   * @param {number} code of the close frame
   * @param {string} reason
   * @param {string | null} final a code that makes trying again useless
   * @param {boolean} wasOnline
   */
  #lost(code, reason, final, wasOnline) {
    if (wasOnline) {
      for (const all of [...this.#followers.values()]) {
        for (const follower of [...all]) follower.lost();
      }
    }
    this.#failCalls((call) => {
      if (!call.isSent) return null;
      call.isSent = false;
      if (OUR_FAULT.includes(code)) return new DispatchError("invalid", reason);
      if (call.isRepeatable) return null;
      return new DispatchError("connection_lost", reason, { retryable: true });
    });
    const refused = final ?? (code >= 4500 && code < 5000 ? REFUSED_CODES[code] ?? "policy" : null);
    if (refused !== null) return this.#change({ phase: "refused", code: refused, reason });
    const { attempt } = this.#state;
    const retryInMs = jittered(attempt, this.#options.random);
    this.#change({
      phase: "waiting", attempt: attempt + 1, retryInMs, code: "connection_lost", reason,
    });
    this.#retry = setTimeout(() => this.#dial(), retryInMs);
  }

  /** @param {(call: Call) => DispatchError | null} failureOf */
  #failCalls(failureOf) {
    for (const call of [...this.#calls.values()]) {
      const failure = failureOf(call);
      if (failure !== null) call.reject(failure);
    }
  }

  /** @param {Call} call */
  #transmit(call) {
    const text = JSON.stringify(call.frame);
    // Three bytes are the most that one UTF-16 unit becomes; most texts need no exact count.
    const isLong = text.length * 3 > this.frameBytesMax;
    if (isLong && new TextEncoder().encode(text).length > this.frameBytesMax) {
      call.reject(new DispatchError("too_large", "the message is longer than the daemon takes"));
      return;
    }
    call.isSent = true;
    this.#write(call.frame, text);
  }

  /**
   * @param {ClientFrame} frame
   * @param {string} [text]
   */
  #write(frame, text = JSON.stringify(frame)) {
    this.#link?.send(text);
    for (const tap of this.#taps) tap({ direction: "out", frame, bytes: text.length });
  }

  /**
   * @param {ServerFrame} frame
   * @param {number} bytes
   */
  #take(frame, bytes) {
    for (const tap of this.#taps) tap({ direction: "in", frame, bytes });
    const call = this.#calls.get(/** @type {any} */ (frame).ref);
    if (call && REFUSALS.has(frame.type)) {
      const { code, message, error, retryable, retryAfterMs } = /** @type {any} */ (frame);
      const words = message ?? error ?? "refused";
      call.reject(new DispatchError(code ?? "refused", words, { retryable, retryAfterMs }));
    } else {
      call?.resolve(frame);
    }
    this.#deliver(topicOf(frame), frame);
    if (/^(conversation\.|group\.(changed|deleted))/.test(frame.type)) this.#deliver("account", frame);
  }

  /**
   * @param {string} key
   * @param {ServerFrame} frame
   */
  #deliver(key, frame) {
    for (const follower of [...(this.#followers.get(key) ?? [])]) follower.take(frame);
  }
}
