// Sends requests to a server that fails first, and prints what they come to.
import { createClient, GmnProblem, ServiceUnreachable } from "gmn-client";

const [url] = process.argv.slice(2) as [string];
// Pauses are noted and cut short; other timers, as those of `fetch`, stay as they are.
const PAUSES = [250, 500, 7000, 8000];
const pauses: unknown[] = [];
const setTimer = globalThis.setTimeout;
globalThis.setTimeout = ((call: () => void, milliseconds: number, ...values: []) => {
  if (!PAUSES.includes(milliseconds)) return setTimer(call, milliseconds, ...values);
  pauses.push(milliseconds / 1000);
  return setTimer(call, 0, ...values);
}) as typeof setTimeout;

const picture = new Blob(["picture"]);
const bytes = new TextEncoder().encode("picture");
const images = [picture, new File([picture], "a.jpg"), { data: bytes, name: "b.jpg" }];
const client = createClient({
  url,
  key: "secret",
  retries: { attempts: 3, longestWaitSeconds: 8 },
});

async function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  pauses.length = 0;
  const outcome = await call.then(
    () => "answered",
    (error: unknown) => {
      if (error instanceof GmnProblem) return [error.code, error.status, error.retryAfter ?? null];
      if (error instanceof ServiceUnreachable) return "unreachable";
      return String(error);
    },
  );
  return { outcome, pauses: [...pauses] };
}

/** Return a client of a service that is away for its second request, as during a restart. */
function restartingClient() {
  let requests = 0;
  const fetch = async () => {
    requests += 1;
    const away = Object.assign(new Error("refused"), { code: "ECONNREFUSED" });
    if (requests === 2) throw new TypeError("fetch failed", { cause: away });
    return new Response("{}");
  };
  return createClient({ url, fetch });
}

const restarting = restartingClient();
const to = (gallery: string) => ({ gallery });
const slow = new AbortController();
const aborted = outcomeOf(client.query({ images }, { gallery: "silent", signal: slow.signal }));
slow.abort(new Error("no longer wanted"));
console.log(
  JSON.stringify({
    aborted: await aborted,
    busy: await outcomeOf(client.enroll({ images }, to("busy"))),
    crowded: await outcomeOf(client.query({ images }, to("crowded"))),
    lost: await outcomeOf(client.enroll({ images }, to("lost"))),
    lost_write: await outcomeOf(client.createGallery("lost")),
    uncertain: await outcomeOf(client.createGallery("uncertain")),
    elsewhere: await outcomeOf(client.query({ images }, to("elsewhere"))),
    before_restart: await outcomeOf(restarting.createGallery("first")),
    restart: await outcomeOf(restarting.createGallery("second")),
    foreign: await outcomeOf(client.query({ images }, to("foreign"))),
    late: await outcomeOf(
      createClient({ url, timeoutSeconds: 0.1 }).query({ images }, to("silent")),
    ),
  }),
);
// The silent server still holds connections.
process.exit();
