// Changes that can be undone: those of this tab, and merges of the last 30 days.

import { ask } from "./api.js";
import { attempt, count, find, h, moment } from "./elements.js";
import { act, ownAgain, report, undo } from "./naming.js";
import { gallery, inGallery } from "./place.js";
import { doneLately } from "./undo.js";

export function startLately() {
  find("#lately").addEventListener("click", show);
}

async function show() {
  const inThisTab = h("ul", { class: "rows" });
  const merges = h("ul", { class: "rows" });
  const dialog = h(
    "dialog",
    { class: "question wide", "aria-label": "Done lately", onclose: () => dialog.remove() },
    h("h2", {}, "Done lately"),
    h("h3", {}, "In this tab"),
    inThisTab,
    h("h3", {}, "Merges of the last 30 days, of everyone"),
    merges,
    h(
      "p",
      { class: "hint" },
      "Undo gives back the names of before, also where they were changed since. This tab forgets its list when it is closed. What was deleted or forgotten cannot be undone.",
    ),
    h(
      "form",
      { method: "dialog", class: "row end" },
      h("button", { class: "main", autofocus: true }, "Close"),
    ),
  );
  const row = (text, about, words, takeBack) =>
    h(
      "li",
      {},
      h("span", { class: "grow name" }, text),
      h("span", { class: "hint" }, about),
      h(
        "button",
        {
          type: "button",
          "aria-label": `Undo: ${text}`,
          onclick: () => {
            dialog.close();
            act(takeBack);
          },
        },
        words,
      ),
    );
  const none = (text) => h("li", { class: "hint" }, text);
  const done = doneLately();
  inThisTab.append(
    ...(done.length > 0
      ? done.map((change) => row(change.outcome, moment(change.at), "Undo", () => undo(change)))
      : [none("Nothing that can be undone yet.")]),
  );
  document.body.append(dialog);
  dialog.showModal();
  await attempt(merges, async () => {
    const name = gallery();
    const { results } = await ask(inGallery("/merges"));
    if (gallery() !== name) return;
    const others = results.filter(
      (merge) =>
        !done.some(({ undo: calls }) => calls.some(({ path }) => path.includes(merge.merge_id))),
    );
    merges.append(
      ...(others.length > 0
        ? others.map((merge) =>
            row(
              `${merge.identity} → ${merge.into}`,
              [`${count(merge.crops, "picture")}, `, moment(merge.merged_at)],
              "Undo",
              () => undoMerge(merge),
            ),
          )
        : [none(done.length > 0 ? "No others." : "None.")]),
    );
  });
}

async function undoMerge({ merge_id: id, identity }) {
  const answer = await ask(inGallery(`/merges/${encodeURIComponent(id)}/undo`), { method: "POST" });
  report(ownAgain(identity, answer.changed));
}
