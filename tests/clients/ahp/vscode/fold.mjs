// VS Code's reducers behind a pipe: node fold.mjs PACKAGES VERSION
//
// A line in is {kind, state, actions: [{action, now}]}, a line out the state after each action.
// Neighbours: `tests/clients/ahp/test_reducers.py`, which compares.
import { createInterface } from "node:readline";

import { vscode } from "./modules.mjs";

const [packages] = process.argv.slice(2);
const reducers = {};
for (const kind of ["root", "session", "chat"]) {
  const folder = `platform/agentHost/common/state/protocol/channels-${kind}`;
  reducers[kind] = (await vscode(packages, `${folder}/reducer.js`))[`${kind}Reducer`];
}

// The reducers before 0.9 read the clock.
let now = 0;
Date.now = () => now;

for await (const line of createInterface({ input: process.stdin })) {
  const { kind, state, actions } = JSON.parse(line);
  let folded = state;
  const states = actions.map((one) => {
    now = Date.parse(one.now);
    try {
      // An unknown action is logged by the one who folds.
      folded = reducers[kind](folded, one.action, () => {});
      return folded;
    } catch (error) {
      return { threw: String(error) };
    }
  });
  process.stdout.write(`${JSON.stringify(states)}\n`);
}
