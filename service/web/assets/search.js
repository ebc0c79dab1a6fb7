// The search form: a query by images, or by a crop or a track of the gallery.

import { ask, blobOf, formOf, Problem } from "./api.js";
import { askForBoxes, takePeople } from "./boxes.js";
import { cameraFields, chooseCameras, startCameras, validTimes } from "./cameras.js";
import { attempt, find, h, localTime, nameOf, shotPicture, takeFiles } from "./elements.js";
import { clearMarks, decisionsSent } from "./judge.js";
import { mySearches } from "./kept.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";
import { showAcross, showAnswers } from "./results.js";
import { askIfSeen } from "./seen.js";
import { t } from "./texts.js";
import { trackName } from "./tracks.js";
import { formerJudgement } from "./verdicts.js";

const SAMPLES = 20;
// Shots are {blob}, or {url, crop} or {url, track} of the gallery.
let shots = [];
let running = null;
let timesChanged = false;
// Searches that the panel shows.
let shown = [];
let stale = false;
let before = "";
// The kept search in the address that the last search takes the place of.
let replaced = null;
// How often in a row the last search failed because the service was away.
let unanswered = 0;

export function startSearch() {
  const form = find("#query");
  takeFiles(form.querySelector(".drop"), (files) => takeImages(files));
  takeFiles(form.querySelector(".more"), (files) => addImages(files));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  form.addEventListener("change", ({ target: { name } }) => {
    // Browsers report each part of a date field as a change.
    if (name.startsWith("captured_")) timesChanged = true;
    else if (name && name !== "purpose") run();
  });
  form.addEventListener("focusout", ({ target: { name } }) => {
    if (name?.startsWith("captured_") && timesChanged) run();
  });
  form.addEventListener("click", ({ target }) => {
    const details = target.closest("summary")?.parentElement;
    // The click opens or closes the fields after its listeners.
    if (details) setTimeout(() => details.open && revealFields(details));
  });
  find("#clear").addEventListener("click", () => setShots([]));
  const take = (transfer) => {
    const files = [...transfer.files].filter((file) => file.type.startsWith("image/"));
    if (panel() === "search" && files.length > 0) takeImages(files);
  };
  document.addEventListener("paste", (event) => take(event.clipboardData));
  // Accept drops everywhere: the browser would otherwise leave the page and open the file.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!event.defaultPrevented) take(event.dataTransfer);
    event.preventDefault();
  });
  document.addEventListener("more-like", (event) =>
    setShots([{ url: event.detail.image_url, crop: event.detail }]),
  );
  document.addEventListener("search-track", (event) =>
    setShots([{ url: event.detail.image_url, track: event.detail }]),
  );
  document.addEventListener("gallery-changed", () => {
    stale = true;
    if (panel() === "search") refresh();
  });
  document.addEventListener("galleries-read", ({ detail }) =>
    offerGalleries(detail.map((summary) => summary.name)),
  );
  document.addEventListener("gallery-chosen", () => {
    form.elements.galleries.selectedIndex = -1;
    shown = [];
    const own = shots.filter((shot) => shot.blob);
    if (panel() !== "search") {
      // Other panels lead through galleries in which nobody asked for a search.
      running?.abort();
      drawShots(own);
      stale = true;
    } else if (item()) drawShots([]);
    else setShots(own);
  });
  find("#been-here").addEventListener("click", () =>
    askIfSeen(areSeveral() ? [] : shots, form.elements.purpose.value),
  );
  document.addEventListener("panel-shown", follow);
  startCameras(run);
}

// Offer the other galleries that can be searched too.
function offerGalleries(names) {
  const others = names.filter((name) => name !== gallery());
  const chosen = alsoSearched();
  find("#also").hidden = others.length === 0;
  find("#query").elements.galleries.replaceChildren(
    ...others.map((name) => new Option(name, name, false, chosen.includes(name))),
  );
}

const alsoSearched = () =>
  [...find("#query").elements.galleries.selectedOptions].map(({ value }) => value);

// Return the ids of searches for the address. A search that is not kept has none.
const addressed = (searches) => searches.flatMap(({ kept }) => kept?.query_id ?? []).join(".");

