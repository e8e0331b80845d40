/**
 * One conversation as a store: rows, live turns, messages on their way, queue, and all its verbs.
 *
 * Neighbours: `thread` decides what is true, `session` brings frames, `outbox` carries messages,
 * `history` fetches pages, `storage` keeps the last rows for the next visit.
 * Invariant: a message is shown once, by the outbox until the log shows it; rows are dense; what is
 * shown never goes back to an earlier state, whatever connections do.
 */

import { DispatchError } from "./failures.js";
import { History } from "./history.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";

/** @typedef {import("../frames.js").StoredChunk} StoredChunk */
/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("../frames.js").ClientFrame} ClientFrame */
/** @typedef {import("../frames.js").SendFields} SendFields */
/** @typedef {import("../frames.js").QueuedMessage} QueuedMessage */
/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("./thread.js").Mark} Mark */
/** @typedef {import("./outbox.js").Sending} Sending */

/**
 * Shown in this order: `rows`, `turns`, `sends`; `queue` beside the composer.
 * @typedef {object} ConversationSnapshot
 * @property {string} id
 * @property {"closed" | "loading" | "live" | "stale" | "gone"} phase `loading`: nothing is known of
 *   the present; `stale`: the connection is lost, what is shown may be old; `gone`: it was deleted
 * @property {readonly StoredChunk[]} rows the newest sealed chunks, ascending
 * @property {readonly Mark[]} marks which rows are of which turn
 * @property {boolean} hasOlder whether there is something before the rows
 * @property {boolean} isLoading whether rows are being fetched
 * @property {readonly Turn[]} turns not in `rows` yet, oldest first: mostly none or one
 * @property {Turn | null} turn the one that runs
 * @property {readonly Sending[]} sends messages that neither the log nor the queue shows
 * @property {readonly QueuedMessage[]} queue
 * @property {number} lastSeq of what is sealed
 * @property {number} lastReadSeq
 * @property {number} unread
 * @property {string | null} position
 * @property {DispatchError | null} error why it cannot be watched, or rows cannot be fetched
 */

/** @typedef {{session: import("./session.js").Session, http: import("./http.js").Http,
 *    outbox: import("./outbox.js").Outbox, storage: import("./storage.js").Storage | null,
 *    random: () => number, pageRows: number}} Parts */

const QUEUE = "message-queue";
/** Of changed rows, so that a burst of turns is written once. */
const KEEP_MS = 1_000;

/** @extends {Store<ConversationSnapshot>} */
export class Conversation extends Store {
  #thread = new Thread();
  #parts;
  #history;
  #opened = 0;
  /** @type {ConversationSnapshot["phase"]} */
  #phase = "closed";
  /** @type {(() => void) | null} */
  #unfollow = null;
  /** @type {string | null} of the subscription whose frames are believed */
  #ref = null;
  #refs = 0;
  #isCurrent = false;
  #isReadingKept = false;
  /** @type {DispatchError | null} */
  #error = null;
  /** @type {Set<string>} queued messages that were seen in the queue */
  #queued = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #keeping;

