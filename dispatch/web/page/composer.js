/**
 * Where one writes: a field that grows, pictures, and what is said while an agent answers.
 *
 * Neighbours: the views own one each and say what sending means; `drafts` keeps what was not sent,
 * `pictures` makes pictures fit a frame.
 * Invariant: a text leaves the field only when it was handed over; what was typed in a conversation
 * is there again whenever one comes back to it.
 */

import { drafts } from "./drafts.js";
import { icons } from "./icons.js";
import { html, nothing, ref } from "./lit.js";
import { fitted } from "./pictures.js";

/** @typedef {{url: string, mimeType: string}} Picture */

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

  /**
   * @param {string} id of the draft
   * @param {() => void} changed draws it again
   * @param {{send: (text: string, pictures: Picture[]) => boolean | void, stop?: () => void,
   *   editLast?: () => void, typed?: () => void, hasPictures?: boolean}} acts `send` returns false
   *   to keep the text
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
    const { text } = this;
    if (text.trim() === "") return;
    if (this.#acts.send(text, this.pictures) === false) return;
    this.text = "";
    this.pictures = [];
    this.problem = null;
    this.#changed();
  }

  /** @param {ComposerLook} look */
  template({ placeholder, isRunning, tools, above, closed }) {
    if (closed) return html`<div class="composer-closed" role="note">${closed}</div>`;
    const { hasPictures = true, stop } = this.#acts;
    return html`<form class="composer" data-role="composer" @submit=${this.#submitted}
      @dragover=${this.#over} @drop=${this.#dropped}>
      ${above ?? nothing}
      ${this.problem === null ? nothing : html`<p class="problem" role="alert">${this.problem}</p>`}
      <div class="field">
        ${this.pictures.length === 0 ? nothing : this.#previews()}
        <textarea aria-label="Message" rows="1" placeholder=${placeholder} dir="auto"
          autocomplete="off" enterkeyhint="send" ${ref(this.#attach)} @input=${this.#typed}
          @keydown=${this.#key} @paste=${this.#pasted}></textarea>
        <div class="field-foot">
          ${hasPictures ? html`<label class="icon-button" title="Add a picture">
            <input type="file" class="unseen" accept="image/*" multiple aria-label="Add a picture"
              @change=${this.#picked}>${icons.picture}</label>` : nothing}
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
    return this.#add(files);
  };

  #pasted = (/** @type {ClipboardEvent} */ event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    return this.#add(files);
  };

  #over = (/** @type {DragEvent} */ event) => {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  };

  #dropped = (/** @type {DragEvent} */ event) => {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    return this.#add(files);
  };

  /** @param {number} index */
  #remove(index) {
    this.pictures = this.pictures.filter((_, i) => i !== index);
    this.#changed();
  }

  /** @param {File[]} files */
  async #add(files) {
    if (this.#acts.hasPictures === false) return;
    for (const file of files) {
      // Three quarters of a frame for all of them: the rest is for the text, and for what escapes cost.
      const used = this.pictures.reduce((sum, { url }) => sum + url.length, 0);
      const picture = await fitted(file, this.#frameBytesMax() * 0.75 - used);
      if (picture !== null) this.pictures = [...this.pictures, picture];
      else this.problem = `${file.name || "This"} cannot be sent: it is no picture, or too large.`;
      this.#changed();
    }
  }
}
