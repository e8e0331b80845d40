/**
 * What is kept of a turn: chunks, as the fold of its events.
 *
 * Neighbours: `thread` folds the running turn with it. Source: `protocol/native.md` 1.6; the daemon
 * folds the same events with `dispatch/core/content.py`, and the suite holds the two together.
 * Invariant: the chunks depend on the events alone, however deltas were merged or cut; a chunk that
 * was handed out is never changed, only replaced.
 */

/** @typedef {import("../frames.js").AgentEvent} AgentEvent */
/** @typedef {import("../frames.js").Line} Line */

/** @type {Record<string, "text" | "thinking">} */
const RUNS = { "text-delta": "text", "reasoning-delta": "thinking" };

export class Fold {
  /** @type {"text" | "thinking" | null} the kind of the run that the next delta may go on with */
  #run = null;

  /** @param {readonly Line[]} [lines] what was kept so far, its last run ended */
  constructor(lines = []) {
    /** @type {Line[]} roles and chunks, in order */
    this.lines = [...lines];
  }

  /** @param {AgentEvent} event */
  add(event) {
    switch (event.type) {
      case "text-delta":
      case "reasoning-delta":
        if (event.delta !== "") this.#delta(RUNS[event.type], event.delta);
        break;
      case "user-message":
        this.#line("user", { type: "text", text: event.text });
        for (const { url, mimeType } of event.images ?? []) {
          this.#line("user", { type: "image", url, ...(mimeType == null ? {} : { mimeType }) });
        }
        break;
      case "steering":
        this.#line("user", { type: "text", text: event.text });
        break;
      case "turn-start":
        if (event.resumes) this.#line("system", { type: "system", text: "The turn was resumed." });
        break;
      case "tool-call": {
        // A chunk is the event without its place.
        const { conversationId: _, turnId: __, ...chunk } = event;
        this.#line("assistant", chunk);
        break;
      }
      case "tool-result": {
        const { conversationId: _, turnId: __, durationMs: ___, ...chunk } = event;
        this.#line("tool", chunk);
        break;
      }
      case "error": {
        const { conversationId: _, turnId: __, ...chunk } = event;
        this.#line("assistant", chunk);
        break;
      }
      case "step-complete":
        this.#run = null;
    }
  }

  /**
   * @param {"text" | "thinking"} type
   * @param {string} delta
   */
  #delta(type, delta) {
    const last = this.lines.at(-1);
    if (this.#run === type && last && "text" in last.chunk) {
      const chunk = { ...last.chunk, text: last.chunk.text + delta };
      this.lines[this.lines.length - 1] = { ...last, chunk };
    } else {
      this.#line("assistant", { type, text: delta });
      this.#run = type;
    }
  }

  /**
   * @param {Line["role"]} role
   * @param {Line["chunk"]} chunk
   */
  #line(role, chunk) {
    this.lines.push({ role, chunk });
    this.#run = null;
  }
}
