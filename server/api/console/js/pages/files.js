// @ts-check
// The tenant's files: uploads, and what there is.

import { button, confirmed, h, replace, toast, toastError } from "../dom.js";
import { fileUpload } from "../files/upload.js";
import { byteCount, time } from "../format.js";
import { listing } from "../listing.js";
import { download } from "../files/download.js";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  /** @type {import("../dom.js").Column<any>[]} */
  const columns = [
    { header: "Name", cell: (file) => h("a", { href: `#/files/${encodeURIComponent(file.id)}` }, file.filename) },
    { header: "Size", numeric: true, cell: (file) => byteCount(file.bytes) },
    { header: "Purpose", cell: (file) => file.purpose },
    { header: "Uploaded", cell: (file) => time(file.created_at) },
    { header: "Deleted by itself", cell: (file) => (file.expires_at === null ? h("span", { class: "quiet" }, "never") : time(file.expires_at)) },
    {
      header: "Actions",
      cell: (file) =>
        h("div", { class: "tight" }, download(api, file, signal), deleteButton(api, file, signal, list.look)),
    },
  ];

  const list = listing("Files", columns, () => api.page("/v1/files", { query: { limit: 50 }, signal }), () => "There is no file yet. Upload one above.");
  replace(
    root,
    h("h1", null, "Files"),
    h("section", { class: "card", "aria-label": "Upload" }, h("h2", null, "Upload"), fileUpload(api, signal, () => list.look().catch(toastError))),
    list.element,
  );
  await list.show();
}

/**
 * @param {import("../api.js").Api} api
 * @param {any} file
 * @param {AbortSignal} signal
 * @param {() => unknown} then
 */
export function deleteButton(api, file, signal, then) {
  return button(
    "Delete",
    async () => {
      const text = `${file.filename} (${byteCount(file.bytes)}) is gone for good. Jobs that have ended keep their results.`;
      if (!(await confirmed("Delete this file?", text, "Delete"))) return;
      await api.del(`/v1/files/${encodeURIComponent(file.id)}`, { signal });
      toast(`${file.filename} is deleted.`);
      await then();
    },
    { class: "small danger", "aria-label": `Delete ${file.filename}` },
  );
}
