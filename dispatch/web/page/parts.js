/**
 * A message on the screen: text, thinking, tools, pictures and errors.
 *
 * Neighbours: `messages` says what it is made of, `markdown` makes text of agents safe, the views
 * of conversations and groups put messages below each other.
 * Invariant: a message is drawn again only when a chunk of it, or what is passed in beside it, is
 * another one; of a text that grows, only its last block is.
 */

import { icons } from "./icons.js";
import { guard, html, nothing } from "./lit.js";
import { Blocks } from "./markdown.js";
import { hueOf, initialOf } from "./names.js";

/** @typedef {import("./messages.js").Message} Message */
/** @typedef {import("./messages.js").Part} Part */

/** What a tool got or said: more than this is not read on a page. */
const OUTPUT_CHARACTERS_MAX = 20_000;
const HINT_CHARACTERS_MAX = 80;

/**
 * How a message is shown beside what it says.
 * @typedef {object} Look
 * @property {string} author
 * @property {string} [hue] the author's, where it is not its own
 * @property {"sealed" | "streaming" | "sending" | "failed" | "queued"} state
 * @property {Readonly<Record<string, string>>} [outputs] live output of tools
 * @property {string} [note] how it ended, where it did not by itself
 * @property {unknown} [before] above its parts; another object is another look
 * @property {unknown} [foot] below its parts; another object is another look
 * @property {(() => void) | null} [retry] of an error
 */

/** Texts of a view that grow: kept from one drawing to the next. */
export class Texts {
  /** @type {Map<string, Blocks>} */
  #all = new Map();

  /** @param {string} key @param {string} text @param {boolean} isWhole */
  html(key, text, isWhole) {
    let blocks = this.#all.get(key);
    if (blocks === undefined) this.#all.set(key, (blocks = new Blocks()));
    return blocks.of(text, isWhole);
  }
}

/**
 * An agent's text.
 * @param {Texts} texts
 * @param {string} key
 * @param {string} text
 * @param {boolean} isOpen whether it may still grow
 */
export function prose(texts, key, text, isOpen) {
  const { runs, rest } = texts.html(key, text, !isOpen);
  return html`<div class="prose" dir="auto">
    ${runs.map((run) => guard([run], () => run.map(blockView)))}
    ${rest === "" ? nothing : html`<pre class="rest">${rest}</pre>`}
  </div>`;
}

/** Somebody is about to speak. */
export const dots = html`<span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>`;

/** @param {unknown} block */
function blockView(block) {
  // lit sets a property that is an object each time, and the browser would parse it again.
  return html`<div class="block" dir="auto" .innerHTML=${guard([block], () => block)}></div>`;
}

/** @param {string} name @param {string} [hue] */
export function face(name, hue = hueOf(name)) {
  return html`<span class="face ${hue}" aria-hidden="true">${initialOf(name)}</span>`;
}

/**
 * @param {Texts} texts
 * @param {Message} message
 * @param {Look} look
 */
export function messageView(texts, message, look) {
  const { author, hue = hueOf(author), state, outputs, note, before, foot, retry } = look;
  const known = [...message.chunks, author, hue, state, outputs, note, before, foot, !retry];
  return guard(known, () => {
    if (message.kind === "user") return userMessage(message, look);
    if (message.kind === "system") return systemMessage(message);
    const open = state === "streaming" ? message.parts.at(-1) : null;
    return html`<article class="message agent" data-message="agent" data-state=${state}
      data-seq=${message.seq} data-author=${author} aria-label=${author}>
      ${face(author, hue)}
      <div class="said">
        <header class="author ${hue}"><span>${author}</span></header>
        ${before ?? nothing}
        ${message.parts.map((part) => partView(texts, part, part === open, look))}
        ${note === undefined ? nothing : html`<p class="note">${note}</p>`}
        ${foot ?? nothing}
      </div>
    </article>`;
  });
}

/** @param {Message} message @param {Look} look */
function userMessage({ parts, seq }, { author, state, foot }) {
  return html`<article class="message user" data-message="user" data-state=${state} data-seq=${seq}
    aria-label=${author === "" ? "You" : author}>
    ${author === "" ? nothing : html`<header class="author">${author}</header>`}
    ${parts.map((part) => {
      if (part.type === "image") return picture(part.url);
      return "text" in part ? html`<div class="bubble" dir="auto">${part.text}</div>` : nothing;
    })}
    ${foot ?? nothing}
  </article>`;
}

