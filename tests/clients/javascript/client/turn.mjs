// A turn, folded from its events or from the chunks of a snapshot.
//
// Neighbours: `conversation` has the turns.
// Invariant: an event that is not known changes nothing.

export class Turn {
  message = "";
  text = "";
  thinking = "";
  calls = new Map();
  results = new Map();
  requests = new Map();
  errors = [];
  reason = undefined;
  sealed = false;

  constructor(id) {
    this.id = id;
  }

  /** Events that are not known change nothing: a later server may say more. */
  take(event) {
    switch (event.type) {
      case "user-message":
        this.message = event.text;
        break;
      case "text-delta":
        this.text += event.delta;
        break;
      case "reasoning-delta":
        this.thinking += event.delta;
        break;
      case "tool-call":
        this.calls.set(event.toolCallId, event);
        break;
      case "tool-result":
        this.results.set(event.toolCallId, event);
        break;
      case "error":
        this.errors.push(event);
        break;
      case "done":
        this.reason = event.reason;
        break;
      case "turn-sealed":
        this.sealed = true;
        break;
      case "chat.request":
        this.requests.set(event.requestId, event);
        break;
      case "chat.request.closed":
        this.requests.delete(event.requestId);
        break;
    }
  }

  static ofSnapshot({ turnId, chunks, requests }) {
    const turn = new Turn(turnId);
    for (const { role, chunk } of chunks) turn.#takeChunk(role, chunk);
    for (const request of requests) turn.requests.set(request.requestId, request);
    return turn;
  }

  #takeChunk(role, chunk) {
    switch (chunk.type) {
      case "text":
        if (role !== "user") this.text += chunk.text;
        // The first is the message, a later one what was steered in.
        else this.message ||= chunk.text;
        break;
      case "thinking":
        this.thinking += chunk.text;
        break;
      case "tool-call":
        this.calls.set(chunk.toolCallId, chunk);
        break;
      case "tool-result":
        this.results.set(chunk.toolCallId, chunk);
        break;
      case "error":
        this.errors.push(chunk);
        break;
    }
  }
}
