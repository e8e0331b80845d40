/**
 * Messages on their way: shown at once, sent until they are answered, kept over a reload.
 *
 * Neighbours: `conversation` and `groups` add messages and drop those that the log shows; `session`
 * repeats what has no answer; `storage` keeps them where the client was given one.
 * Invariant: a message has one `clientMessageId` for ever, so the daemon carries it out once; it is
 * forgotten only when the daemon has it or somebody discards it; messages of one conversation
 * arrive in the order in which they were written.
 */

import { DispatchError, jittered } from "./failures.js";

/** @typedef {import("../frames.js").SendFields} SendFields */
/** @typedef {{targetFamiliarIds?: string[], onBusy?: "queue" | "reject"}} GroupFields */
/** @typedef {import("../frames.js").Accepted} Accepted */
/** @typedef {import("../frames.js").GroupAccepted} GroupAccepted */
/** @typedef {import("./session.js").Session} Session */

/**
 * One message. Replaced when it changes, never changed.
 * @typedef {object} Sending
 * @property {string} clientMessageId
 * @property {"chat" | "group"} kind whether `conversationId` is a conversation's or a group's
 * @property {string} conversationId
 * @property {string} text
 * @property {SendFields | GroupFields} fields
 * @property {"waiting" | "accepted" | "failed"} state failed: nothing happens without `retry`
 * @property {"started" | "queued" | "steered" | null} place where the daemon put it
 * @property {string | null} turnId of the turn that it starts, now or from the queue
 * @property {string | null} position the log's place before it, once accepted
 * @property {number | null} seq of its row in a group, once accepted
 * @property {string | null} owner `account/user` who wrote it, where known
 * @property {boolean} isKept whether it would survive a reload
 * @property {boolean} isRestored an earlier visit or another tab wrote it: it may have arrived
 * @property {{code: string, message: string, retryable: boolean} | null} error
 */

/** A name that nobody else has, also on a page without TLS, where `randomUUID` is missing. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Sending} sending @returns {import("../frames.js").ClientFrame} */
function frameOf({ kind, conversationId, clientMessageId, text, fields }) {
  if (kind === "chat") {
    return { ...fields, type: "chat.send", conversationId, clientMessageId, message: text };
  }
  const { targetFamiliarIds, onBusy } = /** @type {GroupFields} */ (fields);
  const named = targetFamiliarIds === undefined ? {} : { targetFamiliarIds };
  const head = { groupId: conversationId, clientMessageId, text, ...named };
  return { type: "group.send", ...head, onBusy: onBusy ?? "queue" };
}

export class Outbox {
  /** @type {Map<string, Sending>} in the order of writing */
  #all = new Map();
  /** @type {Map<string, Promise<void>>} by conversation: the end of what is being sent */
  #lanes = new Map();
  /** @type {Set<string>} restored, and not asked about yet */
  #restored = new Set();
  /** @type {Map<string, (accepted: Sending | null) => void>} by conversation or group */
  #listeners = new Map();
  #session;
  #storage;
  #random;

