/**
 * A daemon in this process that does what a test tells it: for what a real one never does on demand.
 *
 * Neighbours: tests pass `fake.socket` and `fake.fetch` to a client; `live.test.js` holds the client
 * to a real daemon, so a mistake here cannot hide there.
 * Invariant: the log is what a daemon's is: offsets and seqs are dense, rows appear with the seal.
 */

import { createClient, until } from "../../dispatch/web/client.js";
import { Fold } from "../../dispatch/web/client/fold.js";

/** @typedef {any} Any */

class FakeSocket {
  onopen = /** @type {Any} */ (null);
  onmessage = /** @type {Any} */ (null);
  onclose = /** @type {Any} */ (null);
  onerror = /** @type {Any} */ (null);
  watched = new Set();
  surfaces = new Set();
  isOpen = false;

  /** @param {FakeDaemon} daemon @param {string} url @param {string[]} protocols */
  constructor(daemon, url, protocols) {
    this.daemon = daemon;
    this.url = url;
    this.protocols = protocols;
    setImmediate(() => {
      if (daemon.isDown) return this.end(1006);
      this.isOpen = true;
      this.onopen?.({});
      if (!daemon.isSilent) this.tell(daemon.hello());
    });
  }

  send(/** @type {string} */ text) {
    if (!this.isOpen) return;
    const frame = JSON.parse(text);
    this.daemon.received.push(frame);
    setImmediate(() => this.isOpen && this.daemon.take(this, frame));
  }

  tell(/** @type {Any} */ frame) {
    setImmediate(() => {
      if (!this.isOpen) return;
      for (const one of this.daemon.mangle(frame)) this.onmessage?.({ data: JSON.stringify(one) });
    });
  }

  close() {
    this.isOpen = false;
    this.daemon.sockets.delete(this);
  }

  end(/** @type {number} */ code) {
    this.close();
    this.onclose?.({ code, reason: "" });
  }
}

export class FakeDaemon {
  generation = "g1";
  heartbeatSeconds = 25;
  user = "local";
  isDown = false;
  /** Accepts, and never says hello. */
  isSilent = false;
  /** Sends start turns that answer by themselves. */
  answers = true;
  refusals = /** @type {Any[]} */ ([]);
  httpFailures = 0;
  dials = 0;
  frameBytesMax = 1_048_576;
  sockets = new Set();
  received = /** @type {Any[]} */ ([]);
  conversations = new Map();
  /** What becomes of a frame on its way: nothing, itself, or several. */
  mangle = (/** @type {Any} */ frame) => [frame];
  /** Frames that a test answers itself. */
  intercept = (/** @type {FakeSocket} */ _socket, /** @type {Any} */ _frame) => false;

  socket = (/** @type {string} */ url, /** @type {string[]} */ protocols) => {
    this.dials += 1;
    const socket = new FakeSocket(this, url, protocols);
    this.sockets.add(socket);
    return socket;
  };

  fetch = async (/** @type {Any} */ url, /** @type {Any} */ init) => {
    const { pathname, searchParams } = new URL(url);
    if (this.isDown) throw new TypeError("fetch failed");
    if (this.httpFailures > 0) {
      this.httpFailures -= 1;
      return new Response('{"error":"later","code":"unavailable"}', { status: 503 });
    }
    if (pathname === "/models") return this.models(init);
    const { rows } = this.of(decodeURIComponent(pathname.split("/")[2]));
    const since = Number(searchParams.get("sinceSeq") ?? 0);
    const before = Number(searchParams.get("beforeSeq") ?? Infinity);
    const limit = Number(searchParams.get("limit") ?? Infinity);
    const found = rows.filter((/** @type {Any} */ row) => row.seq > since && row.seq < before);
    const chunks = found.slice(-Math.min(limit, found.length) || found.length);
    return Response.json({ chunks, latestSeq: chunks.at(-1)?.seq ?? since });
  };

  models = (/** @type {Any} */ _init) => Response.json({ models: ["echo"] });

  hello() {
    return {
      type: "hello", protocol: "dispatch.v1", server: "fake", connectionId: "c", account: "local",
      user: this.user, limits: { frameBytesMax: this.frameBytesMax },
      heartbeatSeconds: this.heartbeatSeconds, agents: [],
    };
  }

  of(/** @type {string} */ id) {
    const known = this.conversations.get(id);
    if (known) return known;
    const made = { id, log: [], rows: [], queue: [], turn: null, sends: new Map(), turns: 0 };
    this.conversations.set(id, made);
    return made;
  }

  /** All connections break, as a cable does. */
  cut(code = 1006) {
    for (const socket of [...this.sockets]) socket.end(code);
  }

  /** Say the next event of a conversation's log to whoever watches. */
  emit(/** @type {string} */ id, /** @type {Any} */ fields) {
    const conversation = this.of(id);
    if (fields.type === "user-message") {
      conversation.turn = { id: `t${++conversation.turns}`, fold: new Fold(), first: conversation.log.length };
    }
    const turnId = conversation.turn.id;
    const event = { ...fields, conversationId: id, turnId };
    conversation.turn.fold.add(event);
    conversation.log.push(event);
    if (fields.type === "turn-sealed") {
      for (const line of conversation.turn.fold.lines) {
        conversation.rows.push({ seq: conversation.rows.length + 1, ...line });
      }
      conversation.turn = null;
    }
    const frame = this.frameOf(conversation, conversation.log.length);
    for (const socket of this.sockets) if (socket.watched.has(id)) socket.tell(frame);
    return turnId;
  }

