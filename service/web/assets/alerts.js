// Alerts of all lists that the key may see, as they arrive. Each can be confirmed or rejected.

import { ask, blobOf } from "./api.js";
import { ago, attempt, find, h, moment, percent, sentence, thumbnail } from "./elements.js";
import { emptied, openSheet } from "./crop.js";
import { sendReview, startDecidingAll } from "./deciding.js";
import { followAlerts } from "./feed.js";
import { DECISIONS } from "./judge.js";
import { markAgain, marking, renameMark, startMarks, unmark, unmarkAll } from "./marks.js";
import { act } from "./naming.js";
import { isNotifying, notify, startNotifying } from "./notify.js";
import { addressOf, gallery, panel } from "./place.js";
import { sideBySide } from "./side.js";
import { hasText, t, textNodes } from "./texts.js";

const PAGE = 20;
const MOST_SHOWN = 300;
const NEW_MS = 500;
// A visit may change every second.
const CHANGED_MS = 5000;
// Nobody decides on a picture within a second of its appearance.
const LOOK_MS = 1000;
const TITLE = document.title;
// Alerts by id, since the list was read.
const known = new Map();
// The scores of the pictures that better ones have replaced, by alert.
const replaced = new Map();
// Ids of alerts whose decisions are on their way to the service.
const underway = new Set();
let unseen = 0;
let reading = 0;
let waiting = 0;
let readAt = Infinity;
let decided = () => undefined;

export function startAlerts(onDecided) {
  decided = onDecided;
  for (const id of ["#alert-state", "#alert-here"])
    find(id).addEventListener("change", () => list());
  find("#alert-more").addEventListener("click", ({ currentTarget: button }) =>
    button.setAttribute("aria-expanded", String(button.ariaExpanded !== "true")),
  );
  startNotifying();
  startMarks(decideAll);
  startDecidingAll();
  document.addEventListener("visibilitychange", () => noteUnseen(0));
  document.addEventListener("panel-shown", () => {
    noteUnseen(0);
    // Alerts that sound or notify are followed from every panel.
    if (isNotifying()) followAlerts(take);
  });
}

export function showAlerts() {
  list();
  followAlerts(take);
}

// Read a page of alerts: the newest, or those before a cursor.
async function list(cursor = null) {
  const request = (reading += 1);
  const filters = {
    ...(find("#alert-state").value && { state: find("#alert-state").value }),
    ...(find("#alert-here").checked && { gallery: gallery() }),
  };
  if (cursor === null) {
    known.clear();
    replaced.clear();
    unmarkAll();
  }
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
    find("#no-alerts").textContent = t(
      Object.keys(filters).length > 0 ? "alerts.none_such" : "alerts.none",
    );
  });
}

function offerOlder(cursor) {
  find("#more-alerts").hidden = cursor === null;
  find("#more-alerts").onclick = () => list(cursor);
}

const passes = (alert) =>
  ["", alert.state].includes(find("#alert-state").value) &&
  (!find("#alert-here").checked || alert.gallery === gallery());

const isAboutCamera = ({ kind }) => ["silent", "heard"].includes(kind);
const isVisit = (alert) => alert.image_url !== null || alert.identity !== null;

function card(alert) {
  return h(
    "li",
    { class: `card ${alert.kind}`, "data-alert": alert.alert_id },
    isVisit(alert) && pictured(alert),
    about(alert),
    isVisit(alert) &&
      h(
        "div",
        { class: "judge" },
        judging(alert, () => scoreSeen(alert)),
        marking(alert.alert_id, sightOf(alert), () => scoreSeen(alert)),
      ),
  );
}

// Show an alert outside the list of alerts, without decisions.
export const preview = (alert) =>
  h("li", { class: `card ${alert.kind}` }, pictured(alert), about(alert));

function pictured(alert) {
  return h(
    "button",
    {
      type: "button",
      class: "open",
      title: t("alerts.open_pictures"),
      onclick: () => enlarge(alert),
    },
    picturesOf(alert),
  );
}

const picturesOf = (alert) => [
  h("span", {}, thumbnail(alert.image_url, seenAt(alert)), t("alerts.seen")),
  h(
    "span",
    {},
    thumbnail(alert.reference_url, t("alerts.picture_listed", { name: alert.identity })),
    t("alerts.listed"),
  ),
];

const seenAt = ({ camera }) =>
  camera === null ? t("alerts.seen_at_a_camera") : t("alerts.seen_at", { camera });

const titleOf = (alert) => alert.identity ?? newsOf(alert) ?? t("alert");

// Name the camera of an alert, and the zone in which the person stood.
function placeOf({ camera, zone }) {
  const name = camera ?? t("camera.unnamed");
  return zone === null ? name : t("alerts.place", { camera: name, zone });
}

// Say what kind of news an alert is, or return null for a kind that this page does not know.
const newsOf = ({ kind, camera }) =>
  hasText(`alerts.news.${kind}`) ? t(`alerts.news.${kind}`, { camera }) : null;

