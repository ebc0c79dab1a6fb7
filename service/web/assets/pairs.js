// The evidence of one search: the picture that was searched with beside each confirmed one, and
// the visits, each with what proves it.

import { ask } from "./api.js";
import { decimal, h, moment, nameOf, period, picture, sharesOf, verdictChip } from "./elements.js";
import { confirmedIn } from "./evidence.js";
import { addressOf, gallery, segment } from "./place.js";
import { inNumbers, t, textNodes } from "./texts.js";
import { causeSince, todaysAnswer, wordsOf } from "./verdicts.js";

// A search by a track has up to 32 crops.
const SHOWN_CROPS = 4;
const USER = "user:";
const WITHOUT_KEY = "loopback";

// Return the first of the crops that a kept search was by and that still exist. They may be of
// another gallery.
export async function searchedCrops({ crop_id: id, request }) {
  const path = `/v1/galleries/${segment(request.gallery ?? gallery())}/crops/`;
  const ids = id ? (request.crop_ids ?? [id]) : [];
  const asked = ids
    .slice(0, SHOWN_CROPS)
    .map((each) => ask(path + segment(each)).catch(() => null));
  return (await Promise.all(asked)).filter(Boolean);
}

// Show the pairs and the visits of a search, and how many confirmed pictures were deleted since.
// `crops` are those that it was by.
export function evidenceOf(search, crops) {
  const results = confirmedIn(search);
  const deleted = search.confirmed - results.length;
  return [
    h("p", { class: "hint covered" }, coveredBy(search.answer)),
    results.length > 0 &&
      h(
        "ol",
        { class: "pairs", "aria-label": t("evidence.of_search") },
        results.map((result) => pairOf(search, result, crops)),
      ),
    deleted > 0 && h("p", { class: "note" }, t("evidence.deleted", { count: deleted })),
    ...(search.visits ? visitsOf(search, crops) : []),
  ];
}

const coveredBy = ({ crops_searched: crops, people_searched: people }) =>
  t("evidence.covered", {
    pictures: t("pictures", { count: crops }),
    people: t("people", { count: people }),
  });

function pairOf(search, result, crops) {
  const review = search.reviews.find(({ crop_id: id }) => id === result.crop_id);
  return h(
    "li",
    { class: "pair" },
    queryFigure(search, crops),
    h(
      "figure",
      {},
      h(
        "a",
        { href: addressOf(gallery(), "search", search.query_id) },
        picture(result.image_url, t("picture.of", { name: nameOf(result.identity) })),
      ),
      h(
        "figcaption",
        {},
        h("b", { class: "name" }, nameOf(result.identity)),
        cropFacts({ ...result, sent_sha256: review.sent_sha256 }),
      ),
    ),
    h(
      "p",
      {},
      t("evidence.then", { judgement: wordsOf(result, search.answer.needed) }),
      " ",
      todayOf(search, result),
      " ",
      textNodes("evidence.confirmed", {
        who: h("span", { class: "name" }, whoOf(review)),
        time: moment(review.reviewed_at, true),
      }),
    ),
    result.likelihood_ratio !== null && h("p", {}, ratioOf(result, search.answer)),
  );
}

function queryFigure(search, crops) {
  const { files, image_url: url, request } = search;
  const others = (request.crop_ids?.length ?? 0) - SHOWN_CROPS;
  return h(
    "figure",
    {},
    picture(url ?? crops[0]?.image_url, t("evidence.query")),
    h(
      "figcaption",
      {},
      h("b", {}, t("evidence.query")),
      files.flatMap((file) => [
        h("span", { class: "name" }, fileName(file)),
        digest(file.sent_sha256),
      ]),
      files.length > 0 && placeAndTime(request.camera, request.captured_at),
      crops.flatMap((crop) => [
        h("span", { class: "name" }, nameOf(crop.identity)),
        ...cropFacts(crop),
      ]),
      others > 0 && h("span", {}, t("evidence.more_crops", { count: others })),
    ),
  );
}

