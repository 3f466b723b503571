// @ts-check
// JSON whose numbers are written again as they were: to JavaScript 2.0 is 2, and of 9007199254740993 the last digit is lost.

/**
 * As JSON.parse. What JSON.stringify would write in another way than it is in `text` is no number, but its text (JSON.rawJSON):
 * it is for what is sent again, or shown as JSON. Browsers from before 2025 cannot do that, and have numbers.
 * @param {string} text
 * @returns {any}
 */
export function parsed(text) {
  const { rawJSON } = /** @type {any} */ (JSON);
  if (rawJSON === undefined) return JSON.parse(text);
  /** @param {string} _name @param {any} value @param {{source: string}} [context] of what is no list or object */
  const exact = (_name, value, context) => (typeof value === "number" && context && context.source !== String(value) ? rawJSON(context.source) : value);
  return JSON.parse(text, /** @type {(name: string, value: any) => any} */ (exact));
}
