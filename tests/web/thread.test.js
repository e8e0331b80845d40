/** A device's view of a conversation, whatever is cut, repeated, resumed or refused. */

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Thread } from "../../dispatch/web/client/thread.js";
import { FakeDaemon } from "./fake.js";

const ID = "c";
/** @typedef {any} Any */

/** What a daemon answers to a subscription, at once. @returns {Any[]} */
function answers(/** @type {FakeDaemon} */ daemon, /** @type {string | null} */ after) {
  /** @type {Any[]} */
  const told = [];
  const socket = { watched: new Set(), tell: (/** @type {Any} */ frame) => told.push(frame) };
  const place = after === null ? {} : { after };
  daemon.subscribe(/** @type {Any} */ (socket), { conversationId: ID, ...place });
  return told;
}

const delta = (/** @type {string} */ text) => ({ type: "text-delta", delta: text });

/** Fetch what is missing, as the conversation store does; `limit` rows a page. */
function fill(/** @type {Thread} */ thread, /** @type {FakeDaemon} */ daemon, limit = 3) {
  for (let missing = thread.missing(); missing; missing = thread.missing()) {
    const { since, before } = missing;
    const { rows } = daemon.of(ID);
    const found = rows.filter((/** @type {Any} */ row) => row.seq > since && row.seq < before);
    thread.addRows(found.slice(-limit));
  }
}

const action = fc.oneof(
  { weight: 6, arbitrary: fc.constant("event") },
  { weight: 2, arbitrary: fc.constant("cut") },
  { weight: 1, arbitrary: fc.constant("repeat") },
  { weight: 1, arbitrary: fc.constant("prune") },
  { weight: 1, arbitrary: fc.constant("lose") },
  { weight: 1, arbitrary: fc.constant("restore") },
);

/** The next event of some plausible history. */
function say(/** @type {FakeDaemon} */ daemon, /** @type {number} */ dice) {
  const { turn, turns } = daemon.of(ID);
  if (!turn) return daemon.emit(ID, { type: "user-message", text: `m${turns}` });
  const events = [
    delta("a"), delta("b"), { type: "reasoning-delta", delta: "c" }, { type: "step-complete", stepId: "s" },
    { type: "tool-call", toolCallId: "x", toolName: "t", input: {} },
  ];
  if (dice < events.length) return daemon.emit(ID, events[dice]);
  daemon.emit(ID, { type: "done", reason: "stop" });
  daemon.emit(ID, { type: "turn-sealed" });
}

test("whatever happens on the way, the rows are those of the daemon in the end", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(action, fc.nat(6)), { maxLength: 60, size: "max" }), (steps) => {
      const daemon = new FakeDaemon();
      let thread = new Thread();
      let read = 0;
      const hear = (/** @type {Any[]} */ frames) => {
        for (const frame of frames) {
          thread.take(frame);
          if (thread.needsResync) return hear(answers(daemon, null));
        }
        read = daemon.of(ID).log.length;
        fill(thread, daemon);
      };
      hear(answers(daemon, null));
      for (const [what, dice] of steps) {
        const { log } = daemon.of(ID);
        if (what === "event") say(daemon, dice);
        const fresh = log.slice(read).map((/** @type {Any} */ _, /** @type {number} */ i) => {
          return daemon.frameOf(daemon.of(ID), read + i + 1);
        });
        // Some frames wait for a later one, as in a burst.
        if (what === "event" && dice % 2 === 0) hear(fresh);
        if (what === "cut") hear(answers(daemon, thread.position));
        if (what === "repeat") hear([...fresh, ...fresh]);
        if (what === "prune") hear(answers(daemon, "elsewhere:1"));
        if (what === "lose") {
          // Nothing is told of what happened meanwhile, and then a connection that resumes.
          say(daemon, dice);
          hear(answers(daemon, thread.position));
        }
        if (what === "restore") {
          const kept = thread.keep(5);
          thread = new Thread(kept ?? undefined);
          hear(answers(daemon, null));
        }
      }
      hear(answers(daemon, thread.position));
      const { rows, turn } = daemon.of(ID);
      assert.equal(thread.lastSeq, rows.length);
      assert.deepEqual(thread.rows, rows.slice(rows.length - thread.rows.length));
      assert.equal(thread.rows.length > 0, rows.length > 0);
      assert.equal(thread.turn?.turnId ?? null, turn?.id ?? null);
      const said = (/** @type {Any[]} */ lines) => lines.map(({ chunk }) => chunk.text ?? "").join("");
      assert.equal(said([...(thread.turn?.lines ?? [])]), said(turn?.fold.lines ?? []));
    }),
    { numRuns: 1_000 },
  );
});

