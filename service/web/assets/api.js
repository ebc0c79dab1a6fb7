// Calls of the service. The key stays in this tab, and is sent only in the header.

import { t } from "./texts.js";

const PAGE = 1000;
const KEY = "gmn-api-key";
// A hint at the end of a message that names a call of the API. It is for programs only.
const CALL = /; [^;]* (GET|DELETE) \/v1\S*$/;

// The messages of the service are English.
// A message about a field that goes on after the name of the field: “is missing; send it”.
const PREDICATE = /^(are|belongs?|go|goes|has|have|holds|is|lies|may|must|needs?|stands|was|were) /;

// Say what is wrong with a field by its label on the page, or without a name: the names of fields
// are for programs.
export function aboutField(message, label = null) {
  if (PREDICATE.test(message)) return `${label ? `“${label}”` : "this"} ${message}`;
  return label ? `${label}: ${message}` : message;
}

// An error of a request: a problem document, or a service that cannot be reached. `fields` maps
// each message about fields to their names.
export class Problem extends Error {
  constructor(status, body, retrySeconds = 0) {
    const fields = Map.groupBy(body.errors ?? [], (error) => error.message.replace(CALL, ""));
    const detail =
      fields.size > 0
        ? [...fields.keys()].map((message) => aboutField(message)).join("; ")
        : (body.detail ?? body.title ?? t("problem.status", { status }));
    super(detail.replace(CALL, ""));
    this.fields = [...fields].map(([message, errors]) => [
      message,
      errors.map((error) => error.field),
    ]);
    this.status = status;
    // A proxy answers for a service that is away.
    this.isAway = [0, 502, 503, 504].includes(status);
    this.code = body.type?.split(":").at(-1);
    this.unknownGallery = this.code === "unknown_gallery";
    this.results = body.results ?? [];
    this.retrySeconds = retrySeconds;
  }
}

// Return the public part of the key.
export const keyId = () => sessionStorage.getItem(KEY)?.split("_")[1];
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function useKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

export async function send(path, options = {}) {
  const headers = {
    ...options.headers,
    ...(hasKey() && { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` }),
  };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    document.dispatchEvent(new Event("service-silent"));
    throw new Problem(0, { detail: t("problem.silent") });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const problem = new Problem(response.status, body, Number(response.headers.get("retry-after")));
  if (response.status === 401)
    document.dispatchEvent(new CustomEvent("key-wanted", { detail: problem.message }));
  throw problem;
}

export async function ask(path, options) {
  return (await send(path, options)).json();
}

// Read pages of a list until there are `enough` results. A page may have fewer than its limit,
// `most`.
export async function pages(path, fields, enough, cursor = null, most = PAGE) {
  const results = [];
  do {
    const asked = new URLSearchParams(
      formOf([
        ...Object.entries(fields),
        ["limit", Math.min(enough - results.length, most)],
        ["cursor", cursor],
      ]),
    );
    const page = await ask(`${path}?${asked}`);
    results.push(...page.results);
    cursor = page.next_cursor;
  } while (cursor !== null && results.length < enough);
  return { results, next_cursor: cursor };
}

export async function blobOf(path) {
  return (await send(path)).blob();
}

// Create a form of the pairs that have a value.
export function formOf(pairs) {
  const form = new FormData();
  for (const [name, value] of pairs) if (value !== "" && value !== null) form.append(name, value);
  return form;
}

// Yield server-sent events as {event, data}, and call `heard` for every line, comments included.
// EventSource cannot send the key.
export async function* events(path, options = {}, heard = () => undefined) {
  const response = await send(path, options);
  heard();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(
          block.split("\n").map((line) => line.split(/: (.*)/).slice(0, 2)),
        );
        if (fields.data !== undefined) yield fields;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
