// @ts-check
// A column of the playground: an answer as it streams, its times, and its tokens coloured by how much more likely they
// are here than in the other column.

import { ApiError, isAbort } from "../api.js";
import { copyButton, h, replace, table } from "../dom.js";
import { digits, duration, number } from "../format.js";
import { asCurl, asPython } from "../snippets.js";

const MAX_TOKENS_SHOWN = 2000;
/** From this difference of log-probabilities on, a token has the full colour: e^2 is 7 times as likely. */
const FULL = 2;
const STEPS = 5;
/** What streamed in less than this came at once, at no rate. */
const SHORT_MS = 50;

/**
 * @typedef {{text: string, logprob: number | null, other: number | null}} Token
 * @typedef {{prompt: number[], ids: number[], tokens: Token[]}} Answer `prompt` and `ids` are empty where the engine says none
 */

/**
 * @param {import("../api.js").Api} api
 * @param {string} label
 * @param {{element: HTMLElement, adapter: () => any}} choice
 * @param {(adapter: any) => Record<string, any>} request
 */
export function answerColumn(api, label, choice, request) {
  const text = h("div", { class: "answer" }, h("p", { class: "quiet" }, "The answer comes here."));
  const facts = h("p", { class: "quiet facts-line" });
  const details = h("div");
  const body = () => request(choice.adapter());
  const element = h(
    "section",
    { class: "card", "aria-label": label },
    choice.element,
    text,
    facts,
    details,
    h("div", { class: "actions" }, copyButton("Copy as curl", () => asCurl("/v1/chat/completions", body())), copyButton("Copy as Python", () => asPython(body()))),
  );
  /** @type {any} what was sent last; the choice may have changed since */
  let sent = null;

  /** @param {AbortSignal} signal @returns {Promise<Answer | null>} null where there is none, which the column then says */
  async function ask(signal) {
    sent = body();
    replace(details);
    replace(facts, "Waiting for the first token …");
    const shown = h("p", { class: "text" });
    replace(text, shown);
    /** @type {Answer} */
    const answer = { prompt: [], ids: [], tokens: [] };
    const start = performance.now();
    let first = 0;
    let usage = null;
    let isCut = false;
    try {
      const extra = { stream: true, stream_options: { include_usage: true }, logprobs: true, return_token_ids: true };
      for await (const chunk of api.stream("/v1/chat/completions", { ...sent, ...extra }, { signal })) {
        usage = chunk.usage ?? usage;
        if (chunk.prompt_token_ids) answer.prompt = chunk.prompt_token_ids;
        const [delta] = chunk.choices ?? [];
        if (!delta) continue;
        isCut ||= delta.finish_reason === "length";
        if (delta.token_ids) answer.ids.push(...delta.token_ids);
        for (const one of delta.logprobs?.content ?? []) answer.tokens.push({ text: one.token, logprob: one.logprob, other: null });
        const piece = delta.delta?.content || delta.delta?.reasoning || delta.delta?.reasoning_content;
        if (!piece) continue;
        first ||= performance.now();
        shown.append(piece);
        replace(facts, `First token after ${duration(first - start)}.`);
      }
    } catch (error) {
      if (!isAbort(error)) {
        replace(facts);
        replace(text, shown, h("div", { class: "notice error", role: "alert" }, h("p", null, error instanceof Error ? error.message : String(error))));
        return null;
      }
      replace(facts, "Stopped. ", facts.textContent?.startsWith("First") ? facts.textContent : "");
      return null;
    }
    const whole = performance.now() - start;
    const count = usage?.completion_tokens ?? answer.tokens.length;
    const streamed = start + whole - first;
    const rate = count > 1 && streamed > SHORT_MS ? `, ${digits(((count - 1) * 1000) / streamed)} tokens/s` : "";
    if (!shown.textContent) replace(shown, h("span", { class: "quiet" }, "(an empty answer)"));
    const all = count ? `all ${number(count)}` : "the whole";
    replace(facts, first ? `First token after ${duration(first - start)}, ${all} after ${duration(whole)}${rate}.${isCut ? " It is cut off at the most tokens." : ""}` : `Nothing came in ${duration(whole)}.`);
    return answer;
  }

  /**
   * Colour the tokens by their log-probability here less that in `other`, which is asked for it.
   * @param {Answer | null} answer @param {{likelihoods: (answer: Answer, signal: AbortSignal) => Promise<number[]>}} other @param {AbortSignal} signal
   */
  async function compare(answer, other, signal) {
    if (answer === null || answer.tokens.length === 0 || answer.ids.length !== answer.tokens.length || answer.prompt.length === 0) return;
    try {
      const others = await other.likelihoods(answer, signal);
      answer.tokens.forEach((token, at) => (token.other = others[at] ?? null));
    } catch (error) {
      if (isAbort(error)) return;
      replace(details, h("p", { class: "quiet" }, `Not compared with the other column: ${error instanceof Error ? error.message : error}`));
      return;
    }
    const tokens = answer.tokens.slice(0, MAX_TOKENS_SHOWN);
    const rest = answer.tokens.slice(MAX_TOKENS_SHOWN);
    replace(text, h("p", { class: "text" }, tokens.map(tokenSpan), rest.map((token) => token.text).join("")));
    const only = rest.length ? h("p", { class: "hint" }, `The first ${number(tokens.length)} of ${number(answer.tokens.length)} tokens have colours.`) : null;
    replace(details, legend(), only, h("details", null, h("summary", null, "Tokens as a table"), table(`Tokens of the answer, ${label}`, COLUMNS, tokens)));
  }

  /** How likely the tokens of the other column's answer are here. @param {Answer} answer @param {AbortSignal} signal */
  async function likelihoods(answer, signal) {
    if (sent === null) throw new ApiError("Nothing was asked here.");
    const { model, adapter } = sent;
    const scored = await api.post(
      "/v1/completions",
      { model, ...(adapter === undefined ? {} : { adapter }), prompt: [...answer.prompt, ...answer.ids], max_tokens: 1, temperature: 0, prompt_logprobs: 0 },
      { signal },
    );
    const told = scored.choices[0].prompt_logprobs;
    return answer.ids.map((id, at) => told[answer.prompt.length + at][id].logprob);
  }

  return { element, ask, compare, likelihoods };
}

