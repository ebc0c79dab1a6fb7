// "Has this person been here before?": a search of what cameras left in the galleries that delete
// their pictures.

import { ask, formOf } from "./api.js";
import { takePeople } from "./boxes.js";
import { WRONG_TIMES } from "./cameras.js";
import { askForCase } from "./cases.js";
import { openCrop, stepsOf } from "./crop.js";
import { attempt, find, h, keptFor, nameOf, onSubmit, shotPicture, takeFiles } from "./elements.js";
import { act } from "./naming.js";
import { addressOf, changed, gallery, item, panel, segment } from "./place.js";
import { inList, t, textNodes } from "./texts.js";
import { trackName } from "./tracks.js";
import { answerElements } from "./visits.js";

// A search has at most so many galleries.
const MOST_GALLERIES = 20;
const MOST_COMPARED = 1000;
// A service of several processes would refuse a search that scores more crops in all galleries.
const MOST_SCORED = 5000;

// Shots are {blob}, or {url, crop, gallery} or {url, track, gallery} of a gallery.
let shots = [];
let known = [];
// Galleries that delete their pictures.
let keeping = [];
let visits = [];
let running = null;
let stale = false;
// How often in a row the last search failed because the service was away.
let unanswered = 0;

const form = () => find("#seen-task form");
const place = () => find("#seen-answer");

export function startSeen() {
  takeFiles(form().querySelector(".drop"), takeImages);
  onSubmit(form(), () => run());
  onSubmit(find("#seen-none form"), makeGallery);
  document.addEventListener("galleries-read", ({ detail }) => offer(detail));
  document.addEventListener("gallery-changed", () => {
    if (shots.length === 0) return;
    if (panel() === "seen") refresh();
    else stale = true;
  });
  document.addEventListener("seen-before", ({ detail }) =>
    askIfSeen([{ url: detail.image_url, crop: detail }]),
  );
  document.addEventListener("panel-shown", follow);
  // The address of the sheet's picture goes when it is closed, so that its link opens it again.
  find("#sheet").addEventListener("close", ({ target }) => {
    if (panel() !== "seen" || !item() || target.open) return;
    const link = place().querySelector(`[data-crop="${CSS.escape(item())}"] .open`);
    history.replaceState(null, "", addressOf(gallery(), "seen"));
    link?.focus();
  });
}

// Show the task, and search for the person on `wanted`, which are of the gallery that is shown.
export function askIfSeen(wanted, purpose = "") {
  const from = gallery();
  location.hash = addressOf(from, "seen");
  form().elements.purpose.value ||= purpose;
  const own = wanted.map((shot) => (shot.blob ? shot : { ...shot, gallery: from }));
  if (own.length > 0 && keeping.length > 0) setShots(own);
}

function follow() {
  if (panel() !== "seen") return;
  find("#seen a").href = addressOf(gallery(), "search");
  const id = item();
  if (id) {
    const visit = visits.find((each) => each.gallery === gallery() && each.crop_ids.includes(id));
    openCrop(id, visit && { ...stepsOf(visit), shots });
  } else if (stale) refresh();
  else if (shots.length === 0) place().replaceChildren(beginning());
}

// Offer the galleries that keep what cameras see, or to make one.
function offer(galleries) {
  const before = keeping.map(({ name }) => name).join();
  known = galleries.map(({ name }) => name);
  keeping = galleries.filter((each) => keptFor(each) !== null);
  find("#seen-none").hidden = keeping.length > 0;
  find("#seen-task").hidden = keeping.length === 0;
  const name = find("#seen-none form").elements.name;
  name.value ||= suggestedName();
  if (panel() === "seen" && shots.length === 0) place().replaceChildren(beginning());
  // Redrawing the check boxes would take the focus away.
  if (before === keeping.map((each) => each.name).join()) return;
  const ticked = searched().map((each) => each.name);
  const fields = form().querySelector("fieldset");
  fields.hidden = keeping.length < 2;
  fields.querySelector(".fields").replaceChildren(
    ...keeping.map((each, at) =>
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          name: "galleries",
          value: each.name,
          checked: ticked.length > 0 ? ticked.includes(each.name) : at < MOST_GALLERIES,
        }),
        h(
          "span",
          {},
          h("span", { class: "name" }, each.name),
          h("span", { class: "hint" }, " ", t("seen.keeps", { time: keptFor(each) })),
        ),
      ),
    ),
  );
}

function suggestedName() {
  const first = t("seen.gallery_name");
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? first : `${first}-${number}`;
    if (!known.includes(name)) return name;
  }
}

const makeGallery = (fields) =>
  attempt(fields, async () => {
    await ask("/v1/galleries", { method: "POST", body: formOf(new FormData(fields)) });
    changed();
  });

function searched() {
  const chosen = new FormData(form()).getAll("galleries");
  return keeping.length === 1 ? keeping : keeping.filter(({ name }) => chosen.includes(name));
}

function beginning() {
  const isEmpty = keeping.every(({ crops }) => crops === 0);
  const names = inList(keeping.map(({ name }) => name));
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, t(isEmpty ? "seen.no_pictures" : "seen.drop")),
    h(
      "p",
      {},
      isEmpty
        ? textNodes("seen.no_pictures.hint", {
            galleries: names,
            link: h("a", { href: "/docs#/crops/enroll_crops" }, t("seen.how")),
          })
        : t("seen.drop.hint"),
    ),
  );
}

