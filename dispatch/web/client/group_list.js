/**
 * The list of groups as a store: made, renamed, changed and deleted ones, whoever did it.
 *
 * Neighbours: built on a `Client`, beside `directory`; one group is `groups`. Notices of the account
 * say how a row is now, the route `GET /api/groups` what messages move: order, runs and `lastSeq`
 * are those of the last reading. Source: `protocol/groups.md` 3, 5 and 6.
 * Invariant: a list that was asked for before a notice came is not shown without it; after every new
 * connection the list is read again, because notices of the time between are not repeated.
 */

import { Store } from "./store.js";

/** @typedef {import("../frames.js").Group} Group */
/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("./failures.js").DispatchError} DispatchError */

/**
 * @typedef {object} GroupListSnapshot
 * @property {readonly Group[]} groups
 * @property {boolean} isLoading
 * @property {DispatchError | null} error why the list may be old
 */

/**
 * In so long a time the list is read twice at most, however much happens. Twice: at its beginning a
 * page may have to know what was there when it read something else.
 */
const REST_MS = 500;
/** What a notice does not say of a group that nothing else is known of. */
const UNTOLD = { lastSeq: 0, activeRuns: [], activeRun: null, archivedMembers: [] };

/**
 * The list as it is after a notice. A row that is newer stays: the list was read meanwhile.
 * @param {Group[]} groups
 * @param {ServerFrame} frame
 * @returns {Group[]}
 */
function after(groups, frame) {
  if (frame.type === "group.deleted") return groups.filter(({ id }) => id !== frame.groupId);
  if (frame.type !== "group.changed") return groups;
  const { type: _, groupId: id, ...told } = frame;
  if (!groups.some((one) => one.id === id)) return [{ ...UNTOLD, id, ...told }, ...groups];
  return groups.map((one) => {
    return one.id === id && one.updatedAt <= told.updatedAt ? { ...one, ...told } : one;
  });
}

/** @extends {Store<GroupListSnapshot>} */
export class GroupList extends Store {
  /** @type {Group[]} */
  #groups = [];
  /** @type {ServerFrame[]} notices since the last reading began */
  #heard = [];
  /** @type {Promise<void> | null} the reading that begins once it may */
  #due = null;
  /** @type {Promise<void>} the reading before that */
  #last = Promise.resolve();
  /** When the last two began. */
  #began = [-REST_MS, -REST_MS];
  #isLoading = false;
  /** @type {DispatchError | null} */
  #error = null;
  #client;
  #opened = 0;
  /** @type {() => void} */
  #unfollow = () => {};

  /** @param {import("../client.js").Client} client */
  constructor(client) {
    super(() => ({ groups: this.#groups, isLoading: this.#isLoading, error: this.#error }));
    this.#client = client;
  }

  /** Keep it true, until the function that is returned is called as often as this. */
  open() {
    if (++this.#opened === 1) {
      this.#unfollow = this.#client.session.follow({
        key: "account",
        frames: () => (this.reload(), [{ type: "conversations.watch" }]),
        take: (frame) => this.#take(frame),
        lost() {},
      });
    }
    let isOpen = true;
    return () => {
      if (isOpen && --this.#opened === 0) this.#unfollow();
      isOpen = false;
    };
  }

  /** Read it again, now or after a rest; resolves when a reading that began after this is over. */
  reload() {
    this.#due ??= this.#begin();
    return this.#due;
  }

  async #begin() {
    await this.#last;
    const wait = this.#began[0] + REST_MS - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    this.#began = [this.#began[1], performance.now()];
    this.#due = null;
    this.#last = this.#read();
    await this.#last;
  }

  /** @param {ServerFrame} frame */
  #take(frame) {
    if (frame.type !== "group.changed" && frame.type !== "group.deleted") return;
    this.#heard.push(frame);
    this.#groups = after(this.#groups, frame);
    this.touch();
    this.reload();
  }

  async #read() {
    if (this.#opened === 0) return;
    this.#heard = [];
    this.#isLoading = true;
    this.touch();
    try {
      const { groups } = await this.#client.http.get("api/groups");
      this.#groups = this.#heard.reduce(after, groups);
      this.#error = null;
    } catch (error) {
      this.#error = /** @type {DispatchError} */ (error);
    }
    this.#isLoading = false;
    this.touch();
  }
}
