/** What survives a reload, in a store that may be full, broken or somebody else's. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { IDBFactory } from "fake-indexeddb";
import { browserStorage } from "../../dispatch/web/client/storage.js";
import { FakeDaemon, clientOf, shown, when } from "./fake.js";

/** @typedef {any} Any */

const storageOf = (/** @type {IDBFactory} */ indexedDB, options = {}) => browserStorage({ indexedDB, ...options });

/** What is on a disk, whoever wrote it. */
const kept = (/** @type {IDBFactory} */ indexedDB) => storageOf(indexedDB, { locks: null });

/** Every write fails, as on a disk that is full. */
function full(/** @type {Any} */ storage) {
  const fail = () => Promise.reject(new DOMException("full", "QuotaExceededError"));
  return { ...storage, putSend: fail, putThread: fail };
}

test("a reload between writing and sending loses nothing and sends once", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const disk = new IDBFactory();
  const first = clientOf(fake, { storage: storageOf(disk) });
  const conversation = first.conversation("c");
  conversation.open();
  conversation.send("one");
  conversation.send("two", { model: "echo" });
  await when(conversation, (one) => one.sends.length === 2 && one.sends.every((/** @type {Any} */ it) => it.isKept));
  first.close();

  fake.isDown = false;
  const second = clientOf(fake, { storage: storageOf(disk) });
  t.after(() => second.close());
  const again = second.conversation("c");
  again.open();
  await when(again, (one) => one.lastSeq === 4 && one.sends.length === 0);
  assert.deepEqual(shown(again.snapshot), ["user: one", "assistant: re: one", "user: two", "assistant: re: two"]);
  const sent = fake.received.filter((frame) => frame.type === "chat.send");
  assert.deepEqual(sent.map((frame) => frame.model), [undefined, "echo"]);
  assert.deepEqual(await kept(disk).sends(), []);
});

test("a reload between the acknowledgement and its arrival sends again and shows once", async (t) => {
  const fake = new FakeDaemon();
  fake.answers = false;
  const disk = new IDBFactory();
  const first = clientOf(fake, { storage: storageOf(disk) });
  fake.mangle = (frame) => (frame.type === "chat.accepted" ? [] : [frame]);
  const conversation = first.conversation("c");
  conversation.open();
  conversation.send("one");
  await when(conversation, (one) => one.sends[0]?.isKept && fake.of("c").turns === 1);
  first.close();

  fake.mangle = (frame) => [frame];
  const second = clientOf(fake, { storage: storageOf(disk) });
  t.after(() => second.close());
  const again = second.conversation("c");
  again.open();
  again.subscribe(() => assert.ok(shown(again.snapshot).length <= 1, String(shown(again.snapshot))));
  await when(again, (one) => one.turn && one.sends.length === 0);
  assert.equal(fake.of("c").turns, 1);
});

test("messages of a conversation that nobody opens are sent as well", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const disk = new IDBFactory();
  const first = clientOf(fake, { storage: storageOf(disk) });
  first.conversation("c").send("one");
  while ((await kept(disk).sends()).length === 0) await new Promise(setImmediate);
  first.close();
  fake.isDown = false;
  const second = clientOf(fake, { storage: storageOf(disk) });
  t.after(() => second.close());
  while (fake.of("c").turns === 0) await new Promise(setImmediate);
  while ((await kept(disk).sends()).length > 0) await new Promise(setImmediate);
});

test("a message of a tab that lives is that tab's own to send", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const disk = new IDBFactory();
  const writer = clientOf(fake, { storage: storageOf(disk) });
  t.after(() => writer.close());
  writer.conversation("c").send("one");
  while ((await kept(disk).sends()).length === 0) await new Promise(setImmediate);
  const other = storageOf(disk);
  assert.deepEqual(await other.sends(), []);
  writer.close();
  while ((await other.sends()).length === 0) await new Promise(setImmediate);
  other.close?.();
});

