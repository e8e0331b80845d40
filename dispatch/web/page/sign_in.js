/**
 * The door, where the daemon has `[auth]`: a token for a cookie.
 *
 * Neighbours: `app` shows it when the client is refused as unauthorized; `POST /auth/session` of
 * `protocol/native.md` 2.3. The cookie is the browser's: no script of the page can read it.
 * Invariant: the token is in the form and in one request, and nowhere else; what one person left in
 * this browser is gone before the next one sees anything.
 */

import { html, nothing } from "./lit.js";
import { mark } from "./mark.js";

const KEY = "dispatch:signed-in";
const OWNER_KEY = "dispatch:owner";

export class SignIn {
  /** @type {string | null} */
  #problem = null;
  #isBusy = false;
  /** @type {string | null} whose page this is */
  #owner = null;
  #app;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
  }

  /** Whether somebody signed in here: only then is there a way out. */
  get isNeeded() {
    try {
      return localStorage.getItem(KEY) !== null;
    } catch {
      return false;
    }
  }

  /**
   * The daemon says who this is: whether it is somebody else than before, so that the page begins anew.
   * @param {{account: string, user: string}} hello
   */
  isOther({ account, user }) {
    const owner = `${account}/${user}`;
    let last = this.#owner;
    try {
      last ??= localStorage.getItem(OWNER_KEY);
      localStorage.setItem(OWNER_KEY, owner);
    } catch {
      // Where nothing can be kept nobody left anything.
    }
    this.#owner = owner;
    return last !== null && last !== owner;
  }

  template() {
    return html`<div class="door"><form data-role="sign-in" @submit=${this.#submitted}>
      ${mark}
      <h1>Sign in to dispatch</h1>
      <p>This daemon lets in whoever has a token of it. Ask the person who runs it.</p>
      <label class="labelled"><span>Token</span><input type="password" name="token" required
        autocomplete="current-password" aria-label="Token"></label>
      ${this.#problem === null ? nothing : html`<p class="problem" role="alert">${this.#problem}</p>`}
      <button type="submit" class="button primary" ?disabled=${this.#isBusy}>Sign in</button>
    </form></div>`;
  }

  #submitted = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const token = String(new FormData(form).get("token")).trim();
    this.#isBusy = true;
    this.#problem = null;
    this.#app.drawAll();
    try {
      this.#problem = await this.#exchange(token);
      if (this.#problem === null) form.reset();
    } catch {
      this.#problem = "The daemon did not answer. Try again in a moment.";
    }
    this.#isBusy = false;
    this.#app.drawAll();
  };

  /** @param {string} token */
  async #exchange(token) {
    // A header takes no other characters, and no token has them.
    if (!/^[\x21-\x7e]+$/.test(token)) return "This is no token.";
    const response = await fetch("/auth/session", {
      method: "POST", headers: { authorization: `Bearer ${token}` },
    });
    // A body that nobody reads is a request that never ends.
    await response.text();
    if (response.status === 429) return "Too many attempts. Wait a minute.";
    if (!response.ok) return "The daemon does not know this token.";
    this.#remember();
    this.#app.client.connect();
    return null;
  }

  async out() {
    const ended = this.#app.client.http.request("DELETE", "auth/session");
    if ((await this.#app.attempt(ended, "You are still signed in")) === undefined) return;
    await this.#forget();
    location.replace("/");
  }

  /** Somebody else is signed in. */
  async beginAnew() {
    const { isNeeded } = this;
    await this.#forget();
    if (isNeeded) this.#remember();
    location.reload();
  }

  /** What a person read is nobody else's. */
  async #forget() {
    try {
      localStorage.clear();
      await this.#app.storage.clear();
    } catch {
      // Nothing was kept.
    }
  }

  #remember() {
    try {
      localStorage.setItem(KEY, "1");
    } catch {
      // Without it there is no way out but the browser's own.
    }
  }
}
