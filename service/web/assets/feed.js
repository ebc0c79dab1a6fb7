// New alerts, as a stream of events, and polled where no stream comes through.

import { ask, events, keyId } from "./api.js";
import { find } from "./elements.js";
import { t } from "./texts.js";

const POLL_MS = 5_000;
const QUIET_MS = 20_000;
const SILENT_MS = 60_000;
let last = null;
let heardAt = 0;
let following = null;
let receive = () => undefined;

// Call `take` with each new alert until the tab is closed or the key is refused.
export function followAlerts(take) {
  receive = take;
  if (following && following.key === keyId() && !following.signal.aborted) return;
  following?.abort();
  following = Object.assign(new AbortController(), { key: keyId() });
  last = null;
  heardAt = 0;
  stream(following);
  poll(following);
}

function pass(alert) {
  if (alert.number <= last) return;
  last = alert.number;
  receive(alert);
}

const pause = () =>
  new Promise((resolve) => {
    setTimeout(resolve, POLL_MS);
  });

// Poll for alerts while the stream is silent: a proxy may buffer it.
async function poll(feed) {
  for (await pause(); !feed.signal.aborted; await pause()) {
    const silent = Date.now() - heardAt > QUIET_MS;
    if (silent) find("#feed").textContent = t("feed.polled");
    if (!silent || last === null) continue;
    const { results } = await ask("/v1/alerts?limit=100").catch((error) => giveUp(feed, error));
    if (!feed.signal.aborted) results.reverse().forEach(pass);
  }
}

function heard() {
  heardAt = Date.now();
  find("#feed").textContent = t("feed.at_once");
}

async function stream(feed) {
  for (; !feed.signal.aborted; await pause()) {
    const once = new AbortController();
    const began = Date.now();
    const watching = setInterval(() => {
      if (Date.now() - Math.max(heardAt, began) > SILENT_MS) once.abort();
    }, POLL_MS);
    try {
      last ??= (await ask("/v1/alerts?limit=1")).results[0]?.number ?? 0;
      const options = {
        headers: { "Last-Event-ID": last },
        signal: AbortSignal.any([feed.signal, once.signal]),
      };
      for await (const { event, data } of events("/v1/alerts/events", options, heard)) {
        if (event === "gone") feed.abort();
        else pass(JSON.parse(data));
      }
    } catch (error) {
      giveUp(feed, error);
    }
    clearInterval(watching);
  }
}

// Stop when the key is refused.
function giveUp(feed, { status }) {
  if (status === 401 || status === 403) feed.abort();
  return { results: [] };
}