// Search for nobody on a photo before the person is chosen.
async function takeImages(files) {
  const options = { single: true, each: t("boxes.one_person") };
  const people = await takePeople(files, form().querySelector("[role=status]"), options);
  if (people !== null) setShots(people);
}

function setShots(next) {
  shots = next;
  const list = form().querySelector(".shots");
  list.hidden = shots.length === 0;
  list.replaceChildren(
    ...shots.map((shot, at) =>
      h(
        "li",
        {},
        shotPicture(shot, t("seen.picture", { number: at + 1 })),
        shot.crop && h("span", { class: "name" }, nameOf(shot.crop.identity)),
        shot.track && h("span", { class: "name" }, trackName(shot.track)),
        h(
          "button",
          {
            type: "button",
            class: "remove",
            "aria-label": t("seen.remove", { number: at + 1 }),
            onclick: () => setShots(shots.filter((other) => other !== shot)),
          },
          "×",
        ),
      ),
    ),
  );
  visits = [];
  if (shots.length > 0) run({ scroll: true });
  else {
    running?.abort();
    place().removeAttribute("aria-busy");
    place().replaceChildren(beginning());
  }
}

// Return the fields that say who is searched for.
function personFields() {
  const [{ crop, track, gallery: from }] = shots;
  if (crop)
    return [
      ["crop_id", crop.crop_id],
      ["gallery", from],
    ];
  if (track)
    return [
      ["track", track.track],
      ["camera", track.camera ?? ""],
      ["gallery", from],
    ];
  return shots.map(({ blob }) => ["images", blob]);
}

// Return the times of the form as pairs of their names and moments.
function times() {
  const { captured_after: after, captured_before: before } = form().elements;
  if (after.value && before.value && after.value > before.value) throw new Error(WRONG_TIMES);
  return [after, before]
    .filter(({ value }) => value)
    .map(({ name, value }) => [name, new Date(value).toISOString()]);
}

// Search again. A search that failed while the service was away is repeated once: it may be why the
// service broke off.
function refresh() {
  stale = false;
  if (unanswered < 2) run({ repeated: true });
}

// Search. Nothing is kept before the answer is added to a case.
async function run({ scroll = false, repeated = false } = {}) {
  stale = false;
  running?.abort();
  if (!repeated) unanswered = 0;
  const request = (running = new AbortController());
  const galleries = searched();
  await attempt(place(), async () => {
    if (shots.length === 0) throw new Error(t("seen.need_picture"));
    if (galleries.length === 0) throw new Error(t("seen.need_gallery"));
    if (galleries.length > MOST_GALLERIES)
      throw new Error(t("seen.most_galleries", { number: MOST_GALLERIES }));
    const chosen = times();
    const most = Math.min(MOST_COMPARED, Math.floor(MOST_SCORED / galleries.length));
    const fields = [
      ["purpose", form().elements.purpose.value],
      ["top_k", most],
      ["rerank_depth", most],
      ...galleries.map(({ name }) => ["galleries", name]),
      ...chosen,
      ...personFields(),
    ];
    const answer = await findVisits(fields, request.signal).catch((error) => {
      // A refused search removes the earlier answer.
      if (error.name !== "AbortError") place().replaceChildren();
      if (error.isAway) unanswered += 1;
      throw error;
    });
    unanswered = 0;
    visits = [...answer.results, ...answer.uncertain];
    const asked = { shots, hasTimes: chosen.length > 0 };
    const shown = answer.verdict === "no_match" ? await withOldest(galleries) : galleries;
    const [banner, ...days] = answerElements(answer, shown, asked);
    place().replaceChildren(banner, caseTools(fields, galleries), ...days);
    // On a phone the answer is below the form.
    if (scroll && place().getBoundingClientRect().top > innerHeight / 2) place().scrollIntoView();
  });
}

const withOldest = (galleries) =>
  Promise.all(galleries.map(async (each) => ({ ...each, since: await oldestIn(each) })));

// Return the time of the oldest picture, which may be older than its gallery.
async function oldestIn({ name, created_at: createdAt }) {
  const asked = new URLSearchParams({ order: "captured", limit: 1 });
  const { results } = await ask(`/v1/galleries/${segment(name)}/crops?${asked}`);
  const [oldest] = results;
  return Date.parse(oldest?.captured_at ?? oldest?.created_at ?? createdAt);
}

const findVisits = (fields, signal) =>
  ask("/v1/visits", { method: "POST", body: formOf(fields), signal });

// Return the buttons that add the visits of a gallery to one of its cases. `fields` are those of the
// search.
function caseTools(fields, galleries) {
  const labelOf = (name) =>
    galleries.length === 1 && name === gallery()
      ? t("results.add_to_case")
      : t("seen.add_gallery", { gallery: name });
  const withVisits = galleries.filter(({ name }) => visits.some((visit) => visit.gallery === name));
  return h(
    "div",
    { class: "row tools" },
    withVisits.map(({ name }) =>
      h(
        "button",
        { type: "button", onclick: () => act(() => askForCase(() => keep(fields, name), name)) },
        labelOf(name),
      ),
    ),
  );
}

// Search once more, keep the search in a gallery, and return its id there.
async function keep(fields, name) {
  const kept = [
    ["keep", "true"],
    ["keep_picture", "true"],
    ["keep_in", name],
  ];
  const { query_ids: ids, warnings } = await findVisits([...fields, ...kept]);
  if (!ids[name]) throw new Error(t("seen.not_kept", { reason: warnings.at(-1) }));
  return ids[name];
}
