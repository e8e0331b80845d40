// An event as VS Code's classes want it: a function that takes a listener and gives its end.
//
// Neighbours: `transport.mjs` and `services.mjs`.

export class Listeners {
  #listeners = new Set();

  add(listener) {
    this.#listeners.add(listener);
    return { dispose: () => this.#listeners.delete(listener) };
  }

  tell(value) {
    for (const listener of [...this.#listeners]) listener(value);
  }
}

/** An event that never happens. */
export const never = () => ({ dispose() {} });
