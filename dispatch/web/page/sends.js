/**
 * Messages on their way: shown at once, with what became of those that did not arrive.
 *
 * Neighbours: the client's outbox has them; `conversation` and `group` show them below the log.
 * Invariant: a message is here or in the log, never in both.
 */

import { icons } from "./icons.js";
import { html, nothing, repeat } from "./lit.js";

/** @typedef {import("../client.js").Sending} Sending */

/**
 * @param {readonly Sending[]} sends
 * @param {{retry(id: string): void, discard(id: string): void}} store
 */
export function waitingSends(sends, store) {
  return repeat(sends, ({ clientMessageId: id }) => id, (sending) => {
    const { text, state, clientMessageId: id, error } = sending;
    const images = "images" in sending.fields ? sending.fields.images ?? [] : [];
    return html`<article class="message user" data-message="user" aria-label="You"
      data-state=${state === "failed" ? "failed" : "sending"}>
      <div class="bubble" dir="auto">${text}</div>
      ${images.map(({ url }) => html`<img class="picture" src=${url} alt="A picture beside the message">`)}
      ${state !== "failed" ? nothing : html`<div class="unsent">
        <span>${icons.warning} Not sent: ${error?.message ?? "refused"}</span>
        <button type="button" class="link" @click=${() => store.retry(id)}>Send again</button>
        <button type="button" class="link" @click=${() => store.discard(id)}>Discard</button></div>`}
    </article>`;
  });
}

/** @param {string} label */
export function loading(label) {
  return html`<div class="loading" role="status"><span class="spinner"></span>${label}</div>`;
}
