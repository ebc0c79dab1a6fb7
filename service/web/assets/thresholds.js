// What the thresholds of a search rest on, in sentences.

import { inList, t } from "./texts.js";

// Reasons why the thresholds are not those of the gallery.
const REASONS = ["not_fitted", "few_identities", "few_scored", "shallow_search"];

// The text about the people of a fit, by whether the gallery has fewer, as many, or more now.
const PEOPLE = {
  [-1]: "limits.of_people_before",
  0: "limits.of_people",
  1: "limits.of_people_of",
};

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

function sourceOf({ state, reason, identities, identities_now, searches }) {
  if (state === "off") return t("limits.off");
  if (state === "artefact") return t(`limits.model.${REASONS.includes(reason) ? reason : "other"}`);
  const total = identities_now ?? identities;
  const sources = [
    identities > 0 && t(PEOPLE[Math.sign(total - identities)], { count: identities, total }),
    searches > 0 && t("limits.of_searches", { count: searches }),
  ].filter(Boolean);
  return t(`limits.${state}`, { sources: inList(sources) });
}
