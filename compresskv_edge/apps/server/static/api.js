// The server, as this page uses it. Every call throws Refused with the server's own words.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = sessionStorage.getItem("key") ?? "";
let askForKey = async () => "";

export function onKeyWanted(ask) {
  askForKey = ask;
}

export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const isJson = body !== undefined && !(body instanceof Blob);
  const send = () =>
    fetch(path, {
      method,
      signal,
      body: isJson ? JSON.stringify(body) : body,
      headers: {
        ...(isJson ? { "Content-Type": "application/json" } : {}),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
        ...headers,
      },
    }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer. Is it still running?");
    });
  let response = await send();
  while (response.status === 401) {
    key = await askForKey();
    sessionStorage.setItem("key", key);
    response = await send();
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.error?.message ?? `The server answered ${response.status}.`);
  }
  return response;
}

export const json = async (path, options) => (await call(path, options)).json();

// Yields the text as it comes and returns the usage.
export async function* chat(request, id, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", { method: "POST", body, signal, headers: { "X-Request-Id": id } });
  let usage = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(500, chunk.error.message);
    if (chunk.usage) usage = chunk.usage;
    const text = chunk.choices?.[0]?.delta?.content;
    if (text) yield text;
  }
  return usage;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    const lines = pending.split("\n");
    pending = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
