/**
 * What can be done with a conversation as a whole: rename, archive, restore, delete.
 *
 * Neighbours: `shell` shows them as a menu; `dialog` asks. Routes: `protocol/native.md` 1.6,
 * `protocol/groups.md` 3, `protocol/chat-sessions.md` 2.
 * Invariant: nothing is deleted that was not asked about.
 */

import { ask, confirmed } from "./dialog.js";

/** @typedef {{label: string, act: () => void, isGrave?: boolean}} Action */

const TITLE_CHARACTERS_MAX = 200;

/**
 * @param {import("./app.js").App} app
 * @param {import("./app.js").View} view
 * @returns {Action[]}
 */
export function actionsOf(app, view) {
  const entry = view.id === "" ? undefined : app.entries.find(view.id);
  if (entry === undefined) return [];
  const { kind, id, title } = entry;
  const { http } = app.client;
  const { chats } = app.entries;

  const rename = async () => {
    const name = await ask("Rename", "Title", title, TITLE_CHARACTERS_MAX);
    if (name === null || name === title) return;
    const done = kind === "chat" ? chats.rename(id, name)
      : kind === "group" ? http.request("PATCH", `api/groups/${id}`, { title: name })
        : http.request("PUT", `conversations/${id}/title`, { title: name });
    await app.attempt(done, "It cannot be renamed");
  };
  const remove = async () => {
    const warning = `“${title}” and all that was said in it will be gone on every device.`;
    if (!(await confirmed("Delete for ever?", warning, "Delete"))) return;
    const path = kind === "group" ? `api/groups/${id}` : `conversations/${id}`;
    const done = kind === "chat" ? chats.purge(id) : http.request("DELETE", path);
    if ((await app.attempt(done, "It cannot be deleted")) === undefined) return;
    app.go(null);
  };

  /** @type {Action[]} */
  const actions = [{ label: "Rename", act: rename }];
  if (kind === "chat" && entry.isArchived) {
    actions.push({
      label: "Restore", act: () => void app.attempt(chats.restore(id), "It cannot be restored"),
    });
  } else if (kind === "chat") {
    actions.push({
      label: "Archive", act: () => void app.attempt(chats.archive(id), "It cannot be archived"),
    });
  }
  actions.push({ label: "Delete", act: remove, isGrave: true });
  return actions;
}
