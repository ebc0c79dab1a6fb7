// Filters of a search: a chip for each camera of the gallery, times, and unnamed crops.

import { ask } from "./api.js";
import { attempt, find, h, nfc, ZONE } from "./elements.js";
import { gallery, inGallery } from "./place.js";
import { t } from "./texts.js";

const PAGES = 20;
const NEXT = { any: "only", only: "without", without: "any" };
const SIGNS = { any: "", only: "✓ ", without: "✕ " };
const chosen = new Map();
let readOf = null;

export const WRONG_TIMES = t("cameras.wrong_times");

let searchAgain = () => undefined;

export function startCameras(search) {
  searchAgain = search;
  const filters = find("#filters");
  find("#zone").textContent = t("cameras.zone", { zone: ZONE });
  for (const field of times()) field.addEventListener("change", validTimes);
  filters.addEventListener("toggle", () => {
    if (filters.open) read();
  });
  document.addEventListener("gallery-chosen", () => {
    chosen.clear();
    readOf = null;
    draw();
    if (filters.open) read();
  });
  document.addEventListener("gallery-changed", () => {
    readOf = null;
    if (filters.open) read();
  });
  find("#other-camera").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const name = nfc(event.target.value.trim());
    event.target.value = "";
    if (name) {
      chosen.set(name, "any");
      press(name);
    }
  });
}

export function cameraFields() {
  const names = { only: "cameras", without: "exclude_cameras" };
  return [...chosen].filter(([, how]) => how in names).map(([name, how]) => [names[how], name]);
}

const checks = () => ["camera_disjoint", "unnamed"].map((name) => find("#query").elements[name]);
const times = () =>
  ["captured_after", "captured_before"].map((name) => find("#query").elements[name]);

// Return whether “From” is before “Until”. The fields show an error otherwise.
export function validTimes() {
  const [after, before] = times();
  const wrong = after.value !== "" && before.value !== "" && after.value > before.value;
  for (const field of [after, before]) field.setAttribute("aria-invalid", String(wrong));
  find("#times-wrong").textContent = wrong ? WRONG_TIMES : "";
  if (wrong) find("#filters").open = true;
  return !wrong;
}

export function filtered() {
  return (
    cameraFields().length > 0 ||
    times().some((field) => field.value) ||
    checks().some((box) => box.checked)
  );
}

export function chooseCameras(only, without) {
  for (const name of chosen.keys()) chosen.set(name, "any");
  for (const name of only) chosen.set(nfc(name), "only");
  for (const name of without) chosen.set(nfc(name), "without");
  draw();
  find("#filters").open = filtered();
}

export function clearFilters() {
  chooseCameras([], []);
  for (const field of times()) field.value = "";
  for (const box of checks()) box.checked = false;
  validTimes();
  searchAgain();
}

function press(name) {
  chosen.set(name, NEXT[chosen.get(name)]);
  draw();
  searchAgain();
}

// The service lists crops, not cameras. Read only the first pages of a large gallery.
async function read() {
  const name = gallery();
  if (readOf === name) return;
  readOf = name;
  await attempt(find("#filters"), async () => {
    let cursor = "";
    let crops = 0;
    for (let page = 0; page < PAGES && cursor !== null; page += 1) {
      const more = cursor && `&cursor=${encodeURIComponent(cursor)}`;
      const answer = await ask(inGallery(`/crops?limit=1000${more}`));
      if (gallery() !== name) return;
      crops += answer.results.length;
      for (const { camera } of answer.results)
        if (camera !== null && !chosen.has(nfc(camera))) chosen.set(nfc(camera), "any");
      cursor = answer.next_cursor;
      draw();
    }
    find("#cameras-read").textContent = cursor === null ? "" : t("cameras.read", { count: crops });
  });
}

function draw() {
  const names = [...chosen.keys()].sort((first, second) =>
    first.localeCompare(second, undefined, { numeric: true }),
  );
  find("#chips").replaceChildren(
    ...names.map((name) =>
      h(
        "button",
        {
          type: "button",
          class: `chip ${chosen.get(name)}`,
          "aria-label": t(`cameras.chip.${chosen.get(name)}`, { name }),
          onclick: () => refocus(name),
        },
        SIGNS[chosen.get(name)],
        h("span", { class: "name" }, name),
      ),
    ),
  );
  find("#cameras").replaceChildren(...names.map((name) => h("option", { value: name })));
}

// Pressing a chip redraws all of them. Keep the keyboard focus.
function refocus(name) {
  press(name);
  [...find("#chips").children].find((chip) => chip.lastChild.textContent === name)?.focus();
}
