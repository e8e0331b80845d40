/**
 * The page's icons: strokes of one weight on a grid of 20, in the colour of the text around them.
 *
 * Neighbours: everything that has a button. Each stands beside a label, so none is read out.
 */

import { html, svg } from "./lit.js";

/** @param {unknown} content */
const icon = (content) => html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true">${content}</svg>`;

export const icons = {
  add: icon(svg`<path d="M10 4.5v11M4.5 10h11"/>`),
  archive: icon(svg`<path d="M3.5 5h13v3h-13zM5 8v7.5h10V8M8 11h4"/>`),
  back: icon(svg`<path d="M12 4.5 6.5 10l5.5 5.5"/>`),
  chat: icon(svg`<path d="M4 5h12v8.5H9.5L6 16.5v-3H4z"/>`),
  check: icon(svg`<path d="m4.5 10.5 3.5 3.5 7.5-8"/>`),
  chevron: icon(svg`<path d="m7.5 5 5 5-5 5"/>`),
  close: icon(svg`<path d="m5 5 10 10M15 5 5 15"/>`),
  down: icon(svg`<path d="M10 4.5v11M5 11l5 5 5-5"/>`),
  edit: icon(svg`<path d="m4.5 15.5.7-3.2 7.8-7.8 2.5 2.5-7.8 7.8zM11.5 6l2.5 2.5"/>`),
  group: icon(svg`<circle cx="7.5" cy="7.5" r="2.7"/><path d="M2.5 16c.3-3 2.3-4.5 5-4.5s4.7 1.5 5 4.5M12.5 5.2a2.5 2.5 0 0 1 0 4.7M14.5 12c1.8.6 2.8 2 3 4"/>`),
  menu: icon(svg`<path d="M3.5 6h13M3.5 10h13M3.5 14h8"/>`),
  picture: icon(svg`<rect x="3" y="4" width="14" height="12" rx="2"/><circle cx="7.5" cy="8.5" r="1.3"/><path d="m4 14.5 4-3.5 2.5 2 3-3 3 3"/>`),
  pulse: icon(svg`<path d="M2.5 10.5h3.5l2-6 3.5 11 2.2-7 1.3 2h2.5"/>`),
  retry: icon(svg`<path d="M15.5 10a5.5 5.5 0 1 1-1.7-4M14.5 3v3.5H11"/>`),
  search: icon(svg`<circle cx="9" cy="9" r="4.5"/><path d="m12.5 12.5 4 4"/>`),
  send: icon(svg`<path d="M10 16V4.5M5 9l5-5 5 5"/>`),
  settings: icon(svg`<path d="M3 6.5h7M14 6.5h3M3 13.5h3M10 13.5h7"/><circle cx="12" cy="6.5" r="2"/><circle cx="8" cy="13.5" r="2"/>`),
  stop: icon(svg`<rect x="5.5" y="5.5" width="9" height="9" rx="1.5" class="filled"/>`),
  thought: icon(svg`<path d="M10 3.5a5 5 0 0 0-3 9v2h6v-2a5 5 0 0 0-3-9zM8 17h4"/>`),
  tool: icon(svg`<path d="m5 7 3 3-3 3M10.5 13.5h4.5"/>`),
  warning: icon(svg`<path d="M10 3.5 17.5 16h-15zM10 8.5v3.5M10 14v.2"/>`),
};