// Say what an alert is about. `time` shows a time: how long ago it was, or exactly.
function about(alert, time = ago) {
  const {
    kind,
    gallery: name,
    identity,
    first_seen: first,
    last_seen: end,
    probability,
    crops,
    detail,
  } = alert;
  const before = known.get(alert.follows);
  const list = h("a", { class: "name", href: addressOf(name, "watch") }, name);
  const whose = h("p", {}, textNodes("alerts.list", { gallery: list }));
  if (identity === null)
    return h(
      "div",
      { class: "about" },
      h("h3", { class: "name" }, titleOf(alert)),
      detail && h("p", { class: "name" }, sentence(detail)),
      h("p", {}, time(alert.created_at)),
      whose,
    );
  const isLong = Date.parse(end) - Date.parse(first) > 60_000;
  return h(
    "div",
    { class: "about" },
    h("h3", {}, h("a", { class: "name", href: addressOf(name, "identities", identity) }, identity)),
    kind !== "visit" && h("p", { class: "note" }, sentence(newsOf(alert) ?? kind)),
    alert.trial && h("p", { class: "note" }, t("alerts.trial")),
    h(
      "p",
      {},
      textNodes(isLong ? "alerts.sighting_until" : "alerts.sighting", {
        camera: h("b", { class: "name" }, placeOf(alert)),
        time: time(first),
        end: time(end),
        pictures: t("pictures", { count: crops }),
      }),
    ),
    probability !== null &&
      h(
        "p",
        {},
        t("alerts.probability", {
          share: percent(probability, true),
          needed: percent(alert.needed),
        }),
      ),
    before &&
      h(
        "p",
        {},
        textNodes("alerts.before", {
          camera: h("b", { class: "name" }, placeOf(before)),
          time: time(before.first_seen),
        }),
      ),
    whose,
  );
}

const sightOf = (alert) => t("alerts.sight", { title: titleOf(alert), camera: placeOf(alert) });

const labelOf = (decision, alert) =>
  `${DECISIONS.find(([name]) => name === decision)[3]}: ${sightOf(alert)}`;

// A decision is about the picture that was looked at, which `seen` tells by its score.
function judging(alert, seen) {
  return DECISIONS.map(([decision, sign, key, title]) =>
    h(
      "button",
      {
        type: "button",
        value: decision,
        "data-key": key,
        "data-alert-of": alert.alert_id,
        "aria-label": labelOf(decision, alert),
        title: t("hint.key", { action: title, key }),
        "aria-pressed": String(alert.state === decision),
        onclick: ({ currentTarget, isTrusted }) => {
          const isTakenBack = currentTarget.getAttribute("aria-pressed") === "true";
          decide(alert, isTakenBack ? "open" : decision, seen());
          // A key presses it by a script, and goes on with the next alert.
          if (!isTrusted && !isTakenBack) toNextOpen(currentTarget.closest("#alerts > .card"));
        },
      },
      `${sign} ${title}`,
    ),
  );
}

// Return the score of the picture that was shown long enough to be looked at.
function scoreSeen({ alert_id: id, score }) {
  const former = replaced.get(id);
  return former && Date.now() - former.at < LOOK_MS ? former.score : score;
}

async function decide(alert, decision, score) {
  underway.add(alert.alert_id);
  await act(async () => {
    await review(alert, decision, score);
    await decided();
  });
  underway.delete(alert.alert_id);
}

// Focus the next alert that is not decided, below a card or else from the top.
function toNextOpen(card) {
  if (card === null) return;
  const cards = [...document.querySelectorAll("#alerts > .card")];
  const at = cards.indexOf(card);
  const next = [...cards.slice(at + 1), ...cards.slice(0, at)].find(isOpen);
  next?.querySelector(".open").focus();
}

function isOpen(card) {
  const { alert } = card.dataset;
  return card.querySelector(".open") && known.get(alert)?.state === "open" && !underway.has(alert);
}

async function review(alert, decision, score) {
  try {
    const { state } = await sendReview(alert, decision, score);
    // The event of the review has the rest. This answer may be older than the newest event.
    update(alert, { ...alert, state });
  } catch (error) {
    await showAgain(alert);
    throw error;
  }
}

// Decide on several alerts. A refusal ends none of the others.
async function decideAll(marked, decision) {
  await act(async () => {
    const refused = [];
    const alerts = marked.map(([id]) => known.get(id)).filter(Boolean);
    const scores = new Map(marked);
    for (const alert of alerts) {
      try {
        await review(alert, decision, scores.get(alert.alert_id));
        unmark(alert.alert_id);
      } catch (error) {
        markAgain(alert.alert_id, alert.score);
        refused.push(sentence(`${sightOf(alert)}: ${error.message}`));
      }
    }
    const done = alerts.length - refused.length;
    find("#watch .outcomes").replaceChildren(
      ...(done > 0
        ? [h("p", { class: "news" }, t(`alerts.done.${decision}`, { count: done }))]
        : []),
    );
    await decided();
    if (refused.length > 0)
      throw new Error(
        t(`alerts.failed.${decision}`, { count: refused.length, reasons: refused.join(" ") }),
      );
  });
}

