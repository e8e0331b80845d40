// One WebSocket that comes back: replies by `ref`, frames to whoever follows, pauses that grow.
//
// Neighbours: `follower` is who gets frames; `client` opens it.
// Invariant: a call has one reply, a refusal, or an error that says that it was lost.

import { Lost, Refused, Stopped } from "./errors.mjs";

const PROTOCOL = "dispatch.v1";
const ERRORS = new Set(["error", "chat.error", "group.error"]);
const PAUSE_MS_MAX = 30_000;
// A connection that broke sooner counts as one more failure.
const STEADY_MS = 10_000;

export class Link {
  #address;
  #protocols;
  #socket = null;
  #opening;
  #stopped = null;
  #ref = 0;
  #failures = 0;
  #timer;
  #waiting = new Map();
  #followers = new Map();
  hello = null;

  constructor(url, token) {
    this.#address = `${url.replace("http", "ws")}/ws`;
    this.#protocols = [PROTOCOL];
    if (token) {
      this.#protocols.push(`dispatch.token.${Buffer.from(token).toString("base64url")}`);
    }
    this.#opening = deferred();
    this.#connect();
  }

  /** Resolves once a connection is open. */
  opened() {
    return this.#opening.promise;
  }

  /** `follower.opening()` is sent on every connection, now and later; it gets what has its key. */
  follow(key, follower) {
    if (this.#stopped) throw this.#stopped;
    this.#followers.set(key, follower);
    if (this.#socket) this.#send(follower.opening());
  }

  unfollow(key) {
    this.#followers.delete(key);
  }

  /** For frames that nobody answers; without a connection there is nothing to tell. */
  tell(frame) {
    if (this.#socket) this.#send(frame);
  }

  /**
   * The reply. With `repeat`, which only what is done once however often it comes may ask for,
   * the frame is sent again on the next connection; else a break throws Lost.
   */
  async call(frame, { repeat = false } = {}) {
    const ref = ++this.#ref;
    for (;;) {
      await this.opened();
      const reply = deferred();
      this.#waiting.set(ref, reply);
      try {
        this.#send({ ...frame, ref });
        const answer = await reply.promise;
        if (ERRORS.has(answer.type)) throw Refused.ofFrame(answer);
        return answer;
      } catch (wrong) {
        if (!(wrong instanceof Lost && repeat)) throw wrong;
      } finally {
        this.#waiting.delete(ref);
      }
    }
  }

  /** Breaks the connection, as the network may; the next one goes on. For trials. */
  drop() {
    this.#socket?.close();
  }

  close() {
    this.#stop(new Stopped(1000, "closed here"));
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
  }

  #send(frame) {
    const text = JSON.stringify(frame);
    const most = this.hello.limits.frameBytesMax;
    if (Buffer.byteLength(text) > most) {
      // The server would close with 1009, and sending it again would do so for ever.
      throw new Refused("too_large", `a frame has at most ${most} bytes`);
    }
    this.#socket.send(text);
  }

  #connect() {
    const began = Date.now();
    const socket = new WebSocket(this.#address, this.#protocols);
    let silent = false;
    let heartbeat;
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      silent = false;
      this.#take(socket, frame);
      if (frame.type !== "hello") return;
      // The server's own pings are not shown to scripts: a path that is dead is found by asking.
      heartbeat = setInterval(() => {
        if (silent) end(1006, "");
        silent = true;
        this.tell({ type: "ping" });
      }, frame.heartbeatSeconds * 1000);
    };
    let over = false;
    const end = (code, reason) => {
      if (over) return;
      over = true;
      clearInterval(heartbeat);
      socket.onmessage = null;
      socket.close();
      this.#ended(code, reason, Date.now() - began);
    };
    socket.onclose = ({ code, reason }) => end(code, reason);
    // Node 20 says nothing of a close where there was no connection.
    socket.onerror = () => socket.readyState === WebSocket.OPEN || end(1006, "");
  }

  #ended(code, reason, ms) {
    this.#break();
    if (code >= 4500) this.#stop(new Stopped(code, reason));
    if (this.#stopped) return;
    // A refused upgrade cannot be told from a server that is away: both are 1006 here.
    this.#failures = ms > STEADY_MS ? 0 : this.#failures + 1;
    const most = Math.min(PAUSE_MS_MAX, 250 * 2 ** this.#failures);
    this.#timer = setTimeout(() => this.#connect(), most * Math.random());
  }

  #take(socket, frame) {
    if (frame.type === "hello") {
      this.hello = frame;
      this.#socket = socket;
      // Calls wait until everything is followed: their events are for followers.
      for (const follower of this.#followers.values()) this.#send(follower.opening());
      this.#opening.resolve();
      return;
    }
    this.#followers.get(keyOf(frame))?.receive(frame);
    this.#waiting.get(frame.ref)?.resolve(frame);
  }

  #break() {
    if (this.#socket) this.#opening = deferred();
    this.#socket = null;
    for (const reply of this.#waiting.values()) reply.reject(new Lost("the connection broke"));
  }

  #stop(why) {
    if (this.#stopped) return;
    this.#stopped = why;
    this.#opening = deferred();
    this.#opening.reject(why);
    for (const reply of this.#waiting.values()) reply.reject(why);
    for (const follower of this.#followers.values()) follower.stopped(why);
  }
}

/** Whom a frame is for. */
function keyOf({ type, groupId, conversationId, event }) {
  if (type === "chats.event") return "chats";
  if (type.startsWith("group.")) return `group ${groupId}`;
  // A `chat.delta` names its conversation in the event alone.
  return `chat ${conversationId ?? event?.conversationId}`;
}

function deferred() {
  const all = {};
  all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }));
  all.promise.catch(() => {}); // nobody may be waiting
  return all;
}
