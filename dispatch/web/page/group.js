/**
 * A group on the screen: one timeline in which every member answers under its own name.
 *
 * Neighbours: the client's `Group` is what is true; `parts`, `requests` and `sends` show it as they
 * show a conversation.
 * Invariant: rows are in the order of the daemon's `seq`; a member that has not said a word yet is
 * shown below them, with what it thinks and does.
 */

import { Group } from "../client/groups.js";
import { Composer } from "./composer.js";
import { icons } from "./icons.js";
import { html, nothing, ref, repeat } from "./lit.js";
import { huesOf } from "./names.js";
import { Texts, dots, face, failure, messageView, thinking, toolCard } from "./parts.js";
import { requestsView } from "./requests.js";
import { StickyScroll } from "./scroll.js";
import { loading, waitingSends } from "./sends.js";

/** @typedef {import("../frames.js").GroupRow} Row */
/** @typedef {import("../client/groups.js").Run} Run */

/** @type {Record<string, string>} */
const NOTES = { cancelled: "Stopped", interrupted: "Interrupted by a restart", removed: "Removed" };
/** Rows that are drawn at the end; more as one scrolls up. */
const WINDOW = 60;

export class GroupView {
  kind = /** @type {const} */ ("group");
  #app;
  #store;
  #texts = new Texts();
  #scroll;
  #composer;
  #window = WINDOW;
  #readUpTo = 0;
  #wasAsking = false;
  /** @type {ReadonlyMap<string, string>} */
  #hues = new Map();
  /** @type {readonly string[]} whose colours `#hues` are */
  #coloured = [];
  /** @type {(() => void)[]} */
  #undo = [];
  /** @type {Set<string>} members that the next message is for; none: all */
  #targets = new Set();
  /** @type {Map<string, Run>} what members did, also once they are over: rows have no tools */
  #runs = new Map();
  /** @type {WeakMap<Row, import("./messages.js").Message>} */
  #messages = new WeakMap();

