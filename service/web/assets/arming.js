// The dialog that arms a list: its settings, then their forecast, which the operator confirms.

import { ask } from "./api.js";
import { attempt, h, localTime, moment, onSubmit, sentence, ZONE } from "./elements.js";
import { gallery, inGallery } from "./place.js";
import { inNumbers, t, textNodes } from "./texts.js";

const DAY_MS = 86_400_000;
const MOST_DAYS = 90;
const DAYS = 7;
// Computed numbers may differ by so little from those that are entered.
const ROUNDING = 1e-6;

// Return the ending of the text that says a number of false alarms as the service’s sentence does,
// and its values.
function alarms(number) {
  const whole = Math.floor(number);
  const rest = number - whole;
  if (number < 0.5) return ["few"];
  if (whole < 10 && rest >= 0.3 && rest < 0.7) return ["range", { from: whole, to: whole + 1 }];
  return ["number", { count: Math.round(number) }];
}

// Say the false alarms a day that were accepted when the list was armed.
export function acceptedBy({ settings, promised }) {
  const [ending, values] = alarms(acceptedWith(settings, promised));
  return t(`arming.alarms.${ending}`, values);
}

function acceptance({ promised, false_alarms: expected, high }) {
  if (!promised) return t("arming.accept.most", { count: high });
  const [ending, values] = alarms(expected);
  return t(`arming.accept.${ending}`, values);
}

// Return the false alarms a day that were accepted with a forecast, which may be more than those
// of the settings.
function acceptedWith({ budget }, { promised, false_alarms: expected, high }) {
  return Math.max(budget, (promised ? expected : high) ?? 0);
}

const rounded = (number) => Number(number.toPrecision(3));
const precise = (number) => inNumbers(rounded(number));

// Show the settings, then their forecast, which the operator confirms to arm the list.
export function askToArm({ settings, promised }, galleries, armed) {
  const path = inGallery("/watch");
  const title = t("arming.title", { gallery: gallery() });
  const wrong = h("div");
  const step = h("div");
  const dialog = h(
    "dialog",
    { class: "question arming", "aria-label": title, onclose: () => dialog.remove() },
    h("h2", {}, title),
    wrong,
    step,
  );
  const buttons = (...more) =>
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      more,
    );
  const before = settings && promised ? acceptedWith(settings, promised) : settings?.budget;
  const form = settingsForm(
    { ...settings, accepted: before && rounded(before) },
    galleries,
    buttons(h("button", { class: "main" }, t("arming.show_forecast"))),
  );
  const put = (pairs) => {
    const body = new FormData();
    for (const [name, value] of pairs) body.append(name, value);
    return ask(path, { method: "PUT", body });
  };
  onSubmit(form, () =>
    attempt(wrong, async () => {
      const pairs = fieldsOf(form);
      const { value } = form.elements.budget;
      await forecast(pairs, { accepted: value === form.dataset.accepted ? before : Number(value) });
    }),
  );

  // Show the forecast for settings, and the false alarms a day that the user accepts.
  async function forecast(pairs, { accepted, outdated = false }) {
    const proposal = await put(pairs);
    const stricter = await findStricter(pairs, proposal, accepted);
    const isMore = exceeds(proposal.forecast, accepted);
    const [alarmed, ...found] = sentence(proposal.forecast.sentence).split(/(?<=\.) /);
    const explained = proposal.forecast.sentence.includes("[") && `${t("arming.brackets")} `;
    const heading = h("h3", { tabindex: -1 }, t("forecast"));
    const arm = h(
      "form",
      {},
      heading,
      outdated && h("p", { class: "note" }, t("arming.outdated")),
      h("p", { class: "forecast", lang: "en" }, h("b", {}, alarmed), " ", found.join(" ")),
      h("p", { class: isMore ? "accepted note" : "accepted" }, said(proposal.forecast, accepted)),
      advice(proposal.forecast),
      h(
        "p",
        { class: "hint" },
        explained,
        textNodes("arming.about", {
          sources: proposal.forecast.rests_on,
          count: proposal.forecast.people,
          time: moment(proposal.settings.expires_at),
        }),
      ),
      buttons(
        h("button", { type: "button", onclick: () => step.replaceChildren(form) }, t("back")),
        isMore &&
          stricter &&
          h(
            "button",
            {
              type: "button",
              onclick: () => attempt(wrong, () => forecast(stricter, { accepted })),
            },
            t("arming.stricter"),
          ),
        h("button", { class: "main" }, isMore ? acceptance(proposal.forecast) : t("arming.arm")),
      ),
    );
    onSubmit(arm, () =>
      attempt(wrong, async () => {
        try {
          await put([...pairs, ["confirm", proposal.confirm]]);
        } catch (error) {
          // The confirmation came too late, or the people or pictures of the list have changed.
          if (error.status === 422) return forecast(pairs, { accepted, outdated: true });
          throw error;
        }
        dialog.close();
        await armed();
      }),
    );
    step.replaceChildren(arm);
    heading.focus();
  }

  // Return settings whose forecast is what the user accepts, or null if none of them can promise it.
  async function findStricter(pairs, { settings: asked, forecast: first }, accepted) {
    if (!first.promised || !exceeds(first, accepted)) return null;
    const budget = (asked.budget * accepted) / first.false_alarms;
    const changed = pairs.map(([name, value]) => [name, name === "budget" ? budget : value]);
    const { forecast: second } = await put(changed);
    return second.promised && !exceeds(second, accepted) ? changed : null;
  }

  step.append(form);
  document.body.append(dialog);
  dialog.showModal();
}

