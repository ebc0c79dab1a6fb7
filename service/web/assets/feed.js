// New and changed alerts, as a stream of events, and polled where no stream comes through.
//
// A browser makes six connections to a host over HTTP/1.1. So one tab of a key holds the stream and
// passes the alerts on to the others: a visible tab, if there is one. Web Locks would choose it, too,
// but browsers offer them by HTTPS alone.

import { ask, events, keyId } from "./api.js";
import { find } from "./elements.js";
import { t } from "./texts.js";

const POLL_MS = 5_000;
const QUIET_MS = 20_000;
const SILENT_MS = 60_000;
// The tab that holds the stream answers sooner.
const ANSWER_MS = 300;
const ME = Math.random();
let feed = null;
let receive = () => undefined;

// Call `take` with each new or changed alert until the tab is closed or the key is refused. It also
// gets whether the alert is new, and whether this is the tab that announces it.
export function followAlerts(take) {
  receive = take;
  if (feed && feed.key === keyId() && !feed.signal.aborted) return;
  if (feed) leave(feed);
  feed = Object.assign(new AbortController(), {
    key: keyId(),
    channel: new BroadcastChannel(`gmn-alerts ${keyId() ?? ""}`),
    // The number of the newest alert, and when the service and the tab with the stream were heard.
    last: null,
    heardAt: 0,
    holderAt: Date.now(),
    holder: null,
    // Ends the stream of this tab; null if it has none.
    holding: null,
    // The other tabs, and whether each is hidden.
    others: new Map(),
  });
  const own = feed;
  own.channel.addEventListener("message", ({ data }) => hear(own, data));
  say(own, "here");
  setTimeout(() => {
    if (own.holder === null) hold(own);
  }, ANSWER_MS);
  keep(own);
}

document.addEventListener("visibilitychange", () => {
  if (feed === null) return;
  if (!feed.holding) say(feed, "here");
  else if (document.hidden && nextOf(feed) !== undefined) passOn(feed);
});
window.addEventListener("pagehide", () => {
  if (feed?.holding) passOn(feed);
  else if (feed) say(feed, "bye");
});

function leave(own) {
  if (own.holding) passOn(own);
  else say(own, "bye");
  own.abort();
  own.channel.close();
}

function say(own, what, more = {}) {
  if (own.signal.aborted) return;
  own.channel.postMessage({ what, from: ME, hidden: document.hidden, ...more });
}

const sayHeld = (own) => say(own, "held", { live: isLive(own) });
const isLive = ({ heardAt }) => Date.now() - heardAt <= QUIET_MS;

// Return a visible tab, or also a hidden one if this tab is left.
function nextOf({ others }, takesHidden = false) {
  const tabs = [...others].sort(([, first], [, second]) => first - second);
  return tabs.find(([, hidden]) => takesHidden || !hidden)?.[0];
}

// Let another tab hold the stream.
function passOn(own) {
  own.holding.abort();
  own.holding = null;
  own.holderAt = Date.now();
  say(own, "left", { next: nextOf(own, true) });
}

function hear(own, { what, from, hidden, live, next, alert, isNew }) {
  if (what === "here") own.others.set(from, hidden);
  // A tab that passed the stream on may be closed; if not, it answers the next one.
  if (what === "bye" || what === "left") own.others.delete(from);
  if (what === "alert") pass(own, alert, isNew, false);
  if (what === "left" && next === ME) hold(own);
  if (what === "here" && own.holding) {
    if (document.hidden && !hidden) passOn(own);
    else sayHeld(own);
  }
  if (what === "held") hearHolder(own, from, hidden, live);
}

function hearHolder(own, from, hidden, live) {
  own.others.set(from, hidden);
  if (own.holding) {
    // Two tabs began at once, and both agree on which of them goes on.
    if (from > ME) return sayHeld(own);
    own.holding.abort();
    own.holding = null;
  }
  if (own.holder !== from || (hidden && !document.hidden)) say(own, "here");
  own.holder = from;
  own.holderAt = Date.now();
  if (live !== undefined) showWay(live);
}

function hold(own) {
  if (own.holding || own.signal.aborted) return;
  own.holding = new AbortController();
  own.holder = null;
  own.heardAt = 0;
  say(own, "held");
  stream(own, AbortSignal.any([own.signal, own.holding.signal]));
}

// Take the place of a tab that is silent, and poll for alerts while the stream is: a proxy may
// buffer it.
async function keep(own) {
  for (await pause(); !own.signal.aborted; await pause()) {
    if (!own.holding) {
      if (Date.now() - own.holderAt > QUIET_MS) hold(own);
      continue;
    }
    sayHeld(own);
    showWay(isLive(own));
    if (!isLive(own) && own.last !== null) await readAgain(own, own.last, own.holding.signal);
  }
}

const showWay = (live) => {
  find("#feed").textContent = t(live ? "feed.at_once" : "feed.polled");
};

// Read the newest alerts: changes are not sent again, and a new alert is one beyond `last`.
async function readAgain(own, last, signal) {
  const { results } = await ask("/v1/alerts?limit=100").catch((error) => giveUp(own, error));
  if (!signal.aborted) for (const alert of results.reverse()) tell(own, alert, alert.number > last);
}

function tell(own, alert, isNew) {
  say(own, "alert", { alert, isNew });
  pass(own, alert, isNew, true);
}

function pass(own, alert, isNew, announces) {
  const isLater = isNew && alert.number > own.last;
  if (isLater) own.last = alert.number;
  receive(alert, isLater, announces);
}

const pause = () =>
  new Promise((resolve) => {
    setTimeout(resolve, POLL_MS);
  });

async function stream(own, signal) {
  for (; !signal.aborted; await pause()) {
    const once = new AbortController();
    const began = Date.now();
    const watching = setInterval(() => {
      if (Date.now() - Math.max(own.heardAt, began) > SILENT_MS) once.abort();
    }, POLL_MS);
    const heard = () => {
      if (own.heardAt < began) readAgain(own, Infinity, signal);
      own.heardAt = Date.now();
      showWay(true);
      sayHeld(own);
    };
    try {
      own.last ??= (await ask("/v1/alerts?limit=1")).results[0]?.number ?? 0;
      const options = {
        headers: { "Last-Event-ID": own.last },
        signal: AbortSignal.any([signal, once.signal]),
      };
      for await (const { event, data } of events("/v1/alerts/events", options, heard)) {
        if (event === "gone") own.abort();
        else tell(own, JSON.parse(data), event !== "updated");
      }
    } catch (error) {
      giveUp(own, error);
    }
    clearInterval(watching);
  }
}

// Stop when the key is refused.
function giveUp(own, { status }) {
  if (status === 401 || status === 403) own.abort();
  return { results: [] };
}
