/**
 * Says that an answer is there: to screen readers, and where it is wanted as a notification.
 *
 * Neighbours: it hears what the open conversation says and that others came to rest; `settings`
 * turns notifications on.
 * Invariant: one announcement for an answer or a question, none for a word of it; a page that is
 * looked at, or where nobody asked for them, shows no notification.
 */

const KEY = "dispatch:notify";
const TEXT_CHARACTERS_MAX = 240;

export class Announcer {
  #app;
  /** Asked for once: the browser answers it from another process, and the page waits. */
  #permission = typeof Notification === "function" && isSecureContext ? Notification.permission : "denied";

  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.#app = app;
    app.client.tap(({ direction, frame }) => {
      if (direction === "in") this.#heard(/** @type {import("../frames.js").ServerFrame} */ (frame));
    });
  }

  get canNotify() {
    return this.#permission !== "denied";
  }

  get notifies() {
    try {
      return this.#permission === "granted" && localStorage.getItem(KEY) !== null;
    } catch {
      return false;
    }
  }

  /** @param {boolean} wanted */
  async setNotifies(wanted) {
    try {
      if (!wanted) return localStorage.removeItem(KEY);
      this.#permission = await Notification.requestPermission();
      if (this.#permission === "granted") localStorage.setItem(KEY, "1");
    } catch {
      this.#app.tell("This browser keeps no settings for this page.");
    } finally {
      this.#app.drawAll();
    }
  }

  /** @param {import("../frames.js").ServerFrame} frame */
  #heard(frame) {
    const { view } = this.#app;
    if (frame.type === "chat.request" && frame.conversationId === view.id && view.kind === "conversation") {
      this.#asked(view, frame);
    } else if (frame.type === "chat.delta" && frame.event.type === "done") {
      const { conversationId: id, turnId, reason } = /** @type {Record<string, string>} */ (
        /** @type {unknown} */ (frame.event)
      );
      if (id !== view.id || view.kind !== "conversation") return;
      const lines = view.snapshot.turn?.lines ?? [];
      const last = lines.findLast(({ role, chunk }) => role === "assistant" && chunk.type === "text");
      const text = last && "text" in last.chunk ? last.chunk.text : "";
      const how = reason === "aborted" ? "was stopped" : reason === "error" ? "failed" : "has answered";
      const said = text.slice(0, TEXT_CHARACTERS_MAX);
      view.answererOf(turnId).then((agent) => this.#say(`${agent} ${how}. ${said}`));
      if (reason !== "aborted") this.#notify(view.title, text, id);
    } else if (frame.type === "conversation.statusChanged" && frame.status === "idle") {
      // Members of groups are in no row of their own: their answers are the group's.
      const entry = this.#app.entries.find(frame.conversationId);
      if (entry && entry.id !== view.id) this.#notify(entry.title, "The answer is finished.", entry.id);
    } else if (frame.type === "group.event" && frame.groupId === view.id && view.kind === "group") {
      const { kind, familiarId, text, scope } = /** @type {Record<string, any>} */ (frame.event);
      if (kind === "done" && scope !== "group") {
        this.#say(`${familiarId} has answered. ${String(text).slice(0, TEXT_CHARACTERS_MAX)}`);
      } else if (kind === "done") this.#notify(view.title, "Everybody has answered.", view.id);
    }
  }

  /**
   * @param {import("./conversation.js").ConversationView} view
   * @param {{turnId: string, title: string}} request
   */
  async #asked(view, { turnId, title }) {
    const words = `${await view.answererOf(turnId)} asks: ${title}`;
    this.#say(words);
    this.#notify(view.title, words, view.id);
  }

  /** @param {string} text */
  #say(text) {
    const place = document.getElementById("announcer");
    if (place !== null) place.textContent = text;
  }

  /** @param {string} title @param {string} text @param {string} id */
  #notify(title, text, id) {
    if (document.visibilityState === "visible" || !this.notifies) return;
    const body = text.slice(0, TEXT_CHARACTERS_MAX);
    try {
      // One tag for one conversation: several tabs, and several answers, are one notification.
      const notification = new Notification(title, { body, icon: "/web/icon-192.png", tag: id });
      notification.onclick = () => {
        const entry = this.#app.entries.find(id);
        if (entry) this.#app.go(entry);
        window.focus();
        notification.close();
      };
    } catch {
      // Some phones take them from service workers alone, and say so by throwing.
      this.#permission = "denied";
      this.#app.drawAll();
    }
  }
}
