// @ts-check
// The tenant's training jobs, newest first; those that are under way are looked at again and again.

import { button, h, replace, table } from "../dom.js";
import { time } from "../format.js";
import { hasEnded, progress, shortId, statusBadge } from "../jobs/words.js";
import { poll } from "../poll.js";

export const title = "Jobs";

const JOBS = "/v1/fine_tuning/jobs";
const LOOK_MS = 4000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  const listing = h("div");
  const silence = h("p", { class: "hint", role: "status" });
  let page = await api.page(JOBS, { query: { limit: 50 }, signal });
  let jobs = page.items;
  let drawn = "";

  function draw() {
    if (drawn === (drawn = JSON.stringify(jobs))) return;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.getAttribute("href");
    replace(listing, jobs.length ? table("Jobs", COLUMNS, jobs) : h("p", { class: "empty" }, "There is no job yet."));
    if (focused) /** @type {HTMLElement | null} */ (listing.querySelector(`a[href="${CSS.escape(focused)}"]`))?.focus();
  }

  const more = button("Show more", async () => {
    if (page.next === null) return;
    page = await page.next();
    jobs = [...jobs, ...page.items];
    more.hidden = page.next === null;
    draw();
  });
  more.hidden = page.next === null;
  replace(
    root,
    h("div", { class: "actions spread" }, h("h1", null, "Jobs"), h("a", { class: "button primary", href: "#/jobs/new" }, "New job")),
    listing,
    silence,
    h("p", null, more),
  );
  draw();
  const look = async () => {
    const { items } = await api.page(JOBS, { query: { limit: 50 }, signal });
    const newest = new Map(items.map((job) => [job.id, job]));
    const known = new Set(jobs.map((job) => job.id));
    jobs = [...items.filter((job) => !known.has(job.id)), ...jobs.map((job) => newest.get(job.id) ?? job)];
    draw();
    return true;
  };
  poll(look, signal, LOOK_MS, (error) => replace(silence, error ? `The list may be old: ${error.message} It is asked for again.` : ""));
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
