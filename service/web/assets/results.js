// The answer to a search: the verdict, then the crops by rank.

import { openCrop } from "./crop.js";
import {
  count, decimal, h, moment, nameOf, percent, picture, pictureOf, problemOf, verdictChip, verdictSign,
} from "./elements.js";

const STRANGERS = { "far_1e-1": "1 in 10", "far_1e-2": "1 in 100", "far_1e-3": "1 in 1,000" };
// Query images beside the verdict where the form is not visible.
const SHOTS_BESIDE = 2;
const STALE = "The database does not answer. These results may be out of date, and images may be missing.";
const HEADS = {
  match: (best) => ["Match: ", who(best)],
  uncertain: (best) => ["Uncertain: perhaps ", who(best)],
  no_match: () => ["No match in this gallery"],
  nothing_searched: () => ["Nothing was searched"],
};

// `answer` is one ranking, or with mode=separate one per image.
export function showAnswers(place, answer, shots, point) {
  if (answer.verdict) {
    place.replaceChildren(...ranking(answer, shots, point));
    return;
  }
  place.replaceChildren(...answer.results.map((one, at) => h("section", { class: "each" },
    h("h2", { class: "row" }, pictureOf(shots[at].blob, ""), `Image ${at + 1}`),
    one.problem ? problemOf(new Error(one.problem.detail)) : ranking(one, [shots[at]], point))));
}

function ranking(answer, shots, point) {
  const cards = answer.results.map((one) => h("li", {}, card(one, shots)));
  return [banner(answer, shots, point), h("ol", { class: "cards", "aria-label": "Results" }, cards)];
}

function banner(answer, shots, point) {
  const best = answer.results[0];
  const summary = !best ? "The gallery is empty, or none of its crops passes the filters."
    : answer.verdict === "no_match" ? "No crop is similar enough. The most similar crops follow."
      : `The best crop shows the same person with a probability of ${percent(best.probability)}.`;
  return h("div", { class: `banner ${answer.verdict}`, role: "status" }, verdictSign(answer.verdict),
    h("div", { class: "asked", "aria-hidden": "true" }, shots.slice(0, SHOTS_BESIDE).map((one) =>
      one.blob ? pictureOf(one.blob, "") : picture(one.crop.image_url, ""))),
    h("div", {}, h("h2", {}, HEADS[answer.verdict](best)), h("p", {}, summary),
      answer.warnings.map((warning) => h("p", { class: "note" }, `⚠ ${sentence(warning)}`)),
      answer.stale && h("p", { class: "stale" }, STALE),
      best && h("p", { class: "hint" }, `About ${STRANGERS[point]} searches for people who are not enrolled is answered “match”. ${answer.calibration.basis} `,
        `${count(answer.candidates_scored, "crop")} scored · ${answer.timing_ms.total.toFixed(0)} ms`)));
}

function card(one, shots) {
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${100 * (one.probability ?? 0)}%`;
  return h("button", { type: "button", class: `card ${one.verdict ?? "unscored"}`, onclick: () => openCrop(one.crop_id, shots, one) },
    h("span", { class: "rank" }, h("span", { class: "unseen" }, "rank "), one.rank),
    picture(one.image_url, `Crop of ${nameOf(one.identity)}`),
    h("span", { class: "about" }, verdictChip(one.verdict), h("b", {}, name(one)),
      h("span", { class: "name" }, one.camera ?? "camera unknown"), h("span", {}, moment(one.captured_at)),
      one.external_id !== null && h("span", {}, "your id ", h("span", { class: "name" }, one.external_id)), bar,
      h("span", { class: "figures" }, figure("probability", percent(one.probability)),
        figure("cosine", decimal(one.cosine, 3)), figure("logit", decimal(one.pair_logit, 2)))));
}

const name = (one) => h("span", { class: "name" }, nameOf(one.identity));
const who = (one) => (one.identity === null ? "a crop without a name" : name(one));
const sentence = (text) => text[0].toUpperCase() + text.slice(1);
const figure = (label, value) => h("span", {}, h("span", {}, label), " ", h("b", {}, value));
