/**
 * The page's own settings, and the way out.
 *
 * Neighbours: `sidebar` shows it at its foot; `theme` and `announcer` do what is chosen.
 */

import { icons } from "./icons.js";
import { html, nothing } from "./lit.js";
import { applyTheme, themeNow, themes } from "./theme.js";

const NAMES = { system: "System", light: "Light", dark: "Dark" };

/** @param {import("./app.js").App} app */
export function settingsMenu(app) {
  const now = themeNow();
  const { announcer, user } = app;
  return html`<details class="menu up">
    <summary class="icon-button" role="button" aria-label="Settings" title="Settings">${icons.settings}</summary>
    <div class="menu-items">
      <fieldset class="segments"><legend>Appearance</legend>${themes.map((theme) => html`<label>
        <input type="radio" class="unseen" name="theme" value=${theme} .checked=${theme === now}
          @change=${() => (applyTheme(theme), app.drawAll())}><span>${NAMES[theme]}</span></label>`)}</fieldset>
      ${announcer.canNotify ? html`<label class="check menu-check"><input type="checkbox"
        .checked=${announcer.notifies} @change=${(/** @type {Event} */ event) => {
          return announcer.setNotifies(/** @type {HTMLInputElement} */ (event.target).checked);
        }}><span>Notify me when an answer is finished</span></label>` : nothing}
      ${app.signIn.isNeeded ? html`<p class="menu-note">Signed in as ${user}</p>
        <button type="button" class="menu-item" @click=${() => app.signIn.out()}>Sign out</button>` : nothing}
    </div>
  </details>`;
}
