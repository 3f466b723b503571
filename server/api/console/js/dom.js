// @ts-check
// Elements, tables, messages and dialogs. Text becomes text nodes: nothing here or elsewhere parses HTML.

/** @typedef {Node | string | number | null | undefined | false | any[]} Child what an element may hold; of lists, each item */

const FORBIDDEN = new Set(["style", "innerHTML", "outerHTML", "srcdoc"]);
const PROPERTIES = new Set(["value", "checked", "disabled", "open", "selected", "hidden", "indeterminate", "readOnly"]);
let ids = 0;

/** An id that no other element has. @param {string} prefix */
export function freshId(prefix) {
  return `${prefix}-${++ids}`;
}

/**
 * An element. `on...` attributes are listeners; true sets an attribute without a value, false and null leave it out.
 * @param {string} tag
 * @param {Record<string, any> | null} [attributes]
 * @param {...Child} children
 * @returns {any} the element
 */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. @param {string} tag @param {Record<string, any> | null} [attributes] @param {...Child} children @returns {any} */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** @param {Element} element @param {Record<string, any> | null | undefined} attributes @param {Child[]} children */
function fill(element, attributes, children) {
  append(element, children);
  // Behind the children: the value of a <select> is one of its options.
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (FORBIDDEN.has(name)) throw new Error(`${name} is not set by h()`);
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) Object.assign(element, { [name]: value });
    else if (name === "href" && !/^(#|https?:|blob:|[\w./-]*$)/.test(value)) throw new Error(`no link to ${value}`);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  return element;
}

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

/** Put `children` in the place of what is in `element`. @param {Element} element @param {...Child} children */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * A message that goes away by itself, read out by screen readers; an error stays until it is closed. While there is a
 * dialog it stands in that: nothing behind it can be read or reached.
 * @param {string} message
 * @param {"done" | "error"} [kind]
 */
export function toast(message, kind = "done") {
  const asking = document.querySelector("dialog[open]");
  if (asking) {
    asking.querySelector(".told")?.remove();
    asking.append(h("p", { class: `notice told ${kind}`, role: kind === "error" ? "alert" : "status" }, message));
    return;
  }
  const place = /** @type {HTMLElement} */ (document.getElementById(kind === "error" ? "alerts" : "status"));
  const close = h("button", { type: "button", class: "close", "aria-label": "Close the message", onclick: () => box.remove() }, "×");
  const box = h("div", { class: `toast ${kind}` }, h("p", null, message), close);
  place.append(box);
  while (place.children.length > 4) place.firstElementChild?.remove();
  if (kind === "done") setTimeout(() => box.remove(), 6000);
}

/** Ends what a person began, by an error that is shown at its place already. */
export class ShownError extends Error {}

/** Show an error, unless it says that the page was left or is shown already. @param {unknown} error */
export function toastError(error) {
  if (error instanceof ShownError || (error instanceof DOMException && error.name === "AbortError")) return;
  toast(error instanceof Error ? error.message : String(error), "error");
}

/** Take away the errors that are shown, as when something is tried again. */
export function clearErrors() {
  document.getElementById("alerts")?.replaceChildren();
  document.querySelector("dialog[open] .told")?.remove();
}

/**
 * A button. While what it does has not ended it does nothing more, and keeps the focus; what that throws is shown.
 * @param {string} text
 * @param {(event: Event) => unknown} act
 * @param {Record<string, any>} [attributes]
 */
export function button(text, act, attributes = {}) {
  /** @param {Event} event */
  const onclick = async (event) => {
    const element = /** @type {HTMLButtonElement} */ (event.currentTarget);
    if (element.ariaDisabled) return;
    element.ariaDisabled = "true";
    clearErrors();
    try {
      await act(event);
    } catch (error) {
      toastError(error);
    } finally {
      element.ariaDisabled = null;
    }
  };
  return h("button", { type: "button", onclick, ...attributes }, text);
}

/**
 * A control with its label, and a hint that screen readers read with it.
 * @param {string} label
 * @param {any} control an <input>, <select> or <textarea>
 * @param {string} [hint]
 */
export function field(label, control, hint) {
  control.id ||= freshId("field");
  const note = hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/**
 * @template T
 * @typedef {{header: string, cell: (row: T) => Child, numeric?: boolean}} Column
 */

/**
 * A table that scrolls within itself where the screen is narrow. The first column holds the rows' headers.
 * @template T
 * @param {string} caption for screen readers
 * @param {Column<T>[]} columns
 * @param {T[]} rows
 */
export function table(caption, columns, rows) {
  const heads = columns.map((column) => h("th", { scope: "col", class: column.numeric && "numeric" }, column.header));
  const body = h("tbody", null, rows.map((row) => tableRow(columns, row)));
  const element = h("table", null, h("caption", { class: "hidden" }, caption), h("thead", null, h("tr", null, heads)), body);
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, element);
}

/** @template T @param {Column<T>[]} columns @param {T} row */
export function tableRow(columns, row) {
  const cells = columns.map((column, index) =>
    h(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: column.numeric && "numeric" }, column.cell(row)),
  );
  return h("tr", null, cells);
}

