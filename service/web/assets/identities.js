// The identities of the gallery: list, rename or merge, undo a merge, forget.

import { ask, formOf } from "./api.js";
import { openIdentity } from "./crop.js";
import { attempt, count, find, h, moment, question } from "./elements.js";
import { changed, gallery, inGallery, panel, segment } from "./place.js";

const PAGE = 200;
const TYPING_MS = 200;
let waiting = 0;

export function startIdentities() {
  for (const event of ["panel-shown", "gallery-changed"]) {
    document.addEventListener(event, () => { if (panel() === "identities") load(null); });
  }
  document.addEventListener("gallery-chosen", () => find("#identity-news").replaceChildren());
  find("#find").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(null), TYPING_MS);
  });
}

async function load(cursor) {
  const name = gallery();
  const query = find("#find").value;
  const more = find("#more-people");
  await attempt(find("#identities"), async () => {
    const asked = new URLSearchParams(formOf([["limit", PAGE], ["cursor", cursor], ["query", query]]));
    const page = await ask(inGallery(`/identities?${asked}`));
    if (gallery() !== name || find("#find").value !== query) return;
    if (cursor === null) find("#people").replaceChildren();
    find("#people").append(...page.results.map(rowOf));
    more.hidden = page.next_cursor === null;
    more.onclick = () => load(page.next_cursor);
    const merges = await ask(inGallery("/merges"));
    if (gallery() === name) showMerges(merges.results);
  });
}

function rowOf({ identity, crops, cameras }) {
  const button = (label, action, kind = "") => h("button", { type: "button", class: kind, "aria-label": `${label} ${identity}`,
    onclick: () => attempt(find("#identity-news"), () => action(identity, crops)) }, label);
  return h("li", {}, h("b", { class: "grow name" }, identity),
    h("span", { class: "hint" }, `${count(crops, "crop")}, ${count(cameras, "camera")}`),
    button("Crops", openIdentity), button("Rename", rename), button("Forget", forget, "danger quiet"));
}

function showMerges(merges) {
  find("#merges").hidden = merges.length === 0;
  find("#merges ul").replaceChildren(...merges.map((one) => h("li", {},
    h("span", { class: "grow name" }, `${one.identity} → ${one.into}`),
    h("span", { class: "hint" }, `${count(one.crops, "crop")}, until `, moment(one.undo_until)),
    h("button", { type: "button", "aria-label": `Undo the merge of ${one.identity} into ${one.into}`,
      onclick: () => attempt(find("#identity-news"), () => undo(one)) }, "Undo"))));
}

async function undo(merge) {
  const path = inGallery(`/merges/${encodeURIComponent(merge.merge_id)}/undo`);
  const answer = await ask(path, { method: "POST" });
  report(`${answer.identity} is an identity of its own again: ${count(answer.changed, "crop")}.`);
}

async function rename(identity) {
  const name = await question(`Rename ${identity}`, "Renaming to an existing identity merges the two.", "Rename", { label: "New name", input: identity, list: "names" });
  if (name === null || name === identity) return;
  const there = await ask(inGallery(`/crops?${new URLSearchParams({ identity: name, limit: 1 })}`));
  const merging = `${name} exists already. A merge can be undone for 30 days.`;
  if (there.results.length > 0 && !await question(`Merge ${identity} into ${name}?`, merging, "Merge", { danger: true })) return;
  const path = inGallery(`/identities/${segment(identity)}`);
  const answer = await ask(path, { method: "PATCH", body: formOf([["new_identity", name]]) });
  report(`${identity} is now ${answer.identity}${answer.merged ? ", merged with the identity of that name" : ""}: ${count(answer.changed, "crop")}.`);
}

async function forget(identity, crops) {
  const path = inGallery(`/identities/${segment(identity)}`);
  const text = `${count(crops, "crop is", "crops are")} deleted, with features and pictures, from the gallery and from every snapshot. This cannot be undone.`;
  if (!await question(`Forget ${identity}?`, text, "Forget", { danger: true })) return;
  const answer = await ask(path, { method: "DELETE" });
  report(`Forgotten: ${count(answer.removed, "crop")} removed from the gallery.`,
    ...Object.entries(answer.snapshots).map(([id, removed]) => `${count(removed, "crop")} taken out of snapshot ${id}.`),
    ...answer.remaining.map((one) => `Remains in ${one.where}: ${one.what}, until ${one.until}.`));
}

function report(outcome, ...more) {
  const lines = more.map((line) => h("li", { class: "name" }, line));
  find("#identity-news").replaceChildren(h("div", { class: "news" }, h("b", { class: "name" }, outcome), h("ul", {}, lines)));
  changed();
}
