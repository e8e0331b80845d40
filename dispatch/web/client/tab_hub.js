/**
 * The tab that has the socket, as the other tabs see it: a daemon that speaks `dispatch.v1`.
 *
 * Neighbours: `tabs` carries what is said; the stores of the tab's own `Client` are what joining
 * tabs are told, by the protocol's own means: a snapshot, then what follows it.
 * Invariant: what a tab is told and where its frames begin are of one synchronous step, so nothing
 * is missed between them; what comes twice has a position and is dropped.
 */

/** @typedef {import("../frames.js").ServerFrame} ServerFrame */
/** @typedef {import("../frames.js").ClientFrame} ClientFrame */
/** @typedef {import("./tabs.js").TabMessage} TabMessage */
/** @typedef {import("../client.js").Client} Client */

/**
 * A topic that tabs follow through us: `live` are those who know what is true at present.
 * @typedef {object} Relay
 * @property {Set<string>} live
 * @property {Map<string, {ref?: string | number | undefined, after?: unknown}>} joining
 * @property {() => void} end
 */

/** Replies to this tab's own subscriptions. */
const OWN = new Set(["chat.subscribed", "chat.history", "chat.accepted", "chat.stopped", "chat.forked",
  "chat.error", "group.subscribed", "group.accepted", "group.stopped", "group.error"]);

export class TabHub {
  /** @type {Set<string>} */
  #tabs = new Set();
  /** @type {Set<string>} tabs that wait for this one to be online */
  #knocking = new Set();
  /** @type {Map<string, Relay>} by topic */
  #relays = new Map();
  #client;
  #post;
  #outlived;
  /** @type {() => void} */
  #end;

  /**
   * @param {Client} client
   * @param {(message: TabMessage) => void} post
   * @param {(tab: string) => void} outlived asks to be told, by `gone`, when a tab ends
   */
  constructor(client, post, outlived) {
    this.#client = client;
    this.#post = post;
    this.#outlived = outlived;
    const unfollow = client.session.follow({
      key: "tabs",
      // Who waits knocks again.
      frames: () => (this.#knocking.clear(), post({ type: "online" }), []),
      take() {},
      lost: () => this.#lost(),
    });
    const unsubscribe = client.connection.subscribe(() => this.#changed());
    this.#end = () => (unfollow(), unsubscribe());
  }

  /** @param {TabMessage} message */
  take(message) {
    const { session } = this.#client;
    if (message.type === "open" && !session.isOnline) {
      this.#knocking.add(message.tab);
      // Somebody signed in there, or finds out that nobody is: either way it is worth a try.
      if (session.state.snapshot.phase === "refused") session.connect();
    } else if (message.type === "open") {
      if (!this.#tabs.has(message.tab)) this.#outlived(message.tab);
      this.#tabs.add(message.tab);
      this.#tell([message.tab], session.state.snapshot.hello);
    } else if (message.type === "close") {
      this.gone(message.tab);
    } else if (message.type === "frame" && this.#tabs.has(message.tab)) {
      this.#frame(message.tab, JSON.parse(message.text));
    }
  }

  /** Who waits for a connection that is refused asks for the reason itself. */
  #changed() {
    if (this.#client.session.state.snapshot.phase !== "refused" || this.#knocking.size === 0) return;
    this.#post({ type: "end", to: [...this.#knocking] });
    this.#knocking.clear();
  }

  /** A tab ended. @param {string} tab */
  gone(tab) {
    this.#tabs.delete(tab);
    this.#knocking.delete(tab);
    for (const topic of [...this.#relays.keys()]) this.#leave(topic, tab);
  }

  /** Serve nobody any more. */
  close() {
    this.#lost();
    this.#end();
  }

  #lost() {
    const to = [...this.#tabs];
    for (const tab of to) this.gone(tab);
    this.#post({ type: "end", to });
  }

  /** @param {string[]} to @param {unknown} frame */
  #tell(to, frame) {
    if (to.length > 0) this.#post({ type: "text", to, text: JSON.stringify(frame) });
  }

  /**
   * @param {string} tab
   * @param {any} frame
   */
  #frame(tab, frame) {
    const { session } = this.#client;
    switch (frame.type) {
      case "ping":
        return this.#tell([tab], { type: "pong" });
      case "chat.subscribe":
        return this.#join(`chat:${frame.conversationId}`, tab, frame);
      case "chat.unsubscribe":
        return this.#leave(`chat:${frame.conversationId}`, tab);
      case "subscribe":
        return this.#tell([tab], this.#client.conversation(frame.conversationId).asSurface());
      case "unsubscribe":
        return;
      case "conversations.watch":
        return this.#join("account", tab, frame);
      case "group.subscribe":
        return this.#join(`group:${frame.groupId}`, tab, frame);
      case "group.unsubscribe":
        return this.#leave(`group:${frame.groupId}`, tab);
      case "chats.subscribe":
        return this.#join("chats", tab, frame);
      case "chats.unsubscribe":
        return this.#leave("chats", tab);
    }
    const { ref, ...asked } = frame;
    if (ref === undefined) return session.tell(asked);
    const taken = (/** @type {ServerFrame} */ reply) => this.#tell([tab], { ...reply, ref });
    session.request(asked, { taken }).catch(({ code, message, retryable, retryAfterMs }) => {
      // Lost with the connection: the tab's own pipe ends with it, and it knows what to repeat.
      if (code === "connection_lost" || code === "unreachable" || code === "closed") return;
      this.#tell([tab], { type: "chat.error", code, message, retryable, retryAfterMs, ref });
    });
  }

  /**
   * @param {string} topic
   * @param {string} tab
   * @param {any} frame
   */
  #join(topic, tab, frame) {
    const relay = this.#relays.get(topic) ?? this.#relay(topic, frame);
    relay.live.delete(tab);
    relay.joining.set(tab, { ref: frame.ref, after: frame.after ?? frame.cursor });
    this.#welcome(topic, relay);
  }

  /** @param {string} topic @param {string} tab */
  #leave(topic, tab) {
    const relay = this.#relays.get(topic);
    if (!relay) return;
    relay.live.delete(tab);
    relay.joining.delete(tab);
    if (relay.live.size + relay.joining.size > 0) return;
    this.#relays.delete(topic);
    relay.end();
  }

  /**
   * @param {string} topic
   * @param {any} frame the subscription that somebody asked for
   * @returns {Relay}
   */
  #relay(topic, frame) {
    const { session } = this.#client;
    const isChat = topic.startsWith("chat:");
    // Our own store first, so that it has applied a frame before it is passed on.
    const close = isChat ? this.#client.conversation(frame.conversationId).open() : () => {};
    const { ref: _, ...asked } = frame;
    const stop = session.follow({
      key: topic,
      frames: () => (isChat ? [] : [asked]),
      take: (told) => this.#forward(topic, told),
      lost() {},
    });
    const relay = { live: new Set(), joining: new Map(), end: () => (stop(), close()) };
    this.#relays.set(topic, relay);
    return relay;
  }

