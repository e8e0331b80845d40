/**
 * Questions of the page itself, as modal dialogs.
 *
 * Neighbours: `actions` and `new_group` ask with it.
 * Invariant: a dialog that is closed in any way but its button answers with nothing; focus goes
 * back to where it was.
 */

import { html, render } from "./lit.js";

/**
 * @template T
 * @param {string} title
 * @param {string} button
 * @param {unknown} content
 * @param {(form: FormData) => T} read
 * @returns {Promise<T | null>}
 */
export function openDialog(title, button, content, read) {
  const before = document.activeElement;
  // What opened it may be in a menu that is closed by now: then the menu is where one was.
  const back = /** @type {HTMLElement | null | undefined} */ (
    before?.closest("details.menu")?.querySelector("summary") ?? before
  );
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", title);
  const { promise, resolve } = /** @type {PromiseWithResolvers<T | null>} */ (Promise.withResolvers());
  render(html`<form method="dialog">
    <h2>${title}</h2>
    ${content}
    <div class="dialog-foot">
      <button type="button" class="button" @click=${() => dialog.close()}>Never mind</button>
      <button type="submit" class="button primary" value="yes">${button}</button>
    </div></form>`, dialog);
  dialog.addEventListener("close", () => {
    const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
    resolve(dialog.returnValue === "yes" ? read(new FormData(form)) : null);
    dialog.remove();
    back?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return promise;
}

/** @param {string} title @param {string} label @param {string} value @param {number} lengthMax */
export function ask(title, label, value, lengthMax) {
  const content = html`<label class="labelled"><span>${label}</span>
    <input name="text" .value=${value} maxlength=${lengthMax} required autocomplete="off" dir="auto"></label>`;
  return openDialog(title, title, content, (form) => String(form.get("text") ?? "").trim() || null);
}

/** @param {string} title @param {string} text @param {string} button */
export async function confirmed(title, text, button) {
  return (await openDialog(title, button, html`<p>${text}</p>`, () => true)) === true;
}
