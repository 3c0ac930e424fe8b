// The server's API, with the key that it may want.

import { ask, byId } from "./dom.js";

const KEY = "mpispec.key";

/** What went wrong, in a sentence for the user. `status` is 0 where no server answered. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const GONE = "The server cannot be reached. Is mpispec serve still running?";
const BROKEN = "The connection broke before the answer had ended. Is mpispec serve still running?";

function readKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

let asking = null;

/** Ask the user for the key, once for all requests that lack it; resolves to whether there is a new one. */
function askForKey() {
  asking ??= (async () => {
    const dialog = byId("key");
    const field = dialog.querySelector("input");
    field.value = "";
    if (readKey() !== null) byId("key-hint").textContent = "The server does not know that key. Try another one.";
    const isGiven = (await ask(dialog)) === "use" && field.value !== "";
    if (isGiven) sessionStorage.setItem(KEY, field.value.trim());
    asking = null;
    return isGiven;
  })();
  return asking;
}

async function explain(response) {
  let message = `The server answered ${response.status} ${response.statusText}.`;
  try {
    message = (await response.json()).error.message ?? message;
  } catch {
    // Not this server's form, maybe a proxy's: the status has to do.
  }
  const wait = response.headers.get("Retry-After");
  if (response.status === 429 || response.status === 503) message += wait ? ` Try again in ${wait} s.` : "";
  return new Failure(message, response.status);
}

async function request(path, options, asks) {
  for (;;) {
    const key = readKey();
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(GONE);
    }
    if (response.ok) return response;
    // Another request may have brought the right key meanwhile.
    if (response.status === 401 && (readKey() !== key || (asks && (await askForKey())))) continue;
    throw await explain(response);
  }
}

/** GET a JSON document; with `asks` the user is asked for a missing key. */
export async function getJson(path, { asks = false, signal } = {}) {
  const response = await request(path, { signal }, asks);
  try {
    return await response.json();
  } catch {
    throw new Failure(GONE);
  }
}

/** Yield the data of each event of a stream, up to [DONE]. Throws a Failure where the stream breaks off. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure(BROKEN);
      }
      if (read.done) throw new Failure(BROKEN);
      held += read.value;
      const lines = held.split("\n");
      held = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Ask for an answer; yields the chunks of its stream. Throws a Failure, or an AbortError after `signal`. */
export async function* streamChat(body, signal) {
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true, include_drafts: true } }),
    signal,
  };
  const response = await request("/v1/chat/completions", options, true);
  for await (const chunk of readEvents(response.body)) {
    if (chunk.error) throw new Failure(chunk.error.message);
    yield chunk;
  }
}
