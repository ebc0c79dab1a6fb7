/** The client of openapi-fetch with forms, a time limit for each attempt, and repetitions. */

import createFetchClient, { type Client as FetchClient } from "openapi-fetch";
import { errorCode, ServiceUnreachable, toProblem } from "./errors.js";
import { toForm } from "./forms.js";
import type { paths } from "./openapi.js";

/** One method for each HTTP method, typed by the path of the call. */
export type Calls = FetchClient<paths>;

/** How often and when a request is repeated. */
export interface Retries {
  /** Maximum number of attempts; 6 by default. */
  attempts: number;
  /** Limit on one pause, also if `Retry-After` asks for more; 10 by default. */
  longestWaitSeconds: number;
}

/** Where the service is, and how it is called. */
export interface ClientOptions {
  /** Address of the service; `http://127.0.0.1:8000` by default. */
  url?: string | undefined;
  /** API key, sent as a bearer token. */
  key?: string | undefined;
  /** Gallery of calls that name none; `default` by default. */
  gallery?: string | undefined;
  /** Limit on one attempt, 60 by default; calls that may take minutes have at least 300. */
  timeoutSeconds?: number | undefined;
  retries?: Partial<Retries> | undefined;
  /** In place of the global `fetch`, for example one with a proxy. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** What openapi-fetch returns, and the options of its calls, of any path. */
interface Answer {
  data?: unknown;
  error?: unknown;
  response: Response;
}
interface Init {
  body?: object;
  params?: { path?: Record<string, unknown>; header?: Record<string, unknown> };
  signal?: AbortSignal | null;
}
type Outcome = Answer | ServiceUnreachable;

const LOCAL_URL = "http://127.0.0.1:8000";
const TIMEOUT_SECONDS = 60;
// The `fetch` of Node waits no longer for an answer to begin.
const LONG_SECONDS = 300;
const FIRST_WAIT_SECONDS = 0.25;
const ATTEMPTS = 6;
const LONGEST_WAIT_SECONDS = 10;

// Calls that may be repeated although they may have happened, besides those of GET and PUT.
const REPEATABLE = new Set([
  "POST /v1/sightings",
  "POST /v1/cameras/{camera}/heartbeat",
  "POST /v1/cameras/{camera}/still",
  "POST /v1/galleries/{gallery}/reindex",
  "POST /v1/galleries/{gallery}/groups",
  "DELETE /v1/jobs/{job_id}",
  "POST /v1/galleries/{gallery}/queries",
  "POST /v1/galleries/{gallery}/visits",
  "POST /v1/queries",
  "POST /v1/visits",
  "POST /v1/pairs",
  "POST /v1/embeddings",
  "POST /v1/people",
  "POST /v1/galleries/{gallery}/queries/{query_id}/reviews",
  "DELETE /v1/galleries/{gallery}/watch",
  "PATCH /v1/galleries/{gallery}/watch",
  "POST /v1/alerts/{alert_id}/review",
  "POST /v1/webhooks/deliveries/{delivery_id}/retry",
]);
// Calls that may take minutes.
const LONG = new Set([
  "PATCH /v1/galleries/{gallery}/crops",
  "DELETE /v1/galleries/{gallery}/crops",
  "DELETE /v1/galleries/{gallery}",
  "DELETE /v1/galleries/{gallery}/identities/{identity}",
  "POST /v1/galleries/{gallery}/exports",
  "POST /v1/galleries/{gallery}/imports",
  "GET /v1/galleries/{gallery}/cases/{case_id}/export",
]);
const RETRIED_STATUSES = new Set([429, 503]);
// The request may have taken effect: the record or the device failed before the answer.
const UNCERTAIN_CODES = new Set(["record_unavailable", "device_lost"]);
// The connection broke before the answer, after the request may have arrived.
const LOST_CODES = new Set(["ECONNRESET", "EPIPE", "UND_ERR_SOCKET"]);
// No connection was made, so the request cannot have arrived.
const GONE_CODES = new Set(["ECONNREFUSED", "EAI_AGAIN", "ENOTFOUND"]);

/** `fetch` takes no address with a user or a password, and shows it in its error. */
function isUsable(url: string): boolean {
  if (!URL.canParse(url)) {
    return false;
  }
  const address = new URL(url);
  const isWeb = /^https?:$/.test(address.protocol);
  return isWeb && address.username === "" && address.password === "";
}

/**
 * Return the calls of a service.
 *
 * @throws TypeError if the address or the key cannot be used; the message does not repeat the key
 */
export function createCalls(options: ClientOptions): Calls {
  const url = options.url ?? LOCAL_URL;
  if (!isUsable(url)) {
    // What stands before the mark may be a password.
    const shown = url.includes("@") ? `***@${url.split("@").pop()}` : url;
    throw new TypeError(`url: ${shown} is no address; write it like ${LOCAL_URL}`);
  }
  const client = createFetchClient<paths>({
    baseUrl: url,
    headers: keyHeader(options.key),
    // Looked up for each call, so that a program may replace the global one.
    fetch: (request) => (options.fetch ?? globalThis.fetch)(request),
  });
  const sender = new Sender(url, client, options);
  const methods = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"] as const;
  const calls = methods.map((method) => [
    method,
    (path: string, init?: Init) => sender.send(method, path, init),
  ]);
  const request = (method: string, path: string, init?: Init) =>
    sender.send(method.toUpperCase(), path, init);
  // The methods of the sender forget the types that openapi-fetch gives each path.
  return { ...client, ...Object.fromEntries(calls), request } as Calls;
}

function keyHeader(key = ""): Record<string, string> {
  const written = key.trim();
  if (written && !/^[!-~]+$/.test(written)) {
    throw new TypeError("key: holds a character that no key has; give the whole key alone");
  }
  return written ? { Authorization: `Bearer ${written}` } : {};
}

class Sender {
  private readonly request: (method: string, path: string, init: Init) => Promise<Answer>;
  private readonly retries: Retries;
  private readonly timeoutSeconds: number;
  private wasThere = false;

