// @ts-check
// Uploading training files: each with its progress, a way to stop it, and what is wrong with its lines at the end.

import { ApiError, address, errorOf, isAbort, jsonOf, session, signedHeaders } from "../api.js";
import { button, field, h, replace, toast, toastError } from "../dom.js";
import { dropZone } from "../drop_zone.js";
import { checkedFile } from "./check.js";
import { byteCount } from "../format.js";

const AT_ONCE = 2;
const EXPIRIES = [["", "Never"], ["86400", "After a day"], ["604800", "After a week"], ["2592000", "After 30 days"]];

/** Uploads that have not ended, on whatever page they were begun. */
let unfinished = 0;
window.addEventListener("beforeunload", (event) => {
  if (unfinished) event.preventDefault();
});

/**
 * An upload goes on when another page of the console is opened, and says so when it has ended; not with another key.
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {(file: any) => void} stored called with each file that the server has stored
 * @param {string} [first] the purpose that is chosen at first
 */
export function fileUpload(api, signal, stored, first = "fine-tune") {
  const purpose = h("select", { value: first }, ["fine-tune", "batch", "evals", "user_data"].map((one) => h("option", { value: one }, one)));
  const expiry = h("select", null, EXPIRIES.map(([seconds, words]) => h("option", { value: seconds }, words)));
  const list = h("ul", { class: "uploads", "aria-label": "Uploads" });
  /** @type {(() => Promise<void>)[]} */
  const waiting = [];
  let running = 0;

  async function next() {
    const task = running < AT_ONCE ? waiting.shift() : undefined;
    if (task === undefined) return;
    running += 1;
    await task();
    running -= 1;
    next();
  }

  /** @param {File} file */
  function add(file) {
    const signedIn = session.signal;
    const about = { purpose: purpose.value, expires: expiry.value, key: crypto.randomUUID?.() ?? String(Math.random()) };
    const item = h("li");
    list.prepend(item);
    const queue = () => {
      const stop = new AbortController();
      const ends = AbortSignal.any([stop.signal, signedIn]);
      const bar = h("progress", { max: Math.max(file.size, 1), value: 0, "aria-label": `Upload of ${file.name}` });
      const words = h("span", { class: "quiet" }, "waits");
      const end = button("Stop", () => stop.abort(), { class: "small" });
      replace(item, h("strong", null, file.name), " ", words, bar, end);
      unfinished += 1;
      const task = async () => {
        try {
          const made = await sendFile(file, about, ends, (sent) => {
            bar.value = sent;
            replace(words, sent < file.size ? `${byteCount(sent)} of ${byteCount(file.size)}` : "is being stored");
          });
          if (signal.aborted) return toast(`${file.name} is stored.`);
          const checked = made.purpose === "fine-tune" ? checkedFile(api, made.id, signal) : null;
          replace(item, h("a", { href: `#/files/${made.id}` }, file.name), ` ${byteCount(made.bytes)}, stored as ${made.id}. `, checked);
          stored(made);
        } catch (error) {
          if (signedIn.aborted && !signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve)); // The page is about to go.
          const stopped = signedIn.aborted ? "The upload has ended with its key." : "The upload was stopped.";
          const why = isAbort(error) ? stopped : /** @type {Error} */ (error).message;
          if (signal.aborted) return toastError(new Error(`${file.name} was not stored: ${why}`));
          replace(item, h("strong", null, file.name), " ", h("span", { class: "wrong", role: "alert" }, why), " ", button("Try again", queue, { class: "small" }));
        } finally {
          unfinished -= 1;
        }
      };
      waiting.push(task);
      // One that waits need not be waited for.
      ends.addEventListener("abort", () => {
        const at = waiting.indexOf(task);
        if (at !== -1) waiting.splice(at, 1).forEach((one) => one());
      });
      next();
    };
    queue();
  }

  const zone = dropZone("Drop files here, or choose them", (files) => files.forEach(add), {
    accept: ".jsonl,.json,.txt,application/jsonl",
    hint: "JSONL: one JSON object on each line. Those to train on have messages, and each is checked when the file is there.",
  });
  return h("div", null, h("div", { class: "row" }, field("Purpose", purpose, "Jobs train on fine-tune, batches ask what batch has."), field("Deleted by itself", expiry, "Counted from the upload.")), zone, list);
}

/**
 * Store one file. Design decision: XMLHttpRequest, because fetch does not tell how much of a body was sent.
 * @param {File} file
 * @param {{purpose: string, expires: string, key: string}} about `key`: the same upload again is stored once
 * @param {AbortSignal} signal
 * @param {(bytes: number) => void} progress
 * @returns {Promise<any>} the file's object
 */
function sendFile(file, about, signal, progress) {
  const parts = new FormData();
  parts.append("purpose", about.purpose);
  if (about.expires) {
    parts.append("expires_after[anchor]", "created_at");
    parts.append("expires_after[seconds]", about.expires);
  }
  parts.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("POST", address("/v1/files"));
    for (const [name, value] of signedHeaders({ "idempotency-key": about.key })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => progress(Math.min(event.loaded, file.size)));
    request.addEventListener("load", async () => {
      const answer = new Response(request.responseText, { status: request.status, statusText: request.statusText });
      resolve(answer.ok ? jsonOf(answer) : Promise.reject(await errorOf(answer)));
    });
    request.addEventListener("error", () => reject(new ApiError("The server cannot be reached, or it ended the upload. Is the file changed since it was chosen?")));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    signal.addEventListener("abort", stop);
    if (signal.aborted) reject(new DOMException("stopped", "AbortError"));
    else request.send(parts);
  });
}
