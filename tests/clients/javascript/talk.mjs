// What the client does, against a server that serves the agents of the transcripts:
// talk.mjs URL runs every part and says which passed; talk.mjs URL begin waits for a restart.
//
// Neighbours: `client` is what is shown; tests/e2e/test_strangers.py reads what is printed.
// Invariant: a part that fails ends the program with its stack.

import assert from "node:assert/strict";

import { Client, Refused } from "./client/client.mjs";

const PART_MS = 30_000;
const [url, ...words] = process.argv.slice(2);
const fresh = () => crypto.randomUUID();
const isDelta = ({ type }) => type === "text-delta";
const isSealed = ({ type }) => type === "turn-sealed";

/** The changes up to and including the first wanted one. */
async function until(follower, wanted) {
  const seen = [];
  for await (const change of follower.changes()) {
    seen.push(change);
    if (wanted(change)) return seen;
  }
  throw new Error("it ended before");
}

const parts = {
  async answers(client) {
    const turn = await client.conversation(fresh()).ask("hello there", { model: "alice" });
    assert.deepEqual([turn.text, turn.reason], ["hello there ", "stop"]);
  },

  async history(client) {
    const conversation = client.conversation(fresh());
    await conversation.ask("one", { model: "alice" });
    const other = new Client(url);
    const late = other.conversation(conversation.id);
    assert.equal((await late.ask("two")).text, "two ");
    assert.deepEqual(late.history.map(({ chunk }) => chunk.text), ["one", "one "]);
    other.close();
  },

  /** The connection breaks under a send, and the same is sent again. */
  async sends_once(client) {
    const conversation = client.conversation(fresh());
    await conversation.ask("first", { model: "alice" });
    const sending = conversation.send("second", { clientMessageId: "m" });
    await Promise.resolve();
    client.link.drop();
    const first = await sending;
    const again = await conversation.send("second", { clientMessageId: "m" });
    assert.equal(again.duplicate, true);
    assert.equal(again.turnId, first.turnId);
    await until(conversation, (event) => isSealed(event) && event.turnId === first.turnId);
    assert.equal(conversation.text, "second ");
    assert.equal((await client.http("GET", `/conversations/${conversation.id}`)).latestSeq, 4);
    const other = conversation.send("other", { clientMessageId: "m" });
    await assert.rejects(other, { code: "conflict" });
  },

  async resumes_and_stops(client) {
    const conversation = client.conversation(fresh());
    const { turnId } = await conversation.send("go", { model: "endless" });
    await until(conversation, isDelta);
    client.link.drop();
    assert.equal((await conversation.stop(turnId)).abortedTurn, true);
    await until(conversation, isSealed);
    const turn = conversation.turns.get(turnId);
    assert.deepEqual([turn.text, turn.reason], ["on ", "aborted"]);
  },

  async answers_requests(client) {
    const conversation = client.conversation(fresh());
    const next = async () =>
      (await until(conversation, ({ type }) => type === "chat.request")).at(-1);
    await conversation.send("ask", { model: "asker" });
    const approval = await next();
    assert.equal(approval.kind, "approval");
    client.link.drop();
    await conversation.respond(approval.requestId, { optionId: "yes", approved: true });
    const { requestId } = await next();
    await conversation.respond(requestId, { action: "accept", answers: { word: "please" } });
    const late = conversation.respond(requestId, { action: "cancel" });
    await assert.rejects(late, { code: "closed" });
    await until(conversation, isSealed);
    assert.equal(conversation.text, "yes, please");
  },

  async groups(client) {
    const group = await client.createGroup(["alice", "bob"]);
    const rows = await group.ask("hello all");
    assert.deepEqual(rows.map(({ text }) => text).sort(), ["HELLO ALL ", "hello all "]);
    client.link.drop();
    assert.equal((await group.ask("again")).length, 2);
    assert.deepEqual([...group.rows.keys()].sort(), [1, 2, 3, 4, 5, 6]);
    assert.equal((await group.read(6)).unread, 0);
    const stopped = await client.createGroup(["endless"]);
    await stopped.send("go");
    await until(stopped, ({ kind }) => kind === "assistant_chunk");
    client.link.drop();
    await stopped.stop({ replyTo: 1 });
    await until(stopped, ({ scope }) => scope === "group");
    const { text, outcome } = stopped.rows.get(2);
    assert.deepEqual([text, outcome], ["on ", "cancelled"]);
  },

  async sessions(client) {
    const isMessage = (seq) => ({ event, data }) => event === "chat_message" && data.seq === seq;
    const chats = client.chats();
    await until(chats, ({ event }) => event === "connected");
    const { id } = await chats.create("alice");
    assert.equal((await chats.send(id, "one two", { wait: 10 })).response.content, "one two ");
    await until(chats, isMessage(2));
    client.link.drop();
    await chats.send(id, "three \u{1F600} four");
    await until(chats, isMessage(4));
    assert.equal(chats.messages.get(id).get(4).content, "three \u{1F600} four ");
    assert.equal((await chats.read(id)).unread_count, 0);
    const endless = await chats.create("endless");
    await chats.send(endless.id, "go");
    const delta = (await until(chats, ({ event }) => event === "chat_message_delta")).at(-1);
    assert.equal(chats.live.get(delta.data.message_id), "on ");
    await chats.cancel(endless.id);
  },

  async steers(client) {
    const conversation = client.conversation(fresh());
    await conversation.send("go", { model: "listener" });
    const turn = await conversation.ask("left", { onBusy: "steer" });
    assert.deepEqual([turn.message, turn.text], ["go", "listening left"]);
  },

  async deleted(client) {
    const conversation = client.conversation(fresh());
    await conversation.ask("one", { model: "alice" });
    await client.http("DELETE", `/conversations/${conversation.id}`);
    await assert.rejects(until(conversation, () => false), { code: "gone" });
    const other = new Client(url);
    const late = other.conversation(conversation.id);
    await assert.rejects(until(late, () => false), { code: "gone" });
    other.close();
  },
};

