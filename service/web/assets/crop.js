// A crop of the gallery beside the query, with its data and actions.

import { ask, blobOf } from "./api.js";
import {
  attempt,
  decimal,
  find,
  h,
  moment,
  nameOf,
  percent,
  picture,
  question,
  shotPicture,
  verdictChip,
} from "./elements.js";
import { regions } from "./heat.js";
import { judging } from "./judge.js";
import { act, named, naming, relabel, report, setAside } from "./naming.js";
import { addressOf, changed, gallery, inGallery } from "./place.js";
import { show, sideBySide } from "./side.js";

let opening = 0;

// Return what `openCrop` takes in place of a search, to lead through the pictures of a visit.
export const stepsOf = ({ crop_ids: ids }) => ({
  answer: { results: ids.map((id) => ({ crop_id: id })), scoring: null },
});

// `search` is the search, as in results.js, that found the crop.
export async function openCrop(cropId, search = null) {
  const sheet = openSheet("Picture");
  const request = (opening += 1);
  await attempt(sheet, async () => {
    const crop = await ask(inGallery(`/crops/${encodeURIComponent(cropId)}`));
    if (request !== opening) return;
    const focusedKey = document.activeElement?.dataset.key;
    emptied(sheet).append(...(search ? [steps(crop, search)] : []), record(crop, search));
    const same = focusedKey && sheet.querySelector(`[data-key="${focusedKey}"]:enabled`);
    (
      same ||
      sheet.querySelector(`[data-key="ArrowRight"]:enabled`) ||
      sheet.querySelector(".close")
    ).focus();
    // Closing the sheet moves the focus to the card of the last crop shown.
    sheet.onclose = () => document.querySelector(`#answer [data-crop="${cropId}"] .open`)?.focus();
  });
}

export function openSheet(label) {
  const sheet = find("#sheet");
  sheet.setAttribute("aria-label", label);
  if (!sheet.open) emptied(sheet).showModal();
  return sheet;
}

export function emptied(sheet) {
  sheet.replaceChildren(
    h(
      "button",
      { type: "button", class: "close", "aria-label": "Close", onclick: () => sheet.close() },
      "×",
    ),
  );
  return sheet;
}

function steps(crop, search) {
  const { results } = search.answer;
  const index = results.findIndex((result) => result.crop_id === crop.crop_id);
  const step = (label, key, next) =>
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        "data-key": key,
        disabled: !next,
        onclick: () => openCrop(next.crop_id, search),
      },
      label,
    );
  return h(
    "div",
    { class: "row steps" },
    step("← Previous", "ArrowLeft", results[index - 1]),
    h("span", { class: "hint" }, `${index + 1} of ${results.length}`),
    step("Next →", "ArrowRight", results[index + 1]),
  );
}

function record(crop, search) {
  // The pictures of a visit have no scores.
  const ranked = search?.answer.results.find(
    (result) => result.crop_id === crop.crop_id && "cosine" in result,
  );
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const button = (label, action, kind = "") =>
    h("button", { type: "button", class: kind, onclick: action }, label);
  const rows = [
    ["Probability", ranked && percent(ranked.probability)],
    [
      "Similarity",
      ranked && h("span", { title: "Cosine of the features" }, decimal(ranked.cosine, 3)),
    ],
    ["Camera", crop.camera ?? "unknown"],
    ["Captured", moment(crop.captured_at, true)],
    ["Enrolled", moment(crop.created_at, true)],
    ["Track", crop.track],
    ["Searches", crop.set_aside && "do not find it: it is set aside"],
    ["File or your id", crop.external_id],
    ["Metadata", crop.metadata && JSON.stringify(crop.metadata)],
    ["Picture", h("code", {}, crop.crop_id)],
    ["SHA-256", h("code", {}, crop.sha256)],
  ].filter(([, value]) => value);
  return h(
    "div",
    { class: "record" },
    pictures(crop, search),
    h(
      "div",
      {},
      h("h2", {}, h("span", { class: "name" }, nameOf(crop.identity))),
      ranked &&
        h(
          "div",
          { class: "row" },
          verdictChip(ranked.verdict),
          // A search of several galleries is not judged.
          "kept" in search && judging(ranked, search),
        ),
      h(
        "dl",
        {},
        rows.flatMap(([label, value]) => [h("dt", {}, label), h("dd", { class: "name" }, value)]),
      ),
      h(
        "div",
        { class: "actions" },
        button("More like this", () => moreLike(crop), "main"),
        button("Has this person been here before?", () => seenBefore(crop)),
        crop.identity !== null &&
          h(
            "a",
            { class: "button", href: addressOf(gallery(), "identities", crop.identity) },
            "All pictures of this person",
          ),
        button("Change the name…", () => changeIdentity(crop, search)),
        button(crop.set_aside ? "Take back" : "Set aside", () => putAside(crop, search)),
        button("Delete…", () => remove(crop, detail), "danger quiet"),
      ),
    ),
    detail,
  );
}

