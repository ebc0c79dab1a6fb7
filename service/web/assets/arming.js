// The dialog that arms a list: its settings, then their forecast, which the operator confirms.

import { ask } from "./api.js";
import { attempt, h, localTime, moment, onSubmit, ZONE } from "./elements.js";
import { alarms, HIGHEST_BOUND, sentencesOf, sourcesOf } from "./forecast.js";
import { gallery, inGallery } from "./place.js";
import { inNumbers, LOCALE, t, textNodes } from "./texts.js";

const DAY_MS = 86_400_000;
const MOST_DAYS = 90;
const DAYS = 7;
// Fewer passages are no measure of a day, but those of a test or of its first minutes.
const FEWEST_PASSAGES = 100;
// The first of them is a Monday.
const WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const A_MONDAY = Date.UTC(2024, 0, 1);

// Say the false alarms a day that were accepted when the list was armed.
export function acceptedBy({ settings, promised }) {
  const [ending, values] = alarms(acceptedWith(settings, promised));
  return t(`arming.alarms.${ending}`, values);
}

// Return the false alarms a day that were accepted with a forecast, which are more than those of
// the settings where so few cannot be promised.
function acceptedWith({ budget }, { promised, high }) {
  return promised ? budget : Math.max(budget, high ?? 0);
}

const rounded = (number) => Number(number.toPrecision(3));
const precise = (number) => inNumbers(rounded(number));

// Show the settings, then their forecast, which the operator confirms to arm the list. `counted` is
// the number of passages that all cameras have counted in the last day.
export function askToArm({ settings, promised }, galleries, counted, armed) {
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
    settings ? 0 : counted,
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
    const isMore = exceeds(proposal.forecast, accepted);
    const [alarmed, ...found] = sentencesOf(proposal.forecast);
    const hasBrackets = [alarmed, ...found].some((sentence) => sentence.includes("["));
    const explained = hasBrackets && `${t("arming.brackets")} `;
    const heading = h("h3", { tabindex: -1 }, t("forecast"));
    const arm = h(
      "form",
      {},
      heading,
      outdated && h("p", { class: "note" }, t("arming.outdated")),
      h("p", { class: "forecast" }, h("b", {}, alarmed), " ", found.join(" ")),
      h("p", { class: isMore ? "accepted note" : "accepted" }, said(proposal.forecast, accepted)),
      advice(proposal.forecast),
      h(
        "p",
        { class: "hint" },
        explained,
        textNodes("arming.about", {
          sources: sourcesOf(proposal.forecast),
          count: proposal.forecast.people,
          time: moment(proposal.settings.expires_at),
        }),
      ),
      buttons(
        h("button", { type: "button", onclick: () => step.replaceChildren(form) }, t("back")),
        h(
          "button",
          { class: "main" },
          isMore ? t("arming.accept.most", { count: proposal.forecast.high }) : t("arming.arm"),
        ),
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

  step.append(form);
  document.body.append(dialog);
  dialog.showModal();
}

// Return whether no limit as low as what is accepted can be promised.
const exceeds = ({ promised, high }, accepted) => !promised && high !== null && high > accepted;

function said(forecast, accepted) {
  const values = { accepted: precise(accepted), number: forecast.high };
  return t(exceeds(forecast, accepted) ? "arming.accepted_unlimited" : "arming.accepted", values);
}

function advice({ found, found_high: bound, found_basis: basis }) {
  if (basis === "several_cameras")
    return found < 0.5 && h("p", { class: "note" }, t("arming.few_found"));
  // Where the bound says nothing, the sentence gives the advice.
  const isSaid = bound !== null && bound > HIGHEST_BOUND;
  return !isSaid && h("p", { class: "hint" }, t("arming.more_cameras"));
}

const nameOfDay = (number, style) =>
  new Intl.DateTimeFormat(LOCALE, { weekday: style, timeZone: "UTC" }).format(
    A_MONDAY + number * DAY_MS,
  );

// Name the weekdays of a list.
export const namesOfDays = (days) =>
  WEEKDAYS.flatMap((day, number) => (days.includes(day) ? nameOfDay(number, "short") : []));

// `galleries` are the names of those whose people can be kept silent, and `counted` is a number of
// passages a day to begin with, or 0.
function settingsForm(settings, galleries, counted, buttons) {
  const ends = Math.max(Date.parse(settings.expires_at) || 0, 0);
  const [from = "", until = ""] = (settings.hours ?? "").split("-");
  const days = settings.weekdays ?? [];
  const zone = settings.hours || days.length > 0 ? settings.time_zone : ZONE;
  const option = (value, text, chosen) => h("option", { value, selected: value === chosen }, text);
  const scope = settings.quiet_scope ?? "camera";
  const silent = settings.silent ?? "";
  // One that was deleted since is shown, so that it is not left out unnoticed.
  const silentGalleries = [...new Set([...galleries, ...(silent ? [silent] : [])])];
  const isMeasured = counted >= FEWEST_PASSAGES;
  const few = counted > 0 ? `${t("arming.passages_few", { count: counted })} ` : "";
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
        value: settings.tracks_per_day ?? (isMeasured ? counted : ""),
        placeholder: t("arming.passages_empty"),
      },
      h(
        "span",
        { class: "hint" },
        isMeasured ? t("arming.passages_counted") : few + t("arming.passages_hint"),
      ),
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
      { open: Boolean(settings.cameras?.length || settings.hours || days.length) },
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
      h(
        "fieldset",
        { class: "days" },
        h("legend", {}, t("arming.weekdays")),
        WEEKDAYS.map((day, number) =>
          h(
            "label",
            { class: "check" },
            h("input", {
              type: "checkbox",
              name: "weekdays",
              value: day,
              checked: days.includes(day),
            }),
            h("abbr", { title: nameOfDay(number, "long") }, nameOfDay(number, "short")),
          ),
        ),
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
    h(
      "label",
      { class: "check" },
      h("input", {
        type: "checkbox",
        name: "explain_passages",
        value: "true",
        checked: Boolean(settings.explain_passages),
      }),
      h(
        "span",
        {},
        t("arming.explain"),
        h("span", { class: "hint" }, ` ${t("arming.explain_hint")}`),
      ),
    ),
    buttons,
  );
}

function fieldsOf(form) {
  const fields = new FormData(form);
  const days = fields.getAll("weekdays").join(",");
  fields.delete("weekdays");
  const { from, until, expires_at: ends, ...rest } = Object.fromEntries(fields);
  if (Boolean(from) !== Boolean(until)) throw new Error(t("arming.both_times"));
  // Unless another number was entered, the list keeps the budget that its forecast was made for.
  const { budget, accepted } = form.dataset;
  if (rest.budget === accepted) rest.budget = budget;
  return [
    ...Object.entries(rest),
    ["expires_at", new Date(ends).toISOString()],
    ["quiet_seconds", form.dataset.quiet],
    ["hours", from && `${from}-${until}`],
    ["weekdays", days],
    ["time_zone", (from || days) && form.dataset.zone],
  ].filter(([, value]) => value !== "");
}
