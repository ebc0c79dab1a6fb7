// One crop of the gallery: its data, its actions, and the crops of its identity.

import { ask, blobOf, formOf } from "./api.js";
import { attempt, count, find, h, moment, nameOf, picture, question, verdictChip } from "./elements.js";
import { compare } from "./heat.js";
import { addressOf, changed, gallery, inGallery } from "./place.js";

const PAGE = 60;

export async function openCrop(cropId, shots = [], ranked = null) {
  const sheet = openSheet("Crop");
  await attempt(sheet, async () => {
    const crop = await ask(inGallery(`/crops/${encodeURIComponent(cropId)}`));
    sheet.append(record(crop, shots, ranked));
    sheet.querySelector(".actions button").focus();
  });
}

export async function openIdentity(identity) {
  const sheet = openSheet("Crops of one identity");
  const all = h("div", { class: "detail" });
  sheet.append(h("h2", {}, "All crops of ", h("span", { class: "name" }, identity)), all);
  await crops(all, identity);
}

function openSheet(label) {
  const sheet = find("#sheet");
  sheet.setAttribute("aria-label", label);
  sheet.replaceChildren(h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => sheet.close() }, "×"));
  if (!sheet.open) sheet.showModal();
  return sheet;
}

function record(crop, shots, ranked) {
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const button = (label, action, kind = "") => h("button", { type: "button", class: kind, onclick: action }, label);
  const rows = [
    ["Camera", crop.camera ?? "unknown"], ["Captured", moment(crop.captured_at)], ["Enrolled", moment(crop.created_at)],
    ["Your id", crop.external_id], ["Metadata", crop.metadata && JSON.stringify(crop.metadata)],
    ["Crop", h("code", {}, crop.crop_id)], ["SHA-256", h("code", {}, crop.sha256)],
  ].filter(([, value]) => value);
  return h("div", { class: "record" }, picture(crop.image_url, `Crop of ${nameOf(crop.identity)}`),
    h("div", {}, h("h2", {}, h("span", { class: "name" }, nameOf(crop.identity))), ranked && verdictChip(ranked.verdict),
      h("dl", {}, rows.flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: "name" }, value)])),
      h("div", { class: "actions" },
        button("More like this", () => moreLike(crop), "main"),
        ranked && button("Compare with the query", () => compareWith(detail, crop, shots, ranked)),
        crop.identity !== null && button("All crops of this identity", () => crops(detail, crop.identity)),
        button("Change identity…", () => changeIdentity(crop, detail, shots, ranked)),
        button("Delete…", () => remove(crop, detail), "danger quiet"))),
    detail);
}

function moreLike(crop) {
  find("#sheet").close();
  location.hash = addressOf(gallery(), "search");
  document.dispatchEvent(new CustomEvent("more-like", { detail: crop }));
}

async function compareWith(place, crop, shots, ranked) {
  const scoring = find("#query").elements.scoring.value;
  await attempt(place, async () => {
    place.replaceChildren(h("p", { class: "hint" }, "Comparing region by region…"));
    const other = await blobOf(crop.image_url ?? inGallery(`/crops/${crop.crop_id}/image`));
    const show = async (shot) => {
      const mine = shot.blob ?? await blobOf(shot.crop.image_url);
      place.replaceChildren(...await compare(mine, other, ranked, scoring, gallery()));
      place.scrollIntoView({ block: "nearest" });
    };
    await show(shots[0]);
    if (shots.length < 2) return;
    place.prepend(h("label", {}, "Query image ", h("select", { onchange: (event) => {
      const choice = event.target.parentElement;
      attempt(place, () => show(shots[event.target.selectedIndex])).then(() => place.prepend(choice));
    } }, shots.map((_, at) => h("option", {}, `image ${at + 1}`)))));
  });
}

async function crops(place, identity, cursor = null) {
  await attempt(place, async () => {
    const asked = formOf([["identity", identity], ["limit", PAGE], ["cursor", cursor]]);
    const page = await ask(inGallery(`/crops?${new URLSearchParams(asked)}`));
    const tiles = page.results.map((one) => h("li", {}, h("button", { type: "button", class: "card", onclick: () => openCrop(one.crop_id) },
      picture(one.image_url, `Crop of ${nameOf(one.identity)}`),
      h("span", { class: "about" }, h("span", { class: "name" }, one.camera ?? "camera unknown"), h("span", {}, moment(one.captured_at))))));
    const list = cursor === null ? h("ol", { class: "cards small", "aria-label": "Crops" }) : place.querySelector("ol");
    list.append(...tiles);
    const more = page.next_cursor && h("button", { type: "button", onclick: () => crops(place, identity, page.next_cursor) }, "Show more");
    place.replaceChildren(...[h("p", { class: "hint" }, count(list.children.length, "crop"), more && " so far"), list, more].filter(Boolean));
  });
}

async function changeIdentity(crop, place, shots, ranked) {
  const text = "This crop gets the identity that you enter. An empty field removes its identity.";
  const asked = { label: "Identity", input: crop.identity ?? "", required: false, list: "names" };
  const identity = await question("Who is on this crop?", text, "Change", asked);
  if (identity === null || identity === (crop.identity ?? "")) return;
  await attempt(place, async () => {
    const body = new FormData();
    body.append("identity", identity);
    await ask(inGallery(`/crops/${encodeURIComponent(crop.crop_id)}`), { method: "PATCH", body });
    changed();
    await openCrop(crop.crop_id, shots, ranked);
  });
}

async function remove(crop, place) {
  const text = `The crop of ${nameOf(crop.identity)} is deleted with its features and picture. No search finds it again.`;
  if (!await question("Delete this crop?", text, "Delete", { danger: true })) return;
  await attempt(place, async () => {
    await ask(inGallery(`/crops/${encodeURIComponent(crop.crop_id)}`), { method: "DELETE" });
    find("#sheet").close();
    changed();
  });
}
