/**
 * One conversation on the screen: its thread, what waits, and the composer.
 *
 * Neighbours: the client's `Conversation` is what is true, `messages` makes messages of its rows,
 * `parts` and `requests` show them, `scroll` keeps the place, `shell` gives it a header.
 * Invariant: sealed messages are drawn once; what is drawn per frame is the turn that runs.
 */

import { Composer } from "./composer.js";
import { icons } from "./icons.js";
import { html, nothing, ref, repeat } from "./lit.js";
import { messagesOf } from "./messages.js";
import { agentOfModel } from "./names.js";
import { Texts, dots, face, failure, messageView } from "./parts.js";
import { agentPicker, busyPicker } from "./pickers.js";
import { queueView } from "./queue.js";
import { requestsView } from "./requests.js";
import { StickyScroll } from "./scroll.js";
import { loading, waitingSends } from "./sends.js";

/** @typedef {import("../client.js").ConversationSnapshot} Snapshot */
/** @typedef {import("../client.js").Turn} Turn */
/** @typedef {import("./messages.js").Message} Message */

/** Messages that are drawn at the end of a thread; more as one scrolls up. */
const WINDOW = 60;

export class ConversationView {
  kind = /** @type {const} */ ("conversation");
  #app;
  #store;
  #texts = new Texts();
  #scroll;
  #composer;
  #window = WINDOW;
  #readUpTo = 0;
  #isChat = false;
  /** @type {(() => void)[]} */
  #undo = [];
  /** @type {string | null} what `model` of the conversation says */
  #model = null;
  /** @type {string | null} for the next messages, where somebody chose */
  #chosen = null;
  /** @type {"queue" | "steer" | "interrupt"} */
  #onBusy = "queue";
  /** @type {{rows: Snapshot["rows"], messages: (Message & {turnId?: string})[]}} */
  #sealed = { rows: [], messages: [] };
  /** @type {string | null | undefined} `model` when this page began to look: of the answers before */
  #former;
  /** @type {Map<string, string | null>} `model` by turn, of those that this page saw begin */
  #models = new Map();

