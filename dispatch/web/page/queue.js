/**
 * What waits for the turn that runs, above the composer.
 *
 * Neighbours: `conversation` passes the queue as the daemon tells it, and carries out the two verbs.
 * Invariant: what is shown is the daemon's queue, the same on every device.
 */

import { icons } from "./icons.js";
import { html, nothing, repeat } from "./lit.js";

const LABEL_CHARACTERS_MAX = 60;

/**
 * @param {readonly import("../frames.js").QueuedMessage[]} queue
 * @param {{edit(id: string): void, cancel(id: string): void}} acts
 */
export function queueView(queue, { edit, cancel }) {
  if (queue.length === 0) return nothing;
  return html`<ul class="queue" aria-label="Waiting messages">
    ${repeat(queue, ({ id }) => id, ({ id, text }) => {
      const label = text.slice(0, LABEL_CHARACTERS_MAX);
      return html`<li class="chip" data-queued=${id}>
        <span class="chip-text" dir="auto">${text}</span>
        <button type="button" class="icon-button small" aria-label="Edit: ${label}" title="Edit (↑)"
          @click=${() => edit(id)}>${icons.edit}</button>
        <button type="button" class="icon-button small" aria-label="Cancel: ${label}" title="Cancel"
          @click=${() => cancel(id)}>${icons.close}</button>
      </li>`;
    })}
  </ul>`;
}
