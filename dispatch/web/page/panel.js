/**
 * What is happening: the connection, frames per second, and the running turn as a picture.
 *
 * Neighbours: it hears every frame through the client's `tap`; `timeline` draws the turn.
 * Invariant: closed it costs a counter; what it shows was measured here, on this device's clock.
 */

import { icons } from "./icons.js";
import { html, nothing, render, svg } from "./lit.js";
import { timeline } from "./timeline.js";

const SECONDS = 60;
const FRAMES_MAX = 200;
const FRAME_CHARACTERS_MAX = 2_000;

export class Panel {
  isOpen = false;
  #app;
  /** Frames that came in each of the last seconds, the present one last. */
  #counts = Array.from({ length: SECONDS }, () => 0);
  #second = 0;
  #bytes = 0;
  /** @type {{direction: string, text: string, id: number}[]} newest first */
  #frames = [];
  #ids = 0;
  #isRaw = false;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
    app.client.tap((frame) => this.#heard(frame));
  }

  toggle() {
    this.isOpen = !this.isOpen;
    this.#isRaw = false;
    this.#frames = [];
    clearInterval(this.#timer);
    if (this.isOpen) this.#timer = setInterval(() => this.#app.draw(), 500);
    this.#app.draw();
  }

  /** @param {import("../client/session.js").Frame} frame */
  #heard({ direction, frame, bytes }) {
    this.#advance();
    if (direction === "in") {
      this.#counts[SECONDS - 1] += 1;
      this.#bytes += bytes;
    }
    if (!this.isOpen || !this.#isRaw) return;
    const text = JSON.stringify(frame).slice(0, FRAME_CHARACTERS_MAX);
    this.#frames = [{ direction, text, id: ++this.#ids }, ...this.#frames.slice(0, FRAMES_MAX - 1)];
  }

  #advance() {
    const second = Math.floor(performance.now() / 1_000);
    const past = Math.min(SECONDS, second - this.#second);
    this.#second = second;
    if (past > 0) this.#counts = [...this.#counts.slice(past), ...Array(past).fill(0)];
  }

  /** @param {HTMLElement} place */
  draw(place) {
    place.hidden = !this.isOpen;
    document.body.classList.toggle("with-panel", this.isOpen);
    render(this.isOpen ? this.#template() : nothing, place);
  }

  #template() {
    this.#advance();
    const { client, entries, view } = this.#app;
    const { phase, attempt, hello } = client.connection.snapshot;
    const running = entries.snapshot.filter(({ isRunning }) => isRunning);
    const snapshot = view.kind === "conversation" ? view.snapshot : null;
    const turn = view.kind === "conversation" ? view.lastTurn : null;
    const rate = this.#counts.at(-2) ?? 0;
    return html`
      <header class="panel-head"><h2>What is happening</h2>
        <button type="button" class="icon-button" aria-label="Close" @click=${() => this.toggle()}>${icons.close}</button>
      </header>
      <section><h3>Connection</h3>
        <dl>
          <div><dt>State</dt><dd><span class="lamp" data-phase=${phase}></span>${phase}${attempt > 0 && phase !== "online" ? `, try ${attempt}` : ""}</dd></div>
          ${hello ? html`<div><dt>Daemon</dt><dd>${hello.server}</dd></div>
          <div><dt>You</dt><dd>${hello.account} / ${hello.user}</dd></div>` : nothing}
          ${snapshot ? html`<div><dt>Position</dt><dd class="mono">${snapshot.position ?? "none"}</dd></div>
          <div><dt>Kept rows</dt><dd>${snapshot.lastSeq}</dd></div>` : nothing}
        </dl>
      </section>
      <section><h3>Frames <span>${rate} a second · ${amount(this.#bytes)} so far</span></h3>
        ${spark(this.#counts.slice(0, -1))}
      </section>
      <section><h3>Running turns <span>${running.length}</span></h3>
        ${running.length === 0 ? html`<p class="panel-note">Nobody is answering right now.</p>` : html`<ul class="runs">
          ${running.map((entry) => this.#run(entry, entry.id === view.id && view.isAsking))}</ul>`}
      </section>
      <section><h3>${turn !== null && !view.isRunning ? "Last turn" : "This turn"}</h3>
        ${turn === null ? html`<p class="panel-note">The next answer is drawn here, step by step.</p>` : timeline(turn)}
      </section>
      <section>
        <button type="button" class="button" aria-pressed=${this.#isRaw} @click=${() => this.#toggleRaw()}>
          ${this.#isRaw ? "Hide raw frames" : "Show raw frames"}</button>
        ${this.#isRaw ? html`<ol class="frames" data-role="frames" tabindex="0" aria-label="Raw frames">
          ${this.#frames.length === 0 ? html`<li data-direction="none">Nothing yet.</li>` : nothing}
          ${this.#frames.map(({ direction, text }) => html`<li data-direction=${direction}><code>${text}</code></li>`)}</ol>` : nothing}
      </section>`;
  }

  /** @param {import("./entries.js").Entry} entry @param {boolean} isAsking */
  #run(entry, isAsking) {
    return html`<li><span class="running ${isAsking ? "asking" : ""}"></span><button type="button" class="link"
      @click=${() => this.#app.go(entry)}>${entry.title}</button>${isAsking ? html`<span class="panel-note">
      waits for you</span>` : nothing}</li>`;
  }

  #toggleRaw() {
    this.#isRaw = !this.#isRaw;
    this.#frames = [];
    this.#app.draw();
  }
}

/** @param {number} bytes */
function amount(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** @param {readonly number[]} counts */
function spark(counts) {
  const most = Math.max(4, ...counts);
  const width = 100 / counts.length;
  return html`<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img"
    aria-label="Frames in each of the last ${counts.length} seconds, at most ${Math.max(...counts)}">
    ${counts.map((count, i) => svg`<rect x=${i * width} width=${width * 0.7} y=${24 - (count / most) * 24}
      height=${(count / most) * 24}/>`)}</svg>`;
}
