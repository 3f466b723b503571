// @ts-check
// Numbers and times as people read them.

import { h } from "./dom.js";

const COUNT = new Intl.NumberFormat("en");
const STAMP = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** 1234567 as 1,234,567. @param {number} count */
export const number = (count) => COUNT.format(count);

/** With so many digits that count. @param {number} value @param {number} [digits] */
export function digits(value, digits = 3) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : String(value);
}

/** @param {number} bytes */
export function byteCount(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1024 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return power === 0 ? `${bytes} ${bytes === 1 ? "byte" : "bytes"}` : `${(bytes / 1024 ** power).toFixed(1)} ${units[power]}`;
}

/** A point in time, in the reader's zone. @param {number | null | undefined} seconds since 1970 */
export function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const date = new Date(seconds * 1000);
  return h("time", { datetime: date.toISOString(), title: date.toISOString() }, STAMP.format(date));
}

/** @param {number} milliseconds */
export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}