// The picture of a better crop may have taken the place of the one on the page.
async function showAgain(alert) {
  // If it cannot be read either, the reason of the refusal is the one to show.
  const current = await ask(`/v1/alerts/${alert.alert_id}`).catch(() => null);
  if (current === null) return;
  update(alert, current);
  // Whoever was told of the new picture looks at it.
  replaced.delete(alert.alert_id);
}

// Show what is new about an alert, without touching buttons that somebody may be pressing.
function update(alert, current) {
  const { alert_id: id } = alert;
  // An answer may come later than a newer event.
  if (current.crops < alert.crops) return;
  const isBetter = current.score !== alert.score;
  if (isBetter) replaced.set(id, { score: scoreSeen(alert), at: Date.now() });
  Object.assign(alert, current);
  const shown = find(`#alerts > [data-alert="${id}"]`);
  if (shown) drawAgain(shown, alert, isBetter);
  for (const button of document.querySelectorAll(`[data-alert-of="${id}"]`))
    button.setAttribute("aria-pressed", String(button.value === alert.state));
}

function drawAgain(shown, alert, isBetter) {
  const former = shown.querySelector(".about");
  const focused = [...former.querySelectorAll("a")].indexOf(document.activeElement);
  former.replaceWith(about(alert));
  shown.querySelectorAll(".about a")[focused]?.focus();
  if (!isBetter) return;
  shown.querySelector(".open").replaceChildren(...picturesOf(alert));
  // The better picture may be of another camera.
  for (const button of shown.querySelectorAll("[data-alert-of]"))
    button.setAttribute("aria-label", labelOf(button.value, alert));
  renameMark(alert.alert_id, sightOf(alert));
}

function enlarge(alert) {
  // Its pictures stay, and so does what is decided on.
  const { score } = alert;
  const sheet = emptied(openSheet(titleOf(alert)));
  const file = (url) => (url ? blobOf(url) : Promise.reject(new Error(t("picture.not_kept"))));
  const { figures, tools } = sideBySide([
    [t("alerts.seen_title"), file(alert.image_url)],
    [t("alerts.listed_title"), file(alert.reference_url)],
  ]);
  sheet.append(
    h(
      "div",
      { class: "record" },
      h("div", { class: "pictures" }, h("div", { class: "heats" }, figures), tools),
      h(
        "div",
        {},
        about(alert, moment),
        h(
          "div",
          { class: "judge" },
          judging(alert, () => score),
        ),
      ),
      h("div", { class: "detail", "aria-live": "polite" }),
    ),
  );
  sheet.querySelector(".close").focus();
  sheet.onclose = () => find(`#alerts [data-alert="${alert.alert_id}"] .open`)?.focus();
}

// Put a new alert at the top of the list, and announce it outside the panel. Show a change of one.
function take(alert, isNew, announces) {
  const former = known.get(alert.alert_id);
  if (former) change(former, alert);
  else if (isNew) add(alert);
  if (!isNew) return;
  find("#newest").textContent =
    alert.identity === null
      ? `${titleOf(alert)}: ${alert.gallery}`
      : t("alerts.new", { sight: sightOf(alert) });
  if (announces && alert.kind !== "late")
    notify({
      title: alert.identity === null ? titleOf(alert) : sightOf(alert),
      body: t(alert.trial ? "alerts.list_on_trial" : "alerts.list", { gallery: alert.gallery }),
      // Several lists may have an alert about one camera.
      tag: isAboutCamera(alert) ? `camera ${alert.camera}` : alert.alert_id,
    });
  if (document.hidden || panel() !== "watch") noteUnseen(unseen + 1);
  readList(NEW_MS);
}

function add(alert) {
  known.set(alert.alert_id, alert);
  if (passes(alert)) find("#alerts").prepend(card(alert));
  dropOldest();
  find("#no-alerts").hidden = true;
}

function change(alert, current) {
  if (Object.entries(current).every(([name, value]) => alert[name] === value)) return;
  update(alert, current);
  readList(CHANGED_MS);
}

// Read the list within a time, once for all that arrives until then.
function readList(withinMs) {
  const at = Date.now() + withinMs;
  if (at >= readAt) return;
  readAt = at;
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    readAt = Infinity;
    decided();
  }, withinMs);
}

// Limit the cards of a page that stays open for weeks. “More” loads the older ones again.
function dropOldest() {
  const cards = [...find("#alerts").children];
  if (cards.length <= MOST_SHOWN) return;
  for (const old of cards.slice(MOST_SHOWN)) {
    known.delete(old.dataset.alert);
    unmark(old.dataset.alert);
    old.remove();
  }
  offerOlder(known.get(cards[MOST_SHOWN - 1].dataset.alert).number);
}

function noteUnseen(number) {
  if (number === 0 && (document.hidden || panel() !== "watch")) return;
  unseen = number;
  document.title = number > 0 ? `(${number}) ${TITLE}` : TITLE;
  find("nav [data-panel=watch]").textContent =
    number > 0 ? t("nav.watch_unseen", { number }) : t("nav.watch");
}
