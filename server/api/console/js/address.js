// @ts-check
// What a page shows, in its address: there again after "back" or a reload, and in a link that is sent to somebody.

/** Put `query` behind the page's address, without what is empty. @param {Record<string, string>} query */
export function keepInAddress(query) {
  const path = location.hash.split("?")[0] || "#/";
  const set = Object.entries(query).filter(([, value]) => value);
  if (!set.length && !location.hash) return;
  history.replaceState(null, "", set.length ? `${path}?${new URLSearchParams(set)}` : path);
}