function fileName({ name, box }) {
  const file = name === null ? t("evidence.file_unnamed") : t("evidence.file", { name });
  return box ? t("evidence.part", { file, ...box }) : file;
}

const cropFacts = ({ crop_id: id, camera, captured_at: at, sent_sha256: sent }) => [
  h("span", {}, t("evidence.crop", { id })),
  placeAndTime(camera, at),
  digest(sent),
];

const digest = (sha256) => h("span", {}, t("evidence.sha256"), " ", h("code", {}, sha256));

const placeAndTime = (camera, at) =>
  h("span", { class: "name" }, camera ?? t("camera.unknown"), ", ", moment(at, true));

// Say who decided. A user has no key, and somebody at the machine of the service needs none.
function whoOf({ key_id: key, key_note: note }) {
  if (key === WITHOUT_KEY) return t("evidence.without_key");
  if (key.startsWith(USER)) return key.slice(USER.length);
  return note ? t("evidence.key_note", { key, note }) : t("evidence.key", { key });
}

// Say today's verdict of a result, once it is known.
function todayOf(search, result) {
  const place = h("span", {}, t("evidence.today_waits"));
  todaysAnswer(search, place).then((today) => {
    place.textContent = todayIn(today, result, search.answer);
  });
  return place;
}

// `then` is the answer of the search's time.
function todayIn(today, result, then) {
  if (today?.isSame) return t("evidence.today_same");
  if (!today?.answer) return t("evidence.today_unknown");
  const { answer } = today;
  const found = answer.results.find(({ crop_id: other }) => other === result.crop_id);
  if (!found) return t("evidence.today_missing", { number: answer.results.length });
  const judgement = wordsOf(found, answer.needed);
  const said = t("evidence.today", { judgement });
  const isOther = judgement !== wordsOf(result, then.needed);
  return isOther ? `${said} ${causeSince(then, answer)}` : said;
}

// Say what a likelihood ratio is, and how many people it and the search are about. Beyond the
// number of people that it was fitted to it is only a bound.
function ratioOf(
  { likelihood_ratio: ratio },
  { likelihood_people: people, people_searched: searched },
) {
  const bound =
    ratio >= people ? "evidence.at_least" : ratio <= 1 / people ? "evidence.at_most" : null;
  const number = ratio >= 10 ? inNumbers(Math.round(ratio)) : decimal(ratio, ratio < 0.1 ? 3 : 1);
  const times = bound ? t(bound, { number }) : number;
  return t("evidence.ratio", { times, people, searched });
}

function visitsOf(search, crops) {
  const { results, uncertain, removed } = search.visits;
  return [
    confirmedIn(search).length === 0 && h("div", { class: "pair" }, queryFigure(search, crops)),
    h(
      "ol",
      { class: "pairs visits-of", "aria-label": t("evidence.visits") },
      [...results, ...uncertain].map((visit) => h("li", { class: "pair" }, visitFigure(visit))),
    ),
    removed > 0 && h("p", { class: "note" }, t("evidence.visits_deleted", { count: removed })),
  ];
}

function visitFigure(visit) {
  const { camera, crop_ids: ids, crops, identity, needed, probability, verdict } = visit;
  const [reached, required] = sharesOf(visit, needed);
  return h(
    "figure",
    {},
    picture(visit.image_url, t("picture.of", { name: nameOf(identity) })),
    h(
      "figcaption",
      {},
      h("b", { class: "name" }, nameOf(identity)),
      h("span", {}, verdictChip(verdict), " ", reached),
      probability < needed && h("span", {}, t("visits.needs", { needed: required })),
      h("span", { class: "name" }, camera ?? t("camera.unknown")),
      h(
        "span",
        {},
        period(visit.first_seen, visit.last_seen),
        ", ",
        t("pictures", { count: crops }),
      ),
      h("span", {}, t("evidence.crop", { id: ids[0] })),
      digest(visit.sent_sha256),
    ),
  );
}
