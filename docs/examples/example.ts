// npm install --save-dev openapi-typescript@7 typescript@5 @types/node@20
// npm pkg set type=module
// node types.mjs http://127.0.0.1:8000
// npx tsc --strict --target es2022 --module nodenext example.ts
// node example.js http://127.0.0.1:8000
import { openAsBlob } from "node:fs";
import type { components } from "./gmn.js";

type Schemas = components["schemas"];
const service = process.argv[2] ?? "http://127.0.0.1:8000";

async function call<Answer>(path: string, fields: object): Promise<Answer> {
  const body = new FormData();
  for (const [name, values] of Object.entries(fields))
    for (const value of [values].flat())
      body.append(name, value instanceof Blob ? value : String(value));
  const response = await fetch(`${service}/v1/${path}`, { method: "POST", body });
  if (response.ok) return (await response.json()) as Answer;
  const problem = (await response.json()) as Schemas["Problem"];
  throw new Error(`${problem.type}: ${problem.detail}`);
}

const photo = await openAsBlob("photo.jpg");
const enrolled: Schemas["EnrollForm"] = { images: [photo], identity: ["Ann"], camera: ["entrance"] };
await call<Schemas["Enrollment"]>("galleries/default/crops", enrolled);
const asked: Schemas["QueryForm"] = { images: [photo], top_k: 3, cameras: ["entrance"] };
const answer = await call<Schemas["QueryAnswer"]>("galleries/default/queries", asked);
for (const result of answer.results) console.log(result.rank, result.identity, result.probability);
