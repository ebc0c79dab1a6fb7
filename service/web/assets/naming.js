// Gives crops another name or deletes them, and shows the outcome of a change with its undo.

import { ask } from "./api.js";
import { attempt, count, find, h, question } from "./elements.js";
import { changed, inGallery, panel } from "./place.js";

// A form has at most 1,000 fields.
const AT_ONCE = 500;

// Of the panel that is shown.
const outcomes = () => find(`#${panel()} .outcomes`);

// Runs a change; a failure is shown where its outcome would be, or in the sheet that covers it.
export const act = (action) => attempt(find("#sheet[open] .detail") ?? outcomes(), action);

export function report(outcome, { lines = [], undo } = {}) {
  const takeBack = undo && h("button", { type: "button", onclick: () => act(async () => {
    await undo();
    report(`Undone: ${outcome}`);
  }) }, "Undo");
  outcomes().replaceChildren(h("div", { class: "news" }, h("div", { class: "row" }, h("b", { class: "grow name" }, outcome), takeBack),
    lines.length > 0 && h("ul", {}, lines.map((line) => h("li", { class: "name" }, line)))));
  changed();
}

// Asks for the name of the crops that are now of `before`, null for none.
export async function askForName(cropIds, before) {
  const text = `${count(cropIds.length, "crop gets", "crops get")} the name that you enter.${before === null ? "" : " An empty field takes the name away."}`;
  const identity = await question("Who is on these crops?", text, "Name", { label: "Name", input: "", required: before === null, list: "names" });
  if (identity !== null) await nameCrops(cropIds, before, identity);
}

export function nameCrops(cropIds, before, identity) {
  return act(async () => {
    if (cropIds.length === 0) throw new Error("Choose at least one crop.");
    const number = await relabel(cropIds, identity);
    report(`${count(number, "crop is", "crops are")} now ${identity ? `of ${identity}` : "without a name"}.`, { undo: () => relabel(cropIds, before ?? "") });
  });
}

export const relabel = (cropIds, identity) => change("PATCH", cropIds, [["new_identity", identity]]);

// Resolves to the number of crops that were changed or removed.
async function change(method, cropIds, fields = []) {
  let number = 0;
  for (let from = 0; from < cropIds.length; from += AT_ONCE) {
    const body = new FormData();
    for (const id of cropIds.slice(from, from + AT_ONCE)) body.append("crop_ids", id);
    for (const [name, value] of fields) body.append(name, value);
    const answer = await ask(inGallery("/crops"), { method, body });
    number += answer.changed ?? answer.removed;
  }
  return number;
}

export async function askToDelete(cropIds) {
  const text = "They are deleted with their features and pictures. This cannot be undone.";
  if (!await question(`Delete ${count(cropIds.length, "crop")}?`, text, "Delete", { danger: true })) return;
  await act(async () => report(`${count(await change("DELETE", cropIds), "crop")} deleted.`));
}