// Return whether more false alarms are forecast than accepted.
function exceeds({ promised, false_alarms: expected, high }, accepted) {
  const most = promised ? expected : high;
  return most !== null && most > accepted * (1 + ROUNDING);
}

function said(forecast, accepted) {
  const values = { accepted: precise(accepted) };
  if (!exceeds(forecast, accepted)) return t("arming.accepted", values);
  return forecast.promised
    ? t("arming.accepted_less", { ...values, number: precise(forecast.false_alarms) })
    : t("arming.accepted_unlimited", { ...values, number: forecast.high });
}

function advice({ found, found_high: bound, found_basis: basis }) {
  if (basis === "several_cameras")
    return found < 0.5 && h("p", { class: "note" }, t("arming.few_found"));
  // Where the bound says nothing, the sentence gives the advice.
  const isSaid = bound !== null && bound > 0.99;
  return !isSaid && h("p", { class: "hint" }, t("arming.more_cameras"));
}

// `galleries` are the names of those whose people can be kept silent.
function settingsForm(settings, galleries, buttons) {
  const ends = Math.max(Date.parse(settings.expires_at) || 0, 0);
  const [from = "", until = ""] = (settings.hours ?? "").split("-");
  const zone = settings.hours ? settings.time_zone : ZONE;
  const option = (value, text, chosen) => h("option", { value, selected: value === chosen }, text);
  const scope = settings.quiet_scope ?? "camera";
  const silent = settings.silent ?? "";
  // One that was deleted since is shown, so that it is not left out unnoticed.
  const silentGalleries = [...new Set([...galleries, ...(silent ? [silent] : [])])];
  const field = (label, name, attributes, ...more) =>
    h("label", {}, label, h("input", { name, ...attributes }), more);
  return h(
    "form",
    {
      "data-zone": zone,
      "data-quiet": settings.quiet_seconds ?? "",
      "data-budget": settings.budget ?? "",
      "data-accepted": settings.accepted ?? "",
    },
    field(t("arming.budget"), "budget", {
      type: "number",
      required: true,
      min: 0.01,
      max: 1000,
      step: "any",
      value: settings.accepted ?? 3,
    }),
    field(
      t("arming.passages"),
      "tracks_per_day",
      {
        type: "number",
        min: 1,
        max: 1e7,
        step: "any",
        value: settings.tracks_per_day ?? "",
        placeholder: t("arming.passages_empty"),
      },
      h("span", { class: "hint" }, t("arming.passages_hint")),
    ),
    field(t("arming.until"), "expires_at", {
      type: "datetime-local",
      required: true,
      min: localTime(Date.now()),
      max: localTime(Date.now() + MOST_DAYS * DAY_MS),
      value: localTime(ends > Date.now() ? ends : Date.now() + DAYS * DAY_MS),
    }),
    field(t("reason"), "reason", {
      required: true,
      maxlength: 256,
      value: settings.reason ?? "",
      placeholder: t("purpose.hint"),
    }),
    field(t("arming.alert_days"), "retention_days", {
      type: "number",
      required: true,
      min: 1,
      max: 365,
      value: settings.retention_days ?? 30,
    }),
    h(
      "details",
      { open: Boolean(settings.cameras?.length || settings.hours) },
      h("summary", {}, t("arming.only_some")),
      field(t("cameras"), "cameras", {
        list: "cameras",
        value: settings.cameras?.join(", ") ?? "",
        placeholder: t("arming.cameras_hint"),
      }),
      h(
        "div",
        { class: "pair" },
        field(t("from"), "from", { type: "time", value: from }),
        field(t("to"), "until", { type: "time", value: until }),
      ),
      h("p", { class: "hint" }, t("arming.zone", { zone })),
    ),
    h(
      "label",
      {},
      t("arming.scope"),
      h(
        "select",
        { name: "quiet_scope" },
        option("camera", t("arming.scope.camera"), scope),
        option("list", t("arming.scope.list"), scope),
      ),
    ),
    h(
      "label",
      {},
      t("arming.silent"),
      h(
        "select",
        { name: "silent" },
        option("", t("nobody"), silent),
        silentGalleries.map((name) => option(name, name, silent)),
      ),
      h("span", { class: "hint" }, t("arming.silent_hint")),
    ),
    buttons,
  );
}

function fieldsOf(form) {
  const { from, until, expires_at: ends, ...rest } = Object.fromEntries(new FormData(form));
  if (Boolean(from) !== Boolean(until)) throw new Error(t("arming.both_times"));
  // Unless another number was entered, the list keeps the budget that its forecast was made for.
  const { budget, accepted } = form.dataset;
  if (rest.budget === accepted) rest.budget = budget;
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