  /** @param {import("./app.js").App} app @param {string} id */
  constructor(app, id) {
    this.id = id;
    this.#app = app;
    this.#store = app.client.conversation(id);
    this.#scroll = new StickyScroll(() => this.#stuck(), () => this.#wanted());
    this.#composer = new Composer(`c:${id}`, app.draw, {
      send: (text, pictures) => this.#send(text, pictures),
      stop: () => this.stop(),
      editLast: () => this.#editQueued(this.#store.snapshot.queue.at(-1)?.id),
      typed: () => app.typing.typed(id),
    }, () => app.frameBytesMax);
  }

  open() {
    this.#undo = [
      this.#store.open(),
      this.#store.subscribe(() => this.#changed()),
      this.#app.client.tap(({ direction, frame }) => {
        if (direction !== "in" || frame.type !== "chat.delta" || !("event" in frame)) return;
        const { type, conversationId, turnId } = /** @type {Record<string, string>} */ (
          /** @type {unknown} */ (frame.event)
        );
        if (type === "turn-start" && conversationId === this.id) this.#readModel(turnId);
      }),
    ];
    this.#readModel();
  }

  close() {
    this.#undo.splice(0).forEach((undo) => undo());
  }

  focus() {
    this.#composer.focus();
  }

  get title() {
    const { entry } = this;
    return entry?.title || "Conversation";
  }

  get subtitle() {
    return this.agent;
  }

  get entry() {
    return this.#app.entries.find(this.id);
  }

  get isRunning() {
    return this.#store.snapshot.turn !== null;
  }

  /** The agent that answers next. */
  get agent() {
    const { entry } = this;
    return entry?.kind === "chat" ? entry.agent : this.#agentOf(this.#chosen ?? this.#model);
  }

  /** @param {string | null | undefined} model null: nobody chose, so it is the daemon's first */
  #agentOf(model) {
    const name = model ?? this.#app.agents[0]?.name;
    return name === undefined ? "Agent" : agentOfModel(name);
  }

  get snapshot() {
    return this.#store.snapshot;
  }

  async stop() {
    await this.#app.attempt(this.#store.stop(), "It cannot be stopped");
  }

  /**
   * The daemon keeps a conversation's agent, and not an answer's: so it is asked at each turn.
   * @param {string} [turnId]
   */
  async #readModel(turnId) {
    if (this.entry?.kind === "chat" && turnId !== undefined) return;
    try {
      const { model } = await this.#app.client.http.get(`conversations/${this.id}/model`);
      this.#model = model;
      if (this.#former === undefined) this.#former = model;
      if (turnId !== undefined) this.#models.set(turnId, model);
      this.#app.draw();
    } catch {
      // The name of the agent is a detail: what is wrong shows in the thread.
    }
  }

  #changed() {
    const { turn, lastSeq, lastReadSeq, phase } = this.#store.snapshot;
    if (phase === "live" && document.visibilityState === "visible" && lastSeq > lastReadSeq) this.read();
    if (turn === null) this.#app.draw();
    else this.#app.drawSoon();
  }

  /** What is on the screen was read. */
  read() {
    const { lastSeq } = this.#store.snapshot;
    if (lastSeq <= this.#readUpTo) return;
    this.#readUpTo = lastSeq;
    this.#store.read(lastSeq);
  }

  #stuck() {
    if (this.#scroll.isAtEnd) this.#window = WINDOW;
    this.#app.draw();
  }

  #wanted() {
    const { hasOlder, isLoading } = this.#store.snapshot;
    if (this.#window < this.#sealed.messages.length) this.#window += WINDOW;
    else if (hasOlder && !isLoading) {
      // Drawn once they are there: whoever is at the very top has nothing left to scroll for.
      this.#window += WINDOW;
      this.#store.loadOlder().then(() => this.#scroll.beforeOlder());
    } else return;
    this.#scroll.beforeOlder();
    this.#app.draw();
  }

  /** @param {string} text @param {{url: string, mimeType?: string}[]} images */
  #send(text, images) {
    const model = this.#chosen ?? undefined;
    const pictures = images.length > 0 ? { images } : {};
    const onBusy = this.isRunning ? this.#onBusy : "queue";
    this.#store.send(text, { onBusy, ...(model ? { model } : {}), ...pictures });
    this.#scroll.toEnd();
  }

  /** Back into the field, once the daemon says that nobody will answer it. @param {string | undefined} id */
  async #editQueued(id) {
    const message = this.#store.snapshot.queue.find((one) => one.id === id);
    if (message === undefined || this.#composer.text.trim() !== "") return;
    const path = `conversations/${this.id}/queue/${encodeURIComponent(message.id)}`;
    const request = this.#app.client.http.request("DELETE", path);
    const reply = await this.#app.attempt(request, "It cannot be edited");
    if (reply?.cancelled) this.#composer.text = message.text;
    else if (reply) this.#app.tell("This message is being answered already.");
    this.#composer.focus();
  }

  /** @param {string} requestId @param {import("../frames.js").Response} response */
  #respond(requestId, response) {
    return this.#app.attempt(this.#store.respond(requestId, response), "The answer was not taken");
  }

  #messages() {
    const { rows } = this.#store.snapshot;
    if (rows !== this.#sealed.rows) {
      const { marks } = this.#store.snapshot;
      const counting = rows.filter(({ superseded }) => !superseded);
      const messages = messagesOf(counting, 1).map((message) => {
        const { seq } = message;
        const mark = marks.findLast(({ firstSeq, lastSeq }) => firstSeq <= seq && seq <= lastSeq);
        return { ...message, turnId: mark?.turnId };
      });
      this.#sealed = { rows, messages };
    }
    return this.#sealed.messages;
  }

  template() {
    const { phase, queue } = this.#store.snapshot;
    const { isRunning, entry } = this;
    this.#isChat = entry?.kind === "chat";
    const closed = phase === "gone" ? "This conversation was deleted." : entry?.isArchived
      ? "This chat is in the archive. Restore it to go on." : null;
    return html`
      ${this.#thread()}
      ${this.#composer.template({
        placeholder: isRunning ? "Say something for when it is done" : `Message ${this.agent}`,
        isRunning, closed,
        above: queueView(queue, {
          edit: (id) => this.#editQueued(id), cancel: (id) => this.#store.cancelQueued(id),
        }),
        tools: html`${this.#picker()}${isRunning ? this.#busy() : nothing}`,
      })}`;
  }

  #picker() {
    const { agents } = this.#app;
    // The agent of a chat is fixed; which of its models answers is not.
    const offered = this.entry?.kind === "chat" ? agents.filter(({ name }) => name === this.agent) : agents;
    return agentPicker(offered, this.#chosen ?? this.#model, (model) => {
      this.#chosen = model;
      this.#app.draw();
    });
  }

  #busy() {
    const takesSteering = this.#app.agents.find(({ name }) => name === this.agent)?.steer === true;
    return busyPicker(this.#onBusy, takesSteering, (onBusy) => {
      this.#onBusy = onBusy;
      this.#app.draw();
    });
  }

  #thread() {
    const { phase, hasOlder, isLoading, turns, sends, queue, error } = this.#store.snapshot;
    const all = this.#messages();
    const sealed = all.slice(-this.#window);
    const isEmpty = all.length === 0 && turns.length === 0 && sends.length === 0;
    const isStart = sealed.length === all.length && !hasOlder;
    const older = isStart || isEmpty ? nothing : html`<div class="older" data-role="older">
      ${isLoading ? loading("Reading older messages") : nothing}</div>`;
    const waiting = new Set(queue.map(({ id }) => id));
    return html`<div class="thread" data-thread=${this.id} data-phase=${phase} tabindex="0"
      role="region" aria-label="Messages" ${ref(this.#scroll.attach)}>
      <div class="column">
        ${older}
        ${phase === "loading" && isEmpty ? loading("Opening") : nothing}
        ${phase === "live" && isEmpty ? this.#emptiness() : nothing}
        ${repeat([...sealed, ...this.#live(turns)], ({ key }) => key, (message) => this.#message(message))}
        ${turns.map((turn) => this.#around(turn))}
        ${waitingSends(sends.filter(({ turnId }) => !waiting.has(turnId ?? "")), this.#store)}
        ${error && phase !== "gone" ? failure(error.message, error.code, null) : nothing}
      </div>
      ${this.#scroll.isAtEnd ? nothing : html`<button type="button" class="icon-button jump"
        aria-label="Go to the newest message" @click=${() => this.#scroll.toEnd()}>${icons.down}</button>`}
    </div>`;
  }

  /** @param {readonly Turn[]} turns @returns {(Message & {turn: Turn})[]} */
  #live(turns) {
    let { lastSeq } = this.#store.snapshot;
    // A turn that has ended, and whose rows are on their way, was counted into `lastSeq`.
    if (turns.length > 1) lastSeq -= turns[0].lines.length;
    return turns.flatMap((turn) => {
      const messages = messagesOf(turn.lines, lastSeq + 1);
      lastSeq += turn.lines.length;
      return messages.map((message) => ({ ...message, turn }));
    });
  }

  /** @param {Message & {turn?: Turn, turnId?: string}} message */
  #message(message) {
    const { turn } = message;
    if (message.kind === "user") {
      const user = turn?.author ?? "";
      const author = user === this.#app.user ? "" : user;
      return messageView(this.#texts, message, { author, state: "sealed" });
    }
    const isOver = turn === undefined || turn.done !== null;
    const isLast = turn === undefined && message === this.#sealed.messages.at(-1);
    const turnId = turn?.turnId ?? message.turnId;
    return messageView(this.#texts, message, {
      author: this.#answerer(turnId, turn !== undefined),
      state: isOver ? "sealed" : "streaming",
      outputs: turn?.outputs,
      note: isOver ? this.#app.ends.of(turnId) : undefined,
      retry: isLast && !this.isRunning ? this.#retry : null,
    });
  }

  /** @param {string | undefined} turnId @param {boolean} [isLive] */
  #answerer(turnId, isLive = false) {
    if (this.#isChat) return this.agent;
    const known = this.#models.get(turnId ?? "");
    return this.#agentOf(known !== undefined ? known : isLive ? this.#model : this.#former);
  }

  /** Say the last message again: a new turn, with the same words. */
  #retry = () => {
    const last = this.#sealed.messages.findLast(({ kind }) => kind === "user");
    const texts = last?.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])) ?? [];
    const images = last?.parts.flatMap((part) => (part.type === "image" ? [{ url: part.url }] : [])) ?? [];
    if (texts.length === 0) return;
    this.#send(texts.join("\n"), images);
  };

  /** @param {Turn} turn what is shown of it beside its messages */
  #around(turn) {
    const { retry, requests } = turn;
    const hasSaid = turn.lines.some(({ role }) => role !== "user");
    const isSilent = !hasSaid && turn.done === null && requests.length === 0;
    return html`
      ${isSilent ? html`<div class="message agent waiting" aria-hidden="true">
        ${face(this.#answerer(turn.turnId, true))}
        <div class="said">${dots}</div></div>` : nothing}
      ${retry === null ? nothing : html`<p class="notice">${icons.retry} The provider failed
        (${retry.message}). Trying again, attempt ${retry.attempt + 2}.</p>`}
      ${requestsView(requests, (id, response) => this.#respond(id, response))}`;
  }

  #emptiness() {
    return html`<div class="empty">${face(this.agent)}<h2>${this.agent}</h2>
      <p>Nothing was said here yet. What you write is answered even if you close this page.</p></div>`;
  }
}
