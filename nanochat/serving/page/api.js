// Requests to the server of this page, and their errors in words.

let apiKey = null; // in memory only

class Failure extends Error {
  constructor(message, code = null) { super(message); this.code = code; }
}

// Return the reply of a request. Throws Failure, and AbortError if it was stopped.
async function post(path, body, signal) {
  if (facts.needs_key && apiKey === null) throw askForKey("This server needs its API key.");
  const headers = { "content-type": "application/json" };
  if (apiKey !== null) headers.authorization = `Bearer ${apiKey}`;
  let reply;
  try {
    reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is nanochat serve still running?");
  }
  if (reply.ok) return reply;
  const found = await reply.json().catch(() => null);
  if (reply.status === 401) throw askForKey("This is not the API key of this server.");
  throw new Failure(found?.error?.message ?? `The server answered with status ${reply.status}.`,
    found?.error?.code);
}

function askForKey(message) {
  apiKey = null;
  showKeyForm();
  return new Failure(message);
}

// Yield the events of a stream up to [DONE].
async function* streamed(path, body, signal) {
  const reply = await post(path, { ...body, stream: true }, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      part = { done: true };
    }
    if (part.done) throw new Failure("The server ended the connection before the text.");
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events.map((one) => one.slice("data: ".length))) {
      if (event === "[DONE]") return;
      const record = JSON.parse(event);
      if (record.error) throw new Failure(record.error.message);
      yield record;
    }
  }
}

// Yield the events of the first of the bodies, each made by `shorter` from the one before it, that
//   fits in the context window.
async function* streamedIfShort(path, body, shorter, signal) {
  for (let next = body; ;) {
    try {
      yield* streamed(path, next, signal);
      return;
    } catch (error) {
      next = error.code === "context_length_exceeded" ? shorter(next) : null;
      if (next === null) throw error;
    }
  }
}

async function scoreOf(text, signal) {
  const asked = { input: text, nanochat: { alternatives: ALTERNATIVES } };
  const reply = await post("/v1/score", asked, signal);
  return reply.json();
}
