// Each of these uses must be an error of the compiler.
import { createClient, type GmnProblem, type Schemas } from "gmn-client";

const client = createClient();
const photo = new File([], "photo.jpg");
const box = { x: 1, y: 2, width: 3, height: 4 };

export async function wrongUses(problem: GmnProblem): Promise<void> {
  // @ts-expect-error: a number is no text
  await client.query({ images: [photo], top_k: "3" });
  // @ts-expect-error: a path is no file
  await client.query({ images: ["photo.jpg"] });
  // @ts-expect-error: there is no such mode
  await client.query({ images: [photo], mode: "each" });
  // @ts-expect-error: there is no such field
  await client.query({ images: [photo], topk: 3 });
  // @ts-expect-error: a name is for each image
  await client.enroll({ images: [photo], identity: "Ann" });
  // @ts-expect-error: a box is an object
  await client.query({ images: [photo], boxes: ["1,2,3,4"] });
  // @ts-expect-error: a box of a query has no name
  await client.query({ images: [photo], boxes: [{ ...box, identity: "Ann" }] });
  // @ts-expect-error: a box of a sighting has no name
  await client.sight({ images: [photo], boxes: [{ ...box, identity: "Ann" }] });
  // @ts-expect-error: two images make a pair
  await client.pairs({});
  // @ts-expect-error: a search for each image has no verdict of all
  (await client.query({ images: [photo], mode: "separate" })).verdict;
  // @ts-expect-error: a gallery's name is missing
  client.list("/v1/galleries/{gallery}/crops");
  // @ts-expect-error: there is no such listing
  client.list("/v1/model");
  // @ts-expect-error: there is no such call
  await client.PUT("/v1/model");
  // @ts-expect-error: there is no such verdict
  (await client.query({ images: [photo] })).verdict === "maybe";
  // @ts-expect-error: there is no such problem
  problem.code === "unknown_galery";
}

export const right: Schemas["EnrollForm"][] = [
  {},
  { images: [photo, new Blob([]), new Uint8Array(), { data: new Uint8Array(), name: "a.jpg" }] },
  { images: [photo], boxes: [{ ...box, identity: "Ann", still: true }] },
  { vector: [[0.5, 1], "AAAAAA=="], metadata: [{ shift: "night" }, ""] },
];

export function isUnknown(problem: GmnProblem): boolean {
  return problem.code === "unknown_gallery";
}
