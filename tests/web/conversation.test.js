/** A conversation as a page sees it: nothing doubles, nothing is lost, nothing goes back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeDaemon, clientOf, shown, when } from "./fake.js";

/** @typedef {any} Any */

/** @param {Any} t */
function setting(t, options = {}) {
  const fake = new FakeDaemon();
  const client = clientOf(fake, options);
  t.after(() => client.close());
  const conversation = client.conversation("c");
  conversation.open();
  return { fake, client, conversation };
}

const live = (/** @type {Any} */ conversation) => when(conversation, (one) => one.phase === "live");

test("a message is shown at once, and once, until its answer is sealed", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  const seen = new Set();
  conversation.subscribe(() => seen.add(JSON.stringify(shown(conversation.snapshot))));
  conversation.send("hello");
  assert.deepEqual(shown(conversation.snapshot), ["user: hello"]);
  await when(conversation, (one) => one.lastSeq === 2);
  assert.deepEqual(shown(conversation.snapshot), ["user: hello", "assistant: re: hello"]);
  for (const state of seen) assert.equal(state.split('"user: hello"').length, 2, state);
  assert.equal(fake.of("c").turns, 1);
});

test("a message whose acknowledgement is lost is carried out once and shown once", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  let lost = 0;
  let isDead = false;
  fake.mangle = (frame) => {
    if (isDead) return [];
    if (frame.type !== "chat.accepted" || lost++ > 2) return [frame];
    // A line keeps its order: with this frame, all behind it is lost.
    isDead = true;
    setImmediate(() => {
      isDead = false;
      fake.cut();
    });
    return [];
  };
  const seen = new Set();
  conversation.subscribe(() => seen.add(JSON.stringify(shown(conversation.snapshot))));
  conversation.send("hello");
  await when(conversation, (one) => one.lastSeq === 2 && one.sends.length === 0);
  for (const state of seen) assert.equal(state.split('"user: hello"').length, 2, state);
  assert.equal(fake.of("c").turns, 1);
  assert.deepEqual(shown(conversation.snapshot), ["user: hello", "assistant: re: hello"]);
});

test("frames that come twice change nothing", async (t) => {
  const { fake, conversation } = setting(t);
  fake.mangle = (frame) => [frame, frame];
  await live(conversation);
  conversation.send("one");
  await when(conversation, (one) => one.lastSeq === 2);
  conversation.send("two");
  await when(conversation, (one) => one.lastSeq === 4);
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
});

test("frames that were lost with the connection are there after it", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  for (let i = 0; i < 20; i += 1) {
    fake.emit("c", { type: "user-message", text: `m${i}` });
    if (i % 3 === 0) fake.cut();
    fake.emit("c", { type: "text-delta", delta: "a" });
    if (i % 3 === 1) fake.cut();
    fake.emit("c", { type: "text-delta", delta: "b" });
    fake.emit("c", { type: "turn-sealed" });
    if (i % 3 === 2) fake.cut();
    await when(conversation, (one) => one.lastSeq === 2 * (i + 1));
  }
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
});

test("what is shown is never less than before while a connection heals", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.turn("c", "one", [{ type: "text-delta", delta: "long ago" }]);
  fake.emit("c", { type: "user-message", text: "two" });
  fake.emit("c", { type: "text-delta", delta: "first " });
  await when(conversation, (one) => one.turn?.lines.length === 2);
  let most = 0;
  conversation.subscribe(() => {
    const length = shown(conversation.snapshot).join("").length;
    assert.ok(length >= most, `${length} < ${most}: ${shown(conversation.snapshot)}`);
    most = length;
  });
  for (let i = 0; i < 5; i += 1) {
    fake.cut();
    fake.emit("c", { type: "text-delta", delta: `and ${i} ` });
    await live(conversation);
    await when(conversation, (one) => shown(one).join("").includes(`and ${i}`));
  }
  fake.cut();
  fake.emit("c", { type: "text-delta", delta: "last" });
  fake.emit("c", { type: "turn-sealed" });
  await when(conversation, (one) => one.lastSeq === 4 && one.rows.length === 4);
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
});

