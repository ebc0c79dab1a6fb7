// Tracks of the gallery with their pictures. A track can be searched, named or deleted as a whole.

import { ask, pages } from "./api.js";
import { attempt, find, h, nfc, period, question, thumbnail } from "./elements.js";
import { act, askToDelete, named, naming, relabel, report } from "./naming.js";
import { addressOf, gallery, inGallery, panel } from "./place.js";
import { t } from "./texts.js";
import { chooser } from "./tiles.js";

// Page size of the service.
const PAGE = 100;
const ASKED = 4;
// Operating point of a pair at which unnamed crops are joined, in searches and groupings.
const JOINS = "pair_far_1e-3";

export const trackName = ({ track, camera }) =>
  t("track.named", { track, camera: camera ?? t("camera.unknown") });

export function startTracks() {
  document.addEventListener("panel-shown", () => load());
  document.addEventListener("gallery-changed", () =>
    load(null, find("#track-list").children.length),
  );
  find("#track-camera").addEventListener("change", () => load());
}

async function load(cursor = null, enough = PAGE) {
  if (panel() !== "tracks") return;
  const shown = gallery();
  const camera = find("#track-camera").value;
  const more = find("#more-tracks");
  const list = find("#track-list");
  find("#tracks > a").href = addressOf(shown, "identities");
  await attempt(find("#tracks"), async () => {
    const [page, least] = await Promise.all([
      pages(inGallery("/tracks"), { camera }, Math.max(enough, PAGE), cursor, PAGE),
      leastCohesion(),
    ]);
    if (gallery() !== shown || find("#track-camera").value !== camera) return;
    const opened = [...list.querySelectorAll("li:has([open])")].map((opener) =>
      opener.getAttribute("aria-label"),
    );
    if (cursor === null) list.replaceChildren();
    list.append(
      ...page.results.map((track) => row(track, least, opened.includes(trackName(track)))),
    );
    if (list.children.length === 0)
      list.append(
        h(
          "li",
          { class: "hint" },
          camera ? t("track.none_of_camera", { camera }) : t("track.none"),
        ),
      );
    more.hidden = page.next_cursor === null;
    more.onclick = () => load(page.next_cursor);
  });
}

// A key without access to the model sees tracks without this note.
const leastCohesion = () =>
  ask("/v1/model").then(
    (model) => model.operating_points.cosine?.[JOINS] ?? -1,
    () => -1,
  );

function row(track, least, open) {
  const button = (label, action, kind = "") =>
    h(
      "button",
      {
        type: "button",
        class: kind,
        "aria-label": t("track.action", { action: label, track: trackName(track) }),
        onclick: () => act(() => action(track)),
      },
      label,
    );
  return h(
    "li",
    { "aria-label": trackName(track) },
    thumbnail(track.image_url, ""),
    h("b", { class: "name" }, trackName(track)),
    h("span", { class: "hint" }, period(track.first_seen, track.last_seen)),
    h("span", { class: "name grow" }, track.identities.join(", ") || t("name.none")),
    track.cohesion !== null &&
      track.cohesion < least &&
      h("span", { class: "note" }, t("track.two_people")),
    button(t("search.start"), search),
    button(t("name.give.more"), async () => name(track, await cropsOf(track))),
    button(t("delete.more"), async () => askToDelete(idsOf(await cropsOf(track))), "danger quiet"),
    pictures(track, open),
  );
}

function pictures(track, open) {
  const place = h("div", {});
  return h(
    "details",
    {
      open,
      ontoggle: ({ target }) =>
        target.open &&
        attempt(place, async () => {
          const crops = await cropsOf(track);
          const nameSome = (ids) =>
            act(() =>
              name(
                track,
                crops.filter((crop) => ids.includes(crop.crop_id)),
              ),
            );
          const tiles = chooser(t("track.pictures", { track: trackName(track) }), [
            [t("name.give.more"), nameSome],
            [t("delete.more"), askToDelete, "danger quiet"],
          ]);
          tiles.add(crops);
          place.replaceChildren(tiles.element);
        }),
    },
    h("summary", {}, t("pictures", { count: track.crops })),
    place,
  );
}

const idsOf = (crops) => crops.map((crop) => crop.crop_id);

// A track without a camera: the filter also passes crops of cameras that use the same id.
async function cropsOf({ track, camera }) {
  const found = await pages(inGallery("/crops"), { track, camera, order: "captured" }, Infinity);
  return found.results.filter((crop) => nfc(crop.camera) === nfc(camera));
}

function search(track) {
  location.hash = addressOf(gallery(), "search");
  document.dispatchEvent(new CustomEvent("search-track", { detail: track }));
}

async function name(track, crops) {
  const text = t("naming.gets_or_loses", { count: crops.length });
  const who = t("track.who", { track: trackName(track) });
  const identity = await question(who, text, t("name.give"), {
    label: t("name"),
    input: track.identities[0] ?? "",
    required: false,
    list: "names",
    pictures: crops.slice(0, ASKED).map((crop) => thumbnail(crop.image_url, t("track.picture"))),
  });
  if (identity === null) return;
  const number = await relabel(idsOf(crops), identity);
  // Undo gives each picture its former name.
  const before = [...new Set(crops.map((crop) => crop.identity))];
  report(named(number, identity), {
    undo: before.flatMap((formerName) =>
      naming(idsOf(crops.filter((crop) => crop.identity === formerName)), formerName ?? ""),
    ),
  });
}
