// The official openai client for JavaScript.

import OpenAI, { toFile } from "openai";
import {
  CALL_TOKENS, CITY_QUESTION, CITY_SCHEMA, QUESTION, TOKENS, WEATHER_QUESTION, WEATHER_RESULT, WEATHER_SCHEMA, assert,
  checkCity, checkRejects, checkWeather, run,
} from "./features.mjs";

const ROW = '{"messages": [{"role": "user", "content": "What is 3 + 4?"}], "answer": "7"}\n';
const GRADER = {
  type: "string_check", name: "exact", input: "{{ sample.output_text }}", reference: "{{ item.answer }}", operation: "eq",
};
const TOOL = {
  type: "function",
  function: { name: "get_weather", description: "Get the weather of a city", parameters: WEATHER_SCHEMA, strict: true },
};

const clientOf = (world, key = world.key) => new OpenAI({ baseURL: `${world.url}/v1`, apiKey: key, maxRetries: 0 });

const ask = (world, model, more = {}) =>
  clientOf(world).chat.completions.create({
    model, messages: [{ role: "user", content: QUESTION }], temperature: 0, max_completion_tokens: TOKENS, ...more,
  });

async function chat(world) {
  const answer = await ask(world, world.model);
  assert(answer.choices[0].message.content === world.base_answer, answer);
  assert(answer.usage.completion_tokens === TOKENS, answer);
}

async function stream(world) {
  let text = "";
  let usage;
  for await (const chunk of await ask(world, world.model, { stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert(text === world.base_answer && usage.completion_tokens === TOKENS, text);
}

// The client's own loop: it collects the call from the stream, runs the function, and asks again with its result.
async function tools(world) {
  let called;
  const runner = clientOf(world).chat.completions.runTools({
    model: world.model, messages: [{ role: "user", content: WEATHER_QUESTION }], temperature: 0, stream: true,
    max_completion_tokens: CALL_TOKENS, tool_choice: { type: "function", function: { name: "get_weather" } },
    tools: [{ ...TOOL, function: { ...TOOL.function, parse: JSON.parse, function: (given) => { called = given; return WEATHER_RESULT; } } }],
  });
  await runner.done();
  checkWeather("get_weather", called);
  const first = runner.messages.find((message) => message.tool_calls);
  const asked = runner.messages.slice(0, runner.messages.indexOf(first) + 2);
  const last = await ask(world, world.model, { messages: asked, tools: [TOOL] });
  assert(last.choices[0].message.content, last);
}

async function structuredOutput(world) {
  const answer = await clientOf(world).chat.completions.parse({
    model: world.model, messages: [{ role: "user", content: CITY_QUESTION }], temperature: 0,
    max_completion_tokens: CALL_TOKENS,
    response_format: { type: "json_schema", json_schema: { name: "city", schema: CITY_SCHEMA, strict: true } },
  });
  checkCity(JSON.parse(answer.choices[0].message.content));
}

async function adapterByModel(world) {
  const answer = await ask(world, world.adapter);
  assert(answer.choices[0].message.content === world.adapted_answer && answer.model === `${world.adapter}@1`, answer);
}

// The client sends fields that it does not know; TypeScript wants `// @ts-expect-error` before them.
async function adapterByField(world) {
  const answer = await ask(world, world.model, { adapter: world.adapter });
  assert(answer.choices[0].message.content === world.adapted_answer && answer.model === `${world.adapter}@1`, answer);
}

async function models(world) {
  const listed = [];
  for await (const model of clientOf(world).models.list()) listed.push(model.id);
  assert(listed.includes(world.model) && listed.includes(world.adapter), listed);
  assert((await clientOf(world).models.retrieve(world.adapter)).id === world.adapter);
}

async function errors(world) {
  const { NotFoundError, BadRequestError, AuthenticationError } = OpenAI;
  await checkRejects(() => ask(world, "no-such-model"), (error) => error instanceof NotFoundError, "'no-such-model'");
  await checkRejects(() => ask(world, world.model, { top_p: -1 }), (error) => error instanceof BadRequestError, "top_p");
  await checkRejects(() => clientOf(world, "wrong").models.list(), (error) => error instanceof AuthenticationError, "API key");
}

async function files(world) {
  const client = clientOf(world);
  const made = await client.files.create({ file: await toFile(Buffer.from(ROW), "train.jsonl"), purpose: "fine-tune" });
  assert((await client.files.waitForProcessing(made.id)).filename === "train.jsonl");
  assert((await (await client.files.content(made.id)).text()) === ROW);
  const listed = [];
  for await (const file of client.files.list({ purpose: "fine-tune" })) listed.push(file.id);
  assert(listed.includes(made.id), listed);
  assert((await client.files.delete(made.id)).deleted);
}

async function fineTuning(world) {
  const client = clientOf(world);
  const file = await client.files.create({ file: await toFile(Buffer.from(ROW), "train.jsonl"), purpose: "fine-tune" });
  let job = await client.fineTuning.jobs.create({
    model: world.model, training_file: file.id, suffix: "peers", metadata: { by: "openai-node" },
    method: { type: "reinforcement", reinforcement: { grader: GRADER } },
  });
  while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
    await new Promise((wake) => setTimeout(wake, 100));
    job = await client.fineTuning.jobs.retrieve(job.id);
  }
  assert(job.status === "succeeded" && job.fine_tuned_model, job);
  const events = [];
  for await (const event of client.fineTuning.jobs.listEvents(job.id)) events.push(event.message);
  const checkpoints = [];
  for await (const checkpoint of client.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(checkpoint.id);
  assert(events.length && checkpoints.length, [events, checkpoints]);
  assert((await ask(world, job.fine_tuned_model)).model.startsWith(job.fine_tuned_model));
}

await run({
  chat, stream, tools, structured_output: structuredOutput, adapter_by_model: adapterByModel,
  adapter_by_field: adapterByField, models, errors, files, fine_tuning: fineTuning,
});
