// @ts-check
// Items of a response's input and output: messages, calls of functions and what they gave, reasoning.

import { h } from "../dom.js";
import { longText } from "../long_text.js";

/** @param {any} item */
export function itemView(item) {
  const [who, text] = read(item);
  return h(
    "li",
    { class: "message" },
    h("span", { class: "role" }, who),
    text ? longText(text) : h("p", { class: "quiet" }, "Nothing."),
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
