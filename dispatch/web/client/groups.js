/**
 * One group as a store: its rows in order, what its members do right now, and all its verbs.
 *
 * Neighbours: built on a `Client`, whose outbox carries messages to groups as well. The list of
 * groups is `group_list`; what is asked once is `client.http` (`api/groups`). Source:
 * `protocol/groups.md`.
 * Invariant: rows are those of a snapshot and of the frames behind its cursor; each frame is applied
 * once, by its `frameId`; a message is shown once, by the outbox until its row is there.
 */

import { Store } from "./store.js";

/** @typedef {import("../frames.js").GroupRow} GroupRow */
/** @typedef {import("../frames.js").GroupFrame} GroupFrame */
/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("./outbox.js").Sending} Sending */
/** @typedef {import("./failures.js").DispatchError} DispatchError */

/**
 * A member that answers right now, from its `session` frame to its `done`.
 * @typedef {object} Run
 * @property {string} runId
 * @property {string} familiarId
 * @property {string} sessionId its conversation
 * @property {number} replyTo
 * @property {string} reasoning so far
 * @property {readonly GroupFrame[]} tools frames of kind `tool_use`, in order
 * @property {readonly import("../frames.js").Request[]} requests what it asks
 */

/**
 * @typedef {object} GroupSnapshot
 * @property {string} id
 * @property {"closed" | "loading" | "live" | "stale" | "gone"} phase as of a conversation
 * @property {import("../frames.js").Group | null} group
 * @property {readonly GroupRow[]} rows by `seq`; those still being said are `streaming`
 * @property {readonly Run[]} runs
 * @property {readonly Sending[]} sends messages without a row yet
 * @property {boolean} hasOlder whether rows before the first were left out: `loadOlder()` reads more
 * @property {boolean} isLoading whether such rows are being read
 * @property {number} lastReadSeq
 * @property {number} unread
 * @property {DispatchError | null} error
 */

/** Rows of a first look, and of each page before it. */
const ROWS = 200;
const RETRY_MS = 1_000;

/** @extends {Store<GroupSnapshot>} */
export class Group extends Store {
  /** @type {import("../frames.js").Group | null} */
  #group = null;
  /** @type {Map<number, GroupRow>} */
  #rows = new Map();
  /** @type {Map<string, Run>} */
  #runs = new Map();
  /** @type {number | null} the last frame that was applied */
  #cursor = null;
  /** @type {ServerFrame[] | null} that came while a snapshot was being read */
  #held = null;
  /** @type {GroupSnapshot["phase"]} */
  #phase = "closed";
  /** @type {DispatchError | null} */
  #error = null;
  #lastReadSeq = 0;
  #unread = 0;
  #isLoading = false;
  #client;
  #opened = 0;
  /** @type {() => void} */
  #unfollow = () => {};

