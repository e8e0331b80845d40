/**
 * The page: one client, one view at a time, and what is drawn when something changes.
 *
 * Neighbours: `routes` says which view an address is, `sidebar` lists conversations, `shell` puts a
 * header above a view, `panel` shows what is happening. All that is true comes from `client.js`.
 * Invariant: the page keeps nothing of a conversation but drafts; each part is drawn at most once
 * per frame, and only when something of it changed.
 */

import { createClient } from "../client.js";
import { browserStorage } from "../client/storage.js";
import { shareTabs } from "../client/tabs.js";
import { Announcer } from "./announcer.js";
import { copyOnClick } from "./clipboard.js";
import { ConversationView } from "./conversation.js";
import { listenToDrops } from "./drops.js";
import { Entries } from "./entries.js";
import { GroupView } from "./group.js";
import { listenToKeys } from "./keyboard.js";
import { html, keyed, nothing, render } from "./lit.js";
import { Panel } from "./panel.js";
import { addressOf, routeOf } from "./routes.js";
import { shell } from "./shell.js";
import { Sidebar } from "./sidebar.js";
import { SignIn } from "./sign_in.js";
import { StartView } from "./start.js";
import { applyTheme } from "./theme.js";
import { Typing } from "./typing.js";

/** @typedef {StartView | ConversationView | GroupView} View */

/** A connection that comes back sooner is not worth a word. */
const OFFLINE_MS = 1_000;
const TOAST_MS = 6_000;
/** As in `shell.css`. */
const NARROW = "(max-width: 760px)";
/** Between two drawings of an answer that streams: a little less than two frames. */
const STREAM_MS = 28;

/** @param {string} id @returns {HTMLElement} */
const place = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

export class App {
  storage = browserStorage();
  client = createClient({ storage: this.storage, tabs: shareTabs() });
  announcer = new Announcer(this);
  typing = new Typing(this);
  entries = new Entries(this.client, this.typing.device);
  panel = new Panel(this);
  signIn = new SignIn(this);
  sidebar = new Sidebar(this);
  /** @type {View} */
  view;
  /** @type {{text: string, id: number}[]} */
  toasts = [];
  isOffline = false;
  #isDue = false;
  #isAllDue = false;
  #isSoonDue = false;
  #drawnAt = 0;
  #toasts = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #offline;

