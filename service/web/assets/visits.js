// The answer to "Has this person been here before?": the visits by day, and apart from them the
// tracks that may show the person.

import {
  CLOCK,
  h,
  isThisYear,
  isToday,
  nameOf,
  nfc,
  sentence,
  sharesOf,
  shotPicture,
  thumbnail,
  verdictChip,
  verdictSign,
} from "./elements.js";
import { addressOf, segment } from "./place.js";
import { inList, LOCALE, t, textNodes } from "./texts.js";

const SHOTS_BESIDE = 2;
// Pictures of a visit beside the best one.
const MORE_PICTURES = 5;

export const pictureOfCrop = (gallery, cropId) =>
  `/v1/galleries/${segment(gallery)}/crops/${segment(cropId)}/image`;

// `searched` are the galleries, with the time `since` which they have pictures if nobody was found;
// `asked` has the pictures of the query, and whether times were chosen.
export function answerElements(answer, searched, { shots, hasTimes }) {
  const { verdict, results, uncertain, incomplete } = answer;
  const areSeveral = searched.length > 1;
  const notes = [
    // Warnings are the service’s, in English.
    ...answer.warnings.map((warning) => h("span", { lang: "en" }, sentence(warning))),
    hasTimes && t("visits.times_chosen"),
    incomplete.length > 0 && t("visits.incomplete", { galleries: inList(incomplete) }),
  ];
  const heads = {
    match: () => seenTimes(results, uncertain.length),
    uncertain: () => t("visits.not_certain", { count: uncertain.length }),
    no_match: () => notSeen(searched),
    nothing_searched: () => t("answer.nothing_searched"),
  };
  const summaries = {
    match: t("visits.look"),
    uncertain: t("visits.look"),
    no_match: t("visits.misses"),
    nothing_searched: t(hasTimes ? "visits.none_of_times" : "visits.no_pictures"),
  };
  return [
    h(
      "div",
      { class: `banner ${verdict}`, role: "status" },
      verdictSign(verdict),
      h(
        "div",
        { class: "asked", "aria-hidden": "true" },
        shots.slice(0, SHOTS_BESIDE).map((shot) => shotPicture(shot)),
      ),
      h(
        "div",
        {},
        h("h2", {}, heads[verdict]()),
        h("p", {}, summaries[verdict]),
        notes.filter(Boolean).map((note) => h("p", { class: "note" }, "⚠ ", note)),
      ),
    ),
    ...[...Map.groupBy(results, dayOf)].map(([day, visits]) =>
      section(
        day,
        null,
        visits.map((visit) => card(visit, areSeveral, clockOf(visit))),
      ),
    ),
    uncertain.length > 0 &&
      section(
        t("visits.may_show"),
        t("visits.may_show.hint"),
        uncertain.map((visit) =>
          card(
            visit,
            areSeveral,
            visit.last_seen && h("span", {}, dayOf(visit)),
            clockOf(visit),
            h("span", { class: "note" }, reasonOf(visit)),
          ),
        ),
      ),
  ].filter(Boolean);
}

function section(title, hint, cards) {
  return h(
    "section",
    { class: "day", "aria-label": title },
    h("h3", {}, title),
    hint && h("p", { class: "hint" }, hint),
    h("ol", { class: "cards" }, cards),
  );
}

// A track is also left out of the visits if it is another person than they are.
const reasonOf = (visit) =>
  visit.probability < visit.needed
    ? t("visits.needs", { needed: sharesOf(visit, visit.needed)[1] })
    : t("visits.unlike");

function seenTimes(visits, perhaps) {
  const times = visits.flatMap(({ first_seen: first, last_seen: last }) =>
    first ? [Date.parse(first), Date.parse(last)] : [],
  );
  const cameras = new Map(
    visits
      .filter(({ camera }) => camera !== null)
      .map(({ gallery, camera }) => [`${gallery}/${nfc(camera)}`, camera]),
  );
  const head = headOf(t("seen.times", { count: visits.length }), spanOf(times), [
    ...cameras.values(),
  ]);
  return perhaps > 0 ? textNodes("seen.perhaps", { head, count: perhaps }).flat() : head;
}

