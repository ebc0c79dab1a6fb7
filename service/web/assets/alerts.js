// Alerts of all lists that the key may see, as they arrive. Each can be confirmed or rejected.

import { ask, blobOf, events, keyId } from "./api.js";
import { attempt, count, find, h, moment, percent, sentence, thumbnail } from "./elements.js";
import { emptied, openSheet } from "./crop.js";
import { DECISIONS } from "./judge.js";
import { act } from "./naming.js";
import { addressOf, gallery, panel } from "./place.js";
import { sideBySide } from "./side.js";

const PAGE = 20;
const MOST_SHOWN = 300;
const AGAIN_MS = 500;
const POLL_MS = 5_000;
const QUIET_MS = 20_000;
const SILENT_MS = 60_000;
const TITLE = document.title;
const NEWS = {
  late: "Seen, but sent too late for an alarm",
  disarmed: "No longer armed",
  promise_broken: "This list needs a look",
};
// Alerts by id, since the list was read.
const known = new Map();
let last = null;
let heardAt = 0;
let unseen = 0;
let reading = 0;
let waiting = 0;
let following = null;
let decided = () => undefined;

export function startAlerts(onDecided) {
  decided = onDecided;
  for (const id of ["#alert-state", "#alert-here"])
    find(id).addEventListener("change", () => list());
  document.addEventListener("visibilitychange", () => noteUnseen(0));
  document.addEventListener("panel-shown", () => noteUnseen(0));
}

export function showAlerts() {
  list();
  followAll();
}

// Read a page of alerts: the newest, or those before a cursor.
async function list(cursor = null) {
  const request = (reading += 1);
  const filters = {
    ...(find("#alert-state").value && { state: find("#alert-state").value }),
    ...(find("#alert-here").checked && { gallery: gallery() }),
  };
  if (cursor === null) known.clear();
  await attempt(find("#alert-pages"), async () => {
    const page = await ask(
      `/v1/alerts?${new URLSearchParams({ ...filters, limit: PAGE, ...(cursor && { cursor }) })}`,
    );
    if (request !== reading) return;
    const newer =
      cursor === null
        ? [...known.values()]
            .filter((alert) => passes(alert) && alert.number > (page.results[0]?.number ?? 0))
            .reverse()
        : [];
    for (const alert of page.results) known.set(alert.alert_id, alert);
    const cards = [...newer, ...page.results].map(card);
    if (cursor === null) find("#alerts").replaceChildren(...cards);
    else find("#alerts").append(...cards);
    offerOlder(page.next_cursor);
    find("#no-alerts").hidden = find("#alerts").children.length > 0;
    find("#no-alerts").textContent =
      Object.keys(filters).length > 0
        ? "No such alert."
        : "No alerts yet. A new one appears here by itself.";
  });
}

function offerOlder(cursor) {
  find("#more-alerts").hidden = cursor === null;
  find("#more-alerts").onclick = () => list(cursor);
}

const passes = (alert) =>
  ["", alert.state].includes(find("#alert-state").value) &&
  (!find("#alert-here").checked || alert.gallery === gallery());

function card(alert) {
  const isVisit = alert.image_url !== null || alert.identity !== null;
  const pictured =
    isVisit &&
    h(
      "button",
      {
        type: "button",
        class: "open",
        "aria-label": `${titleOf(alert)}: open both pictures`,
        onclick: () => enlarge(alert),
      },
      h("span", {}, thumbnail(alert.image_url, `Seen at ${alert.camera ?? "a camera"}`), "seen"),
      h("span", {}, thumbnail(alert.reference_url, `${alert.identity} on the list`), "on the list"),
    );
  return h(
    "li",
    { class: `card ${alert.kind}`, "data-alert": alert.alert_id },
    pictured,
    about(alert),
    isVisit && judging(alert),
  );
}

const titleOf = (alert) =>
  alert.identity === null ? (NEWS[alert.kind] ?? "Alert") : alert.identity;

function about(alert) {
  const {
    kind,
    gallery: name,
    identity,
    camera,
    first_seen: first,
    last_seen: end,
    probability,
    crops,
    detail,
  } = alert;
  const before = known.get(alert.follows);
  const whose = h(
    "p",
    {},
    "List ",
    h("a", { class: "name", href: addressOf(name, "watch") }, name),
  );
  if (identity === null)
    return h(
      "div",
      { class: "about" },
      h("h3", {}, NEWS[kind] ?? "Alert"),
      detail && h("p", {}, sentence(detail)),
      h("p", {}, moment(alert.created_at)),
      whose,
    );
  return h(
    "div",
    { class: "about" },
    h("h3", {}, h("a", { class: "name", href: addressOf(name, "identities", identity) }, identity)),
    kind !== "visit" && h("p", { class: "note" }, sentence(NEWS[kind] ?? kind)),
    h(
      "p",
      {},
      "At ",
      h("b", { class: "name" }, camera ?? "an unnamed camera"),
      ", ",
      moment(first),
      Date.parse(end) - Date.parse(first) > 60_000 && [" to ", moment(end)],
      `, ${count(crops, "picture")}.`,
    ),
    probability !== null &&
      h(
        "p",
        {},
        `The same person with a probability of ${percent(probability).replace("> ", "more than ")}.`,
      ),
    before &&
      h(
        "p",
        {},
        "Before that at ",
        h("b", { class: "name" }, before.camera ?? "an unnamed camera"),
        ", ",
        moment(before.first_seen),
        ".",
      ),
    whose,
  );
}

