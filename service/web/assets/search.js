// The search form: a query by images or by a crop of the gallery.

import { ask, formOf } from "./api.js";
import { cameraFields, startCameras, validTimes } from "./cameras.js";
import { attempt, find, h, nameOf, shotPicture, takeFiles } from "./elements.js";
import { clearMarks } from "./judge.js";
import { inGallery, panel } from "./place.js";
import { showAnswers } from "./results.js";

// A shot is {blob}, or {url, crop} of the gallery.
let shots = [];
let running = null;
let timesChanged = false;

export function startSearch() {
  const form = find("#query");
  takeFiles(form.querySelector(".drop"), (files) => setShots(files.map((blob) => ({ blob }))));
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
    if (panel() === "search" && files.length > 0) setShots(files.map((blob) => ({ blob })));
  };
  document.addEventListener("paste", (event) => take(event.clipboardData));
  // Everywhere on the page: a browser would otherwise leave it and open the file.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!event.defaultPrevented) take(event.dataTransfer);
    event.preventDefault();
  });
  document.addEventListener("more-like", (event) => setShots([{ url: event.detail.image_url, crop: event.detail }]));
  document.addEventListener("gallery-changed", () => run());
  document.addEventListener("gallery-chosen", () => setShots(shots.filter((one) => one.blob)));
  startCameras(run);
}

function setShots(next) {
  shots = next;
  find("#shots").hidden = shots.length === 0;
  find("#mode").hidden = shots.length < 2;
  find(".shots").replaceChildren(...shots.map((one, at) => h("li", {},
    shotPicture(one, one.crop ? "The crop of the query" : `Query image ${at + 1}`),
    one.crop && h("span", { class: "name" }, nameOf(one.crop.identity)),
    h("button", { type: "button", class: "remove", "aria-label": `Remove query image ${at + 1}`,
      onclick: () => setShots(shots.filter((other) => other !== one)) }, "×"))));
  run({ scroll: true });
}

function fields() {
  const pairs = [...new FormData(find("#query"))].map(([name, value]) =>
    [name, value && name.startsWith("captured_") ? new Date(value).toISOString() : value]);
  const asked = shots[0].crop
    ? [["crop_id", shots[0].crop.crop_id]]
    : shots.map((one) => ["images", one.blob]);
  return formOf([...pairs.filter(([name]) => name !== "mode" || shots.length > 1), ...cameraFields(), ...asked]);
}

async function run({ scroll = false } = {}) {
  if (!validTimes()) return;
  timesChanged = false;
  running?.abort();
  const place = find("#answer");
  if (shots.length === 0) {
    place.removeAttribute("aria-busy");
    clearMarks();
    place.replaceChildren(h("div", { class: "empty" }, h("p", { class: "big" }, "Drop an image to begin."),
      h("p", {}, "The most similar crops of the gallery appear here, with a verdict.")));
    return;
  }
  const mine = (running = new AbortController());
  const asked = shots;
  await attempt(place, async () => {
    const options = { method: "POST", body: fields(), signal: mine.signal };
    // A refused search removes the answer of an earlier one.
    const answer = await ask(inGallery("/queries"), options).catch((error) => {
      if (error.name !== "AbortError") place.replaceChildren();
      throw error;
    });
    showAnswers(place, { answer, shots: asked, point: new FormData(find("#query")).get("operating_point"), kept: null });
    // On a phone the answer is below the form.
    if (scroll && place.getBoundingClientRect().top > innerHeight / 2) place.scrollIntoView();
    // Beside a form that is scrolled, a banner alone may be out of sight.
    if (!place.querySelector(".card")) place.firstChild.scrollIntoView({ block: "nearest" });
    document.dispatchEvent(new Event("searched"));
  });
}
