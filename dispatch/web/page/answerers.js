/**
 * Which agent answers in a conversation: next, and in each turn that this page saw begin.
 *
 * Neighbours: `conversation` writes the names above answers; the daemon keeps the `model` that was
 * sent last (`protocol/native.md` 1.6).
 * Invariant: history says whose an answer was and the log does not, so it is asked for at each turn;
 * what cannot be read costs a name, and nothing else.
 */

import { agentOfModel } from "./names.js";

export class Answerers {
  /** @type {string | null} what was sent last: `NAME`, `NAME/MODEL`, or nobody chose */
  model = null;
  /** @type {Map<string, string | null>} `model` by turn */
  #models = new Map();
  #reading = Promise.resolve();
  #app;
  #id;

  /** @param {import("./app.js").App} app @param {string} id of the conversation */
  constructor(app, id) {
    this.#app = app;
    this.#id = id;
  }

  /** Ask the daemon. @param {string} [turnId] that begins */
  read(turnId) {
    this.#reading = this.#read(turnId);
  }

  /** Of a model; null: nobody chose, so it is the daemon's first. @param {string | null} model */
  nameOf(model) {
    const name = model ?? this.#app.agents[0]?.name;
    return name === undefined ? "Agent" : agentOfModel(name);
  }

  /** As far as is known now. @param {string | undefined} turnId none: of the next one */
  of(turnId) {
    const known = this.#models.get(turnId ?? "");
    return this.nameOf(known !== undefined ? known : this.model);
  }

  /** Once what is being asked for is known. @param {string} turnId */
  async once(turnId) {
    await this.#reading;
    return this.of(turnId);
  }

  /** @param {string} [turnId] */
  async #read(turnId) {
    try {
      const { model } = await this.#app.client.http.get(`conversations/${this.#id}/model`);
      this.model = model;
      if (turnId !== undefined) this.#models.set(turnId, model);
      this.#app.draw();
    } catch {
      // The name of the agent is a detail: what is wrong shows in the thread.
    }
  }
}
