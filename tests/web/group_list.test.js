/** The list of groups: what a notice does to it at once, and readings that are older than notices. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { GroupList } from "../../dispatch/web/client/group_list.js";
import { FakeDaemon, clientOf, when } from "./fake.js";

/** @typedef {any} Any */

const at = (/** @type {number} */ second) => new Date(second * 1000).toISOString();

/** @param {string} id @param {string} title @param {number} second of its last change */
function row(id, title, second) {
  return {
    id, title, memberFamiliarIds: ["echo"], memberSessionIds: { echo: `c-${id}` },
    createdAt: at(1), updatedAt: at(second), lastSeq: 7, activeRuns: [], activeRun: null,
    archivedMembers: [],
  };
}

function changed(/** @type {string} */ groupId, /** @type {string} */ title, /** @type {number} */ second) {
  const { id: _, lastSeq: __, activeRuns: ___, activeRun: ____, archivedMembers: _____, ...told } = row(groupId, title, second);
  return { type: "group.changed", groupId, ...told };
}

const deleted = (/** @type {string} */ groupId) => ({ type: "group.deleted", groupId });

/** A daemon with these groups; `held` readings wait until they are let go. @param {Any} t */
async function setting(t, /** @type {Any[]} */ ...groups) {
  const fake = new FakeDaemon();
  const state = { groups, readings: 0, held: /** @type {Promise<void> | null} */ (null) };
  const client = clientOf(fake, {
    fetch: async (/** @type {Any} */ url, /** @type {Any} */ init) => {
      if (new URL(url).pathname !== "/api/groups") return fake.fetch(url, init);
      const found = [...state.groups];
      state.readings += 1;
      await state.held;
      if (fake.httpFailures > 0) return fake.fetch(url, init);
      return Response.json({ ok: true, groups: found });
    },
  });
  const list = new GroupList(client);
  t.after(list.open());
  t.after(() => client.close());
  const tell = (/** @type {Any} */ frame) => fake.sockets.forEach((/** @type {Any} */ one) => one.tell(frame));
  await when(list, (it) => !it.isLoading && state.readings === 1);
  return { fake, state, list, client, tell };
}

const titles = (/** @type {Any} */ { groups }) => groups.map((/** @type {Any} */ one) => one.title).join();

test("it asks for notices and reads the list", async (t) => {
  const { fake, list } = await setting(t, row("g1", "one", 1), row("g2", "two", 1));
  assert.equal(titles(list.snapshot), "one,two");
  assert.ok(fake.received.some(({ type }) => type === "conversations.watch"));
});

test("a notice is shown at once, and the list is read again behind it", async (t) => {
  const { state, list, tell } = await setting(t, row("g1", "one", 1));
  let letGo = () => {};
  state.held = new Promise((resolve) => (letGo = resolve));
  tell(changed("g1", "kitchen", 2));
  await when(list, (it) => titles(it) === "kitchen");
  assert.equal(list.snapshot.groups[0].lastSeq, 7);
  tell(changed("g2", "new", 3));
  await when(list, (it) => titles(it) === "new,kitchen");
  assert.deepEqual(list.snapshot.groups[0], { ...row("g2", "new", 3), lastSeq: 0 });
  tell(deleted("g1"));
  await when(list, (it) => titles(it) === "new");
  state.groups = [row("g2", "new", 3)];
  letGo();
  await when(list, (it) => titles(it) === "new" && it.groups[0].lastSeq === 7);
});

test("a reading that began before a notice is not shown without it", async (t) => {
  const { state, list, tell } = await setting(t, row("g1", "one", 1), row("g2", "two", 1));
  let letGo = () => {};
  state.held = new Promise((resolve) => (letGo = resolve));
  const reading = list.reload();
  await when(list, (it) => it.isLoading);
  tell(changed("g1", "kitchen", 2));
  tell(changed("g3", "new", 3));
  tell(deleted("g2"));
  await when(list, (it) => titles(it) === "new,kitchen");
  /** @type {string[]} */
  const seen = [];
  t.after(list.subscribe(() => seen.push(titles(list.snapshot))));
  state.groups = [row("g3", "new", 3), row("g1", "kitchen", 2)];
  letGo();
  await reading;
  await when(list, (it) => !it.isLoading && state.readings === 3);
  assert.deepEqual([...new Set(seen)], ["new,kitchen"]);
});

test("a notice that is older than the list leaves it as it is", async (t) => {
  const { list, tell, state } = await setting(t, row("g1", "newest", 5));
  tell(changed("g1", "older", 4));
  await when(list, () => state.readings === 2);
  assert.equal(titles(list.snapshot), "newest");
});

test("however much is told, it is read twice at most before it rests", async (t) => {
  const { list, tell, state } = await setting(t);
  for (let count = 1; count <= 50; count += 1) {
    state.groups = [row(`g${count}`, `t${count}`, count), ...state.groups];
    tell(changed(`g${count}`, `t${count}`, count));
  }
  await when(list, (it) => it.groups.length === 50 && !it.isLoading);
  // The first is that of the beginning.
  assert.equal(state.readings, 2);
  state.groups = [row("g1", "read", 60)];
  await when(list, (it) => titles(it) === "read");
  assert.equal(state.readings, 3);
});

test("after a new connection it is read again, and a failure is told until the next reading", async (t) => {
  const { fake, list, state } = await setting(t, row("g1", "one", 1));
  state.groups = [row("g1", "renamed unheard", 2)];
  fake.httpFailures = 1;
  fake.cut();
  await when(list, (it) => it.error?.code === "unavailable");
  assert.equal(titles(list.snapshot), "one");
  await list.reload();
  assert.equal(list.snapshot.error, null);
  assert.equal(titles(list.snapshot), "renamed unheard");
});

test("what only who follows a group is told is not the list's", async (t) => {
  const { list, client, tell } = await setting(t, row("g1", "one", 1));
  /** @type {string[]} */
  const kinds = [];
  t.after(client.session.follow({
    key: "account", frames: () => [], lost() {}, take: (/** @type {Any} */ frame) => kinds.push(frame.type),
  }));
  tell({ type: "group.event", groupId: "g1", frameId: 1, event: { kind: "progress", groupId: "g1" } });
  tell({ type: "group.read", groupId: "g1", lastReadSeq: 1, unread: 0 });
  tell(changed("g1", "kitchen", 2));
  await when(list, (it) => titles(it) === "kitchen");
  assert.deepEqual(kinds, ["group.changed"]);
});
