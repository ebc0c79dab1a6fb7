// Decisions on results: each confirmed or rejected, and several marked and named at once.

import { ask, formOf } from "./api.js";
import { find, h, nfc, problemOf, question, shotPicture, thumbnail } from "./elements.js";
import { act, named, naming, relabel, report } from "./naming.js";
import { gallery, inGallery, OF_SEARCHES, tellTabs } from "./place.js";
import { inList, t } from "./texts.js";

export const DECISIONS = [
  ["confirmed", "✓", "c", t("judge.confirmed")],
  ["rejected", "✕", "r", t("judge.rejected")],
];
// Marked results by crop id, each with its search.
const marked = new Map();
// Decisions that wait for the service, by search and crop.
const underway = new Map();
// Decisions that did not arrive, each with its error.
let failed = [];
let sending = Promise.resolve();

window.addEventListener("beforeunload", (event) => {
  if (underway.size > 0 || failed.length > 0) event.preventDefault();
});

// Once the service is back, send the decisions that it could not take.
document.addEventListener("gallery-changed", () =>
  sendAgain(failed.filter(({ error }) => error.isAway)),
);

// Return the controls of a result. A search that is not kept has no decisions.
export function judging(result, search) {
  const { kept } = search;
  const buttons = kept
    ? DECISIONS.map(([decision, sign, key, title]) =>
        h(
          "button",
          {
            type: "button",
            value: decision,
            "data-key": key,
            "data-query": kept.query_id,
            "data-of": result.crop_id,
            "aria-label": t("judge.at_rank", { decision: title, rank: result.rank }),
            title: t("hint.key", { action: title, key }),
            class: markOf(kept, result.crop_id, decision),
            "aria-pressed": String(decided(kept, result.crop_id) === decision),
            onclick: ({ currentTarget, isTrusted }) => {
              const isTakenBack = current(search.kept, result.crop_id) === decision;
              decide([[search, [result.crop_id]]], isTakenBack ? "open" : decision);
              // A key presses it by a script, and goes on with the next result.
              if (!isTrusted && !isTakenBack) toNextOpen(currentTarget.closest("#answer .card"));
            },
          },
          `${sign} ${title}`,
        ),
      )
    : [];
  const mark = h("input", {
    type: "checkbox",
    "data-key": "x",
    "data-mark": result.crop_id,
    checked: marked.has(result.crop_id),
    onchange: ({ target }) => {
      if (target.checked) marked.set(result.crop_id, { result, search });
      else marked.delete(result.crop_id);
      drawMarks();
    },
  });
  const offer =
    kept &&
    h(
      "span",
      { class: "offer", "data-offer": result.crop_id, "aria-live": "polite" },
      nameOffer(result, search),
    );
  return h(
    "div",
    { class: "judge" },
    buttons,
    offer,
    h(
      "label",
      { class: "check", title: t("mark.hint") },
      mark,
      h("span", { class: "unseen" }, t("rank.of", { rank: result.rank })),
      t("mark"),
    ),
  );
}

const decided = (kept, cropId) =>
  kept.reviews.find((review) => review.crop_id === cropId)?.decision ?? "open";

const keyOf = (kept, cropId) => `${kept.query_id} ${cropId}`;

// Return a decision as it is once everything has arrived.
const current = (kept, cropId) =>
  underway.get(keyOf(kept, cropId))?.decision ?? decided(kept, cropId);

const markOf = (kept, cropId, decision) =>
  underway.get(keyOf(kept, cropId))?.decision === decision ? "underway" : "";

// Focus the next result that is not decided, after a card or else from the first one on.
function toNextOpen(card) {
  if (card === null) return;
  const cards = [...document.querySelectorAll("#answer .card")];
  const at = cards.indexOf(card);
  const next = [...cards.slice(at + 1), ...cards.slice(0, at)].find(
    (other) =>
      other.querySelector("[data-of]") && !other.querySelector("[aria-pressed=true], .underway"),
  );
  next?.querySelector(".open").focus();
}

// Offer a name to a confirmed result that has none, or another one than the other confirmed
// results.
function nameOffer(result, search) {
  const { kept } = search;
  if (
    decided(kept, result.crop_id) !== "confirmed" ||
    (result.identity !== null && nfc(result.identity) === personOf(kept))
  )
    return null;
  return h(
    "button",
    {
      type: "button",
      "aria-label": t("judge.name_at_rank", { rank: result.rank }),
      onclick: () => nameConfirmed(result, search),
    },
    t(result.identity === null ? "judge.no_name" : "judge.other_name"),
  );
}

// Return the most frequent name of the confirmed results, or null.
function personOf(kept) {
  const names = kept.reviews
    .filter((review) => review.decision === "confirmed" && review.identity !== null)
    .map((review) => nfc(review.identity));
  const times = (name) => names.filter((other) => other === name).length;
  return names.sort((first, second) => times(second) - times(first))[0] ?? null;
}

// Name the result and every unnamed confirmed one, in the call that confirms them.
async function nameConfirmed(result, search) {
  const { kept, shots, answer } = search;
  const all = answer.results.filter(
    (other) =>
      other === result || (other.identity === null && decided(kept, other.crop_id) === "confirmed"),
  );
  const identity = await question(
    t("judge.who_confirmed", { count: all.length }),
    t("judge.name_confirmed"),
    t("name.give"),
    {
      label: t("name"),
      list: "names",
      input: personOf(kept) ?? result.identity ?? "",
      pictures: [
        ...shots.slice(0, 1).map((shot) => shotPicture(shot, t("query.picture"))),
        ...all.map((other) => thumbnail(other.image_url, t("rank.picture", { rank: other.rank }))),
      ],
    },
  );
  if (identity === null) return;
  await act(async () => {
    await sending;
    const body = formOf([
      ["decision", "confirmed"],
      ["identity", identity],
      ...all.map((other) => ["crop_ids", other.crop_id]),
    ]);
    search.kept = await ask(inGallery(`/queries/${kept.query_id}/reviews`), {
      method: "POST",
      body,
    });
    report(named(all.length, identity), { undo: renaming(all) });
  });
}

