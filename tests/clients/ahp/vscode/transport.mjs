// A transport for VS Code's clients: Node's WebSocket, one JSON object a message.
//
// Neighbours: `client.mjs`. It can narrow the versions that the client offers, so that one client
// is heard in each of the versions it knows, and it can break as a network does.
import { Listeners } from "./listeners.mjs";

export class Transport {
  clientConnectionKind = "websocket";
  #messages = new Listeners();
  #closes = new Listeners();
  #offers;
  #socket;
  #url;

  constructor(url, offers) {
    this.#url = url;
    this.#offers = offers;
  }

  onMessage = (listener) => this.#messages.add(listener);
  onClose = (listener) => this.#closes.add(listener);

  async connect() {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    await new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve, { once: true });
      socket.addEventListener("close", () => reject(new Error("it was closed")), { once: true });
    });
    // Each in a turn of its own: what waits for an answer goes on before the next message, even
    // where several came in one packet.
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      setImmediate(() => this.#messages.tell(message));
    });
    socket.addEventListener("close", () => this.#closes.tell());
  }

  send(message) {
    if (message.method === "initialize" && this.#offers !== undefined) {
      const known = message.params.protocolVersions.filter((one) => this.#offers.includes(one));
      message = { ...message, params: { ...message.params, protocolVersions: known } };
    }
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  dispose() {
    this.#socket?.close();
  }
}
