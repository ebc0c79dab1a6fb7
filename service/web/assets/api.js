// Asks the service; the key stays in this tab and goes nowhere but into the header.

const KEY = "gmn-api-key";

// What the service refused: its problem document, or that it cannot be reached.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the service answered ${status}`);
    this.status = status;
    this.results = body.results ?? [];
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function useKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

export async function send(path, options = {}) {
  const headers = hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the service cannot be reached; is it running?" });
  }
  if (response.ok) return response;
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  if (response.status === 401) document.dispatchEvent(new CustomEvent("key-wanted", { detail: problem.message }));
  throw problem;
}

export async function ask(path, options) {
  return (await send(path, options)).json();
}

export async function blobOf(path) {
  return (await send(path)).blob();
}

// A form with every pair that says something.
export function formOf(pairs) {
  const form = new FormData();
  for (const [name, value] of pairs) if (value !== "" && value !== null) form.append(name, value);
  return form;
}

// A job at each of its changes. EventSource could not send the key.
export async function* follow(path) {
  const response = await send(path);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.split("\n").find((line) => line.startsWith("data: "));
        if (event.startsWith("event: progress") && data) yield JSON.parse(data.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
