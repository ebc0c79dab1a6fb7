// The state line: the gallery's state, or in red the service's problem while it lasts.

import { find, h, keptFor } from "./elements.js";
import { t } from "./texts.js";

const CHECK_MS = 10_000;
const AGAIN_MS = 2_000;
const ADJUSTED = ["own", "frozen"];
let chosen = null;
let trouble = null;
let waiting = 0;

export function startStatus() {
  document.addEventListener("service-silent", check);
  document.addEventListener("visibilitychange", check);
  check();
}

export function showState(gallery) {
  chosen = gallery;
  draw();
}

async function check() {
  clearTimeout(waiting);
  if (document.hidden) return;
  const before = trouble;
  trouble = await troubleNow();
  clearTimeout(waiting);
  waiting = setTimeout(check, trouble ? AGAIN_MS : CHECK_MS);
  if (trouble === before) return;
  draw();
  // Repeat the calls that failed meanwhile.
  if (trouble === null)
    for (const event of ["gallery-changed", "panel-shown"])
      document.dispatchEvent(new Event(event));
}

async function troubleNow() {
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    // A proxy may block this address.
    if (!response.ok && response.status < 500) return null;
    const body = await response.json();
    if (!response.ok) return t("state.not_ready", { reason: body.detail });
    if (body.record.state === "unreachable") return t("state.unreachable");
    if (body.record.state === "writes_wait") return t("state.writes_wait");
    if (body.audit_log === "unavailable") return t("state.no_audit_log");
    return body.index === "ready" ? null : t("state.no_index");
  } catch {
    return t("state.silent");
  }
}

function draw() {
  const place = find("#state");
  place.classList.toggle("wrong", trouble !== null);
  const shown = h(
    "p",
    {},
    ...(trouble !== null
      ? [h("span", { class: "dot wrong" }, trouble)]
      : chosen
        ? stateOf(chosen)
        : []),
  );
  // Change the line only if it differs: screen readers read each change.
  if (shown.textContent !== place.textContent) place.replaceChildren(...shown.children);
}

function stateOf(gallery) {
  const { state, crops, identities, calibration } = gallery;
  return [
    h("span", { class: `dot ${state}` }, t(`state.${state}`)),
    h("span", {}, t("pictures", { count: crops })),
    h("span", {}, t("people", { count: identities })),
    h(
      "span",
      {},
      t(
        `state.thresholds.${ADJUSTED.includes(calibration.state) ? calibration.state : "standard"}`,
      ),
    ),
    keptFor(gallery) && h("span", {}, t("state.kept_for", { time: keptFor(gallery) })),
  ].filter(Boolean);
}
