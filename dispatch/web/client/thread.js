/**
 * One conversation as a device knows it: pure, and all there is to know about resuming.
 *
 * Neighbours: `conversation` feeds it frames and fetches what it says is missing; `fold` and `turn`
 * keep the running turn. Sealed chunks are immutable rows in a window that is dense from its first row; live
 * turns are counted onto its end as the daemon counts them, so nothing is read twice.
 * Invariant: whatever is cut, repeated or resumed, every row and every event is applied once; where
 * that cannot be proved the thread asks for a fresh subscription (`needsResync`).
 */

import { Fold } from "./fold.js";
import { changeOf, newTurn } from "./turn.js";

/** @typedef {import("../frames.js").AgentEvent} AgentEvent */
/** @typedef {import("../frames.js").StoredChunk} StoredChunk */
/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {import("../frames.js").QueuedMessage} QueuedMessage */
/** @typedef {import("../frames.js").ServerFrame} ServerFrame */

/**
 * A turn among the rows. Of those that were seen to end, `agent` is not known, and `outcome` is the
 * reason that their `done` gave.
 * @typedef {{turnId: string, firstSeq: number, lastSeq: number, outcome?: string | undefined, agent?: string}} Mark
 */

/**
 * What is kept of a conversation between two visits.
 * @typedef {object} Kept
 * @property {string} position
 * @property {StoredChunk[]} rows
 * @property {Mark[]} marks
 */

/** @param {string} position */
const offsetOf = (position) => Number(position.slice(position.lastIndexOf(":") + 1));
/** @param {string} position */
const generationOf = (position) => position.slice(0, position.lastIndexOf(":"));

export class Thread {
  /** @type {string | null} the place of the last event that was applied */
  position = null;
  /** @type {string | null} whose counters these are: of another data directory all is void */
  generation = null;
  /** The last seq that is sealed at `position`, in `rows` or not. */
  lastSeq = 0;
  /** @type {readonly StoredChunk[]} ascending and dense */
  rows = [];
  /** @type {readonly StoredChunk[]} sealed here while rows before them were still being fetched */
  tail = [];
  /** @type {readonly Mark[]} ascending */
  marks = [];
  /** @type {Turn | null} */
  turn = null;
  /** @type {Turn | null} a turn that is over, shown until its rows were fetched */
  ending = null;
  /** @type {readonly QueuedMessage[]} */
  queue = [];
  lastReadSeq = 0;
  unread = 0;
  /** @type {number[][]} first and last seqs that do not count any more */
  superseded = [];
  /** A fresh subscription is needed before anything else can be believed. */
  needsResync = false;
  #fold = new Fold();
  /** @type {{offset: number, lastSeq: number} | null} what a resumed log has to have counted */
  #seam = null;

  /** @param {Kept} [kept] what was kept of an earlier visit */
  constructor(kept) {
    if (!kept) return;
    this.generation = generationOf(kept.position);
    this.rows = kept.rows;
    this.marks = kept.marks;
    this.lastSeq = this.#knownSeq;
  }

  /** What to keep; null while the window has a hole, or nothing is known. @param {number} most */
  keep(most) {
    if (this.position === null || this.missing() !== null) return null;
    const rows = this.rows.slice(-most);
    const first = rows[0]?.seq ?? Infinity;
    const marks = this.marks.filter((mark) => mark.firstSeq >= first);
    return /** @type {Kept} */ ({ position: this.position, rows, marks });
  }

  get hasOlder() {
    return this.rows.length > 0 && this.rows[0].seq > 1;
  }

  /** The seqs (both exclusive) between which rows are missing, or null. */
  missing() {
    const before = this.tail[0]?.seq ?? this.lastSeq + 1;
    return this.#knownSeq + 1 < before ? { since: this.#knownSeq, before } : null;
  }

