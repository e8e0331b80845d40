// What the client does, against a server that serves the agents of the transcripts:
// talk.mjs URL, or talk.mjs URL CONVERSATION to follow one until a turn's end.
//
// Neighbours: client.mjs is what is shown; tests/e2e/test_strangers.py reads what is printed.

import { Client, Reading, Refused } from "./client.mjs";

/** The same send twice is one turn, read by two followers; one of them begins in its middle. */
async function twice(client) {
  const sending = {
    clientMessageId: crypto.randomUUID(),
    conversationId: crypto.randomUUID(),
    model: "listener",
  };
  const { conversationId } = sending;
  const first = await client.sendOnce("begin", sending);
  const again = await client.sendOnce("begin", sending);
  const seen = [];
  const reading = new Reading();
  for await (const frame of client.follow(conversationId, first.position)) {
    seen.push(frame.position);
    reading.add(frame);
    if (reading.text) break;
  }
  await client.sendOnce("to the end", { conversationId, onBusy: "steer" });
  for await (const frame of client.follow(conversationId, seen.at(-1))) {
    seen.push(frame.position);
    reading.add(frame);
    if (reading.isSealed) break;
  }
  const whole = new Reading();
  for await (const frame of client.follow(conversationId, first.position)) {
    whole.add(frame);
    if (whole.isSealed) break;
  }
  return {
    isOneTurn: first.turnId === again.turnId && again.duplicate,
    text: reading.text,
    isTheSame: whole.text === reading.text,
    isOnce: new Set(seen).size === seen.length,
  };
}

/** Both questions are answered; who is late is told so. */
async function answered(client) {
  const { conversationId, position } = await client.sendOnce("ask", { model: "asker" });
  const reading = new Reading();
  let late = "";
  for await (const frame of client.follow(conversationId, position)) {
    reading.add(frame);
    if (frame.type === "chat.request" && frame.kind === "approval") {
      await client.answer(conversationId, frame.requestId, { approved: true, optionId: "yes" });
    } else if (frame.type === "chat.request") {
      const response = { action: "accept", answers: { word: "please" } };
      await client.answer(conversationId, frame.requestId, response);
      try {
        await client.answer(conversationId, frame.requestId, { action: "cancel" });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        late = error.code;
      }
    }
    if (reading.isSealed) return { text: reading.text, late };
  }
}

/** A stop ends the turn and keeps what was said. */
async function stopped(client) {
  const { conversationId, turnId, position } = await client.sendOnce("begin", { model: "endless" });
  const reading = new Reading();
  let reply;
  for await (const frame of client.follow(conversationId, position)) {
    reading.add(frame);
    if (reading.text && reply === undefined) reply = await client.stop(conversationId, turnId);
    if (reading.isSealed) break;
  }
  return { text: reading.text, reason: reading.reason, abortedTurn: reply.abortedTurn };
}

/** Every frame of a conversation until a turn is sealed, a line each. */
async function follow(client, conversationId) {
  const reading = new Reading();
  for await (const frame of client.follow(conversationId)) {
    console.log(JSON.stringify(frame));
    reading.add(frame);
    if (reading.isSealed) return;
  }
}

const [url, conversation] = process.argv.slice(2);
const client = new Client(url);
if (conversation !== undefined) {
  await follow(client, conversation);
} else {
  const parts = {};
  for (const part of [twice, answered, stopped]) parts[part.name] = await part(client);
  console.log(JSON.stringify(parts));
}
