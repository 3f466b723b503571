// @ts-check
// A request as a command of curl and as a program of Python, to be copied. They name a variable and hold no key.

import { SERVER, session } from "./api.js";

const OPENAIS = new Set(["model", "messages", "max_tokens", "temperature", "seed"]);

/** @param {string} path such as "/v1/chat/completions" @param {Record<string, any>} body */
export function asCurl(path, body) {
  const key = session.key ? ['-H "Authorization: Bearer $TINYLORA_API_KEY"'] : [];
  const tenant = session.key && session.tenant ? [`-H ${quoted(`OpenAI-Organization: ${session.tenant}`)}`] : [];
  const json = ["-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body, null, 2))}`];
  return [`curl -s ${new URL(path.slice(1), SERVER)}`, ...key, ...tenant, ...json].join(" \\\n  ") + "\n";
}

/** In single quotes, for a shell. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @param {Record<string, any>} body */
export function asPython(body) {
  const own = Object.entries(body).filter(([name]) => OPENAIS.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAIS.has(name)));
  const lines = own.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra)},`);
  const key = session.key ? 'os.environ["TINYLORA_API_KEY"]' : '"unused"';
  const tenant = session.key && session.tenant ? `, organization=${literal(session.tenant)}` : "";
  return [
    ...(session.key ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${SERVER}v1", api_key=${key}${tenant})`,
    "answer = client.chat.completions.create(",
    ...lines,
    ")",
    "print(answer.choices[0].message.content)",
    "",
  ].join("\n");
}

/** A value as Python writes it. @param {any} value @returns {string} */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${literal(name)}: ${literal(one)}`).join(", ")}}`;
  // JSON's strings are Python's, but for lone surrogates.
  return JSON.stringify(value);
}
