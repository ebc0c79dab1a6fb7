// Prints the alerts of watch lists: WEBHOOK_SECRET=whsec_… node receive_alerts.mjs [PORT].
// The secret is shown when the webhook is made. The npm package standardwebhooks checks the same.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const LARGEST_MESSAGE = 1024 * 1024;
const SECONDS = 300;
const secret = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
// A message comes at least once, always under one id. Keep these where they outlive the program.
const seen = new Set();

function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": signatures } = headers;
  if (!id || !signatures || !(Math.abs(Date.now() / 1000 - Number(sent)) < SECONDS)) return false;
  const right = createHmac("sha256", secret).update(`${id}.${sent}.`).update(body).digest();
  // While a secret is rotated, a message has two signatures.
  return signatures.split(" ").some((text) => {
    const [version, value] = text.split(",");
    const signature = Buffer.from(value ?? "", "base64");
    return version === "v1" && signature.length === right.length && timingSafeEqual(signature, right);
  });
}

function show({ type, data: alert }) {
  if (type !== "watch.visit") console.log(type, alert.detail ?? "");
  else console.log(alert.gallery, alert.identity, alert.camera, `${Math.round(100 * alert.probability)}%`);
}

async function receive(request, response) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > LARGEST_MESSAGE) return response.writeHead(413, { Connection: "close" }).end();
    parts.push(part);
  }
  const body = Buffer.concat(parts);
  if (request.method !== "POST" || !isSigned(request.headers, body)) return response.writeHead(401).end();
  const id = request.headers["webhook-id"];
  if (!seen.has(id)) show(JSON.parse(body));
  seen.add(id);
  // Answer within ten seconds; any other status than 2xx and the message comes again.
  response.writeHead(204).end();
}

const server = createServer((request, response) => {
  receive(request, response).catch(() => response.destroy());
});
server.listen(Number(process.argv[2] ?? 9000), "127.0.0.1", () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}`);
});