const fileOf = async (shot) => shot.blob ?? blobOf(shot.url);

// Show the crop beside the query, if the query’s picture is available.
function pictures(crop, search) {
  const shots = search?.shots ?? [];
  const place = h("div", { class: "pictures" });
  const inGalleryFile = crop.image_url
    ? blobOf(crop.image_url)
    : Promise.reject(new Error("the image was not kept"));
  const files = [
    ...shots.slice(0, 1).map((shot) => ["Query", fileOf(shot)]),
    ["In the gallery", inGalleryFile],
  ];
  const { figures, panes, tools } = sideBySide(files);
  const legend = h("div");
  if (shots.length > 0)
    tools.append(
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", "data-key": "g", onchange: draw }),
        "Regions",
      ),
    );
  if (shots.length > 1)
    tools.append(
      h(
        "select",
        { "aria-label": "Query picture", onchange: draw },
        shots.map((_, at) => h("option", {}, `Picture ${at + 1}`)),
      ),
    );
  place.append(h("div", { class: "heats" }, figures), tools, legend);
  return place;

  async function draw() {
    const shot = shots[tools.querySelector("select")?.selectedIndex ?? 0];
    const wanted = tools.querySelector("input").checked;
    const file = (files[0][1] = fileOf(shot));
    legend.replaceChildren();
    show(panes[0], files[0][1], files[0][0]);
    place.querySelectorAll(".cells").forEach((cells) => cells.remove());
    if (!wanted) return;
    await attempt(legend, async () => {
      const [shown, other] = await Promise.all(files.map(([, file]) => file));
      const found = await regions(shown, other, search.answer.scoring, gallery());
      // Another image was chosen meanwhile, or regions were switched off.
      if (files[0][1] !== file) return;
      panes.forEach((pane, at) => pane.append(found.grids[at]));
      legend.append(found.legend);
    });
  }
}

function moreLike(crop) {
  find("#sheet").onclose = null;
  find("#sheet").close();
  location.hash = addressOf(gallery(), "search");
  document.dispatchEvent(new CustomEvent("more-like", { detail: crop }));
}

function seenBefore(crop) {
  find("#sheet").onclose = null;
  find("#sheet").close();
  document.dispatchEvent(new CustomEvent("seen-before", { detail: crop }));
}

async function changeIdentity(crop, search) {
  const text = "This picture gets the name that you enter. An empty field removes its name.";
  const identity = await question("Who is on this picture?", text, "Change", {
    label: "Name",
    input: crop.identity ?? "",
    required: false,
    list: "names",
    pictures: [
      ...(search?.shots ?? []).map((shot) => shotPicture(shot)),
      picture(crop.image_url, "The picture"),
    ],
  });
  if (identity === null || identity === (crop.identity ?? "")) return;
  await act(async () => {
    await relabel([crop.crop_id], identity);
    report(named(1, identity), { undo: naming([crop.crop_id], crop.identity ?? "") });
    await openCrop(crop.crop_id, search);
  });
}

const putAside = (crop, search) =>
  act(async () => {
    await setAside(crop);
    await openCrop(crop.crop_id, search);
  });

async function remove(crop, place) {
  const text = `The picture of ${nameOf(crop.identity)} is deleted with its features. No search finds it again.`;
  if (!(await question("Delete this picture?", text, "Delete", { danger: true }))) return;
  await attempt(place, async () => {
    await ask(inGallery(`/crops/${encodeURIComponent(crop.crop_id)}`), { method: "DELETE" });
    find("#sheet").close();
    changed();
  });
}
