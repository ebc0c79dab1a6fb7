// Cases: collections of kept searches with notes, which do not expire.

import { ask, formOf, pages, send } from "./api.js";
import {
  attempt,
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
import { evidence } from "./evidence.js";
import { keptRow } from "./kept.js";
import { act, report } from "./naming.js";
import { evidenceOf, searchedCrops } from "./pairs.js";
import {
  addressOf,
  gallery,
  inGallery,
  item,
  OF_SEARCHES,
  panel,
  segment,
  tellTabs,
} from "./place.js";
import { LOCALE, t, textNodes } from "./texts.js";
import { call } from "./undo.js";
import { allCompared, changedSince } from "./verdicts.js";

const MOST = 1000;
const casesOf = (name) => `/v1/galleries/${segment(name)}/cases`;
const pathOf = (id, rest = "", name = gallery()) =>
  `${casesOf(name)}/${encodeURIComponent(id)}${rest}`;
const searches = (count) => t("searches", { count });
const begun = ({ created_at: at }) => new Date(at).toLocaleString(LOCALE);

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

const allCases = async (name = gallery()) => (await pages(casesOf(name), {}, MOST)).results;

async function caseList() {
  const results = await allCases();
  const form = h(
    "form",
    { class: "narrow" },
    h("h2", {}, t("case.new")),
    h("label", {}, t("name"), h("input", { name: "name", maxlength: 256, required: true })),
    h("button", { class: "main" }, t("case.create")),
  );
  onSubmit(form, () =>
    act(async () => {
      const made = await create(form.elements.name.value);
      location.hash = addressOf(gallery(), "cases", made.case_id);
    }),
  );
  return [
    form,
    h("h2", {}, t("cases")),
    results.length === 0 &&
      nothingYet(
        t("case.none"),
        t("case.none.hint"),
        addressOf(gallery(), "search"),
        t("search.start"),
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
            textNodes("case.searches_at", {
              searches: searches(caseItem.count),
              time: moment(caseItem.created_at),
            }),
          ),
        ),
      ),
    ),
  ].filter(Boolean);
}

// With two cases of one name, a search could end up in the wrong one.
async function requireFree(name, caseId, inside = gallery()) {
  const other = (await allCases(inside)).find(
    (caseItem) => caseItem.name.trim() === name.trim() && caseItem.case_id !== caseId,
  );
  if (other)
    throw new Error(t("case.name_taken", { name, count: other.count, time: begun(other) }));
}

async function create(name, inside = gallery()) {
  await requireFree(name, null, inside);
  const made = await ask(casesOf(inside), { method: "POST", body: formOf([["name", name]]) });
  tellTabs(OF_SEARCHES);
  return made;
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
    h("p", { class: "back" }, h("a", { href: addressOf(gallery(), "cases") }, t("case.all"))),
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
          h("p", { class: "note" }, t("case.searches_deleted", { count: number, date: day(date) })),
        ),
        h("ul", { class: "rows searches" }, rows),
      ),
      caseFields(caseItem, path),
    ),
  ];
}

