// @ts-check
// What was written and not sent, kept in this tab until then: a reload, or an error, loses nothing.

const PREFIX = "tinylora.draft.";

/** The grader that is being written, in the bench or in the form of a new job. */
export const GRADER_DRAFT = "grader";

/** @param {string} name @returns {any} what was kept under it; null if nothing was */
export function draft(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} name @param {unknown} value null forgets it */
export function keepDraft(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(PREFIX + name);
    else sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // There is no room. Then it is not kept.
  }
}
