// The answer to a search: the verdict, then the crops by rank.

import { ask } from "./api.js";
import { clearFilters, filtered } from "./cameras.js";
import { askForCase } from "./cases.js";
import { openCrop } from "./crop.js";
import {
  count,
  decimal,
  h,
  moment,
  nameOf,
  percent,
  problemOf,
  sentence,
  shotPicture,
  thumbnail,
  verdictChip,
  verdictSign,
} from "./elements.js";
import { clearMarks, judging } from "./judge.js";
import { keptTools } from "./kept.js";
import { act } from "./naming.js";
import { addressOf, gallery, inGallery } from "./place.js";
import { changedBefore, changedSince } from "./verdicts.js";

const STRANGERS = { "far_1e-1": "1 in 10", "far_1e-2": "1 in 100", "far_1e-3": "1 in 1,000" };
// Number of query images beside the verdict, where the form is not visible.
const SHOTS_BESIDE = 2;
const HEADS = {
  match: (best) => ["Match: ", who(best)],
  uncertain: (best) => ["Uncertain: perhaps ", who(best)],
  no_match: () => ["No match in this gallery"],
  nothing_searched: () => ["Nothing was searched"],
};
const SUMMARIES = {
  match: (best) =>
    `The best picture shows the same person with a probability of ${inWords(best.probability)}.`,
  uncertain: (best) =>
    `The best picture shows the same person with a probability of ${inWords(best.probability)}. That is too little for a match here: strangers come that close more often than is accepted. Compare it with the query before you decide.`,
  no_match: () => "No picture is similar enough. The most similar pictures follow.",
  nothing_searched: () => "",
};
const LIMITS = {
  own: ({ basis }) => `${basis} They separate match, uncertain and no match.`,
  frozen: ({ basis }) =>
    `${basis} They separate match, uncertain and no match, and are kept as they are.`,
  artefact: ({ reason }) =>
    `The thresholds between match, uncertain and no match are the model’s own${OWN[reason] ?? ""}.`,
  off: () =>
    "The thresholds between match, uncertain and no match are the model’s own, as this gallery is set up.",
};
const OWN = {
  not_fitted: "; those of this gallery come once it has 18 named people or enough searches",
  few_identities: "; this search covered too few named people for those of the gallery",
  few_scored: "; this search compared too few named people for those of the gallery",
  shallow_search:
    "; this search compared fewer pictures than the thresholds of the gallery are for",
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
    (_, index) => [shotPicture(shots[index]), `Image ${index + 1}`],
    ({ problem, ...answer }) =>
      problem ? [problemOf(new Error(problem.detail))] : rankingAcross(answer),
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
  const head = verdict === "no_match" ? ["No match in these galleries"] : HEADS[verdict](best);
  return [
    h(
      "div",
      { class: `banner ${verdict}`, role: "status" },
      verdictSign(verdict),
      h(
        "div",
        {},
        h("h2", {}, head),
        h(
          "p",
          {},
          `${galleries.length} galleries were searched. Together they accept as many false matches as a search of one.`,
        ),
        warnings.map((warning) => h("p", { class: "note" }, `⚠ ${sentence(warning)}`)),
      ),
    ),
    h(
      "ol",
      { class: "cards", "aria-label": "Results" },
      results.map((result) =>
        h(
          "li",
          { class: `card ${result.verdict ?? "unscored"}` },
          h(
            "a",
            {
              class: "open",
              href: addressOf(result.gallery, "search"),
              title: `Search in ${result.gallery}`,
            },
            contents(result),
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
        { href: addressOf(gallery(), "search", kept.query_id), title: "This search alone" },
        `Picture ${at + 1}`,
      )
    : `Image ${at + 1}`;

function ranking(search) {
  const cards = search.answer.results.map((result) => card(result, search));
  return [
    banner(search),
    keptTools(search, addToCase(search)),
    outOfOrder(search.answer.results) &&
      h(
        "p",
        { class: "hint" },
        "Pictures of one person stand together, so the order is not that of the probability alone.",
      ),
    h("ol", { class: "cards", "aria-label": "Results" }, cards),
  ].filter(Boolean);
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
      { type: "button", onclick: () => act(() => askForCase(kept.query_id)) },
      "Add to a case…",
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
    h("p", {}, SUMMARIES[answer.verdict](best)),
    changedBefore(answer, former),
    kept?.created_at && changedSince(search),
    answer.warnings.map((warning) => h("p", { class: "note" }, `⚠ ${sentence(warning)}`)),
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
    h("summary", {}, "How the verdict comes about"),
    h(
      "p",
      {},
      `The query was compared with ${count(answer.candidates_scored, "picture")} in ${answer.timing_ms.total.toFixed(0)} ms.`,
    ),
    h("p", {}, LIMITS[answer.calibration.state](answer.calibration)),
    h(
      "p",
      {},
      `They accept that about ${STRANGERS[point]} searches for a person who is not in the gallery end with “match”. The field “False matches that are accepted” changes that.`,
    ),
    h(
      "p",
      {},
      "Match, uncertain and no match follow from these thresholds, not from the probability alone: so a result can be uncertain with 91%, or no match with 30%.",
    ),
  );
}

// Explain why nothing was searched, and what to do. The answer does not say it, so ask the gallery.
async function nextStep(text) {
  const place = text.querySelector("p");
  const { crops } = await ask(inGallery("")).catch(() => ({ crops: null }));
  const enroll = h(
    "a",
    { class: "button", href: addressOf(gallery(), "enroll") },
    "Enroll pictures",
  );
  const clear = h("button", { type: "button", onclick: clearFilters }, "Clear the filters");
  place.className = "row";
  if (crops === 0) place.replaceChildren("This gallery is empty.", enroll);
  else if (filtered())
    place.replaceChildren("No picture of the gallery passes the filters.", clear);
  else place.replaceChildren("The gallery has no other picture to compare with.", enroll);
}

function card(result, search) {
  return h(
    "li",
    { class: `card ${result.verdict ?? "unscored"}`, "data-crop": result.crop_id },
    h(
      "button",
      { type: "button", class: "open", onclick: () => openCrop(result.crop_id, search) },
      contents(result),
    ),
    judging(result, search),
  );
}

function contents(result) {
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${100 * (result.probability ?? 0)}%`;
  const figures = [
    ["probability", result.probability !== null && percent(result.probability)],
    ["similarity", decimal(result.cosine, 3)],
    ["time", "time_log_odds" in result && signed(result.time_log_odds)],
  ];
  return [
    h("span", { class: "rank" }, h("span", { class: "unseen" }, "rank "), result.rank),
    thumbnail(result.image_url, `Picture of ${nameOf(result.identity)}`),
    h(
      "span",
      { class: "about" },
      verdictChip(result.verdict),
      h("b", {}, name(result)),
      result.gallery && h("span", { class: "name" }, `in ${result.gallery}`),
      h("span", { class: "name" }, result.camera ?? "camera unknown"),
      h("span", {}, moment(result.captured_at)),
      result.track !== null &&
        h(
          "span",
          { class: "name" },
          `Track ${result.track}`,
          result.crops && ` of ${count(result.crops, "picture")}`,
        ),
      result.external_id !== null &&
        h("span", { class: "name", title: "File or your id" }, result.external_id),
      bar,
      h(
        "span",
        { class: "figures" },
        figures.filter(([, value]) => value).map(([label, value]) => figure(label, value)),
      ),
    ),
  ];
}

function inWords(share) {
  return percent(share).replace("> ", "more than ").replace("< ", "less than ");
}

const name = (result) => h("span", { class: "name" }, nameOf(result.identity));
const who = (result) => (result.identity === null ? "a picture without a name" : name(result));
const signed = (value) => `${value < 0 ? "−" : "+"}${decimal(Math.abs(value), 1)}`;
const figure = (label, value) => h("span", {}, h("span", {}, label), " ", h("b", {}, value));
