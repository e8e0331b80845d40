/**
 * Where one writes: a field that grows, pictures, and what is said while an agent answers.
 *
 * Neighbours: the views own one each and say what sending means; `drafts` keeps what was not sent,
 * `pictures` makes pictures fit a frame, `drops` brings those that are dropped.
 * Invariant: a text leaves the field only when it was handed over; what was typed in a conversation
 * is there again whenever one comes back to it.
 */

import { drafts } from "./drafts.js";
import { icons } from "./icons.js";
import { html, nothing, ref } from "./lit.js";
import { fitted } from "./pictures.js";

/** @typedef {{url: string, mimeType: string}} Picture */

/** Of a frame, for all pictures of a message: the rest is for its text, and for what escapes cost. */
const PICTURES_SHARE = 0.75;

/**
 * @typedef {object} ComposerLook
 * @property {string} placeholder
 * @property {boolean} isRunning an agent answers
 * @property {unknown} [tools] beside the buttons: pickers
 * @property {unknown} [above] above the field: what waits
 * @property {string | null} [closed] why nothing can be written
 */

export class Composer {
  /** @type {Picture[]} */
  pictures = [];
  /** @type {string | null} */
  problem = null;
  /** @type {HTMLTextAreaElement | null} */
  #field = null;
  #id;
  #changed;
  #acts;
  #frameBytesMax;
  /** One after the other: each may take only what the ones before it leave. */
  #adding = Promise.resolve();
  #awaited = 0;
  #isClosed = false;

  /**
   * @param {string} id of the draft
   * @param {() => void} changed draws it again
   * @param {{send: (text: string, pictures: Picture[]) => boolean | void, stop?: () => void,
   *   editLast?: () => void, typed?: () => void, noPictures?: string}} acts `send` returns false
   *   to keep the text; `noPictures` says why there can be none
   * @param {() => number} frameBytesMax
   */
  constructor(id, changed, acts, frameBytesMax) {
    this.#id = id;
    this.#changed = changed;
    this.#acts = acts;
    this.#frameBytesMax = frameBytesMax;
  }

  get text() {
    return this.#field?.value ?? "";
  }

  /** @param {string} text */
  set text(text) {
    if (this.#field === null) return;
    this.#field.value = text;
    this.#grow();
    drafts.put(this.#id, text);
  }

  focus() {
    this.#field?.focus();
  }

  send() {
    if (this.#awaited > 0) {
      // Whoever adds a picture and is quick with Enter means the message with it.
      this.#adding.then(() => this.problem === null && this.send());
      return;
    }
    const { text } = this;
    if (text.trim() === "") {
      if (this.pictures.length > 0) this.#complain("Say something to go with it: a message has words.");
      return;
    }
    if (this.#acts.send(text, this.pictures) === false) return;
    this.text = "";
    this.pictures = [];
    this.problem = null;
    this.#changed();
  }

  /** @param {ComposerLook} look */
  template({ placeholder, isRunning, tools, above, closed }) {
    this.#isClosed = Boolean(closed);
    if (closed) return html`<div class="composer-closed" role="note">${closed}</div>`;
    const { noPictures, stop } = this.#acts;
    return html`<form class="composer" data-role="composer" @submit=${this.#submitted}>
      ${above ?? nothing}
      ${this.problem === null ? nothing : html`<p class="problem" role="alert">${this.problem}</p>`}
      <div class="field">
        ${this.pictures.length === 0 ? nothing : this.#previews()}
        <textarea aria-label="Message" rows="1" placeholder=${placeholder} dir="auto"
          autocomplete="off" enterkeyhint="send" ${ref(this.#attach)} @input=${this.#typed}
          @keydown=${this.#key} @paste=${this.#pasted}></textarea>
        <div class="field-foot">
          ${noPictures ? nothing : html`<label class="icon-button" title="Add a picture">
            <input type="file" class="unseen" accept="image/*" multiple aria-label="Add a picture"
              @change=${this.#picked}>${icons.picture}</label>`}
          ${tools ?? nothing}
          <span class="grow"></span>
          ${isRunning && stop ? html`<button type="button" class="icon-button stop" aria-label="Stop"
            title="Stop (Esc)" @click=${stop}>${icons.stop}</button>` : nothing}
          <button type="submit" class="icon-button send" aria-label="Send" title="Send (Enter)">
            ${icons.send}</button>
        </div>
      </div>
    </form>`;
  }

  #previews() {
    return html`<ul class="previews" aria-label="Pictures">${this.pictures.map((picture, i) => html`
      <li><img src=${picture.url} alt="Picture ${i + 1}">
        <button type="button" class="icon-button" aria-label="Remove picture ${i + 1}"
          @click=${() => this.#remove(i)}>${icons.close}</button></li>`)}</ul>`;
  }

  #attach = (/** @type {Element | undefined} */ element) => {
    if (element === this.#field) return;
    this.#field = element instanceof HTMLTextAreaElement ? element : null;
    if (this.#field === null) return;
    this.#field.value = drafts.get(this.#id);
    queueMicrotask(() => this.#grow());
  };

  #grow() {
    const field = this.#field;
    if (field === null) return;
    field.style.setProperty("height", "auto");
    field.style.setProperty("height", `${field.scrollHeight}px`);
  }

  #typed = () => {
    this.#grow();
    drafts.put(this.#id, this.text);
    this.#acts.typed?.();
  };

  #submitted = (/** @type {Event} */ event) => {
    event.preventDefault();
    this.send();
  };

  #key = (/** @type {KeyboardEvent} */ event) => {
    // Enter that ends the choice of a character is not of the message.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.send();
    } else if (event.key === "ArrowUp" && this.text === "" && this.#acts.editLast) {
      event.preventDefault();
      this.#acts.editLast();
    }
  };

  #picked = (/** @type {Event} */ event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const files = [...(input.files ?? [])];
    input.value = "";
    this.add(files);
  };

  #pasted = (/** @type {ClipboardEvent} */ event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    this.add(files);
  };

  /** @param {number} index */
  #remove(index) {
    this.pictures = this.pictures.filter((_, i) => i !== index);
    this.problem = null;
    this.#changed();
  }

  /** Pictures beside the next message; what cannot be one is said. @param {readonly File[]} files */
  add(files) {
    const { noPictures } = this.#acts;
    if (this.#isClosed) return;
    if (noPictures) return this.#complain(noPictures);
    this.problem = null;
    this.#awaited += 1;
    this.#adding = this.#adding.then(async () => {
      for (const file of files) await this.#fit(file);
      this.#awaited -= 1;
    });
  }

  /** @param {File} file */
  async #fit(file) {
    const used = this.pictures.reduce((sum, { url }) => sum + url.length, 0);
    const picture = await fitted(file, this.#frameBytesMax() * PICTURES_SHARE - used);
    const name = file.name || "This";
    if (picture === "unreadable") return this.#complain(`${name} is not a picture that this browser can show.`);
    if (picture === "too large") return this.#complain(`${name} does not fit into the message any more.`);
    this.pictures = [...this.pictures, picture];
    this.#changed();
  }

  /** @param {string} problem */
  #complain(problem) {
    this.problem = problem;
    this.#changed();
  }
}
