/**
 * What an agent asks, answered where it is asked.
 *
 * Neighbours: the views of conversations and groups show it below the running turn; the client sends
 * the answer. Shapes: `protocol/native.md` 2.1.
 * Invariant: the first answer of any device counts; an answer that came too late says so.
 */

import { html, nothing, repeat } from "./lit.js";

/** @typedef {import("../frames.js").Request} Request */
/** @typedef {import("../frames.js").Response} Response */
/** @typedef {NonNullable<Request["questions"]>[number]} Question */
/** @typedef {(requestId: string, response: Response) => void} Respond */

/** @param {readonly Request[]} requests @param {Respond} respond */
export function requestsView(requests, respond) {
  return repeat(requests, ({ requestId }) => requestId, (request) => {
    const { requestId, title, message, kind } = request;
    const label = `request-${requestId}`;
    return html`<section class="request" role="group" data-request=${requestId} aria-labelledby=${label}>
      <h3 id=${label} dir="auto">${title}</h3>
      ${message ? html`<p dir="auto">${message}</p>` : nothing}
      ${kind === "approval" ? approval(request, respond) : input(request, respond)}
    </section>`;
  });
}

/** @param {Request} request @param {Respond} respond */
function approval({ requestId, options }, respond) {
  /** @param {Response} response */
  const answer = (response) => () => respond(requestId, response);
  if (!options?.length) {
    return html`<div class="answers">
      <button type="button" class="button primary" @click=${answer({ approved: true })}>Allow</button>
      <button type="button" class="button" @click=${answer({ approved: false })}>Deny</button>
    </div>`;
  }
  const first = options.findIndex(({ effect }) => effect === "allow");
  return html`<div class="answers">${options.map(({ id, label, effect }, i) => html`
    <button type="button" class="button ${i === first ? "primary" : ""}" data-effect=${effect}
      @click=${answer({ optionId: id })}>${label}</button>`)}</div>`;
}

/** @param {Request} request @param {Respond} respond */
function input({ requestId, questions = [] }, respond) {
  const submitted = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    /** @type {Record<string, unknown>} */
    const answers = {};
    for (const { id, type } of questions) {
      if (type === "boolean") answers[id] = form.has(id);
      else if (form.get(id)) answers[id] = form.get(id);
    }
    respond(requestId, { action: "accept", answers });
  };
  return html`<form class="questions" @submit=${submitted}>
    ${questions.map((question) => field(question))}
    <div class="answers">
      <button type="submit" class="button primary">Answer</button>
      <button type="button" class="button"
        @click=${() => respond(requestId, { action: "decline" })}>Decline</button>
    </div>
  </form>`;
}

/** @param {Question} question */
function field({ id, label, type, options = [], required = false }) {
  if (type === "boolean") {
    return html`<label class="check"><input type="checkbox" name=${id}><span>${label}</span></label>`;
  }
  if (type === "choice") {
    return html`<label class="labelled">${labelOf(label, required)}
      <select name=${id} ?required=${required}>
        ${required ? nothing : html`<option value="">No answer</option>`}
        ${options.map((option) => html`<option value=${option}>${option}</option>`)}
      </select></label>`;
  }
  return html`<label class="labelled">${labelOf(label, required)}
    <input type="text" name=${id} ?required=${required} autocomplete="off" dir="auto"></label>`;
}

/** @param {string} label @param {boolean} required */
function labelOf(label, required) {
  return html`<span>${label}${required ? html`<em class="required" aria-hidden="true"> needed</em>` : nothing}</span>`;
}
