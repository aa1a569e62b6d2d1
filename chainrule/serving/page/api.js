// Requests to the server that this page came from, and whether it still answers. Knows no view.

let key = sessionStorage.getItem("api-key") ?? "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("api-key", value);
}

// What the server said about a request.
export class ServerError extends Error {}

// The server does not answer any more.
export class ConnectionError extends Error {}

// "lost", "found" and "key" events for the line at the top of the page.
export const connection = new EventTarget();
let isLost = false;

// Any answer will do; it fails where none comes within ten seconds.
const anyAnswer = () => fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(10_000) });

function lost() {
  if (isLost) return;
  isLost = true;
  connection.dispatchEvent(new Event("lost"));
  const again = async () => {
    try {
      await anyAnswer();
      isLost = false;
      connection.dispatchEvent(new Event("found"));
    } catch {
      setTimeout(again, 1500);
    }
  };
  setTimeout(again, 1500);
}

// Ask now and then, so that a server that has ended is noticed before it is needed.
export function watch(milliseconds = 10_000) {
  setInterval(async () => {
    if (isLost || document.hidden) return;
    try {
      await anyAnswer();
    } catch {
      lost();
    }
  }, milliseconds);
}

async function ask(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    lost();
    throw new ConnectionError("The server does not answer.");
  }
  if (response.ok) return response;
  if (response.status === 401) connection.dispatchEvent(new Event("key"));
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status says it */ }
  throw new ServerError(message);
}

export const getJson = async (path, signal) => readJson(await ask(path, undefined, signal), signal);
export const postJson = async (path, body, signal) => readJson(await ask(path, body, signal), signal);

async function readJson(response, signal) {
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    lost();
    throw new ConnectionError("The connection was lost in the middle of an answer.");
  }
}

// The data of server-sent events, as JSON; ends with [DONE] or with the answer.
export async function* events(path, body, signal) {
  const reader = (await ask(path, body, signal)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      lost();
      throw new ConnectionError("The connection was lost: the answer is not complete.");
    }
    rest += part.done ? decoder.decode() : decoder.decode(part.value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new ServerError(found.error.message);
      yield found;
    }
    if (part.done) return;
  }
}

// One request at a time: a newer one cancels the older, whose answer is never shown.
export class Latest {
  #controller = null;

  get running() {
    return this.#controller !== null;
  }

  stop() {
    this.#controller?.abort();
    this.#controller = null;
  }

  // Calls run(signal); `failed` gets the error of the newest, never that of a cancelled one.
  async run(run, failed) {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    try {
      await run(controller.signal);
    } catch (error) {
      if (controller.signal.aborted) return;
      if (!(error instanceof ServerError || error instanceof ConnectionError)) throw error;
      failed(error);
    } finally {
      if (this.#controller === controller) this.#controller = null;
    }
  }
}