  constructor() {
    applyTheme();
    this.view = new StartView(this);
    this.client.connection.subscribe(() => this.#connectionChanged());
    this.entries.subscribe(() => this.#entriesChanged());
    this.entries.open();
    window.addEventListener("hashchange", () => this.#show());
    document.addEventListener("visibilitychange", () => this.#seen());
    document.addEventListener("click", copyOnClick);
    place("veil").addEventListener("click", () => this.showSidebar(false));
    listenToKeys(this);
    listenToDrops(this);
    this.#show();
  }

  /** Agents of the daemon, the default one first. */
  get agents() {
    return this.client.connection.snapshot.hello?.agents ?? [];
  }

  get user() {
    return this.client.connection.snapshot.hello?.user ?? "";
  }

  get frameBytesMax() {
    return this.client.session.frameBytesMax;
  }

  /**
   * Show a conversation, a group, or with nothing the start.
   * @param {{kind: "chat" | "conversation" | "group", id: string} | null} entry
   */
  go(entry) {
    location.hash = addressOf(entry);
  }

  /** Where there is no room for both. @param {boolean} isShown */
  showSidebar(isShown) {
    document.body.classList.toggle("with-sidebar", isShown && matchMedia(NARROW).matches);
  }

  /** Say something in passing. @param {string} text */
  tell(text) {
    const id = ++this.#toasts;
    this.toasts = [...this.toasts.slice(-2), { id, text }];
    setTimeout(() => {
      this.toasts = this.toasts.filter((toast) => toast.id !== id);
      this.draw();
    }, TOAST_MS);
    this.draw();
  }

  /**
   * Wait for something that may be refused; a refusal is told.
   * @template T
   * @param {Promise<T>} promise
   * @param {string} what in words, if it fails
   * @returns {Promise<T | undefined>}
   */
  async attempt(promise, what) {
    try {
      return await promise;
    } catch (error) {
      const { code, message } = /** @type {import("../client.js").DispatchError} */ (error);
      const late = code === "closed" || code === "CLOSED";
      this.tell(late ? "Somebody answered already." : `${what}: ${message}.`);
      return undefined;
    }
  }

  /** The list beside the view as well: it does not change with every word. */
  drawAll = () => {
    this.#isAllDue = true;
    this.draw();
  };

  /** Draw what streams: every second frame is as smooth to read, and half the work. */
  drawSoon = () => {
    if (this.#isSoonDue) return;
    if (performance.now() - this.#drawnAt > STREAM_MS) return this.draw();
    this.#isSoonDue = true;
    requestAnimationFrame(() => {
      this.#isSoonDue = false;
      this.draw();
    });
  };

  /** Draw what changed, once, before the next frame. */
  draw = () => {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      this.#draw();
    });
  };

  #draw() {
    this.#drawnAt = performance.now();
    const { phase, code } = this.client.connection.snapshot;
    const isAll = this.#isAllDue;
    this.#isAllDue = false;
    const isSignIn = phase === "refused" && code === "unauthorized";
    if (isSignIn && !document.body.classList.contains("signed-out")) this.#cover();
    document.body.dataset.connection = phase;
    document.body.classList.toggle("signed-out", isSignIn);
    const main = place("main");
    main.dataset.view = isSignIn ? "sign-in" : this.view.kind;
    const { view } = this;
    render(isSignIn ? this.signIn.template() : keyed(view, shell(this, view)), main);
    if (isAll) render(isSignIn ? nothing : this.sidebar.template(), place("sidebar"));
    this.panel.draw(place("panel"));
    render(html`<div class="toasts" role="status">${this.toasts.map(({ text }) => html`
      <p class="toast">${text}</p>`)}</div>`, place("layer"));
    const unread = this.entries.unreadTotal;
    const shown = isSignIn ? "Sign in" : `${unread > 0 ? `(${unread}) ` : ""}${view.title}`;
    const title = `${shown} · dispatch`;
    if (document.title !== title) document.title = title;
  }

  /** A session ended: nothing of it stays where the next person could read it. */
  #cover() {
    if (this.panel.isOpen) this.panel.toggle();
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    place("announcer").textContent = "";
  }

  #show() {
    const route = routeOf(location.hash);
    if (route.id === this.view.id && route.view === this.view.kind) return this.drawAll();
    this.view.close();
    if (route.view === "conversation") this.view = new ConversationView(this, route.id);
    else if (route.view === "group") this.view = new GroupView(this, route.id);
    else this.view = new StartView(this);
    this.showSidebar(false);
    this.view.open();
    this.drawAll();
    // A keyboard on glass would cover what one came to read.
    if (matchMedia("(pointer: fine)").matches) queueMicrotask(() => queueMicrotask(() => this.view.focus()));
  }

  #seen() {
    if (document.visibilityState !== "visible") return;
    this.view.read();
    this.entries.read(this.view.id);
  }

  /** The list may learn of an answer after the thread has shown it. */
  #entriesChanged() {
    if (document.visibilityState === "visible") this.entries.read(this.view.id);
    this.drawAll();
  }

  #connectionChanged() {
    const { phase, hello } = this.client.connection.snapshot;
    if (phase === "online" && hello !== null && this.signIn.isOther(hello)) {
      document.body.hidden = true;
      this.signIn.beginAnew();
      return;
    }
    if (phase === "online") {
      clearTimeout(this.#offline);
      this.#offline = undefined;
      this.isOffline = false;
    } else {
      // One wait for all tries: each of them is a change as well.
      this.#offline ??= setTimeout(() => {
        this.isOffline = true;
        this.draw();
      }, OFFLINE_MS);
    }
    this.drawAll();
  }
}

new App();
