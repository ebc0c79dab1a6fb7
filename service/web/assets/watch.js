// A gallery as a watch list: state, forecast and alarms.

import { showAlerts, startAlerts } from "./alerts.js";
import { ask } from "./api.js";
import { acceptedBy, askToArm, namesOfDays } from "./arming.js";
import { attempt, find, h, moment, question, sentence } from "./elements.js";
import { sentencesOf, sourcesOf } from "./forecast.js";
import { passagesOfDay, showCameras, startHealth } from "./health.js";
import { explained } from "./passages.js";
import { addressOf, gallery, inGallery, panel } from "./place.js";
import { describeTrials } from "./trials.js";
import { showSending, startTrying, tryButton } from "./trying.js";
import { inList, inNumbers, t, textNodes } from "./texts.js";
import { showWebhooks, startWebhooks } from "./webhooks.js";

// Tracks are counted within a minute of their end, without an alert.
const AGAIN_MS = 30_000;
let administers = false;
// What was shown last of the list.
let drawn = "";
let galleries = [];

export function startWatch() {
  startAlerts(load);
  startHealth();
  startWebhooks();
  startTrying();
  find("#to-lists").addEventListener("click", () => find("#watch-list").scrollIntoView());
  document.addEventListener("galleries-read", ({ detail }) => {
    galleries = detail;
  });
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, show);
  setInterval(() => {
    if (!document.hidden) load();
  }, AGAIN_MS);
}

async function show() {
  if (panel() !== "watch" || !gallery()) return;
  showAlerts();
  administers = await showWebhooks(t("watch.only_administrators"));
  await load();
}

async function load() {
  const place = find("#watch-list");
  const name = gallery();
  if (panel() !== "watch" || !name) return;
  showCameras(administers);
  await attempt(place, async () => {
    const watch = await ask(inGallery("/watch"));
    if (gallery() !== name) return;
    const parts = described(watch);
    const text = parts.map((part) => part.outerHTML).join("");
    // What nothing is new of keeps the focus, and the passages that were read.
    if (text === drawn && place.childElementCount > 0) return;
    drawn = text;
    // A new alert reads the list again; what was unfolded stays so.
    const isOpen = place.querySelector("details.settings")?.open ?? false;
    const isExplained = place.querySelector("details.passages")?.open ?? false;
    const controls = () => [...place.querySelectorAll("a, button, summary")];
    const focused = controls().indexOf(document.activeElement);
    place.replaceChildren(...parts);
    controls()[focused]?.focus();
    if (isOpen) place.querySelector("details.settings")?.setAttribute("open", "");
    if (isExplained) place.querySelector("details.passages")?.setAttribute("open", "");
    showSending(watch, administers);
  });
}

