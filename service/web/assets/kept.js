// Kept searches of this key, and the actions for the one that is shown.

import { ask, formOf, send } from "./api.js";
import {
  attempt,
  download,
  find,
  h,
  moment,
  nameOf,
  percent,
  question,
  sentence,
  shotPicture,
  thumbnail,
  verdictChip,
  wordsOfProblem,
} from "./elements.js";
import { act, report } from "./naming.js";
import { addressOf, fileId, gallery, inGallery, item } from "./place.js";
import { t, textNodes } from "./texts.js";
import { call } from "./undo.js";

const PAGE = 20;

// Show the searches of this key, newest first. The list is empty until it is read.
export function mySearches() {
  const place = h("section", { class: "mine", "aria-label": t("kept.mine") });
  const list = h("ul", { class: "rows" });
  const name = gallery();
  const reviews = h(
    "button",
    {
      type: "button",
      onclick: () =>
        attempt(place, () => download(inGallery("/reviews.csv"), `reviews-${name}.csv`)),
    },
    t("kept.reviews"),
  );
  const read = (cursor) =>
    attempt(place, async () => {
      const page = await ask(
        inGallery(
          `/queries?${new URLSearchParams(
            formOf([
              ["limit", PAGE],
              ["cursor", cursor],
            ]),
          )}`,
        ),
      );
      if (gallery() !== name) return;
      list.append(...page.results.map((search) => keptRow(search)));
      const more =
        page.next_cursor &&
        h("button", { type: "button", onclick: () => read(page.next_cursor) }, t("show_more"));
      place.replaceChildren(
        ...(list.children.length
          ? [
              h("div", { class: "row" }, h("h2", { class: "grow" }, t("kept.mine")), reviews),
              list,
              more,
            ].filter(Boolean)
          : []),
      );
    });
  if (name) read(null);
  return place;
}

// Return the row of a kept search; `more` are further elements of it.
export function keptRow(search, ...more) {
  const reviewed = [
    [search.confirmed, "kept.confirmed"],
    [search.rejected, "kept.rejected"],
  ]
    .filter(([number]) => number)
    .map(([number, key]) => t(key, { number }));
  return h(
    "li",
    {},
    thumbnail(search.image_url ?? search.best?.image_url, ""),
    h(
      "a",
      { class: "grow", href: addressOf(gallery(), "search", search.query_id) },
      moment(search.created_at),
    ),
    search.kind === "visits" && h("span", { class: "hint" }, t("kept.visits")),
    search.best &&
      h(
        "span",
        { class: "name" },
        nameOf(search.best.identity),
        search.best.probability !== null && ` · ${percent(search.best.probability)}`,
      ),
    search.purpose && h("span", { class: "hint name" }, search.purpose),
    reviewed.length > 0 && h("span", { class: "hint" }, reviewed.join(", ")),
    verdictChip(search.verdict),
    ...more,
  );
}

// Return the actions for the search that is shown.
export function keptTools(search, ...more) {
  const { kept, shots } = search;
  const files = shots.filter((shot) => shot.blob);
  const button = (label, action, kind = "") =>
    h("button", { type: "button", class: kind, onclick: () => act(action) }, label);
  return h(
    "div",
    { class: "row tools" },
    files.length > 0 && button(t("kept.enroll"), () => enroll(search, files)),
    ...more,
    kept?.case_ids.length > 0 &&
      h(
        "a",
        { href: addressOf(gallery(), "cases", kept.case_ids.length === 1 ? kept.case_ids[0] : "") },
        t("kept.in_cases", { count: kept.case_ids.length }),
      ),
    kept && button(t("kept.delete"), () => forget(kept), "danger quiet"),
    kept?.created_at &&
      h(
        "span",
        { class: "hint" },
        textNodes("kept.searched", { time: moment(kept.created_at, true) }),
      ),
    kept?.expires_at &&
      h("span", { class: "hint" }, textNodes("kept.until", { time: moment(kept.expires_at) })),
    kept?.request && h("span", { class: "note" }, notKept(kept)),
    kept?.removed > 0 &&
      h("span", { class: "note" }, t("kept.results_deleted", { count: kept.removed })),
  );
}

// Say how many pictures of the query are kept. At most one is.
function notKept({ image_url: url, request: { images } }) {
  if (images > 1) return t(url ? "kept.one_picture" : "kept.no_pictures", { images });
  return images === 1 && !url && t("kept.no_picture");
}

async function forget({ query_id: id }) {
  if (
    !(await question(t("kept.delete.which"), t("kept.delete.what"), t("delete"), { danger: true }))
  )
    return;
  await send(inGallery(`/queries/${id}`), { method: "DELETE" });
  location.hash = addressOf(
    gallery(),
    "search",
    item()
      .split(".")
      .filter((other) => other !== id)
      .join("."),
  );
}

// Propose the confirmed name, or that of a match.
async function enroll({ answer, kept }, files) {
  const [best] = answer.results;
  const known =
    kept?.reviews?.find((review) => review.decision === "confirmed")?.identity ??
    (answer.verdict === "match" ? best.identity : null);
  const camera = find("#query").elements.camera.value;
  const text = camera ? t("kept.enroll.camera", { camera }) : t("kept.enroll.no_camera");
  const which = t("kept.enroll.which", { count: files.length });
  const name = await question(which, text, t("enroll.do"), {
    label: t("name"),
    input: known ?? "",
    list: "names",
    pictures: files.map((shot) => shotPicture(shot)),
  });
  if (name === null) return;
  const fields = [
    ["identity", name],
    ["camera", camera],
  ];
  const { results } = await ask(inGallery("/crops"), {
    method: "POST",
    body: withNames(formOf([...fields, ...files.map((shot) => ["images", shot.blob])]), files),
  });
  const landed = results.filter((result) => result.crop_id && !result.duplicate);
  const lines = results.flatMap((result, index) =>
    result.problem
      ? [
          textNodes("kept.enroll.refused", {
            number: index + 1,
            reason: h("span", {}, wordsOfProblem(result.problem)),
          }),
        ]
      : result.duplicate
        ? [t("kept.enroll.there", { number: index + 1, name: nameOf(result.identity) })]
        : result.warnings.map((warning) => h("span", { lang: "en" }, sentence(warning))),
  );
  report(t("kept.enrolled", { count: landed.length, name }), {
    lines,
    undo: landed.map(({ crop_id: id }) => call("DELETE", inGallery(`/crops/${id}`))),
  });
}

// Send the file name of each picture, empty if it is unknown.
function withNames(form, files) {
  for (const { blob, frame } of files) form.append("external_id", fileId(frame ?? blob));
  return form;
}
