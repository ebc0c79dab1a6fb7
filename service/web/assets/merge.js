// Two people side by side, before they are merged.

import { ask, formOf, pages } from "./api.js";
import { h, moment, nfc, percent, showForm, thumbnail, verdictChip } from "./elements.js";
import { inGallery, segment } from "./place.js";
import { t } from "./texts.js";

const SHOWN = 8;
const COMPARED = 100;
// Number of doubtful pictures, the most doubtful first, among which those of the two are looked for.
const MOST_DOUBTFUL = 1000;

// Resolve to {identity, into} after confirmation, or to null.
export async function askForMerge(identity, other) {
  const [said, doubts, ...sides] = await Promise.all([
    opinion(identity, other),
    doubtsOf([identity, other]),
    ...[identity, other].map(side),
  ]);
  const kept = h(
    "select",
    {},
    [other, identity].map((name) => h("option", {}, name)),
  );
  const answer = await new Promise((resolve) => {
    const dialog = showForm(
      { class: "question wide", "aria-label": t("merge.two") },
      resolve,
      h("h2", {}, t("merge.same")),
      h("div", { class: "sides" }, sides),
      h("p", { class: "row opinion" }, said),
      doubts.map((doubt) => h("p", { class: "note" }, doubt)),
      h("label", {}, t("merge.name"), kept),
      h("p", { class: "hint" }, t("merge.hint")),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
        h("button", { class: "main" }, t("merge.do")),
      ),
    );
  });
  return answer === "yes"
    ? { identity: kept.value === identity ? other : identity, into: kept.value }
    : null;
}

// Ask the model: search with the best pictures of one person among those of the other.
async function opinion(identity, other) {
  const asked = new URLSearchParams({ identity, limit: COMPARED });
  const { results } = await ask(inGallery(`/similar?${asked}`)).catch(() => ({ results: [] }));
  const found = results.find((person) => nfc(person.identity) === nfc(other));
  if (found)
    return [
      verdictChip(found.verdict),
      t("merge.probability", { probability: percent(found.probability) }),
    ];
  return results.length === COMPARED
    ? t("merge.others_alike", {
        number: COMPARED,
        probability: percent(results.at(-1).probability),
      })
    : t("merge.not_compared");
}

// Return for each name with doubtful pictures how many these are: one of them may be why the two are
// thought alike.
async function doubtsOf(names) {
  const listed = pages(inGallery("/doubtful"), {}, MOST_DOUBTFUL);
  const { results } = await listed.catch(() => ({ results: [] }));
  return names.flatMap((name) => {
    const count = results.filter(({ crop }) => nfc(crop.identity) === nfc(name)).length;
    return count > 0 ? t("merge.doubtful", { count, name }) : [];
  });
}

async function side(identity) {
  const about = await ask(inGallery(`/identities/${segment(identity)}`));
  const asked = new URLSearchParams(
    formOf([
      ["identity", identity],
      ["limit", SHOWN],
    ]),
  );
  const { results } = await ask(inGallery(`/crops?${asked}`));
  return h(
    "section",
    {},
    h("h3", { class: "name" }, identity),
    h(
      "p",
      { class: "hint name" },
      t("person.about", {
        count: about.crops,
        cameras: about.cameras.join(", ") || t("camera.unknown"),
      }),
    ),
    h(
      "ul",
      { class: "cards small" },
      results.map((crop) =>
        h(
          "li",
          {},
          thumbnail(crop.image_url, t("picture.of", { name: identity })),
          crop.captured_at && h("p", { class: "hint" }, moment(crop.captured_at)),
        ),
      ),
    ),
  );
}
