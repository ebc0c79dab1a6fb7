// The answer to a search: the verdict, then the crops by rank.

import { ask, Problem } from "./api.js";
import { clearFilters, filtered } from "./cameras.js";
import { askForCase } from "./cases.js";
import { openCrop } from "./crop.js";
import {
  decimal,
  h,
  missedBy,
  nameOf,
  percent,
  problemOf,
  sentence,
  sharesOf,
  shotPicture,
  thumbnail,
  verdictChip,
  verdictSign,
  whereAndWhen,
} from "./elements.js";
import { clearMarks, judging } from "./judge.js";
import { keptTools } from "./kept.js";
import { act } from "./naming.js";
import { addressOf, gallery, inGallery } from "./place.js";
import { t, textNodes } from "./texts.js";
import { basisOf } from "./thresholds.js";
import { changedBefore, changedSince } from "./verdicts.js";
import { answerElements } from "./visits.js";

// Number of query images beside the verdict, where the form is not visible.
const SHOTS_BESIDE = 2;
const HEADS = {
  match: (best) => textNodes("answer.match", { who: who(best) }),
  uncertain: (best) => textNodes("answer.uncertain", { who: who(best) }),
  no_match: () => [t("answer.no_match")],
  nothing_searched: () => [t("answer.nothing_searched")],
};
const SUMMARIES = {
  match: ({ probability }) =>
    t("answer.match.summary", { probability: percent(probability, true) }),
  uncertain: ({ probability: reached }, required) => {
    const [probability, needed] = missedBy(reached, required);
    return t("answer.uncertain.summary", { probability, needed });
  },
  no_match: () => t("answer.no_match.summary"),
  nothing_searched: () => "",
};

// Searches are {answer, shots, point, kept, former} or {problem, shots}. There are several with
// mode=separate. `former` is the judgement of the same search in this tab that differs, or null.
export function showAnswers(place, searches) {
  showEach(
    place,
    searches,
    (search, index) => [search.shots?.map((shot) => shotPicture(shot)), titleOf(search, index)],
    (search) => (search.problem ? [problemOf(search.problem)] : ranking(search)),
  );
}

// Show rankings of several galleries: one, or with mode=separate one for each shot.
export function showAcross(place, answers, shots) {
  showEach(
    place,
    answers,
    (_, index) => [shotPicture(shots[index]), t("results.image", { number: index + 1 })],
    ({ problem, ...answer }) =>
      problem ? [problemOf(new Problem(problem.status, problem))] : rankingAcross(answer),
  );
}

// Show a single answer as it is, and each of several in a section with a heading.
function showEach(place, answers, heading, contents) {
  clearMarks();
  const shown =
    answers.length === 1
      ? contents(answers[0])
      : answers.map((answer, index) =>
          h(
            "section",
            { class: "each" },
            h("h2", { class: "row" }, ...heading(answer, index)),
            contents(answer),
          ),
        );
  place.replaceChildren(...shown);
}

// A result links to the same search in its gallery.
function rankingAcross({ verdict, results, galleries, warnings }) {
  const [best] = results;
  const neededIn = new Map(galleries.map(({ gallery: name, needed }) => [name, needed]));
  const head = verdict === "no_match" ? [t("answer.no_match_across")] : HEADS[verdict](best);
  return [
    h(
      "div",
      { class: `banner ${verdict}`, role: "status" },
      verdictSign(verdict),
      h(
        "div",
        {},
        h("h2", {}, head),
        h("p", {}, t("results.across", { number: galleries.length })),
        warnings.map(warningNote),
      ),
    ),
    h(
      "ol",
      { class: "cards", "aria-label": t("results") },
      results.map((result) =>
        h(
          "li",
          { class: `card ${result.verdict ?? "unscored"}` },
          h(
            "a",
            {
              class: "open",
              href: addressOf(result.gallery, "search"),
              title: t("results.search_in", { gallery: result.gallery }),
            },
            contents(result, neededIn.get(result.gallery)),
          ),
        ),
      ),
    ),
  ];
}

const titleOf = ({ kept }, at) =>
  kept
    ? h(
        "a",
        { href: addressOf(gallery(), "search", kept.query_id), title: t("results.alone") },
        t("picture.numbered", { number: at + 1 }),
      )
    : t("results.image", { number: at + 1 });

function ranking(search) {
  const cards = search.answer.results.map((result) => card(result, search));
  const visits = visitsOf(search);
  const [head, ...days] = visits ?? [banner(search)];
  return [
    head,
    keptTools(search, addToCase(search)),
    ...days,
    visits && h("h3", {}, t("results")),
    outOfOrder(search.answer.results) && h("p", { class: "hint" }, t("results.order")),
    h("ol", { class: "cards", "aria-label": t("results") }, cards),
  ].filter(Boolean);
}

// Return the elements of a kept search for visits; null for another search, or if none is left.
function visitsOf({ answer, kept, shots }) {
  if (!kept?.visits) return null;
  const { results, uncertain } = kept.visits;
  if (results.length + uncertain.length === 0) return null;
  const verdict = results.length > 0 ? "match" : "uncertain";
  const { captured_after: after, captured_before: before } = kept.request;
  return answerElements(
    { verdict, results, uncertain, incomplete: [], warnings: answer.warnings },
    [{ name: gallery() }],
    { shots, hasTimes: Boolean(after || before) },
  );
}

