// What the thresholds of a search rest on, in sentences.

import { inList, t } from "./texts.js";

// Reasons why the thresholds are not those of the gallery.
const REASONS = ["not_fitted", "few_identities", "few_scored", "shallow_search"];

// Return the sentences about a calibration. `covered` is the number of people that a search covers.
export function basisOf(calibration, covered) {
  const { reason, notes } = calibration;
  return [
    sourceOf(calibration),
    reason === "extrapolated" && t("limits.extrapolated", { count: covered }),
    ...notes.map((note) => t(`limits.note.${note}`)),
  ]
    .filter(Boolean)
    .join(" ");
}

function sourceOf({ state, reason, identities, searches }) {
  if (state === "off") return t("limits.off");
  if (state === "artefact") return t(`limits.model.${REASONS.includes(reason) ? reason : "other"}`);
  const sources = [
    identities > 0 && t("limits.of_people", { count: identities }),
    searches > 0 && t("limits.of_searches", { count: searches }),
  ].filter(Boolean);
  return t(`limits.${state}`, { sources: inList(sources) });
}