// Show the kept searches that the address names, or the form for a new one.
function follow() {
  const from = before;
  const id = addressed(shown);
  before = panel();
  if (panel() !== "search") return;
  if (item() !== replaced) replaced = null;
  if (item() && item() !== id && !replaced) open(item());
  else if (!item() && id && from === "search") setShots([]);
  else {
    if (item() !== id && !replaced)
      history.replaceState(null, "", addressOf(gallery(), "search", id));
    if (stale || (shown.length === 0 && shots.length === 0)) refresh();
  }
}

// Open kept searches again with current names, and run the others again. A search that failed while
// the service was away is repeated once: it may be why the service broke off.
function refresh() {
  stale = false;
  const id = item();
  if (id && id !== replaced) open(id, addressed(shown) === id ? shown : undefined);
  else if (unanswered < 2) run({ repeated: true });
}

// `searches` are those of the address, with the images of their queries if this tab has them.
async function open(
  id,
  searches = id.split(".").map((queryId) => ({ kept: { query_id: queryId } })),
) {
  running?.abort();
  unanswered = 0;
  const place = find("#answer");
  await attempt(place, async () => {
    const found = await Promise.all(
      searches.map((search) =>
        search.kept ? reopened(search).catch((problem) => ({ ...search, problem })) : search,
      ),
    );
    if (item() !== id) return;
    const first = found.find((search) => search.answer);
    if (!first) {
      shown = [];
      place.replaceChildren(mySearches());
      throw found[0].problem;
    }
    const fresh = !searches.some((search) => search.shots);
    if (fresh) fill({ ...first.kept.request, scoring: first.answer.scoring });
    drawShots(found.flatMap((search) => search.shots ?? []));
    if (fresh && found.length === 1 && fitsForm(first))
      await formerJudgement(fields(), shots, first.answer);
    display(found);
    if (fresh) reveal(place);
  });
}

async function reopened({ kept: { query_id: id }, shots: sentShots, former = null }) {
  await decisionsSent();
  const kept = await ask(inGallery(`/queries/${encodeURIComponent(id)}`));
  return {
    answer: kept.answer,
    shots: sentShots ?? (await imagesOf(kept)),
    point: kept.request.operating_point ?? "far_1e-2",
    kept,
    former,
  };
}

async function imagesOf({ image_url: image, crop_id: id, request }) {
  if (image) return [{ blob: await blobOf(image) }];
  // A search for visits may be by a crop of another gallery, which this form cannot send.
  if (request.gallery && request.gallery !== gallery()) return [];
  const crop = id && (await ask(inGallery(`/crops/${encodeURIComponent(id)}`)).catch(() => null));
  if (request.track) return [{ url: crop?.image_url, track: request }];
  return crop ? [{ url: crop.image_url, crop }] : [];
}

// Fill the form with the fields of a kept search.
function fill(request) {
  const form = find("#query");
  form.reset();
  for (const [name, value] of Object.entries(request)) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = Boolean(value);
    else if (field.type === "datetime-local") field.value = localTime(new Date(value));
    else if (value !== null && isOffered(field, value)) field.value = value;
  }
  form.elements.scoring.dataset.chosen = "yes";
  chooseCameras(request.cameras ?? [], request.exclude_cameras ?? []);
}

// A search for visits looks at more crops than the form offers.
const isOffered = ({ options }, value) =>
  !options || [...options].some((option) => option.value === String(value));

// Whether the form sends the same search again.
function fitsForm({ kept: { request }, shots: searchedBy }) {
  const { elements } = find("#query");
  const others = ["images", "track", "cameras", "exclude_cameras"];
  const offered = Object.keys(request).every((name) => elements[name] || others.includes(name));
  return offered && searchedBy.length === Math.max(1, request.images);
}

function display(searches) {
  shown = searches;
  replaced = null;
  showAnswers(find("#answer"), searches);
  const id = addressed(searches);
  if (panel() === "search" && item() !== id)
    history.pushState(null, "", addressOf(gallery(), "search", id));
}

