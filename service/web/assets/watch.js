// A gallery as a watch list: state, forecast and alarms. Arming confirms the forecast that was
// shown.

import { showAlerts, startAlerts } from "./alerts.js";
import { ask } from "./api.js";
import { attempt, count, find, h, moment, onSubmit, question, sentence, ZONE } from "./elements.js";
import { addressOf, gallery, inGallery, panel } from "./place.js";
import { showWebhooks, startWebhooks } from "./webhooks.js";

const DAY_MS = 86_400_000;
const MOST_DAYS = 90;
const DAYS = 7;
const ONLY_ADMINISTRATORS =
  "The key of this page may not do this: it takes one that may do everything (admin).";
const HOW_TO_READ =
  "The numbers in brackets: nine times in ten the truth lies between them. A track is one passage of a person before a camera.";
let administers = false;
let galleries = [];

export function startWatch() {
  startAlerts(load);
  startWebhooks();
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
  await attempt(place, async () => {
    const watch = await ask(inGallery("/watch"));
    if (gallery() === name) place.replaceChildren(...described(watch));
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
    ["Disarmed", disarmedAt && moment(disarmedAt)],
  ];
  const more = armed
    ? [
        ["Accepted", `${count(settings.budget, "false alarm")} a day`],
        ["Cameras", settings.cameras.join(", ") || "all"],
        ["Hours", settings.hours ? `${settings.hours} (${settings.time_zone})` : "always"],
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
    !armedAt &&
      h(
        "p",
        { class: "hint" },
        "Once this gallery is armed, everyone in it whom a camera shows raises an alert.",
      ),
    table(main),
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
        button(armed ? "Other settings…" : "Arm…", armed ? "" : "main", () => askToArm(watch)),
        armed && button("Disarm…", "danger quiet", disarm),
      ),
  ].filter(Boolean);
}

const table = (rows) =>
  h(
    "dl",
    {},
    rows
      .filter(([, value]) => value)
      .flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: "name" }, value)]),
  );

function obtained({ alerts, confirmed, rejected, days, false_alarms: rate }) {
  if (alerts === 0) return "No alert.";
  const span =
    days < 2 ? count(Math.max(1, Math.round(days * 24)), "hour") : count(Math.round(days), "day");
  const decided = `${count(alerts, "alert")} in ${span}: ${confirmed} confirmed, ${rejected} rejected, ${alerts - confirmed - rejected} not yet decided.`;
  if (rate === null) return `${decided} How many are false shows once you have decided on some.`;
  return days < 1 ? decided : `${decided} About ${Number(rate.toPrecision(2))} false alarms a day.`;
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

// Show the settings, then their forecast, which the operator confirms to arm the list.
function askToArm({ settings }) {
  const path = inGallery("/watch");
  const wrong = h("div");
  const step = h("div");
  const dialog = h(
    "dialog",
    { class: "question", "aria-label": `Arm ${gallery()}`, onclose: () => dialog.remove() },
    h("h2", {}, `Arm ${gallery()}`),
    wrong,
    step,
  );
  const buttons = (...more) =>
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
      more,
    );
  const form = settingsForm(
    settings ?? {},
    buttons(h("button", { class: "main" }, "Show the forecast")),
  );
  const put = (pairs) => {
    const body = new FormData();
    for (const [name, value] of pairs) body.append(name, value);
    return ask(path, { method: "PUT", body });
  };
  onSubmit(form, () => attempt(wrong, async () => forecast(fieldsOf(form))));

  async function forecast(pairs, changed = false) {
    const proposal = await put(pairs);
    const heading = h("h3", { tabindex: -1 }, "Forecast");
    const arm = h(
      "form",
      {},
      heading,
      changed && h("p", { class: "note" }, "The first forecast is out of date. Read this one."),
      h("p", { class: "forecast" }, sentence(proposal.forecast.sentence)),
      h("p", { class: "hint" }, HOW_TO_READ),
      advice(proposal.forecast),
      h(
        "p",
        {},
        `${count(proposal.forecast.people, "person is", "people are")} on the list. Whoever a camera shows raises one alert a visit, until `,
        moment(proposal.settings.expires_at),
        ".",
      ),
      buttons(
        h("button", { type: "button", onclick: () => step.replaceChildren(form) }, "Back"),
        h("button", { class: "main" }, "Arm"),
      ),
    );
    onSubmit(arm, () =>
      attempt(wrong, async () => {
        try {
          await put([...pairs, ["confirm", proposal.confirm]]);
        } catch (error) {
          // The confirmation came too late, or the people or pictures of the list have changed.
          if (error.status === 422) return forecast(pairs, true);
          throw error;
        }
        dialog.close();
        await load();
      }),
    );
    step.replaceChildren(arm);
    heading.focus();
  }

  step.append(form);
  document.body.append(dialog);
  dialog.showModal();
}