function judging(alert) {
  return h(
    "div",
    { class: "judge" },
    DECISIONS.map(([decision, sign, key, title]) =>
      h(
        "button",
        {
          type: "button",
          value: decision,
          "data-key": key,
          "data-alert-of": alert.alert_id,
          "aria-label": `${title}: ${titleOf(alert)} at ${alert.camera ?? "a camera"}`,
          title: `${title} (${key})`,
          "aria-pressed": String(alert.state === decision),
          onclick: ({ currentTarget }) =>
            decide(
              alert,
              currentTarget.getAttribute("aria-pressed") === "true" ? "open" : decision,
            ),
        },
        `${sign} ${title}`,
      ),
    ),
  );
}

async function decide(alert, decision) {
  const body = new FormData();
  body.append("decision", decision);
  if (alert.score !== null) body.append("score", alert.score);
  await act(async () => {
    try {
      Object.assign(
        alert,
        await ask(`/v1/alerts/${alert.alert_id}/review`, { method: "POST", body }),
      );
    } catch (error) {
      await showAgain(alert);
      throw error;
    }
    for (const button of document.querySelectorAll(`[data-alert-of="${alert.alert_id}"]`))
      button.setAttribute("aria-pressed", String(button.value === alert.state));
    await decided();
  });
}

// The picture of a better crop may have taken the place of the one on the page.
async function showAgain(alert) {
  Object.assign(alert, await ask(`/v1/alerts/${alert.alert_id}`));
  find(`#alerts > [data-alert="${alert.alert_id}"]`)?.replaceWith(card(alert));
}

function enlarge(alert) {
  const sheet = emptied(openSheet(titleOf(alert)));
  const file = (url) => (url ? blobOf(url) : Promise.reject(new Error("the image was not kept")));
  const { figures, tools } = sideBySide([
    ["Seen", file(alert.image_url)],
    ["On the list", file(alert.reference_url)],
  ]);
  sheet.append(
    h(
      "div",
      { class: "record" },
      h("div", { class: "pictures" }, h("div", { class: "heats" }, figures), tools),
      h("div", {}, about(alert), judging(alert)),
      h("div", { class: "detail", "aria-live": "polite" }),
    ),
  );
  sheet.querySelector(".close").focus();
  sheet.onclose = () => find(`#alerts [data-alert="${alert.alert_id}"] .open`)?.focus();
}

// Put a new alert at the top of the list, and announce it outside the panel.
function take(alert) {
  if (alert.number <= last) return;
  last = alert.number;
  known.set(alert.alert_id, alert);
  if (passes(alert)) find("#alerts").prepend(card(alert));
  dropOldest();
  find("#no-alerts").hidden = true;
  find("#newest").textContent =
    alert.identity === null
      ? `${titleOf(alert)}: ${alert.gallery}`
      : `New alert: ${titleOf(alert)} at ${alert.camera ?? "an unnamed camera"}`;
  if (document.hidden || panel() !== "watch") noteUnseen(unseen + 1);
  // Many may arrive at once, and one update is enough for them.
  clearTimeout(waiting);
  waiting = setTimeout(decided, AGAIN_MS);
}

// Limit the cards of a page that stays open for weeks. “More” loads the older ones again.
function dropOldest() {
  const cards = [...find("#alerts").children];
  if (cards.length <= MOST_SHOWN) return;
  for (const old of cards.slice(MOST_SHOWN)) {
    known.delete(old.dataset.alert);
    old.remove();
  }
  offerOlder(known.get(cards[MOST_SHOWN - 1].dataset.alert).number);
}

function noteUnseen(number) {
  if (number === 0 && (document.hidden || panel() !== "watch")) return;
  unseen = number;
  document.title = number > 0 ? `(${number}) ${TITLE}` : TITLE;
  find("nav [data-panel=watch]").textContent = number > 0 ? `Watch (${number})` : "Watch";
}

// Follow alerts until the tab is closed or the key is refused.
function followAll() {
  if (following && following.key === keyId() && !following.signal.aborted) return;
  following?.abort();
  following = Object.assign(new AbortController(), { key: keyId() });
  last = null;
  heardAt = 0;
  stream(following);
  poll(following);
}

const pause = () =>
  new Promise((resolve) => {
    setTimeout(resolve, POLL_MS);
  });

// Poll for alerts while the stream is silent: a proxy may buffer it.
async function poll(feed) {
  for (await pause(); !feed.signal.aborted; await pause()) {
    const silent = Date.now() - heardAt > QUIET_MS;
    if (silent) find("#feed").textContent = "Updated every five seconds.";
    if (!silent || last === null) continue;
    const { results } = await ask("/v1/alerts?limit=100").catch((error) => giveUp(feed, error));
    if (!feed.signal.aborted) results.reverse().forEach(take);
  }
}

function heard() {
  heardAt = Date.now();
  find("#feed").textContent = "New ones appear at once.";
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
        else take(JSON.parse(data));
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
