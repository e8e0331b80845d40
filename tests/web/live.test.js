/** The client against the real daemon: what it shows is what `GET /conversations/:id` says. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../../dispatch/web/client.js";
import { Chats } from "../../dispatch/web/client/chats.js";
import { Directory } from "../../dispatch/web/client/directory.js";
import { GroupList } from "../../dispatch/web/client/group_list.js";
import { Group } from "../../dispatch/web/client/groups.js";
import { shareTabs } from "../../dispatch/web/client/tabs.js";
import { Daemon, configuration } from "./daemon.js";
import { when } from "./fake.js";

/** @typedef {any} Any */

/** @param {Any} t @param {string[]} agents */
async function setting(t, ...agents) {
  const daemon = await Daemon.start(configuration(...agents));
  const clients = /** @type {Any[]} */ ([]);
  t.after(async () => {
    clients.forEach((client) => client.close());
    await daemon.end();
  });
  const connect = (/** @type {Any} */ options = {}) => {
    const client = createClient({ url: daemon.url, random: () => 0.05, ...options });
    clients.push(client);
    return client;
  };
  const truth = async (/** @type {string} */ id) => {
    return (await (await fetch(`${daemon.url}/conversations/${id}`)).json()).chunks;
  };
  return { daemon, connect, truth };
}

function opened(/** @type {Any} */ client, /** @type {string | undefined} */ id) {
  const conversation = client.conversation(id);
  conversation.open();
  return conversation;
}

const idle = (/** @type {Any} */ one) => one.phase === "live" && one.turns.length === 0 && one.sends.length === 0;

test("two devices show what the daemon keeps, turn after turn", async (t) => {
  const { connect, truth } = await setting(t, "echo", "counter");
  const mine = opened(connect(), "c");
  const other = opened(connect(), "c");
  mine.send("hello there");
  mine.send("count 300", { model: "counter" });
  other.send("and again");
  for (const one of [mine, other]) await when(one, (it) => idle(it) && it.rows.length === 6);
  const rows = await truth("c");
  assert.deepEqual(mine.snapshot.rows, rows);
  assert.deepEqual(other.snapshot.rows, rows);
});

test("a device that comes in the middle of a turn, and one that reloads, end the same", async (t) => {
  const { connect, truth } = await setting(t, "endless");
  const first = opened(connect(), "c");
  first.send("go");
  const { turn } = await when(first, (it) => (it.turn?.lines.length ?? 0) > 1);
  const second = opened(connect(), "c");
  await when(second, (it) => (it.turn?.lines.length ?? 0) > 1);
  const stopped = await second.stop();
  assert.deepEqual([stopped.abortedTurn, stopped.turnId], [true, turn.turnId]);
  for (const one of [first, second]) await when(one, (it) => idle(it) && it.rows.length === 2);
  assert.deepEqual(first.snapshot.rows, await truth("c"));
  assert.deepEqual(second.snapshot.rows, await truth("c"));
});

test("kill -9 in the middle of a turn: everything shown is kept, what waits is sent", async (t) => {
  const { daemon, connect, truth } = await setting(t, "echo", "endless");
  const conversation = opened(connect(), "c");
  conversation.send("go", { model: "endless" });
  const shown = await when(conversation, (it) => it.turn?.lines[1]?.chunk.text.length > 20);
  await daemon.kill();
  await when(conversation, (it) => it.phase === "stale");
  conversation.send("written while nobody was there", { model: "echo" });
  await daemon.start();
  await when(conversation, (it) => idle(it) && it.rows.length >= 5);
  const rows = await truth("c");
  assert.deepEqual(conversation.snapshot.rows, rows);
  assert.ok(rows[1].chunk.text.startsWith(shown.turn.lines[1].chunk.text));
  assert.deepEqual(rows.slice(-2).map((/** @type {Any} */ row) => row.chunk.text), Array(2).fill("written while nobody was there"));
});

test("a queued message is a chip, can be cancelled, and runs in its turn", async (t) => {
  const { connect, truth } = await setting(t, "endless", "echo");
  const conversation = opened(connect(), "c");
  conversation.send("go");
  await when(conversation, (it) => it.turn);
  conversation.send("not this", { model: "echo" });
  conversation.send("this", { model: "echo" });
  const { queue } = await when(conversation, (it) => it.queue.length === 2 && it.sends.length === 0);
  assert.deepEqual(queue.map((/** @type {Any} */ one) => one.text), ["not this", "this"]);
  conversation.cancelQueued(queue[0].id);
  await when(conversation, (it) => it.queue.length === 1);
  await conversation.stop();
  await when(conversation, (it) => idle(it) && it.queue.length === 0 && it.rows.at(-1).chunk.text === "this");
  assert.deepEqual(conversation.snapshot.rows, await truth("c"));
  const texts = conversation.snapshot.rows.map((/** @type {Any} */ row) => row.chunk.text);
  assert.ok(!texts.includes("not this"));
});

