// The search form: a query by images, or by a crop or a track of the gallery.

import { ask, blobOf, formOf } from "./api.js";
import { askForBoxes, isFrame } from "./boxes.js";
import { cameraFields, chooseCameras, startCameras, validTimes } from "./cameras.js";
import { attempt, find, h, nameOf, shotPicture, takeFiles } from "./elements.js";
import { clearMarks } from "./judge.js";
import { mySearches } from "./kept.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";
import { showAcross, showAnswers } from "./results.js";
import { trackName } from "./tracks.js";

// A shot is {blob}, or {url, crop} or {url, track} of the gallery.
let shots = [];
let running = null;
let timesChanged = false;
// The searches that the panel shows, whether their names may have changed since, and the panel before.
let shown = [];
let stale = false;
let before = "";

export function startSearch() {
  const form = find("#query");
  takeFiles(form.querySelector(".drop"), (files) => takeImages(files));
  takeFiles(form.querySelector(".more"), (files) =>
    setShots([...shots.filter((one) => one.blob), ...files.map((blob) => ({ blob }))]));
  form.addEventListener("submit", (event) => { event.preventDefault(); run(); });
  form.addEventListener("change", ({ target: { name } }) => {
    // A browser reports each part of a moment as a change.
    if (name.startsWith("captured_")) timesChanged = true;
    else if (name && name !== "purpose") run();
  });
  form.addEventListener("focusout", ({ target: { name } }) => { if (name?.startsWith("captured_") && timesChanged) run(); });
  find("#clear").addEventListener("click", () => setShots([]));
  const take = (transfer) => {
    const files = [...transfer.files].filter((file) => file.type.startsWith("image/"));
    if (panel() === "search" && files.length > 0) takeImages(files);
  };
  document.addEventListener("paste", (event) => take(event.clipboardData));
  // Everywhere on the page: a browser would otherwise leave it and open the file.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!event.defaultPrevented) take(event.dataTransfer);
    event.preventDefault();
  });
  document.addEventListener("more-like", (event) => setShots([{ url: event.detail.image_url, crop: event.detail }]));
  document.addEventListener("search-track", (event) => setShots([{ url: event.detail.image_url, track: event.detail }]));
  document.addEventListener("gallery-changed", () => {
    stale = true;
    if (panel() === "search") refresh();
  });
  document.addEventListener("galleries-read", ({ detail }) => offerGalleries(detail.map((one) => one.name)));
  document.addEventListener("gallery-chosen", () => {
    form.elements.galleries.selectedIndex = -1;
    shown = [];
    if (panel() === "search" && item()) drawShots([]);
    else setShots(shots.filter((one) => one.blob));
  });
  document.addEventListener("panel-shown", follow);
  startCameras(run);
}

// The galleries that may be searched beside the one that is shown.
function offerGalleries(names) {
  const others = names.filter((name) => name !== gallery());
  const chosen = alsoSearched();
  find("#also").hidden = others.length === 0;
  find("#query").elements.galleries.replaceChildren(...others.map((name) => new Option(name, name, false, chosen.includes(name))));
}

const alsoSearched = () => [...find("#query").elements.galleries.selectedOptions].map(({ value }) => value);

// What names searches in the address; one that is not kept has none.
const addressed = (searches) => searches.flatMap(({ kept }) => kept?.query_id ?? []).join(".");

// Shows what the address names: kept searches, or the form for a new one.
function follow() {
  const from = before, id = addressed(shown);
  before = panel();
  if (panel() !== "search") return;
  if (item() && item() !== id) open(item());
  else if (!item() && id && from === "search") setShots([]);
  else {
    if (item() !== id) history.replaceState(null, "", addressOf(gallery(), "search", id));
    if (stale || (shown.length === 0 && shots.length === 0)) refresh();
  }
}

