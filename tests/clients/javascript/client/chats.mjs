// A person's chat sessions: the routes, and their events over the WebSocket.
//
// Neighbours: `link` brings the events; `client` asks the routes.
// Invariant: what is shown is by session and `seq`, so an event that comes again changes nothing.

import { Follower } from "./follower.mjs";

/** `messages` holds, by session and seq, what came; `live` the text of answers being said. */
export class Chats extends Follower {
  messages = new Map();
  live = new Map();
  #client;
  #last = undefined;

  constructor(client) {
    super();
    this.#client = client;
  }

  opening() {
    return { type: "chats.subscribe", deltas: true, lastEventId: this.#last };
  }

  receive(frame) {
    // Typing of people and deltas have no id; `connected` and a resync have a cursor.
    const tells = frame.event === "connected" || frame.event === "resync_required";
    this.#last = tells ? frame.data.cursor : frame.id ?? this.#last;
    this.put(frame);
  }

  /** Each event once. After `resync_required` what is shown has to be read again: `show`. */
  async *changes() {
    for (;;) {
      const frame = await this.next();
      if (frame.event === "chat_message") {
        this.live.delete(frame.data.id);
        this.#keep(frame.data);
      } else if (frame.event === "chat_message_delta") {
        await this.#append(frame.data);
      } else if (frame.event === "resync_required") {
        this.messages.clear();
        this.live.clear();
      }
      yield frame;
    }
  }

  async #append({ chat_session_id, message_id, offset, text }) {
    if (offset > (this.live.get(message_id) ?? "").length) {
      // Deltas are not sent again, so whoever joins in the middle reads what there is.
      await this.show(chat_session_id);
    }
    const before = this.live.get(message_id) ?? "";
    if (offset <= before.length) {
      this.live.set(message_id, before + text.slice(before.length - offset));
    }
  }

  #keep(message) {
    const rows = this.messages.get(message.chat_session_id) ?? new Map();
    this.messages.set(message.chat_session_id, rows.set(message.seq, message));
  }

  create(agent, title) {
    return this.#client.http("POST", "/v1/chat", { agent_key: agent, title });
  }

  list(status = "active") {
    return this.#client.http("GET", `/v1/chat?status=${status}`);
  }

  async show(id) {
    const session = await this.#client.http("GET", `/v1/chat/${id}`);
    for (const message of session.messages) {
      this.#keep(message);
      if (message.status === "streaming") this.live.set(message.id, message.content);
    }
    return session;
  }

  /** Accepted once, however often the request fails on its way. */
  send(id, content, { clientMessageId = crypto.randomUUID(), wait } = {}) {
    const query = wait === undefined ? "" : `?wait=${wait}`;
    const body = { content, client_message_id: clientMessageId };
    return this.#client.http("POST", `/v1/chat/${id}/messages${query}`, body, { repeat: true });
  }

  read(id, upToSeq) {
    return this.#client.http("POST", `/v1/chat/${id}/read`, { up_to_seq: upToSeq });
  }

  cancel(id, taskId) {
    return this.#client.http("POST", `/v1/chat/${id}/cancel`, { task_id: taskId });
  }

  close() {
    this.#client.forget(this);
    this.#client.link.tell({ type: "chats.unsubscribe" });
  }
}
