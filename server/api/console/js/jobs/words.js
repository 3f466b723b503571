// @ts-check
// A job in words: its state, how far it is, how long it takes.

import { h } from "../dom.js";
import { number } from "../format.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const KINDS = /** @type {Record<string, string>} */ ({ succeeded: "good", failed: "bad" });

/** @param {any} job */
export const hasEnded = (job) => ENDED.includes(job.status);

/** @param {any} job */
export const statusBadge = (job) => h("span", { class: `badge ${KINDS[job.status] ?? ""}` }, job.status.replaceAll("_", " "));

/** @param {any} job @returns {HTMLElement} */
export function progress(job) {
  if (!job.total_steps) return h("span", { class: "quiet" }, hasEnded(job) ? "–" : "not begun");
  const words = `${number(job.step ?? 0)} of ${number(job.total_steps)}`;
  return h("span", { class: "progress" }, h("progress", { max: job.total_steps, value: job.step ?? 0, "aria-label": `Steps of ${job.id}` }), " ", words);
}

/** @param {number} seconds */
export function span(seconds) {
  const minutes = Math.max(0, Math.round(seconds / 60));
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The last part of its name, which its owner gave it; else what is left of its id. @param {any} job @returns {string} */
export const shortId = (job) => job.id.replace(/^ftjob-/, "").slice(0, 12);
