// Verdicts that differ from those of the same search at another time, and what changed meanwhile.

import { ask } from "./api.js";
import { CLOCK, h, isToday, moment, sharesOf } from "./elements.js";
import { gallery, inGallery } from "./place.js";
import { inList, LOCALE, t, textNodes } from "./texts.js";

// Fields of a search that do not change its verdict.
const BESIDE = new Set(["purpose", "keep", "keep_picture", "mode", "top_k", "group_by", "order"]);
// A picture that finds itself, as it was enrolled since, says nothing about the verdict.
const SAME_PICTURE = 0.999;
// Problems of a search that was not kept whole, or whose crop is deleted.
const UNREPEATABLE = new Set([404, 422]);
const DATED = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });
const KEYS = { crops: "pictures", people: "people" };
// The last judgement of each search of this tab, and the former one of another verdict.
const judgements = new Map();
// Today's answers to kept searches, by id, with the thresholds that they were judged by.
const repeated = new Map();
let comparing = Promise.resolve();

// Return the last judgement of the same search in this tab that had another verdict, or null.
export async function formerJudgement(fields, shots, answer) {
  const now = judgementOf(answer);
  if (!now.best) return null;
  const sent = [...fields].filter(([name]) => name !== "images" && !BESIDE.has(name));
  const pictures = await Promise.all(shots.map(({ blob }) => blob && fingerprint(blob)));
  const key = JSON.stringify([gallery(), sent, pictures]);
  const last = judgements.get(key);
  const former = (last?.now.verdict === now.verdict ? last.former : last?.now) ?? null;
  judgements.set(key, { now, former });
  return former;
}

function judgementOf({ verdict, needed, results: [best], calibration, model, ...answer }) {
  const { gallery_version: version, crops_searched: crops, people_searched: people } = answer;
  return { verdict, needed, best, calibration, version, model, crops, people };
}

// Return FNV-1a of a picture. Browsers offer better digests only over HTTPS.
async function fingerprint(blob) {
  let hash = 0x811c9dc5;
  for (const byte of new Uint8Array(await blob.arrayBuffer()))
    hash = Math.imul(hash ^ byte, 0x01000193);
  return `${blob.size}-${hash}`;
}

// Say that the verdict of an answer is another than before.
export function changedBefore(answer, former) {
  return (
    former &&
    h(
      "p",
      { class: "note" },
      causeOf(former, judgementOf(answer)),
      " ",
      t("judgement.before", {
        judgement: wordsOf({ ...former.best, verdict: former.verdict }, former.needed),
      }),
    )
  );
}

// Return a sentence on today's verdict of a kept search. It is hidden until it is known to differ.
export function changedSince({ answer, kept }) {
  const place = h("p", { class: "note since", hidden: true });
  todaysAnswer({ ...kept, answer }, place).then((today) => {
    const said = today && !today.isSame && sentenceOf(kept, answer, today);
    if (!said) return;
    place.append(...said);
    place.hidden = false;
  });
  return place;
}

// Resolve to today's answer to a kept search as `answer`, which is null if the search cannot be
// repeated. With `isSame` it was not repeated, as its thresholds are those of its time. Resolve to
// null if `place`, which shows it, has left the page, or if nothing can be said of today.
export function todaysAnswer(search, place) {
  const name = gallery();
  // One after another: a case may have many searches, which would hold up those of other users.
  const asked = comparing.then(async () => {
    // The page is drawn, or was left meanwhile.
    await new Promise((resolve) => setTimeout(resolve));
    return place.isConnected && gallery() === name ? readToday(search) : null;
  });
  const settled = asked.catch(() => null);
  comparing = settled;
  return settled;
}

// Resolve when today's answers to all searches that are shown are known.
export async function allCompared() {
  await comparing;
  // What follows a comparison is drawn.
  await new Promise((resolve) => setTimeout(resolve));
}

