// The server's API: requests with the key, errors as the server says them, and streams of events.

import { remember } from "./prefs.js";

const NAME = "hadal.key";

// An error with the server's own words.
export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

let key = null;
try {
  key = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
} catch {
  // A browser that keeps nothing asks again.
}
let asking = null;
let askForKey = async () => null;

export const hasKey = () => Boolean(key);

// Sets the function that asks the user for a key. It resolves to `{ value, keep }` or null.
export function setKeyAsker(ask) {
  askForKey = ask;
}

// Sets the key. Views that wait for one hear of it as the event `key`.
export function setKey(value, keep) {
  forgetKey();
  key = value;
  remember(NAME, value, keep ? localStorage : sessionStorage);
  dispatchEvent(new Event("key"));
}

export function forgetKey() {
  key = null;
  for (const store of [() => localStorage, () => sessionStorage]) {
    try {
      store().removeItem(NAME);
    } catch {
      // There was nothing.
    }
  }
}

// Sends a request. If the server wants a key, the user is asked for one, once for all requests that wait for it.
export async function call(path, { body, signal } = {}) {
  for (;;) {
    const sent = key;
    const headers = body ? { "content-type": "application/json" } : {};
    if (sent) headers.authorization = `Bearer ${sent}`;
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { message: "The server does not answer. Is it still running?", code: "unreachable" });
    }
    if (response.ok) return response;
    const error = (await response.json().catch(() => null))?.error;
    if (response.status !== 401) throw new ApiError(response.status, error);
    if (key !== sent) continue;
    asking ??= askForKey(Boolean(sent)).finally(() => (asking = null));
    const given = await asking;
    if (!given) throw new ApiError(401, error);
    if (key === sent) setKey(given.value, given.keep);
  }
}

export const getJson = async (path) => (await call(path)).json();

// The events of a streamed answer.
export async function* stream(path, body, signal) {
  const response = await call(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      text += done ? "\n\n" : value;
      const events = text.split(/\r?\n\r?\n/);
      text = events.pop();
      for (const event of events) {
        const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const payload = data.map((line) => line.slice(5).trim()).join("\n");
        if (payload === "[DONE]") return;
        if (!payload) continue;
        const chunk = JSON.parse(payload);
        if (chunk.error) throw new ApiError(response.status, chunk.error);
        yield chunk;
      }
      if (done) throw new ApiError(0, { message: "The answer broke off: the connection has ended.", code: "broken" });
    }
  } catch (error) {
    if (error instanceof TypeError) {
      throw new ApiError(0, { message: "The answer broke off: the connection has ended.", code: "broken" });
    }
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