test("a steer goes into the running turn, an interruption ends it", async (t) => {
  const { connect, truth } = await setting(t, "steered", "endless", "echo");
  const client = connect();
  const steered = opened(client, "s");
  steered.send("go");
  await when(steered, (it) => (it.turn?.lines.length ?? 0) > 1);
  steered.steer("left");
  await when(steered, (it) => idle(it) && it.rows.length === 4);
  assert.deepEqual(steered.snapshot.rows, await truth("s"));
  const other = opened(client, "i");
  other.send("go", { model: "endless" });
  await when(other, (it) => it.turn);
  other.interrupt("stop that", { model: "echo" });
  await when(other, (it) => idle(it) && it.rows.at(-1)?.chunk.text === "stop that");
  assert.deepEqual(other.snapshot.rows, await truth("i"));
});

test("a question is answered once, on whichever device, and closes on all", async (t) => {
  const { connect, truth } = await setting(t, "asking");
  const asked = opened(connect(), "c");
  const other = opened(connect(), "c");
  asked.send("go");
  for (const one of [asked, other]) await when(one, (it) => it.turn?.requests.length === 1);
  const { requestId, options } = other.snapshot.turn.requests[0];
  await other.respond(requestId, { optionId: options[0].id });
  await assert.rejects(asked.respond(requestId, { optionId: options[0].id }), { code: "closed" });
  for (const one of [asked, other]) await when(one, (it) => idle(it) && it.rows.length === 2);
  assert.deepEqual(asked.snapshot.rows, await truth("c"));
});

test("a fork has what its origin had, and unread counts follow the reader", async (t) => {
  const { connect, truth } = await setting(t, "echo");
  const client = connect();
  const conversation = opened(client, "c");
  const device = opened(connect(), "c");
  conversation.send("one");
  const { marks } = await when(conversation, (it) => idle(it) && it.rows.length === 2);
  const id = await conversation.fork(marks[0].turnId);
  const fork = opened(client, id);
  await when(fork, (it) => it.rows.length === 2);
  assert.deepEqual(fork.snapshot.rows, await truth(id));
  await when(device, (it) => it.rows.length === 2);
  device.read();
  await when(conversation, (it) => it.lastReadSeq === 2);
});

test("a long history opens at its newest page and goes back to its first row", async (t) => {
  const { daemon, connect, truth } = await setting(t, "echo");
  const writer = opened(connect(), "c");
  for (let i = 0; i < 60; i += 1) writer.send(`message ${i}`);
  await when(writer, (it) => idle(it) && it.rows.length === 120);
  const reader = opened(connect({ pageRows: 25 }), "c");
  await when(reader, (it) => it.rows.length === 25 && it.rows[0].seq === 96);
  while (reader.snapshot.hasOlder) await reader.loadOlder();
  assert.deepEqual(reader.snapshot.rows, await truth("c"));
  assert.ok(daemon.url);
});

test("the list follows what happens, with titles, order and deletions", async (t) => {
  const { daemon, connect } = await setting(t, "echo");
  const client = connect();
  const directory = new Directory(client);
  directory.open();
  opened(client, "a").send("about apples");
  await when(directory, (it) => it.entries[0]?.id === "a" && it.entries[0].title === "about apples");
  opened(connect(), "b").send("about pears");
  await when(directory, (it) => it.entries.length === 2 && it.entries[0].id === "b");
  await when(directory, (it) => it.entries.every((/** @type {Any} */ one) => one.status === "idle"));
  assert.deepEqual((await directory.search("apples")).map((one) => one.id), ["a"]);
  await fetch(`${daemon.url}/conversations/a`, { method: "DELETE" });
  await when(directory, (it) => it.entries.length === 1);
  await when(client.conversation("a"), (it) => it.phase === "gone");
});

test("a group answers in rows of its own, the same on two devices and after a restart", async (t) => {
  const { daemon, connect } = await setting(t, "echo", "counter");
  const client = connect();
  const made = await client.http.post("api/groups", { memberFamiliarIds: ["echo", "counter"] });
  const groups = [client, connect()].map((one) => new Group(one, made.id));
  groups.forEach((group) => group.open());
  for (const one of groups) await when(one, (it) => it.phase === "live");
  groups[0].send("count 5");
  const over = (/** @type {Any} */ it) => it.rows.length === 3 && it.sends.length === 0
    && it.runs.length === 0 && it.rows.every((/** @type {Any} */ row) => !row.streaming);
  for (const one of groups) await when(one, over);
  assert.deepEqual(groups[0].snapshot.rows, groups[1].snapshot.rows);
  const { events } = await client.http.get(`api/groups/${made.id}`);
  assert.deepEqual(groups[1].snapshot.rows, events);
  await daemon.kill();
  groups[0].send("count 3", { targetFamiliarIds: ["counter"] });
  assert.equal(groups[0].snapshot.sends.length, 1);
  await daemon.start();
  for (const one of groups) {
    await when(one, (it) => it.rows.length === 5 && it.sends.length === 0 && !it.rows[4].streaming);
  }
  assert.deepEqual(groups[1].snapshot.rows, (await client.http.get(`api/groups/${made.id}`)).events);
});

