// A crop of the gallery beside the query, with its data and actions.

import { ask, blobOf } from "./api.js";
import {
  attempt,
  decimal,
  find,
  h,
  moment,
  nameOf,
  picture,
  question,
  sharesOf,
  shotPicture,
  verdictChip,
} from "./elements.js";
import { regions } from "./heat.js";
import { judging } from "./judge.js";
import { act, named, naming, relabel, report, setAside } from "./naming.js";
import { addressOf, changed, gallery, inGallery } from "./place.js";
import { show, sideBySide } from "./side.js";
import { t } from "./texts.js";

let opening = 0;

// Return what `openCrop` takes in place of a search, to lead through the pictures of a visit.
export const stepsOf = ({ crop_ids: ids }) => ({
  answer: { results: ids.map((id) => ({ crop_id: id })), scoring: null },
});

// `search` is the search, as in results.js, that found the crop.
export async function openCrop(cropId, search = null) {
  const sheet = openSheet(t("picture"));
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
      { type: "button", class: "close", "aria-label": t("close"), onclick: () => sheet.close() },
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
    step(t("previous"), "ArrowLeft", results[index - 1]),
    h("span", { class: "hint" }, t("crop.step", { number: index + 1, count: results.length })),
    step(t("next"), "ArrowRight", results[index + 1]),
  );
}

function record(crop, search) {
  // The pictures of a visit have no scores.
  const ranked = search?.answer.results.find(
    (result) => result.crop_id === crop.crop_id && "cosine" in result,
  );
  const [probability, required] = ranked ? sharesOf(ranked, search.answer.needed) : [];
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const button = (label, action, kind = "") =>
    h("button", { type: "button", class: kind, onclick: action }, label);
  const rows = [
    [t("crop.probability"), probability],
    [t("crop.match_needs"), required],
    [
      t("crop.similarity"),
      ranked && h("span", { title: t("crop.similarity.hint") }, decimal(ranked.cosine, 3)),
    ],
    [t("camera"), crop.camera ?? t("unknown")],
    [t("crop.captured"), moment(crop.captured_at, true)],
    [t("crop.enrolled"), moment(crop.created_at, true)],
    [t("track"), crop.track],
    [t("crop.searches"), crop.set_aside && t("crop.searches.aside")],
    [t("crop.file"), crop.external_id],
    [t("crop.metadata"), crop.metadata && JSON.stringify(crop.metadata)],
    [t("picture"), h("code", {}, crop.crop_id)],
    [t("crop.hash"), h("code", {}, crop.sent_sha256)],
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
        button(t("crop.more_like"), () => moreLike(crop), "main"),
        button(t("crop.seen_before"), () => seenBefore(crop)),
        crop.identity !== null &&
          h(
            "a",
            { class: "button", href: addressOf(gallery(), "identities", crop.identity) },
            t("crop.all_of_person"),
          ),
        button(t("crop.rename"), () => changeIdentity(crop, search)),
        button(t(crop.set_aside ? "crop.take_back" : "set_aside"), () => putAside(crop, search)),
        button(t("delete.more"), () => remove(crop, detail), "danger quiet"),
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
    : Promise.reject(new Error(t("picture.not_kept")));
  const files = [
    ...shots.slice(0, 1).map((shot) => [t("pair.query"), fileOf(shot)]),
    [t("pair.gallery"), inGalleryFile],
  ];
  const { figures, panes, tools } = sideBySide(files);
  const legend = h("div");
  if (shots.length > 0)
    tools.append(
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", "data-key": "g", onchange: draw }),
        t("crop.regions"),
      ),
    );
  if (shots.length > 1)
    tools.append(
      h(
        "select",
        { "aria-label": t("crop.query_picture"), onchange: draw },
        shots.map((_, at) => h("option", {}, t("picture.numbered", { number: at + 1 }))),
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
  const what = t("crop.rename.what");
  const identity = await question(t("crop.rename.who"), what, t("crop.rename.do"), {
    label: t("name"),
    input: crop.identity ?? "",
    required: false,
    list: "names",
    pictures: [
      ...(search?.shots ?? []).map((shot) => shotPicture(shot)),
      picture(crop.image_url, t("boxes.picture")),
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
  const what = t("crop.delete.what", { name: nameOf(crop.identity) });
  if (!(await question(t("crop.delete.which"), what, t("delete"), { danger: true }))) return;
  await attempt(place, async () => {
    await ask(inGallery(`/crops/${encodeURIComponent(crop.crop_id)}`), { method: "DELETE" });
    find("#sheet").close();
    changed();
  });
}
