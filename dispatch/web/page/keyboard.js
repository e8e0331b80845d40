/**
 * Keys of the whole page: `/` searches, `Esc` closes what is open, else stops what runs.
 *
 * Neighbours: the composer has its own (Enter, Shift-Enter, ↑), dialogs theirs.
 * Invariant: a key that somebody types as text is text.
 */

/** @param {import("./app.js").App} app */
export function listenToKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const isText = target.matches("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !isText && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      app.sidebar.focusSearch();
    } else if (event.key === "Escape") {
      escape(app);
    }
  });
  document.addEventListener("click", ({ target }) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      const isInside = menu.contains(/** @type {Node} */ (target));
      const isChoice = /** @type {Element} */ (target).closest(".menu-item") !== null;
      if (!isInside || isChoice) menu.removeAttribute("open");
    }
  });
}

/** @param {import("./app.js").App} app */
function escape(app) {
  const menu = document.querySelector("details.menu[open]");
  if (menu !== null) {
    menu.removeAttribute("open");
    menu.querySelector("summary")?.focus();
  } else if (document.body.classList.contains("with-sidebar")) {
    app.showSidebar(false);
  } else if (app.view.isRunning) {
    app.view.stop();
  }
}
