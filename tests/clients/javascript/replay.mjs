// Replays golden transcripts, from protocol/fixtures/README.md alone: replay.mjs URL FILE…
//
// Neighbours: matching.mjs compares. One JSON line a transcript, and exit status 1 if one failed.

import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { Lost, Socket } from "./client.mjs";
import { Differs, Frames, Names } from "./matching.mjs";

const STEP_MS = 20_000;

/** The lines of a body, without their ends. */
async function* lines(reply) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of reply.body) {
    const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = parts.pop();
    for (const line of parts) yield line.replace(/\r$/, "");
  }
  if (rest !== "") yield rest;
}

/** One transcript against one server; each kind of step is a method. */
class Replay {
  names = new Names();
  sockets = new Map();
  // Broadcasts and all other frames of each connection, as far as they were read and not asked for.
  queues = new Map();

  constructor(url) {
    this.url = url;
  }

  async request({ request, status, headers = {}, reply, frames, lines: written, leave }) {
    const { method, path, headers: own = {}, body, text } = this.names.fill(request);
    const content = text ?? (body === undefined ? undefined : JSON.stringify(body));
    const sent = content === undefined ? own : { "Content-Type": "application/json", ...own };
    const leaving = new AbortController();
    const told = await fetch(this.url + path, {
      method,
      headers: sent,
      body: content,
      signal: leaving.signal,
    });
    try {
      this.names.match(status, told.status);
      for (const [name, value] of Object.entries(headers)) {
        this.names.match(value, told.headers.get(name));
      }
      if (reply !== undefined) {
        this.names.match(reply, await told.json());
        return;
      }
      const expected = new Frames(this.names, frames ?? written);
      for await (const frame of frames ? this.events(told) : this.objects(told)) {
        expected.take(frame);
        if (leave && expected.areAll) return;
      }
      if (!expected.areAll) throw new Differs("the stream ended early");
    } finally {
      leaving.abort();
    }
  }

  async *objects(reply) {
    for await (const line of lines(reply)) if (line !== "") yield JSON.parse(line);
  }

  async *events(reply) {
    let frame = {};
    let last = 0;
    for await (const line of lines(reply)) {
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (name === "id") {
        frame.id = Number(value);
        if (!(frame.id > last)) throw new Differs("ids grow");
        last = frame.id;
        this.names.values.set("last", value);
      } else if (name === "data") {
        frame.data = JSON.parse(value);
      } else if (line === "" && "data" in frame) {
        yield frame;
        frame = {};
      }
    }
  }

  async connect({ on, path = "/ws", subprotocols = [], subprotocol = null }) {
    const address = this.url.replace(/^http/, "ws") + this.names.fill(path);
    const socket = await Socket.open(address, subprotocols);
    this.sockets.set(on, socket);
    this.queues.set(on, { broadcasts: [], ordered: [] });
    this.names.match(subprotocol, socket.socket.protocol || null);
  }

  async send({ on, frame, text, binary, fill }) {
    const { socket } = this.sockets.get(on);
    if (frame !== undefined) socket.send(JSON.stringify(this.names.fill(frame)));
    else if (text !== undefined) socket.send(this.names.fill(text));
    else if (binary !== undefined) socket.send(new TextEncoder().encode(binary));
    else socket.send("x".repeat(fill));
  }

  async next(on, which) {
    const queues = this.queues.get(on);
    while (queues[which].length === 0) {
      const frame = await this.sockets.get(on).next();
      const isBroadcast = String(frame.type).startsWith("conversation.");
      queues[isBroadcast ? "broadcasts" : "ordered"].push(frame);
    }
    return queues[which].shift();
  }

  async expect({ on, frames }) {
    const expected = new Frames(this.names, frames);
    while (!expected.areAll) expected.take(await this.next(on, "ordered"));
  }

  async told({ on, frames }) {
    for (const wanted of frames) {
      while (!this.names.matches(wanted, await this.next(on, "broadcasts")));
    }
  }

  async close({ on, code = 1000 }) {
    this.sockets.get(on).close(code);
  }

  async closed({ on, code }) {
    let frame;
    try {
      frame = await this.next(on, "ordered");
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      this.names.match(code, error.code);
      return;
    }
    throw new Differs(`a frame before the close: ${JSON.stringify(frame)}`);
  }
}

/** A step, or what went wrong after so long. */
function withinTime(step) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Differs(`nothing within ${STEP_MS} ms`)), STEP_MS);
  });
  return Promise.race([step, late]).finally(() => clearTimeout(timer));
}

/** How one transcript went. */
async function replayed(url, file, served) {
  const { agents, steps } = JSON.parse(await readFile(file, "utf-8"));
  const transcript = `${basename(dirname(file))}/${basename(file, ".json")}`;
  if (!agents.every((name) => served.has(name))) return { transcript, outcome: "skipped" };
  const replay = new Replay(url);
  try {
    for (const [index, step] of steps.entries()) {
      try {
        await withinTime(replay[step.do](step));
      } catch (error) {
        return { transcript, outcome: "failed", step: index + 1, reason: String(error) };
      }
    }
  } finally {
    for (const socket of replay.sockets.values()) socket.close();
  }
  return { transcript, outcome: "passed" };
}

const [url, ...files] = process.argv.slice(2);
const { agents } = await (await fetch(`${url}/agents`)).json();
const served = new Set(agents.map((agent) => agent.name));
for (const file of files) {
  const verdict = await replayed(url, file, served);
  if (verdict.outcome === "failed") process.exitCode = 1;
  console.log(JSON.stringify(verdict));
}
