/**
 * The list of everything, newest activity first, by day; search and archive.
 *
 * Neighbours: `entries` has the list, `app` opens what is chosen.
 * Invariant: all kinds of conversation are in one order, and a badge is what the daemon counts.
 */

import { icons } from "./icons.js";
import { html, live, nothing, repeat } from "./lit.js";
import { mark } from "./mark.js";
import { hueOf, huesOf, initialOf } from "./names.js";
import { openNewGroup } from "./new_group.js";
import { addressOf } from "./routes.js";
import { settingsMenu } from "./settings.js";

/** @typedef {import("./entries.js").Entry} Entry */

/** After the last key, so that a word is one search. */
const SEARCH_MS = 180;
const DAY_MS = 86_400_000;
const STATES = { typing: "You write on another device", asking: "Waits for you", running: "Answering …" };

// In the language of the browser, as its other clocks are. Made once: making one takes long.
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const month = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

export class Sidebar {
  #app;
  #text = "";
  /** @type {readonly Entry[] | null} */
  #found = null;
  #isArchive = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
  }

  focusSearch() {
    this.#app.showSidebar(true);
    document.getElementById("search")?.focus();
  }

  template() {
    const { entries } = this.#app;
    const all = entries.snapshot;
    const archived = all.filter(({ isArchived }) => isArchived);
    // Whoever restored the last one has nothing left to see there.
    if (archived.length === 0) this.#isArchive = false;
    const shown = this.#found ?? (this.#isArchive ? archived : all.filter((one) => !one.isArchived));
    return html`
      <div class="sidebar-head">
        <a class="brand" href="#/">${mark}<span>dispatch</span></a>
        <button type="button" class="icon-button" aria-label="New group" title="New group"
          @click=${() => openNewGroup(this.#app)}>${icons.group}</button>
        <button type="button" class="icon-button accent" aria-label="New chat" title="New chat"
          @click=${() => this.#start()}>${icons.add}</button>
      </div>
      <div class="search">
        ${icons.search}
        <input id="search" type="search" role="searchbox" aria-label="Search conversations"
          placeholder="Search" autocomplete="off" .value=${live(this.#text)} @input=${this.#typed}
          @keydown=${this.#key}>
        <kbd aria-hidden="true">/</kbd>
      </div>
      <div class="entries">
        ${shown.length === 0 ? this.#emptiness() : this.#days(shown)}
        ${entries.hasMore && this.#found === null && !this.#isArchive ? html`<button type="button"
          class="link more" @click=${() => entries.loadMore()}>Show older ones</button>` : nothing}
      </div>
      <div class="sidebar-foot">
        ${archived.length === 0 ? nothing : html`<button type="button" class="quiet"
          aria-pressed=${this.#isArchive} @click=${() => this.#toggleArchive()}>
          ${icons.archive}<span>Archived</span><span class="count">${archived.length}</span></button>`}
        <span class="grow"></span>
        ${settingsMenu(this.#app)}
      </div>`;
  }

  #start() {
    this.#app.go(null);
    this.#app.showSidebar(false);
    this.#app.view.focus();
  }

  #toggleArchive() {
    this.#isArchive = !this.#isArchive;
    this.#app.drawAll();
  }

  #emptiness() {
    if (this.#found !== null) return html`<p class="nothing">Nothing has “${this.#text}”.</p>`;
    const { error } = this.#app.entries;
    return html`<p class="nothing">${error === null ? "Nothing here yet." : error.message}</p>`;
  }

  /** @param {readonly Entry[]} shown */
  #days(shown) {
    const days = Map.groupBy(shown, ({ at }) => dayOf(at, Date.now()));
    return repeat([...days], ([day]) => day, ([day, entries]) => html`
      <section aria-label=${day}><h2>${day}</h2>
        <ul>${repeat(entries, ({ id }) => id, (entry) => html`<li>${this.#row(entry)}</li>`)}</ul>
      </section>`);
  }

  /** @param {Entry} entry */
  #row(entry) {
    const { kind, id, title, preview, unread, isRunning, isTyping, agent, members, at } = entry;
    const isCurrent = this.#app.view.id === id;
    // Of a conversation that is not open, nothing says what its turn waits for.
    const isAsking = isRunning && isCurrent && this.#app.view.isAsking;
    const state = isTyping ? "typing" : isAsking ? "asking" : isRunning ? "running" : "idle";
    const said = state === "idle" ? preview : STATES[state];
    // A conversation's rows are parts of messages: their number says nothing to anybody.
    const badge = kind === "conversation" ? "" : unread > 99 ? "99+" : String(unread);
    return html`<a class="entry" href=${addressOf(entry)} data-entry="${kind}:${id}" data-state=${state}
      data-unread=${unread > 0 && !isCurrent ? unread : nothing} aria-current=${isCurrent ? "page" : nothing}
      @click=${() => this.#app.showSidebar(false)}>
      ${emblem(kind, agent, members)}
      <span class="entry-text">
        <span class="entry-title" dir="auto">${title}</span>
        ${said === "" ? nothing : html`<span class="entry-said" dir="auto">${said}</span>`}
      </span>
      <span class="entry-side">
        <time datetime=${new Date(at).toISOString()} title=${moment.format(at)}>${timeOf(at, Date.now())}</time>
        ${isRunning ? html`<span class="running ${isAsking ? "asking" : ""}"><span class="unseen">An answer runs</span></span>` : nothing}
        ${unread > 0 && !isCurrent ? html`<span class="badge ${badge === "" ? "dot" : ""}">${badge}<span
          class="unseen"> unread</span></span>` : nothing}
      </span>
    </a>`;
  }

  #typed = (/** @type {Event} */ event) => {
    this.#text = /** @type {HTMLInputElement} */ (event.target).value;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#search(), SEARCH_MS);
  };

  #key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.#text = "";
      this.#search();
      this.#app.showSidebar(false);
      this.#app.view.focus();
    } else if (event.key === "Enter" && this.#found?.[0]) {
      this.#app.go(this.#found[0]);
    }
  };

  async #search() {
    const text = this.#text.trim();
    if (text === "") this.#found = null;
    else {
      const found = await this.#app.attempt(this.#app.entries.search(text), "It cannot be searched");
      if (this.#text.trim() === text && found !== undefined) this.#found = found;
    }
    this.#app.drawAll();
  }
}

/** @param {Entry["kind"]} kind @param {string} agent @param {readonly string[]} members */
function emblem(kind, agent, members) {
  if (kind === "chat") {
    return html`<span class="face ${hueOf(agent)}" aria-hidden="true">${initialOf(agent)}</span>`;
  }
  // The list does not say who answers in it.
  if (kind === "conversation") return html`<span class="face plain">${icons.chat}</span>`;
  const hues = huesOf(members);
  return html`<span class="faces" aria-hidden="true">${members.slice(0, 2).map((name) => html`
    <span class="face ${hues.get(name)}">${initialOf(name)}</span>`)}</span>`;
}

/** Midnights between two moments. @param {number} at @param {number} now */
function daysBetween(at, now) {
  return Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(at).setHours(0, 0, 0, 0)) / DAY_MS);
}

/** @param {number} at @param {number} now */
function dayOf(at, now) {
  const days = daysBetween(at, now);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days < 7) return "Last 7 days";
  if (days < 30) return "Last 30 days";
  return month.format(at);
}

/** @param {number} at @param {number} now */
function timeOf(at, now) {
  return (daysBetween(at, now) <= 0 ? clock : date).format(at);
}
