// Decisions on results: each confirmed or rejected, and several marked and named at once.

import { ask, formOf } from "./api.js";
import { find, h, nfc, question, shotPicture, thumbnail } from "./elements.js";
import { act, named, naming, relabel, report } from "./naming.js";
import { inGallery } from "./place.js";
import { t } from "./texts.js";

export const DECISIONS = [
  ["confirmed", "✓", "c", t("judge.confirmed")],
  ["rejected", "✕", "r", t("judge.rejected")],
];
// Marked results by crop id, each with its search.
const marked = new Map();

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
            "aria-pressed": String(decided(kept, result.crop_id) === decision),
            onclick: (event) =>
              decide(
                [[search, [result.crop_id]]],
                event.currentTarget.getAttribute("aria-pressed") === "true" ? "open" : decision,
              ),
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

// Send a decision on results of a search once the one before is answered: each answer has all
// decisions so far, and an older one that came last would hide a newer one.
function inTurn(search, send) {
  search.sent = Promise.resolve(search.sent)
    .catch(() => undefined)
    .then(send);
  return search.sent;
}

// `parts` are pairs [search, crop ids].
async function decide(parts, decision) {
  await act(async () => {
    for (const [search, cropIds] of parts) {
      const body = formOf([
        ["decision", decision],
        ...cropIds.map((cropId) => ["crop_ids", cropId]),
      ]);
      search.kept = await inTurn(search, () =>
        ask(inGallery(`/queries/${search.kept.query_id}/reviews`), { method: "POST", body }),
      );
      for (const button of document.querySelectorAll(`[data-query="${search.kept.query_id}"]`)) {
        button.setAttribute(
          "aria-pressed",
          String(decided(search.kept, button.dataset.of) === button.value),
        );
      }
      for (const result of search.answer.results) {
        for (const place of document.querySelectorAll(`[data-offer="${result.crop_id}"]`))
          place.replaceChildren(...[nameOffer(result, search)].filter(Boolean));
      }
    }
  });
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
