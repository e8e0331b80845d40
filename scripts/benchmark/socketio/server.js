// A Socket.IO relay as its manual would have it: rooms, one emit to the room per delta.
//
// Words of the generator: S subscribes (and replays), P publishes, T has the server itself speak a
// whole turn. WebSocket only and no compression, so that it is compared on the same work.
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});
const logs = new Map();
const FILLER = "lorem ipsum dolor sit amet ";

function log(conversation) {
  let deltas = logs.get(conversation);
  if (!deltas) logs.set(conversation, (deltas = []));
  return deltas;
}

function publish(conversation, delta) {
  log(conversation).push(delta);
  io.to(conversation).emit("D", delta);
}

function delta(conversation, number, bytes) {
  const seq = String(number).padStart(8, "0");
  const ts = String(process.hrtime.bigint()).padStart(16, "0");
  const made = { type: "delta", conv: conversation, turn: "t1", seq, ts, text: "" };
  const room = Math.max(0, bytes - JSON.stringify(made).length);
  made.text = FILLER.repeat(Math.ceil(room / FILLER.length)).slice(0, room);
  return made;
}

function speak(conversation, number, count, bytes, pauseUs) {
  // A hundred at a time: the loop has to write what was emitted.
  const end = pauseUs ? number + 1 : Math.min(count, number + 100);
  for (; number < end; number++) publish(conversation, delta(conversation, number, bytes));
  if (number >= count) return;
  const next = () => speak(conversation, number, count, bytes, pauseUs);
  if (pauseUs) setTimeout(next, pauseUs / 1000);
  else setImmediate(next);
}

io.on("connection", (socket) => {
  socket.on("S", (conversation) => {
    socket.emit("A");
    for (const old of log(conversation)) socket.emit("D", old);
    socket.join(conversation);
  });
  socket.on("P", publish);
  socket.on("T", (conversation, count, bytes, pauseUs) => {
    logs.set(conversation, []);
    speak(conversation, 0, count, bytes, pauseUs);
  });
});

http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
