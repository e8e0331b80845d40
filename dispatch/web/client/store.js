/**
 * A value that changes, as views want it: `subscribe(listener)` and an immutable snapshot.
 *
 * Neighbours: every public store of the client is one of these; `conversation` builds its snapshot
 * from a `thread`. Fits React's `useSyncExternalStore(store.subscribe, store.getSnapshot)`, and
 * Svelte's and Vue's contracts with a line of glue.
 * Invariant: while nothing changed, `snapshot` is the same object; however much changes, listeners
 * are called once an animation frame (once a microtask where there is no page).
 */

/** A hidden page gets no animation frames, and may still want to know that a turn ended. */
const HIDDEN_PAGE_MS = 250;

/**
 * Calls `run` once, with the next frame of the page, or with the next microtask without one.
 * @param {() => void} run
 */
export function nextFrame(run) {
  if (typeof requestAnimationFrame !== "function") return queueMicrotask(run);
  let isDue = true;
  const once = () => {
    if (isDue) run();
    isDue = false;
  };
  requestAnimationFrame(once);
  setTimeout(once, HIDDEN_PAGE_MS);
}

/** @template T */
export class Store {
  /** @type {Set<() => void>} */
  #listeners = new Set();
  #isScheduled = false;
  #isStale = true;
  /** @type {T | undefined} */
  #snapshot;
  #build;

  /** @param {() => T} build makes a snapshot of what is true now; called only after `touch` */
  constructor(build) {
    this.#build = build;
  }

  /** What is true now: never changes itself, and is replaced when something else is true. */
  get snapshot() {
    if (this.#isStale) {
      this.#snapshot = this.#build();
      this.#isStale = false;
    }
    return /** @type {T} */ (this.#snapshot);
  }

  /** `snapshot` as a function that needs no `this`. */
  getSnapshot = () => this.snapshot;

  /**
   * Calls `listener` after changes, until the function that is returned is called.
   * @param {() => void} listener
   */
  subscribe = (listener) => {
    // Wrapped, so that the same function may subscribe twice and leave once.
    const entry = () => listener();
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  };

  /** Something changed: the next snapshot is a new one, and listeners hear of it soon. */
  touch() {
    this.#isStale = true;
    if (this.#isScheduled || this.#listeners.size === 0) return;
    this.#isScheduled = true;
    nextFrame(() => {
      this.#isScheduled = false;
      for (const listener of [...this.#listeners]) listener();
    });
  }
}

/**
 * Resolves with the first snapshot for which `test` holds, now or later.
 * @template T
 * @param {Store<T>} store
 * @param {(snapshot: T) => boolean} test
 * @returns {Promise<T>}
 */
export function until(store, test) {
  return new Promise((resolve) => {
    /** @type {() => void} */
    let stop = () => {};
    const look = () => {
      if (!test(store.snapshot)) return false;
      stop();
      resolve(store.snapshot);
      return true;
    };
    if (!look()) stop = store.subscribe(look);
  });
}
