// Sightings of one person: crops of one visit folded into one entry, and the entries by day.

import {
  CLOCK,
  count,
  h,
  isThisYear,
  isToday,
  nameOf,
  nfc,
  percent,
  sentence,
  shotPicture,
  thumbnail,
  verdictChip,
  verdictSign,
} from "./elements.js";
import { addressOf } from "./place.js";

const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const VISIT_MS = 5 * MINUTE_MS;
// Watch lists end a track after this time too. Trackers use their ids again.
const TRACK_MS = 30 * MINUTE_MS;
const SHOTS_BESIDE = 2;
const MISSES = "The model may err: it misses people, most of all in other clothes";
const LOOK = `${MISSES}, and takes strangers for the person. Look at the pictures before you decide.`;

const timeOf = (crop) => Date.parse(crop.captured_at);

function isSameVisit(crop, other) {
  if (crop.gallery !== other.gallery || nfc(crop.camera) !== nfc(other.camera)) return false;
  const isSameTrack = crop.track !== null && crop.track === other.track;
  if (crop.captured_at === null || other.captured_at === null)
    return isSameTrack && crop.captured_at === other.captured_at;
  const apart = Math.abs(timeOf(crop) - timeOf(other));
  if (isSameTrack) return apart <= TRACK_MS;
  // Crops without a camera may be of several cameras.
  return crop.camera !== null && apart <= VISIT_MS;
}

// Return the visits that results of a search show, newest first, then those of unknown time. A
// visit has its `crops`, newest first, and the `best` of them.
export function visitsOf(results) {
  const seen = results.filter(({ verdict }) => verdict === "match" || verdict === "uncertain");
  const newestFirst = seen.toSorted((first, second) => {
    if (first.captured_at === null || second.captured_at === null)
      return Number(first.captured_at === null) - Number(second.captured_at === null);
    return timeOf(second) - timeOf(first);
  });
  const visits = [];
  for (const crop of newestFirst) {
    const visit = visits.find(({ crops }) => isSameVisit(crops.at(-1), crop));
    if (visit) visit.crops.push(crop);
    else visits.push({ gallery: crop.gallery, camera: crop.camera, crops: [crop] });
  }
  for (const visit of visits)
    visit.best = visit.crops.reduce((best, crop) =>
      crop.probability > best.probability ? crop : best,
    );
  return visits;
}

// Return whether a gallery may have more sightings than the answer: none of its results is too
// unlike to be one, and not all of its crops were compared.
function mayHaveMore({ results, galleries }, most) {
  return galleries.some(({ gallery }) => {
    const own = results.filter((result) => result.gallery === gallery);
    const isCutOff = results.length === most || own.some(({ verdict }) => verdict === null);
    return own.length > 0 && isCutOff && !own.some(({ verdict }) => verdict === "no_match");
  });
}

// `searched` are the galleries; `asked` has the pictures of the query, whether times were chosen,
// and the most results of the answer.
export function answerElements(answer, visits, searched, asked) {
  const { shots, hasTimes, most } = asked;
  const verdict = answer.verdict === "nothing_searched" ? answer.verdict : verdictOf(visits);
  const matched = visits.filter(({ best }) => best.verdict === "match");
  const perhaps = visits.length - matched.length;
  const notes = [
    ...answer.warnings.map(sentence),
    hasTimes && "Only pictures of the times that you chose were searched.",
    mayHaveMore(answer, most) &&
      `There may be more: only the ${count(answer.results.length, "picture")} most like the person were compared. Choose a shorter time to see the others.`,
  ];
  const heads = {
    match: () => seenTimes(matched, perhaps),
    uncertain: () => `Not certain: ${count(perhaps, "sighting")} may show the person`,
    no_match: () => notSeen(searched),
    nothing_searched: () => "Nothing was searched",
  };
  const summaries = {
    match: LOOK,
    uncertain: LOOK,
    no_match: `${MISSES}.`,
    nothing_searched: hasTimes
      ? "No picture is of the times that you chose."
      : "These galleries have no pictures to compare with.",
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
        notes.filter(Boolean).map((note) => h("p", { class: "note" }, `⚠ ${note}`)),
      ),
    ),
    ...[...Map.groupBy(visits, dayOf)].map(([day, ofDay]) =>
      h(
        "section",
        { class: "day", "aria-label": day },
        h("h3", {}, day),
        h(
          "ol",
          { class: "cards" },
          ofDay.map((visit) => card(visit, searched.length > 1)),
        ),
      ),
    ),
  ];
}

