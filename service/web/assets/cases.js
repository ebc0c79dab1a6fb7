// Cases: collections of kept searches with notes, which do not expire.

import { ask, formOf, pages, send } from "./api.js";
import {
  attempt,
  count,
  day,
  download,
  find,
  h,
  moment,
  nothingYet,
  onSubmit,
  question,
} from "./elements.js";
import { saveDrafts, saves, saving, selfSaving } from "./drafts.js";
import { evidence, evidenceOf } from "./evidence.js";
import { keptRow } from "./kept.js";
import { act, report } from "./naming.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";
import { call } from "./undo.js";
import { changedSince } from "./verdicts.js";

const MOST = 1000;
const pathOf = (id, rest = "") => inGallery(`/cases/${encodeURIComponent(id)}${rest}`);
const searches = (number) => count(number, "search", "searches");

export function startCases() {
  const show = () => {
    saveDrafts();
    if (panel() === "cases" && gallery()) load();
  };
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, show);
  document.addEventListener("visibilitychange", saveDrafts);
}

async function load() {
  const place = find("#case");
  const name = gallery();
  const id = item();
  await attempt(place, async () => {
    await saving;
    const before = saves;
    const shown = id ? await casePage(id) : await caseList();
    if (gallery() !== name || item() !== id || panel() !== "cases") return;
    if (saves !== before) return load();
    const typed = document.activeElement;
    const { draft } = typed.dataset;
    const at = typed.selectionStart;
    place.replaceChildren(...shown);
    // A print has every picture, also those that were not scrolled into view.
    for (const frame of place.querySelectorAll(".frame")) frame.dispatchEvent(new Event("in-view"));
    const same = draft && place.querySelector(`[data-draft="${draft}"]`);
    same?.focus();
    same?.setSelectionRange(at, at);
  });
}

// The request goes on while the tab is being closed.
function put(method, path, fields) {
  const body = new FormData();
  for (const [name, value] of fields) body.append(name, value);
  return send(path, { method, body, keepalive: true });
}

const allCases = async () => (await pages(inGallery("/cases"), {}, MOST)).results;

async function caseList() {
  const results = await allCases();
  const form = h(
    "form",
    { class: "narrow" },
    h("h2", {}, "New case"),
    h("label", {}, "Name", h("input", { name: "name", maxlength: 256, required: true })),
    h("button", { class: "main" }, "Create"),
  );
  onSubmit(form, () =>
    act(async () => {
      const made = await create(form.elements.name.value);
      location.hash = addressOf(gallery(), "cases", made.case_id);
    }),
  );
  return [
    form,
    h("h2", {}, "Cases"),
    results.length === 0 &&
      nothingYet(
        "No cases yet.",
        "A case collects searches. Name one above, or search and add what you find.",
        addressOf(gallery(), "search"),
        "Search",
      ),
    h(
      "ul",
      { class: "rows" },
      results.map((caseItem) =>
        h(
          "li",
          {},
          h(
            "a",
            { class: "grow name", href: addressOf(gallery(), "cases", caseItem.case_id) },
            caseItem.name,
          ),
          h(
            "span",
            { class: "hint" },
            `${searches(caseItem.count)} · `,
            moment(caseItem.created_at),
          ),
        ),
      ),
    ),
  ].filter(Boolean);
}

// With two cases of one name, a search could end up in the wrong one.
async function requireFree(name, caseId) {
  const other = (await allCases()).find(
    (caseItem) => caseItem.name.trim() === name.trim() && caseItem.case_id !== caseId,
  );
  if (other)
    throw new Error(
      `A case is called “${name}” already, with ${searches(other.count)}, begun ${new Date(other.created_at).toLocaleString()}. Choose it, or enter another name.`,
    );
}

async function create(name) {
  await requireFree(name);
  return ask(inGallery("/cases"), { method: "POST", body: formOf([["name", name]]) });
}

async function casePage(id) {
  const caseItem = await ask(pathOf(id));
  const path = pathOf(id);
  // Use the order of the export.
  const opened = await Promise.all(
    caseItem.queries.map(({ query_id: queryId }) => openedSearch(queryId)),
  );
  const rows = caseItem.queries
    .map((entry, at) => [entry, opened[at]])
    .filter(([, search]) => search)
    .map(([entry, search]) => searchRow(id, entry, search));
  return [
    h("p", { class: "back" }, h("a", { href: addressOf(gallery(), "cases") }, "← All cases")),
    caseHead(caseItem),
    h(
      "div",
      { class: "case" },
      h(
        "div",
        { class: "found-in" },
        evidence(opened.filter(Boolean)),
        h("h2", {}, searches(rows.length)),
        Object.entries(caseItem.deleted_searches).map(([date, number]) =>
          h("p", { class: "note" }, `${searches(number)} deleted on ${day(date)}.`),
        ),
        h("ul", { class: "rows searches" }, rows),
      ),
      caseFields(caseItem, path),
    ),
  ];
}

// Return a search with its answer and reviews, or null if it is deleted meanwhile.
function openedSearch(queryId) {
  return ask(inGallery(`/queries/${queryId}`)).catch((error) => {
    if (error.status === 404) return null;
    throw error;
  });
}

function caseHead(caseItem) {
  const { case_id: id } = caseItem;
  return h(
    "div",
    {},
    h(
      "div",
      { class: "row" },
      h("h2", { class: "name grow" }, caseItem.name),
      h("button", { type: "button", onclick: () => window.print() }, "Print"),
      button("Export (ZIP)", () => download(pathOf(id, "/export"), `case-${id}.zip`)),
      button("Delete this case…", () => remove(caseItem), "danger quiet"),
    ),
    h(
      "p",
      { class: "hint" },
      h("span", { class: "printed" }, `Gallery ${gallery()}. `),
      "Begun ",
      moment(caseItem.created_at),
    ),
  );
}