async function readToday({ query_id: id, answer }) {
  const { calibration, version } = await ask(inGallery(""));
  const now = calibration.scorings[answer.scoring];
  if (!now || answer.results.length === 0) return null;
  const thresholds = thresholdsOf(now, version);
  if (thresholds === thresholdsOf(answer.calibration, answer.gallery_version))
    return { isSame: true };
  if (repeated.get(id)?.thresholds !== thresholds) {
    // A search of which not all was kept cannot be repeated.
    const today = await ask(inGallery(`/queries/${id}/today`)).catch((error) => {
      if (UNREPEATABLE.has(error.status)) return null;
      throw error;
    });
    repeated.set(id, { thresholds, answer: today, calibration: now, version });
  }
  return repeated.get(id);
}

// Say why the answers to a kept search then and today differ.
export const causeSince = (answer, today) => causeOf(judgementOf(answer), judgementOf(today));

function sentenceOf(kept, answer, today) {
  const then = judgementOf(answer);
  const ofItsTime = [...textNodes("judgement.of_time", { time: moment(kept.created_at) }), " "];
  if (!today.answer) {
    const { calibration, version } = today;
    const cause = causeOf(then, { ...then, calibration, version });
    return [...ofItsTime, cause, " ", t("judgement.today_unknown")];
  }
  const now = judgementOf(today.answer);
  const { best, needed, verdict } = now;
  if (verdict === then.verdict || !best || best.cosine > SAME_PICTURE) return null;
  const key = best.crop_id === then.best.crop_id ? "judgement.today" : "judgement.today_other";
  return [
    ...ofItsTime,
    t(key, { judgement: wordsOf({ ...best, verdict }, needed) }),
    " ",
    causeOf(then, now),
  ];
}

// Among few people the thresholds depend on how many people and pictures there are.
const thresholdsOf = ({ version, reason }, galleryVersion) =>
  reason === "few_identities" ? `${version} ${galleryVersion}` : version;

// Say the verdict and the probability of a result, and what an uncertain one missed.
export function wordsOf({ verdict, probability }, needed) {
  const word = t(`judgement.${verdict ?? "none"}`);
  if (probability === null) return word;
  const [reached, required] = sharesOf({ verdict, probability }, needed);
  const key = required === null ? "judgement.with" : "judgement.missed";
  return t(key, { verdict: word, probability: reached, needed: required });
}

// Say what changed between two judgements of a search.
function causeOf(before, now) {
  if (before.model !== now.model) return t("cause.model");
  const growth = growthOf(before, now);
  const causes = [
    growth && t("cause.since", { growth }),
    adjustmentOf(before.calibration, now.calibration),
  ];
  return causes.filter(Boolean).join(" ") || t("cause.gallery");
}

// Say how the thresholds were adjusted between two searches, or return null.
function adjustmentOf(before, now) {
  if (before.version === now.version) return null;
  if (!now.date) return t("cause.not_adjusted");
  const time = timeOf(now.date);
  if (!before.date) return t("cause.adjusted_first", { time });
  const searches = now.searches - before.searches;
  if (searches <= 0) return t("cause.adjusted", { time });
  return t("cause.adjusted_after", { time, searches: t("growth.searches", { count: searches }) });
}

function timeOf(date) {
  const at = new Date(date);
  return isToday(at)
    ? t("time.at", { time: CLOCK.format(at) })
    : t("time.on", { time: DATED.format(at) });
}

// Say by how many pictures and people more or fewer the second search searched.
function growthOf(before, now) {
  const changes = ["crops", "people"].map((name) => [now[name] - before[name], name]);
  const parts = [
    ["growth.added", changes.filter(([number]) => number > 0)],
    ["growth.removed", changes.filter(([number]) => number < 0)],
  ]
    .filter(([, changed]) => changed.length > 0)
    .map(([done, changed]) => {
      const numbers = changed.map(([number]) => Math.abs(number));
      const what = inList(changed.map(([, name], at) => t(KEYS[name], { count: numbers[at] })));
      // The verb is singular for one thing alone.
      return t(done, { what, count: numbers.reduce((sum, number) => sum + number) });
    });
  return inList(parts);
}
