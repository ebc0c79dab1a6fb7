// Rename or delete pictures, and show the outcome of a change with its undo.

import { attempt, find, h, question } from "./elements.js";
import { changed, inGallery, panel } from "./place.js";
import { t } from "./texts.js";
import { call, noteDone, sendCall, takeBack } from "./undo.js";

// A form has at most 1,000 fields.
const AT_ONCE = 500;

// Return the place for outcomes in the panel that is shown.
const outcomes = () => find(`#${panel()} .outcomes`);

// Run a change. A failure is shown in place of its outcome, or in the sheet that covers it.
export function act(action) {
  outcomes().dataset.at = location.hash;
  return attempt(find("#sheet[open] .detail") ?? outcomes(), action);
}

// Remove outcomes when another person or case is shown, since they would seem to be about it.
export function clearOutcomes() {
  for (const place of document.querySelectorAll(".outcomes"))
    if (place.dataset.at !== location.hash) place.replaceChildren();
}

// `lines` are texts, elements or lists of both; `undo` are the calls that revert the change, and
// `undone` says what is so after them; `details` is a folded [summary, lines].
export function report(outcome, { lines = [], undo: calls = [], undone, details } = {}) {
  const entry = calls.length > 0 && noteDone(outcome, calls, undone);
  const button =
    entry && h("button", { type: "button", onclick: () => act(() => undo(entry)) }, t("undo"));
  const list = (texts) =>
    h(
      "ul",
      {},
      texts.map((line) => h("li", { class: "name" }, line)),
    );
  outcomes().dataset.at = location.hash;
  outcomes().replaceChildren(
    h(
      "div",
      { class: "news" },
      h("div", { class: "row" }, h("b", { class: "grow name" }, outcome), button),
      lines.length > 0 && list(lines),
      details && h("details", {}, h("summary", {}, details[0]), list(details[1])),
    ),
  );
  changed();
}

export async function undo(entry) {
  await takeBack(entry);
  // In quotes, so that nobody takes it for a change that was just made.
  report(entry.undone ?? t("undone.change", { change: entry.outcome }));
}

// Ask for the name of pictures that are now named `before`, or null for none.
export async function askForName(cropIds, before) {
  const key = before === null ? "naming.gets" : "naming.gets_or_loses";
  const text = t(key, { count: cropIds.length });
  const identity = await question(t("naming.who"), text, t("name.give"), {
    label: t("name"),
    input: "",
    required: before === null,
    list: "names",
  });
  if (identity !== null) await nameCrops(cropIds, before, identity);
}

export function nameCrops(cropIds, before, identity) {
  return act(async () => {
    if (cropIds.length === 0) throw new Error(t("naming.choose"));
    const number = await relabel(cropIds, identity);
    report(named(number, identity), { undo: naming(cropIds, before ?? "") });
  });
}

export const named = (count, name) =>
  name ? t("naming.named", { count, name }) : t("naming.unnamed", { count });

// Return the calls that give these pictures a name, or an empty one to remove it.
export const naming = (cropIds, identity) =>
  inParts("PATCH", cropIds, [["new_identity", identity]]);

export const relabel = (cropIds, identity) => change(naming(cropIds, identity));

const pathOf = (crop) => inGallery(`/crops/${encodeURIComponent(crop.crop_id)}`);

// Keep a picture out of searches, or let them find it again.
export async function setAside(crop) {
  const wanted = !crop.set_aside;
  await sendCall("PATCH", pathOf(crop), [["set_aside", wanted]]);
  const outcome = t(wanted ? "naming.aside" : "naming.back");
  report(outcome, { undo: [call("PATCH", pathOf(crop), [["set_aside", !wanted]])] });
}

function inParts(method, cropIds, fields = []) {
  const starts = [...Array(Math.ceil(cropIds.length / AT_ONCE)).keys()].map(
    (part) => part * AT_ONCE,
  );
  return starts.map((from) =>
    call(method, inGallery("/crops"), [
      ...cropIds.slice(from, from + AT_ONCE).map((id) => ["crop_ids", id]),
      ...fields,
    ]),
  );
}

// Resolve to the number of pictures changed or removed.
async function change(calls) {
  let number = 0;
  for (const { method, path, fields } of calls) {
    const answer = await (await sendCall(method, path, fields)).json();
    number += answer.changed ?? answer.removed;
  }
  return number;
}

export async function askToDelete(cropIds) {
  const which = t("naming.delete.which", { count: cropIds.length });
  if (!(await question(which, t("naming.delete.what"), t("delete"), { danger: true }))) return;
  await act(async () =>
    report(t("naming.deleted", { count: await change(inParts("DELETE", cropIds)) })),
  );
}
