// Replays golden transcripts:
// node --experimental-websocket replay/main.mjs URL FIXTURES [part of a path ...]
//
// Neighbours: `transcript` replays one.
// Invariant: a transcript that fails makes the exit status 1.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { Transcript } from "./transcript.mjs";

const [address, folder, ...parts] = process.argv.slice(2);
const url = address.replace(/\/$/, "");
const { agents } = await (await fetch(`${url}/agents`)).json();
const served = new Set(agents.map((agent) => agent.name));

let failed = 0;
// A folder of transcripts each dialect has; what lies deeper is for other readers.
const files = (await readdir(folder, { recursive: true })).filter((file) =>
  /^[^/]+\/[^/]+\.json$/.test(file),
);
// One after the other: lists and read cursors are the person's, not the transcript's.
for (const file of files.sort()) {
  if (parts.length && !parts.some((part) => file.includes(part))) continue;
  const name = file.replace(/\.json$/, "");
  const transcript = JSON.parse(await readFile(join(folder, file), "utf8"));
  const missing = transcript.agents.filter((agent) => !served.has(agent));
  if (missing.length) {
    console.log(`skip ${name}: no ${missing.join(", ")}`);
    continue;
  }
  const wrong = await new Transcript(url).replay(transcript.steps);
  console.log(wrong ? `FAIL ${name}: ${wrong}` : `pass ${name}`);
  failed += wrong ? 1 : 0;
}
console.log(`${failed} failed`);
process.exit(failed ? 1 : 0);
