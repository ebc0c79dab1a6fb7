// Gives crops another name, and shows the outcome of a change with its undo.

import { ask } from "./api.js";
import { attempt, count, find, h, question } from "./elements.js";
import { changed, inGallery, panel } from "./place.js";

// Of the panel that is shown.
const outcomes = () => find(`#${panel()} .outcomes`);

// Runs a change; a failure is shown where its outcome would be.
export const act = (action) => attempt(outcomes(), action);

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
  const text = `${count(cropIds.length, "crop gets", "crops get")} the name that you enter. An empty field takes the name away.`;
  const identity = await question("Who is on these crops?", text, "Name", { label: "Name", input: "", required: before === null, list: "names" });
  if (identity !== null) await nameCrops(cropIds, before, identity);
}

export function nameCrops(cropIds, before, identity) {
  return act(async () => {
    const { changed: number } = await relabel(cropIds, identity);
    report(`${count(number, "crop is", "crops are")} now ${identity ? `of ${identity}` : "without a name"}.`, { undo: () => relabel(cropIds, before ?? "") });
  });
}

function relabel(cropIds, identity) {
  const body = new FormData();
  for (const id of cropIds) body.append("crop_ids", id);
  body.append("new_identity", identity);
  return ask(inGallery("/crops"), { method: "PATCH", body });
}
