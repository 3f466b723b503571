// @ts-check
// One job, live: how far it is, its curves, what was said against it, its checkpoints, samples and settings.

import { button, confirmed, copyButton, h, replace, table, toast } from "../dom.js";
import { digits, number, time } from "../format.js";
import { JobCurves } from "../jobs/curves.js";
import { JobEvents } from "../jobs/events.js";
import { JobSamples } from "../jobs/samples.js";
import { hasEnded, progress, shortId, span, statusBadge } from "../jobs/words.js";
import { poll } from "../poll.js";
import { redraw } from "../redraw.js";
import { oneByOne } from "../turns.js";

const LOOK_MS = 2500;
/** Events that are shown at first, and more of them at a time. */
const EVENTS = 200;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const path = `/v1/fine_tuning/jobs/${encodeURIComponent(params.id)}`;
  let job = await api.get(path, { signal });
  const events = new JobEvents(api, job.id, signal);
  const curves = new JobCurves(events);
  const samples = new JobSamples(api, job.id, signal);
  const head = h("div", { class: "head" });
  const silence = h("p", { class: "hint", role: "status" });
  const warnings = h("div");
  const log = h("div");
  const checkpoints = h("div");

  function draw() {
    const focused = document.activeElement instanceof HTMLElement && head.contains(document.activeElement) ? document.activeElement.dataset.act : undefined;
    replace(head, header(job), actions());
    if (focused) /** @type {HTMLElement | null} */ (head.querySelector(`[data-act="${focused}"]`))?.focus();
  }

  function actions() {
    /** @param {string} act @param {string} words @param {string} done @param {Record<string, any>} [more] */
    const change = (act, words, done, more = {}) =>
      button(
        words,
        async () => {
          if (act === "cancel" && !(await confirmed("Cancel this job?", "It ends now and cannot be resumed. What it has published stays.", "Cancel the job"))) return;
          await inTurn(async () => {
            job = await api.post(`${path}/${act}`, undefined, { signal });
            toast(done);
            await refresh();
          });
          look();
        },
        { "data-act": act, ...more },
      );
    return h(
      "div",
      { class: "actions" },
      hasEnded(job) || job.status === "paused" ? null : change("pause", "Pause", "The job pauses behind its current step."),
      job.status === "paused" ? change("resume", "Resume", "The job goes on.") : null,
      hasEnded(job) ? null : change("cancel", "Cancel", "The job is cancelled.", { class: "danger" }),
      h("a", { class: "button", "data-act": "again", href: `#/jobs/new?from=${encodeURIComponent(job.id)}` }, "New job with these settings"),
      copyButton("Copy its id", () => job.id),
    );
  }

  let isBehind = true;
  let published = "";
  const inTurn = oneByOne();

  /** Everything that may have changed. */
  async function refresh() {
    const fresh = await events.read(() => curves.draw());
    isBehind ||= fresh;
    draw();
    if (!isBehind) return;
    curves.draw();
    redraw(warnings, warningList(events.messages));
    drawLog();
    const { data } = await api.get(`${path}/checkpoints`, { query: { limit: 100 }, signal });
    if (published !== (published = JSON.stringify(data))) redraw(checkpoints, checkpointTable(data));
    await samples.follow();
    isBehind = false;
  }

  let most = EVENTS;
  const earlier = button("Show earlier events", () => {
    most += EVENTS;
    drawLog();
    if (earlier.hidden) /** @type {HTMLElement | null} */ (log.querySelector("[tabindex]"))?.focus();
  });

  earlier.hidden = true;

  function drawLog() {
    redraw(log, eventTable(events.messages.slice(0, most)));
    earlier.hidden = events.messages.length <= most;
  }

  let looking = false;
  function look() {
    if (looking || hasEnded(job)) return;
    looking = true;
    const again = async () => {
      job = await api.get(path, { signal });
      await refresh();
      return !hasEnded(job);
    };
    poll(() => inTurn(again), signal, LOOK_MS, silence).finally(() => {
      looking = false;
    });
  }

  replace(
    root,
    h("p", null, h("a", { href: "#/jobs" }, "Jobs")),
    h("h1", null, `Job ${shortId(job)}`),
    head,
    silence,
    warnings,
    h("section", { class: "card", "aria-label": "Curves" }, h("h2", null, "Curves"), curves.element),
    h("section", { class: "card", "aria-label": "Samples" }, h("h2", null, "Samples"), samples.element),
    h("section", { class: "card", "aria-label": "Checkpoints" }, h("h2", null, "Checkpoints"), checkpoints),
    h("section", { class: "card", "aria-label": "Events" }, h("h2", null, "Events"), log, h("p", null, earlier)),
    h("section", { class: "card", "aria-label": "Settings" }, h("h2", null, "Settings"), settings(job)),
  );
  draw();
  await refresh();
  look();
}