function verdictOf(visits) {
  if (visits.some(({ best }) => best.verdict === "match")) return "match";
  return visits.length > 0 ? "uncertain" : "no_match";
}

function seenTimes(matched, perhaps) {
  const crops = matched.flatMap((visit) => visit.crops);
  const times = crops.filter((crop) => crop.captured_at !== null).map(timeOf);
  const cameras = new Map(
    matched
      .filter(({ camera }) => camera !== null)
      .map(({ gallery, camera }) => [`${gallery}/${nfc(camera)}`, camera]),
  );
  return [
    matched.length === 1 ? "Seen once" : `Seen ${count(matched.length, "time")}`,
    `, ${spanOf(times)}`,
    ...(cameras.size === 1
      ? [", by the camera ", h("span", { class: "name" }, ...cameras.values())]
      : [cameras.size > 1 && `, by ${count(cameras.size, "camera")}`]),
    perhaps > 0 && `, and ${count(perhaps, "more sighting")} may show the person`,
  ];
}

function spanOf(times) {
  if (times.length === 0) return "at an unknown time";
  const first = when(Math.min(...times));
  const last = when(Math.max(...times));
  return first === last ? first : `from ${first} to ${last}`;
}

function notSeen(searched) {
  const since = (gallery) => date(keepsSince(gallery));
  const days = new Set(searched.map(since));
  const names = new Intl.ListFormat("en").format(searched.map(({ name }) => name));
  if (searched.length === 1)
    return `Not seen, as far as the gallery ${names} keeps: since ${since(searched[0])}`;
  if (days.size === 1)
    return `Not seen, as far as the galleries ${names} keep: since ${[...days][0]}`;
  const each = searched.map((gallery) => `${gallery.name} since ${since(gallery)}`).join(", ");
  return `Not seen, as far as the galleries keep: ${each}`;
}

const keepsSince = ({ created_at: createdAt, retention_days: days, retention_hours: hours }) =>
  Math.max(Date.parse(createdAt), Date.now() - (days ?? 0) * DAY_MS - (hours ?? 0) * HOUR_MS);

// Leave out the year where it is this one.
const date = (time, more = {}) =>
  new Intl.DateTimeFormat(undefined, {
    ...more,
    month: "short",
    day: "numeric",
    year: isThisYear(new Date(time)) ? undefined : "numeric",
  }).format(time);

const when = (time) =>
  isToday(time)
    ? `today, ${CLOCK.format(time)}`
    : date(time, { hour: "numeric", minute: "2-digit" });

function dayOf({ crops: [{ captured_at: time }] }) {
  if (time === null) return "Time unknown";
  return isToday(Date.parse(time)) ? "Today" : date(Date.parse(time), { weekday: "long" });
}

function card(visit, isOneOfSeveral) {
  const { gallery, camera, crops, best } = visit;
  const names = [...new Set(crops.map(({ identity }) => nfc(identity)).filter(Boolean))];
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${100 * best.probability}%`;
  return h(
    "li",
    { class: `card ${best.verdict}`, "data-crop": best.crop_id },
    h(
      "a",
      { class: "open", href: addressOf(gallery, "seen", best.crop_id) },
      thumbnail(best.image_url, `Picture of ${nameOf(best.identity)}`),
      h(
        "span",
        { class: "about" },
        verdictChip(best.verdict),
        h("b", { class: "name" }, names.join(", ") || nameOf(null)),
        h("span", { class: "name" }, camera ?? "camera unknown"),
        isOneOfSeveral && h("span", { class: "name" }, `in ${gallery}`),
        h("span", {}, clockOf(crops)),
        crops.length > 1 && h("span", {}, count(crops.length, "picture")),
        bar,
        h(
          "span",
          { class: "figures" },
          h("span", {}, h("span", {}, "probability"), " ", h("b", {}, percent(best.probability))),
        ),
      ),
    ),
  );
}

function clockOf(crops) {
  const latest = crops[0].captured_at;
  if (latest === null) return "time unknown";
  return h(
    "time",
    { datetime: latest },
    CLOCK.formatRange(timeOf(crops.at(-1)), Date.parse(latest)),
  );
}
