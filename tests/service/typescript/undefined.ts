// Options that a program has in variables which may be undefined.
import { createClient, type LabelledBox } from "gmn-client";

export function search(url?: string, gallery?: string, signal?: AbortSignal, camera?: string) {
  const client = createClient({ url, key: process.env.GMN_API_KEY, gallery, fetch: undefined });
  const box: LabelledBox = { x: 0, y: 0, width: 60, height: 160, camera, identity: undefined };
  return { box, answer: client.query({ images: [new Blob([])] }, { gallery, signal }) };
}