// On a phone, scroll to the answer below the form.
function reveal(place) {
  if (place.getBoundingClientRect().top > innerHeight / 2) place.scrollIntoView();
}

// The form leaves its place beside scrolled results when fields are opened.
function revealFields(details) {
  const { top } = details.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) details.scrollIntoView({ block: "nearest" });
}

function setShots(next) {
  shown = [];
  drawShots(next);
  run({ scroll: true });
}

function drawShots(next) {
  shots = next;
  find("#shots").hidden = shots.length === 0;
  find("#mode").hidden = shots.length < 2;
  find(".shots").replaceChildren(
    ...shots.map((shot, at) =>
      h(
        "li",
        {},
        shotPicture(
          shot,
          shot.blob ? t("search.picture", { number: at + 1 }) : t("search.picture_of_query"),
        ),
        shot.crop && h("span", { class: "name" }, nameOf(shot.crop.identity)),
        shot.track && h("span", { class: "name" }, trackName(shot.track)),
        shot.blob &&
          h(
            "button",
            {
              type: "button",
              class: "quiet",
              "aria-label": t("search.draw_boxes", { number: at + 1 }),
              onclick: () => drawBoxes(shot),
            },
            t("search.boxes"),
          ),
        h(
          "button",
          {
            type: "button",
            class: "remove",
            "aria-label": t("search.remove", { number: at + 1 }),
            onclick: () => setShots(shots.filter((other) => other !== shot)),
          },
          "×",
        ),
      ),
    ),
  );
}

// Whether the pictures show several people, each of whom is a search.
const areSeveral = () => shots.length > 1 && find("#query").elements.mode.value === "separate";

// Several pictures show one person, unless the form says otherwise.
const takeTogether = (files) =>
  takePeople(
    files,
    find("#looking"),
    find("#query").elements.mode.value === "separate"
      ? {}
      : { single: true, each: t("boxes.one_person") },
  );

// Search for nobody on a photo before people are chosen, each a separate search.
async function takeImages(files) {
  if (files.length > 1) {
    const people = await takeTogether(files);
    if (people !== null) setShots(people);
  } else {
    const people = await takePeople(files, find("#looking"));
    if (people !== null) setPeople(people);
  }
}

async function addImages(files) {
  const people = await takeTogether(files);
  if (people !== null) setShots([...shots.filter((shot) => shot.blob), ...people]);
}

// Search separately for the people of one photo.
function setPeople(people, others = []) {
  if (people.length > 1) find("#query").elements.mode.value = "separate";
  setShots([...others, ...people]);
}

// Replace the picture by the people in its boxes.
async function drawBoxes(shot) {
  const frame = shot.frame ?? shot.blob;
  const files = await askForBoxes(frame);
  if (files === null) return;
  const people = files.map((blob) => ({ blob, frame }));
  setPeople(
    people,
    shots.filter((other) => other !== shot),
  );
}

function fields() {
  const pairs = [...new FormData(find("#query"))].map(([name, value]) => [
    name,
    value && name.startsWith("captured_") ? new Date(value).toISOString() : value,
  ]);
  const { crop, track } = shots[0];
  // Track ids are unique only within a camera.
  const across = alsoSearched().length > 0;
  // A kept search may be printed in a case, where appearance alone counts.
  const follows = !find("#follow").hidden && find("#query").elements.follow_times.checked;
  const unsent = [
    "follow_times",
    shots.length < 2 && "mode",
    (crop || track || across || follows) && "keep_picture",
    track && "camera",
  ];
  const place = across
    ? [
        ["galleries", gallery()],
        ["gallery", crop || track ? gallery() : ""],
      ]
    : follows
      ? []
      : [["keep", "true"]];
  const asked = crop
    ? [["crop_id", crop.crop_id]]
    : track
      ? [
          ["track", track.track],
          ["camera", track.camera ?? ""],
        ]
      : shots.map((shot) => ["images", shot.blob]);
  return formOf([
    ...pairs.filter(([name]) => !unsent.includes(name)),
    ...cameraFields(),
    ...place,
    ...asked,
  ]);
}

