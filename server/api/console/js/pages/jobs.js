// @ts-check
// The tenant's training jobs, newest first; those that are under way are looked at again and again.

import { h, replace } from "../dom.js";
import { time } from "../format.js";
import { hasEnded, progress, shortId, statusBadge } from "../jobs/words.js";
import { listing } from "../listing.js";
import { poll } from "../poll.js";

const JOBS = "/v1/fine_tuning/jobs";
const LOOK_MS = 4000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  const silence = h("p", { class: "hint", role: "status" });
  const none = () => "There is no job yet. Upload a file to train on, and begin one with New job.";
  const list = listing("Jobs", COLUMNS, () => api.page(JOBS, { query: { limit: 50 }, signal }), none);
  replace(
    root,
    h("div", { class: "actions spread" }, h("h1", null, "Jobs"), h("a", { class: "button primary", href: "#/jobs/new" }, "New job")),
    list.element,
    silence,
  );
  await list.show();
  poll(list.look, signal, LOOK_MS, silence);
}

/** @type {import("../dom.js").Column<any>[]} */
const COLUMNS = [
  { header: "Job", cell: (job) => h("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, shortId(job)) },
  { header: "State", cell: statusBadge },
  { header: "Steps", cell: progress },
  { header: "Method", cell: (job) => job.method.type },
  { header: "Model", cell: (job) => job.model },
  { header: "Result", cell: (job) => job.fine_tuned_model ?? (job.error ? h("span", { class: "wrong" }, job.error.message.slice(0, 120)) : h("span", { class: "quiet" }, hasEnded(job) ? "none" : "not yet")) },
  { header: "Made", cell: (job) => time(job.created_at) },
];
