/** The errors of failed calls. */

import type { components } from "./openapi.js";

/** A problem document of RFC 9457, as the service answers it. */
export type Problem = components["schemas"]["Problem"];

type ProblemType = Problem["type"];

/** The code of a problem, such as `unknown_gallery`. A newer service may have others. */
export type ProblemCode = ProblemType extends `urn:gmn:problem:${infer Code}` ? Code : never;

/** The service refused a request, or could not carry it out. */
export class GmnProblem extends Error {
  override readonly name = "GmnProblem";
  /** The last part of the problem's type; empty if something else than the service answered. */
  readonly code: ProblemCode | "";
  readonly status: number;
  /** What was wrong, where, and what to do about it. */
  readonly detail: string;

  /**
   * @param problem the whole document; its `results` has the reason for each refused image
   * @param retryAfter the pause in seconds that the answer asks for, if any
   */
  constructor(
    readonly problem: Problem,
    readonly retryAfter?: number,
  ) {
    super(`${problem.detail || problem.title} (HTTP ${problem.status})`);
    this.code = codeOf(problem.type);
    this.status = problem.status;
    this.detail = problem.detail;
  }
}

function codeOf(type: string): ProblemCode | "" {
  const prefix = "urn:gmn:problem:";
  return type.startsWith(prefix) ? (type.slice(prefix.length) as ProblemCode) : "";
}

/** No such service answers at the address, or not in time; `cause` is the error of `fetch`. */
export class ServiceUnreachable extends Error {
  override readonly name = "ServiceUnreachable";

  constructor(url: string, cause: unknown) {
    const reason = reasonOf(cause);
    super(`${url}: ${reason}; see whether the service runs there, and the address is right`, {
      cause,
    });
  }
}

/** Return the message of an error with that of its cause, which `fetch` gives the reason in. */
function reasonOf(error: unknown): string {
  if (error instanceof SyntaxError) {
    return `answers no JSON (${error.message}); give parseAs if the call answers text or a file`;
  }
  if (!(error instanceof Error)) {
    return String(error);
  }
  const cause = error.cause instanceof Error ? error.cause : undefined;
  const details = cause?.message || errorCode(error);
  return details ? `${error.message} (${details})` : error.message;
}

/** Return the code of the system's error below one of `fetch`, as Node names it. */
export function errorCode(error: unknown): string | undefined {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  const hasCode = typeof cause === "object" && cause !== null && "code" in cause;
  return hasCode ? String(cause.code) : undefined;
}

/** Return the error for an answer that is not 2xx. */
export function toProblem(response: Response, body: unknown): GmnProblem {
  const header = response.headers.get("Retry-After") ?? "";
  const retryAfter = /^\d+$/.test(header) ? Number(header) : undefined;
  return new GmnProblem(problemIn(body) ?? foreignProblem(response, body), retryAfter);
}

function problemIn(body: unknown): Problem | undefined {
  const isProblem = typeof body === "object" && body !== null && "type" in body && "detail" in body;
  return isProblem ? (body as Problem) : undefined;
}

/** Describe an answer of a proxy in between, or of an unrelated program. */
function foreignProblem(response: Response, body: unknown): Problem {
  const [line = ""] = String(body ?? "")
    .trim()
    .split("\n");
  const { status, statusText } = response;
  return {
    type: "about:blank" as ProblemType,
    title: statusText,
    status,
    detail: line.slice(0, 200),
  };
}
