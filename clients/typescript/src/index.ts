/** Client of the GMN person re-identification service. */

export type { ClientOptions, Retries } from "./calls.js";
export {
  createClient,
  unwrap,
  type CallOptions,
  type Client,
  type EnrollOptions,
  type GalleryCallOptions,
  type ListPath,
  type Schemas,
} from "./client.js";
export { GmnProblem, ServiceUnreachable, type Problem, type ProblemCode } from "./errors.js";
export type {
  Box,
  FormFile,
  LabelledBox,
  Metadata,
  SightedBox,
  Vector,
  Versions,
} from "./forms.js";
export type { components, paths } from "./openapi.js";
