// A decision on an alert, and on all open alerts of a time at once.

import { ask, formOf, pages } from "./api.js";
import { attempt, find, h, sentence } from "./elements.js";
import { DECISIONS } from "./judge.js";
import { act, report } from "./naming.js";
import { gallery } from "./place.js";
import { t } from "./texts.js";
import { call } from "./undo.js";

const HOUR_MS = 3_600_000;
const SPANS = { hour: HOUR_MS, night: 12 * HOUR_MS, day: 24 * HOUR_MS, all: Infinity };
// The page keeps the calls that take all of them back.
const MOST = 500;

export function startDecidingAll() {
  find("#decide-all").addEventListener("click", choose);
}

// Ask for a time and a decision.
function choose() {
  const here = find("#alert-here").checked;
  const number = h("p", { "aria-live": "polite" });
  const span = h(
    "select",
    { onchange: () => count() },
    Object.keys(SPANS).map((name) => h("option", { value: name }, t(`deciding.${name}`))),
  );
  const buttons = DECISIONS.map(([decision, sign, , title]) =>
    h("button", { value: decision, disabled: true }, `${sign} ${title}`),
  );
  const form = h(
    "form",
    {},
    h("p", {}, t(here ? "deciding.about_list" : "deciding.about", { gallery: gallery() })),
    h("label", {}, t("deciding.span"), span),
    number,
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      buttons,
    ),
  );
  const dialog = h(
    "dialog",
    { class: "question", "aria-label": t("deciding"), onclose: () => dialog.remove() },
    h("h2", {}, t("deciding")),
    form,
  );
  let found = [];
  const count = () =>
    attempt(form, async () => {
      const { value } = span;
      const alerts = await openAlerts(SPANS[value], here);
      if (span.value !== value) return;
      found = alerts;
      number.textContent = t("deciding.number", { count: found.length });
      for (const button of buttons) button.disabled = found.length === 0;
    });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    decide(found, event.submitter.value);
  });
  document.body.append(dialog);
  dialog.showModal();
  count();
}

// Return the alerts about people that are not decided and not older than a time.
async function openAlerts(span, here) {
  const filters = { state: "open", ...(here && { gallery: gallery() }) };
  const { results } = await pages("/v1/alerts", filters, MOST);
  const since = Date.now() - span;
  return results.filter(
    (alert) => alert.identity !== null && Date.parse(alert.created_at) >= since,
  );
}

const reviewOf = (alert) => `/v1/alerts/${alert.alert_id}/review`;

// Send a decision on the picture of a score, and return the alert.
export async function sendReview(alert, decision, score = alert.score) {
  const body = formOf([
    ["decision", decision],
    ["score", score],
  ]);
  try {
    return await ask(reviewOf(alert), { method: "POST", body });
  } catch (error) {
    // The crop of another track has taken the place of the one that was looked at.
    const isOutdated = error.fields?.some(([, names]) => names.includes("score"));
    throw isOutdated ? new Error(t("alerts.outdated")) : error;
  }
}

// A refusal ends none of the others.
async function decide(alerts, decision) {
  await act(async () => {
    const refused = [];
    const undo = [];
    for (const alert of alerts) {
      try {
        await sendReview(alert, decision);
        undo.push(call("POST", reviewOf(alert), [["decision", "open"]]));
      } catch (error) {
        refused.push(sentence(`${alert.identity}: ${error.message}`));
      }
    }
    report(t(`alerts.done.${decision}`, { count: undo.length }), {
      undo,
      undone: t("deciding.undone", { count: undo.length }),
    });
    if (refused.length > 0)
      throw new Error(
        t(`alerts.failed.${decision}`, { count: refused.length, reasons: refused.join(" ") }),
      );
  });
}
