// @ts-check
// What the pages of responses say about one: its state, its short name, and what can be done with it.

import { button, confirmed, h, toast } from "../dom.js";

export const RESPONSES = "/v1/responses";
export const STATES = ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"];

/** @param {{status: string}} response */
export const isRunning = (response) => response.status === "queued" || response.status === "in_progress";

/** @param {string} id */
export const pathOf = (id) => `${RESPONSES}/${encodeURIComponent(id)}`;

/** @param {string} id @param {string} [words] */
export function responseLink(id, words) {
  return h("a", { href: `#/responses/${encodeURIComponent(id)}`, title: id }, words ?? h("code", { class: "id" }, `…${id.slice(-8)}`));
}

/** @param {{status: string}} response */
export function stateBadge({ status }) {
  const kind = { completed: "good", failed: "bad" }[status] ?? "";
  return h("span", { class: `badge ${kind}` }, status.replaceAll("_", " "));
}

/**
 * Cancel, for one that runs in the background, and delete.
 * @param {import("../api.js").Api} api
 * @param {any} response
 * @param {AbortSignal} signal
 * @param {{changed: (response: any) => unknown, deleted: () => unknown}} then
 */
export function actionsOf(api, response, signal, { changed, deleted }) {
  const name = `…${response.id.slice(-8)}`;
  async function cancel() {
    if (!(await confirmed("Cancel this response?", "It ends without an answer, and cannot be gone on from.", "Cancel the response"))) return;
    await changed(await api.post(`${pathOf(response.id)}/cancel`, undefined, { signal }));
  }
  async function remove() {
    const text = `${response.id} is gone for good${isRunning(response) ? ", and what runs of it ends" : ""}. Responses that went on from it keep the whole conversation.`;
    if (!(await confirmed("Delete this response?", text, "Delete"))) return;
    await api.del(pathOf(response.id), { signal });
    toast(`${name} is deleted.`);
    await deleted();
  }
  return h(
    "div",
    { class: "tight" },
    response.background && isRunning(response) ? button("Cancel", cancel, { class: "small", "aria-label": `Cancel ${name}` }) : null,
    button("Delete", remove, { class: "small danger", "aria-label": `Delete ${name}` }),
  );
}
