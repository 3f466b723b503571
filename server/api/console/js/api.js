// @ts-check
// Requests to the server that this page came from: with the key of this browser session, errors as ApiError.

import { parsed } from "./json_text.js";

/** The server's address: this file is at <server>/console/js/api.js. */
export const SERVER = new URL("../../", import.meta.url);

const KEY = "tinylora.key";
const TENANT = "tinylora.tenant";

/** An error that the server answered, or that kept its answer from coming (then `status` is 0). */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, param?: string | null, requestId?: string | null}} [about]
   */
  constructor(message, { status = 0, code = null, param = null, requestId = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = requestId;
  }
}

let signedIn = new AbortController();

/** What the person has signed in with: it is in this tab's session storage and nowhere else. */
export const session = {
  /** @returns {string} the key, "" for none */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  },
  /** @returns {string} the tenant for whom an operator acts, "" for the key's own */
  get tenant() {
    return sessionStorage.getItem(TENANT) ?? "";
  },
  /** @param {string} key @param {string} [tenant] */
  start(key, tenant = "") {
    this.end();
    sessionStorage.setItem(KEY, key);
    sessionStorage.setItem(TENANT, tenant);
  },
  /** Aborted when it ends. @returns {AbortSignal} */
  get signal() {
    return signedIn.signal;
  },
  /** Also what was written in forms is forgotten: the next key may be somebody else's. */
  end() {
    sessionStorage.clear();
    signedIn.abort();
    signedIn = new AbortController();
  },
};

/**
 * @typedef {object} Options
 * @property {Record<string, unknown>} [query] parameters; lists are repeated, null and undefined left out
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {boolean} [exact] numbers of the answer are as `parsed` has them
 */

/**
 * The address of a path of the API.
 * @param {string} path such as "/v1/adapters"
 * @param {Record<string, unknown>} [query]
 */
export function address(path, query = {}) {
  // A browser would leave the path for another one.
  if (path.split("/").some((part) => /^(\.|%2e){1,2}$/i.test(part))) throw new ApiError(`There is nothing at ${path}: no name has a part of dots alone.`);
  const url = new URL(path.replace(/^\//, ""), SERVER);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") url.searchParams.append(name, String(one));
    }
  }
  return url;
}

/** `headers` with the session's key and tenant. @param {Record<string, string>} [headers] */
export function signedHeaders(headers = {}) {
  const signed = new Headers(headers);
  if (session.key) signed.set("authorization", `Bearer ${session.key}`);
  if (session.key && session.tenant) signed.set("openai-organization", session.tenant);
  return signed;
}

/**
 * One request. Throws ApiError; an AbortError passes as it is.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body] FormData, Blob and bytes are sent as they are, anything else as JSON
 * @param {Options} [options]
 * @returns {Promise<Response>} an answer of 2xx
 */
async function send(method, path, body, { query, headers = {}, signal } = {}) {
  const sent = signedHeaders(headers);
  const asItIs = body instanceof FormData || body instanceof Blob || body instanceof ArrayBuffer || ArrayBuffer.isView(body);
  if (body !== undefined && !asItIs) sent.set("content-type", "application/json");
  const url = address(path, query);
  let answer;
  try {
    answer = await fetch(url, {
      method,
      headers: sent,
      body: body === undefined || asItIs ? /** @type {BodyInit | undefined} */ (body) : JSON.stringify(body),
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw unreachable();
  }
  if (!answer.ok) throw await errorOf(answer);
  return answer;
}

/** The error of an answer that never came. */
export const unreachable = () => new ApiError("The server cannot be reached. Is it running, and this computer online?");

/** The error that an answer is. @param {Response} answer @returns {Promise<ApiError>} */
export async function errorOf(answer) {
  const requestId = answer.headers.get("x-request-id");
  const text = await answer.text().catch(() => "");
  /** @type {any} */
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // A proxy's page, say.
  }
  const message = typeof error.message === "string" && error.message ? error.message : plainMessage(answer);
  return new ApiError(message, { status: answer.status, code: error.code ?? null, param: error.param ?? null, requestId });
}

/** @param {Response} answer */
function plainMessage(answer) {
  return `The server, or a proxy before it, answered ${answer.status} ${answer.statusText || ""}`.trim() + ".";
}

/** A name in a path: its slashes stay. @param {string} name */
export function inPath(name) {
  return name.split("/").map(encodeURIComponent).join("/");
}

/** Whether `error` says that the request was stopped by us. @param {unknown} error */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/**
 * The events of a text/event-stream, their data parsed as JSON; ends at [DONE]. An error event is thrown.
 * @param {Response} answer
 * @returns {AsyncGenerator<any>}
 */
export async function* eventsOf(answer) {
  if (answer.body === null) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw isAbort(error) ? error : new ApiError("The connection broke off before the answer's end.");
      });
      rest += value ?? "";
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = done ? "" : (blocks.pop() ?? "");
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length === 0) continue;
        const data = lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message ?? "The answer broke off.", { code: event.error.code });
        yield event;
      }
      if (done) throw new ApiError("The answer broke off before its end.");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What an answer says. @param {Response} answer @param {{exact?: boolean}} [options] @returns {Promise<any>} */
export async function jsonOf(answer, { exact } = {}) {
  try {
    return exact ? parsed(await answer.text()) : await answer.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The answer broke off, or a proxy before the server put something else in its place.");
  }
}

export const api = {
  /** @param {string} path @param {Options} [options] @returns {Promise<any>} */
  get: async (path, options) => jsonOf(await send("GET", path, undefined, options), options),
  /** @param {string} path @param {unknown} [body] @param {Options} [options] @returns {Promise<any>} */
  post: async (path, body, options) => jsonOf(await send("POST", path, body, options), options),
  /** @param {string} path @param {unknown} body @param {Options} [options] @returns {Promise<any>} */
  put: async (path, body, options) => jsonOf(await send("PUT", path, body, options)),
  /** @param {string} path @param {unknown} body @param {Options} [options] @returns {Promise<any>} */
  patch: async (path, body, options) => jsonOf(await send("PATCH", path, body, options)),
  /** @param {string} path @param {Options} [options] @returns {Promise<any>} */
  del: async (path, options) => jsonOf(await send("DELETE", path, undefined, options)),
  /** The whole answer, for its headers and bytes. @param {string} path @param {Options} [options] */
  raw: (path, options) => send("GET", path, undefined, options),
  /**
   * POST, and the events of the answer as they come.
   * @param {string} path @param {unknown} body @param {Options} [options] @returns {AsyncGenerator<any>}
   */
  async *stream(path, body, options) {
    yield* eventsOf(await send("POST", path, body, options));
  },
  /**
   * One page of a listing and, in `next`, what gets the next one: null at the end.
   * @param {string} path @param {Options} [options]
   * @returns {Promise<{items: any[], next: (() => Promise<any>) | null}>}
   */
  async page(path, options = {}) {
    const got = await api.get(path, options);
    const last = got.last_id ?? got.data.at(-1)?.id;
    const more = got.has_more && last ? () => api.page(path, { ...options, query: { ...options.query, after: last } }) : null;
    return { items: got.data, next: more };
  },
};

/**
 * The items of a page and of those behind it, until there are `most`.
 * @param {{items: any[], next: (() => Promise<any>) | null}} page as api.page gives it
 * @param {number} most
 * @returns {Promise<any[]>}
 */
export async function itemsOf(page, most) {
  const items = [...page.items];
  for (let { next } = page; next !== null && items.length < most; ) {
    const behind = await next();
    items.push(...behind.items);
    next = behind.next;
  }
  return items;
}

/** @typedef {typeof api} Api */
