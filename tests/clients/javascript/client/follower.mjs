// What conversations, groups and chat sessions have in common: frames wait until somebody reads.
//
// Neighbours: `conversation`, `group` and `chats` are followers; `link` hands them frames.
// Invariant: what was received is read once, in its order.

import { Refused } from "./errors.mjs";

export class Follower {
  // Without a bound: a frame that was received moves the position, so it must be kept.
  #frames = [];
  #wake = () => {};
  #stopped = null;

  /** The frame that begins, or goes on, on a new connection: for subclasses. */
  opening() {
    throw new Error("not written");
  }

  put(frame) {
    this.#frames.push(frame);
    this.#wake();
  }

  /** Whether this is the end: the frame that begins was refused. Calls have a `ref`. */
  refused(frame) {
    if (!frame.type.endsWith(".error") || "ref" in frame) return false;
    this.stopped(Refused.ofFrame(frame));
    return true;
  }

  stopped(why) {
    this.#stopped = why;
    this.#wake();
  }

  async next() {
    while (!this.#frames.length) {
      if (this.#stopped) throw this.#stopped;
      await new Promise((resolve) => (this.#wake = resolve));
    }
    return this.#frames.shift();
  }
}