/** @param {any} job */
function header(job) {
  const now = Date.now() / 1000;
  const facts = [
    ["State", statusBadge(job)],
    ["Steps", progress(job)],
    ["Time", job.started_at === null ? "not begun" : `${span((job.finished_at ?? now) - job.started_at)}${job.estimated_finish ? `, about ${span(job.estimated_finish - now)} left` : ""}`],
    ["Method", job.method.type],
    ["Model", job.model],
    ["Training file", fileLink(job.training_file)],
    job.validation_file ? ["Validation file", fileLink(job.validation_file)] : null,
    ["Made", time(job.created_at)],
    job.result_files.length ? ["Numbers of all steps", job.result_files.map(fileLink)] : null,
    job.trained_tokens === null ? null : ["Tokens trained on", number(job.trained_tokens)],
  ];
  return [
    h("section", { class: "card", "aria-label": "About the job" }, h("dl", { class: "facts" }, facts.map((fact) => fact && [h("dt", null, fact[0]), h("dd", null, fact[1])]))),
    job.error ? h("div", { class: "notice error", role: "alert" }, h("p", null, h("strong", null, "The job failed. "), job.error.message)) : null,
    job.fine_tuned_model ? h("div", { class: "notice" }, h("p", null, "Its result is ", h("strong", null, job.fine_tuned_model), ": ", modelLinks(job.fine_tuned_model))) : null,
  ];
}

/** @param {string} id */
const fileLink = (id) => h("a", { href: `#/files/${encodeURIComponent(id)}` }, id);

/** @param {string} model */
function modelLinks(model) {
  return [h("a", { href: `#/playground?right=${encodeURIComponent(model)}` }, "chat with it"), ", ", h("a", { href: `#/adapters/${encodeURIComponent(model)}` }, "look at it, give it an alias"), "."];
}

/** What was said against it. @param {any[]} messages newest first */
function warningList(messages) {
  const bad = messages.filter((event) => event.level === "warn");
  if (bad.length === 0) return null;
  return h(
    "section",
    { class: "notice warn", "aria-label": "Warnings" },
    h("h2", null, "Warnings"),
    h("ul", null, bad.slice(0, 10).map((event) => h("li", null, event.data?.step ? `Step ${number(event.data.step)}: ` : "", event.message))),
    bad.length > 10 ? h("p", { class: "hint" }, `${number(bad.length - 10)} earlier ones are among the events.`) : null,
  );
}

/** @param {any[]} messages */
function eventTable(messages) {
  if (messages.length === 0) return h("p", { class: "empty" }, "No events yet.");
  return table(
    "List of events",
    [
      { header: "When", cell: (event) => time(event.created_at) },
      { header: "Kind", cell: (event) => (event.level === "info" ? h("span", { class: "quiet" }, "info") : h("span", { class: "badge bad" }, event.level)) },
      { header: "What", cell: (event) => h("div", { class: "words" }, event.message) },
    ],
    messages,
  );
}

/** @param {any[]} published */
function checkpointTable(published) {
  if (published.length === 0) return h("p", { class: "empty" }, "None yet. Each evaluation gives one that can be used at once; the best three and the last are kept.");
  const names = [...new Set(published.flatMap((one) => Object.keys(one.metrics)))].filter((name) => /^(valid|train)_(reward_mean|loss)$/.test(name)).sort().reverse();
  return table(
    "List of checkpoints",
    [
      { header: "Step", cell: (one) => number(one.step_number) },
      ...names.map((name) => ({ header: name.replaceAll("_", " "), numeric: true, cell: (/** @type {any} */ one) => digits(one.metrics[name] ?? Number.NaN, 4).replace("NaN", "–") })),
      { header: "Adapter", cell: (one) => h("div", { class: "words" }, one.fine_tuned_model_checkpoint) },
      { header: "Use", cell: (one) => h("div", { class: "words" }, modelLinks(one.fine_tuned_model_checkpoint)) },
    ],
    published,
  );
}

/** @param {any} job */
function settings(job) {
  const part = job.method[job.method.type] ?? {};
  const shown = Object.entries(job.tinylora).filter(([, value]) => value !== null && typeof value !== "object");
  return [
    h("dl", { class: "facts many" }, [...shown, ["seed", job.seed]].map(([name, value]) => h("div", null, h("dt", null, String(name)), h("dd", null, String(value))))),
    h("details", null, h("summary", null, "Vector"), h("pre", { class: "wrap" }, JSON.stringify(job.tinylora.recipe, null, 2))),
    part.grader ? h("details", { open: true }, h("summary", null, "Grader"), h("pre", { class: "wrap" }, JSON.stringify(part.grader, null, 2))) : null,
    part.environment ? h("details", null, h("summary", null, "Environment"), h("pre", { class: "wrap" }, JSON.stringify(part.environment, null, 2))) : null,
    h("details", null, h("summary", null, "The whole job, as the API has it"), h("pre", { class: "wrap" }, JSON.stringify(job, null, 2))),
  ];
}
