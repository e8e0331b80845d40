// A WebSocket of a transcript: broadcasts are kept apart, everything else is in order.
//
// Neighbours: `transcript` opens it; `frames` takes what comes.
// Invariant: no frame is dropped before somebody has asked for it.

import { Mismatch } from "./compare.mjs";

/** What came and nobody has asked for yet. */
class Queue {
  #items = [];
  #waiting = [];
  #ended;

  put(item) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(item);
    else this.#items.push(item);
  }

  end(why) {
    this.#ended = why;
    for (const waiting of this.#waiting.splice(0)) waiting.reject(why);
  }

  get first() {
    return this.#items[0];
  }

  next() {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    if (this.#ended) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }
}

export class Socket {
  frames = new Queue();
  broadcasts = new Queue();
  #socket;
  #opened;
  #closed;

  constructor(url, subprotocols) {
    this.#socket = new WebSocket(url, subprotocols);
    this.#opened = new Promise((resolve, reject) => {
      this.#socket.onopen = resolve;
      this.#socket.onerror = () => reject(new Mismatch("no WebSocket"));
    });
    this.#socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      const apart = /^(conversation\.|group\.(changed|deleted)$)/.test(String(frame.type));
      (apart ? this.broadcasts : this.frames).put(frame);
    };
    this.#closed = new Promise((resolve) => {
      this.#socket.onclose = ({ code }) => {
        const why = new Mismatch(`the connection closed with ${code}`);
        this.frames.end(why);
        this.broadcasts.end(why);
        resolve(code);
      };
    });
  }

  /** The subprotocol that the server chose. */
  async opened() {
    await this.#opened;
    return this.#socket.protocol;
  }

  send(message) {
    this.#socket.send(message);
  }

  async closed(code) {
    const came = await this.#closed;
    if (this.frames.first) {
      throw new Mismatch(`before the close came ${JSON.stringify(this.frames.first)}`);
    }
    if (came !== code) throw new Mismatch(`closed with ${came} instead of ${code}`);
  }

  async close(code = 1000) {
    this.#socket.close(code);
    await this.#closed;
  }
}