function caseFields(caseItem, path) {
  const name = h("input", {
    value: caseItem.name,
    maxlength: 256,
    onchange: ({ target }) =>
      act(async () => {
        await requireFree(target.value, caseItem.case_id);
        await put("PATCH", path, [["name", target.value]]);
        report("The case has a new name.", {
          undo: [call("PATCH", path, [["name", caseItem.name]])],
        });
      }),
  });
  const notes = selfSaving(
    h("textarea", { rows: 4, maxlength: 4000 }, caseItem.notes),
    `notes-${caseItem.case_id}`,
    (text) => put("PATCH", path, [["notes", text]]),
  );
  return h(
    "div",
    { class: "fields" },
    h("label", {}, "Name", name),
    h("label", {}, "Notes", notes),
    printedText(notes),
    h(
      "p",
      { class: "hint" },
      "Notes save themselves. The export is a page with pictures, a table, and the SHA-256 of each file. ",
      h("span", { class: "saved", role: "status" }),
    ),
  );
}

function searchRow(id, { query_id: queryId, note }, search) {
  const field = selfSaving(
    h("input", {
      class: "note-of",
      value: note,
      maxlength: 4000,
      placeholder: "Note",
      "aria-label": "Note on this search",
    }),
    `note-${id}-${queryId}`,
    (text) => put("PUT", `${pathOf(id)}/queries/${queryId}`, [["note", text]]),
  );
  return keptRow(
    search,
    field,
    printedText(field),
    button("Take out", () => release(id, queryId, note), "quiet"),
    changedSince({ answer: search.answer, kept: search, shots: [] }),
    ...evidenceOf(search),
  );
}

// Return the text of a field for a print, which has no fields.
function printedText(field) {
  const text = h("p", { class: "printed name" }, field.value);
  field.addEventListener("input", () => {
    text.textContent = field.value;
  });
  return text;
}

const button = (label, action, kind = "") =>
  h("button", { type: "button", class: kind, onclick: () => act(action) }, label);

const holding = (id, queryId, note) =>
  call("PUT", pathOf(id, `/queries/${queryId}`), [["note", note]]);
const releasing = (id, queryId) => call("DELETE", pathOf(id, `/queries/${queryId}`));

async function release(id, queryId, note) {
  await saving;
  await ask(pathOf(id, `/queries/${queryId}`), { method: "DELETE" });
  report("The search is taken out of the case; its days count again.", {
    undo: [holding(id, queryId, note)],
  });
}

async function remove({ case_id: id, name, count: number }) {
  const text = `${count(number, "search is", "searches are")} deleted with it, with pictures and reviews, unless another case has them. This cannot be undone.`;
  if (!(await question(`Delete the case ${name}?`, text, "Delete", { danger: true }))) return;
  const { removed } = await ask(pathOf(id), { method: "DELETE" });
  location.hash = addressOf(gallery(), "cases");
  report(`${name} is deleted, with ${searches(removed)}.`);
}

// Format counts by case id as “2 of them from the case A, 1 from the case B”.
export async function inCases(counts) {
  if (Object.keys(counts).length === 0) return "";
  const names = new Map((await allCases()).map((caseItem) => [caseItem.case_id, caseItem.name]));
  return Object.entries(counts)
    .map(([id, number]) => `${number.toLocaleString()} from the case ${names.get(id) ?? id}`)
    .join(", ");
}

// Ask for a case, or the name of a new one, and add a search to it.
export async function askForCase(queryId) {
  const results = await allCases();
  const found = await chooseCase(results);
  if (!found) return;
  const body = new FormData();
  body.append("note", "");
  // Keep the note of a search that the case already contains.
  const alreadyIn = (await ask(pathOf(found.case_id))).queries.some(
    (query) => query.query_id === queryId,
  );
  if (!alreadyIn) await ask(pathOf(found.case_id, `/queries/${queryId}`), { method: "PUT", body });
  report(`In the case ${found.name}.`, {
    undo: alreadyIn ? [] : [releasing(found.case_id, queryId)],
  });
}

// Resolve to a case, or null.
function chooseCase(results) {
  return new Promise((resolve) => {
    let found = null;
    const about = (caseItem) =>
      `${caseItem.name} · ${searches(caseItem.count)} · begun ${new Date(caseItem.created_at).toLocaleString()}`;
    const select = h(
      "select",
      { required: true, "aria-label": "Case", onchange: () => draw() },
      results.length > 0 && h("option", { value: "" }, "Choose…"),
      results.map((caseItem) => h("option", { value: caseItem.case_id }, about(caseItem))),
      h("option", { value: "new" }, "A new case"),
    );
    const name = h("input", { maxlength: 256 });
    const label = h("label", {}, "Name of the new case", name);
    const wrong = h("div");
    const draw = () => {
      label.hidden = !(name.required = select.value === "new");
    };
    const dialog = h("dialog", {
      class: "question",
      "aria-label": "Add this search to a case",
      onclose: () => {
        dialog.remove();
        resolve(found);
      },
    });
    const form = h(
      "form",
      {},
      h("h2", {}, "Add this search to a case"),
      wrong,
      h("label", {}, "Case", select),
      label,
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: "main" }, "Add"),
      ),
    );
    onSubmit(form, () =>
      attempt(wrong, async () => {
        found =
          results.find((candidate) => candidate.case_id === select.value) ??
          (await create(name.value));
        dialog.close();
      }),
    );
    dialog.append(form);
    draw();
    document.body.append(dialog);
    dialog.showModal();
  });
}
