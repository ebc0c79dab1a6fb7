// A person: crops over time and cameras, similar people; rename, split, merge and forget.

import { ask, pages } from "./api.js";
import { inCases } from "./cases.js";
import {
  attempt,
  count,
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
      h("span", {}, count(crops, "picture")),
      seen && h("span", { title: "Last seen or enrolled" }, moment(seen)),
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
      if (error.status === 404) place.replaceChildren(back());
      throw error;
    });
    const page = await pages(inGallery("/crops"), { identity, order: "captured" }, CROPS);
    if (item() === identity) draw(place, about, page);
  });
}

const back = () => h("a", { href: addressOf(gallery(), "identities") }, "← All people");

function draw(place, about, page) {
  const { identity, cameras, first_seen: first, last_seen: last } = about;
  const button = (label, action, kind = "") =>
    h("button", { type: "button", class: kind, onclick: () => act(() => action(about)) }, label);
  const visits = h("section", { class: "visits", "aria-label": "Visits" });
  const crops = h("div", {});
  const similar = h("section", { "aria-label": "May be the same person" });
  place.replaceChildren(
    back(),
    h(
      "div",
      { class: "row" },
      h("h2", { class: "grow name" }, identity),
      button("Rename…", rename),
      button("Merge with…", mergeWith),
      button("Forget…", forget, "danger quiet"),
    ),
    h(
      "p",
      { class: "hint name" },
      `${count(about.crops, "picture")} · ${cameras.join(", ") || "camera unknown"}`,
      last && [" · first seen or enrolled ", moment(first), ", last ", moment(last)],
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
  const tiles = chooser(`Pictures of ${identity}, by time`, [
    ["Another name…", (ids) => askForName(ids, identity)],
    ["Delete…", askToDelete, "danger quiet"],
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
    "Show more",
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
          "aria-label": `Compare with ${other}`,
          onclick: () => act(() => merge(identity, other)),
        },
        "Compare",
      );
    place.append(
      h("h3", {}, "May be the same person"),
      found.length === 0
        ? h("p", { class: "hint" }, "No other person is similar enough.")
        : h(
            "ul",
            { class: "cards small" },
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
    `Rename ${identity}`,
    "The name of a person who is there already merges the two.",
    "Rename",
    { label: "New name", input: identity, list: "names" },
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
    `Merge ${identity}`,
    "Both are shown side by side before they are merged.",
    "Compare",
    { label: "The other name", input: "", list: "names" },
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
    `${identity} is now ${answer.identity}${answer.merged ? ", merged with the person of that name" : ""}: ${count(answer.changed, "picture")}.`,
    {
      undone: answer.merged
        ? twoAgain(identity, answer.identity)
        : `Undone: ${answer.identity} is ${identity} again.`,
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
    `${count(crops, "picture is", "pictures are")} deleted from the gallery, and alerts about this person too. Exports keep them until they expire. `,
    searches > 0 &&
      h(
        "b",
        { class: "name" },
        `${count(searches, "kept search", "kept searches")} of this person ${searches === 1 ? "is" : "are"} deleted too${from && `, ${from}`}. `,
      ),
    from && "Export a case first where you need what it holds. ",
    "This cannot be undone.",
  ];
  if (!(await question(`Forget ${identity}?`, text, "Forget", { danger: true }))) return;
  const answer = await ask(pathOf(identity), { method: "DELETE" });
  dropNamed(identity);
  location.hash = addressOf(gallery(), "identities");
  const gone = await inCases(answer.cases);
  report(`Forgotten: ${count(answer.removed, "picture")} removed from the gallery.`, {
    lines: [
      answer.kept_searches > 0 &&
        `${count(answer.kept_searches, "kept search", "kept searches")} deleted${gone && `, ${gone}`}.`,
      answer.alerts > 0 && `${count(answer.alerts, "alert")} deleted.`,
    ].filter(Boolean),
    details: [
      "What remains elsewhere, for whoever runs this service",
      answer.remaining.map((place) => `In ${place.where}: ${place.what}, until ${place.until}.`),
    ],
  });
}
