// The client: `const client = new Client("http://127.0.0.1:8765")`.
//
// Neighbours: `link` is its socket; `conversation`, `group` and `chats` are what it follows.
// Invariant: only what the server does once, however often it comes, is asked again.

import { setTimeout as pause } from "node:timers/promises";

import { Chats } from "./chats.mjs";
import { Conversation } from "./conversation.mjs";
import { Lost, Refused } from "./errors.mjs";
import { Group } from "./group.mjs";
import { Link } from "./link.mjs";

export { DispatchError, Lost, Refused, Stopped } from "./errors.mjs";

const TRIES = 6;

export class Client {
  #headers;
  #followed = new Map();

  constructor(url, token) {
    this.url = url.replace(/\/$/, "");
    this.#headers = token ? { Authorization: `Bearer ${token}` } : {};
    this.link = new Link(this.url, token);
  }

  close() {
    this.link.close();
  }

  /** Followed from its first word on, and through every break of the connection. */
  conversation(id) {
    return this.#follow(`chat ${id}`, () => new Conversation(this, id));
  }

  async group(id) {
    const group = new Group(this, id);
    if (!this.#followed.has(`group ${id}`)) await group.load();
    return this.#follow(`group ${id}`, () => group);
  }

  async createGroup(members, title) {
    const body = { memberFamiliarIds: members, title };
    return this.group((await this.http("POST", "/api/groups", body)).id);
  }

  chats() {
    return this.#follow("chats", () => new Chats(this));
  }

  forget(follower) {
    for (const [key, one] of this.#followed) {
      if (one !== follower) continue;
      this.#followed.delete(key);
      this.link.unfollow(key);
    }
  }

  #follow(key, make) {
    if (!this.#followed.has(key)) {
      const follower = make();
      this.#followed.set(key, follower);
      this.link.follow(key, follower);
    }
    return this.#followed.get(key);
  }

  /**
   * The JSON of the answer. Reads are repeated where the way there failed, and so is what the
   * server does once however often it comes.
   */
  async http(method, path, body, { repeat = method === "GET" } = {}) {
    const answer = await this.#answer(method, path, body, repeat ? TRIES : 1);
    if (answer.ok) return answer.json();
    const said = await answer.json().catch(() => ({}));
    const after = Number(answer.headers.get("Retry-After") || NaN);
    throw new Refused(
      said.code ?? String(answer.status),
      said.error ?? answer.statusText,
      answer.status === 429 || answer.status === 503,
      Number.isNaN(after) ? undefined : after * 1000,
    );
  }

  async #answer(method, path, body, tries) {
    const content = body && JSON.stringify(body);
    const headers = { ...this.#headers, ...(content && { "Content-Type": "application/json" }) };
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await fetch(this.url + path, { method, headers, body: content });
      } catch (wrong) {
        // Here fetch fails with a TypeError for whatever the network does.
        if (attempt >= tries) throw new Lost(`${method} ${path}: ${wrong.cause ?? wrong}`);
        await pause(125 * 2 ** attempt);
      }
    }
  }
}