test("a turn that was joined by snapshot is read again when it is over", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.emit("c", { type: "user-message", text: "one" });
  fake.emit("c", { type: "text-delta", delta: "a" });
  await when(conversation, (one) => one.turn?.lines.length === 2);
  // As if its events had been pruned: it gets a snapshot.
  const { subscribe } = fake;
  let snapshots = 0;
  fake.subscribe = (socket, frame) => {
    if (frame.after) snapshots += 1;
    subscribe.call(fake, socket, frame.after ? { ...frame, after: "elsewhere:0" } : frame);
  };
  fake.cut();
  fake.emit("c", { type: "step-complete", stepId: "s" });
  await live(conversation);
  fake.emit("c", { type: "text-delta", delta: "b" });
  await when(conversation, (one) => JSON.stringify(one.turns).includes("b"));
  // What was said stays until its rows are there.
  conversation.subscribe(() => assert.ok(shown(conversation.snapshot).length >= 2));
  fake.emit("c", { type: "turn-sealed" });
  await when(conversation, (one) => one.rows.length === 3);
  assert.equal(snapshots, 1);
  // A snapshot cannot say that a step ended between the two texts: the daemon's rows can.
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
});

test("two hundred deltas are one notification, and no change is none", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.emit("c", { type: "user-message", text: "one" });
  await when(conversation, (one) => one.turn);
  assert.equal(conversation.snapshot, conversation.getSnapshot());
  const frames = /** @type {(() => void)[]} */ ([]);
  const page = /** @type {Any} */ (globalThis);
  page.requestAnimationFrame = (/** @type {() => void} */ run) => frames.push(run);
  t.after(() => delete page.requestAnimationFrame);
  let told = 0;
  conversation.subscribe(() => (told += 1));
  for (let i = 0; i < 200; i += 1) fake.emit("c", { type: "text-delta", delta: "x" });
  while ((conversation.snapshot.turn?.lines[1]?.chunk ?? /** @type {Any} */ ({})).text?.length !== 200) {
    await new Promise(setImmediate);
  }
  assert.equal(told, 0);
  assert.equal(frames.length, 1);
  frames[0]();
  assert.equal(told, 1);
  const before = conversation.snapshot;
  await new Promise(setImmediate);
  assert.equal(conversation.snapshot, before);
});

test("a snapshot that was handed out never changes", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.emit("c", { type: "user-message", text: "one" });
  fake.emit("c", { type: "text-delta", delta: "a" });
  const early = await when(conversation, (one) => one.turn?.lines.length === 2);
  const copy = JSON.stringify(early);
  fake.emit("c", { type: "text-delta", delta: "b" });
  fake.emit("c", { type: "turn-sealed" });
  await when(conversation, (one) => one.lastSeq === 2);
  assert.equal(JSON.stringify(early), copy);
});

test("a long history is paged: the newest page first, older ones on demand", async (t) => {
  const fake = new FakeDaemon();
  for (let i = 0; i < 10_000; i += 1) fake.turn("c", `m${i}`);
  const client = clientOf(fake, { pageRows: 100 });
  t.after(() => client.close());
  const conversation = client.conversation("c");
  conversation.open();
  const first = await when(conversation, (one) => one.rows.length === 100);
  assert.equal(first.rows[0].seq, 9_901);
  assert.ok(first.hasOlder);
  for (let page = 1; page < 100; page += 1) await conversation.loadOlder();
  const { rows, hasOlder } = conversation.snapshot;
  assert.equal(hasOlder, false);
  assert.deepEqual(rows.map((row) => row.seq), Array.from({ length: 10_000 }, (_, i) => i + 1));
  await conversation.loadOlder();
  assert.equal(conversation.snapshot.rows.length, 10_000);
});

test("a page of history that fails is fetched again, while live goes on", async (t) => {
  const fake = new FakeDaemon();
  fake.turn("c", "before");
  fake.httpFailures = 3;
  const client = clientOf(fake);
  t.after(() => client.close());
  const conversation = client.conversation("c");
  conversation.open();
  await live(conversation);
  fake.turn("c", "after");
  await when(conversation, (one) => one.rows.length === 2 && one.rows[0].seq === 1);
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
  assert.equal(conversation.snapshot.error, null);
});

test("a message to a busy conversation is in the queue or among the sends, never in both", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.emit("c", { type: "user-message", text: "long" });
  await when(conversation, (one) => one.turn);
  conversation.subscribe(() => {
    const { queue, sends } = conversation.snapshot;
    assert.ok(queue.length + sends.length <= 1, "shown twice");
  });
  conversation.send("later");
  await when(conversation, (one) => one.queue.length === 1 && one.sends.length === 0);
  assert.equal(conversation.snapshot.queue[0].text, "later");
});