  /**
   * Rows that were fetched: behind the window, before it, or in place of it where they are so far
   * ahead that what lies between was not fetched.
   * @param {readonly StoredChunk[]} found ascending and dense
   * @param {readonly Mark[]} [turns] that they are of
   */
  addRows(found, turns = []) {
    const seen = new Set(this.marks.map(({ turnId }) => turnId));
    const marks = turns.filter(({ turnId }) => !seen.has(turnId));
    this.marks = [...marks, ...this.marks].sort((a, b) => a.firstSeq - b.firstSeq);
    found = this.#marked(found);
    const known = this.#knownSeq;
    const last = this.tail[0]?.seq ?? this.lastSeq + 1;
    const fresh = found.filter((row) => row.seq > known && row.seq < last);
    if (fresh.length > 0) {
      this.rows = fresh[0].seq === known + 1 ? [...this.rows, ...fresh] : fresh;
    }
    const first = this.rows[0]?.seq ?? 0;
    const older = found.filter((row) => row.seq < first);
    if (older.at(-1)?.seq === first - 1) this.rows = [...older, ...this.rows];
    if (this.tail.length > 0 && this.missing() === null) {
      this.rows = [...this.rows, ...this.tail];
      this.tail = [];
    }
    if (this.missing() === null) this.ending = null;
  }

  /** Nothing of what is known is true any more, e.g. a restored backup. */
  forget() {
    this.rows = this.tail = this.marks = this.superseded = [];
    this.position = this.generation = this.turn = this.ending = this.#seam = null;
    this.lastSeq = 0;
  }

  /**
   * Whether the log shows the turn of a send, so that its own bubble is not to be shown.
   * @param {{position: string, turnId?: string | undefined}} accepted
   */
  shows({ position, turnId }) {
    if (turnId !== undefined) {
      if (this.turn?.turnId === turnId) return this.turn.lines.length > 0;
      if (this.marks.some((mark) => mark.turnId === turnId)) return true;
    }
    if (this.position === null || this.missing() !== null) return false;
    return offsetOf(this.position) > offsetOf(position);
  }

  /**
   * Apply a frame of this conversation.
   * @param {ServerFrame} frame
   */
  take(frame) {
    switch (frame.type) {
      case "chat.subscribed":
        return this.#subscribed(frame);
      case "chat.snapshot":
        return this.#snapshot(frame);
      case "chat.delta":
        if (this.#advance(frame.position)) this.#event(frame.event);
        return;
      case "conversation.truncated":
        if (this.#advance(frame.position)) {
          this.#leaveBehind([...this.superseded, [frame.afterSeq + 1, frame.lastSeq]]);
        }
        return;
      case "chat.request": {
        if (!this.#advance(frame.position)) return;
        const { type: _, conversationId: __, position: ___, turnId, ...request } = frame;
        const turn = this.#turnOf(turnId);
        this.turn = { ...turn, requests: [...turn.requests, request] };
        return;
      }
      case "chat.request.closed": {
        if (frame.position !== undefined && !this.#advance(frame.position)) return;
        if (this.turn === null) return;
        const requests = this.turn.requests.filter((one) => one.requestId !== frame.requestId);
        this.turn = { ...this.turn, requests };
        return;
      }
      case "chat.read":
        // Forward only: replies may cross what another device did.
        if (frame.lastReadSeq < this.lastReadSeq) return;
        this.lastReadSeq = frame.lastReadSeq;
        this.unread = frame.unread;
        return;
      case "surface":
      case "update": {
        const spec = frame.type === "update" ? frame.update.spec : frame.spec;
        if (spec.id === "message-queue") this.queue = spec.fields[0]?.payload?.messages ?? [];
      }
    }
  }

  /** @param {number[][]} [superseded] */
  #leaveBehind(superseded = []) {
    this.superseded = superseded;
    this.rows = this.#marked(this.rows);
    this.tail = this.#marked(this.tail);
  }

  /** @param {readonly StoredChunk[]} rows those that do not count, marked */
  #marked(rows) {
    if (!this.superseded.length) return rows;
    return rows.map((row) => this.superseded.some(([first, last]) => first <= row.seq && row.seq <= last)
      ? { ...row, superseded: true } : row);
  }

  get #knownSeq() {
    return this.rows.at(-1)?.seq ?? 0;
  }

