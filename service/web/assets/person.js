// A person: crops over time and cameras, similar people; rename, split, merge and forget.

import { ask, pages } from "./api.js";
import { inCases } from "./cases.js";
import {
  attempt,
  find,
  h,
  moment,
  nfc,
  percent,
  question,
  thumbnail,
  verdictChip,
} from "./elements.js";
import { showVisits } from "./line.js";
import { askForMerge } from "./merge.js";
import { act, askForName, askToDelete, report } from "./naming.js";
import { addressOf, gallery, inGallery, item, segment } from "./place.js";
import { chooser } from "./tiles.js";
import { t, textNodes } from "./texts.js";
import { call, dropNamed, twoAgain } from "./undo.js";

const CROPS = 500;
const SIMILAR = 12;
const pathOf = (identity) => inGallery(`/identities/${segment(identity)}`);
const open = (identity) => {
  location.hash = addressOf(gallery(), "identities", identity);
};

export function personCard({ identity, crops, image_url: image, last_seen: seen }, ...more) {
  return h(
    "a",
    { class: "card", href: addressOf(gallery(), "identities", identity) },
    thumbnail(image, ""),
    h(
      "span",
      { class: "about" },
      h("b", { class: "name" }, identity),
      more,
      h("span", {}, t("pictures", { count: crops })),
      seen && h("span", { title: t("person.last_seen") }, moment(seen)),
    ),
  );
}

export async function showPerson(identity) {
  const place = find("#person");
  // Remove the actions of the previous person while this one is read.
  if (place.dataset.of !== identity) place.replaceChildren();
  place.dataset.of = identity;
  await attempt(place, async () => {
    const about = await ask(pathOf(identity)).catch((error) => {
      if (error.status !== 404) throw error;
      place.replaceChildren(back());
      throw new Error(t("person.gone", { name: identity }));
    });
    const page = await pages(inGallery("/crops"), { identity, order: "captured" }, CROPS);
    if (item() === identity) draw(place, about, page);
  });
}

const back = () => h("a", { href: addressOf(gallery(), "identities") }, t("person.all"));

function draw(place, about, page) {
  const { identity, cameras, first_seen: first, last_seen: last } = about;
  const button = (label, action, kind = "") =>
    h("button", { type: "button", class: kind, onclick: () => act(() => action(about)) }, label);
  const visits = h("section", { class: "visits", "aria-label": t("person.visits") });
  const crops = h("div", {});
  const similar = h("section", { "aria-label": t("person.similar") });
  place.replaceChildren(
    back(),
    h(
      "div",
      { class: "row" },
      h("h2", { class: "grow name" }, identity),
      button(t("person.rename"), rename),
      button(t("person.merge"), mergeWith),
      button(t("person.forget"), forget, "danger quiet"),
    ),
    h(
      "p",
      { class: "hint name" },
      textNodes(last ? "person.about_seen" : "person.about", {
        count: about.crops,
        cameras: cameras.join(", ") || t("camera.unknown"),
        first: moment(first),
        last: moment(last),
      }),
    ),
    visits,
    crops,
    similar,
  );
  if (page.results.some(({ captured_at: time }) => time !== null))
    showVisits(visits, `${pathOf(identity)}/visits`);
  showCrops(crops, identity, page.results, page.next_cursor);
  showSimilar(similar, identity);
}

function showCrops(place, identity, crops, cursor) {
  const tiles = chooser(t("person.pictures", { name: identity }), [
    [t("judge.other_name"), (ids) => askForName(ids, identity)],
    [t("delete.more"), askToDelete, "danger quiet"],
  ]);
  tiles.add(crops);
  const more = h(
    "button",
    {
      type: "button",
      hidden: cursor === null,
      onclick: () =>
        attempt(place, async () => {
          const next = await pages(
            inGallery("/crops"),
            { identity, order: "captured" },
            CROPS,
            cursor,
          );
          showCrops(place, identity, [...crops, ...next.results], next.next_cursor);
        }),
    },
    t("show_more"),
  );
  place.replaceChildren(tiles.element, more);
}

