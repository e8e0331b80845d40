/** One logical connection over many real ones. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeDaemon, clientOf, when } from "./fake.js";

/** @typedef {any} Any */

/** Let everything happen that needs no timer. */
async function settled() {
  for (let i = 0; i < 20; i += 1) await new Promise(setImmediate);
}

test("a storm of losses ends online, with each topic followed once", async (t) => {
  const fake = new FakeDaemon();
  const client = clientOf(fake);
  t.after(() => client.close());
  client.conversation("c").open();
  for (let i = 0; i < 200; i += 1) {
    await when(client.connection, (state) => state.phase === "online");
    fake.cut([1006, 1001, 4000, 4001, 4004][i % 5]);
  }
  await when(client.connection, (state) => state.phase === "online");
  await when(client.conversation("c"), (snapshot) => snapshot.phase === "live");
  assert.equal(fake.sockets.size, 1);
  assert.equal(fake.dials, 201);
  const subscriptions = fake.received.filter((frame) => frame.type === "chat.subscribe");
  assert.ok(subscriptions.length <= 201);
});

test("a daemon that hangs up at once is called less and less often", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const client = clientOf(fake, { random: () => 0.000_001 });
  t.after(() => client.close());
  const waits = [];
  for (let attempt = 1; attempt <= 10; attempt += 1) {
    const state = await when(client.connection, (one) => one.phase === "waiting" && one.attempt >= attempt);
    waits.push(state.retryInMs / 0.000_001);
  }
  assert.deepEqual(waits.slice(0, 4).map(Math.round), [500, 1_000, 2_000, 4_000]);
  assert.equal(Math.round(waits.at(-1) ?? 0), 30_000);
});

test("a wait ends at once when there is a reason to try", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const client = clientOf(fake, { random: () => 0.999_999 });
  t.after(() => client.close());
  for (let i = 0; i < 5; i += 1) {
    await when(client.connection, (state) => state.phase === "waiting");
    client.session.wake();
  }
  await when(client.connection, (state) => state.phase === "waiting");
  fake.isDown = false;
  client.session.wake();
  await when(client.connection, (state) => state.phase === "online");
});

test("a code that says stop is obeyed until somebody connects again", async (t) => {
  const fake = new FakeDaemon();
  const client = clientOf(fake);
  t.after(() => client.close());
  await when(client.connection, (state) => state.phase === "online");
  fake.cut(4500);
  const state = await when(client.connection, (one) => one.phase === "refused");
  assert.equal(state.code, "unauthorized");
  client.session.wake();
  assert.equal(client.connection.snapshot.phase, "refused");
  client.connect();
  await when(client.connection, (one) => one.phase === "online");
});

test("an upgrade that a browser says nothing about is asked about over HTTP", async (t) => {
  const fake = new FakeDaemon();
  fake.isDown = true;
  const fetch = async () => new Response('{"error":"no","code":"unauthorized"}', { status: 401 });
  const client = clientOf(fake, { fetch });
  t.after(() => client.close());
  const state = await when(client.connection, (one) => one.phase === "refused");
  assert.equal(state.code, "unauthorized");
});

test("a peer that gives no sign of life is given up", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const fake = new FakeDaemon();
  const client = clientOf(fake);
  const online = () => client.connection.snapshot.phase === "online";
  await settled();
  assert.ok(online());
  fake.intercept = () => true;
  fake.received.length = 0;
  t.mock.timers.tick(25_000);
  await settled();
  assert.deepEqual(fake.received, [{ type: "ping" }]);
  assert.ok(online());
  t.mock.timers.tick(8_000);
  await settled();
  assert.equal(online(), false);
  client.close();
});

test("a peer that answers pings stays, however little else it says", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const fake = new FakeDaemon();
  const client = clientOf(fake);
  await settled();
  for (let beat = 0; beat < 20; beat += 1) {
    t.mock.timers.tick(25_000);
    await settled();
  }
  assert.equal(client.connection.snapshot.phase, "online");
  assert.equal(fake.dials, 1);
  client.close();
});

test("a daemon that never says hello is given up", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const fake = new FakeDaemon();
  fake.isSilent = true;
  const client = clientOf(fake);
  await settled();
  t.mock.timers.tick(10_000);
  await settled();
  assert.equal(client.connection.snapshot.phase, "waiting");
  client.close();
});

test("a request that must not be repeated fails when its reply is lost", async (t) => {
  const fake = new FakeDaemon();
  fake.intercept = (_, frame) => frame.type === "chat.fork";
  const client = clientOf(fake);
  t.after(() => client.close());
  await when(client.connection, (state) => state.phase === "online");
  const fork = client.conversation("c").fork("t1");
  while (!fake.received.some((frame) => frame.type === "chat.fork")) await new Promise(setImmediate);
  fake.cut();
  await assert.rejects(fork, { code: "connection_lost", retryable: true });
});

test("what the daemon could not read is not sent again", async (t) => {
  const fake = new FakeDaemon();
  fake.intercept = (_, frame) => {
    if (frame.type === "chat.send") fake.cut(1009);
    return frame.type === "chat.send";
  };
  const client = clientOf(fake);
  t.after(() => client.close());
  client.conversation("c").send("unreadable");
  const { sends } = await when(client.conversation("c"), (one) => one.sends[0]?.state === "failed");
  assert.equal(sends[0].error.code, "invalid");
  await when(client.connection, (state) => state.phase === "online");
  assert.equal(fake.received.filter((frame) => frame.type === "chat.send").length, 1);
});

test("a refusal is an error with the daemon's code", async (t) => {
  const fake = new FakeDaemon();
  fake.intercept = (socket, frame) => {
    if (frame.type !== "chat.fork") return false;
    socket.tell({ type: "chat.error", message: "no", code: "not_found", retryable: false, ref: frame.ref });
    return true;
  };
  const client = clientOf(fake);
  t.after(() => client.close());
  await assert.rejects(client.conversation("c").fork("t1"), { code: "not_found", message: "no" });
});

test("a token goes as a subprotocol and a ticket in the address, asked for each time", async (t) => {
  const fake = new FakeDaemon();
  const seen = /** @type {Any[]} */ ([]);
  const socket = (/** @type {string} */ url, /** @type {string[]} */ protocols) => {
    seen.push([url, protocols]);
    return fake.socket(url, protocols);
  };
  let tickets = 0;
  const client = clientOf(fake, { socket, token: () => "sécret?", ticket: async () => `k${++tickets}` });
  t.after(() => client.close());
  await when(client.connection, (state) => state.phase === "online");
  fake.cut();
  await when(client.connection, () => seen.length === 2 && client.session.isOnline);
  const [[first, protocols], [second]] = seen;
  assert.equal(first, "ws://fake.test/ws?ticket=k1");
  assert.equal(second, "ws://fake.test/ws?ticket=k2");
  const name = `dispatch.token.${Buffer.from("sécret?").toString("base64url")}`;
  assert.deepEqual(protocols, ["dispatch.v1", name]);
});

test("a credential that cannot be had is a loss like others", async (t) => {
  const fake = new FakeDaemon();
  let asked = 0;
  const ticket = async () => {
    if (++asked < 3) throw new Error("no ticket now");
    return "k";
  };
  const client = clientOf(fake, { ticket });
  t.after(() => client.close());
  await when(client.connection, (state) => state.phase === "online");
  assert.equal(asked, 3);
});
