// The npm package openai against a server: prints what it gets as one JSON object.
//   node client.mjs URL-OF-THE-COMPLETIONS URL-OF-THE-CHAT

import OpenAI from "openai";

const [url, chatUrl] = process.argv.slice(2);
const options = { apiKey: "none", maxRetries: 0 };
const client = new OpenAI({ baseURL: `${url}/v1`, ...options });
const chat = new OpenAI({ baseURL: `${chatUrl}/v1`, ...options });

const joined = async (stream, textOf) => {
  let text = "", usage = null;
  for await (const part of stream) {
    text += part.choices.map(textOf).join("");
    usage = part.usage ?? usage;
  }
  return { text, usage };
};
const refused = async (promise) => {
  const { status, type, param, code, message, constructor } =
    await promise.then(() => { throw new Error("it must be refused"); }, (error) => error);
  return { status, type, param, code, message, kind: constructor.name };
};

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const how = { model: models[0], prompt: "an", seed: 3, max_tokens: 20 };
const said = { model: models[0], messages: [{ role: "user", content: "an" }], seed: 3,
  max_completion_tokens: 20 };
const withUsage = { stream: true, stream_options: { include_usage: true } };

console.log(JSON.stringify({
  models,
  whole: await client.completions.create({ ...how, logprobs: 2 }),
  streamed: await joined(
    await client.completions.create({ ...how, ...withUsage }), (choice) => choice.text),
  message: await chat.chat.completions.create(said),
  chatted: await joined(
    await chat.chat.completions.create({ ...said, ...withUsage }),
    (choice) => choice.delta.content ?? ""),
  refusals: [
    await refused(client.completions.create({ ...how, temperature: -1 })),
    await refused(client.completions.create({ ...how, model: "gpt-4" })),
    await refused(client.chat.completions.create({ ...said, stream: true })),
  ],
}));