/** @param {Message} message */
function systemMessage({ parts, seq }) {
  const texts = parts.map((part) => ("text" in part ? part.text : ""));
  return html`<article class="message system" data-message="system" data-seq=${seq}
    aria-label="Note">${texts.join("\n")}</article>`;
}

/**
 * Pictures that were pasted are shown, those of other hosts are links: the page fetches nothing.
 * @param {string} url
 */
function picture(url) {
  if (/^data:image\/(png|jpeg|gif|webp|avif);/i.test(url)) {
    return html`<img class="picture" src=${url} alt="A picture beside the message">`;
  }
  if (!/^https?:/i.test(url)) return nothing;
  return html`<a class="picture-link" href=${url} target="_blank" rel="noopener noreferrer nofollow">
    ${icons.picture} ${url}</a>`;
}

/**
 * @param {Texts} texts
 * @param {Part} part
 * @param {boolean} isOpen whether it may still grow
 * @param {Look} look
 */
function partView(texts, part, isOpen, look) {
  switch (part.type) {
    case "text":
      return prose(texts, part.key, part.text, isOpen);
    case "thinking":
      return thinking(part.text, isOpen);
    case "tool":
      return tool(part, look);
    case "error":
      return failure(part.message, part.code, look.retry ?? null);
    default:
      return nothing;
  }
}

/** @param {string} text @param {boolean} isOpen */
export function thinking(text, isOpen) {
  return html`<details class="thinking" data-state=${isOpen ? "streaming" : "sealed"}>
    <summary>${icons.thought}<span>${isOpen ? "Thinking" : "Thoughts"}</span>${icons.chevron}</summary>
    <div class="thought" dir="auto">${text}</div>
  </details>`;
}

/** @param {Part & {type: "tool"}} part @param {Look} look */
function tool({ call, result }, { state, outputs }) {
  const id = call?.toolCallId ?? result?.toolCallId ?? "";
  const name = call?.toolName ?? result?.toolName ?? "tool";
  const running = state === "streaming" ? "running" : "open";
  const how = result === null ? running : result.isError ? "error" : "done";
  return toolCard({ id, name, how, input: call?.input, output: result?.content ?? outputs?.[id] ?? "" });
}

const TOOL_STATES = { running: "Running", done: "Done", error: "Failed", open: "No result" };

/**
 * @param {{id: string, name: string, how: keyof typeof TOOL_STATES, input: unknown, output: string}} tool
 */
export function toolCard({ id, name, how, input, output }) {
  return html`<details class="tool" data-tool=${id} data-state=${how}>
    <summary>
      ${icons.tool}<span class="tool-name">${name}</span>
      <span class="tool-hint">${hintOf(input)}</span>
      <span class="tool-state">${TOOL_STATES[how]}</span>${icons.chevron}
    </summary>
    <div class="tool-body">
      ${input === undefined ? nothing : html`<h4>Input</h4>
        <pre tabindex="0" role="region" aria-label="Input of ${name}">${cut(pretty(input))}</pre>`}
      ${output === "" ? nothing : html`<h4>${how === "running" ? "Output so far" : "Output"}</h4>
        <pre tabindex="0" role="region" aria-label="Output of ${name}">${cut(output)}</pre>`}
    </div>
  </details>`;
}

/** @param {string} message @param {string | null} code @param {(() => void) | null} retry */
export function failure(message, code, retry) {
  return html`<div class="failure" data-error=${code ?? ""}>
    ${icons.warning}<p dir="auto">${message}</p>
    ${retry === null ? nothing : html`<button type="button" class="button" @click=${retry}>
      ${icons.retry} Try again</button>`}
  </div>`;
}

/** @param {unknown} input */
function pretty(input) {
  return typeof input === "string" ? input : JSON.stringify(input, null, 2) ?? "";
}

/** The one thing that says most of what a tool was asked. @param {unknown} input */
function hintOf(input) {
  const values = input !== null && typeof input === "object" ? Object.values(input) : [input];
  const text = values.find((value) => typeof value === "string") ?? "";
  return /** @type {string} */ (text).replace(/\s+/g, " ").slice(0, HINT_CHARACTERS_MAX);
}

/** @param {string} text */
function cut(text) {
  const rest = text.length - OUTPUT_CHARACTERS_MAX;
  if (rest <= 0) return text;
  return `${text.slice(0, OUTPUT_CHARACTERS_MAX)}\n… ${rest.toLocaleString("en")} characters more`;
}