// Kept searches are opened again under the names of now, others are asked again.
function refresh() {
  stale = false;
  const id = item();
  if (id) open(id, addressed(shown) === id ? shown : undefined);
  else run();
}

// `held` has the searches of the address with the images of their queries, where these are here.
async function open(id, held = id.split(".").map((one) => ({ kept: { query_id: one } }))) {
  running?.abort();
  const place = find("#answer");
  await attempt(place, async () => {
    const found = await Promise.all(held.map((one) => (one.kept ? reopened(one).catch((problem) => ({ ...one, problem })) : one)));
    if (item() !== id) return;
    const first = found.find((one) => one.answer);
    if (!first) {
      shown = [];
      place.replaceChildren(mySearches());
      throw found[0].problem;
    }
    const fresh = !held.some((one) => one.shots);
    // One of an earlier version may be by a withdrawn scoring, which the form does not have.
    if (fresh) fill({ ...first.kept.request, scoring: first.answer.scoring === "fused" ? null : first.answer.scoring });
    drawShots(found.flatMap((one) => one.shots ?? []));
    display(found);
    if (fresh) reveal(place);
  });
}

async function reopened({ kept: { query_id: id }, shots: own }) {
  const kept = await ask(inGallery(`/queries/${encodeURIComponent(id)}`));
  return { answer: kept.answer, shots: own ?? await imagesOf(kept), point: kept.request.operating_point ?? "far_1e-2", kept };
}

async function imagesOf({ image_url: image, crop_id: id, request }) {
  if (image) return [{ blob: await blobOf(image) }];
  const crop = id && await ask(inGallery(`/crops/${encodeURIComponent(id)}`)).catch(() => null);
  if (request.track) return [{ url: crop?.image_url, track: request }];
  return crop ? [{ url: crop.image_url, crop }] : [];
}

// The fields of the form as they were sent.
function fill(request) {
  const form = find("#query");
  form.reset();
  for (const [name, value] of Object.entries(request)) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = Boolean(value);
    else if (field.type === "datetime-local") field.value = localTime(new Date(value));
    else if (value !== null) field.value = value;
  }
  form.elements.scoring.dataset.chosen = "yes";
  chooseCameras(request.cameras ?? [], request.exclude_cameras ?? []);
}

const localTime = (at) => new Date(at - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 16);

function display(searches) {
  shown = searches;
  showAnswers(find("#answer"), searches);
  const id = addressed(searches);
  if (panel() === "search" && item() !== id) history.pushState(null, "", addressOf(gallery(), "search", id));
}

// On a phone the answer is below the form.
function reveal(place) {
  if (place.getBoundingClientRect().top > innerHeight / 2) place.scrollIntoView();
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
  find(".shots").replaceChildren(...shots.map((one, at) => h("li", {},
    shotPicture(one, one.blob ? `Query picture ${at + 1}` : "The picture of the query"),
    one.crop && h("span", { class: "name" }, nameOf(one.crop.identity)),
    one.track && h("span", { class: "name" }, trackName(one.track)),
    one.blob && h("button", { type: "button", class: "quiet", "aria-label": `Draw boxes on query picture ${at + 1}`, onclick: () => drawBoxes(one) }, "Boxes…"),
    h("button", { type: "button", class: "remove", "aria-label": `Remove query picture ${at + 1}`,
      onclick: () => setShots(shots.filter((other) => other !== one)) }, "×"))));
}

// Nothing of a frame is sent before its people are in boxes.
async function takeImages(files) {
  if (files.length !== 1 || !await isFrame(files[0])) {
    setShots(files.map((blob) => ({ blob })));
    return;
  }
  const people = await askForBoxes(files[0], { whole: true });
  if (people !== null) setBoxes(files[0], people, []);
}

function setBoxes(frame, files, others) {
  if (files.length > 1) find("#query").elements.mode.value = "separate";
  setShots([...others, ...files.map((blob) => ({ blob, frame }))]);
}

