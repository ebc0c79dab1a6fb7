// The confirmed pictures of all searches of a case, in order of time.

import { openCrop } from "./crop.js";
import { h, moment, nameOf, percent, thumbnail } from "./elements.js";
import { addressOf, gallery } from "./place.js";
import { t, textNodes } from "./texts.js";
import { marksOf, timeline } from "./timeline.js";

// Return the confirmed results of an opened search, best first.
export function confirmedIn({ answer, reviews }) {
  const ids = new Set(
    reviews.filter(({ decision }) => decision === "confirmed").map(({ crop_id: id }) => id),
  );
  return answer.results.filter((result) => ids.has(result.crop_id));
}

const addressOfSearch = (search) => addressOf(gallery(), "search", search.query_id);

// Pictures without a time come last.
const timeOf = ({ captured_at: at }) => (at === null ? Infinity : Date.parse(at));

// Show the confirmed pictures of searches, each once, the earliest first.
export function evidence(searches) {
  const found = new Map();
  for (const search of searches)
    for (const result of confirmedIn(search))
      found.set(result.crop_id, [...(found.get(result.crop_id) ?? []), { result, search }]);
  const pictures = [...found.values()].sort(([first], [second]) => {
    const [one, other] = [first, second].map(({ result }) => timeOf(result));
    return one === other ? 0 : one - other;
  });
  const crops = pictures.map(([{ result }]) => result);
  return h(
    "section",
    { class: "evidence", "aria-label": t("evidence") },
    h("h2", {}, t("evidence.count", { count: pictures.length })),
    pictures.length === 0 &&
      h("p", { class: "hint" }, t(searches.length > 0 ? "evidence.none" : "evidence.no_search")),
    timeline(marksOf(crops), openCrop, "picture"),
    h(
      "ol",
      { class: "rows", "aria-label": t("evidence.by_time") },
      pictures.map((picture) => row(picture)),
    ),
  );
}

function row(picture) {
  const [{ result }] = picture;
  return h(
    "li",
    {},
    thumbnail(result.image_url, t("picture.of", { name: nameOf(result.identity) })),
    h("b", { class: "when" }, moment(result.captured_at)),
    h("span", { class: "name" }, result.camera ?? t("camera.unknown")),
    h("span", { class: "name" }, nameOf(result.identity)),
    h(
      "span",
      { class: "sure" },
      h("span", { class: "hint" }, t("probability"), " "),
      [...new Set(picture.map((one) => percent(one.result.probability)))].join(", "),
    ),
    h(
      "span",
      { class: "hint sources" },
      picture.map(({ search }) =>
        h(
          "a",
          { href: addressOfSearch(search) },
          textNodes("evidence.search", { time: moment(search.created_at) }),
        ),
      ),
    ),
  );
}