  /** Tell those who join what is true now, if it is known. @param {string} topic @param {Relay} relay */
  #welcome(topic, relay) {
    const id = topic.slice(topic.indexOf(":") + 1);
    const chat = topic.startsWith("chat:") ? this.#client.conversation(id) : null;
    const snapshot = chat?.asSnapshot() ?? null;
    for (const [tab, { ref, after }] of relay.joining) {
      if (chat !== null) {
        if (chat.snapshot.phase === "gone") {
          this.#tell([tab], { type: "conversation.deleted", conversationId: id });
        }
        if (snapshot === null) return;
        const { position, lastSeq, superseded, turn } = snapshot;
        const recovered = after === position;
        const status = turn === undefined ? "idle" : "active";
        const head = { conversationId: id, position, lastSeq, superseded, status };
        if (ref !== undefined) this.#tell([tab], { type: "chat.subscribed", recovered, ref, ...head });
        if (!recovered) this.#tell([tab], snapshot);
      } else if (topic === "chats") {
        const event = { type: "chats.event", sessionId: null, timestamp: "", data: { cursor: null } };
        this.#tell([tab], { ...event, event: "connected" });
        this.#tell([tab], { ...event, event: "resync_required" });
      } else if (topic.startsWith("group:")) {
        const event = { kind: "progress", id: "resume-gap", groupId: id, cursor: null };
        this.#tell([tab], { type: "group.subscribed", groupId: id, cursor: null, ref });
        this.#tell([tab], { type: "group.event", groupId: id, event });
      }
      relay.joining.delete(tab);
      relay.live.add(tab);
    }
  }

  /** @param {string} topic @param {ServerFrame} frame */
  #forward(topic, frame) {
    const relay = this.#relays.get(topic);
    if (!relay) return;
    if (frame.type === "chat.subscribed") {
      // Our own place moved: everybody is told the whole again.
      for (const tab of relay.live) relay.joining.set(tab, {});
      relay.live.clear();
    }
    // What is passed on is passed on to those who were told what precedes it.
    const isDeletion = frame.type === "conversation.deleted";
    const to = isDeletion ? [...relay.live, ...relay.joining.keys()] : [...relay.live];
    if (!OWN.has(frame.type)) this.#tell(to, frame);
    this.#welcome(topic, relay);
  }
}