test("an event of a missed turn makes the thread begin anew", () => {
  const daemon = new FakeDaemon();
  const thread = new Thread();
  answers(daemon, null).forEach((frame) => thread.take(frame));
  daemon.turn(ID, "never told");
  daemon.emit(ID, { type: "user-message", text: "two" });
  // Of another turn than the one that runs here.
  thread.take(daemon.frameOf(daemon.of(ID), 1));
  thread.take(daemon.frameOf(daemon.of(ID), 4));
  assert.equal(thread.needsResync, true);
});

test("a resumed log that counts otherwise than was announced is not believed", () => {
  const daemon = new FakeDaemon();
  const thread = new Thread();
  answers(daemon, null).forEach((frame) => thread.take(frame));
  const { position } = thread;
  daemon.turn(ID, "lost on the way");
  answers(daemon, position).slice(0, 1).forEach((frame) => thread.take(frame));
  daemon.turn(ID, "told");
  const { log } = daemon.of(ID);
  thread.take(daemon.frameOf(daemon.of(ID), log.length - 2));
  assert.equal(thread.needsResync, true);
});

test("another data directory voids everything that was known", () => {
  const daemon = new FakeDaemon();
  daemon.turn(ID, "old");
  const thread = new Thread();
  answers(daemon, null).forEach((frame) => thread.take(frame));
  fill(thread, daemon);
  const other = new FakeDaemon();
  other.generation = "g2";
  other.turn(ID, "new");
  answers(other, thread.position).forEach((frame) => thread.take(frame));
  fill(thread, other);
  assert.deepEqual(thread.rows, other.of(ID).rows);
});

test("a gap wider than a page replaces the window, and older pages join it again", () => {
  const daemon = new FakeDaemon();
  const thread = new Thread();
  answers(daemon, null).forEach((frame) => thread.take(frame));
  daemon.turn(ID, "one");
  thread.take(daemon.frameOf(daemon.of(ID), 1));
  thread.take(daemon.frameOf(daemon.of(ID), 2));
  thread.take(daemon.frameOf(daemon.of(ID), 3));
  for (let i = 0; i < 20; i += 1) daemon.turn(ID, `m${i}`);
  answers(daemon, "elsewhere:1").forEach((frame) => thread.take(frame));
  const { rows } = daemon.of(ID);
  thread.addRows(rows.slice(-5));
  assert.deepEqual(thread.rows, rows.slice(-5));
  assert.equal(thread.missing(), null);
  thread.addRows(rows.slice(-9, -5));
  assert.deepEqual(thread.rows, rows.slice(-9));
});

test("what was truncated stays and does not count, whenever its rows come", () => {
  const thread = new Thread();
  const row = (/** @type {number} */ seq) => /** @type {Any} */ ({ seq, role: "user", chunk: { type: "text", text: "" } });
  const counting = () => thread.rows.filter(({ superseded }) => !superseded).map(({ seq }) => seq);
  const subscribed = { type: "chat.subscribed", conversationId: ID, recovered: true, status: "idle" };
  thread.take(/** @type {Any} */ ({ ...subscribed, position: "g:9", lastSeq: 6, superseded: [[3, 4]] }));
  thread.addRows([4, 5, 6].map(row));
  assert.deepEqual(counting(), [5, 6]);
  const cut = { type: "conversation.truncated", conversationId: ID, position: "g:10" };
  thread.take(/** @type {Any} */ ({ ...cut, afterSeq: 5, lastSeq: 6 }));
  assert.deepEqual(counting(), [5]);
  thread.addRows([1, 2, 3].map(row));
  assert.deepEqual(counting(), [1, 2, 5]);
  // One that was seen before changes nothing.
  thread.take(/** @type {Any} */ ({ ...cut, afterSeq: 0, lastSeq: 6 }));
  assert.deepEqual(counting(), [1, 2, 5]);
  assert.equal(thread.lastSeq, 6);
  thread.take(/** @type {Any} */ ({ type: "chat.snapshot", conversationId: ID, position: "g:12", lastSeq: 6, superseded: [[1, 6]] }));
  assert.deepEqual(counting(), []);
});