function headOf(times, span, cameras) {
  if (cameras.length === 0) return [t("seen.head", { times, span })];
  if (cameras.length > 1) return [t("seen.head_cameras", { times, span, count: cameras.length })];
  const camera = h("span", { class: "name" }, cameras);
  return textNodes("seen.head_camera", { times, span, camera });
}

function spanOf(times) {
  if (times.length === 0) return t("seen.span_unknown");
  const first = when(Math.min(...times));
  const last = when(Math.max(...times));
  return first === last ? first : t("seen.span", { first, last });
}

function notSeen(searched) {
  const since = (gallery) => date(gallery.since);
  const days = new Set(searched.map(since));
  if (searched.length === 1)
    return t("not_seen.one", { gallery: searched[0].name, date: since(searched[0]) });
  if (days.size === 1)
    return t("not_seen.several", {
      galleries: inList(searched.map(({ name }) => name)),
      date: [...days][0],
    });
  const each = searched.map((gallery) =>
    t("not_seen.since", { gallery: gallery.name, date: since(gallery) }),
  );
  return t("not_seen.each", { galleries: each.join(", ") });
}

// Leave out the year where it is this one.
const date = (time, more = {}) =>
  new Intl.DateTimeFormat(LOCALE, {
    ...more,
    month: "short",
    day: "numeric",
    year: isThisYear(new Date(time)) ? undefined : "numeric",
  }).format(time);

const when = (time) =>
  isToday(time)
    ? t("time.today_at", { time: CLOCK.format(time) })
    : date(time, { hour: "numeric", minute: "2-digit" });

// Return the day of a visit in words.
export function dayOf({ last_seen: time }) {
  if (time === null) return t("day.unknown");
  return isToday(Date.parse(time)) ? t("day.today") : date(Date.parse(time), { weekday: "long" });
}

// Show the time of day from the first to the last picture of a visit, if it is known.
export function clockOf({ first_seen: first, last_seen: last }) {
  if (last === null) return null;
  return h("time", { datetime: last }, CLOCK.formatRange(Date.parse(first), Date.parse(last)));
}

// `lines` are elements about its time, and why it is no match.
function card(visit, isOneOfSeveral, ...lines) {
  const { gallery, camera, crops, crop_ids: ids, identity, probability, verdict } = visit;
  const [best] = ids;
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${100 * probability}%`;
  return h(
    "li",
    { class: `card ${verdict}`, "data-crop": best },
    h(
      "a",
      { class: "open", href: addressOf(gallery, "seen", best) },
      thumbnail(visit.image_url, t("picture.of", { name: nameOf(identity) })),
      h(
        "span",
        { class: "about" },
        verdictChip(verdict),
        h("b", { class: "name" }, nameOf(identity)),
        camera && h("span", { class: "name" }, camera),
        isOneOfSeveral && h("span", { class: "name" }, t("results.in_gallery", { gallery })),
        ...lines,
        crops > 1 && h("span", {}, t("pictures", { count: crops })),
        crops > 1 && strip(gallery, ids.slice(1)),
        bar,
        h(
          "span",
          { class: "figures" },
          h(
            "span",
            {},
            h("span", {}, t("probability")),
            " ",
            h("b", {}, sharesOf(visit, visit.needed)[0]),
          ),
        ),
      ),
    ),
  );
}

// Show small pictures of a visit; the dialog of the first one leads through all.
function strip(gallery, cropIds) {
  const shown = cropIds.slice(0, MORE_PICTURES);
  return h(
    "span",
    { class: "strip" },
    shown.map((id) => thumbnail(pictureOfCrop(gallery, id), "")),
  );
}
