/** Several tabs, one socket: in this process, over its real locks and channels. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { shareTabs } from "../../dispatch/web/client/tabs.js";
import { FakeDaemon, clientOf, shown, when } from "./fake.js";

/** @typedef {any} Any */

let names = 0;

/** @param {Any} t */
function browser(t) {
  const fake = new FakeDaemon();
  const name = `browser-${++names}`;
  const tab = () => {
    const client = clientOf(fake, { tabs: shareTabs({ name }) });
    t.after(() => client.close());
    return client;
  };
  return { fake, tab };
}

const online = (/** @type {Any} */ client) => when(client.connection, (one) => one.phase === "online");

async function opened(/** @type {Any} */ client, id = "c") {
  const conversation = client.conversation(id);
  conversation.open();
  await when(conversation, (one) => one.phase === "live");
  return conversation;
}

test("many tabs of a browser have one socket, and all show the same", async (t) => {
  const { fake, tab } = browser(t);
  const clients = [tab(), tab(), tab(), tab()];
  const all = await Promise.all(clients.map((client) => opened(client)));
  all[3].send("hello");
  for (const one of all) await when(one, (it) => it.rows.length === 2 && it.sends.length === 0);
  assert.equal(fake.dials, 1);
  assert.equal(fake.sockets.size, 1);
  for (const one of all) assert.deepEqual(one.snapshot.rows, fake.of("c").rows);
});

test("a tab that joins in the middle of a turn sees what was said and what follows", async (t) => {
  const { fake, tab } = browser(t);
  const first = await opened(tab());
  fake.emit("c", { type: "user-message", text: "q" });
  fake.emit("c", { type: "text-delta", delta: "so far" });
  await when(first, (one) => one.turn?.lines.length === 2);
  const second = await opened(tab());
  await when(second, (one) => one.turn?.lines.length === 2);
  fake.emit("c", { type: "text-delta", delta: " and more" });
  fake.emit("c", { type: "turn-sealed" });
  for (const one of [first, second]) await when(one, (it) => it.rows.length === 2);
  assert.deepEqual(second.snapshot.rows, fake.of("c").rows);
});

test("when the tab with the socket goes, another has it, and nothing is lost or doubled", async (t) => {
  const { fake, tab } = browser(t);
  fake.answers = false;
  const leader = tab();
  await opened(leader);
  const clients = [tab(), tab()];
  const [second, third] = await Promise.all(clients.map((client) => opened(client)));
  fake.emit("c", { type: "user-message", text: "q" });
  await when(second, (one) => one.turn);
  // Asked through the tab that goes away before it is answered.
  fake.intercept = (_, frame) => frame.type === "chat.send";
  third.send("mine");
  while (!fake.received.some((frame) => frame.type === "chat.send")) await new Promise(setImmediate);
  fake.intercept = () => false;
  leader.close();
  fake.emit("c", { type: "text-delta", delta: "meanwhile" });
  await Promise.all(clients.map(online));
  for (const one of [second, third]) await when(one, (it) => shown(it).includes("assistant: meanwhile"));
  await when(third, (one) => one.queue.length === 1 && one.sends.length === 0);
  assert.equal(fake.of("c").sends.size, 1);
  assert.equal(fake.sockets.size, 1);
  fake.emit("c", { type: "turn-sealed" });
  for (const one of [second, third]) await when(one, (it) => it.rows.length === 2);
});

test("a connection that is lost is lost for all tabs, and heals for all", async (t) => {
  const { fake, tab } = browser(t);
  const clients = [tab(), tab(), tab()];
  const all = await Promise.all(clients.map((client) => opened(client)));
  for (let round = 1; round <= 5; round += 1) {
    fake.cut();
    fake.turn("c", `round ${round}`);
    for (const one of all) await when(one, (it) => it.phase === "live" && it.rows.length === round);
  }
  for (const one of all) assert.deepEqual(one.snapshot.rows, fake.of("c").rows);
  assert.equal(fake.sockets.size, 1);
});

test("a tab that leaves a conversation leaves it to the others", async (t) => {
  const { fake, tab } = browser(t);
  const first = tab();
  await online(first);
  const second = tab();
  const conversation = second.conversation("c");
  const close = conversation.open();
  await when(conversation, (one) => one.phase === "live");
  assert.equal(first.conversation("c").isOpen, true);
  close();
  while (first.conversation("c").isOpen) await new Promise(setImmediate);
  fake.turn("c", "unseen");
  conversation.open();
  await when(conversation, (one) => one.lastSeq === 1 && one.rows.length === 1);
});

test("refusals reach the tab that asked, with their code", async (t) => {
  const { fake, tab } = browser(t);
  const first = tab();
  await online(first);
  const second = await opened(tab());
  fake.refusals.push({ code: "busy", message: "no", retryable: true });
  second.send("x", { onBusy: "reject" });
  const { sends } = await when(second, (one) => one.sends[0]?.state === "failed");
  assert.equal(sends[0].error.code, "busy");
});

test("a browser without locks gives each tab a socket of its own", async (t) => {
  const fake = new FakeDaemon();
  const clients = [1, 2].map(() => clientOf(fake, { tabs: shareTabs({ locks: /** @type {Any} */ (null) }) }));
  t.after(() => clients.forEach((client) => client.close()));
  const all = await Promise.all(clients.map((client) => opened(client)));
  all[0].send("hello");
  for (const one of all) await when(one, (it) => it.lastSeq === 2);
  assert.equal(fake.dials, 2);
});