test("what another person wrote is not sent, and waits for that person", async (t) => {
  const fake = new FakeDaemon();
  fake.user = "ann";
  fake.intercept = (_, frame) => frame.type === "chat.send";
  const disk = new IDBFactory();
  const anns = clientOf(fake, { storage: storageOf(disk) });
  await when(anns.connection, (state) => state.phase === "online");
  anns.conversation("c").send("ann's");
  while ((await kept(disk).sends()).length === 0) await new Promise(setImmediate);
  anns.close();

  fake.user = "ben";
  fake.intercept = () => false;
  const bens = clientOf(fake, { storage: storageOf(disk) });
  await when(bens.connection, (state) => state.phase === "online");
  bens.conversation("d").open();
  await when(bens.conversation("d"), (one) => one.phase === "live");
  assert.equal(fake.of("c").turns, 0);
  bens.close();

  fake.user = "ann";
  const back = clientOf(fake, { storage: storageOf(disk) });
  t.after(() => back.close());
  while (fake.of("c").turns === 0) await new Promise(setImmediate);
});

test("a conversation that was open before shows its rows before any connection", async (t) => {
  const fake = new FakeDaemon();
  for (let i = 0; i < 50; i += 1) fake.turn("c", `m${i}`);
  const disk = new IDBFactory();
  const first = clientOf(fake, { storage: storageOf(disk), pageRows: 20 });
  const close = first.conversation("c").open();
  await when(first.conversation("c"), (one) => one.rows.length === 20);
  close();
  while (!(await kept(disk).thread("c"))) await new Promise(setImmediate);
  first.close();

  fake.isDown = true;
  const second = clientOf(fake, { storage: storageOf(disk), pageRows: 20 });
  t.after(() => second.close());
  const conversation = second.conversation("c");
  conversation.open();
  await when(conversation, (one) => one.rows.length === 20 && one.phase === "loading");
  for (let i = 50; i < 55; i += 1) fake.turn("c", `m${i}`);
  fake.isDown = false;
  await when(conversation, (one) => one.lastSeq === 55 && one.rows.length === 25);
  assert.deepEqual(conversation.snapshot.rows, fake.of("c").rows.slice(-25));
});

test("a full disk costs nothing but what a reload would have kept", async (t) => {
  const fake = new FakeDaemon();
  const client = clientOf(fake, { storage: full(kept(new IDBFactory())) });
  t.after(() => client.close());
  const conversation = client.conversation("c");
  const close = conversation.open();
  const { isKept } = conversation.send("one");
  assert.equal(isKept, false);
  await when(conversation, (one) => one.lastSeq === 2 && one.sends.length === 0);
  close();
  conversation.open();
  conversation.send("two");
  await when(conversation, (one) => one.lastSeq === 4);
});

test("a store that cannot be opened, or never answers, is done without", async (t) => {
  const never = () => new Promise(() => {});
  const silent = { sends: never, putSend: never, deleteSend: never, thread: never, putThread: never, deleteThread: never, clear: never };
  const broken = { open: () => { throw new DOMException("no", "SecurityError"); } };
  for (const storage of [silent, browserStorage({ indexedDB: /** @type {Any} */ (broken) })]) {
    const fake = new FakeDaemon();
    const client = clientOf(fake, { storage });
    t.after(() => client.close());
    const conversation = client.conversation("c");
    conversation.open();
    conversation.send("one");
    await when(conversation, (one) => one.lastSeq === 2 && one.sends.length === 0);
  }
});

test("only the conversations that were used last are kept", async () => {
  const storage = storageOf(new IDBFactory(), { threadsMax: 3, locks: null });
  const thread = { position: "g:1", rows: [], marks: [] };
  for (const id of ["a", "b", "c", "a", "d"]) await storage.putThread(id, thread);
  const present = await Promise.all(["a", "b", "c", "d"].map((id) => storage.thread(id)));
  assert.deepEqual(present.map(Boolean), [true, false, true, true]);
  await storage.clear();
  assert.equal(await storage.thread("a"), undefined);
});

test("messages come back in the order of writing, also after one of them changed", async () => {
  const storage = kept(new IDBFactory());
  const message = (/** @type {string} */ clientMessageId, state = "waiting") => /** @type {Any} */ ({ clientMessageId, state });
  await storage.putSend(message("b"));
  await storage.putSend(message("a"));
  await storage.putSend(message("b", "failed"));
  const sends = await storage.sends();
  assert.deepEqual(sends.map((one) => [one.clientMessageId, one.state]), [["b", "failed"], ["a", "waiting"]]);
});
