// Cases: kept searches held together with notes, beyond their days.

import { ask, formOf, pages } from "./api.js";
import { attempt, count, download, find, h, moment, onSubmit, question } from "./elements.js";
import { keptRow } from "./kept.js";
import { act, report } from "./naming.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";

const MOST = 1000;
const pathOf = (id, rest = "") => inGallery(`/cases/${encodeURIComponent(id)}${rest}`);

export function startCases() {
  const show = () => { if (panel() === "cases" && gallery()) load(); };
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, show);
  document.addEventListener("gallery-chosen", () => find("#cases .outcomes").replaceChildren());
}

async function load() {
  const place = find("#case"), name = gallery(), id = item();
  await attempt(place, async () => {
    const shown = id ? await casePage(id) : await caseList();
    if (gallery() === name && item() === id && panel() === "cases") place.replaceChildren(...shown);
  });
}

async function caseList() {
  const { results } = await pages(inGallery("/cases"), {}, MOST);
  const form = h("form", { class: "narrow" }, h("h2", {}, "New case"),
    h("label", {}, "Name", h("input", { name: "name", maxlength: 256, required: true })), h("button", { class: "main" }, "Create"));
  onSubmit(form, () => act(async () => {
    const made = await ask(inGallery("/cases"), { method: "POST", body: new FormData(form) });
    location.hash = addressOf(gallery(), "cases", made.case_id);
  }));
  return [form, h("h2", {}, "Cases"), results.length === 0 && h("p", { class: "hint" }, "No cases yet. A search that is shown can be added to one."),
    h("ul", { class: "rows" }, results.map((one) => h("li", {}, h("a", { class: "grow name", href: addressOf(gallery(), "cases", one.case_id) }, one.name),
      h("span", { class: "hint" }, `${count(one.count, "search", "searches")} · `, moment(one.created_at)))))].filter(Boolean);
}

async function casePage(id) {
  const one = await ask(pathOf(id));
  const { results } = await pages(inGallery("/queries"), { case_id: id }, MOST);
  const notes = new Map(one.queries.map((held) => [held.query_id, held.note]));
  const form = h("form", { class: "narrow" }, h("label", {}, "Name", h("input", { name: "name", value: one.name, maxlength: 256, required: true })),
    h("label", {}, "Notes", h("textarea", { name: "notes", rows: 5, maxlength: 4000 }, one.notes)), h("button", { class: "main" }, "Save"));
  onSubmit(form, () => act(async () => {
    await ask(pathOf(id), { method: "PATCH", body: new FormData(form) });
    report("Saved.");
  }));
  const button = (label, action, kind = "") => h("button", { type: "button", class: kind, onclick: () => act(action) }, label);
  return [h("p", {}, h("a", { href: addressOf(gallery(), "cases") }, "← All cases")), h("h2", { class: "name" }, one.name), form,
    h("div", { class: "row tools" }, button("Export (ZIP)", () => download(pathOf(id, "/export"), `case-${id}.zip`)),
      h("span", { class: "hint" }, "A page with pictures, a table, and the SHA-256 of each file."), button("Delete this case…", () => remove(one), "danger quiet")),
    h("h2", {}, count(results.length, "search", "searches")),
    h("ul", { class: "rows" }, results.map((kept) => keptRow(kept, note(id, kept.query_id, notes.get(kept.query_id)),
      button("Take out", () => release(id, kept.query_id, notes.get(kept.query_id)), "quiet"))))];
}

function note(id, queryId, text) {
  return h("input", { class: "note-of", value: text ?? "", maxlength: 4000, placeholder: "Note", "aria-label": "Note on this search",
    onchange: ({ target }) => act(() => hold(id, queryId, target.value)) });
}

function hold(id, queryId, text = "") {
  const body = new FormData();
  body.append("note", text);
  return ask(pathOf(id, `/queries/${queryId}`), { method: "PUT", body });
}

async function release(id, queryId, text) {
  await ask(pathOf(id, `/queries/${queryId}`), { method: "DELETE" });
  report("The search is taken out of the case; its days count again.", { undo: () => hold(id, queryId, text) });
}

async function remove({ case_id: id, name, count: held }) {
  const text = `${count(held, "search is", "searches are")} deleted with it, with pictures and reviews, unless another case has them. This cannot be undone.`;
  if (!await question(`Delete the case ${name}?`, text, "Delete", { danger: true })) return;
  const { removed } = await ask(pathOf(id), { method: "DELETE" });
  location.hash = addressOf(gallery(), "cases");
  report(`${name} is deleted, with ${count(removed, "search", "searches")}.`);
}

// Asks for a case by name; a new name begins a case.
export async function askForCase(queryId) {
  const { results } = await pages(inGallery("/cases"), {}, MOST);
  const known = h("datalist", { id: "case-names" }, results.map((one) => h("option", { value: one.name })));
  document.body.append(known);
  const name = await question("Add this search to a case", "Choose a case, or enter the name of a new one.", "Add", { label: "Case", input: "", list: "case-names" });
  known.remove();
  if (name === null) return;
  const found = results.find((one) => one.name === name) ?? await ask(inGallery("/cases"), { method: "POST", body: formOf([["name", name]]) });
  await hold(found.case_id, queryId);
  report(`In the case ${name}.`, { undo: () => ask(pathOf(found.case_id, `/queries/${queryId}`), { method: "DELETE" }) });
}