function described(watch) {
  const {
    state,
    settings,
    armed_at: armedAt,
    disarmed_at: disarmedAt,
    why,
    promised,
    forecast,
  } = watch;
  const armed = state === "armed";
  // A list that was disarmed during a pause keeps its time.
  const pausedAt = armed ? watch.paused_at : null;
  const main = [
    [t("watch.until"), armed && moment(settings.expires_at)],
    [t("forecast"), armed && forecastOf(forecast ?? promised)],
    [
      t("watch.when_armed"),
      armed && forecast && forecastOf(forecast) !== forecastOf(promised) && forecastOf(promised),
    ],
    [t(armed ? "watch.since_armed" : "watch.while_armed"), armedAt && obtained(watch)],
    [t("watch.silent"), watch.silent && keptSilent(watch.silent)],
    [t("watch.disarmed"), disarmedAt && moment(disarmedAt)],
  ];
  const more = armed
    ? [
        [t("watch.accepted"), acceptedBy(watch)],
        [t("watch.known_from"), sourcesOf(forecast ?? promised)],
        [t("cameras"), settings.cameras.join(", ") || t("all")],
        [t("watch.hours"), hoursOf(settings)],
        [t("watch.several_cameras"), settings.quiet_scope === "list" && t("watch.one_alert")],
        [t("watch.alerts_kept"), t("days", { count: settings.retention_days })],
        [t("reason"), settings.reason],
        [
          t("watch.armed_at"),
          textNodes("watch.armed_by", { time: moment(armedAt), key: watch.key_id }),
        ],
      ]
    : [];
  const button = (label, kind, action) =>
    h(
      "button",
      {
        type: "button",
        class: kind,
        disabled: !administers,
        title: administers ? null : t("watch.only_administrators"),
        onclick: action,
      },
      label,
    );
  const empty = galleries.find((summary) => summary.name === gallery())?.identities === 0;
  return [
    h(
      "h2",
      { class: armed ? `dot ${why || pausedAt ? "" : "ready"}` : null },
      textNodes(pausedAt ? "watch.is_paused" : armed ? "watch.armed" : "watch.not_armed", {
        gallery: h("span", { class: "name" }, gallery()),
      }),
    ),
    why && h("p", { class: "note" }, sentence(armed ? t(troubleOf(watch), { why }) : why)),
    pausedAt &&
      h("p", { class: "note" }, textNodes("watch.paused_since", { time: moment(pausedAt) })),
    watch.silent?.why &&
      h("p", { class: "note" }, sentence(t("watch.nobody_silent", { why: watch.silent.why }))),
    !armedAt && h("p", { class: "hint" }, t("watch.once_armed")),
    table(main),
    armed && describeTrials(watch),
    armed &&
      h(
        "details",
        { class: "settings" },
        h("summary", {}, t("watch.settings")),
        table(more),
        h("p", { class: "hint" }, t("watch.how_to_read")),
      ),
    armed && settings.explain_passages && explained(),
    !administers && h("p", { class: "hint" }, t("watch.administrator")),
    empty &&
      h(
        "p",
        {},
        textNodes("watch.no_names", {
          link: h("a", { href: addressOf(gallery(), "enroll") }, t("enroll.pictures")),
        }),
      ),
    !empty &&
      h(
        "div",
        { class: "row" },
        button(t(armed ? "watch.other_settings" : "watch.arm"), armed ? "" : "main", () =>
          askToArm(watch, others(), passagesOfDay(), load),
        ),
        armed && button(t(pausedAt ? "watch.resume" : "watch.pause"), "", () => pause(!pausedAt)),
        armed && button(t("watch.disarm"), "danger quiet", disarm),
      ),
    !empty && armed && tryButton(watch),
  ]
    .flat()
    .filter(Boolean);
}

// A list that a pause keeps from being compared may have a trouble beside it.
const troubleOf = ({ compares, paused_at: pausedAt }) =>
  compares || pausedAt ? "watch.impaired" : "watch.paused";

const forecastOf = (forecast) => sentencesOf(forecast).join(" ");

const table = (rows) =>
  h(
    "dl",
    {},
    rows
      .filter(([, value]) => value)
      .flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: "name" }, value)]),
  );

const others = () => galleries.map(({ name }) => name).filter((name) => name !== gallery());

function hoursOf({ hours, weekdays, time_zone: zone }) {
  const days = weekdays.length > 0 && inList(namesOfDays(weekdays));
  if (!days && !hours) return t("always");
  return `${[days, hours].filter(Boolean).join(", ")} (${zone})`;
}

function keptSilent({ gallery: name, people, tracks }) {
  return t("watch.kept_silent", {
    gallery: name,
    people: t("people", { count: people }),
    count: tracks,
  });
}

function obtained({ alerts, confirmed, rejected, days, false_alarms: rate }) {
  if (alerts === 0) return t("watch.no_alert");
  const decided = t("watch.obtained", {
    count: alerts,
    time: lasting(days),
    confirmed,
    rejected,
    open: alerts - confirmed - rejected,
  });
  if (rate === null) return `${decided} ${t("watch.decide_some")}`;
  if (days < 1) return decided;
  return `${decided} ${t("watch.false_alarms", { number: inNumbers(Number(rate.toPrecision(2))) })}`;
}

function lasting(days) {
  const minutes = Math.max(1, Math.round(days * 24 * 60));
  if (minutes < 90) return t("minutes", { count: minutes });
  return days < 2
    ? t("hours", { count: Math.round(days * 24) })
    : t("days", { count: Math.round(days) });
}

// A pause changes neither the forecast nor the trials, so that it asks nothing.
async function pause(isPaused) {
  const body = new FormData();
  body.append("paused", isPaused);
  await attempt(find("#watch-list"), () => ask(inGallery("/watch"), { method: "PATCH", body }));
  await load();
}

async function disarm() {
  const reason = await question(
    t("watch.disarm.ask", { gallery: gallery() }),
    t("watch.disarm.about"),
    t("watch.disarm.do"),
    { label: t("reason"), input: "", required: false, danger: true },
  );
  if (reason === null) return;
  const body = new FormData();
  if (reason) body.append("reason", reason);
  await attempt(find("#watch-list"), () =>
    ask(inGallery("/watch"), { method: "DELETE", ...(reason && { body }) }),
  );
  await load();
}
