// @ts-check
// Downloading a file: through a request with the session's key, which a plain link would not have.

import { ApiError, isAbort } from "../api.js";
import { button, h, replace, save } from "../dom.js";
import { byteCount } from "../format.js";

/**
 * A button that saves a file, and shows how far it is.
 * @param {import("../api.js").Api} api
 * @param {any} file as the API has it
 * @param {AbortSignal} signal
 */
export function download(api, file, signal) {
  const words = h("span", { class: "quiet", role: "status" });
  const start = button(
    "Download",
    async () => {
      try {
        const answer = await api.raw(`/v1/files/${encodeURIComponent(file.id)}/content`, { signal });
        /** @type {BlobPart[]} */
        const chunks = [];
        let got = 0;
        const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body).getReader();
        for (;;) {
          const { done, value } = await reader.read().catch((error) => {
            throw isAbort(error) ? error : new ApiError(`The connection broke off before the end of ${file.filename}.`);
          });
          if (done) break;
          chunks.push(value);
          got += value.length;
          if (file.bytes > 1_000_000) replace(words, `${byteCount(got)} of ${byteCount(file.bytes)}`);
        }
        save(new Blob(chunks), file.filename);
      } finally {
        replace(words);
      }
    },
    { class: "small", "aria-label": `Download ${file.filename}` },
  );
  return h("span", null, start, " ", words);
}