// The people in the boxes take the picture's place, each as a search of its own.
async function drawBoxes(shot) {
  const files = await askForBoxes(shot.frame ?? shot.blob);
  if (files !== null) setBoxes(shot.frame ?? shot.blob, files, shots.filter((one) => one !== shot));
}

function fields() {
  const pairs = [...new FormData(find("#query"))].map(([name, value]) =>
    [name, value && name.startsWith("captured_") ? new Date(value).toISOString() : value]);
  const { crop, track } = shots[0];
  // A track is of its own camera.
  const across = alsoSearched().length > 0;
  const unsent = [shots.length < 2 && "mode", (crop || track || across) && "keep_picture", track && "camera"];
  const place = across ? [["galleries", gallery()], ["gallery", crop || track ? gallery() : ""]] : [["keep", "true"]];
  const asked = crop ? [["crop_id", crop.crop_id]]
    : track ? [["track", track.track], ["camera", track.camera ?? ""]]
    : shots.map((one) => ["images", one.blob]);
  return formOf([...pairs.filter(([name]) => !unsent.includes(name)), ...cameraFields(), ...place, ...asked]);
}

// A search that was just kept has no reviews; null where it is not kept.
const keptOf = ({ query_id: id }) => (id ? { query_id: id, reviews: [], case_ids: [] } : null);

// What is to be done first: in an empty gallery nothing can be found.
function beginning() {
  const place = h("div", { class: "empty" }, h("p", { class: "big" }, "Drop a picture to begin."),
    h("p", {}, "The most similar pictures of the gallery appear here, with what the model says."));
  if (gallery()) {
    ask(inGallery("")).then(({ crops }) => {
      if (crops === 0) place.replaceChildren(h("p", { class: "big" }, "This gallery has no pictures yet."),
        h("p", {}, "A search compares a picture with those of the gallery. Begin by adding pictures of people you know, or of people you look for."),
        h("p", {}, h("a", { class: "button main", href: addressOf(gallery(), "enroll") }, "Enroll pictures")));
    }, () => undefined);
  }
  return place;
}

async function run({ scroll = false } = {}) {
  if (!validTimes()) return;
  timesChanged = false;
  running?.abort();
  const place = find("#answer");
  if (shots.length === 0) {
    // A kept search whose picture was not kept stays.
    if (addressed(shown)) return;
    shown = [];
    if (panel() === "search" && item()) history.pushState(null, "", addressOf(gallery(), "search"));
    place.removeAttribute("aria-busy");
    clearMarks();
    place.replaceChildren(beginning(), mySearches());
    return;
  }
  const mine = (running = new AbortController());
  const asked = shots;
  await attempt(place, async () => {
    const options = { method: "POST", body: fields(), signal: mine.signal };
    // A refused search removes the answer of an earlier one.
    const path = alsoSearched().length > 0 ? "/v1/queries" : inGallery("/queries");
    const answer = await ask(path, options).catch((error) => {
      if (error.name !== "AbortError") place.replaceChildren();
      error.names = asked.map(({ blob, frame }) => (frame ?? blob)?.name);
      throw error;
    });
    const point = find("#query").elements.operating_point.value;
    const searched = (one, own) => ({ answer: one, shots: own, point, kept: keptOf(one) });
    if (answer.galleries) {
      shown = [];
      if (panel() === "search" && item()) history.pushState(null, "", addressOf(gallery(), "search"));
      showAcross(place, answer);
    } else display(answer.verdict ? [searched(answer, asked)] : answer.results.map((one, at) =>
      (one.problem ? { problem: new Error(one.problem.detail), shots: [asked[at]] } : searched(one, [asked[at]]))));
    if (scroll) reveal(place);
    // Beside a form that is scrolled, a banner alone may be out of sight.
    if (!place.querySelector(".card")) place.firstChild.scrollIntoView({ block: "nearest" });
    document.dispatchEvent(new Event("searched"));
  });
}
