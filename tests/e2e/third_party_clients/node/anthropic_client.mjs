// The official anthropic client for JavaScript, over /v1/messages.

import Anthropic from "@anthropic-ai/sdk";
import {
  CALL_TOKENS, CITY_QUESTION, CITY_SCHEMA, QUESTION, TOKENS, WEATHER_QUESTION, WEATHER_RESULT, WEATHER_SCHEMA, assert,
  checkCity, checkRejects, checkWeather, run,
} from "./features.mjs";

const TOOL = { name: "get_weather", description: "Get the weather of a city", input_schema: WEATHER_SCHEMA };

const clientOf = (world, key = world.key) => new Anthropic({ baseURL: world.url, apiKey: key, maxRetries: 0 });

const request = (model, more = {}) => ({
  model, messages: [{ role: "user", content: QUESTION }], temperature: 0, max_tokens: TOKENS, ...more,
});

const ask = (world, model, more) => clientOf(world).messages.create(request(model, more));

async function chat(world) {
  const answer = await ask(world, world.model);
  assert(answer.content[0].text === world.base_answer && answer.stop_reason === "max_tokens", answer);
  const counted = await clientOf(world).messages.countTokens({ model: world.model, messages: request("").messages });
  // Those of them that were in the cache are counted apart.
  assert(counted.input_tokens === answer.usage.input_tokens + (answer.usage.cache_read_input_tokens ?? 0), counted);
}

async function stream(world) {
  const pieces = clientOf(world).messages.stream(request(world.model));
  let text = "";
  pieces.on("text", (piece) => { text += piece; });
  const last = await pieces.finalMessage();
  assert(text === world.base_answer && last.usage.output_tokens === TOKENS, text);
}

async function tools(world) {
  const messages = [{ role: "user", content: WEATHER_QUESTION }];
  const choice = { tools: [TOOL], tool_choice: { type: "any" }, max_tokens: CALL_TOKENS };
  const first = await clientOf(world).messages.stream(request(world.model, { messages, ...choice })).finalMessage();
  const call = first.content.find((block) => block.type === "tool_use");
  checkWeather(call.name, call.input);
  assert(first.stop_reason === "tool_use", first);
  const result = { type: "tool_result", tool_use_id: call.id, content: WEATHER_RESULT };
  messages.push({ role: "assistant", content: first.content }, { role: "user", content: [result] });
  assert((await ask(world, world.model, { messages, tools: [TOOL] })).content[0].text);
}

async function structuredOutput(world) {
  const answer = await ask(world, world.model, {
    messages: [{ role: "user", content: CITY_QUESTION }], max_tokens: CALL_TOKENS,
    output_config: { format: { type: "json_schema", schema: CITY_SCHEMA } },
  });
  checkCity(JSON.parse(answer.content[0].text));
}

async function adapterByModel(world) {
  const answer = await ask(world, world.adapter);
  assert(answer.content[0].text === world.adapted_answer && answer.model === `${world.adapter}@1`, answer);
}

async function adapterByField(world) {
  const answer = await ask(world, world.model, { adapter: world.adapter });
  assert(answer.content[0].text === world.adapted_answer, answer);
}

async function models(world) {
  const listed = {};
  for await (const model of clientOf(world).models.list({ limit: 5 })) listed[model.id] = model.display_name;
  assert(listed[world.model] === world.model && listed[world.adapter] === world.adapter, listed);
  assert((await clientOf(world).models.retrieve(world.adapter)).type === "model");
}

async function errors(world) {
  const { NotFoundError, BadRequestError, AuthenticationError } = Anthropic;
  await checkRejects(() => ask(world, "no-such-model"), (error) => error instanceof NotFoundError, "'no-such-model'");
  await checkRejects(() => ask(world, world.model, { top_p: -1 }), (error) => error instanceof BadRequestError, "top_p");
  const stranger = () => clientOf(world, "wrong").messages.create(request(world.model));
  await checkRejects(stranger, (error) => error instanceof AuthenticationError, "API key");
}

await run({
  chat, stream, tools, structured_output: structuredOutput, adapter_by_model: adapterByModel,
  adapter_by_field: adapterByField, models, errors,
});