  /** @param {import("../client.js").Client} client @param {string} id */
  constructor(client, id) {
    super(() => this.#build());
    this.id = id;
    this.#client = client;
    client.outbox.watch(id, () => this.#settle());
  }

  /** Watch it, until the function that is returned is called as often as this. */
  open() {
    if (++this.#opened === 1) this.#begin();
    let isOpen = true;
    return () => {
      if (isOpen && --this.#opened === 0) this.#end();
      isOpen = false;
    };
  }

  /**
   * Say something to all members, or to those named; it is in `sends` before this returns.
   * @param {string} text
   * @param {{targetFamiliarIds?: string[], onBusy?: "queue" | "reject"}} [fields]
   */
  send(text, fields = {}) {
    return this.#client.outbox.add(this.id, text, fields, "group");
  }

  /** Send a failed message again. @param {string} clientMessageId */
  retry(clientMessageId) {
    this.#client.outbox.retry(clientMessageId);
  }

  /** Forget a failed message. @param {string} clientMessageId */
  discard(clientMessageId) {
    this.#client.outbox.drop(clientMessageId);
  }

  /**
   * End the runs that match all that is given; without anything, all.
   * @param {{familiarId?: string, replyTo?: number, runId?: string}} [which]
   * @returns {Promise<{stopped: string[], queued: boolean}>}
   */
  stop(which = {}) {
    return this.#client.http.post(`api/groups/${this.id}/stop`, which);
  }

  /** Answer what a member asks. @param {Run} run @param {string} requestId @param {import("../frames.js").Response} response */
  async respond({ sessionId }, requestId, response) {
    const path = `conversations/${sessionId}/requests/${encodeURIComponent(requestId)}`;
    await this.#client.http.post(path, response);
  }

  /** @param {number} upToSeq of the last row that was read */
  read(upToSeq) {
    if (upToSeq <= this.#lastReadSeq) return;
    this.#client.session.tell({ type: "group.read", groupId: this.id, upToSeq });
  }

  /**
   * Change the title or the members.
   * @param {{title?: string, addMemberFamiliarIds?: string[], removeMemberFamiliarIds?: string[],
   *   memberFamiliarIds?: string[]}} change
   */
  change(change) {
    return this.#client.http.request("PATCH", `api/groups/${this.id}`, change);
  }

  /** Read a page of rows before the first; rejects with what kept it from that. */
  async loadOlder() {
    const first = Number(this.snapshot.rows[0]?.seq ?? 1);
    const rows = this.#rows;
    if (this.#isLoading || first <= 1) return;
    this.#isLoading = true;
    this.touch();
    try {
      const limit = Math.min(ROWS, first - 1);
      const query = { afterSeq: first - 1 - limit, limit };
      const page = await this.#client.http.get(`api/groups/${this.id}`, query);
      for (const row of page.events) rows.set(row.seq, row);
    } finally {
      this.#isLoading = false;
      this.touch();
    }
  }

  #begin() {
    this.#phase = "loading";
    this.#unfollow = this.#client.session.follow({
      key: `group:${this.id}`,
      frames: () => this.#subscription(),
      take: (frame) => this.#take(frame),
      lost: () => this.#lost(),
    });
    this.touch();
  }

  #end() {
    this.#unfollow();
    this.#client.session.tell({ type: "group.unsubscribe", groupId: this.id });
    this.#lost();
    if (this.#phase !== "gone") this.#phase = "closed";
  }

  #lost() {
    if (this.#phase === "live") this.#phase = "stale";
    this.touch();
  }

  /** @returns {import("../frames.js").ClientFrame[]} */
  #subscription() {
    const groupId = this.id;
    const place = this.#cursor === null ? {} : { cursor: this.#cursor };
    if (this.#cursor === null) this.#load();
    // A send may have made a subscription of its own, from another place.
    return [
      { type: "group.unsubscribe", groupId },
      { type: "group.subscribe", groupId, ...place },
    ];
  }

  /** Read a snapshot; frames that come meanwhile wait, and those it contains are dropped then. */
  async #load() {
    if (this.#held !== null) return;
    this.#held = [];
    try {
      const path = `api/groups/${this.id}`;
      let page = await this.#client.http.get(path, { limit: ROWS });
      if (page.hasMore) {
        const afterSeq = Math.max(0, page.lastSeq - ROWS);
        page = await this.#client.http.get(path, { afterSeq });
      }
      this.#group = page.group;
      this.#rows = new Map(page.events.map((/** @type {GroupRow} */ row) => [row.seq, row]));
      this.#cursor = Number(page.cursor);
      this.#phase = "live";
      this.#error = null;
      const answering = new Set(page.events.map((/** @type {GroupRow} */ row) => row.runId));
      for (const id of this.#runs.keys()) if (!answering.has(id)) this.#runs.delete(id);
    } catch (error) {
      this.#error = /** @type {DispatchError} */ (error);
      if (["group_deleted", "group_not_found"].includes(this.#error.code)) this.#phase = "gone";
      else setTimeout(() => this.#opened > 0 && this.#cursor === null && this.#load(), RETRY_MS);
    }
    const held = this.#held ?? [];
    this.#held = null;
    for (const frame of held) this.#take(frame);
    this.#settle();
  }

  /** @param {ServerFrame} frame */
  #take(frame) {
    if (this.#held !== null) return void this.#held.push(frame);
    switch (frame.type) {
      case "group.subscribed":
        if (this.#cursor !== null && this.#phase !== "gone") this.#phase = "live";
        break;
      case "group.read":
        this.#lastReadSeq = Math.max(this.#lastReadSeq, frame.lastReadSeq);
        this.#unread = frame.unread;
        break;
      case "group.event":
        if ("id" in frame.event && frame.event.id === "resume-gap") {
          this.#cursor = null;
          this.#load();
        } else if (this.#cursor !== null && (frame.frameId ?? 0) > this.#cursor) {
          this.#cursor = frame.frameId ?? this.#cursor;
          this.#apply(frame.event);
        }
    }
    this.#settle();
  }

  /** @param {GroupFrame} frame */
  #apply(frame) {
    const { kind, seq, runId } = frame;
    switch (kind) {
      case "user":
        this.#row(frame);
        break;
      case "session": {
        const { familiarId, sessionId, replyTo } = frame;
        const run = { runId, familiarId, sessionId, replyTo, reasoning: "", tools: [], requests: [] };
        this.#runs.set(runId, run);
        break;
      }
      case "assistant_chunk":
        this.#row({ ...frame, text: (this.#rows.get(seq)?.text ?? "") + frame.text });
        break;
      case "tool_use":
        this.#run(runId, (run) => ({ tools: [...run.tools, frame] }));
        break;
      case "progress":
        if (frame.progress !== "reasoning") break;
        this.#run(runId, (run) => ({ reasoning: run.reasoning + frame.reasoning }));
        break;
      case "request":
        this.#run(runId, (run) => ({ requests: [...run.requests, frame.request] }));
        break;
      case "request_closed":
        this.#run(runId, (run) => {
          return { requests: run.requests.filter((one) => one.requestId !== frame.requestId) };
        });
        break;
      case "done":
        if (frame.scope === "group") break;
        this.#runs.delete(runId);
        this.#row(frame);
        break;
      case "group_updated":
        this.#group = frame.group;
        break;
      case "group_deleted":
        this.#phase = "gone";
    }
  }

  /** @param {GroupFrame} frame the fields of a row beside those of a frame */
  #row({ kind: _, groupId: __, ...row }) {
    if (row.seq !== null) this.#rows.set(row.seq, /** @type {GroupRow} */ (/** @type {any} */ (row)));
  }

  /** @param {string} runId @param {(run: Run) => Partial<Run>} change */
  #run(runId, change) {
    const run = this.#runs.get(runId);
    if (run) this.#runs.set(runId, { ...run, ...change(run) });
  }

  /** Drop the messages that have a row. */
  #settle() {
    const sends = this.#client.outbox.of(this.id);
    const written = new Set(sends.length > 0 ? this.#ids() : []);
    for (const { clientMessageId, seq } of sends) {
      const isOver = seq !== null && (this.#rows.has(seq) || this.#opened === 0);
      if (isOver || written.has(clientMessageId)) this.#client.outbox.drop(clientMessageId);
    }
    this.touch();
  }

  #ids() {
    return [...this.#rows.values()].map((row) => row.clientMessageId ?? "");
  }

  /** @returns {GroupSnapshot} */
  #build() {
    const rows = [...this.#rows.values()].sort((a, b) => Number(a.seq) - Number(b.seq));
    return {
      id: this.id, phase: this.#phase, group: this.#group, rows, runs: [...this.#runs.values()],
      sends: this.#client.outbox.of(this.id), hasOlder: Number(rows[0]?.seq ?? 1) > 1,
      isLoading: this.#isLoading,
      lastReadSeq: this.#lastReadSeq, unread: this.#unread, error: this.#error,
    };
  }
}
