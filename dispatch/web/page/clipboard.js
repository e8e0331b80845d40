/**
 * The copy buttons of code blocks.
 *
 * Neighbours: `markdown` puts the buttons in, as markup without behaviour; `app` listens once.
 */

const DONE_MS = 1_600;

/** @param {Event} event */
export async function copyOnClick(event) {
  const target = /** @type {Element} */ (event.target);
  const button = target.closest?.("[data-copy]");
  const code = button?.closest("figure")?.querySelector("code");
  if (!button || !code) return;
  try {
    await navigator.clipboard.writeText(code.textContent ?? "");
    button.textContent = "Copied";
  } catch {
    // Without TLS there is no clipboard: what is selected can be copied by hand.
    getSelection()?.selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), DONE_MS);
}
