// @ts-check
// The models that the server has.

import { ApiError } from "./api.js";

/**
 * The name of the server's base model; "" for a key that may not ask for it.
 * @param {import("./api.js").Api} api @param {AbortSignal} signal @returns {Promise<string>}
 */
export async function baseModel(api, signal) {
  try {
    const { items } = await api.page("/v1/models", { query: { limit: 1 }, signal });
    return items[0]?.id ?? "";
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) return "";
    throw error;
  }
}