  constructor(
    private readonly url: string,
    client: Calls,
    options: ClientOptions,
  ) {
    this.request = client.request as typeof this.request;
    this.retries = {
      attempts: options.retries?.attempts ?? ATTEMPTS,
      longestWaitSeconds: options.retries?.longestWaitSeconds ?? LONGEST_WAIT_SECONDS,
    };
    this.timeoutSeconds = options.timeoutSeconds ?? TIMEOUT_SECONDS;
  }

  /** Send a request, until it is answered or must not be repeated. */
  async send(method: string, path: string, init: Init = {}): Promise<Answer> {
    requireSegments(init.params?.path ?? {});
    const body = init.body && (init.body instanceof FormData ? init.body : toForm(init.body));
    const whole = { ...init, body };
    for (let attempt = 1; ; attempt += 1) {
      const outcome = await this.attempt(method, path, whole);
      if (attempt >= this.retries.attempts || !this.mayRepeat(method, path, init, outcome)) {
        if (outcome instanceof ServiceUnreachable) {
          throw outcome;
        }
        return outcome;
      }
      await pause(this.secondsAfter(attempt, outcome), init.signal);
    }
  }

  private async attempt(method: string, path: string, init: Init): Promise<Outcome> {
    const { signal } = init;
    signal?.throwIfAborted();
    const isLong = LONG.has(`${method} ${path}`);
    const seconds = isLong ? Math.max(this.timeoutSeconds, LONG_SECONDS) : this.timeoutSeconds;
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    const timer = setTimeout(() => {
      controller.abort(new DOMException(`no answer within ${seconds} s`, "TimeoutError"));
    }, seconds * 1000);
    signal?.addEventListener("abort", abort);
    try {
      const answer = await this.request(method, path, { ...init, signal: controller.signal });
      this.wasThere = true;
      return answer;
    } catch (error) {
      signal?.throwIfAborted();
      return new ServiceUnreachable(this.url, error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  private mayRepeat(method: string, path: string, init: Init, outcome: Outcome): boolean {
    const isRepeatable =
      method === "GET" ||
      method === "PUT" ||
      REPEATABLE.has(`${method} ${path}`) ||
      init.params?.header?.["idempotency-key"] !== undefined;
    if (!(outcome instanceof ServiceUnreachable)) {
      const { response, error } = outcome;
      return (
        RETRIED_STATUSES.has(response.status) &&
        (isRepeatable || !UNCERTAIN_CODES.has(toProblem(response, error).code))
      );
    }
    if (!(outcome.cause instanceof TypeError)) {
      return false;
    }
    const code = errorCode(outcome.cause);
    if (code === undefined) {
      // A browser does not tell a lost answer from an address without a service.
      return this.wasThere && isRepeatable;
    }
    // A service that answered before may be restarting.
    return (this.wasThere && GONE_CODES.has(code)) || (isRepeatable && LOST_CODES.has(code));
  }

  private secondsAfter(attempt: number, outcome: Outcome): number {
    const requested =
      outcome instanceof ServiceUnreachable
        ? undefined
        : toProblem(outcome.response, outcome.error).retryAfter;
    const seconds = requested ?? FIRST_WAIT_SECONDS * 2 ** (attempt - 1);
    return Math.min(seconds, this.retries.longestWaitSeconds);
  }
}

/** An empty name, `.` or `..` in an address would lead to another resource. */
function requireSegments(segments: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(segments)) {
    if (["", ".", ".."].includes(String(value))) {
      throw new TypeError(`${name}: "${value}" can stand in no address; give the whole name or id`);
    }
  }
}

/** Wait; throws the reason of a signal that is aborted meanwhile. */
export async function pause(seconds: number, signal?: AbortSignal | null): Promise<void> {
  await new Promise<void>((resolve) => {
    const stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(stop, seconds * 1000);
    signal?.addEventListener("abort", stop);
  });
  signal?.throwIfAborted();
}
