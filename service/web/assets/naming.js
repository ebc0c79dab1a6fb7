// Gives pictures another name or deletes them, and shows the outcome of a change with its undo.

import { attempt, count, find, h, question } from "./elements.js";
import { changed, inGallery, panel } from "./place.js";
import { call, noteDone, sendCall, takeBack } from "./undo.js";

// A form has at most 1,000 fields.
const AT_ONCE = 500;

// Of the panel that is shown.
const outcomes = () => find(`#${panel()} .outcomes`);

// Runs a change; a failure is shown where its outcome would be, or in the sheet that covers it.
export function act(action) {
  outcomes().dataset.at = location.hash;
  return attempt(find("#sheet[open] .detail") ?? outcomes(), action);
}

// An outcome stays with what was shown when it came: beside another person or case it would be read as of that.
export function clearOutcomes() {
  for (const place of document.querySelectorAll(".outcomes")) if (place.dataset.at !== location.hash) place.replaceChildren();
}

// `undo`: the calls that take the change back; `details`: [summary, lines] that are folded.
export function report(outcome, { lines = [], undo: calls = [], details } = {}) {
  const entry = calls.length > 0 && noteDone(outcome, calls);
  const button = entry && h("button", { type: "button", onclick: () => act(() => undo(entry)) }, "Undo");
  const list = (texts) => h("ul", {}, texts.map((line) => h("li", { class: "name" }, line)));
  outcomes().dataset.at = location.hash;
  outcomes().replaceChildren(h("div", { class: "news" }, h("div", { class: "row" }, h("b", { class: "grow name" }, outcome), button),
    lines.length > 0 && list(lines), details && h("details", {}, h("summary", {}, details[0]), list(details[1]))));
  changed();
}

export async function undo(entry) {
  await takeBack(entry);
  report(`Undone: ${entry.outcome}`);
}

// Asks for the name of the pictures that are now of `before`, null for none.
export async function askForName(cropIds, before) {
  const text = `${count(cropIds.length, "picture gets", "pictures get")} the name that you enter.${before === null ? "" : " An empty field takes the name away."}`;
  const identity = await question("Who is on these pictures?", text, "Name", { label: "Name", input: "", required: before === null, list: "names" });
  if (identity !== null) await nameCrops(cropIds, before, identity);
}

export function nameCrops(cropIds, before, identity) {
  return act(async () => {
    if (cropIds.length === 0) throw new Error("Choose at least one picture.");
    const number = await relabel(cropIds, identity);
    report(named(number, identity), { undo: naming(cropIds, before ?? "") });
  });
}

export const named = (number, identity) => `${count(number, "picture is", "pictures are")} now ${identity ? `of ${identity}` : "without a name"}.`;

// The calls that give these pictures a name; empty for none.
export const naming = (cropIds, identity) => inParts("PATCH", cropIds, [["new_identity", identity]]);

export const relabel = (cropIds, identity) => change(naming(cropIds, identity));

function inParts(method, cropIds, fields = []) {
  const starts = [...Array(Math.ceil(cropIds.length / AT_ONCE)).keys()].map((part) => part * AT_ONCE);
  return starts.map((from) => call(method, inGallery("/crops"), [...cropIds.slice(from, from + AT_ONCE).map((id) => ["crop_ids", id]), ...fields]));
}

// Resolves to the number of pictures that were changed or removed.
async function change(calls) {
  let number = 0;
  for (const { method, path, fields } of calls) {
    const answer = await (await sendCall(method, path, fields)).json();
    number += answer.changed ?? answer.removed;
  }
  return number;
}

export async function askToDelete(cropIds) {
  const text = "They are deleted with their features and searches no longer find them. This cannot be undone.";
  if (!await question(`Delete ${count(cropIds.length, "picture")}?`, text, "Delete", { danger: true })) return;
  await act(async () => report(`${count(await change(inParts("DELETE", cropIds)), "picture")} deleted.`));
}
