// @ts-check
// Looking at the server again and again while a page is shown: not while its tab is hidden, and slower while it fails.

import { ApiError, isAbort } from "./api.js";
import { replace } from "./dom.js";

const SLOWEST_MS = 30_000;

/**
 * Call `look` every `everyMs` until it returns false or `signal` is aborted. An error is said in `silence` until the server
 * answers again; it ends nothing, but for that of a key which is not taken any more.
 * @param {() => Promise<boolean>} look whether to go on
 * @param {AbortSignal} signal
 * @param {number} everyMs
 * @param {HTMLElement} silence
 */
export async function poll(look, signal, everyMs, silence) {
  let wait = everyMs;
  while (!signal.aborted) {
    await pause(wait, signal);
    await shown(signal);
    if (signal.aborted) return;
    try {
      const goOn = await look();
      if (wait !== everyMs) replace(silence);
      wait = everyMs;
      if (!goOn) return;
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      wait = Math.min(wait * 2, SLOWEST_MS);
      const isRefused = error instanceof ApiError && error.status === 401;
      replace(silence, `This may be old: ${/** @type {Error} */ (error).message} ${isRefused ? "Enter another key to go on." : "It is asked for again."}`);
      if (isRefused) return;
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