function advice({ found, found_basis: basis }) {
  if (basis !== "several_cameras")
    return h("p", { class: "hint" }, "Pictures from several cameras find more, and show how many.");
  return (
    found < 0.5 &&
    h(
      "p",
      { class: "note" },
      "Few of them are found so. Enroll more pictures of them, or accept more false alarms.",
    )
  );
}

const local = (at) =>
  new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString().slice(0, 16);

function settingsForm(settings, buttons) {
  const ends = Math.max(Date.parse(settings.expires_at) || 0, 0);
  const [from = "", until = ""] = (settings.hours ?? "").split("-");
  const zone = settings.hours ? settings.time_zone : ZONE;
  const field = (label, name, attributes, ...more) =>
    h("label", {}, label, h("input", { name, ...attributes }), more);
  return h(
    "form",
    { "data-zone": zone, "data-quiet": settings.quiet_seconds ?? "" },
    field("False alarms a day that you accept", "budget", {
      type: "number",
      required: true,
      min: 0.01,
      max: 1000,
      step: "any",
      value: settings.budget ?? 3,
    }),
    field(
      "Passages that all its cameras see in a day, about",
      "tracks_per_day",
      {
        type: "number",
        min: 1,
        max: 1e7,
        step: "any",
        value: settings.tracks_per_day ?? "",
        placeholder: "as counted",
      },
      h(
        "span",
        { class: "hint" },
        "A person who passes two cameras counts twice. It may be empty once they were counted for a day.",
      ),
    ),
    field("Watch until", "expires_at", {
      type: "datetime-local",
      required: true,
      min: local(Date.now()),
      max: local(Date.now() + MOST_DAYS * DAY_MS),
      value: local(ends > Date.now() ? ends : Date.now() + DAYS * DAY_MS),
    }),
    field("Reason", "reason", {
      required: true,
      maxlength: 256,
      value: settings.reason ?? "",
      placeholder: "recorded in the audit log",
    }),
    field("Delete its alerts after, in days", "retention_days", {
      type: "number",
      required: true,
      min: 1,
      max: 365,
      value: settings.retention_days ?? 30,
    }),
    h(
      "details",
      { open: Boolean(settings.cameras?.length || settings.hours) },
      h("summary", {}, "Only some cameras or hours"),
      field("Cameras", "cameras", {
        list: "cameras",
        value: settings.cameras?.join(", ") ?? "",
        placeholder: "empty: all; several with commas",
      }),
      h(
        "div",
        { class: "pair" },
        field("From", "from", { type: "time", value: from }),
        field("To", "until", { type: "time", value: until }),
      ),
      h("p", { class: "hint" }, `Times of ${zone}. Empty: always.`),
    ),
    buttons,
  );
}

function fieldsOf(form) {
  const { from, until, expires_at: ends, ...rest } = Object.fromEntries(new FormData(form));
  if (Boolean(from) !== Boolean(until)) throw new Error("Enter both times, or neither.");
  const hours = from && [
    ["hours", `${from}-${until}`],
    ["time_zone", form.dataset.zone],
  ];
  return [
    ...Object.entries(rest),
    ["expires_at", new Date(ends).toISOString()],
    ["quiet_seconds", form.dataset.quiet],
    ...(hours || []),
  ].filter(([, value]) => value !== "");
}
