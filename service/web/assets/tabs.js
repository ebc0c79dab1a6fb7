// What other tabs of this browser change in the gallery is shown in this one too.

import { find, h } from "./elements.js";
import { gallery, item, KEPT_SEARCH, panel, tabs } from "./place.js";
import { t } from "./texts.js";

// Parts of panels that are drawn again when the gallery has changed.
const REDRAWN = ["#answer", "#person", "#unnamed-crops", "#track-list", "#case", "#alerts"];
// What another tab has changed since this one was drawn: parts of a gallery.
const changed = { name: null, parts: new Set() };

export function startTabs() {
  tabs.addEventListener("message", ({ data }) => {
    if (data.name !== changed.name) changed.parts.clear();
    changed.name = data.name;
    for (const part of data.parts) changed.parts.add(part);
    follow();
  });
  for (const event of ["input", "visibilitychange", "panel-shown"])
    document.addEventListener(event, follow);
  document.addEventListener("gallery-changed", () => {
    changed.parts.clear();
    offer(false);
  });
}

// Draw the panel again, unless somebody has typed or ticked something that would be lost.
function follow() {
  const shown = panel() === "search" && item() ? KEPT_SEARCH : panel();
  const isStale = changed.name === gallery() && changed.parts.has(shown) && !document.hidden;
  const isInUse = isStale && isHalfFilled();
  offer(isInUse);
  if (isStale && !isInUse) drawAgain();
}

const drawAgain = () => document.dispatchEvent(new Event("gallery-changed"));

function isHalfFilled() {
  // A field that saves itself is kept.
  const fields = REDRAWN.flatMap((part) => [
    ...document.querySelectorAll(`${part} :is(input, textarea):not([data-draft])`),
  ]);
  return fields.some((field) => field.checkVisibility() && isChanged(field));
}

const isChanged = (field) =>
  field.type === "checkbox"
    ? field.checked !== field.defaultChecked
    : field.value !== field.defaultValue;

function offer(isInUse) {
  const place = find("#elsewhere");
  const isOffered = place.childElementCount > 0;
  if (isInUse === isOffered) return;
  const contents = () => [
    h("span", {}, t("elsewhere.changed")),
    h("button", { type: "button", onclick: drawAgain }, t("elsewhere.show")),
  ];
  place.replaceChildren(...(isInUse ? contents() : []));
}
