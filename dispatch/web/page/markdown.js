/**
 * What an agent writes, as HTML that can do nothing: markdown, then DOMPurify, then TrustedHTML.
 *
 * Neighbours: `parts` puts these blocks into a message; the vendored marked, DOMPurify and
 * highlight.js do the work. A text that still grows is cut into blocks, and only the last one is
 * made anew: `Blocks`.
 * Invariant: nothing reaches the document but through `purify`: no script, style, form or picture of
 * another host, and links go to http, https and mailto alone, in a tab of their own.
 */

import DOMPurify from "../vendor/dompurify/purify.es.js";
import hljs from "../vendor/highlight.js/highlight.min.js";
import { Marked } from "../vendor/marked/marked.esm.js";

/** Colouring more than this takes longer than a frame. */
const COLOURED_CHARACTERS_MAX = 20_000;
/** A text without a blank line is still cut here and there, so that no block grows for ever. */
const BLOCK_CHARACTERS_MAX = 16_000;

const TAGS = [
  ..."a p br hr strong em del code pre span blockquote ul ol li".split(" "),
  ..."h1 h2 h3 h4 h5 h6 table thead tbody tr th td input figure figcaption button div".split(" "),
];
const ATTRIBUTES = [
  "href", "title", "class", "align", "type", "checked", "disabled", "start", "rel", "target",
  "dir", "data-copy", "tabindex", "role", "aria-label",
];
const SCHEMES = /^(?:https?:|mailto:)/i;

/** @param {string} text */
function escaped(text) {
  /** @type {Record<string, string>} */
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => names[character]);
}

/**
 * @param {string} text
 * @param {string} language
 */
function coloured(text, language) {
  if (text.length > COLOURED_CHARACTERS_MAX || !hljs.getLanguage(language)) return escaped(text);
  return hljs.highlight(text, { language, ignoreIllegals: true }).value;
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    /** @param {{text: string, lang?: string}} token */
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0].toLowerCase();
      const label = escaped(language || "text");
      return (
        `<figure class="code"><figcaption><span>${label}</span>`
        + '<button type="button" class="copy" data-copy>Copy</button></figcaption>'
        + `<pre tabindex="0" role="region" aria-label="Code, ${label}" dir="ltr">`
        + `<code>${coloured(text, language)}</code></pre></figure>`
      );
    },
    /** Markup that somebody wrote is text. @param {{text: string}} token */
    html({ text }) {
      return escaped(text);
    },
    /** Not fetched: a picture of another host would tell it who reads. @param {any} token */
    image({ href, text }) {
      return SCHEMES.test(href) ? `<a href="${escaped(href)}">${escaped(text || href)}</a>` : escaped(text);
    },
    /** @param {any} token @returns {string} */
    table(token) {
      // @ts-expect-error `this` is the renderer, which marked does not say
      const { parser } = this;
      /** @type {(cells: any[], tag: string) => string} */
      const row = (cells, tag) => cells.map(({ tokens, align }) => {
        return `<${tag}${align ? ` align="${align}"` : ""}>${parser.parseInline(tokens)}</${tag}>`;
      }).join("");
      const rows = token.rows.map((/** @type {any[]} */ cells) => `<tr>${row(cells, "td")}</tr>`);
      return (
        '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr>'
        + `${row(token.header, "th")}</tr></thead><tbody>${rows.join("")}</tbody></table></div>`
      );
    },
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (/** @type {Element} */ node) => {
  if (node.tagName === "A") {
    if (!SCHEMES.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
  if (node.tagName === "INPUT" && node.getAttribute("type") !== "checkbox") node.remove();
});

/** @param {string} html */
function purify(html) {
  const { sanitize } = /** @type {{sanitize: (html: string, how: object) => unknown}} */ (
    /** @type {unknown} */ (DOMPurify)
  );
  return sanitize(html, {
    ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false,
    RETURN_TRUSTED_TYPE: true,
  });
}

/** A whole text as trusted HTML. @param {string} text */
export function markdown(text) {
  return purify(/** @type {string} */ (marked.parse(text)));
}

/** Where the next block begins: behind a blank line that is not within a fence. */
const FENCE = /^ {0,3}(`{3,}|~{3,})/;

/** A last block that is longer is made anew only after it grew by a part of itself. */
const EAGER_CHARACTERS_MAX = 8_000;
const GROWTH = 1 / 8;
/** Blocks that are compared as one once they are finished. */
const RUN_BLOCKS = 24;

/**
 * A growing text as blocks, each made once; only the last one may change.
 */
export class Blocks {
  /** @type {unknown[][]} finished blocks, in runs: one that is full never changes */
  #runs = [];
  /** @type {unknown[]} finished blocks of the last run, which is not full */
  #done = [];
  #from = 0;
  #text = "";
  /** @type {unknown} */
  #last = null;
  /** How much of the text `#last` is made of. */
  #until = 0;
  /** @type {{runs: readonly (readonly unknown[])[], rest: string}} */
  #made = { runs: [], rest: "" };

  /**
   * The trusted HTML of each block of `text`, in runs; the text before it is the beginning of this
   * one. A run is the same array for as long as it is the same, and a block keeps its place in its
   * run: an element that showed one never shows another. `rest` is what was not made yet of a very
   * long block, to be shown as it is.
   * @param {string} text
   * @param {boolean} [isWhole] nothing will be added
   */
  of(text, isWhole = false) {
    const isSame = text.length === this.#text.length && text === this.#text;
    if (isSame && (!isWhole || this.#made.rest === "")) return this.#made;
    if (!text.startsWith(this.#text)) {
      this.#runs = [];
      this.#done = [];
      this.#from = this.#until = 0;
    }
    this.#text = text;
    const before = this.#from;
    for (let end; (end = this.#blockEnd()) !== null; this.#from = end) {
      this.#done.push(markdown(text.slice(this.#from, end)));
      if (this.#done.length === RUN_BLOCKS) this.#runs = [...this.#runs, this.#done.splice(0)];
    }
    const length = text.length - this.#from;
    const made = this.#from === before ? this.#until - this.#from : 0;
    if (isWhole || length <= EAGER_CHARACTERS_MAX || length > made * (1 + GROWTH)) {
      this.#last = markdown(text.slice(this.#from));
      this.#until = text.length;
    }
    const runs = [...this.#runs, [...this.#done, this.#last]];
    this.#made = { runs, rest: text.slice(this.#until) };
    return this.#made;
  }

  #blockEnd() {
    const text = this.#text;
    /** @type {string | null} */
    let fence = null;
    let at = this.#from;
    for (;;) {
      const end = text.indexOf("\n", at);
      if (end === -1) return null;
      const line = text.slice(at, end);
      const mark = FENCE.exec(line)?.[1];
      if (fence === null && mark !== undefined) fence = mark;
      else if (fence !== null && mark?.startsWith(fence)) fence = null;
      else if (fence === null && line.trim() === "" && at > this.#from) {
        // A list or a quote may go on behind a blank line: only plain paragraphs are let go.
        const next = text.slice(end + 1, end + 2);
        const begins = text.slice(this.#from, this.#from + 3);
        const isSimple = !/^\s{0,3}([-*+>]|\d+[.)])/.test(begins);
        if (next !== "" && !/\s/.test(next) && isSimple) return end + 1;
      } else if (fence === null && end - this.#from > BLOCK_CHARACTERS_MAX) {
        return end + 1;
      }
      at = end + 1;
    }
  }
}