// Return a search with its answer and reviews, and the crops that it was by as `crops`, or null if
// it is deleted meanwhile.
async function openedSearch(queryId) {
  try {
    const search = await ask(inGallery(`/queries/${queryId}`));
    return { ...search, crops: await searchedCrops(search) };
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// Print the case once today's verdicts are known.
async function print() {
  await allCompared();
  window.print();
}

function caseHead(caseItem) {
  const { case_id: id } = caseItem;
  const now = moment(new Date().toISOString(), true);
  return h(
    "div",
    {},
    h(
      "div",
      { class: "row head" },
      h("h2", { class: "name grow" }, caseItem.name),
      button(t("case.print"), print),
      button(t("case.export"), () => download(pathOf(id, "/export"), `case-${id}.zip`)),
      button(t("case.delete"), () => remove(caseItem), "danger quiet"),
    ),
    h(
      "p",
      { class: "hint" },
      // Verdicts of today are those of the day of the print.
      h(
        "span",
        { class: "printed" },
        t("case.gallery", { name: gallery() }),
        " ",
        textNodes("case.as_of", { time: now }),
        " ",
      ),
      textNodes("case.begun", { time: moment(caseItem.created_at, true) }),
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
        report(t("case.renamed"), {
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
    h("label", {}, t("name"), name),
    h("label", {}, t("case.notes"), notes),
    printedText(notes),
    h(
      "p",
      { class: "hint" },
      t("case.notes.hint"),
      " ",
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
      placeholder: t("case.note"),
      "aria-label": t("case.note.of_search"),
    }),
    `note-${id}-${queryId}`,
    (text) => put("PUT", `${pathOf(id)}/queries/${queryId}`, [["note", text]]),
  );
  return keptRow(
    search,
    field,
    printedText(field),
    button(t("case.take_out"), () => release(id, queryId, note), "quiet"),
    changedSince({ answer: search.answer, kept: search }),
    ...evidenceOf(search, search.crops),
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
const releasing = (id, queryId, name) => call("DELETE", pathOf(id, `/queries/${queryId}`, name));

async function release(id, queryId, note) {
  await saving;
  await ask(pathOf(id, `/queries/${queryId}`), { method: "DELETE" });
  report(t("case.taken_out"), {
    undo: [holding(id, queryId, note)],
  });
}

async function remove({ case_id: id, name, count: number }) {
  const which = t("case.delete.which", { name });
  const what = t("case.delete.what", { count: number });
  if (!(await question(which, what, t("delete"), { danger: true }))) return;
  const { removed } = await ask(pathOf(id), { method: "DELETE" });
  location.hash = addressOf(gallery(), "cases");
  report(t("case.deleted", { name, count: removed }));
}

// Format counts by case id as “2 from the case A, 1 from the case B”.
export async function inCases(counts) {
  if (Object.keys(counts).length === 0) return "";
  const names = new Map((await allCases()).map((caseItem) => [caseItem.case_id, caseItem.name]));
  return Object.entries(counts)
    .map(([id, number]) => t("case.searches_from", { number, name: names.get(id) ?? id }))
    .join(", ");
}

// Ask for a case, or the name of a new one, and add a search of the same gallery to it. `keep`
// resolves to the id of the search, which is kept only once a case is chosen.
export async function askForCase(keep, name = gallery()) {
  const results = await allCases(name);
  const { found, queryId } = await chooseCase(results, name, keep);
  if (!found) return;
  const body = new FormData();
  body.append("note", "");
  // Keep the note of a search that the case already contains.
  const { queries } = await ask(pathOf(found.case_id, "", name));
  const alreadyIn = queries.some((query) => query.query_id === queryId);
  const path = pathOf(found.case_id, `/queries/${queryId}`, name);
  if (!alreadyIn) await ask(path, { method: "PUT", body });
  const added = name === gallery() ? "case.added" : "case.added_elsewhere";
  report(t(added, { name: found.name, gallery: name }), {
    undo: alreadyIn ? [] : [releasing(found.case_id, queryId, name)],
  });
}

// Resolve to a case of a gallery as `found`, or null, and the id of the search that it gets.
function chooseCase(results, inside, keep) {
  return new Promise((resolve) => {
    let found = null;
    let queryId = null;
    const about = (caseItem) =>
      t("case.about", { name: caseItem.name, count: caseItem.count, time: begun(caseItem) });
    const select = h(
      "select",
      { required: true, "aria-label": t("case"), onchange: () => draw() },
      results.length > 0 && h("option", { value: "" }, t("case.choose")),
      results.map((caseItem) => h("option", { value: caseItem.case_id }, about(caseItem))),
      h("option", { value: "new" }, t("case.a_new")),
    );
    const name = h("input", { maxlength: 256 });
    const label = h("label", {}, t("case.new_name"), name);
    const wrong = h("div");
    const draw = () => {
      label.hidden = !(name.required = select.value === "new");
    };
    const dialog = h("dialog", {
      class: "question",
      "aria-label": t("case.add_search"),
      onclose: () => {
        dialog.remove();
        resolve({ found, queryId });
      },
    });
    const form = h(
      "form",
      {},
      h("h2", {}, t("case.add_search")),
      wrong,
      h("label", {}, t("case"), select),
      label,
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
        h("button", { class: "main" }, t("case.add")),
      ),
    );
    onSubmit(form, () =>
      attempt(wrong, async () => {
        const known = results.find((candidate) => candidate.case_id === select.value);
        if (!known) await requireFree(name.value, null, inside);
        queryId ??= await keep();
        found = known ?? (await create(name.value, inside));
        dialog.close();
      }),
    );
    dialog.append(form);
    draw();
    document.body.append(dialog);
    dialog.showModal();
  });
}
