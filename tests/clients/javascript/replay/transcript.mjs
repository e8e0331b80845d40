// Carries out the steps of one transcript.
//
// Neighbours: `compare` and `frames` judge; `socket` and `streams` bring what came.
// Invariant: every step ends in its time, or the transcript failed.

import { Mismatch, Names } from "./compare.mjs";
import { Expected } from "./frames.mjs";
import { Socket } from "./socket.mjs";
import { events, jsonLines } from "./streams.mjs";

const STEP_MS = 20_000;

export class Transcript {
  #url;
  #names = new Names();
  #sockets = new Map();
  #over = new AbortController();

  constructor(url) {
    this.#url = url;
  }

  /** The place and the reason of what went wrong, or undefined. */
  async replay(steps) {
    try {
      for (const [index, step] of steps.entries()) {
        try {
          await within(STEP_MS, this[step.do](step));
        } catch (wrong) {
          const why = wrong instanceof Mismatch ? wrong.message : wrong.stack;
          return `step ${index + 1} (${step.do}): ${why}`;
        }
      }
    } finally {
      this.#over.abort();
      await Promise.all([...this.#sockets.values()].map((socket) => socket.close()));
    }
  }

  async connect(step) {
    const path = this.#names.filled(step.path ?? "/ws");
    const socket = new Socket(this.#url.replace("http", "ws") + path, step.subprotocols ?? []);
    this.#sockets.set(step.on, socket);
    const chosen = await socket.opened();
    if (chosen !== (step.subprotocol ?? "")) throw new Mismatch(`the server chose "${chosen}"`);
  }

  async send(step) {
    const socket = this.#sockets.get(step.on);
    if ("frame" in step) socket.send(JSON.stringify(this.#names.filled(step.frame)));
    else if ("binary" in step) socket.send(new TextEncoder().encode(step.binary));
    else socket.send(step.text ?? "x".repeat(step.fill));
  }

  async expect(step) {
    const { frames } = this.#sockets.get(step.on);
    const expected = new Expected(step.frames, this.#names);
    while (!expected.complete) expected.take(await frames.next());
  }

  async told(step) {
    const { broadcasts } = this.#sockets.get(step.on);
    for (const wanted of step.frames) {
      while (!this.#tried(wanted, await broadcasts.next()));
    }
  }

  /** A broadcast that is passed over gives no name its value. */
  #tried(wanted, frame) {
    const names = this.#names.copy();
    try {
      names.match(wanted, frame);
    } catch (wrong) {
      if (wrong instanceof Mismatch) return false;
      throw wrong;
    }
    this.#names.values = names.values;
    return true;
  }

  async close(step) {
    await this.#sockets.get(step.on).close(step.code);
  }

  async closed(step) {
    await this.#sockets.get(step.on).closed(step.code);
  }

  async request(step) {
    const { method, path, headers, body, text } = this.#names.filled(step.request);
    const content = text ?? (body === undefined ? undefined : JSON.stringify(body));
    const leaving = new AbortController();
    const media = content === undefined ? {} : { "Content-Type": "application/json" };
    const answer = await fetch(this.#url + path, {
      method,
      body: content,
      headers: { ...headers, ...media },
      signal: AbortSignal.any([leaving.signal, this.#over.signal]),
    });
    if (answer.status !== step.status) {
      throw new Mismatch(`status ${answer.status}: ${(await answer.text()).slice(0, 300)}`);
    }
    for (const [name, value] of Object.entries(step.headers ?? {})) {
      this.#names.match(value, answer.headers.get(name), name);
    }
    if (step.frames) await this.#stream(step.frames, step.leave, this.#events(answer.body));
    else if (step.lines) await this.#stream(step.lines, step.leave, jsonLines(answer.body));
    else if ("reply" in step) this.#names.match(step.reply, await answer.json());
    leaving.abort();
  }

  async *#events(body) {
    let before = -Infinity;
    for await (const event of events(body)) {
      if ("id" in event) {
        if (event.id <= before) throw new Mismatch(`id ${event.id} came behind ${before}`);
        before = event.id;
        this.#names.values.set("last", event.id);
      }
      yield event;
    }
  }

  async #stream(wanted, leave, came) {
    const expected = new Expected(wanted, this.#names);
    for await (const item of came) {
      expected.take(item);
      if (leave && expected.complete) return;
    }
    if (!expected.complete) {
      throw new Mismatch(`the stream ended before ${JSON.stringify(expected.missing[0])}`);
    }
    if (leave) throw new Mismatch("the stream ended");
  }
}

async function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Mismatch(`not within ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