test("the list of groups is the same on two devices, whoever changes it", async (t) => {
  const { connect } = await setting(t, "echo", "counter");
  const clients = [connect(), connect()];
  const lists = clients.map((client) => new GroupList(client));
  lists.forEach((list) => list.open());
  const [mine, other] = clients;
  const shown = async (/** @type {(groups: Any[]) => unknown} */ test) => {
    for (const list of lists) await when(list, (it) => test(it.groups));
  };
  for (const list of lists) await when(list, (it) => !it.isLoading);
  const made = await mine.http.post("api/groups", { memberFamiliarIds: ["echo"] });
  await shown(([one]) => one?.id === made.id && one.title === "echo");
  await other.http.request("PATCH", `api/groups/${made.id}`, { title: "Kitchen" });
  await shown(([one]) => one.title === "Kitchen");
  const members = { addMemberFamiliarIds: ["counter"], removeMemberFamiliarIds: ["echo"] };
  const after = await mine.http.request("PATCH", `api/groups/${made.id}`, members);
  await shown(([one]) => one.memberSessionIds.counter === after.memberSessionIds.counter);
  await shown(([one]) => one.archivedMembers.length === 1);
  for (const list of lists) assert.deepEqual(list.snapshot.groups, [after]);
  await other.http.request("DELETE", `api/groups/${made.id}`);
  await shown((groups) => groups.length === 0);
});

test("chat sessions show unread answers, typing and archive on every device", async (t) => {
  const { connect } = await setting(t, "echo");
  const client = connect();
  const [mine, other] = [client, connect()].map((one) => new Chats(one));
  mine.open();
  other.open();
  const session = await mine.create("echo");
  for (const one of [mine, other]) await when(one, (it) => it.sessions[0]?.id === session.id);
  const conversation = opened(client, session.id);
  conversation.send("hello");
  await when(conversation, (it) => idle(it) && it.rows.length === 2);
  for (const one of [mine, other]) await when(one, (it) => it.unreadTotal === 1);
  await other.read(session.id);
  for (const one of [mine, other]) await when(one, (it) => it.unreadTotal === 0);
  await mine.type(session.id, true, "desk");
  await when(other, (it) => it.typing[session.id] === "desk");
  await mine.archive(session.id);
  await when(other, (it) => it.sessions[0].status === "archived");
});

test("two tabs share one connection of the daemon, conversations, groups and list alike", async (t) => {
  const { daemon, connect, truth } = await setting(t, "echo", "counter");
  let dials = 0;
  const socket = (/** @type {string} */ url, /** @type {string[]} */ protocols) => {
    dials += 1;
    return new WebSocket(url, protocols);
  };
  const tab = () => connect({ socket, tabs: shareTabs({ name: "live" }) });
  const clients = [tab(), tab()];
  const both = clients.map((client) => opened(client, "c"));
  const lists = clients.map((client) => new Directory(client));
  const bands = clients.map((client) => new GroupList(client));
  [...lists, ...bands].forEach((list) => list.open());
  for (const one of both) await when(one, (it) => it.phase === "live");
  const made = await clients[1].http.post("api/groups", { memberFamiliarIds: ["echo", "counter"] });
  const group = new Group(clients[1], made.id);
  group.open();
  await when(group, (it) => it.phase === "live");
  both[1].send("hello");
  group.send("count 4");
  for (const one of both) await when(one, (it) => idle(it) && it.rows.length === 2);
  assert.deepEqual(both[1].snapshot.rows, await truth("c"));
  await when(group, (it) => it.rows.length === 3 && it.rows.every((/** @type {Any} */ row) => !row.streaming));
  assert.deepEqual(group.snapshot.rows, (await clients[0].http.get(`api/groups/${made.id}`)).events);
  for (const list of lists) await when(list, (it) => it.entries.some((/** @type {Any} */ one) => one.id === "c"));
  await clients[0].http.request("PATCH", `api/groups/${made.id}`, { title: "In every tab" });
  for (const band of bands) await when(band, (it) => it.groups[0]?.title === "In every tab");
  assert.equal(dials, 1);
  await daemon.kill();
  both[1].send("later");
  await daemon.start();
  for (const one of both) await when(one, (it) => idle(it) && it.rows.length === 4);
  assert.deepEqual(both[0].snapshot.rows, await truth("c"));
});
