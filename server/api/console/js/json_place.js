// @ts-check
// Where in a JSON text a value stands, so that an error about a field can be shown at it.

/** @typedef {{start: number, end: number}} Place from the first character to behind the last one */

/**
 * The value at `path` in `text`, or of it the longest part that is there; null where `text` is no JSON.
 * @param {string} text
 * @param {string} path such as "graders.a.input" or "labels[1]"; "" is the whole
 * @returns {Place | null}
 */
export function placeOf(text, path) {
  const steps = path.match(/[^.[\]]+/g) ?? [];
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  let place = valueAt(text, 0);
  for (const step of steps) {
    const found = childOf(text, place.start, step);
    if (found === null) break;
    place = found;
  }
  return place;
}

/**
 * Where JSON.parse stopped, for an error that says it.
 * @param {unknown} error
 * @param {string} text
 * @returns {number} an offset in `text`
 */
export function offsetOf(error, text) {
  const said = /position (\d+)/.exec(error instanceof Error ? error.message : "");
  return said ? Math.min(Number(said[1]), text.length) : text.length;
}

/** The line and column of an offset, from 1. @param {string} text @param {number} offset */
export function lineOf(text, offset) {
  const before = text.slice(0, offset).split("\n");
  return { line: before.length, column: before[before.length - 1].length + 1 };
}

/** The value that begins at or behind `at`. @param {string} text @param {number} at @returns {Place} */
function valueAt(text, at) {
  const start = skip(text, at);
  const opening = text[start];
  if (opening === '"') return { start, end: stringEnd(text, start) };
  if (opening !== "{" && opening !== "[") {
    const rest = /^[^\s,\]}]+/.exec(text.slice(start));
    return { start, end: start + (rest ? rest[0].length : 0) };
  }
  let depth = 0;
  for (let place = start; place < text.length; place += 1) {
    if (text[place] === '"') place = stringEnd(text, place) - 1;
    else if (text[place] === "{" || text[place] === "[") depth += 1;
    else if ((text[place] === "}" || text[place] === "]") && --depth === 0) return { start, end: place + 1 };
  }
  return { start, end: text.length };
}

/** @param {string} text @param {number} start of an object or list @param {string} step @returns {Place | null} */
function childOf(text, start, step) {
  const inObject = text[start] === "{";
  if (!inObject && text[start] !== "[") return null;
  let at = skip(text, start + 1);
  for (let index = 0; at < text.length && text[at] !== "}" && text[at] !== "]"; index += 1) {
    let name = String(index);
    if (inObject) {
      const key = valueAt(text, at);
      name = JSON.parse(text.slice(key.start, key.end));
      at = skip(text, key.end) + 1; // behind the colon
    }
    const value = valueAt(text, at);
    if (name === step) return value;
    at = skip(text, value.end);
    if (text[at] === ",") at = skip(text, at + 1);
  }
  return null;
}

/** @param {string} text @param {number} at */
function skip(text, at) {
  while (/\s/.test(text[at] ?? "")) at += 1;
  return at;
}

/** @param {string} text @param {number} start of a string @returns {number} behind its end */
function stringEnd(text, start) {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}
