/**
 * The view library as the page uses it, with the types that its minified files do not carry.
 *
 * Neighbours: everything that draws imports this, and nothing else imports `vendor/lit-html`.
 */

import { guard as litGuard } from "../vendor/lit-html/directives/guard.js";
import { keyed as litKeyed } from "../vendor/lit-html/directives/keyed.js";
import { live as litLive } from "../vendor/lit-html/directives/live.js";
import { ref as litRef } from "../vendor/lit-html/directives/ref.js";
import { repeat as litRepeat } from "../vendor/lit-html/directives/repeat.js";
import * as lit from "../vendor/lit-html/lit-html.js";

/** @typedef {<T>(items: Iterable<T>, key: (item: T) => unknown, draw: (item: T) => unknown) => unknown} Repeat */
/** @typedef {(strings: TemplateStringsArray, ...values: unknown[]) => unknown} Tag */

export const html = /** @type {Tag} */ (lit.html);
export const svg = /** @type {Tag} */ (lit.svg);
/** Nothing at all: also an attribute that is not there. */
export const nothing = /** @type {unknown} */ (lit.nothing);
export const render = /** @type {(view: unknown, place: HTMLElement) => void} */ (
  /** @type {unknown} */ (lit.render)
);
/** Draws only when one of the values is another one. */
export const guard = /** @type {(known: readonly unknown[], draw: () => unknown) => unknown} */ (litGuard);
/** New elements for a new key. */
export const keyed = /** @type {(key: unknown, view: unknown) => unknown} */ (litKeyed);
/** Compares with what is in the document, not with what was drawn last. */
export const live = /** @type {(value: unknown) => unknown} */ (litLive);
/** Hands an element out, and nothing when it goes. */
export const ref = /** @type {(taken: (element: Element | undefined) => void) => unknown} */ (litRef);
/** One view for each item: elements move with their key. */
export const repeat = /** @type {Repeat} */ (/** @type {unknown} */ (litRepeat));
