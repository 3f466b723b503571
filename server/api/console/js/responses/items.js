// @ts-check
// Items of a response's input and output: messages, calls of functions and what they gave, reasoning.

import { h } from "../dom.js";
import { number } from "../format.js";

const MOST_CHARS = 5000;

/** @param {any} item */
export function itemView(item) {
  const [who, text] = read(item);
  const cut = text.length > MOST_CHARS;
  return h(
    "li",
    { class: "message" },
    h("span", { class: "role" }, who),
    text ? h("pre", { class: "wrap" }, cut ? `${text.slice(0, MOST_CHARS)} …` : text) : h("p", { class: "quiet" }, "Nothing."),
    cut ? h("p", { class: "hint" }, `${number(text.length - MOST_CHARS)} more characters`) : null,
  );
}

/** Whose item it is, and what is in it. @param {any} item @returns {[string, string]} */
function read(item) {
  switch (item.type ?? "message") {
    case "message":
      return [item.role ?? "message", textOf(item.content)];
    case "function_call":
      return ["calls a function", `${item.name}(${item.arguments})`];
    case "function_call_output":
      return ["the function gave", textOf(item.output)];
    case "reasoning":
      return ["reasoning", textOf(item.content ?? item.summary)];
    default:
      return [String(item.type), JSON.stringify(item, null, 2)];
  }
}

/** @param {any} content a text, or parts of which some have one */
function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content ? JSON.stringify(content, null, 2) : "";
  return content.map((part) => part?.text ?? part?.refusal ?? JSON.stringify(part)).join("\n");
}
