/**
 * Everything one can open, in one order: chats, groups and other conversations.
 *
 * Neighbours: the client's `Directory`, `Chats` and `GroupList` are lists that keep themselves true,
 * but for what messages move in groups, which are read again then; `sidebar` shows the list.
 * Invariant: the conversations of a group's members are in it, not beside it; what is unread is
 * what the daemon counts for this user.
 */

import { Store } from "../client.js";
import { Chats } from "../client/chats.js";
import { Directory } from "../client/directory.js";
import { GroupList } from "../client/group_list.js";

/**
 * @typedef {object} Entry
 * @property {"chat" | "conversation" | "group"} kind
 * @property {string} id
 * @property {string} title
 * @property {string} preview what was said last, where the daemon says it
 * @property {number} at epoch milliseconds of the daemon
 * @property {number} unread
 * @property {boolean} isRunning
 * @property {boolean} isTyping this person, on another device
 * @property {boolean} isArchived
 * @property {string} agent of a chat; else empty
 * @property {readonly string[]} members of a group
 */

/** Conversations whose unread count is asked for: those that can be seen without scrolling far. */
const COUNTED_MAX = 60;
const PREVIEW_CHARACTERS_MAX = 140;

/** @param {string} text */
const inLine = (text) => text.slice(0, PREVIEW_CHARACTERS_MAX).replace(/[\s`*#>|]+/g, " ").trim();

/** @extends {Store<readonly Entry[]>} */
export class Entries extends Store {
  #client;
  #directory;
  #chats;
  #groups;
  /** @type {Set<string>} conversations of members, also of groups that are gone */
  #memberships = new Set();
  /** @type {Set<string>} conversations of which the groups were asked whether they are a member's */
  #known = new Set();
  /** @type {Map<string, {at: number, unread: number}>} by id, of what `Chats` does not count */
  #counts = new Map();
  /** @type {Map<string, number>} `next_seq` of chats when they were last read here */
  #readSeqs = new Map();
  #activity = "";
  #isCounting = false;

  #device;

  /**
   * @param {import("../client.js").Client} client
   * @param {string} device this page, as `Typing` names it
   */
  constructor(client, device) {
    super(() => this.#build());
    this.#device = device;
    this.#client = client;
    this.#directory = new Directory(client);
    this.#chats = new Chats(client);
    this.#groups = new GroupList(client);
  }

  /** For as long as the page lives. */
  open() {
    this.#directory.subscribe(() => this.#happened());
    this.#chats.subscribe(() => this.touch());
    this.#groups.subscribe(() => (this.touch(), this.#count()));
    this.#directory.open();
    this.#chats.open();
    this.#groups.open();
    this.#client.tap(({ direction, frame }) => {
      if (direction === "in") this.#heard(/** @type {import("../frames.js").ServerFrame} */ (frame));
    });
  }

  get chats() {
    return this.#chats;
  }

  get error() {
    return this.#directory.snapshot.error ?? this.#chats.snapshot.error;
  }

  get hasMore() {
    return this.#directory.snapshot.hasMore;
  }

  get unreadTotal() {
    return this.snapshot.filter(({ unread, isArchived }) => unread > 0 && !isArchived).length;
  }

  /** @param {string} id */
  find(id) {
    return this.snapshot.find((entry) => entry.id === id);
  }

  loadMore() {
    return this.#directory.loadMore();
  }

  /** Entries whose title or last message has a text. @param {string} text */
  async search(text) {
    const found = await this.#directory.search(text);
    const owner = new Map(this.#groups.snapshot.groups.flatMap(({ id, memberSessionIds }) => {
      return Object.values(memberSessionIds).map((member) => [member, id]);
    }));
    const ids = new Set(found.map(({ id }) => owner.get(id) ?? id));
    const needle = text.toLowerCase();
    const known = this.snapshot.filter(({ id, title, preview }) => {
      return ids.has(id) || `${title}\n${preview}`.toLowerCase().includes(needle);
    });
    const missing = found.filter(({ id }) => {
      return !owner.has(id) && !known.some((entry) => entry.id === id);
    });
    return [...known, ...missing.map((row) => this.#ofRow(row))];
  }

  /** This user sees a chat now: what is unread of it is read, and asked for once. @param {string} id */
  read(id) {
    const chat = this.#chats.snapshot.sessions.find((session) => session.id === id);
    if (chat === undefined || !chat.has_unread || this.#readSeqs.get(id) === chat.next_seq) return;
    this.#readSeqs.set(id, chat.next_seq);
    // Where it fails the count stays, and the next look tries again.
    this.#chats.read(id).catch(() => this.#readSeqs.delete(id));
  }

  /** Read the groups again: conversations that were there before are known for a member's, or not. */
  async #reloadGroups() {
    const seen = this.#directory.snapshot.entries.map(({ id }) => id);
    await this.#groups.reload();
    seen.forEach((id) => this.#known.add(id));
    this.touch();
    this.#count();
  }

  #happened() {
    this.touch();
    const activity = this.#directory.snapshot.entries
      .map(({ id, lastActivityAt, status }) => `${id}${lastActivityAt}${status}`).join();
    if (activity === this.#activity) return;
    this.#activity = activity;
    this.#reloadGroups();
  }

  /** @param {import("../frames.js").ServerFrame} frame */
  #heard(frame) {
    if (frame.type === "chat.read") this.#counted(frame.conversationId, frame.unread);
    else if (frame.type === "group.read") this.#counted(frame.groupId, frame.unread);
  }

  /** @param {string} id @param {number} unread */
  #counted(id, unread) {
    this.#counts.set(id, { at: this.find(id)?.at ?? 0, unread });
    this.touch();
  }

  /** Ask for the counts of what changed since they were asked for: reading up to 0 reads nothing. */
  async #count() {
    if (this.#isCounting) return;
    this.#isCounting = true;
    const due = this.snapshot.filter(({ kind, isRunning }) => kind !== "chat" && !isRunning);
    for (const { kind, id, at } of due.slice(0, COUNTED_MAX)) {
      if (this.#counts.get(id)?.at === at || this.find(id) === undefined) continue;
      const path = kind === "group" ? `api/groups/${id}/read` : `conversations/${id}/read`;
      try {
        const { unread } = await this.#client.http.post(path, { upToSeq: 0 });
        this.#counts.set(id, { at, unread });
        this.touch();
      } catch {
        break;
      }
    }
    this.#isCounting = false;
  }

  /** @param {import("../client/directory.js").Entry} row @returns {Entry} */
  #ofRow({ id, title, status, lastActivityAt }) {
    return {
      kind: "conversation", id, title: title ?? "Untitled", preview: "", at: lastActivityAt,
      unread: this.#counts.get(id)?.unread ?? 0, isRunning: status === "active", isTyping: false,
      isArchived: false, agent: "", members: [],
    };
  }

  /** @returns {readonly Entry[]} */
  #build() {
    const { entries } = this.#directory.snapshot;
    const { sessions, typing } = this.#chats.snapshot;
    const rows = new Map(entries.map((row) => [row.id, row]));
    const chats = sessions.map((session) => {
      const { id, title, agent_key: agent, last_message: last, updated_at: updated } = session;
      rows.delete(id);
      return /** @type {Entry} */ ({
        kind: "chat", id, title: title || "New chat", preview: inLine(last?.content ?? ""), agent,
        at: Date.parse(last?.created_at ?? updated), unread: session.unread_count,
        isRunning: session.agent_typing, isTyping: (typing[id] ?? this.#device) !== this.#device,
        isArchived: session.status === "archived", members: [],
      });
    });
    const groups = this.#groups.snapshot.groups.map((group) => {
      const { id, title, memberFamiliarIds: members, memberSessionIds, updatedAt, activeRun } = group;
      Object.values(memberSessionIds).forEach((member) => this.#memberships.add(member));
      const own = Object.values(memberSessionIds).map((member) => rows.get(member));
      for (const { sessionId } of group.archivedMembers) rows.delete(sessionId);
      const at = Math.max(Date.parse(updatedAt), ...own.map((row) => row?.lastActivityAt ?? 0));
      return /** @type {Entry} */ ({
        kind: "group", id, title, preview: members.join(", "), at, agent: "", members,
        unread: this.#counts.get(id)?.unread ?? 0, isTyping: false, isArchived: false,
        isRunning: activeRun !== null && own.some((row) => row === undefined || row.status === "active"),
      });
    });
    for (const member of this.#memberships) rows.delete(member);
    const others = [...rows.values()].filter(({ id }) => this.#known.has(id)).map((row) => this.#ofRow(row));
    return [...chats, ...groups, ...others].sort((a, b) => b.at - a.at);
  }
}
