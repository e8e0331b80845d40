/**
 * What is asked once: the daemon's routes, as JSON.
 *
 * Neighbours: `conversation` reads pages of history with it, `directory`, `groups` and `chats`
 * everything that is no stream. Same-origin requests carry the session cookie by themselves.
 * Invariant: a reply is JSON of a route, or a `DispatchError` with the daemon's code.
 */

import { DispatchError } from "./failures.js";

/** Where a refusal has no code of its own: a proxy's. @type {Record<number, string>} */
const CODES = { 401: "unauthorized", 403: "forbidden", 404: "not_found", 410: "gone" };

export class Http {
  #base;
  #token;
  #fetch;

  /**
   * @param {string} url of the daemon
   * @param {import("./link.js").Provider} [token]
   * @param {typeof fetch} [fetcher]
   */
  constructor(url, token, fetcher = (...request) => fetch(...request)) {
    this.#base = url.endsWith("/") ? url : `${url}/`;
    this.#token = token;
    this.#fetch = fetcher;
  }

  /**
   * @param {string} path without a leading slash
   * @param {Record<string, string | number | undefined>} [query]
   * @returns {Promise<any>}
   */
  get(path, query = {}) {
    const pairs = Object.entries(query).filter(([, value]) => value !== undefined);
    const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]));
    return this.request("GET", pairs.length > 0 ? `${path}?${text}` : path);
  }

  /**
   * @param {string} path
   * @param {unknown} [body]
   * @returns {Promise<any>}
   */
  post(path, body = {}) {
    return this.request("POST", path, body);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   * @returns {Promise<any>} the reply's JSON
   */
  async request(method, path, body) {
    const token = await this.#token?.();
    /** @type {Record<string, string>} */
    const headers = {};
    if (token) headers["authorization"] = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    // Of nothing it is nothing.
    const content = JSON.stringify(body);
    let response, reply;
    try {
      response = await this.#fetch(new URL(path, this.#base), { method, headers, body: content });
      reply = await response.text();
    } catch (error) {
      throw new DispatchError("unreachable", String(error), { retryable: true });
    }
    let json;
    try {
      json = JSON.parse(reply);
    } catch {
      if (response.ok) throw new DispatchError("invalid", `${path} did not answer with JSON`);
    }
    if (response.ok) return json;
    const { status } = response;
    const code = json?.code ?? CODES[status] ?? "refused";
    const seconds = Number(response.headers.get("retry-after"));
    throw new DispatchError(code, json?.error ?? `${path} answered ${status}`, {
      retryable: status === 429 || status >= 500,
      retryAfterMs: seconds > 0 ? seconds * 1_000 : undefined,
    });
  }
}
