/**
 * The start: choose who answers, and say something.
 *
 * Neighbours: the first message makes a chat session (`client/chats.js`) and goes into it;
 * `conversation` shows it from then on.
 * Invariant: what was typed is lost only once the daemon has the chat it belongs to.
 */

import { Composer } from "./composer.js";
import { icons } from "./icons.js";
import { html, nothing } from "./lit.js";
import { openNewGroup } from "./new_group.js";
import { face } from "./parts.js";

export class StartView {
  kind = /** @type {const} */ ("new");
  id = "";
  title = "New chat";
  subtitle = "";
  isRunning = false;
  isAsking = false;
  #app;
  #composer;
  /** @type {string | null} */
  #agent = null;
  #isMaking = false;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
    this.#composer = new Composer("new", app.draw, {
      send: (text, pictures) => (this.#make(text, pictures), false),
    }, () => app.frameBytesMax);
  }

  open() {}

  close() {}

  read() {}

  async stop() {}

  focus() {
    this.#composer.focus();
  }

  /** @param {readonly File[]} files */
  addPictures(files) {
    this.#composer.add(files);
  }

  /** @param {string} text @param {import("./composer.js").Picture[]} images */
  async #make(text, images) {
    const agent = this.#agent ?? this.#app.agents[0]?.name;
    if (this.#isMaking || agent === undefined) return;
    this.#isMaking = true;
    const { chats } = this.#app.entries;
    const chat = await this.#app.attempt(chats.create(agent), "The chat cannot be made");
    this.#isMaking = false;
    if (chat === undefined) return;
    this.#composer.text = "";
    this.#composer.pictures = [];
    const fields = images.length > 0 ? { images } : {};
    // Watched before it is sent, so that it is shown on its way.
    this.#app.go({ kind: "chat", id: chat.id });
    this.#app.client.conversation(chat.id).send(text, fields);
  }

  template() {
    const { agents } = this.#app;
    const chosen = this.#agent ?? agents[0]?.name;
    return html`<div class="start">
      <div class="start-inner">
        <h2>What shall we do?</h2>
        <p class="start-said">The answer goes on without this page. Close it, open it elsewhere, it is
          where it is.</p>
        <div class="agents" role="radiogroup" aria-label="Agent">
          ${agents.map(({ name, kind, models = [], problem }) => html`
            <label class="agent-card" data-agent=${name}>
              <input type="radio" class="unseen" name="agent" value=${name} aria-label=${name}
                .checked=${name === chosen} @change=${() => this.#choose(name)}>
              ${face(name)}
              <span class="agent-text"><strong>${name}</strong>
                <small class=${problem ? "grave" : ""}>${problem ?? (models.join(", ") || kind)}</small></span>
            </label>`)}
          ${agents.length < 2 ? nothing : html`<button type="button" class="agent-card"
            @click=${() => openNewGroup(this.#app)}><span class="face plain">${icons.group}</span>
            <span class="agent-text"><strong>A group</strong><small>several of them</small></span></button>`}
        </div>
        ${this.#composer.template({ placeholder: `Message ${chosen ?? "an agent"}`, isRunning: false })}
      </div>
    </div>`;
  }

  /** @param {string} name */
  #choose(name) {
    this.#agent = name;
    this.#app.draw();
    this.#composer.focus();
  }
}
