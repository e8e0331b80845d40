// A group: its rows by `seq`, as every device has them.
//
// Neighbours: `link` brings the frames; `client` asks the routes.
// Invariant: a row is changed by frames behind the cursor it was read at, each once.

import { Follower } from "./follower.mjs";

const ROWS = new Set(["user", "assistant_chunk", "error", "done"]);

export class Group extends Follower {
  about = null;
  rows = new Map();
  #client;
  #received = 0;
  #folded = 0;

  constructor(client, id) {
    super();
    this.#client = client;
    this.id = id;
  }

  /** The rows as they are; what follows has a larger frame than the cursor. */
  async load() {
    const snapshot = await this.#client.http("GET", `/api/groups/${this.id}`);
    this.about = snapshot.group;
    this.rows = new Map(snapshot.events.map((row) => [row.seq, row]));
    this.#folded = snapshot.cursor;
    this.#received = Math.max(this.#received, this.#folded);
  }

  opening() {
    return { type: "group.subscribe", groupId: this.id, cursor: this.#received };
  }

  receive(frame) {
    if (this.refused(frame) || frame.type !== "group.event") return;
    // A gap has no number of its own: going on from where it leads does not repeat it.
    this.#received = frame.frameId ?? frame.event.cursor ?? this.#received;
    this.put(frame);
  }

  /** Each frame once, folded already. The stream's end is `group_deleted`. */
  async *changes() {
    for (;;) {
      const { frameId, event } = await this.next();
      if (event.id === "resume-gap") await this.load();
      else if (frameId <= this.#folded) continue; // the rows that were read have it
      else {
        this.#folded = frameId;
        this.#take(event);
      }
      yield event;
      if (event.kind === "group_deleted") return;
    }
  }

  #take(event) {
    const row = this.rows.get(event.seq);
    if (event.kind === "group_updated") this.about = event.group;
    else if (event.kind === "assistant_chunk" && row) row.text += event.text;
    else if (ROWS.has(event.kind) && event.seq) this.rows.set(event.seq, { ...event });
  }

  /** Accepted once. `fields`: targetFamiliarIds, onBusy. */
  send(text, fields = {}) {
    const clientMessageId = crypto.randomUUID();
    return this.#client.link.call(
      { type: "group.send", groupId: this.id, text, clientMessageId, ...fields },
      { repeat: true },
    );
  }

  /** Sends, and reads on until all members are over: the rows that answer. */
  async ask(text, fields) {
    const { userSeq } = await this.send(text, fields);
    for await (const event of this.changes()) {
      if (event.kind === "done" && event.scope === "group" && event.replyTo === userSeq) {
        return [...this.rows.values()].filter((row) => row.replyTo === userSeq);
      }
    }
  }

  /** `familiarId`, `replyTo`, `runId`. Only what names a message or a run may be repeated. */
  stop(which = {}) {
    return this.#client.link.call(
      { type: "group.stop", groupId: this.id, ...which },
      { repeat: "replyTo" in which || "runId" in which },
    );
  }

  read(upToSeq) {
    const frame = { type: "group.read", groupId: this.id, upToSeq };
    return this.#client.link.call(frame, { repeat: true });
  }

  close() {
    this.#client.forget(this);
    this.#client.link.tell({ type: "group.unsubscribe", groupId: this.id });
  }
}
