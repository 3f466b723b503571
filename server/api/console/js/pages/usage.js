// @ts-check
// Tokens and requests over time, and their sums by adapter, key or tenant.

import { keepInAddress } from "../address.js";
import { ApiError } from "../api.js";
import { barChart } from "../chart.js";
import { button, field, h, replace, save, table } from "../dom.js";
import { form } from "../form.js";
import { number } from "../format.js";

const DAY = 86_400;
/** Seconds back, width of a bucket: as many buckets as the server gives in a page. */
const PERIODS = [
  { name: "24h", label: "24 hours, by hour", back: DAY, width: "1h", seconds: 3600, limit: 25 },
  { name: "7d", label: "7 days, by hour", back: 7 * DAY - 3600, width: "1h", seconds: 3600, limit: 168 },
  { name: "30d", label: "30 days, by day", back: 30 * DAY, width: "1d", seconds: DAY, limit: 31 },
];
const GROUPS = [
  { name: "adapter", label: "Adapter", of: (/** @type {any} */ one) => (one.project_id === null ? one.model : `${one.project_id}: ${one.model}`) },
  { name: "key", label: "Key", of: (/** @type {any} */ one) => one.api_key_id ?? "(the operator's, or none)" },
  { name: "tenant", label: "Tenant", of: (/** @type {any} */ one) => one.project_id },
];
/** Pages read of one report; a bucket with very many results goes on on the next page. */
const MAX_PAGES = 50;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const period = h("select", { value: named(PERIODS, params.period).name }, PERIODS.map((one) => h("option", { value: one.name }, one.label)));
  const group = h("select", { value: named(GROUPS, params.by).name }, GROUPS.map((one) => h("option", { value: one.name }, one.label)));
  const all = h("input", { type: "checkbox", checked: params.all === "true" });
  const place = h("div");

  async function draw() {
    const { back, width, limit, seconds } = named(PERIODS, period.value);
    const by = named(GROUPS, group.value);
    const now = Math.floor(Date.now() / 1000);
    // Adapters of several tenants may have one name.
    const groups = by.name === "adapter" && all.checked ? ["adapter", "tenant"] : [by.name];
    const query = { start_time: now - back, bucket_width: width, group_by: groups, all_tenants: all.checked ? "true" : null, limit };
    replace(place, h("p", { class: "quiet", role: "status" }, "Loading …"));
    try {
      const { buckets, isWhole } = await readUsage(api, query, signal);
      replace(place, report(buckets, by, seconds, isWhole));
    } catch (error) {
      replace(place);
      if (!(error instanceof ApiError && error.status === 403)) throw error;
      replace(place, h("div", { class: "notice error", role: "alert" }, h("p", null, error.message)));
    }
  }

  replace(
    root,
    h("h1", null, "Usage"),
    form(
      { class: "row", "aria-label": "What to show" },
      () => {
        keepInAddress({ period: period.value, by: group.value, all: all.checked ? "true" : "" });
        return draw();
      },
      field("Period", period),
      field("By", group),
      h("label", { class: "check" }, all, "Of all tenants (for operators)"),
      h("button", { type: "submit" }, "Show"),
    ),
    place,
  );
  await draw();
}

/** The one of a name, or else the first. @template {{name: string}} T @param {T[]} all @param {string} name @returns {T} */
const named = (all, name) => all.find((one) => one.name === name) ?? all[0];

/** @param {import("../api.js").Api} api @param {Record<string, any>} query @param {AbortSignal} signal */
async function readUsage(api, query, signal) {
  /** @type {Map<number, any[]>} */
  const buckets = new Map();
  let page = null;
  for (let pages = 0; pages < MAX_PAGES; pages += 1) {
    const got = await api.get("/v1/usage", { query: { ...query, page }, signal });
    for (const bucket of got.data) buckets.set(bucket.start_time, [...(buckets.get(bucket.start_time) ?? []), ...bucket.results]);
    if (!got.has_more) return { buckets, isWhole: true };
    page = got.next_page;
  }
  return { buckets, isWhole: false };
}

/** @param {Map<number, any[]>} buckets @param {typeof GROUPS[number]} by @param {number} seconds @param {boolean} isWhole */
function report(buckets, by, seconds, isWhole) {
  /** @type {Map<string, {name: string, requests: number, input: number, output: number}>} */
  const sums = new Map();
  const times = [...buckets.keys()].sort((one, other) => one - other);
  const total = { name: "All", requests: 0, input: 0, output: 0 };
  const perTime = times.map((time) => {
    const of = { requests: 0, input: 0, output: 0 };
    for (const one of /** @type {any[]} */ (buckets.get(time))) {
      const name = by.of(one) ?? "–";
      const sum = sums.get(name) ?? { name, requests: 0, input: 0, output: 0 };
      sums.set(name, sum);
      for (const to of [sum, of, total]) {
        to.requests += one.num_model_requests;
        to.input += one.input_tokens;
        to.output += one.output_tokens;
      }
    }
    return of;
  });
  if (total.requests === 0) return h("p", { class: "empty" }, "Nothing was used in this time.");
  const rows = [...sums.values()].sort((one, other) => other.input + other.output - one.input - one.output);
  const over = { axis: "time", labels: times.map((time) => label(time, seconds)), ticks: times.map((time, at) => tick(time, at, seconds, times.length)) };
  /** @type {import("../dom.js").Column<any>[]} */
  const columns = [
    { header: by.label, cell: (one) => one.name },
    { header: "Requests", numeric: true, cell: (one) => number(one.requests) },
    { header: "Tokens in", numeric: true, cell: (one) => number(one.input) },
    { header: "Tokens out", numeric: true, cell: (one) => number(one.output) },
  ];
  const asCsv = () => save([by.label, "requests", "input_tokens", "output_tokens"].join(",") + "\n" + rows.map((one) => [cell(one.name), one.requests, one.input, one.output].join(",")).join("\n") + "\n", "usage.csv");
  return [
    isWhole ? null : h("p", { class: "notice" }, "There is more usage in this time than one page shows; choose a shorter one."),
    h(
      "section",
      { class: "card", "aria-label": "Over time" },
      h(
        "div",
        { class: "columns" },
        barChart({ title: "Tokens", ...over, values: perTime.map((one) => one.input), compared: perTime.map((one) => one.output), names: ["in", "out"] }),
        barChart({ title: "Requests", ...over, values: perTime.map((one) => one.requests), names: ["requests", ""] }),
      ),
    ),
    table(`Usage by ${by.label.toLowerCase()}`, columns, rows.length > 1 ? [total, ...rows] : rows),
    h("p", null, button("Save as CSV", asCsv)),
  ];
}

/** A field of CSV that no spreadsheet takes for a formula. @param {string} text */
function cell(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

const HOUR_OF = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY_OF = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const UTC_DAY_OF = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });

/** @param {number} time @param {number} seconds of a bucket; days are UTC's */
function label(time, seconds) {
  const date = new Date(time * 1000);
  return seconds === DAY ? UTC_DAY_OF.format(date) : `${DAY_OF.format(date)}, ${HOUR_OF.format(date)}`;
}

/** What stands below a bucket, "" for most: the day where one begins, and some hours where there are few. @param {number} time @param {number} at @param {number} seconds @param {number} count */
function tick(time, at, seconds, count) {
  const date = new Date(time * 1000);
  if (seconds === DAY) return at % 3 ? "" : UTC_DAY_OF.format(date);
  if (date.getHours() === 0) return DAY_OF.format(date);
  return count <= 25 && date.getHours() % 4 === 0 ? HOUR_OF.format(date) : "";
}
