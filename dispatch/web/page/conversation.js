/**
 * One conversation on the screen: its thread, what waits, and the composer.
 *
 * Neighbours: the client's `Conversation` is what is true, `messages` makes messages of its rows,
 * `parts` and `requests` show them, `answerers` says whose they are, `scroll` keeps the place,
 * `shell` gives it a header.
 * Invariant: sealed messages are drawn once; what is drawn per frame is the turn that runs.
 */

import { Answerers } from "./answerers.js";
import { Composer } from "./composer.js";
import { icons } from "./icons.js";
import { html, nothing, ref, repeat } from "./lit.js";
import { messagesOf } from "./messages.js";
import { Texts, dots, face, failure, messageView } from "./parts.js";
import { agentPicker, busyPicker } from "./pickers.js";
import { queueView } from "./queue.js";
import { requestsView } from "./requests.js";
import { StickyScroll } from "./scroll.js";
import { loading, waitingSends } from "./sends.js";

/** @typedef {import("../client.js").ConversationSnapshot} Snapshot */
/** @typedef {import("../client.js").Turn} Turn */
/** @typedef {Snapshot["marks"][number]} Mark */
/** @typedef {import("./messages.js").Message} Message */

/** Messages that are drawn at the end of a thread; more as one scrolls up. */
const WINDOW = 60;

/**
 * How turns end that do not end by themselves: by outcome, and by the reason of a `done`.
 * @type {Record<string, string>}
 */
const ENDS = { aborted: "Stopped", interrupted: "Interrupted by a restart" };

export class ConversationView {
  kind = /** @type {const} */ ("conversation");
  #app;
  #store;
  #texts = new Texts();
  #scroll;
  #composer;
  #answerers;
  #window = WINDOW;
  #readUpTo = 0;
  #isChat = false;
  #wasAsking = false;
  #wasLive = false;
  /** @type {Turn | null} */
  #lastTurn = null;
  /** @type {(() => void)[]} */
  #undo = [];
  /** @type {string | null} for the next messages, where somebody chose */
  #chosen = null;
  /** @type {"queue" | "steer" | "interrupt"} */
  #onBusy = "queue";
  /** @type {{rows: Snapshot["rows"], messages: (Message & {mark?: Mark})[]}} */
  #sealed = { rows: [], messages: [] };

  /** @param {import("./app.js").App} app @param {string} id */
  constructor(app, id) {
    this.id = id;
    this.#app = app;
    this.#store = app.client.conversation(id);
    this.#answerers = new Answerers(app, id);
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
        if (conversationId !== this.id) return;
        if (type === "turn-start" && this.entry?.kind !== "chat") this.#answerers.read(turnId);
        // The store has not heard of it yet: afterwards the turn is rows, without its steps.
        if (type === "turn-sealed") this.#lastTurn = this.#store.snapshot.turn ?? this.#lastTurn;
      }),
    ];
  }

  close() {
    this.#undo.splice(0).forEach((undo) => undo());
  }

  focus() {
    this.#composer.focus();
  }

  /** @param {readonly File[]} files */
  addPictures(files) {
    this.#composer.add(files);
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

  /** The turn goes on once somebody answers. */
  get isAsking() {
    return this.#store.snapshot.turns.some(({ requests }) => requests.length > 0);
  }

  /** The turn that runs, or ran last while this was open. */
  get lastTurn() {
    return this.#store.snapshot.turns.at(-1) ?? this.#lastTurn;
  }

  /** The agent that answers next. */
  get agent() {
    const { entry } = this;
    return entry?.kind === "chat" ? entry.agent : this.#answerers.nameOf(this.#chosen ?? this.#answerers.model);
  }

  /** Who answers a turn, once that is known. @param {string} turnId */
  async answererOf(turnId) {
    return this.entry?.kind === "chat" ? this.agent : this.#answerers.once(turnId);
  }

  get snapshot() {
    return this.#store.snapshot;
  }

  async stop() {
    await this.#app.attempt(this.#store.stop(), "It cannot be stopped");
  }

  #changed() {
    const { turn, lastSeq, lastReadSeq, phase } = this.#store.snapshot;
    // Not before it is known to be there; and again after a time in which somebody may have chosen.
    if (phase === "live" && !this.#wasLive) this.#answerers.read();
    this.#wasLive = phase === "live";
    if (phase === "live" && document.visibilityState === "visible" && lastSeq > lastReadSeq) this.read();
    if (this.isAsking !== this.#wasAsking) {
      this.#wasAsking = this.isAsking;
      this.#app.drawAll();
    } else if (turn === null) this.#app.draw();
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
      let next = 0;
      const messages = messagesOf(counting, 1).map((message) => {
        // Both ascend: this is walked for every row of a long conversation.
        while (next < marks.length && marks[next].lastSeq < message.seq) next += 1;
        const mark = marks[next];
        return mark !== undefined && mark.firstSeq <= message.seq ? { ...message, mark } : message;
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
    return agentPicker(offered, this.#chosen ?? this.#answerers.model, (model) => {
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

  /** @param {Message & {turn?: Turn, mark?: Mark}} message */
  #message(message) {
    const { turn, mark } = message;
    if (message.kind === "user") {
      const user = turn?.author ?? "";
      const author = user === this.#app.user ? "" : user;
      return messageView(this.#texts, message, { author, state: "sealed" });
    }
    const isOver = turn === undefined || turn.done !== null;
    const isLast = turn === undefined && message === this.#sealed.messages.at(-1);
    return messageView(this.#texts, message, {
      author: mark?.agent && !this.#isChat ? mark.agent : this.#answerer(turn?.turnId ?? mark?.turnId),
      state: isOver ? "sealed" : "streaming",
      outputs: turn?.outputs,
      note: ENDS[turn?.done?.reason ?? mark?.outcome ?? ""],
      retry: isLast && !this.isRunning ? this.#retry : null,
    });
  }

  /** @param {string | undefined} turnId that history does not tell of yet */
  #answerer(turnId) {
    return this.#isChat ? this.agent : this.#answerers.of(turnId);
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
        ${face(this.#answerer(turn.turnId))}
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