// Show people whose crops are similar enough to be the same person.
async function showSimilar(place, identity) {
  await attempt(place, async () => {
    const asked = new URLSearchParams({ identity, limit: SIMILAR });
    const found = (await ask(inGallery(`/similar?${asked}`))).results.filter(
      (person) => person.verdict !== "no_match",
    );
    const compare = (other) =>
      h(
        "button",
        {
          type: "button",
          "aria-label": t("person.compare_with", { name: other }),
          onclick: () => act(() => merge(identity, other)),
        },
        t("compare"),
      );
    place.append(
      h("h3", {}, t("person.similar")),
      h(
        "p",
        { class: "hint" },
        t(found.length === 0 ? "person.none_similar" : "person.similar.hint"),
      ),
      h(
        "ul",
        { class: "cards small", hidden: found.length === 0 },
        found.map((person) =>
          h(
            "li",
            {},
            personCard(
              person,
              verdictChip(person.verdict),
              h("span", {}, percent(person.probability)),
            ),
            compare(person.identity),
          ),
        ),
      ),
    );
  });
}

async function rename({ identity }) {
  const name = await question(
    t("person.rename.which", { name: identity }),
    t("person.rename.what"),
    t("person.rename.do"),
    { label: t("person.rename.name"), input: identity, list: "names" },
  );
  if (name === null || name === nfc(identity)) return;
  const existing = await ask(pathOf(name)).catch((error) => {
    if (error.status !== 404) throw error;
  });
  if (existing) await merge(identity, name);
  else await give(identity, name);
}

async function mergeWith({ identity }) {
  const other = await question(
    t("person.merge.which", { name: identity }),
    t("person.merge.what"),
    t("compare"),
    { label: t("person.merge.name"), input: "", list: "names" },
  );
  if (other !== null && other !== nfc(identity)) await merge(identity, other);
}

export async function merge(identity, other) {
  const confirmed = await askForMerge(identity, other);
  if (confirmed) await give(confirmed.identity, confirmed.into);
}

async function give(identity, name) {
  const body = new FormData();
  body.append("new_identity", name);
  const answer = await ask(pathOf(identity), { method: "PATCH", body });
  open(answer.identity);
  report(
    t(answer.merged ? "person.merged" : "person.renamed", {
      name: identity,
      new_name: answer.identity,
      count: answer.changed,
    }),
    {
      undone: answer.merged
        ? twoAgain(identity, answer.identity)
        : t("undone.rename", { name: answer.identity, old_name: identity }),
      undo: [
        answer.merged
          ? call("POST", inGallery(`/merges/${encodeURIComponent(answer.merge_id)}/undo`))
          : call("PATCH", pathOf(name), [["new_identity", identity]]),
      ],
    },
  );
}

async function forget({ identity }) {
  const { crops, kept_searches: searches, cases } = await ask(pathOf(identity));
  const from = await inCases(cases);
  const text = [
    t("person.forget.pictures", { count: crops }),
    " ",
    searches > 0 &&
      h(
        "b",
        { class: "name" },
        t(from ? "person.forget.searches_from" : "person.forget.searches", {
          count: searches,
          cases: from,
        }),
        " ",
      ),
    from && `${t("person.forget.export")} `,
    t("final"),
  ];
  const which = t("person.forget.which", { name: identity });
  if (!(await question(which, text, t("person.forget.do"), { danger: true }))) return;
  const answer = await ask(pathOf(identity), { method: "DELETE" });
  dropNamed(identity);
  location.hash = addressOf(gallery(), "identities");
  const gone = await inCases(answer.cases);
  report(t("person.forgotten", { count: answer.removed }), {
    lines: [
      answer.kept_searches > 0 &&
        t(gone ? "person.forgotten.searches_from" : "person.forgotten.searches", {
          count: answer.kept_searches,
          cases: gone,
        }),
      answer.alerts > 0 && t("person.forgotten.alerts", { count: answer.alerts }),
    ].filter(Boolean),
    details: [
      t("person.remains"),
      answer.remaining.map(({ where, what, until }) =>
        t("person.remains.at", { where, what, until }),
      ),
    ],
  });
}
