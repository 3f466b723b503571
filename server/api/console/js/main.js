// @ts-check
// The console's frame: which page the address behind "#" means, the navigation, and the key of this session.

import { ApiError, api, isAbort, session, unreachable } from "./api.js";
import { clearErrors, closeDialogs, focusHeading, h, replace } from "./dom.js";
import { askForKey } from "./key.js";

/**
 * A page: its pattern behind "#/", what imports it, and its name in the navigation if it is there.
 * A part of a pattern that begins with ":" is a parameter.
 * @typedef {{pattern: string, load: () => Promise<any>, nav?: string}} Page
 */

/** @type {Page[]} In the order of the navigation. */
const PAGES = [
  { pattern: "adapters", nav: "Adapters", load: () => import("./pages/adapters.js") },
  { pattern: "adapters/:name", load: () => import("./pages/adapter.js") },
  { pattern: "playground", nav: "Playground", load: () => import("./pages/playground.js") },
  { pattern: "jobs", nav: "Jobs", load: () => import("./pages/jobs.js") },
  { pattern: "jobs/new", load: () => import("./pages/job_new.js") },
  { pattern: "jobs/:id", load: () => import("./pages/job.js") },
  { pattern: "graders", nav: "Graders", load: () => import("./pages/graders.js") },
  { pattern: "files", nav: "Files", load: () => import("./pages/files.js") },
  { pattern: "files/:id", load: () => import("./pages/file.js") },
  { pattern: "batches", nav: "Batches", load: () => import("./pages/batches.js") },
  { pattern: "responses", nav: "Responses", load: () => import("./pages/responses.js") },
  { pattern: "responses/:id", load: () => import("./pages/response.js") },
  { pattern: "usage", nav: "Usage", load: () => import("./pages/usage.js") },
  { pattern: "tenants", nav: "Tenants & keys", load: () => import("./pages/tenants.js") },
  { pattern: "tenants/:name", load: () => import("./pages/tenant.js") },
];

const root = /** @type {HTMLElement} */ (document.getElementById("page"));
const nav = /** @type {HTMLElement} */ (document.getElementById("nav"));
const account = /** @type {HTMLElement} */ (document.getElementById("account"));
let leaving = new AbortController();

/** @returns {{page: Page, params: Record<string, string>} | null} the page of the address */
function current() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = (path || PAGES[0].pattern).split("/");
  for (const page of PAGES) {
    const pattern = page.pattern.split("/");
    if (pattern.length !== parts.length) continue;
    /** @type {Record<string, string>} */
    const params = Object.fromEntries(new URLSearchParams(query));
    const fits = pattern.every((part, index) => {
      if (!part.startsWith(":")) return part === parts[index];
      params[part.slice(1)] = decoded(parts[index]);
      return parts[index] !== "";
    });
    if (fits) return { page, params };
  }
  return null;
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Show the page of the address. @param {boolean} moveFocus whether a screen reader should begin at its heading */
async function show(moveFocus) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  closeDialogs();
  clearErrors();
  const found = current();
  drawNav(found?.page ?? null);
  const content = h("div", { class: "content" });
  replace(root, h("p", { class: "quiet", role: "status" }, "Loading …"));
  const name = found ? entryOf(found.page)?.nav : "No such page";
  // A browser does not fetch a module a second time, unless the whole page is loaded again.
  let again = () => location.reload();
  try {
    if (found === null) throw new ApiError("There is no such page in the console.");
    const module = await found.page.load().catch(() => Promise.reject(unreachable()));
    if (signal.aborted) return;
    again = () => void show(true);
    replace(root, content);
    await module.render(content, { api, params: found.params, signal });
  } catch (error) {
    if (signal.aborted || isAbort(error)) return;
    if (error instanceof ApiError && error.status === 401) {
      replace(root, h("h1", null, "A key is needed"), h("p", null, error.message), h("p", null, keyButton("Enter a key")));
      entitle();
      await signIn(session.key ? error.message : "");
      return;
    }
    const message = error instanceof Error ? error.message : String(error);
    replace(
      root,
      content.querySelector("h1") ? null : h("h1", null, name),
      content,
      h("div", { class: "notice error", role: "alert" }, h("p", null, message)),
      found && h("p", null, h("button", { type: "button", onclick: () => again() }, "Try again")),
    );
  }
  if (signal.aborted) return;
  entitle();
  if (moveFocus) focusHeading();
}

/** Name the tab, and its entry in the browser's history, by the page's heading. */
function entitle() {
  document.title = [root.querySelector("h1")?.textContent, "TinyLoRA console"].filter(Boolean).join(" – ");
}

/** The page with the entry to which `page` belongs: the one that its pattern begins with. @param {Page} page */
const entryOf = (page) => PAGES.find((each) => each.pattern === page.pattern.split("/")[0]);

/** @param {Page | null} page the one shown */
function drawNav(page) {
  const at = page && entryOf(page);
  const links = PAGES.filter((each) => each.nav).map((each) =>
    h("a", { href: `#/${each.pattern}`, "aria-current": each === at ? "page" : null }, each.nav),
  );
  replace(nav, h("ul", null, links.map((link) => h("li", null, link))));
}

/** @param {string} text */
function keyButton(text) {
  return h("button", { type: "button", onclick: () => signIn("") }, text);
}

function drawAccount() {
  const forget = () => {
    session.end();
    drawAccount();
    show(true);
  };
  const who = session.tenant ? `for ${session.tenant}` : `key …${session.key.slice(-4)}`;
  replace(
    account,
    session.key ? [h("span", { class: "quiet" }, who), h("button", { type: "button", onclick: forget }, "Forget key")] : null,
    keyButton(session.key ? "Change key" : "Enter a key"),
  );
}

/** @param {string} why a sentence about the key before, if it was refused */
async function signIn(why) {
  if (document.querySelector("dialog[open]")) return;
  if (await askForKey(why)) {
    drawAccount();
    show(true);
  }
}

window.addEventListener("hashchange", () => show(true));
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // Its address is no page's.
  focusHeading();
});
// A file that is dropped beside its place would be opened in this tab, instead of the console.
for (const event of ["dragover", "drop"]) {
  window.addEventListener(event, (over) => {
    const { dataTransfer } = /** @type {DragEvent} */ (over);
    if (dataTransfer?.types.includes("Files")) over.preventDefault();
  });
}
drawAccount();
show(false);