  /** @param {import("./app.js").App} app @param {string} id */
  constructor(app, id) {
    this.id = id;
    this.#app = app;
    this.#store = new Group(app.client, id);
    this.#scroll = new StickyScroll(() => this.#stuck(), () => this.#wanted());
    this.#composer = new Composer(`g:${id}`, app.draw, {
      send: (text) => this.#send(text), stop: () => this.stop(),
      noPictures: "Groups take no pictures. A chat with one agent does.",
    }, () => app.frameBytesMax);
  }

  open() {
    this.#undo = [this.#store.open(), this.#store.subscribe(() => this.#changed())];
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
    return this.#store.snapshot.group?.title ?? this.#app.entries.find(this.id)?.title ?? "Group";
  }

  get subtitle() {
    return this.#members.join(", ");
  }

  get isRunning() {
    const { runs, rows } = this.#store.snapshot;
    return runs.length > 0 || rows.some(({ streaming }) => streaming);
  }

  /** A member's turn goes on once somebody answers. */
  get isAsking() {
    return this.#store.snapshot.runs.some(({ requests }) => requests.length > 0);
  }

  get #members() {
    return this.#store.snapshot.group?.memberFamiliarIds ?? [];
  }

  /** @param {string} name */
  #hue(name) {
    const members = this.#members;
    if (members !== this.#coloured) {
      this.#coloured = members;
      this.#hues = huesOf(members);
    }
    return this.#hues.get(name);
  }

  async stop() {
    await this.#app.attempt(this.#store.stop(), "It cannot be stopped");
  }

  /** Rows that are over and on the screen were read. */
  read() {
    const { rows } = this.#store.snapshot;
    const open = rows.find(({ streaming }) => streaming)?.seq;
    const last = open === undefined ? rows.at(-1)?.seq ?? 0 : Number(open) - 1;
    if (last <= this.#readUpTo) return;
    this.#readUpTo = last;
    this.#store.read(last);
  }

  #changed() {
    for (const run of this.#store.snapshot.runs) this.#runs.set(run.runId, run);
    if (this.#store.snapshot.phase === "live" && document.visibilityState === "visible") this.read();
    if (this.isAsking !== this.#wasAsking) {
      this.#wasAsking = this.isAsking;
      this.#app.drawAll();
    } else if (this.isRunning) this.#app.drawSoon();
    else this.#app.draw();
  }

  #stuck() {
    if (this.#scroll.isAtEnd) this.#window = WINDOW;
    this.#app.draw();
  }

  #wanted() {
    const { rows, hasOlder, isLoading } = this.#store.snapshot;
    if (this.#window < rows.length) this.#window += WINDOW;
    else if (hasOlder && !isLoading) {
      // Drawn once they are there: whoever is at the very top has nothing left to scroll for.
      this.#window += WINDOW;
      const older = this.#store.loadOlder().then(() => this.#scroll.beforeOlder());
      this.#app.attempt(older, "Older messages cannot be read");
    } else return;
    this.#scroll.beforeOlder();
    this.#app.draw();
  }

  /** @param {string} text */
  #send(text) {
    const targets = this.#members.filter((name) => this.#targets.has(name));
    this.#store.send(text, targets.length > 0 ? { targetFamiliarIds: targets } : {});
    this.#scroll.toEnd();
  }

  template() {
    const { phase, rows, runs, sends, error, isLoading } = this.#store.snapshot;
    const shown = rows.slice(-this.#window);
    const isEmpty = rows.length === 0 && runs.length === 0 && sends.length === 0;
    const silent = runs.filter(({ runId }) => !rows.some((row) => row.runId === runId));
    return html`
      <div class="thread" data-thread=${this.id} data-phase=${phase} tabindex="0" role="region"
        aria-label="Messages" ${ref(this.#scroll.attach)}>
        <div class="column">
          ${isLoading ? html`<div class="older">${loading("Reading older messages")}</div>` : nothing}
          ${phase === "loading" && isEmpty ? loading("Opening") : nothing}
          ${phase === "live" && isEmpty ? this.#emptiness() : nothing}
          ${repeat(shown, (row) => row.seq ?? row.runId, (row) => this.#row(row))}
          ${repeat(silent, ({ runId }) => runId, (run) => this.#silent(run))}
          ${waitingSends(sends, this.#store)}
          ${error && phase !== "gone" ? failure(error.message, error.code, null) : nothing}
        </div>
        ${this.#scroll.isAtEnd ? nothing : html`<button type="button" class="icon-button jump"
          aria-label="Go to the newest message" @click=${() => this.#scroll.toEnd()}>${icons.down}</button>`}
      </div>
      ${this.#composer.template({
        placeholder: this.#targets.size > 0 ? `Message ${[...this.#targets].join(", ")}` : "Message everybody",
        isRunning: this.isRunning, closed: phase === "gone" ? "This group was deleted." : null,
        above: this.#recipients(),
      })}`;
  }

  #recipients() {
    const members = this.#members;
    if (members.length < 2) return nothing;
    return html`<div class="recipients" role="group" aria-label="For whom">${members.map((name) => html`
      <button type="button" class="recipient" aria-pressed=${this.#targets.has(name)}
        @click=${() => this.#toggle(name)}>${face(name, this.#hue(name))}${name}</button>`)}</div>`;
  }

  /** @param {string} name */
  #toggle(name) {
    if (!this.#targets.delete(name)) this.#targets.add(name);
    this.#app.draw();
  }

  /** @param {Row} row */
  #row(row) {
    const { role, familiarId = "", streaming, outcome, userId, targetFamiliarIds, error } = row;
    const message = this.#messageOf(row);
    if (role === "user") {
      const author = !userId || userId === this.#app.user ? "" : userId;
      return html`${messageView(this.#texts, message, { author, state: "sealed" })}
        ${targetFamiliarIds ? html`<p class="for">for ${targetFamiliarIds.join(", ")}</p>` : nothing}`;
    }
    const run = this.#runs.get(row.runId ?? "");
    return html`${messageView(this.#texts, message, {
      author: familiarId, hue: this.#hue(familiarId), state: streaming ? "streaming" : "sealed",
      note: outcome === undefined ? undefined : NOTES[outcome],
      before: run && this.#once(run, () => this.#done(run)),
      foot: error && this.#once(row, () => failure(error.message, error.code, null)),
    })}${run && streaming ? this.#asks(run) : nothing}`;
  }

  /** @type {WeakMap<object, unknown>} */
  #drawn = new WeakMap();

  /** The same view for the same object. @param {object} of @param {() => unknown} draw */
  #once(of, draw) {
    let view = this.#drawn.get(of);
    if (view === undefined) this.#drawn.set(of, (view = draw()));
    return view;
  }

  /** What a member thought and did before and while it spoke. @param {Run} run */
  #done(run) {
    return html`${run.reasoning === "" ? nothing : thinking(run.reasoning, false)}${this.#tools(run)}`;
  }

  /** @param {Row} row @returns {import("./messages.js").Message} */
  #messageOf(row) {
    let message = this.#messages.get(row);
    if (message === undefined) {
      const { seq, role, text } = row;
      const chunk = { type: /** @type {const} */ ("text"), text };
      message = {
        key: String(seq), seq: Number(seq), kind: role === "user" ? "user" : "agent",
        parts: text === "" ? [] : [{ key: String(seq), ...chunk }], chunks: [chunk],
      };
      this.#messages.set(row, message);
    }
    return message;
  }

  /** A member that has not said a word yet. @param {Run} run */
  #silent(run) {
    const { familiarId, reasoning } = run;
    return html`<div class="message agent waiting">${face(familiarId, this.#hue(familiarId))}<div class="said">
      <header class="author ${this.#hue(familiarId)}"><span>${familiarId}</span></header>
      ${reasoning === "" ? nothing : thinking(reasoning, true)}
      ${this.#tools(run)}
      ${run.requests.length > 0 ? nothing : dots}
      </div></div>${this.#asks(run)}`;
  }

  /** @param {Run} run */
  #tools({ tools }) {
    const calls = tools.filter(({ phase }) => phase === "call");
    return calls.map(({ toolCallId: id, toolName: name, input }) => {
      const own = tools.filter((frame) => frame.toolCallId === id);
      const result = own.find(({ phase }) => phase === "result");
      const said = own.filter(({ phase }) => phase === "output").map(({ output }) => output).join("");
      const how = result === undefined ? "running" : result.toolIsError ? "error" : "done";
      return toolCard({ id, name, how, input, output: result?.content ?? said });
    });
  }

  /** @param {Run} run */
  #asks(run) {
    return requestsView(run.requests, (requestId, response) => {
      return this.#app.attempt(this.#store.respond(run, requestId, response), "The answer was not taken");
    });
  }

  #emptiness() {
    return html`<div class="empty"><span class="faces">${this.#members.map((name) => face(name, this.#hue(name)))}</span>
      <h2>${this.title}</h2><p>Say something: everybody here answers, side by side.</p></div>`;
  }
}
