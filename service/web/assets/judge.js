// Decisions on results: each confirmed or rejected, and several marked and named at once.

import { ask, formOf } from "./api.js";
import { count, find, h, question, shotPicture, thumbnail } from "./elements.js";
import { act, named, naming, relabel, report } from "./naming.js";
import { inGallery } from "./place.js";

export const DECISIONS = [["confirmed", "✓", "c", "Same person"], ["rejected", "✕", "r", "Another person"]];
// The marked results by crop, each with its search.
const marked = new Map();

// The controls of one result; a search that is not kept has no decisions.
export function judging(one, search) {
  const { kept } = search;
  const buttons = kept ? DECISIONS.map(([decision, sign, key, title]) => h("button", { type: "button", value: decision, "data-key": key,
    "data-query": kept.query_id, "data-of": one.crop_id, "aria-label": `${title}, rank ${one.rank}`, title: `${title} (${key})`,
    "aria-pressed": String(decided(kept, one.crop_id) === decision), onclick: (event) =>
      decide([[search, [one.crop_id]]], event.currentTarget.getAttribute("aria-pressed") === "true" ? "open" : decision) }, `${sign} ${title}`)) : [];
  const mark = h("input", { type: "checkbox", "data-key": "x", "data-mark": one.crop_id, checked: marked.has(one.crop_id), onchange: ({ target }) => {
    if (target.checked) marked.set(one.crop_id, { one, search });
    else marked.delete(one.crop_id);
    drawMarks();
  } });
  const offer = kept && h("span", { class: "offer", "data-offer": one.crop_id, "aria-live": "polite" }, nameOffer(one, search));
  return h("div", { class: "judge" }, buttons, offer, h("label", { class: "check", title: "Mark (x)" }, mark, h("span", { class: "unseen" }, "rank ", one.rank), "Mark"));
}

const decided = (kept, cropId) => kept.reviews.find((review) => review.crop_id === cropId)?.decision ?? "open";

// A confirmed result that has another name than the others, or none, can get it here.
function nameOffer(one, search) {
  const { kept } = search;
  if (decided(kept, one.crop_id) !== "confirmed" || (one.identity !== null && one.identity === personOf(kept))) return null;
  return h("button", { type: "button", "aria-label": `Name, rank ${one.rank}`, onclick: () => nameConfirmed(one, search) }, one.identity === null ? "No name yet: name…" : "Another name…");
}

// The name that most of the confirmed results have; null where none has a name.
function personOf(kept) {
  const names = kept.reviews.filter((one) => one.decision === "confirmed" && one.identity !== null).map((one) => one.identity);
  const times = (name) => names.filter((other) => other === name).length;
  return names.sort((one, other) => times(other) - times(one))[0] ?? null;
}

// Names the result, and with it every confirmed one without a name, in the call that confirms them.
async function nameConfirmed(one, search) {
  const { kept, shots, answer } = search;
  const all = answer.results.filter((other) => other === one || (other.identity === null && decided(kept, other.crop_id) === "confirmed"));
  const identity = await question(`Who is on ${count(all.length, "confirmed picture")}?`, "The query, first, and the confirmed pictures that get the name.", "Name", { label: "Name", list: "names",
    input: personOf(kept) ?? one.identity ?? "", pictures: [...shots.slice(0, 1).map((shot) => shotPicture(shot, "The query")), ...all.map((other) => thumbnail(other.image_url, `Rank ${other.rank}`))] });
  if (identity === null) return;
  await act(async () => {
    const body = formOf([["decision", "confirmed"], ["identity", identity], ...all.map((other) => ["crop_ids", other.crop_id])]);
    search.kept = await ask(inGallery(`/queries/${kept.query_id}/reviews`), { method: "POST", body });
    report(named(all.length, identity), { undo: renaming(all) });
  });
}

// The calls that give results the names that they have now.
const renaming = (results) => [...Map.groupBy(results, (one) => one.identity ?? "")].flatMap(([name, ones]) => naming(ones.map((one) => one.crop_id), name));

export function clearMarks() {
  marked.clear();
  drawMarks();
}

function drawMarks() {
  for (const box of document.querySelectorAll("[data-mark]")) box.checked = marked.has(box.dataset.mark);
  const bar = find("#marks");
  bar.hidden = marked.size === 0;
  const kept = [...marked.values()].every(({ search }) => search.kept);
  const button = (label, key, action) => h("button", { type: "button", "data-key": key, title: key && `${label} (${key})`, onclick: action }, label);
  bar.replaceChildren(h("b", {}, `${count(marked.size, "result")} marked`), button("Name…", "n", nameMarked),
    ...(kept ? DECISIONS.map(([decision, , , title]) => button(title, null, () => decide(bySearch(), decision))) : []),
    button("Unmark", null, clearMarks));
}

function bySearch() {
  const searches = new Map();
  for (const [cropId, { search }] of marked) searches.set(search, [...(searches.get(search) ?? []), cropId]);
  return [...searches];
}

// `parts`: [search, crop ids] each.
async function decide(parts, decision) {
  await act(async () => {
    for (const [search, cropIds] of parts) {
      const body = formOf([["decision", decision], ...cropIds.map((cropId) => ["crop_ids", cropId])]);
      search.kept = await ask(inGallery(`/queries/${search.kept.query_id}/reviews`), { method: "POST", body });
      for (const button of document.querySelectorAll(`[data-query="${search.kept.query_id}"]`)) {
        button.setAttribute("aria-pressed", String(decided(search.kept, button.dataset.of) === button.value));
      }
      for (const one of search.answer.results) {
        for (const place of document.querySelectorAll(`[data-offer="${one.crop_id}"]`)) place.replaceChildren(...[nameOffer(one, search)].filter(Boolean));
      }
    }
  });
}

async function nameMarked() {
  const all = [...marked.values()];
  const shots = all[0].search.shots;
  const text = `The query${shots.length ? ", first," : ""} and the marked pictures. Every marked picture gets the name that you enter.`;
  const name = await question(`Who is on ${count(all.length, "picture")}?`, text, "Name", { label: "Name", input: "", list: "names",
    pictures: [...shots.slice(0, 1).map((shot) => shotPicture(shot, "The query")), ...all.map(({ one }) => thumbnail(one.image_url, `Rank ${one.rank}`))] });
  if (name === null) return;
  await act(async () => {
    await relabel(all.map(({ one }) => one.crop_id), name);
    clearMarks();
    report(named(all.length, name), { undo: renaming(all.map(({ one }) => one)) });
  });
}
