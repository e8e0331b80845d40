// A client of the native dialect, written from protocol/native.md alone; needs a global WebSocket
// (browsers, Node 22, or Node 20 with --experimental-websocket) and nothing else.
//
// Neighbours: talk.mjs shows what it does, replay.mjs holds a server against the transcripts.
// Every command has a connection of its own, and so has every follower.
// Invariant: no event is given twice or left out, however often a connection is lost.

const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 5_000;
// A lost connection, or a daemon that starts again; who waits longer is told.
const ATTEMPTS_MAX = 20;
// native.md, Errors: codes from here on mean stop, everything below reconnect and resume.
const STOP_CODE_MIN = 4500;

/** What the server refused, with its published code. */
export class Refused extends Error {
  constructor(frame) {
    super(frame.message);
    this.code = frame.code;
    this.retryable = frame.retryable;
  }
}

/** A connection that ended; `code` is what it was closed with. */
export class Lost extends Error {
  constructor(code) {
    super(`the connection was closed with ${code}`);
    this.code = code;
  }
}

/** One WebSocket as an async iterator of frames, which ends with `Lost`. */
export class Socket {
  #frames = [];
  #ended = null;
  #wake = () => {};

  static async open(url, protocols) {
    const socket = new Socket(new WebSocket(url, protocols));
    await socket.opened;
    return socket;
  }

  constructor(socket) {
    this.socket = socket;
    this.opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve);
      socket.addEventListener("close", (event) => reject(new Lost(event.code)));
      // Node 20 tells of a connection that was refused by an error alone.
      socket.addEventListener("error", () => reject(new Lost(1006)));
    });
    // Who is only told later that it ended has not forgotten to handle it.
    this.opened.catch(() => {});
    socket.addEventListener("message", (event) => {
      this.#frames.push(JSON.parse(event.data));
      this.#wake();
    });
    socket.addEventListener("close", (event) => {
      this.#ended = new Lost(event.code);
      this.#wake();
    });
  }

  send(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  close(code = 1000) {
    this.socket.close(code);
  }

  async next() {
    while (this.#frames.length === 0) {
      if (this.#ended !== null) throw this.#ended;
      await new Promise((resolve) => (this.#wake = resolve));
    }
    return this.#frames.shift();
  }
}

/** One person's device. A `token` travels as a subprotocol, since a browser can set no header. */
export class Client {
  #url;
  #protocols;

  constructor(url, token) {
    this.#url = `${url.replace(/^http/, "ws").replace(/\/$/, "")}/ws`;
    this.#protocols = ["dispatch.v1"];
    if (token !== undefined) {
      this.#protocols.push(`dispatch.token.${Buffer.from(token).toString("base64url")}`);
    }
  }

  /** Send until it is acknowledged: however often that takes, it is one turn. */
  sendOnce(message, { clientMessageId = crypto.randomUUID(), ...fields } = {}) {
    return this.#ask({ type: "chat.send", message, clientMessageId, ...fields });
  }

  /** Stop the running turn, or only a certain one. */
  stop(conversationId, turnId) {
    return this.#ask({ type: "chat.stop", conversationId, turnId });
  }

  /** Answer a question; `Refused` with `closed` if somebody was faster. */
  answer(conversationId, requestId, response) {
    return this.#ask({ type: "chat.respond", conversationId, requestId, ...response });
  }

  /**
   * Everything behind a position (none: from the running turn on), for as long as asked:
   * `chat.delta`, `chat.request`, `chat.request.closed`, and `chat.snapshot` where a position
   * could not be resumed.
   */
  async *follow(conversationId, after) {
    for (let attempt = 0; ; ) {
      let socket;
      try {
        socket = await Socket.open(this.#url, this.#protocols);
        socket.send({ type: "chat.subscribe", conversationId, after, ref: 0 });
        for (;;) {
          const frame = await socket.next();
          if (frame.type === "error" || frame.type === "chat.error") throw new Refused(frame);
          const isOurs = (frame.event ?? frame).conversationId === conversationId;
          if (!isOurs || frame.type === "chat.subscribed") continue;
          [after, attempt] = [frame.position ?? after, 0];
          yield frame;
        }
      } catch (error) {
        await pause(error, attempt++);
      } finally {
        socket?.close();
      }
    }
  }

  async #ask(wish) {
    for (let attempt = 0; ; attempt++) {
      let socket;
      try {
        socket = await Socket.open(this.#url, this.#protocols);
        socket.send({ ...wish, ref: 0 });
        for (;;) {
          const frame = await socket.next();
          if (frame.ref !== 0) continue;
          if (frame.type === "error" || frame.type === "chat.error") throw new Refused(frame);
          return frame;
        }
      } catch (error) {
        await pause(error, attempt);
      } finally {
        socket?.close();
      }
    }
  }
}

/** Wait before the next attempt, with full jitter, unless there is to be none. */
async function pause(error, attempt) {
  if (!(error instanceof Lost) || error.code >= STOP_CODE_MIN || attempt >= ATTEMPTS_MAX) {
    throw error;
  }
  const bound = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** attempt);
  await new Promise((resolve) => setTimeout(resolve, Math.random() * bound));
}

/** What a follower has read of one turn: its text, and whether it is over. */
export class Reading {
  text = "";
  reason = null;
  isSealed = false;

  add(frame) {
    if (frame.type === "chat.snapshot") {
      const chunks = (frame.turn?.chunks ?? []).filter((chunk) => chunk.role === "assistant");
      this.text = chunks.map((chunk) => (chunk.chunk.type === "text" ? chunk.chunk.text : "")).join("");
      this.isSealed = frame.turn === undefined;
    } else if (frame.type === "chat.delta") {
      if (frame.event.type === "text-delta") this.text += frame.event.delta;
      if (frame.event.type === "done") this.reason = frame.event.reason;
      if (frame.event.type === "turn-sealed") this.isSealed = true;
    }
  }
}