  /**
   * @param {Session} session
   * @param {import("./storage.js").Storage | null} storage
   * @param {() => number} random
   */
  constructor(session, storage, random) {
    this.#session = session;
    this.#storage = storage;
    this.#random = random;
    // The first follower: messages are answered before any log is shown, so none shows twice.
    session.follow({ key: "outbox", frames: () => this.#welcome(), take() {}, lost() {} });
  }

  /**
   * Be told that messages of a conversation or group changed, and which one was just accepted.
   * @param {string} id
   * @param {(accepted: Sending | null) => void} listener
   */
  watch(id, listener) {
    this.#listeners.set(id, listener);
  }

  /** @param {string} id @param {Sending | null} [accepted] */
  #changed(id, accepted = null) {
    this.#listeners.get(id)?.(accepted);
  }

  /** Read what an earlier visit left; before the first connection. */
  async restore() {
    if (this.#storage === null) return;
    /** @type {Sending[]} */
    let kept = [];
    try {
      kept = await this.#storage.sends();
    } catch {
      // A browser that keeps nothing (private windows): everything works until a reload.
    }
    for (const sending of kept) {
      if (this.#all.has(sending.clientMessageId)) continue;
      this.#all.set(sending.clientMessageId, { ...sending, isRestored: true });
      if (sending.state === "waiting") this.#restored.add(sending.clientMessageId);
      this.#changed(sending.conversationId);
    }
    if (this.#session.isOnline) this.#welcome();
  }

  /** @param {string} conversationId @returns {Sending[]} in order */
  of(conversationId) {
    return [...this.#all.values()].filter((one) => one.conversationId === conversationId);
  }

  /**
   * @param {string} conversationId
   * @param {string} text
   * @param {Sending["fields"]} fields
   * @param {Sending["kind"]} [kind]
   * @returns {Sending}
   */
  add(conversationId, text, fields, kind = "chat") {
    /** @type {Sending} */
    const sending = {
      clientMessageId: newId(), kind, conversationId, text, fields, state: "waiting", place: null,
      turnId: null, position: null, seq: null, owner: this.#owner, isKept: false,
      isRestored: false, error: null,
    };
    this.#put(sending);
    this.#enqueue(sending.clientMessageId);
    return sending;
  }

  /** Send a failed message again. @param {string} clientMessageId */
  retry(clientMessageId) {
    const sending = this.#all.get(clientMessageId);
    if (sending?.state !== "failed") return;
    this.#put({ ...sending, state: "waiting", error: null });
    this.#enqueue(clientMessageId);
  }

  /**
   * Forget a message: it failed, or its conversation shows it. One that waits may still arrive.
   * @param {string} clientMessageId
   */
  drop(clientMessageId) {
    const sending = this.#all.get(clientMessageId);
    if (sending === undefined) return;
    this.#all.delete(clientMessageId);
    if (sending.state !== "accepted") this.#forget(clientMessageId);
    this.#changed(sending.conversationId);
  }

  get #owner() {
    const { hello } = this.#session.state.snapshot;
    return hello === null ? null : `${hello.account}/${hello.user}`;
  }

  /** On a new connection: what an earlier visit left, if the same person wrote it. */
  #welcome() {
    for (const id of this.#restored) {
      const { owner } = this.#all.get(id) ?? { owner: undefined };
      if (owner === undefined) this.#restored.delete(id);
      if (owner !== null && owner !== this.#owner) continue;
      this.#restored.delete(id);
      // Side by side, on one connection: in order, and all before anything that follows.
      this.#enqueue(id, true);
    }
    return [];
  }

  /**
   * @param {string} id
   * @param {boolean} [isAtOnce] not behind the others of its conversation
   */
  #enqueue(id, isAtOnce = false) {
    const conversationId = this.#all.get(id)?.conversationId ?? "";
    const lane = this.#lanes.get(conversationId);
    const sent = isAtOnce || lane === undefined ? this.#send(id) : lane.then(() => this.#send(id));
    const end = Promise.all([lane, sent]).then(() => {
      if (this.#lanes.get(conversationId) === end) this.#lanes.delete(conversationId);
    });
    this.#lanes.set(conversationId, end);
  }

  /** Until it is answered; never rejects. @param {string} id */
  async #send(id) {
    for (let attempt = 0; this.#all.get(id)?.state === "waiting"; attempt += 1) {
      const frame = frameOf(/** @type {Sending} */ (this.#all.get(id)));
      try {
        /** @param {Accepted | GroupAccepted} reply */
        const taken = (reply) => this.#accepted(id, reply);
        await this.#session.request(frame, { isRepeatable: true, taken });
        return;
      } catch (error) {
        const failure = /** @type {DispatchError} */ (error);
        // The client was closed: the next visit goes on.
        if (failure.code === "closed" && !this.#session.isOnline) return;
        const isPatient = failure.retryable && failure.code !== "busy";
        if (!isPatient) return this.#failed(id, failure);
        const wait = failure.retryAfterMs ?? jittered(attempt, this.#random);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }

  /**
   * @param {string} id
   * @param {Accepted | GroupAccepted} accepted
   */
  #accepted(id, accepted) {
    this.#forget(id);
    const sending = this.#all.get(id);
    if (sending === undefined) return;
    /** @type {Partial<Sending>} */
    let answered;
    if (accepted.type === "group.accepted") {
      answered = { place: "started", seq: accepted.userSeq };
    } else {
      const { turnId, queueId, position } = accepted;
      const place = turnId ? "started" : queueId ? "queued" : "steered";
      answered = { place, turnId: turnId ?? queueId ?? null, position };
    }
    /** @type {Sending} */
    const changed = { ...sending, ...answered, state: "accepted" };
    this.#all.set(id, changed);
    this.#changed(sending.conversationId, changed);
  }

  /**
   * @param {string} id
   * @param {DispatchError} failure
   */
  #failed(id, { code, message, retryable }) {
    const sending = this.#all.get(id);
    if (sending) this.#put({ ...sending, state: "failed", error: { code, message, retryable } });
  }

  /** @param {Sending} sending */
  #put(sending) {
    const id = sending.clientMessageId;
    this.#all.set(id, sending);
    this.#changed(sending.conversationId);
    // Beside the sending, which a full or slow disk must not hold up.
    this.#storage?.putSend(sending).then(
      () => this.#kept(id, true),
      () => this.#kept(id, false),
    );
  }

  /**
   * @param {string} id
   * @param {boolean} isKept
   */
  #kept(id, isKept) {
    const sending = this.#all.get(id);
    if (sending?.state === "accepted" || sending === undefined) return this.#forget(id);
    if (sending.isKept === isKept) return;
    this.#all.set(id, { ...sending, isKept });
    this.#changed(sending.conversationId);
  }

  /** @param {string} id */
  #forget(id) {
    // What cannot be deleted is sent once more by the next visit, and answered as a duplicate.
    this.#storage?.deleteSend(id).catch(() => {});
  }
}
