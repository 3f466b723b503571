// @ts-check
// A new job, from nothing, from a file, or with the settings of another one.

import { copyButton, h, replace, toast } from "../dom.js";
import { JobForm } from "../jobs/form.js";
import { baseModel } from "../models.js";
import { asCurl } from "../snippets.js";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context `params.file`: to train
 *   on; `params.from`: the id of the job whose settings are taken
 */
export async function render(root, { api, params, signal }) {
  const from = params.from ? await api.get(`/v1/fine_tuning/jobs/${encodeURIComponent(params.from)}`, { signal, exact: true }) : null;
  const model = await baseModel(api, signal);
  // The same body again, after an answer that was lost, makes no second job.
  let sent = { body: "", key: "" };
  const create = async (/** @type {any} */ body) => {
    const text = JSON.stringify(body);
    if (sent.body !== text) sent = { body: text, key: `console-${Date.now()}-${Math.random()}` };
    const job = await api.post("/v1/fine_tuning/jobs", body, { signal, headers: { "idempotency-key": sent.key } });
    form.sent();
    toast("The job is made.");
    location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
  };
  const form = new JobForm(api, signal, { model, file: params.file ?? "" }, create);
  if (from !== null && form.from !== from.id) form.take(from);
  replace(
    root,
    h("p", null, h("a", { href: "#/jobs" }, "Jobs")),
    h("h1", null, "New job"),
    from ? h("p", { class: "notice" }, "With the settings of ", h("a", { href: `#/jobs/${encodeURIComponent(from.id)}` }, from.id), ". Secrets of endpoints are not shown again: write them anew.") : null,
    form.element,
    h("div", { class: "actions" }, copyButton("Copy as curl", () => asCurl("/v1/fine_tuning/jobs", form.body()))),
  );
}