  /** @param {import("../frames.js").Subscribed} frame */
  #subscribed(frame) {
    this.needsResync = false;
    // Of an instant ahead of what may be replayed still: what is left behind once stays so.
    this.#leaveBehind(frame.superseded);
    if (this.position !== null) {
      // What was asked for follows, or a snapshot does.
      const seam = { offset: offsetOf(frame.position), lastSeq: frame.lastSeq };
      this.#seam = frame.recovered ? seam : null;
      return;
    }
    this.#enter(frame.position, frame.lastSeq);
    // A turn in flight is told from its first event, whose place is before the head.
    this.position = frame.turnId === undefined ? frame.position : null;
  }

  /** @param {import("../frames.js").Snapshot} frame */
  #snapshot({ position, lastSeq, superseded, turn }) {
    this.#enter(position, lastSeq);
    this.#leaveBehind(superseded);
    this.position = position;
    if (!turn) return;
    this.#fold = new Fold(turn.chunks);
    if (this.ending?.turnId === turn.turnId) this.ending = null;
    const requests = turn.requests ?? [];
    this.turn = { ...newTurn(turn.turnId, false, turn.chunks), requests };
  }

  /**
   * Join the log at a place where `lastSeq` is sealed.
   * @param {string} position
   * @param {number} lastSeq
   */
  #enter(position, lastSeq) {
    const generation = generationOf(position);
    const isForeign = this.generation !== null && this.generation !== generation;
    if (isForeign || lastSeq < this.#knownSeq) this.forget();
    this.generation = generation;
    this.lastSeq = lastSeq;
    // Whatever is behind the window is read as one piece.
    if (this.missing() === null) this.addRows([]);
    this.tail = [];
    this.#seam = null;
    this.ending = this.missing() === null ? null : this.turn ?? this.ending;
    this.turn = null;
  }

  /**
   * Whether a place is new; then it is ours.
   * @param {string} position
   */
  #advance(position) {
    if (this.needsResync) return false;
    if (generationOf(position) !== this.generation) {
      this.#lostCount();
      return false;
    }
    const offset = offsetOf(position);
    if (this.position !== null && offset <= offsetOf(this.position)) return false;
    if (this.#seam !== null && offset > this.#seam.offset) {
      if (this.#seam.lastSeq !== this.lastSeq) {
        this.#lostCount();
        return false;
      }
      this.#seam = null;
    }
    this.position = position;
    return true;
  }

  #lostCount() {
    this.position = null;
    this.needsResync = true;
  }

  /** @param {string} turnId @param {boolean} isFirst @returns {Turn} */
  #turnOf(turnId, isFirst = false) {
    if (this.turn?.turnId === turnId) return this.turn;
    this.#fold = new Fold();
    if (this.ending?.turnId === turnId) this.ending = null;
    return newTurn(turnId, isFirst);
  }

  /** @param {AgentEvent} event */
  #event(event) {
    // Of no turn: reserved by the protocol.
    if (event.type === "status") return;
    // The end of another turn was missed: what it had cannot be counted.
    if (this.turn !== null && this.turn.turnId !== event.turnId) return this.#lostCount();
    const isFirst = event.type === "user-message" || event.type === "turn-start";
    const turn = this.#turnOf(event.turnId, isFirst);
    if (event.type === "turn-sealed") return this.#seal(turn);
    this.#fold.add(event);
    this.turn = { ...turn, lines: this.#fold.lines, ...changeOf(turn, event) };
  }

  /** @param {Turn} turn */
  #seal(turn) {
    if (!turn.isWhole) return this.#lostCount();
    const rows = this.#fold.lines.map((line, i) => ({ seq: this.lastSeq + 1 + i, ...line }));
    const isHole = this.missing() !== null;
    if (isHole) this.tail = [...this.tail, ...rows];
    else this.rows = [...this.rows, ...rows];
    const [firstSeq, lastSeq] = [this.lastSeq + 1, this.lastSeq + rows.length];
    const { turnId, done } = turn;
    this.marks = [...this.marks, { turnId, firstSeq, lastSeq, outcome: done?.reason }];
    this.lastSeq = lastSeq;
    this.turn = null;
  }
}
