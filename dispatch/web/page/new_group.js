/**
 * A group is made: who is in it, and how it is called.
 *
 * Neighbours: `sidebar` and `start` open it; `protocol/groups.md` 3 has the route.
 */

import { openDialog } from "./dialog.js";
import { html } from "./lit.js";
import { face } from "./parts.js";

/** @param {import("./app.js").App} app */
export async function openNewGroup(app) {
  const content = html`<p>Everybody in a group answers what you say to it, each in their own words.</p>
    <fieldset class="members"><legend>Members</legend>
      ${app.agents.map(({ name, kind, problem }) => html`<label class="member">
        <input type="checkbox" name="member" value=${name} aria-label=${name}>
        ${face(name)}<span><strong>${name}</strong><small>${problem ?? kind}</small></span></label>`)}
    </fieldset>
    <label class="labelled"><span>Title</span>
      <input name="title" maxlength="200" autocomplete="off" placeholder="Made of the names" dir="auto"></label>`;
  const wish = await openDialog("New group", "Create group", content, (form) => ({
    memberFamiliarIds: form.getAll("member").map(String), title: String(form.get("title") ?? "").trim(),
  }));
  if (wish === null) return;
  const { memberFamiliarIds, title } = wish;
  if (memberFamiliarIds.length === 0) return app.tell("A group needs at least one member.");
  const body = { memberFamiliarIds, ...(title === "" ? {} : { title }) };
  const group = await app.attempt(app.client.http.post("api/groups", body), "The group cannot be made");
  if (group === undefined) return;
  app.go({ kind: "group", id: group.id });
}
