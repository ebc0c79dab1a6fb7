// Decisions on results: each confirmed or rejected, and several marked and named at once.

import { ask, formOf } from "./api.js";
import { count, find, h, question, shotPicture, thumbnail } from "./elements.js";
import { act, relabel, report } from "./naming.js";
import { inGallery } from "./place.js";

const DECISIONS = [["confirmed", "✓", "c", "Same person"], ["rejected", "✕", "r", "Another person"]];
// The marked results by crop, each with its search.
const marked = new Map();

// The controls of one result; a search that is not kept has no decisions.
export function judging(one, search) {
  const { kept } = search;
  const buttons = kept ? DECISIONS.map(([decision, sign, key, title]) => h("button", { type: "button", value: decision, "data-key": key,
    "data-query": kept.query_id, "data-of": one.crop_id, "aria-label": `${title}, rank ${one.rank}`, title: `${title} (${key})`,
    "aria-pressed": String(decided(kept, one.crop_id) === decision), onclick: (event) =>
      decide([[search, [one.crop_id]]], event.currentTarget.getAttribute("aria-pressed") === "true" ? "open" : decision) }, sign)) : [];
  const mark = h("input", { type: "checkbox", "data-key": "x", "data-mark": one.crop_id, checked: marked.has(one.crop_id), onchange: ({ target }) => {
    if (target.checked) marked.set(one.crop_id, { one, search });
    else marked.delete(one.crop_id);
    drawMarks();
  } });
  return h("div", { class: "judge" }, buttons, h("label", { class: "check", title: "Mark (x)" }, mark, h("span", { class: "unseen" }, "rank ", one.rank), "Mark"));
}

const decided = (kept, cropId) => kept.reviews.find((review) => review.crop_id === cropId)?.decision ?? "open";

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
    }
  });
}

async function nameMarked() {
  const all = [...marked.values()];
  const shots = all[0].search.shots;
  const text = `The query${shots.length ? ", first," : ""} and the marked crops. Every marked crop gets the name that you enter.`;
  const name = await question(`Who is on ${count(all.length, "crop")}?`, text, "Name", { label: "Name", input: "", list: "names",
    pictures: [...shots.slice(0, 1).map((shot) => shotPicture(shot, "The query")), ...all.map(({ one }) => thumbnail(one.image_url, `Rank ${one.rank}`))] });
  if (name === null) return;
  const before = Map.groupBy(all.map(({ one }) => one), (one) => one.identity ?? "");
  await act(async () => {
    await relabel(all.map(({ one }) => one.crop_id), name);
    clearMarks();
    report(`${count(all.length, "crop is", "crops are")} now of ${name}.`, { undo: async () => {
      for (const [old, ones] of before) await relabel(ones.map((one) => one.crop_id), old);
    } });
  });
}
