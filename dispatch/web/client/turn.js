/**
 * A turn that runs: what is shown of it beside its chunks, its steps, requests and tools' output.
 *
 * Neighbours: `thread` applies events with it, `fold` has the chunks. Source of the events:
 * `protocol/native.md` 1.4.
 * Invariant: times are of this device's steady clock alone; a turn is replaced, never changed.
 */

/** @typedef {import("../frames.js").AgentEvent} AgentEvent */
/** @typedef {import("../frames.js").Line} Line */
/** @typedef {import("../frames.js").Request} Request */
/** @typedef {import("../frames.js").Usage} Usage */

/**
 * One call of the model within a turn. Times are of this device's steady clock, in milliseconds
 * (`performance.now()`), so that no clock has to be right.
 * @typedef {object} Step
 * @property {number} startedMs
 * @property {number | null} endedMs
 * @property {Usage | null} usage
 * @property {string[]} toolCallIds
 * @property {(AgentEvent & {type: "step-complete"}) | null} told what the daemon says of it once it
 *   is over
 */

/**
 * A turn that is not in `rows` yet.
 * @typedef {object} Turn
 * @property {string} turnId
 * @property {readonly Line[]} lines its chunks so far
 * @property {readonly Request[]} requests what the agent asks and nobody answered
 * @property {Readonly<Record<string, string>>} outputs live output by toolCallId: never kept
 * @property {readonly Step[]} steps
 * @property {number} startedMs as of `Step`
 * @property {number | null} endedMs
 * @property {{attempt: number, delayMs: number, message: string} | null} retry the provider failed
 * @property {string | null} author the user who wrote it, where an account has several
 * @property {(AgentEvent & {type: "done"}) | null} done
 * @property {boolean} isWhole seen from its first event, so that its end can be counted
 */

/** Of a tool that runs: more than a screen of it is the log's business. */
const OUTPUT_CHARACTERS_MAX = 65_536;

/**
 * @param {string} turnId
 * @param {boolean} isWhole
 * @param {readonly Line[]} [lines] its chunks so far
 * @returns {Turn}
 */
export function newTurn(turnId, isWhole, lines = []) {
  return {
    turnId, isWhole, lines, requests: [], outputs: {}, steps: [], startedMs: performance.now(),
    endedMs: null, retry: null, author: null, done: null,
  };
}

/**
 * What an event changes of a turn beside its chunks.
 * @param {Turn} turn
 * @param {AgentEvent} event
 * @returns {Partial<Turn>}
 */
export function changeOf(turn, event) {
  switch (event.type) {
    case "user-message":
      return { author: event.author ?? null };
    case "tool-output": {
      const text = (turn.outputs[event.toolCallId] ?? "") + event.data;
      return {
        outputs: { ...turn.outputs, [event.toolCallId]: text.slice(-OUTPUT_CHARACTERS_MAX) },
      };
    }
    case "provider-retry": {
      const { attempt, delayMs, message } = event;
      return { retry: { attempt, delayMs, message } };
    }
    case "done": {
      const endedMs = performance.now();
      // Not every agent says that a step is over.
      const steps = turn.steps.map((step) => ({ ...step, endedMs: step.endedMs ?? endedMs }));
      return { done: event, retry: null, endedMs, steps };
    }
    case "text-delta":
    case "reasoning-delta":
    case "tool-call":
    case "usage":
    case "step-complete":
      return { steps: stepsWith(turn, event), retry: null };
    default:
      return {};
  }
}

/**
 * @param {Turn} turn
 * @param {AgentEvent & {type: "text-delta" | "reasoning-delta" | "tool-call" | "usage" | "step-complete"}} event
 * @returns {readonly Step[]}
 */
function stepsWith(turn, event) {
  const { steps } = turn;
  const open = steps.at(-1);
  if (open?.endedMs === null && event.type.endsWith("-delta")) return steps;
  const now = performance.now();
  // Usage may come behind the end of the step that it is of.
  const isNew = open === undefined || (open.endedMs !== null && event.type !== "usage");
  /** @type {Step} */
  const step = isNew
    ? { startedMs: now, endedMs: null, usage: null, toolCallIds: [], told: null }
    : { ...open };
  if (event.type === "usage") step.usage = event.usage;
  if (event.type === "tool-call") step.toolCallIds = [...step.toolCallIds, event.toolCallId];
  if (event.type === "step-complete") {
    step.endedMs = now;
    step.told = event;
  }
  return [...(isNew ? steps : steps.slice(0, -1)), step];
}