// Return the kept search of a new answer, which has no reviews yet, or null.
const keptOf = ({ query_id: id }) => (id ? { query_id: id, reviews: [], case_ids: [] } : null);

// Suggest the first step. In an empty gallery nothing can be found.
function beginning() {
  const place = h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, t("search.begin")),
    h("p", {}, t("search.begin.hint")),
  );
  if (gallery()) {
    ask(inGallery("")).then(
      ({ crops }) => {
        if (crops > 0)
          place.append(
            h(
              "p",
              { class: "row sample" },
              t("search.no_picture"),
              h("button", { type: "button", onclick: searchWithSample }, t("search.sample")),
            ),
          );
        else
          place.replaceChildren(
            h("p", { class: "big" }, t("search.empty")),
            h("p", {}, t("search.empty.hint")),
            h(
              "p",
              {},
              h(
                "a",
                { class: "button main", href: addressOf(gallery(), "enroll") },
                t("enroll.pictures"),
              ),
            ),
          );
      },
      () => undefined,
    );
  }
  return place;
}

// Search by an enrolled picture: of the person who has most of them, if any picture has a name.
async function searchWithSample() {
  const sample = await attempt(find("#answer"), async () => {
    const [person] = (await ask(inGallery("/identities?sort=crops&limit=1"))).results;
    const asked = new URLSearchParams({
      limit: SAMPLES,
      ...(person && { identity: person.identity }),
    });
    const crops = (await ask(inGallery(`/crops?${asked}`))).results;
    return crops.find((crop) => crop.image_url) ?? crops[0];
  });
  if (sample) setShots([{ url: sample.image_url, crop: sample }]);
}

async function run({ scroll = false, repeated = false } = {}) {
  if (!validTimes()) return;
  timesChanged = false;
  running?.abort();
  replaced = null;
  if (!repeated) unanswered = 0;
  const place = find("#answer");
  if (shots.length === 0) {
    // Keep showing a kept search without a picture.
    if (addressed(shown)) return;
    shown = [];
    if (panel() === "search" && item()) history.pushState(null, "", addressOf(gallery(), "search"));
    place.removeAttribute("aria-busy");
    clearMarks();
    place.replaceChildren(beginning(), mySearches());
    return;
  }
  const request = (running = new AbortController());
  const asked = shots;
  replaced = item() || null;
  await attempt(place, async () => {
    const body = fields();
    const options = { method: "POST", body, signal: request.signal };
    // A refused search removes the earlier answer.
    const across = alsoSearched().length > 0;
    const path = across ? "/v1/queries" : inGallery("/queries");
    const answer = await ask(path, options).catch((error) => {
      if (error.name !== "AbortError") {
        shown = [];
        place.replaceChildren();
      }
      if (error.isAway) unanswered += 1;
      error.names = asked.map(({ blob, frame }) => (frame ?? blob)?.name);
      throw error;
    });
    unanswered = 0;
    const point = find("#query").elements.operating_point.value;
    const searched = async (result, sentShots) => ({
      answer: result,
      shots: sentShots,
      point,
      kept: keptOf(result),
      former: await formerJudgement(body, sentShots, result),
    });
    if (across) {
      shown = [];
      replaced = null;
      if (panel() === "search" && item())
        history.pushState(null, "", addressOf(gallery(), "search"));
      showAcross(place, answer.galleries ? [answer] : answer.results, asked);
    } else {
      const searches = await Promise.all(
        answer.verdict
          ? [searched(answer, asked)]
          : answer.results.map((result, at) =>
              result.problem
                ? {
                    problem: new Problem(result.problem.status, result.problem),
                    shots: [asked[at]],
                  }
                : searched(result, [asked[at]]),
            ),
      );
      // The pictures may have changed while they were compared with those of earlier searches.
      if (request.signal.aborted) return;
      display(searches);
    }
    if (scroll) reveal(place);
    // A banner without results may be out of sight beside a scrolled form.
    if (!place.querySelector(".card")) place.firstChild.scrollIntoView({ block: "nearest" });
    document.dispatchEvent(new Event("searched"));
  });
}
