// A conversation: what was said before, and what is said from then on, without a gap.
//
// Neighbours: `turn` folds what is said; `link` brings the frames.
// Invariant: the position moves with what was received, and what was received is kept.

import { Refused } from "./errors.mjs";
import { Follower } from "./follower.mjs";
import { Turn } from "./turn.mjs";

const MOVING = new Set(["chat.delta", "chat.request", "chat.request.closed", "chat.snapshot"]);

/** `history` are chunks of turns that were over when following began; `turns` came since. */
export class Conversation extends Follower {
  history = [];
  turns = new Map();
  #client;
  #position = null;
  #latestSeq = 0;
  #head = null;

  constructor(client, id) {
    super();
    this.#client = client;
    this.id = id;
  }

  /** The text of the newest turn. */
  get text() {
    return [...this.turns.values()].at(-1)?.text ?? "";
  }

  opening() {
    const frame = { type: "chat.subscribe", conversationId: this.id };
    // Where nothing came that could be gone on from: history first, behind what there is of it.
    if (this.#position === null) return { ...frame, sinceSeq: this.#latestSeq };
    return { ...frame, after: this.#position };
  }

  receive(frame) {
    if (this.refused(frame)) return;
    if (frame.type === "conversation.deleted") {
      this.stopped(new Refused("gone", "the conversation was deleted"));
    } else if (frame.type === "chat.subscribed") {
      // With a turn in flight the head lies behind events that are still to come, and would lose
      // them if the connection broke now.
      this.#head = frame.turnId ? null : frame.position;
    } else if (frame.type === "chat.history") {
      this.#latestSeq = Math.max(this.#latestSeq, frame.latestSeq);
      if (!frame.more) this.#position = this.#head;
    } else if (MOVING.has(frame.type)) {
      // An answer to a request without watching has no position.
      this.#position = frame.position ?? this.#position;
    }
    this.put(frame);
  }

  /** Every change once, folded already: events, requests, history and snapshots. */
  async *changes() {
    for (;;) {
      const frame = await this.next();
      switch (frame.type) {
        case "chat.delta":
          this.#turn(frame.event.turnId).take(frame.event);
          yield frame.event;
          break;
        case "chat.request":
        case "chat.request.closed":
          if (frame.turnId) this.#turn(frame.turnId).take(frame);
          yield frame;
          break;
        case "chat.history":
          this.history.push(...frame.chunks);
          yield frame;
          break;
        case "chat.snapshot":
          await this.#replace(frame);
          yield frame;
          break;
      }
    }
  }

  /** Accepted once, however often the connection breaks. `fields`: model, onBusy, ... */
  send(message, fields = {}) {
    const clientMessageId = crypto.randomUUID();
    return this.#client.link.call(
      { type: "chat.send", conversationId: this.id, message, clientMessageId, ...fields },
      { repeat: true },
    );
  }

  /**
   * Sends, and reads on until that message's turn is over. A message that waits and is taken back
   * by somebody has no turn, and nothing says so: a caller that may wait sets a time.
   */
  async ask(message, fields) {
    const { turnId, queueId } = await this.send(message, fields);
    let id = turnId ?? queueId;
    for await (const change of this.changes()) {
      if (id === undefined && (change.type === "steering" || change.type === "user-message")) {
        // It was steered: only its text tells which turn took it.
        id = change.text === message ? change.turnId : undefined;
      }
      if (this.turns.get(id)?.sealed) return this.turns.get(id);
    }
  }

  /** Without a turn a repeat could stop the next one. */
  stop(turnId) {
    return this.#client.link.call(
      { type: "chat.stop", conversationId: this.id, turnId },
      { repeat: turnId !== undefined },
    );
  }

  /**
   * `optionId` or `approved`, or `action` and `answers`. Over HTTP, because a watcher's answer has
   * no reply of its own on the socket.
   */
  respond(requestId, answer) {
    return this.#client.http("POST", `/conversations/${this.id}/requests/${requestId}`, answer);
  }

  close() {
    this.#client.forget(this);
    this.#client.link.tell({ type: "chat.unsubscribe", conversationId: this.id });
  }

  #turn(id) {
    if (!this.turns.has(id)) this.turns.set(id, new Turn(id));
    return this.turns.get(id);
  }

  async #replace(snapshot) {
    const { chunks } = await this.#client.http("GET", `/conversations/${this.id}`);
    // Turns that were sealed since come as events as well.
    this.history = chunks.filter(({ seq }) => seq <= snapshot.lastSeq);
    this.turns.clear();
    if (snapshot.turn) this.turns.set(snapshot.turn.turnId, Turn.ofSnapshot(snapshot.turn));
  }
}