/** Three turns that never end by themselves; then what is told of them after a restart. */
async function begin(client) {
  const conversation = client.conversation(fresh());
  const group = await client.createGroup(["endless"]);
  const chats = client.chats();
  const { id } = await chats.create("endless");
  await conversation.send("go", { model: "endless" });
  await group.send("go");
  await chats.send(id, "go");
  const seen = await until(conversation, isDelta);
  await until(group, ({ kind }) => kind === "assistant_chunk");
  await until(chats, ({ event }) => event === "chat_message_delta");
  console.log(JSON.stringify({ type: "begun" }));

  const told = { type: "over" };
  seen.push(...(await until(conversation, (e) => isSealed(e) || e.type === "chat.snapshot")));
  told.events = seen.map(({ type }) => type);
  told.text = conversation.text;
  try {
    await until(group, ({ scope }) => scope === "group");
    told.group = [group.rows.get(2).text, group.rows.get(2).outcome];
  } catch (wrong) {
    if (!(wrong instanceof Refused)) throw wrong;
    told.group = wrong.code;
  }
  const over = ["chat_task_failed", "resync_required"];
  told.chats = (await until(chats, ({ event }) => over.includes(event))).at(-1).event;

  const mine = { clientMessageId: fresh(), model: "alice" };
  const first = await conversation.send("hello there", mine);
  const again = await conversation.send("hello there", mine);
  await until(conversation, isSealed);
  told.isOneTurn = first.turnId === again.turnId && again.duplicate;
  told.next = conversation.text;
  console.log(JSON.stringify(told));
}

if (words[0] === "begin") {
  const client = new Client(url);
  await begin(client);
  client.close();
} else {
  for (const [name, part] of Object.entries(parts)) {
    const client = new Client(url);
    const late = setTimeout(() => {
      throw new Error(`${name}: not within ${PART_MS / 1000} s`);
    }, PART_MS);
    await part(client);
    clearTimeout(late);
    client.close();
    console.log(`pass ${name}`);
  }
}
process.exit(0);
