/**
 * Files that are dropped anywhere on the page go into what is being written.
 *
 * Neighbours: the views hand them to their composer; `app` listens once.
 * Invariant: a file that misses the field never replaces the page, as browsers would have it.
 */

/** Longer than browsers wait between two `dragover`: a drag that is called off ends without a word. */
const OVER_MS = 800;

/** @param {import("./app.js").App} app */
export function listenToDrops(app) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @param {DragEvent} event */
  const isOfFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files") === true;
  /** @param {boolean} isOver */
  const show = (isOver) => {
    clearTimeout(timer);
    document.body.classList.toggle("dropping", isOver);
    if (isOver) timer = setTimeout(() => show(false), OVER_MS);
  };

  document.addEventListener("dragover", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault();
    show(true);
  });
  document.addEventListener("drop", (event) => {
    show(false);
    if (!isOfFiles(event)) return;
    event.preventDefault();
    app.view.addPictures([...(event.dataTransfer?.files ?? [])]);
  });
}