// Compare what is shown: two probabilities may be equal in words.
function outOfOrder(results) {
  const scored = results.filter(({ probability }) => probability !== null);
  return scored
    .slice(1)
    .some(
      ({ probability }, at) =>
        probability > scored[at].probability &&
        percent(probability) !== percent(scored[at].probability),
    );
}

function addToCase({ kept }) {
  return (
    kept &&
    h(
      "button",
      { type: "button", onclick: () => act(() => askForCase(() => kept.query_id)) },
      t("results.add_to_case"),
    )
  );
}

function banner(search) {
  const { answer, shots, point, kept, former } = search;
  const best = answer.results[0];
  const text = h(
    "div",
    {},
    h("h2", {}, HEADS[answer.verdict](best)),
    h("p", {}, SUMMARIES[answer.verdict](best, answer.needed)),
    changedBefore(answer, former),
    kept?.created_at && changedSince(search),
    answer.warnings.map(warningNote),
  );
  if (best) text.append(basis(answer, point));
  else nextStep(text);
  return h(
    "div",
    { class: `banner ${answer.verdict}`, role: "status" },
    verdictSign(answer.verdict),
    h(
      "div",
      { class: "asked", "aria-hidden": "true" },
      shots.slice(0, SHOTS_BESIDE).map((shot) => shotPicture(shot)),
    ),
    text,
  );
}

function basis(answer, point) {
  return h(
    "details",
    {},
    h("summary", {}, t("results.how")),
    h(
      "p",
      {},
      t("results.compared", {
        count: answer.candidates_scored,
        milliseconds: Math.round(answer.timing_ms.total),
      }),
    ),
    h("p", {}, basisOf(answer.calibration, answer.people_searched)),
    h("p", {}, t("results.accepted", { share: t(`accepted.${point}`) })),
    h("p", {}, t("results.needed", { needed: percent(answer.needed) })),
  );
}

// Explain why nothing was searched, and what to do. The answer does not say it, so ask the gallery.
async function nextStep(text) {
  const place = text.querySelector("p");
  const { crops } = await ask(inGallery("")).catch(() => ({ crops: null }));
  const enroll = h(
    "a",
    { class: "button", href: addressOf(gallery(), "enroll") },
    t("enroll.pictures"),
  );
  const clear = h("button", { type: "button", onclick: clearFilters }, t("results.clear_filters"));
  place.className = "row";
  if (crops === 0) place.replaceChildren(t("results.empty"), enroll);
  else if (filtered()) place.replaceChildren(t("results.filtered_out"), clear);
  else place.replaceChildren(t("results.no_other"), enroll);
}

function card(result, search) {
  return h(
    "li",
    { class: `card ${result.verdict ?? "unscored"}`, "data-crop": result.crop_id },
    h(
      "button",
      { type: "button", class: "open", onclick: () => openCrop(result.crop_id, search) },
      contents(result, search.answer.needed),
    ),
    judging(result, search),
  );
}

// `needed` is the probability of a match.
function contents(result, needed) {
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${100 * (result.probability ?? 0)}%`;
  const [probability, required] = sharesOf(result, needed);
  const figures = [
    [t("probability"), result.probability !== null && probability],
    [t("results.match_needs"), required],
    [t("similarity"), decimal(result.cosine, 3)],
    [t("results.time"), "time_log_odds" in result && signed(result.time_log_odds)],
  ];
  return [
    h("span", { class: "rank" }, h("span", { class: "unseen" }, t("rank"), " "), result.rank),
    thumbnail(result.image_url, t("picture.of", { name: nameOf(result.identity) })),
    h(
      "span",
      { class: "about" },
      verdictChip(result.verdict),
      h("b", {}, name(result)),
      result.gallery &&
        h("span", { class: "name" }, t("results.in_gallery", { gallery: result.gallery })),
      whereAndWhen(result),
      result.track !== null &&
        h(
          "span",
          { class: "name" },
          result.crops
            ? t("results.track_of", { track: result.track, count: result.crops })
            : t("results.track", { track: result.track }),
        ),
      result.external_id !== null &&
        h("span", { class: "name", title: t("crop.file") }, result.external_id),
      bar,
      h(
        "span",
        { class: "figures" },
        figures.filter(([, value]) => value).map(([label, value]) => figure(label, value)),
      ),
    ),
  ];
}

// Warnings are the service’s, in English.
const warningNote = (warning) => h("p", { class: "note", lang: "en" }, `⚠ ${sentence(warning)}`);
const name = (result) => h("span", { class: "name" }, nameOf(result.identity));
const who = (result) => (result.identity === null ? t("answer.nobody") : name(result));
const signed = (value) => `${value < 0 ? "−" : "+"}${decimal(Math.abs(value), 1)}`;
const figure = (label, value) => h("span", {}, h("span", {}, label), " ", h("b", {}, value));
