/**
 * What survives a reload: messages on their way, and the last rows of each conversation.
 *
 * Neighbours: `outbox` and `conversation` write through it and go on without it when it fails; an
 * application with a store of its own passes any object of the same shape.
 * Invariant: a full or broken store costs speed, never a message that is on the screen; what another
 * person left behind is neither shown nor sent.
 */

import { newId } from "./outbox.js";

/** @typedef {import("./outbox.js").Sending} Sending */
/** @typedef {import("./thread.js").Kept} Kept */

/**
 * Every promise may reject; `thread` resolves with undefined for what it does not have.
 * @typedef {object} Storage
 * @property {() => Promise<Sending[]>} sends that nobody else is sending, in the order of writing
 * @property {(sending: Sending) => Promise<void>} putSend
 * @property {(clientMessageId: string) => Promise<void>} deleteSend
 * @property {(conversationId: string) => Promise<Kept | undefined>} thread
 * @property {(conversationId: string, kept: Kept) => Promise<void>} putThread
 * @property {(conversationId: string) => Promise<void>} deleteThread
 * @property {() => Promise<void>} clear everything, e.g. when somebody signs out
 * @property {() => void} [close] the client ended: what it wrote is for the next one
 */

/** Of conversations that are kept: the ones used last. A row or two hundred each. */
const THREADS_MAX = 200;

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * A transaction is over when it is committed, not when its last request was answered: a full disk
 * shows at the commit.
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/**
 * IndexedDB, one database for each name. Different daemons or accounts on one origin need
 * different names.
 * @param {{name?: string, indexedDB?: IDBFactory, threadsMax?: number,
 *   locks?: LockManager | null | undefined}} [options]
 * @returns {Storage}
 */
export function browserStorage({
  name = "dispatch", indexedDB = globalThis.indexedDB, threadsMax = THREADS_MAX,
  locks = globalThis.navigator?.locks,
} = {}) {
  // A lock that is held as long as this page lives: messages of a page that lives are its own.
  const writer = `${name}:writer:${newId()}`;
  /** @type {() => void} */
  let release = () => {};
  const held = new Promise((resolve) => (release = () => resolve(undefined)));
  locks?.request(writer, () => held).catch(() => {});

  /** @type {Promise<IDBDatabase> | null} */
  let opening = null;

  function open() {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("sends", { keyPath: "order", autoIncrement: true })
        .createIndex("id", "sending.clientMessageId", { unique: true });
      request.result.createObjectStore("threads").createIndex("usedAt", "usedAt");
    };
    return answer(request).then((database) => {
      // Another tab with a newer version, or the browser's own wish: opened again when needed.
      database.onversionchange = () => database.close();
      database.onclose = () => (opening = null);
      return database;
    });
  }

  /**
   * @template T
   * @param {"sends" | "threads"} table
   * @param {IDBTransactionMode} mode
   * @param {(store: IDBObjectStore) => Promise<T>} work
   */
  async function within(table, mode, work) {
    opening ??= open();
    opening.catch(() => (opening = null));
    const transaction = (await opening).transaction(table, mode);
    const done = committed(transaction);
    // Both are awaited, so that neither rejects unheard.
    const [result] = await Promise.all([work(transaction.objectStore(table)), done]);
    return result;
  }

  /** Of many conversations, those not used for longest go. @param {number} most */
  const forgetOldest = (most) =>
    within("threads", "readwrite", async (store) => {
      let excess = (await answer(store.count())) - most;
      if (excess <= 0) return;
      const cursor = store.index("usedAt").openCursor();
      cursor.onsuccess = () => {
        if (excess-- <= 0) return;
        cursor.result?.delete();
        cursor.result?.continue();
      };
    });

  /** @param {string} id @param {Kept} kept */
  const put = (id, kept) =>
    within("threads", "readwrite", async (store) => {
      const newest = store.index("usedAt").openKeyCursor(null, "prev");
      // An order of use that needs no clock.
      const usedAt = Number((await answer(newest))?.key ?? 0) + 1;
      await answer(store.put({ usedAt, kept }, id));
    });

  return {
    sends: () =>
      within("sends", "readonly", async (store) => {
        return await answer(store.getAll());
      }).then(async (rows) => {
        const living = new Set((await locks?.query())?.held?.map((lock) => lock.name));
        const left = rows.filter((row) => row.writer === writer || !living.has(row.writer));
        return left.map((row) => ({ ...row.sending, isKept: true }));
      }),
    putSend: (sending) =>
      within("sends", "readwrite", async (store) => {
        const order = await answer(store.index("id").getKey(sending.clientMessageId));
        await answer(store.put({ sending, writer, ...(order === undefined ? {} : { order }) }));
      }),
    deleteSend: (id) =>
      within("sends", "readwrite", async (store) => {
        const order = await answer(store.index("id").getKey(id));
        if (order !== undefined) await answer(store.delete(order));
      }),
    thread: (id) =>
      within("threads", "readonly", async (store) => (await answer(store.get(id)))?.kept),
    putThread: async (id, kept) => {
      try {
        await put(id, kept);
      } catch {
        // Full: half of what is kept is worth less than what is on the screen.
        await forgetOldest(threadsMax >> 1);
        await put(id, kept);
      }
      await forgetOldest(threadsMax);
    },
    deleteThread: (id) =>
      within("threads", "readwrite", async (store) => void (await answer(store.delete(id)))),
    close: () => release(),
    clear: async () => {
      for (const table of /** @type {const} */ (["sends", "threads"])) {
        await within(table, "readwrite", async (store) => void (await answer(store.clear())));
      }
    },
  };
}