// Return the calls that restore the current names of results.
const renaming = (results) =>
  [...Map.groupBy(results, (result) => result.identity ?? "")].flatMap(([name, group]) =>
    naming(
      group.map((result) => result.crop_id),
      name,
    ),
  );

export function clearMarks() {
  marked.clear();
  drawMarks();
}

function drawMarks() {
  for (const box of document.querySelectorAll("[data-mark]"))
    box.checked = marked.has(box.dataset.mark);
  const bar = find("#marks");
  bar.hidden = marked.size === 0;
  const kept = [...marked.values()].every(({ search }) => search.kept);
  const button = (label, key, action) =>
    h(
      "button",
      {
        type: "button",
        "data-key": key,
        title: key && t("hint.key", { action: label, key }),
        onclick: action,
      },
      label,
    );
  bar.replaceChildren(
    h("b", {}, t("judge.marked", { count: marked.size })),
    button(t("name.give.more"), "n", nameMarked),
    ...(kept
      ? DECISIONS.map(([decision, , , title]) =>
          button(title, null, () => decide(bySearch(), decision)),
        )
      : []),
    button(t("unmark"), null, clearMarks),
  );
}

function bySearch() {
  const searches = new Map();
  for (const [cropId, { search }] of marked)
    searches.set(search, [...(searches.get(search) ?? []), cropId]);
  return [...searches];
}

// `parts` are pairs [search, crop ids]. Another gallery may be shown before they are sent.
function decide(parts, decision) {
  for (const [search, cropIds] of parts) {
    const path = inGallery(`/queries/${search.kept.query_id}/reviews`);
    send({ search, cropIds, decision, path, name: gallery() });
  }
}

// Send decisions on results of a search once those before are answered: each answer has all
// decisions so far, and an older one that came last would hide a newer one.
function send(review) {
  const { search, cropIds } = review;
  failed = failed.filter(
    (other) =>
      other.search.kept.query_id !== search.kept.query_id ||
      !other.cropIds.every((cropId) => cropIds.includes(cropId)),
  );
  for (const cropId of cropIds) underway.set(keyOf(search.kept, cropId), review);
  draw(search);
  drawFailed();
  sending = sending.then(() => arrive(review));
}

async function arrive(review) {
  const { search, cropIds, decision, path, name } = review;
  const body = formOf([["decision", decision], ...cropIds.map((cropId) => ["crop_ids", cropId])]);
  try {
    search.kept = await ask(path, { method: "POST", body, keepalive: true });
    tellTabs(OF_SEARCHES, name);
  } catch (error) {
    failed.push({ ...review, error });
  }
  for (const cropId of cropIds) {
    const key = keyOf(search.kept, cropId);
    if (underway.get(key) === review) underway.delete(key);
  }
  draw(search);
  drawFailed();
}

// Resolve when every decision so far is stored, or was refused.
export const decisionsSent = () => sending;

function draw(search) {
  const { kept, answer } = search;
  for (const button of document.querySelectorAll(`[data-query="${kept.query_id}"]`)) {
    const { of: cropId } = button.dataset;
    button.className = markOf(kept, cropId, button.value);
    button.setAttribute("aria-pressed", String(decided(kept, cropId) === button.value));
  }
  for (const result of answer.results)
    for (const place of document.querySelectorAll(`[data-offer="${result.crop_id}"]`))
      place.replaceChildren(...[nameOffer(result, search)].filter(Boolean));
}

// Say which decisions did not arrive, until they are sent again or given up. An open sheet covers
// the panel.
function drawFailed() {
  for (const place of document.querySelectorAll("#unsent, #sheet[open] .detail")) {
    place.querySelector(":scope > .unsent")?.remove();
    if (failed.length > 0) place.prepend(unsent());
  }
}

const sendAgain = (reviews) => reviews.forEach((review) => send(review));

function unsent() {
  const all = failed;
  const ranks = all.flatMap(({ search, cropIds }) =>
    search.answer.results
      .filter((result) => cropIds.includes(result.crop_id))
      .map(({ rank }) => t("rank.of", { rank })),
  );
  const giveUp = () => {
    failed = [];
    drawFailed();
  };
  return h(
    "div",
    { class: "unsent" },
    h("p", {}, t("judge.unsent", { count: ranks.length, ranks: inList(ranks) })),
    problemOf(all.at(-1).error),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", onclick: () => sendAgain(all) }, t("judge.unsent.again")),
      h("button", { type: "button", class: "quiet", onclick: giveUp }, t("judge.unsent.give_up")),
    ),
  );
}

async function nameMarked() {
  const all = [...marked.values()];
  const shots = all[0].search.shots;
  const text = t(shots.length > 0 ? "judge.name_marked_first" : "judge.name_marked");
  const title = t("judge.who_marked", { count: all.length });
  const name = await question(title, text, t("name.give"), {
    label: t("name"),
    input: "",
    list: "names",
    pictures: [
      ...shots.slice(0, 1).map((shot) => shotPicture(shot, t("query.picture"))),
      ...all.map(({ result }) =>
        thumbnail(result.image_url, t("rank.picture", { rank: result.rank })),
      ),
    ],
  });
  if (name === null) return;
  await act(async () => {
    await relabel(
      all.map(({ result }) => result.crop_id),
      name,
    );
    clearMarks();
    report(named(all.length, name), { undo: renaming(all.map(({ result }) => result)) });
  });
}
