// A gallery as a watch list: state, forecast and alarms.

import { showAlerts, startAlerts } from "./alerts.js";
import { ask } from "./api.js";
import { acceptedBy, askToArm } from "./arming.js";
import { attempt, count, find, h, moment, question, sentence } from "./elements.js";
import { showCameras, startHealth } from "./health.js";
import { addressOf, gallery, inGallery, panel } from "./place.js";
import { describeTrials } from "./trials.js";
import { showSending, startTrying, tryButton } from "./trying.js";
import { showWebhooks, startWebhooks } from "./webhooks.js";

const ONLY_ADMINISTRATORS =
  "The key of this page may not do this: it takes one that may do everything (admin).";
const HOW_TO_READ =
  "The numbers in brackets: nine times in ten the truth lies between them. A track is one passage of a person before a camera.";
let administers = false;
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
}

async function show() {
  if (panel() !== "watch" || !gallery()) return;
  showAlerts();
  administers = await showWebhooks(ONLY_ADMINISTRATORS);
  await load();
}

async function load() {
  const place = find("#watch-list");
  const name = gallery();
  if (panel() !== "watch") return;
  showCameras(administers);
  await attempt(place, async () => {
    const watch = await ask(inGallery("/watch"));
    if (gallery() !== name) return;
    // A new alert reads the list again; what was unfolded stays so.
    const isOpen = place.querySelector("details")?.open ?? false;
    place.replaceChildren(...described(watch));
    if (isOpen) place.querySelector("details")?.setAttribute("open", "");
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
  const main = [
    ["Until", armed && moment(settings.expires_at)],
    ["Forecast", armed && sentence((forecast ?? promised).sentence)],
    [
      "When armed",
      armed && forecast && forecast.sentence !== promised.sentence && sentence(promised.sentence),
    ],
    [armed ? "Since armed" : "While armed", armedAt && obtained(watch)],
    ["Silent people", watch.silent && keptSilent(watch.silent)],
    ["Disarmed", disarmedAt && moment(disarmedAt)],
  ];
  const more = armed
    ? [
        ["Accepted", acceptedBy(watch)],
        ["Known from", (forecast ?? promised).rests_on],
        ["Cameras", settings.cameras.join(", ") || "all"],
        ["Hours", settings.hours ? `${settings.hours} (${settings.time_zone})` : "always"],
        ["Several cameras", settings.quiet_scope === "list" && "one alert for all of them"],
        ["Alerts kept", count(settings.retention_days, "day")],
        ["Reason", settings.reason],
        ["Armed", [moment(armedAt), ` by the key ${watch.key_id}`]],
      ]
    : [];
  const button = (label, kind, action) =>
    h(
      "button",
      {
        type: "button",
        class: kind,
        disabled: !administers,
        title: administers ? null : ONLY_ADMINISTRATORS,
        onclick: action,
      },
      label,
    );
  const empty = galleries.find((summary) => summary.name === gallery())?.identities === 0;
  return [
    h(
      "h2",
      { class: armed ? `dot ${why ? "" : "ready"}` : null },
      armed ? "Armed: " : "Not armed: ",
      h("span", { class: "name" }, gallery()),
    ),
    why &&
      h(
        "p",
        { class: "note" },
        sentence(armed ? `Nothing is compared with it at the moment: ${why}` : why),
      ),
    watch.silent?.why &&
      h("p", { class: "note" }, sentence(`Nobody is kept silent at the moment: ${watch.silent.why}`)),
    !armedAt &&
      h(
        "p",
        { class: "hint" },
        "Once this gallery is armed, everyone in it whom a camera shows raises an alert.",
      ),
    table(main),
    armed && describeTrials(watch),
    armed &&
      h(
        "details",
        {},
        h("summary", {}, "Settings"),
        table(more),
        h("p", { class: "hint" }, HOW_TO_READ),
      ),
    !administers && h("p", { class: "hint" }, "An administrator arms and disarms it."),
    empty &&
      h(
        "p",
        {},
        "Nobody in it has a name yet. ",
        h("a", { href: addressOf(gallery(), "enroll") }, "Enroll pictures"),
        " with the names of those who are looked for.",
      ),
    !empty &&
      h(
        "div",
        { class: "row" },
        button(armed ? "Other settings…" : "Arm…", armed ? "" : "main", () =>
          askToArm(watch, others(), load),
        ),
        armed && button("Disarm…", "danger quiet", disarm),
      ),
    !empty && armed && tryButton(watch),
  ]
    .flat()
    .filter(Boolean);
}

const table = (rows) =>
  h(
    "dl",
    {},
    rows
      .filter(([, value]) => value)
      .flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: "name" }, value)]),
  );

const others = () => galleries.map(({ name }) => name).filter((name) => name !== gallery());

function keptSilent({ gallery: name, people, tracks }) {
  return `${name}: ${count(people, "person", "people")}, ${count(tracks, "track")} kept silent since it was armed.`;
}

function obtained({ alerts, confirmed, rejected, days, false_alarms: rate }) {
  if (alerts === 0) return "No alert.";
  const span = lasting(days);
  const decided = `${count(alerts, "alert")} in ${span}: ${confirmed} confirmed, ${rejected} rejected, ${alerts - confirmed - rejected} not yet decided.`;
  if (rate === null) return `${decided} How many are false shows once you have decided on some.`;
  return days < 1 ? decided : `${decided} About ${Number(rate.toPrecision(2))} false alarms a day.`;
}

function lasting(days) {
  const minutes = Math.max(1, Math.round(days * 24 * 60));
  if (minutes < 90) return count(minutes, "minute");
  return days < 2 ? count(Math.round(days * 24), "hour") : count(Math.round(days), "day");
}

async function disarm() {
  const reason = await question(
    `Disarm ${gallery()}?`,
    "Nobody in it raises an alert from then on. Its alerts are kept for their days, its people stay.",
    "Disarm",
    { label: "Reason", input: "", required: false, danger: true },
  );
  if (reason === null) return;
  const body = new FormData();
  if (reason) body.append("reason", reason);
  await attempt(find("#watch-list"), () =>
    ask(inGallery("/watch"), { method: "DELETE", ...(reason && { body }) }),
  );
  await load();
}
