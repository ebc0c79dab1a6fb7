/** The client: the calls of openapi-fetch, and methods for those that programs need most. */

import type { FetchOptions } from "openapi-fetch";
import { createCalls, pause, type Calls, type ClientOptions } from "./calls.js";
import { toProblem } from "./errors.js";
import type { components, paths } from "./openapi.js";

/** The models of the service's calls by name, such as `Schemas["QueryAnswer"]`. */
export type Schemas = components["schemas"];

/** Options of one call. */
export interface CallOptions {
  /** Ends the call, and its repetitions, with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Options of a call to a gallery. */
export interface GalleryCallOptions extends CallOptions {
  /** The client's gallery by default. */
  gallery?: string | undefined;
}

/** Options of an enrollment. */
export interface EnrollOptions extends GalleryCallOptions {
  /** Identifies this enrollment, which takes effect once within a day; random by default. */
  idempotencyKey?: string | undefined;
}

type QueryMode = NonNullable<Schemas["QueryForm"]["mode"]>;

/** An answer with `results` that may continue on a next page. */
interface Page {
  results: unknown[];
  next_cursor: string | null;
}
type Listing<Path extends keyof paths> = paths[Path]["get"] extends {
  responses: { 200: { content: { "application/json": infer Answer } } };
}
  ? Answer extends Page
    ? Answer
    : never
  : never;
/** The paths whose GET lists something. */
export type ListPath = {
  [Path in keyof paths]: [Listing<Path>] extends [never] ? never : Path;
}[keyof paths];
type ListOptions<Path extends ListPath> = FetchOptions<NonNullable<paths[Path]["get"]>>;
type ListArguments<Path extends ListPath> =
  {} extends ListOptions<Path> ? [options?: ListOptions<Path>] : [options: ListOptions<Path>];

type Call<Data> = Promise<{ data?: Data; error?: unknown; response: Response }>;

const POLL_SECONDS = 0.5;

/**
 * Return what a call answers.
 *
 * @throws GmnProblem if the service answers a problem
 */
export async function unwrap<Data>(call: Call<Data>): Promise<Data> {
  const { data, error, response } = await call;
  if (!response.ok) {
    throw toProblem(response, error);
  }
  return data as Data;
}

/** The calls of openapi-fetch, and the methods that are named after their calls. */
export type Client = Calls & NamedMethods;

/**
 * Return a client of a service.
 *
 * `GET`, `POST` and so on are those of openapi-fetch for every call, and return `data` or `error`.
 * The other methods return the answer, and throw `GmnProblem` if the service answers a problem. All
 * of them repeat a request after 429 and 503, and after a lost answer if a repetition changes
 * nothing, and throw `ServiceUnreachable` if no such service answers.
 *
 * @throws TypeError if the address or the key cannot be used
 */
export function createClient(options: ClientOptions = {}): Client {
  const calls = createCalls(options);
  return { ...calls, ...namedMethods(calls, options.gallery ?? "default") };
}

type NamedMethods = ReturnType<typeof namedMethods>;

function namedMethods(calls: Calls, gallery: string) {
  function pathOf(options: GalleryCallOptions) {
    return { gallery: options.gallery ?? gallery };
  }

  return {
    /** Create a gallery; a problem with status 409 if the name exists. */
    async createGallery(
      name: string,
      settings: Schemas["GallerySettingsFields"] = {},
      { signal }: CallOptions = {},
    ): Promise<Schemas["Gallery"]> {
      return unwrap(calls.POST("/v1/galleries", { body: { name, ...settings }, signal }));
    },

    /**
     * Enroll images, the crops in the boxes of one, or vectors; labels are one for all or one each.
     *
     * A refused image is a result with `problem`. If none can be used, this throws a problem whose
     * `problem.results` has the reasons. `replayed` is true for the answer to an earlier request.
     */
    async enroll(
      form: Schemas["EnrollForm"],
      options: EnrollOptions = {},
    ): Promise<Schemas["Enrollment"] & { replayed: boolean }> {
      const key = options.idempotencyKey ?? randomKey();
      const call = calls.POST("/v1/galleries/{gallery}/crops", {
        params: { path: pathOf(options), header: { "idempotency-key": key } },
        body: form,
        signal: options.signal,
      });
      const enrollment = await unwrap(call);
      const { response } = await call;
      return { ...enrollment, replayed: response.headers.get("Idempotent-Replayed") === "true" };
    },

    /** Search a gallery for the person on the images; with `mode: "separate"` for each by itself. */
    async query<Mode extends QueryMode = "multi_shot">(
      form: Schemas["QueryForm"] & { mode?: Mode },
      options: GalleryCallOptions = {},
    ): Promise<Schemas[Mode extends "separate" ? "SeparateAnswers" : "QueryAnswer"]> {
      const answer = await unwrap(
        calls.POST("/v1/galleries/{gallery}/queries", {
          params: { path: pathOf(options) },
          body: form,
          signal: options.signal,
        }),
      );
      return answer as Schemas[Mode extends "separate" ? "SeparateAnswers" : "QueryAnswer"];
    },

    /** Search several galleries, by default all that the key may use. */
    async queryGalleries<Mode extends QueryMode = "multi_shot">(
      form: Schemas["GalleriesForm"] & { mode?: Mode },
      { signal }: CallOptions = {},
    ): Promise<Schemas[Mode extends "separate" ? "SeparateGalleriesAnswers" : "GalleriesAnswer"]> {
      const answer = await unwrap(calls.POST("/v1/queries", { body: form, signal }));
      return answer as Schemas[Mode extends "separate"
        ? "SeparateGalleriesAnswers"
        : "GalleriesAnswer"];
    },

    /** Find where and when the person on the images was seen in a gallery. */
    async visits(
      form: Schemas["VisitsFields"],
      options: GalleryCallOptions = {},
    ): Promise<Schemas["VisitsAnswer"]> {
      return unwrap(
        calls.POST("/v1/galleries/{gallery}/visits", {
          params: { path: pathOf(options) },
          body: form,
          signal: options.signal,
        }),
      );
    },

    /** Find where and when the person was seen in several galleries, by default in all. */
    async visitsInGalleries(
      form: Schemas["GalleriesVisitsFields"],
      { signal }: CallOptions = {},
    ): Promise<Schemas["VisitsAnswer"]> {
      return unwrap(calls.POST("/v1/visits", { body: form, signal }));
    },

    /** Compare crops of a camera with the armed watch lists without storing them. */
    async sight(
      form: Schemas["SightingForm"],
      { signal }: CallOptions = {},
    ): Promise<Schemas["Sighted"]> {
      return unwrap(calls.POST("/v1/sightings", { body: form, signal }));
    },

    /** Compare two images. */
    async pairs(
      form: Schemas["PairForm"],
      { signal }: CallOptions = {},
    ): Promise<Schemas["PairScore"]> {
      const answer = await unwrap(calls.POST("/v1/pairs", { body: form, signal }));
      // The types of openapi-fetch forget that `explanation.grid` is a pair.
      return answer as Schemas["PairScore"];
    },

    /** Compute the vectors of images. */
    async embeddings(
      form: Schemas["SomeImagesForm"],
      { signal }: CallOptions = {},
    ): Promise<Schemas["Embeddings"]> {
      // Other calls of this path answer arrays of NumPy, of which the document knows no type.
      const answer = await unwrap(calls.POST("/v1/embeddings", { body: form, signal }));
      return answer as Schemas["Embeddings"];
    },

    /** Find the people on a photo. */
    async people(
      form: Schemas["PhotoForm"],
      { signal }: CallOptions = {},
    ): Promise<Schemas["People"]> {
      return unwrap(calls.POST("/v1/people", { body: form, signal }));
    },

    /** Wait until a job has ended and return it, in any `state`; limit the time by a signal. */
    async waitForJob(jobId: string, { signal }: CallOptions = {}): Promise<Schemas["Job"]> {
      while (true) {
        const path = { job_id: jobId };
        const job = await unwrap(calls.GET("/v1/jobs/{job_id}", { params: { path }, signal }));
        if (job.state !== "queued" && job.state !== "running") {
          return job;
        }
        await pause(POLL_SECONDS, signal);
      }
    },

    /** Iterate over the results of a listing, fetched page by page. */
    async *list<Path extends ListPath>(
      path: Path,
      ...[init]: ListArguments<Path>
    ): AsyncGenerator<Listing<Path>["results"][number], void, undefined> {
      // The compiler cannot choose a call by a path that is known when this is called.
      const get = calls.GET as (path: Path, init: object) => Call<Listing<Path>>;
      const params: { query?: object } = init?.params ?? {};
      let cursor: string | null = null;
      do {
        const query: object = { ...params.query, ...(cursor !== null && { cursor }) };
        const page: Page = await unwrap(get(path, { ...init, params: { ...params, query } }));
        yield* page.results as Listing<Path>["results"][number][];
        cursor = page.next_cursor;
      } while (cursor !== null);
    },
  };
}

function randomKey(): string {
  // Pages without TLS have no `crypto.randomUUID`.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
