/**
 * One real connection: from a credential to its loss.
 *
 * Neighbours: `session` opens one after the other; `tabs` puts a pipe to another tab in the place
 * of a WebSocket. Source: `protocol/native.md`, Part 2: who it is, hello, heartbeat.
 * Invariant: `hello` precedes every other frame, `lost` is called once and is the last; a peer that
 * gives no sign of life for a heartbeat and its answer time is lost, whatever the browser thinks.
 */

/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("../frames.js").Hello} Hello */

/**
 * What a WebSocket has that is needed here.
 * @typedef {object} Socket
 * @property {((event: any) => any) | null} onopen
 * @property {((event: any) => any) | null} onmessage `{data: string}`
 * @property {((event: any) => any) | null} onclose `{code: number, reason: string}`
 * @property {((event: any) => any) | null} onerror
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 */

/** @typedef {() => string | null | undefined | Promise<string | null | undefined>} Provider */

/**
 * @typedef {object} LinkOptions
 * @property {string} url of the daemon, http or https
 * @property {Provider} [token] asked for before each connection and request; null: none
 * @property {Provider} [ticket] asked for before each connection; a ticket serves once
 * @property {(url: string, protocols: string[]) => Socket} socket
 * @property {() => Promise<string | null>} refusal asked after a connection that failed early: the
 *   code why the daemon would not have us (`unauthorized`, `forbidden`), or null
 */

/**
 * @typedef {object} LinkListener
 * @property {(hello: Hello) => void} hello
 * @property {(frame: ServerFrame, bytes: number) => void} take
 * @property {(code: number, reason: string, final: string | null) => void} lost
 */

const SUBPROTOCOL = "dispatch.v1";
/** From the first byte to hello: a daemon that is just starting may take its time. */
const HELLO_MS = 10_000;
/** As the daemon's own heartbeat, where it does not say. */
const HEARTBEAT_SECONDS = 25;
const ANSWER_MS = 8_000;

/** @param {string} text */
function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export class Link {
  /** @type {Socket | null} */
  #socket = null;
  #isOver = false;
  #isWelcome = false;
  #heartbeatMs = HEARTBEAT_SECONDS * 1_000;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #options;
  #listener;

  /**
   * @param {LinkOptions} options
   * @param {LinkListener} listener
   */
  constructor(options, listener) {
    this.#options = options;
    this.#listener = listener;
    this.#expect(HELLO_MS, () => this.#fail("no hello in time"));
    // Not from within the constructor: whoever made this does not hold it yet.
    queueMicrotask(() => {
      this.#open().catch((error) => this.#fail(String(error?.message ?? error), error?.code));
    });
  }

  /** @param {string} text */
  send(text) {
    this.#socket?.send(text);
  }

  /** Ask for a sign of life now. */
  check() {
    if (!this.#isWelcome) return;
    this.send('{"type":"ping"}');
    this.#expect(ANSWER_MS, () => this.#fail("no answer to a ping in time"));
  }

  /** Hang up; `lost` is not called. */
  close() {
    this.#drop();
  }

  async #open() {
    const { url, token, ticket, socket } = this.#options;
    const address = new URL("ws", url.endsWith("/") ? url : `${url}/`);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = [SUBPROTOCOL];
    const [bearer, single] = await Promise.all([token?.(), ticket?.()]);
    if (this.#isOver) return;
    if (bearer) protocols.push(`dispatch.token.${base64url(bearer)}`);
    if (single) address.searchParams.set("ticket", single);
    const opened = socket(address.href, protocols);
    this.#socket = opened;
    // With no credential at all a guarded daemon waits for one: any other frame makes it say so.
    opened.onopen = () => opened.send('{"type":"ping"}');
    opened.onmessage = ({ data }) => this.#take(data);
    opened.onerror = null;
    opened.onclose = ({ code, reason }) => {
      this.#end(code, reason || `the connection ended with code ${code}`);
    };
  }

  /** @param {string} data */
  #take(data) {
    /** @type {ServerFrame} */
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return this.#fail("the daemon sent what is no JSON");
    }
    if (frame.type === "hello") {
      this.#isWelcome = true;
      this.#heartbeatMs = (frame.heartbeatSeconds ?? HEARTBEAT_SECONDS) * 1_000;
    }
    if (!this.#isWelcome) return;
    this.#expect(this.#heartbeatMs, () => this.check());
    if (frame.type === "hello") this.#listener.hello(frame);
    else this.#listener.take(frame, data.length);
  }

  /**
   * The only timer of a link: what happens when nothing comes for so long.
   * @param {number} ms
   * @param {() => void} late
   */
  #expect(ms, late) {
    clearTimeout(this.#timer);
    if (!this.#isOver) this.#timer = setTimeout(late, ms);
  }

  /**
   * @param {string} reason
   * @param {string} [final]
   */
  #fail(reason, final) {
    const isFinal = final === "unauthorized" || final === "forbidden";
    this.#end(1006, reason, isFinal ? final : null);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {string | null} [final]
   */
  #end(code, reason, final = null) {
    if (this.#isOver) return;
    this.#drop();
    const tell = (/** @type {string | null} */ why) => this.#listener.lost(code, reason, why);
    // A browser does not tell a page that its upgrade was answered 401: ask where one is told.
    if (this.#isWelcome || final !== null || code !== 1006) tell(final);
    else this.#options.refusal().then(tell);
  }

  #drop() {
    const socket = this.#socket;
    this.#isOver = true;
    this.#socket = null;
    clearTimeout(this.#timer);
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A browser may take a minute to close a dead connection: nobody waits for that.
    socket.onerror = () => {};
    socket.close();
  }
}

