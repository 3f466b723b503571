// What the programs of this directory share: the server that they ask, and the report of what worked.
//
// The same as python/features.py, which says more.

export const QUESTION = "What is the capital of France?";
export const TOKENS = 6;
export const CALL_TOKENS = 60;
export const WEATHER_QUESTION = "What is the weather in Paris?";
export const WEATHER_RESULT = "sunny, 21 degrees";
export const CITY_QUESTION = "Is Paris a capital, and of which country? Answer as JSON.";

export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};
export const CITY_SCHEMA = {
  type: "object",
  properties: { country: { type: "string", enum: ["France", "Spain"] }, capital: { type: "boolean" } },
  required: ["country", "capital"],
  additionalProperties: false,
};

export function assert(condition, found = "") {
  if (!condition) throw new Error(`not as expected: ${typeof found === "string" ? found : JSON.stringify(found)}`);
}

export function checkWeather(name, given) {
  const called = typeof given === "string" ? JSON.parse(given) : given;
  assert(name === "get_weather", name);
  assert(Object.keys(called).sort().join() === "city,unit", called);
  assert(["celsius", "fahrenheit"].includes(called.unit) && called.city.length <= 12, called);
}

export function checkCity(city) {
  assert(Object.keys(city).sort().join() === "capital,country", city);
  assert(["France", "Spain"].includes(city.country) && typeof city.capital === "boolean", city);
}

// That the promise of `call` is rejected with an error for which `isExpected` holds and that the user can read.
export async function checkRejects(call, isExpected, words) {
  let caught;
  try {
    await call();
  } catch (error) {
    caught = error;
  }
  assert(caught !== undefined, "nothing was thrown");
  assert(isExpected(caught), `${caught.name} ${caught.status ?? caught.statusCode}: ${caught.message}`);
  assert(String(caught.message).includes(words), caught.message);
}

export async function run(features) {
  const world = JSON.parse(process.env.THIRD_PARTY_WORLD);
  const named = process.argv.slice(2);
  const outcomes = {};
  for (const name of named.length ? named : Object.keys(features)) {
    const feature = features[name];
    if (typeof feature === "string") {
      outcomes[name] = { reason: feature };
      continue;
    }
    const start = Date.now();
    try {
      await feature(world);
      outcomes[name] = { works: true };
    } catch (error) {
      outcomes[name] = { failed: error.stack ?? String(error) };
    }
    outcomes[name].seconds = Math.round((Date.now() - start) / 100) / 10;
  }
  console.log(JSON.stringify(outcomes));
}
