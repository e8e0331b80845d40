/**
 * The two small choices of the composer: who answers, and what a message does to a running answer.
 *
 * Neighbours: `conversation` and `start` show them; agents are those of the daemon's `hello`.
 * Invariant: only what the daemon offers can be chosen.
 */

import { html, live, nothing } from "./lit.js";
import { agentOfModel } from "./names.js";

/** @typedef {import("../frames.js").Hello["agents"][number]} Agent */

/**
 * @param {readonly Agent[]} agents
 * @param {string | null} chosen `NAME` or `NAME/MODEL`; null: the first
 * @param {(model: string) => void} choose
 */
export function agentPicker(agents, chosen, choose) {
  const offers = agents.flatMap(({ name, models = [] }) => {
    return models.length > 0 ? models.map((model) => `${name}/${model}`) : [name];
  });
  if (offers.length < 2) return nothing;
  const now = chosen ?? agents[0].name;
  const known = offers.find((offer) => offer === now)
    ?? offers.find((offer) => agentOfModel(offer) === agentOfModel(now)) ?? offers[0];
  const changed = (/** @type {Event} */ event) => {
    choose(/** @type {HTMLSelectElement} */ (event.target).value);
  };
  return html`<select class="picker" aria-label="Agent and model" .value=${live(known)} @change=${changed}>
    ${offers.map((offer) => html`<option value=${offer} ?selected=${offer === known}>
      ${offer.replace("/", " · ")}</option>`)}
  </select>`;
}

/**
 * @param {"queue" | "steer" | "interrupt"} chosen
 * @param {boolean} takesSteering
 * @param {(onBusy: "queue" | "steer" | "interrupt") => void} choose
 */
export function busyPicker(chosen, takesSteering, choose) {
  const changed = (/** @type {Event} */ event) => {
    choose(/** @type {any} */ (/** @type {HTMLSelectElement} */ (event.target).value));
  };
  return html`<select class="picker" aria-label="While the agent answers" .value=${live(chosen)}
    @change=${changed}>
    <option value="queue">Send after this</option>
    ${takesSteering ? html`<option value="steer">Add to this</option>` : nothing}
    <option value="interrupt">Stop and send</option>
  </select>`;
}
