// @ts-check
// Asking the server to grade, and showing what it says.

import { ApiError } from "../api.js";
import { h } from "../dom.js";
import { digits, duration } from "../format.js";
import { pause } from "../poll.js";

const GRADERS = "/v1/fine_tuning/alpha/graders";
const MOST_TRIES = 8;

/** @param {import("../api.js").Api} api @param {any} grader @param {AbortSignal} signal @returns {Promise<any>} */
export const validate = async (api, grader, signal) => (await api.post(`${GRADERS}/validate`, { grader }, { signal, exact: true })).grader;

/**
 * One run; while the tenant has too many of them it waits and tries again.
 * @param {import("../api.js").Api} api
 * @param {{grader: any, item: any, model_sample: string}} body
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
export async function run(api, body, signal) {
  for (let tried = 1; ; tried += 1) {
    try {
      return await api.post(`${GRADERS}/run`, body, { signal });
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 429 || tried === MOST_TRIES) throw error;
      await pause(500 * 2 ** tried, signal);
    }
  }
}

/** What a run said went wrong; "" if nothing did. @param {any} result */
export function whyNotGraded(result) {
  const errors = result.metadata.errors;
  const kinds = Object.keys(errors).filter((name) => errors[name] === true);
  if (kinds.length === 0) return "";
  return `${errors.message ?? "It could not grade."} (${kinds.join(", ")})`;
}

/** @param {any} result of a run @returns {HTMLElement} */
export function resultCard(result) {
  const why = whyNotGraded(result);
  const { passes, execution_time: seconds, detail } = result.metadata;
  const parts = Object.entries(result.sub_rewards ?? {});
  const tokens = Object.entries(result.model_grader_token_usage_per_model ?? {});
  return h(
    "div",
    { class: "result" },
    h(
      "p",
      { class: "reward" },
      "Reward ",
      h("strong", null, digits(result.reward, 4)),
      " ",
      passes === null || passes === undefined ? null : h("span", { class: `badge ${passes ? "good" : "bad"}` }, passes ? "passes" : "does not pass"),
      " ",
      h("span", { class: "quiet" }, `in ${duration(seconds * 1000)}`),
    ),
    why ? h("p", { class: "wrong", role: "alert" }, `It could not grade, and a job would count ${result.metadata.is_outage ? "no reward" : "the lowest reward"}: ${why}`) : null,
    parts.length ? h("dl", { class: "facts" }, parts.map(([name, score]) => [h("dt", null, name), h("dd", null, digits(Number(score), 4))])) : null,
    tokens.length ? h("p", { class: "quiet" }, tokens.map(([model, count]) => `${count} tokens of ${model}`).join(", ")) : null,
    Object.keys(detail ?? {}).length ? h("details", { open: true }, h("summary", null, "How it came about"), h("pre", { class: "wrap" }, JSON.stringify(detail, null, 2))) : null,
  );
}
