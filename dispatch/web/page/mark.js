/** The sign of the page, as in `icon.svg`. */

import { html } from "./lit.js";

export const mark = html`<svg class="mark" viewBox="0 0 64 64" aria-hidden="true"><rect width="64"
  height="64" rx="15"/><path d="M14 21h22M14 32h30M14 43h16"/><circle cx="48" cy="43" r="6"/></svg>`;