/** @param {Token} token */
function tokenSpan(token) {
  const difference = differenceOf(token);
  const step = Math.min(STEPS, Math.round((Math.abs(difference) / FULL) * STEPS));
  const shade = step === 0 ? null : `token ${difference > 0 ? "up" : "down"}-${step}`;
  return h("span", { class: shade ?? "token", title: `${shownLogprob(token.logprob)} here, ${shownLogprob(token.other)} in the other column` }, token.text);
}

/** @param {Token} token */
function differenceOf(token) {
  const difference = (token.logprob ?? Number.NaN) - (token.other ?? Number.NaN);
  return Number.isFinite(difference) ? difference : 0;
}

/** @param {number | null} logprob */
function shownLogprob(logprob) {
  return logprob === null ? "unknown" : logprob.toFixed(2);
}

function legend() {
  return h(
    "p",
    { class: "hint" },
    "Tokens that are more likely here are ",
    h("span", { class: `token up-${STEPS}` }, "green"),
    ", those more likely in the other column ",
    h("span", { class: `token down-${STEPS}` }, "red and underlined"),
    ": by the difference of their log-probabilities.",
  );
}

/** @type {import("../dom.js").Column<Token>[]} */
const COLUMNS = [
  { header: "Token", cell: (token) => h("code", null, JSON.stringify(token.text).slice(1, -1)) },
  { header: "Here", numeric: true, cell: (token) => shownLogprob(token.logprob) },
  { header: "Other column", numeric: true, cell: (token) => shownLogprob(token.other) },
  { header: "Difference", numeric: true, cell: (token) => (token.other === null ? "–" : differenceOf(token).toFixed(2)) },
];
