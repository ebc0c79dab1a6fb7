// The people of the gallery: pictures, find and sort, and the merges that can be undone.

import { ask, formOf } from "./api.js";
import { attempt, count, find, h, moment } from "./elements.js";
import { act, report } from "./naming.js";
import { personCard, showPerson, undoMerge } from "./person.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";

const PAGE = 100;
const TYPING_MS = 200;
let waiting = 0;

export function startPeople() {
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, show);
  document.addEventListener("gallery-chosen", () => find("#identities .outcomes").replaceChildren());
  find("#sort").addEventListener("change", () => load(null));
  find("#find").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(null), TYPING_MS);
  });
}

function show() {
  if (panel() !== "identities") return;
  find("#all-people").hidden = item() !== "";
  find("#person").hidden = item() === "";
  find("#to-unnamed").href = addressOf(gallery(), "unnamed");
  if (item()) showPerson(item());
  else load(null);
}

async function load(cursor) {
  const name = gallery(), query = find("#find").value, sort = find("#sort").value;
  const more = find("#more-people"), list = find("#people");
  await attempt(find("#all-people"), async () => {
    const asked = new URLSearchParams(formOf([["limit", PAGE], ["cursor", cursor], ["query", query], ["sort", sort]]));
    const page = await ask(inGallery(`/identities?${asked}`));
    if (gallery() !== name || find("#find").value !== query || find("#sort").value !== sort) return;
    if (cursor === null) list.replaceChildren();
    list.append(...page.results.map((one) => h("li", {}, personCard(one))));
    if (list.children.length === 0) list.append(h("li", { class: "hint" }, query ? `No name contains “${query}”.` : "No crop of this gallery has a name yet."));
    more.hidden = page.next_cursor === null;
    more.onclick = () => load(page.next_cursor);
    const merges = await ask(inGallery("/merges"));
    if (gallery() === name) showMerges(merges.results);
  });
}

function showMerges(merges) {
  find("#merges").hidden = merges.length === 0;
  find("#merges ul").replaceChildren(...merges.map((one) => h("li", {},
    h("span", { class: "grow name" }, `${one.identity} → ${one.into}`),
    h("span", { class: "hint" }, `${count(one.crops, "crop")}, until `, moment(one.undo_until)),
    h("button", { type: "button", "aria-label": `Undo the merge of ${one.identity} into ${one.into}`, onclick: () => act(() => undo(one)) }, "Undo"))));
}

async function undo(merge) {
  const answer = await undoMerge(merge.merge_id);
  report(`${answer.identity} is a person of its own again: ${count(answer.changed, "crop")}.`);
}
