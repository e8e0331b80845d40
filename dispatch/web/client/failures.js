/**
 * What can go wrong between a client and a daemon, as one class with the daemon's own codes.
 *
 * Neighbours: `session` raises it for refused frames, `http` for refused requests. Codes:
 * `protocol/errors.md`; beside them `connection_lost` (whether it was done is unknown), `closed`
 * (by this side) and `unreachable` (nothing answered).
 * Invariant: an unknown code is still a `DispatchError` that carries it.
 */

export class DispatchError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retryable?: boolean, retryAfterMs?: number | undefined}} [more]
   */
  constructor(code, message, { retryable = false, retryAfterMs } = {}) {
    super(message);
    this.name = "DispatchError";
    this.code = code;
    /** Whether the same request may succeed later. */
    this.retryable = retryable;
    /** Milliseconds until then, where the daemon said so. */
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * Full jitter: anything between nothing and a bound that doubles, so that a thousand clients of one
 * daemon do not come back in step.
 * @param {number} attempt 0 for the first
 * @param {() => number} random in [0, 1)
 * @param {number} [first] the first bound, in milliseconds
 * @param {number} [most] the last one
 */
export function jittered(attempt, random, first = 500, most = 30_000) {
  return random() * Math.min(most, first * 2 ** Math.min(attempt, 16));
}
