// What a client of dispatch may have to tell a person.
//
// Neighbours: `link` and `client` raise them.
// Invariant: all have one base.

export class DispatchError extends Error {}

/** The server said no; `retryable` means that the same may succeed later. */
export class Refused extends DispatchError {
  constructor(code, message, retryable = false, retryAfterMs = undefined) {
    super(`${code}: ${message}`);
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
  }

  // A `group.error` has its words in `error` and says nothing of retrying.
  static ofFrame({ code = "error", message, error = "", retryable, retryAfterMs }) {
    return new Refused(code, message ?? error, retryable, retryAfterMs);
  }
}

/** The connection broke before the reply; whether it was done is not known. */
export class Lost extends DispatchError {}

/** The server does not want this client back (codes from 4500 on), or it was closed here. */
export class Stopped extends DispatchError {
  constructor(code, reason = "") {
    super(`${code} ${reason}`.trim());
    this.code = code;
  }
}