  /** A whole turn. */
  turn(/** @type {string} */ id, /** @type {string} */ text, /** @type {Any[]} */ events = []) {
    this.emit(id, { type: "user-message", text });
    for (const event of events) this.emit(id, event);
    this.emit(id, { type: "done", reason: "stop" });
    this.emit(id, { type: "turn-sealed" });
  }

  position(/** @type {number} */ offset) {
    return `${this.generation}:${offset}`;
  }

  frameOf(/** @type {Any} */ conversation, /** @type {number} */ offset) {
    const event = conversation.log[offset - 1];
    return { type: "chat.delta", event, position: this.position(offset) };
  }

  take(/** @type {FakeSocket} */ socket, /** @type {Any} */ frame) {
    if (this.intercept(socket, frame)) return;
    const { ref, conversationId: id } = frame;
    switch (frame.type) {
      case "ping":
        return socket.tell({ type: "pong", ref });
      case "chat.unsubscribe":
        return socket.watched.delete(id);
      case "chat.subscribe":
        return this.subscribe(socket, frame);
      case "subscribe":
        socket.surfaces.add(id);
        return socket.tell({ type: "surface", conversationId: id, spec: this.spec(id) });
      case "unsubscribe":
        return socket.surfaces.delete(id);
      case "chat.send":
        return this.send(socket, frame);
    }
  }

  spec(/** @type {string} */ id) {
    return { id: "message-queue", fields: [{ payload: { messages: [...this.of(id).queue] } }] };
  }

  subscribe(/** @type {FakeSocket} */ socket, /** @type {Any} */ { conversationId: id, after, ref }) {
    const { log, rows, turn } = this.of(id);
    const head = { position: this.position(log.length), lastSeq: rows.length, conversationId: id };
    const told = { ...head, type: "chat.subscribed", ref, status: turn ? "active" : "idle" };
    const [generation, offset] = (after ?? `${this.generation}:${turn?.first ?? log.length}`).split(":");
    const recovered = generation === this.generation && Number(offset) <= log.length;
    socket.watched.add(id);
    socket.tell({ ...told, recovered, ...(turn ? { turnId: turn.id } : {}) });
    if (recovered) {
      for (let at = Number(offset) + 1; at <= log.length; at += 1) {
        socket.tell(this.frameOf(this.of(id), at));
      }
    } else {
      const live = turn && { turnId: turn.id, startedAt: 0, chunks: [...turn.fold.lines], requests: [] };
      socket.tell({ ...head, type: "chat.snapshot", ...(live ? { turn: live } : {}) });
    }
  }

  send(/** @type {FakeSocket} */ socket, /** @type {Any} */ frame) {
    const { conversationId: id, clientMessageId, message: text, ref } = frame;
    const conversation = this.of(id);
    const refusal = this.refusals.shift();
    if (refusal) return socket.tell({ type: "chat.error", conversationId: id, ref, ...refusal });
    const again = conversation.sends.get(clientMessageId);
    if (again) return socket.tell({ ...again, duplicate: true, ref });
    const accepted = {
      type: "chat.accepted", conversationId: id, clientMessageId,
      position: this.position(conversation.log.length),
      ...(conversation.turn ? { queueId: `q-${clientMessageId}` } : { turnId: `t${conversation.turns + 1}` }),
    };
    conversation.sends.set(clientMessageId, accepted);
    socket.tell({ ...accepted, ref });
    if (accepted.turnId) this.emit(id, { type: "user-message", text });
    else {
      conversation.queue.push({ id: accepted.queueId, text, queuedAt: 0 });
      for (const one of this.sockets) {
        const update = { surfaceId: "message-queue", conversationId: id, spec: this.spec(id) };
        if (one.surfaces.has(id)) one.tell({ type: "update", update });
      }
    }
    if (!this.answers || accepted.queueId) return;
    this.emit(id, { type: "text-delta", delta: `re: ${text}` });
    this.emit(id, { type: "done", reason: "stop" });
    this.emit(id, { type: "turn-sealed" });
  }
}

/** A client of a fake daemon, with a back-off that does not wait. @param {FakeDaemon} fake */
export function clientOf(fake, /** @type {Any} */ options = {}) {
  const { socket, fetch } = fake;
  return createClient({ url: "http://fake.test", socket, fetch, random: () => 0.001, ...options });
}

const GUARD_MS = 20_000;

/** The first snapshot with a property, under a guard. */
export async function when(/** @type {Any} */ store, /** @type {(snapshot: Any) => unknown} */ test) {
  /** @type {Any} */
  let timer;
  const late = new Promise((_, reject) => {
    const fail = () => reject(new Error(`never came true of ${JSON.stringify(store.snapshot)}: ${test}`));
    timer = setTimeout(fail, GUARD_MS);
  });
  try {
    return await Promise.race([until(store, (snapshot) => Boolean(test(snapshot))), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What a snapshot shows as text, in the order in which it is shown. */
export function shown(/** @type {Any} */ { rows, turns, sends }) {
  const lines = [...rows, ...turns.flatMap((/** @type {Any} */ turn) => turn.lines)];
  const said = lines.map(({ role, chunk }) => `${role}: ${chunk.text ?? chunk.type}`);
  return [...said, ...sends.map((/** @type {Any} */ one) => `user: ${one.text}`)];
}
