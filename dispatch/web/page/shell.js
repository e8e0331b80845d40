/**
 * The frame around a view: its title, what can be done with it, and the state of the connection.
 *
 * Neighbours: `app` draws it around the view of the address; `actions` carries out the menu.
 * Invariant: a lost connection is shown where one looks, and says what happens next.
 */

import { actionsOf } from "./actions.js";
import { icons } from "./icons.js";
import { html, nothing } from "./lit.js";

/** @param {import("./app.js").App} app @param {import("./app.js").View} view */
export function shell(app, view) {
  const actions = actionsOf(app, view);
  return html`
    <header class="bar">
      <button type="button" class="icon-button only-narrow" aria-label="Show conversations"
        @click=${() => app.showSidebar(true)}>${icons.menu}</button>
      <div class="bar-title"><h1 dir="auto">${view.title}</h1>
        ${view.subtitle ? html`<p>${view.subtitle}</p>` : nothing}</div>
      ${actions.length === 0 ? nothing : html`<details class="menu">
        <summary class="icon-button" role="button" aria-label="More" title="More">${more}</summary>
        <div class="menu-items">${actions.map(({ label, act, isGrave }) => html`<button type="button"
          class="menu-item ${isGrave ? "grave" : ""}" @click=${act}>${label}</button>`)}</div>
      </details>`}
      <button type="button" class="icon-button" aria-label="What is happening" title="What is happening"
        aria-expanded=${app.panel.isOpen} @click=${() => app.panel.toggle()}>${icons.pulse}</button>
    </header>
    ${connection(app)}
    ${view.template()}`;
}

const more = html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><circle class="filled" cx="4.5"
  cy="10" r="1.4"/><circle class="filled" cx="10" cy="10" r="1.4"/><circle class="filled" cx="15.5" cy="10"
  r="1.4"/></svg>`;

/** @param {import("./app.js").App} app */
function connection({ client, isOffline }) {
  const { phase, reason } = client.connection.snapshot;
  if (!isOffline || phase === "online" || phase === "idle") return nothing;
  const words = {
    connecting: "Connecting …",
    waiting: "The connection is lost. It comes back by itself; what you write is sent then.",
    refused: `The daemon does not let this page in: ${reason ?? "refused"}.`,
    closed: "The connection is closed.",
  }[phase];
  return html`<div class="connection" data-role="connection" role="status">
    <span class="spinner"></span><span>${words}</span>
    <button type="button" class="link" @click=${() => client.connect()}>Try now</button></div>`;
}