/**
 * A listing that is read page by page, with a button for more.
 * @template T
 * @param {string} caption
 * @param {Column<T>[]} columns
 * @param {{items: T[], next: (() => Promise<any>) | null}} first as api.page gives it
 * @param {Child} whenEmpty
 */
export function pagedTable(caption, columns, first, whenEmpty) {
  if (first.items.length === 0) return h("p", { class: "empty" }, whenEmpty);
  const shown = table(caption, columns, first.items);
  const body = /** @type {HTMLElement} */ (shown.querySelector("tbody"));
  let next = first.next;
  const more = button("Show more", async () => {
    const page = await /** @type {() => Promise<any>} */ (next)();
    const rows = page.items.map((/** @type {T} */ row) => tableRow(columns, row));
    body.append(...rows);
    next = page.next;
    more.hidden = next === null;
    if (more.hidden) shown.focus();
  });
  more.hidden = next === null;
  return h("div", null, shown, h("p", null, more));
}

/**
 * A modal dialog; Escape or leaving the page closes it, and the focus goes back to where it was.
 * @param {string} title
 * @param {(close: (result?: any) => void) => Child[]} content
 * @param {{stays?: boolean}} [more] `stays`: it is closed by what is in it, and by nothing else
 * @returns {Promise<any>} what it was closed with; undefined when it was cancelled
 */
export function dialog(title, content, { stays = false } = {}) {
  return new Promise((resolve) => {
    /** @type {any} */
    let result;
    const heading = freshId("dialog");
    const box = h("dialog", { "aria-labelledby": heading, closedby: stays ? "none" : null });
    /** @param {any} [closedWith] */
    const close = (closedWith) => {
      result = closedWith;
      box.close();
    };
    replace(box, h("h2", { id: heading }, title), content(close));
    if (stays) box.addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());
    box.addEventListener("close", () => {
      box.remove();
      if (document.activeElement === document.body) focusHeading(); // What had it is gone.
      resolve(result);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** Close the dialogs of a page that is left. */
export function closeDialogs() {
  for (const box of document.querySelectorAll("dialog:not([closedby])")) /** @type {HTMLDialogElement} */ (box).close();
}

/** Where a screen reader begins to read a page. */
export function focusHeading() {
  const page = /** @type {HTMLElement} */ (document.getElementById("page"));
  const heading = page.querySelector("h1") ?? page;
  heading.tabIndex = -1;
  heading.focus();
}

/**
 * Ask before something that cannot simply be taken back.
 * @param {string} title @param {string} text @param {string} action the button's words @returns {Promise<boolean>}
 */
export async function confirmed(title, text, action) {
  const answer = await dialog(title, (close) => [
    h("p", null, text),
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", class: "danger", onclick: () => close(true) }, action),
      h("button", { type: "button", autofocus: true, onclick: () => close() }, "Cancel"),
    ),
  ]);
  return answer === true;
}

/** A link that saves `bytes` as a file. @param {BlobPart} bytes @param {string} name */
export function save(bytes, name) {
  const url = URL.createObjectURL(new Blob([bytes]));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A button that copies `text()`. @param {string} label @param {() => string} text */
export function copyButton(label, text) {
  return button(label, async () => {
    try {
      await navigator.clipboard.writeText(text());
      toast("Copied.");
    } catch {
      // Browsers give no clipboard to pages over plain HTTP.
      await dialog("Copy this", (close) => [
        field("Select it all and copy", h("textarea", { rows: 8, readonly: true, value: text(), onfocus: selectAll })),
        h("div", { class: "actions" }, h("button", { type: "button", onclick: () => close() }, "Close")),
      ]);
    }
  });
}

/** @param {Event} event */
function selectAll(event) {
  /** @type {HTMLTextAreaElement} */ (event.currentTarget).select();
}
