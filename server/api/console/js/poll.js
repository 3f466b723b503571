// @ts-check
// Looking at the server again and again while a page is shown: not while its tab is hidden, and slower while it fails.

import { isAbort } from "./api.js";

const SLOWEST_MS = 30_000;

/**
 * Call `look` every `everyMs` until it returns false or `signal` is aborted. An error does not end it: it is told to
 * `failed`, which is called with null when the server answers again.
 * @param {() => Promise<boolean>} look whether to go on
 * @param {AbortSignal} signal
 * @param {number} everyMs
 * @param {(error: Error | null) => void} failed
 */
export async function poll(look, signal, everyMs, failed) {
  let wait = everyMs;
  while (!signal.aborted) {
    await pause(wait, signal);
    await shown(signal);
    if (signal.aborted) return;
    try {
      const goOn = await look();
      if (wait !== everyMs) failed(null);
      wait = everyMs;
      if (!goOn) return;
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      wait = Math.min(wait * 2, SLOWEST_MS);
      failed(/** @type {Error} */ (error));
    }
  }
}

/** Wait so long, or until `signal` is aborted. @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

/** Wait until the tab is looked at. @param {AbortSignal} signal @returns {Promise<void>} */
function shown(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });
}