  /**
   * @param {string} id
   * @param {Parts} parts
   */
  constructor(id, parts) {
    super(() => this.#build());
    this.id = id;
    this.#parts = parts;
    this.#history = new History(id, parts, () => this.#settle());
    parts.outbox.watch(id, (accepted) => this.#sendsChanged(accepted));
  }

  /** Watch it, until the function that is returned is called as often as this. */
  open() {
    this.#opened += 1;
    if (this.#opened === 1) this.#begin();
    let isOpen = true;
    return () => {
      if (isOpen && --this.#opened === 0) this.#end();
      isOpen = false;
    };
  }

  get isOpen() {
    return this.#opened > 0;
  }

  /**
   * Send a message; it is in `sends` (or has failed there) before this returns.
   * @param {string} text
   * @param {SendFields} [fields] `onBusy` is `queue` unless said otherwise
   */
  send(text, fields = {}) {
    return this.#parts.outbox.add(this.id, text, { onBusy: "queue", ...fields });
  }

  /** Hand the running turn a text, or queue it. @param {string} text @param {SendFields} [fields] */
  steer(text, fields = {}) {
    return this.send(text, { ...fields, onBusy: "steer" });
  }

  /** Stop the running turn and say this instead. @param {string} text @param {SendFields} [fields] */
  interrupt(text, fields = {}) {
    return this.send(text, { ...fields, onBusy: "interrupt" });
  }

  /** Send a failed message again, under the same id. @param {string} clientMessageId */
  retry(clientMessageId) {
    this.#parts.outbox.retry(clientMessageId);
  }

  /** Forget a failed message. @param {string} clientMessageId */
  discard(clientMessageId) {
    this.#parts.outbox.drop(clientMessageId);
  }

  /**
   * Stop the running turn; what it said is kept.
   * @param {string} [turnId] only that one
   * @returns {Promise<import("../frames.js").Stopped>}
   */
  stop(turnId = this.#thread.turn?.turnId) {
    // With the turn's id a repeat cannot stop the next one.
    /** @type {ClientFrame} */
    const frame = { type: "chat.stop", conversationId: this.id, ...(turnId ? { turnId } : {}) };
    return this.#parts.session.request(frame, { isRepeatable: turnId !== undefined });
  }

  /**
   * A new conversation with everything up to and including a sealed turn.
   * @param {string} turnId
   * @returns {Promise<string>} its id
   */
  async fork(turnId) {
    /** @type {ClientFrame} */
    const frame = { type: "chat.fork", conversationId: this.id, turnId };
    /** @type {import("../frames.js").Forked} */
    const forked = await this.#parts.session.request(frame);
    return forked.conversationId;
  }

  /**
   * Answer what the agent asks; the first answer of any device wins, a later one fails (`closed`).
   * @param {string} requestId
   * @param {import("../frames.js").Response} response
   */
  async respond(requestId, response) {
    const path = `conversations/${this.id}/requests/${encodeURIComponent(requestId)}`;
    await this.#parts.http.post(path, response);
  }

  /** Take a message out of the queue; nothing if it is gone. @param {string} messageId */
  cancelQueued(messageId) {
    /** @type {ClientFrame} */
    const frame = { type: "chat.queue.cancel", conversationId: this.id, messageId };
    this.#parts.session.tell(frame);
  }

  /** Everything up to a seq (everything sealed, unless said) was read by this user. */
  read(upToSeq = this.#thread.lastSeq) {
    if (upToSeq <= this.#thread.lastReadSeq) return;
    this.#parts.session.tell({ type: "chat.read", conversationId: this.id, upToSeq });
  }

  /** Fetch the page before the first row. Resolves when it is there, or cannot be had. */
  async loadOlder() {
    const first = this.#thread.rows[0]?.seq ?? 0;
    if (first > 1) await this.#history.fetch(this.#thread, { beforeSeq: first });
  }

  /** What a tab that joins has to know, as the daemon would say it. @internal */
  asSnapshot() {
    const { position, lastSeq, superseded, turn } = this.#thread;
    if (!this.#isCurrent || position === null) return null;
    const live = turn && {
      turnId: turn.turnId, startedAt: 0, chunks: [...turn.lines], requests: [...turn.requests],
    };
    /** @type {import("../frames.js").Snapshot} */
    const snapshot = { type: "chat.snapshot", conversationId: this.id, position, lastSeq, superseded };
    return live ? { ...snapshot, turn: live } : snapshot;
  }

  /** What this device shows of the queue, as the daemon would say it. @internal */
  asSurface() {
    const fields = [{ rendererId: QUEUE, payload: { messages: [...this.#thread.queue] } }];
    const spec = { id: QUEUE, fields };
    return { type: /** @type {const} */ ("surface"), conversationId: this.id, spec };
  }

  #begin() {
    this.#phase = "loading";
    this.#readKept();
    this.#unfollow = this.#parts.session.follow({
      key: `chat:${this.id}`,
      frames: () => this.#subscription(),
      take: (frame) => this.#take(frame),
      lost: () => this.#lost(),
    });
    this.touch();
  }

  #end() {
    const { session } = this.#parts;
    this.#unfollow?.();
    session.tell({ type: "chat.unsubscribe", conversationId: this.id });
    const surface = { surfaceId: QUEUE, conversationId: this.id };
    session.tell({ type: "unsubscribe", ...surface });
    this.#keepNow();
    this.#lost();
    if (this.#phase !== "gone") this.#phase = "closed";
    this.touch();
  }

  /** Rows of the last visit, unless the daemon is faster. */
  async #readKept() {
    const { storage } = this.#parts;
    if (storage === null || this.#thread.rows.length > 0 || this.#isReadingKept) return;
    this.#isReadingKept = true;
    try {
      const kept = await storage.thread(this.id);
      if (kept && !this.#isCurrent && this.#thread.position === null) {
        this.#thread = new Thread(kept);
      }
    } catch {
      // What cannot be read is fetched.
    }
    this.#isReadingKept = false;
    this.touch();
  }

  /**
   * Unsubscribing first makes it a new subscription, also where a send began one.
   * @returns {ClientFrame[]}
   */
  #subscription() {
    const { position } = this.#thread;
    const conversationId = this.id;
    this.#refs += 1;
    this.#ref = `${conversationId.slice(0, 64)}#${this.#refs}`;
    this.#isCurrent = false;
    const surface = { surfaceId: QUEUE, conversationId };
    return [
      { type: "chat.unsubscribe", conversationId },
      {
        type: "chat.subscribe", conversationId, ref: this.#ref,
        ...(position === null ? {} : { after: position }),
      },
      { type: "unsubscribe", ...surface },
      { type: "subscribe", ...surface },
    ];
  }

  /** @param {Sending | null} accepted */
  #sendsChanged(accepted) {
    if (accepted?.place === "queued" && this.isOpen) this.#showQueue();
    this.#settle();
  }

  #showQueue() {
    const surface = { surfaceId: QUEUE, conversationId: this.id };
    this.#parts.session.tell({ type: "unsubscribe", ...surface });
    this.#parts.session.tell({ type: "subscribe", ...surface });
  }

  #lost() {
    this.#isCurrent = false;
    this.#ref = null;
    if (this.#phase === "live") this.#phase = "stale";
    this.touch();
  }

  /** @param {ServerFrame} frame */
  #take(frame) {
    switch (frame.type) {
      case "conversation.deleted":
        return this.#gone();
      case "chat.error":
        // Only of the subscription: refusals of messages are the outbox's.
        if (frame.ref !== undefined && frame.ref === this.#ref) this.#refused(frame);
        return;
      case "surface":
      case "update":
        this.#thread.take(frame);
        return this.#queueShown(frame.type === "surface");
      case "chat.read":
        this.#thread.take(frame);
        return this.touch();
      case "chat.subscribed":
        if (frame.ref !== this.#ref) return;
        this.#isCurrent = true;
        this.#phase = "live";
        this.#error = null;
    }
    // Of a subscription that was given up, or not confirmed yet: the next one starts from here.
    if (!this.#isCurrent) return;
    this.#thread.take(frame);
    if (this.#thread.needsResync) return this.#resync();
    if (this.#thread.missing() !== null) this.#fill();
    if (frame.type !== "chat.delta" || frame.event.type === "turn-sealed") this.#keepSoon();
    if (frame.type !== "chat.delta" || !frame.event.type.endsWith("-delta")) this.#settle();
    this.touch();
  }

  /** Begin anew: history, the turn in flight from its first event, and the place between them. */
  #resync() {
    const { session } = this.#parts;
    this.#subscription().forEach((frame) => session.tell(frame));
    this.touch();
  }

  /** @param {import("../frames.js").ServerFrame & {type: "chat.error"}} refusal */
  #refused({ code, message, retryable }) {
    if (code === "gone") return this.#gone();
    this.#error = new DispatchError(code, message, { retryable });
    this.touch();
  }

  async #fill() {
    await this.#history.fill(() => (this.#isCurrent ? this.#thread : null));
    this.#keepSoon();
  }

  #gone() {
    this.#phase = "gone";
    this.#thread.forget();
    clearTimeout(this.#keeping);
    this.#parts.storage?.deleteThread(this.id).catch(() => {});
    for (const one of this.#parts.outbox.of(this.id)) {
      this.#parts.outbox.drop(one.clientMessageId);
    }
    this.touch();
  }

  /** @param {boolean} isWhole told because it was asked for, so it is of after the question */
  #queueShown(isWhole) {
    const present = new Set(this.#thread.queue.map((message) => message.id));
    for (const { place, turnId, clientMessageId } of this.#parts.outbox.of(this.id)) {
      if (place !== "queued" || turnId === null) continue;
      if (present.has(turnId)) this.#queued.add(turnId);
      else if (isWhole || this.#queued.delete(turnId)) this.#parts.outbox.drop(clientMessageId);
    }
    this.touch();
  }

  /** Drop the messages that the log shows. */
  #settle() {
    for (const sending of this.#parts.outbox.of(this.id)) {
      if (sending.state === "accepted" && this.#isShown(sending)) {
        this.#parts.outbox.drop(sending.clientMessageId);
      }
    }
    this.touch();
  }

  /** @param {Sending} sending */
  #isShown({ place, turnId, text, position }) {
    const thread = this.#thread;
    // Nobody looks: whoever opens it reads the log.
    if (!this.isOpen) return true;
    if (place === "started") {
      return thread.shows({ position: position ?? "", turnId: turnId ?? undefined });
    }
    if (place === "queued") {
      if (thread.turn?.turnId === turnId) return thread.turn.lines.length > 0;
      return thread.marks.some((mark) => mark.turnId === turnId);
    }
    if (thread.turn === null) return this.#isCurrent && thread.missing() === null;
    return thread.turn.lines.some(({ role, chunk }) => {
      return role === "user" && chunk.type === "text" && chunk.text === text;
    });
  }

  #keepSoon() {
    if (this.#parts.storage === null || this.#keeping !== undefined) return;
    this.#keeping = setTimeout(() => this.#keepNow(), KEEP_MS);
    // Node waits for timers; nobody should have to wait for this one.
    /** @type {any} */ (this.#keeping).unref?.();
  }

  #keepNow() {
    clearTimeout(this.#keeping);
    this.#keeping = undefined;
    const { storage, pageRows } = this.#parts;
    const kept = this.#thread.keep(pageRows);
    // A full disk costs the next visit a page of history, and nothing else.
    if (kept !== null) storage?.putThread(this.id, kept).catch(() => {});
  }

  /** @returns {ConversationSnapshot} */
  #build() {
    const thread = this.#thread;
    const { rows, tail, marks, lastSeq, lastReadSeq, unread, position } = thread;
    const turn = thread.turn && { ...thread.turn, lines: [...thread.turn.lines] };
    const turns = [thread.ending, turn].filter((one) => one !== null);
    // A queued message is called what its turn is: once that began, it is no chip any more.
    const begun = [thread.turn, ...marks.slice(-3)];
    const queue = thread.queue.filter(({ id }) => !begun.some((turn) => turn?.turnId === id));
    const sends = this.#parts.outbox.of(this.id).filter((one) => {
      // Beside a log that may show it already, the answer to its repetition decides.
      const isUnsure = one.isRestored && one.state === "waiting" && position !== null;
      return !isUnsure && !queue.some(({ id }) => id === one.turnId);
    });
    return {
      id: this.id, phase: this.#phase, rows: tail.length > 0 ? [...rows, ...tail] : rows, marks,
      hasOlder: thread.hasOlder, isLoading: this.#history.isFetching, turns, turn, sends, queue, lastSeq,
      lastReadSeq, unread, position, error: this.#error ?? this.#history.error,
    };
  }
}