test("messages of one conversation arrive in the order of writing, also over refusals", async (t) => {
  const { fake, conversation } = setting(t);
  fake.refusals.push(...Array(3).fill({ code: "rate_limited", message: "slow", retryable: true, retryAfterMs: 1 }));
  for (let i = 0; i < 5; i += 1) conversation.send(`m${i}`);
  await when(conversation, (one) => one.lastSeq === 10 && one.sends.length === 0);
  const said = conversation.snapshot.rows.filter((row) => row.role === "user");
  assert.deepEqual(said.map((row) => /** @type {Any} */ (row.chunk).text), ["m0", "m1", "m2", "m3", "m4"]);
});

test("a message that is refused stays, with its reason, until it is sent again or discarded", async (t) => {
  const { fake, conversation } = setting(t);
  await live(conversation);
  fake.refusals.push({ code: "busy", message: "no", retryable: true });
  const { clientMessageId } = conversation.send("hello", { onBusy: "reject" });
  const failed = await when(conversation, (one) => one.sends[0]?.state === "failed");
  assert.equal(failed.sends[0].error.code, "busy");
  conversation.retry(clientMessageId);
  await when(conversation, (one) => one.lastSeq === 2 && one.sends.length === 0);
  fake.refusals.push({ code: "invalid", message: "no", retryable: false });
  const other = conversation.send("bad");
  await when(conversation, (one) => one.sends[0]?.state === "failed");
  conversation.discard(other.clientMessageId);
  assert.deepEqual(conversation.snapshot.sends, []);
});

test("a message longer than a frame may be fails here, and not by ending the connection", async (t) => {
  const { fake, conversation } = setting(t);
  fake.frameBytesMax = 2_000;
  await live(conversation);
  conversation.send("é".repeat(1_000));
  const { sends } = await when(conversation, (one) => one.sends[0]?.state === "failed");
  assert.equal(sends[0].error.code, "too_large");
  assert.equal(fake.dials, 1);
});

test("a deleted conversation is gone, also for whoever opens it later", async (t) => {
  const { fake, client, conversation } = setting(t);
  await live(conversation);
  for (const socket of fake.sockets) /** @type {Any} */ (socket).tell({ type: "conversation.deleted", conversationId: "c" });
  await when(conversation, (one) => one.phase === "gone");
  fake.intercept = (socket, frame) => {
    if (frame.type !== "chat.subscribe") return false;
    socket.tell({ type: "chat.error", code: "gone", message: "gone", conversationId: "d", ref: frame.ref });
    return true;
  };
  const other = client.conversation("d");
  other.open();
  await when(other, (one) => one.phase === "gone");
});

test("frames of another subscription than the last are not believed", async (t) => {
  const fake = new FakeDaemon();
  fake.turn("c", "old");
  fake.emit("c", { type: "user-message", text: "new" });
  fake.intercept = (socket, frame) => {
    if (frame.type !== "chat.subscribe") return false;
    const head = { conversationId: "c", position: fake.position(3), lastSeq: 1, status: "active" };
    socket.tell({ type: "chat.subscribed", ...head, recovered: true, ref: "of an earlier one" });
    socket.tell(fake.frameOf(fake.of("c"), 4));
    socket.tell({ type: "marker", conversationId: "c" });
    return true;
  };
  const client = clientOf(fake);
  t.after(() => client.close());
  const conversation = client.conversation("c");
  conversation.open();
  await new Promise((resolve) => client.tap(({ frame }) => {
    if (/** @type {Any} */ (frame).type === "marker") resolve(undefined);
  }));
  assert.equal(conversation.snapshot.phase, "loading");
  assert.deepEqual(shown(conversation.snapshot), []);
});

test("a subscription that is refused says why", async (t) => {
  const fake = new FakeDaemon();
  fake.intercept = (socket, frame) => {
    if (frame.type !== "chat.subscribe") return false;
    socket.tell({ type: "chat.error", code: "too_many", message: "no", retryable: true, ref: frame.ref });
    return true;
  };
  fake.mangle = (frame) => [frame.type === "chat.error" ? { ...frame, conversationId: "c" } : frame];
  const client = clientOf(fake);
  t.after(() => client.close());
  const conversation = client.conversation("c");
  conversation.open();
  const { error } = await when(conversation, (one) => one.error);
  assert.deepEqual([error.code, error.retryable], ["too_many", true]);
});

test("a clock that is wrong by years, or jumps, changes nothing", async (t) => {
  const real = Date.now;
  t.after(() => (Date.now = real));
  let skew = 10 ** 11;
  Date.now = () => real() + (skew = -skew * 2);
  const { fake, conversation } = setting(t);
  await live(conversation);
  conversation.send("hello");
  await when(conversation, (one) => one.lastSeq === 2);
  fake.cut();
  conversation.send("again");
  await when(conversation, (one) => one.lastSeq === 4 && one.sends.length === 0);
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows);
});
