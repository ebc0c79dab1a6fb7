// The state line: the gallery's state, or in red the service's problem while it lasts.

import { count, find, h, keptFor } from "./elements.js";

const CHECK_MS = 10_000;
const AGAIN_MS = 2_000;
const STATES = {
  ready: "ready",
  previous_model: "answered by the previous model; reindex the gallery to use the new one",
  needs_reindex: "filled by another model; reindex the gallery to search it and to enroll",
};
const THRESHOLDS = {
  own: "match or no match: adjusted to this gallery",
  frozen: "match or no match: adjusted to this gallery, kept as it is",
};
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
    if (!response.ok) return `The service is not ready: ${body.detail}`;
    if (body.record.state === "unreachable")
      return "The database does not answer: searches are answered from memory, and nothing can be changed";
    if (body.record.state === "writes_wait")
      return "Another process of the service stands still and keeps this one from writing: nothing can be changed";
    if (body.audit_log === "unavailable")
      return "The audit log cannot be written: nothing can be searched";
    return body.index === "ready" ? null : "The index does not answer: nothing can be searched";
  } catch {
    return "The service does not answer. It is asked again every two seconds";
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
    h("span", { class: `dot ${state}` }, STATES[state]),
    h("span", {}, count(crops, "picture")),
    h("span", {}, count(identities, "person", "people")),
    h(
      "span",
      { title: calibration.basis },
      THRESHOLDS[calibration.state] ?? "match or no match: standard",
    ),
    keptFor(gallery) && h("span", {}, `pictures kept for ${keptFor(gallery)}`),
  ].filter(Boolean);
}
