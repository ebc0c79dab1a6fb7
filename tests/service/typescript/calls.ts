// Uses the client as a program does, and prints what was answered.
import { readFile } from "node:fs/promises";
import { createClient, GmnProblem, ServiceUnreachable, unwrap } from "gmn-client";

const [url, gallery, closed] = process.argv.slice(2) as [string, string, string];
const client = createClient({ url, gallery, retries: { attempts: 1 } });
const bytes = [await readFile("0.png"), await readFile("1.png")] as const;
const shown: Record<string, unknown> = {};

// Bytes, a blob and a file are sent alike, under their names.
const images = [
  { data: bytes[0], name: "first.png" },
  new File([new Uint8Array(bytes[1])], "second.png"),
];
const labels = { identity: ["Ann", "Bob"], metadata: [{ shift: "night" }, ""] } as const;
const form = { images, identity: [...labels.identity], metadata: [...labels.metadata] };
const once = { idempotencyKey: "once" };
const enrolled = await client.enroll(form, once);
shown.enrolled = enrolled.results.map((result) => ("problem" in result ? "refused" : "stored"));
shown.replayed = [enrolled.replayed, (await client.enroll(form, once)).replayed];

const size = { width: 48, height: 96 };
const named = { x: 0, y: 0, ...size, identity: "Cid", camera: "gate", metadata: { row: 1 } };
await client.enroll({ images: [bytes[1]], boxes: [named] });
const answer = await client.query({
  images: [new Blob([new Uint8Array(bytes[0])])],
  boxes: [{ x: 0, y: 0, ...size }],
  metadata: { shift: "night" },
  include_vector: true,
});
shown.verdict = answer.verdict;
shown.found = answer.results.map((result) => result.identity);
const separate = await client.query({ images, mode: "separate", unnamed: false });
shown.separate = separate.results.map((one) => ("problem" in one ? one.problem.type : one.verdict));

const { results } = await client.embeddings({ images: [bytes[0]] });
const [first] = results;
if (first === undefined || "problem" in first) throw new Error("no vector");
const vector = first.embedding;
const fingerprint = answer.results[0]?.embedding_fingerprint;
const by_vector = { vector, embedding_fingerprint: fingerprint ?? "", top_k: 1 };
shown.by_vector = (await client.query(by_vector)).results.map((result) => result.identity);
const several = await client.queryGalleries({ images, galleries: [gallery], min_versions: {} });
shown.galleries = several.results.length > 0;
const visits = await client.visits({ images: [bytes[0]], purpose: "case 7" });
shown.visits = [...visits.results, ...visits.uncertain].map((visit) => visit.identity);
const asked = { images: [bytes[0]], galleries: [gallery] };
shown.visits_in_galleries = (await client.visitsInGalleries(asked)).verdict === visits.verdict;
shown.pair = (await client.pairs({ images: [...images], explain: false })).verdict !== undefined;
const sighting = {
  images: [bytes[0]],
  boxes: [{ x: 0, y: 0, ...size, camera: "gate" }],
  wait: true,
};
shown.sighted = (await client.sight(sighting)).results.length;

const params = { path: { gallery }, query: { limit: 1 } };
shown.listed = [];
for await (const crop of client.list("/v1/galleries/{gallery}/crops", { params }))
  (shown.listed as unknown[]).push([crop.identity, crop.camera, crop.metadata]);
let galleries = 0;
for await (const one of client.list("/v1/galleries")) galleries += one.crops;
shown.galleries_have_crops = galleries > 0;

const file = { data: await readFile("crops.zip"), name: "crops.zip" };
const path = { gallery };
const importing = client.POST("/v1/galleries/{gallery}/imports", {
  params: { path },
  body: { archive: file, identity: "Dan" },
});
shown.job = (await client.waitForJob((await unwrap(importing)).job_id)).state;

async function failureOf(call: Promise<unknown>): Promise<unknown> {
  const failure = await call.then(
    () => "none",
    (error: unknown) => error,
  );
  if (failure instanceof GmnProblem) return [failure.code, failure.status, failure.problem.errors];
  if (failure instanceof ServiceUnreachable) return failure.message;
  return failure instanceof Error ? `${failure.name}: ${failure.message}` : failure;
}
shown.unknown_gallery = await failureOf(client.query({ images }, { gallery: "nowhere" }));
shown.conflict = await failureOf(client.createGallery(gallery, { retention_days: 3 }));
const raw = await client.GET("/v1/jobs/{job_id}", { params: { path: { job_id: "none" } } });
shown.raw = [raw.data, raw.error?.status];
const up = { params: { path: { gallery, crop_id: ".." } } };
shown.segment = await failureOf(client.GET("/v1/galleries/{gallery}/crops/{crop_id}", up));
shown.aborted = await failureOf(client.query({ images }, { signal: AbortSignal.abort() }));
shown.text = (await client.GET("/metrics", { parseAs: "text" })).data?.includes("gmn_");
shown.no_json = await failureOf(client.GET("/metrics"));
const gone = createClient({ url: closed });
shown.unreachable = await failureOf(gone.GET("/v1/model"));
shown.bad_url = await failureOf((async () => createClient({ url: "nowhere" }))());
shown.no_scheme = await failureOf((async () => createClient({ url: "localhost:8000" }))());
const withUser = "http://ann:hunter2@127.0.0.1:9";
shown.bad_user = await failureOf((async () => createClient({ url: withUser }))());
shown.bad_key = await failureOf((async () => createClient({ key: "two words" }))());
console.log(JSON.stringify(shown));
